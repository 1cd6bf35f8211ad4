// The safety net of instances: a wake-up that got lost is sent again.
import { sql, type Kysely } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { stepQueues, wakeInstance } from './records.ts';

/** A step that is this late may have lost its wake-up. */
const LATE_SECONDS = 120;

/**
 * Wakes every live instance whose next step is overdue, unless its message is there: it waits for a hand or is worked on, however
 * long the provider takes, and a new wake-up would fence off what comes of it. The message of a process that died comes back by
 * itself. Returns how many were woken.
 */
export async function sweepInstances(db: Kysely<Tables>, queues: Queues): Promise<number> {
  return db.transaction().execute(async (trx) => {
    const late = await trx
      .selectFrom('instances')
      .select(['id as instanceId', 'wake'])
      .where('status', '<>', 'terminated')
      .where(
        sql<boolean>`coalesce(next_step_at, created_at) < now() - make_interval(secs => ${LATE_SECONDS})`,
      )
      .forNoKeyUpdate()
      .skipLocked()
      .execute();
    let lost = late;
    for (const queue of stepQueues) lost = await queues.missing(trx, queue, lost);
    for (const { instanceId } of lost) await wakeInstance(trx, queues, instanceId);
    return lost.length;
  });
}
