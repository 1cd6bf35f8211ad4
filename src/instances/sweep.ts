// The safety net of instances: a wake-up that got lost is sent again.
import { sql, type Kysely } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { wakeInstance } from './records.ts';

/** A step that is this late has lost its wake-up; the longest provider call takes less. */
const LATE_SECONDS = 120;

/** Wakes every live instance whose next step is overdue. Returns how many. */
export async function sweepInstances(
  db: Kysely<Tables>,
  queues: Queues,
  lateSeconds = LATE_SECONDS,
): Promise<number> {
  return db.transaction().execute(async (trx) => {
    const late = await trx
      .selectFrom('instances')
      .select('id')
      .where('status', '<>', 'terminated')
      .where(sql<boolean>`coalesce(next_step_at, created_at) < now() - make_interval(secs => ${lateSeconds})`)
      .forNoKeyUpdate()
      .skipLocked()
      .execute();
    for (const { id } of late) await wakeInstance(trx, queues, id);
    return late.length;
  });
}
