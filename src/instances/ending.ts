// Beginning to end an instance, whoever decides it: the row is written, its jobs are seen to, and its next step is woken.
import type { Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { InstanceRow, Tables } from '../database/tables.ts';
import { closeSlots } from '../jobs/placement.ts';
import { instanceStatusesBefore, type InstanceStatus, type TerminationReason } from './instance.ts';
import { advanceOwned, leavePhases, sendStep, type InstanceUpdate } from './records.ts';

export interface Ending {
  /** Lets the jobs of a ready instance end first. */
  drain: boolean;
  reason: TerminationReason;
  /** Further facts for the caller, in words. */
  detail: string | null;
  /** Why its jobs go back to the queue, as a sentence. */
  jobReason: string;
  maxAttempts: number;
  now: Date;
}

/** Takes an instance that the transaction has locked. False when it is ending so already: then nothing was written. */
export async function beginEnding(
  trx: Transaction<Tables>,
  queues: Queues,
  instance: InstanceRow,
  { drain, reason, detail, jobReason, maxAttempts, now }: Ending,
): Promise<boolean> {
  const mayHaveJobs = instance.status === 'ready' || instance.status === 'draining';
  const to: InstanceStatus = drain && mayHaveJobs ? 'draining' : 'terminating';
  if (!instanceStatusesBefore(to).includes(instance.status)) return false;
  const update: InstanceUpdate = {
    status: to,
    pending_reason: reason,
    pending_detail: detail,
    message: to === 'draining' ? 'Ends after its jobs.' : 'Ends now.',
    next_step_at: now,
    ...leavePhases(instance, now),
  };
  const woken = await advanceOwned(trx, instance, update, queues.waking('dispatch'));
  if (woken === null) return false;
  if (to === 'terminating') await closeSlots(trx, queues, instance.id, jobReason, maxAttempts);
  await sendStep(trx, queues, woken, 0);
  return true;
}
