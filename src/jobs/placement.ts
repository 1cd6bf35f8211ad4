// The two slots of an instance: opened when it is ready, closed when it can run nothing more.
import { sql, type Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { endAttempt, type AttemptRef } from './attempt.ts';
import type { ExecutionTimes } from './execution.ts';
import { announceStop } from './events.ts';
import { handOnSlots, lockSlots } from './slots.ts';

/** One job runs, the next is staged behind it, so that the GPU never waits for us. */
export const SLOTS_PER_INSTANCE = 2;

/** Makes the slots of an instance that has become ready; repeating it changes nothing. The caller wakes the dispatch. */
export async function openSlots(trx: Transaction<Tables>, instanceId: string): Promise<void> {
  const slots = Array.from({ length: SLOTS_PER_INSTANCE }, (_, slot) => ({ instance_id: instanceId, slot }));
  await trx
    .insertInto('slots')
    .values(slots)
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/** What an instance works for: the jobs on its slots, and those whose outputs are still being fetched from it. */
export const busyJobs = sql<number>`(select count(*) from attempts
  where attempts.instance_id = instances.id and attempts.ended_at is null)`;

/**
 * ComfyUI is done with a prompt: writes the times of its execution and gives its slot to the next job, so that this one is staged
 * while outputs are fetched. False when the attempt has ended, or has come so far before.
 */
export async function beginCollecting(
  trx: Transaction<Tables>,
  queues: Queues,
  ref: AttemptRef,
  {
    startedAt,
    executedAt,
    collectingAt,
    outputsReused,
  }: ExecutionTimes & {
    collectingAt: Date;
    outputsReused: boolean;
  },
): Promise<boolean> {
  await lockSlots(trx, queues, ref.instanceId);
  const begun = await trx
    .updateTable('attempts')
    .set({
      status: 'collecting',
      started_at: startedAt,
      executed_at: executedAt,
      collecting_at: collectingAt,
      outputs_reused: outputsReused,
    })
    .where('id', '=', ref.attemptId)
    .where('status', '=', 'submitted')
    .executeTakeFirst();
  if (begun.numUpdatedRows !== 1n) return false;
  await handOnSlots(trx, ref.instanceId);
  return true;
}

/**
 * Takes the slots of an instance away. Jobs that have one, or fetch their outputs, go back to the queue, unless they were lost
 * `maxAttempts` times or wanted this very instance: those fail with `instance_lost`. `reason` is a sentence for the caller of such
 * a job.
 */
export async function closeSlots(
  trx: Transaction<Tables>,
  queues: Queues,
  instanceId: string,
  reason: string,
  maxAttempts: number,
): Promise<void> {
  await lockSlots(trx, queues, instanceId);
  const now = new Date();
  for (const { attemptId, jobId, slot } of await openAttempts(trx, instanceId)) {
    const ref = { jobId, attemptId, instanceId, slot };
    await announceStop(trx, jobId);
    await endAttempt(trx, queues, ref, { kind: 'lost', code: 'instance_lost', reason }, { maxAttempts, now });
  }
  await trx.deleteFrom('slots').where('instance_id', '=', instanceId).execute();
}

/** Attempts that have not ended, with a slot or without, in the order of their placement. */
async function openAttempts(trx: Transaction<Tables>, instanceId: string) {
  return trx
    .selectFrom('attempts')
    .select(['id as attemptId', 'job_id as jobId', 'slot'])
    .where('instance_id', '=', instanceId)
    .where('ended_at', 'is', null)
    .orderBy('id')
    .execute();
}
