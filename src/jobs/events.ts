// The log of each job: what happened, in order, for those who watch it and for those who ask later.
import { sql, type Kysely, type RawBuilder, type Transaction } from 'kysely';
import type { Executor, QueueMessages } from '../database/queues.ts';
import type { Notifications } from '../database/notifications.ts';
import type { Tables } from '../database/tables.ts';
import type { JobError, JobStatus } from './job.ts';
import { storable } from './json-value.ts';

/**
 * The channels; the payload is the id of the job. Whoever runs a job wants to hear that it should stop, but not of his own progress;
 * whoever waits for its end, of nothing before.
 */
const CHANGES = 'jobs';
const STOPS = 'job_stops';
const ENDS = 'job_ends';
const PREVIEWS = 'job_previews';

/** A change of the status. It says nothing of an instance on its way: one comes and goes without a change of the job. */
export interface StatusData {
  status: JobStatus;
  waitingFor: string | null;
  instanceId: string | null;
  /** Number of the current or last attempt; 0 before the first. */
  attempt: number;
  error: JobError | null;
}

/** Names the output; what is told of it is read when it is told, as it is by then. */
export interface OutputData {
  name: string;
}

export interface LogData {
  /** A sentence for whoever waits for the job. */
  message: string;
  attempt: number;
}

export type JobEvent =
  | { type: 'status'; data: StatusData }
  | { type: 'output'; data: OutputData }
  | { type: 'log'; data: LogData };

export type StoredEvent = JobEvent & { id: number };

/**
 * Writes events of a job, in their order, and announces them, both at commit. The caller has written or locked the row of the job before: then the ids of
 * a job's events are in the order in which they can be seen, and who has seen one has missed none before it.
 */
export async function appendEvent(
  trx: Transaction<Tables>,
  jobId: string,
  ...events: [JobEvent, ...JobEvent[]]
): Promise<void> {
  const types = events.map(({ type }) => type);
  const data = events.map((event) => JSON.stringify(event.data));
  await sql`
    with written as (
      insert into job_events (job_id, type, data)
      select ${jobId}, type, data::jsonb
      from unnest(${types}::text[], ${data}::text[]) with ordinality as event (type, data, place)
      order by place
    )
    select ${announcement(sql`${jobId}`)}`.execute(trx);
}

/** What a statement that changes jobs selects, to tell whoever watches one of them. */
export function announcement(jobId: RawBuilder<unknown>) {
  return sql`pg_notify(${sql.lit(CHANGES)}, ${jobId}::text)`;
}

/** What a statement that ends jobs selects, to tell whoever watches one of them or waits for its end. */
export function endAnnouncement(jobId: RawBuilder<unknown>) {
  return sql`${announcement(jobId)}, pg_notify(${sql.lit(ENDS)}, ${jobId}::text)`;
}

/** Tells whoever watches one of the jobs, in every replica, to look at it. */
export async function announceJobs(executor: Executor, jobIds: readonly string[]): Promise<void> {
  if (jobIds.length === 0) return;
  await sql`select ${announcement(sql`id`)} from unnest(${jobIds}::text[]) as id`.execute(executor);
}

/** Tells whoever runs the job, in every replica, to look whether it should stop. */
export async function announceStop(executor: Executor, jobId: string): Promise<void> {
  await sql`select pg_notify(${STOPS}, ${jobId})`.execute(executor);
}

/** Calls `listener` when something about the job may have changed, until the returned function is called. */
export function watchJob(notifications: Notifications, jobId: string, listener: () => void): () => void {
  return notifications.subscribe(CHANGES, listener, jobId);
}

/** Calls `listener` when the job may have ended, until the returned function is called. */
export function watchEnd(notifications: Notifications, jobId: string, listener: () => void): () => void {
  return notifications.subscribe(ENDS, listener, jobId);
}

/** Calls `listener` when the job may have to stop, until the returned function is called. */
export function watchStop(notifications: Notifications, jobId: string, listener: () => void): () => void {
  return notifications.subscribe(STOPS, listener, jobId);
}

/** Tells whoever watches the previews of the job, in every replica, that there is a new one. */
export async function announcePreview(executor: Executor, jobId: string): Promise<void> {
  await sql`select pg_notify(${PREVIEWS}, ${jobId})`.execute(executor);
}

/** Calls `listener` when there may be a new preview of the job, until the returned function is called. */
export function watchPreview(notifications: Notifications, jobId: string, listener: () => void): () => void {
  return notifications.subscribe(PREVIEWS, listener, jobId);
}

/** Writes a line into the log of a job while its attempt goes on. */
export async function logAttempt(
  db: Kysely<Tables>,
  { jobId, attemptId }: Pick<QueueMessages['run'], 'jobId' | 'attemptId'>,
  message: string,
): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const job = await trx
      .selectFrom('jobs')
      .select('attempt')
      .where('id', '=', jobId)
      .where('attempt_id', '=', attemptId)
      .where('status', 'in', ['running', 'canceling'])
      .forNoKeyUpdate()
      .executeTakeFirst();
    if (job === undefined) return;
    const data = { message: storable(message), attempt: job.attempt };
    await appendEvent(trx, jobId, { type: 'log', data });
  });
}
