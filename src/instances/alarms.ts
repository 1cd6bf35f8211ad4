// What a person should look at: rentals that bill and should not.
import { sql, type Kysely } from 'kysely';
import type { Tables } from '../database/tables.ts';
import { ALARM_AFTER_TRIES } from './steps/destroy.ts';

export interface RentalAlarms {
  /** Being destroyed, tried often, and still there. */
  stuck: number;
  /** Seen lately with our label and without a record. */
  orphans: number;
}

export async function rentalAlarms(db: Kysely<Tables>): Promise<RentalAlarms> {
  const { stuck } = await db
    .selectFrom('rentals')
    .select(({ fn }) => fn.countAll<number>().as('stuck'))
    .where('status', '=', 'destroying')
    .where('destroy_tries', '>=', ALARM_AFTER_TRIES)
    .executeTakeFirstOrThrow();
  const { orphans } = await db
    .selectFrom('orphans')
    .select(({ fn }) => fn.countAll<number>().as('orphans'))
    // Longer than the longest time between two reconciliations.
    .where(sql<boolean>`last_seen_at > now() - interval '15 minutes'`)
    .executeTakeFirstOrThrow();
  return { stuck, orphans };
}
