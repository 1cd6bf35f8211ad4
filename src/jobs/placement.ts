// The two slots of an instance: opened when it is ready, closed when it can run nothing more.
import type { Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { endAttempt } from './attempt.ts';
import { announceStop } from './events.ts';

/** One job runs, the next is staged behind it, so that the GPU never waits for us. */
export const SLOTS_PER_INSTANCE = 2;

/** Makes the slots of an instance that has become ready; repeating it changes nothing. The caller pokes the dispatch. */
export async function openSlots(trx: Transaction<Tables>, instanceId: string): Promise<void> {
  const slots = Array.from({ length: SLOTS_PER_INSTANCE }, (_, slot) => ({ instance_id: instanceId, slot }));
  await trx
    .insertInto('slots')
    .values(slots)
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/**
 * Takes the slots of an instance away. Their jobs go back to the queue, unless they were tried `maxAttempts` times or wanted this
 * very instance: those fail with `instance_lost`. `reason` is a sentence for the caller of such a job.
 */
export async function closeSlots(
  trx: Transaction<Tables>,
  queues: Queues,
  instanceId: string,
  reason: string,
  maxAttempts: number,
): Promise<void> {
  const slots = await trx
    .selectFrom('slots')
    .select(['slot', 'job_id'])
    .where('instance_id', '=', instanceId)
    .orderBy('slot')
    .forUpdate()
    .execute();
  const now = new Date();
  for (const { slot, job_id: jobId } of slots) {
    if (jobId === null) continue;
    const job = await trx.selectFrom('jobs').select('attempt_id').where('id', '=', jobId).executeTakeFirst();
    if (job === undefined || job.attempt_id === null) continue;
    const ref = { jobId, attemptId: job.attempt_id, instanceId, slot };
    await announceStop(trx, jobId);
    await endAttempt(trx, queues, ref, { kind: 'lost', code: 'instance_lost', reason }, { maxAttempts, now });
  }
  await trx.deleteFrom('slots').where('instance_id', '=', instanceId).execute();
}
