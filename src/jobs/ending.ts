// The end of jobs: the one place that writes a final status, and with it what tells of it.
import { sql, type Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { recordDeliveries } from '../webhooks/record.ts';
import { endAnnouncement, type StatusData } from './events.ts';
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
  const event: Omit<StatusData, 'attempt'> = { status, waitingFor: null, instanceId, error };
  const { rows: ended } = await sql<{ id: string; webhookUrl: string | null }>`
    with ended as (
      update jobs set status = ${status}, error = ${error === null ? null : JSON.stringify(error)}::jsonb,
        progress = null, waiting_for = null, finished_at = ${now}
      where id = any(${jobIds}::uuid[]) and status = any(${jobStatusesBefore(status)}::text[])
      returning id, attempt, webhook_url
    ), written as (
      insert into job_events (job_id, type, data)
      select id, 'status', ${JSON.stringify(event)}::jsonb || jsonb_build_object('attempt', attempt) from ended
    )
    select id, webhook_url as "webhookUrl", ${endAnnouncement(sql`id`)} from ended`.execute(trx);
  await recordDeliveries(trx, queues, ended, `job.${status}`, now);
  return ended.map(({ id }) => id);
}
