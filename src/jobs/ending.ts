// The end of jobs: the one place that writes a final status, and with it what tells of it.
import type { Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { recordDeliveries } from '../webhooks/record.ts';
import { appendEvents } from './events.ts';
import { jobStatusesBefore, type FinalStatus, type JobError } from './job.ts';

export interface JobEnd {
  status: FinalStatus;
  error: JobError | null;
  /** Where they ran; null for jobs that were queued. */
  instanceId: string | null;
  now: Date;
}

/**
 * Gives jobs their final status, with its event and its webhook, and returns the ids of those that got it. A job that has ended, or
 * may not end like this, stays as it is: it ends once, and is announced once.
 */
export async function endJobs(
  trx: Transaction<Tables>,
  queues: Queues,
  jobIds: readonly string[],
  { status, error, instanceId, now }: JobEnd,
): Promise<string[]> {
  if (jobIds.length === 0) return [];
  const ended = await trx
    .updateTable('jobs')
    .set({
      status,
      error: error === null ? null : JSON.stringify(error),
      progress: null,
      waiting_for: null,
      finished_at: now,
    })
    .where('id', 'in', jobIds)
    .where('status', 'in', jobStatusesBefore(status))
    .returning(['id', 'attempt', 'webhook_url as webhookUrl'])
    .execute();
  for (const [attempt, jobs] of Map.groupBy(ended, (job) => job.attempt)) {
    const data = { status, waitingFor: null, instanceId, attempt, error };
    await appendEvents(
      trx,
      jobs.map(({ id }) => id),
      { type: 'status', data },
    );
  }
  await recordDeliveries(trx, queues, ended, `job.${status}`, now);
  return ended.map(({ id }) => id);
}
