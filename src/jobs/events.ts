// The log of each job: what happened, in order, for those who watch it and for those who ask later.
import { sql, type Kysely, type Transaction } from 'kysely';
import type { Executor } from '../database/queues.ts';
import type { Notifications } from '../database/notifications.ts';
import type { Tables } from '../database/tables.ts';
import type { JobError, JobStatus, OutputKind } from './job.ts';

/** The channels; the payload is the id of the job. Whoever runs a job wants to hear that it should stop, but not of his own progress. */
const CHANGES = 'jobs';
const STOPS = 'job_stops';

export interface StatusData {
  status: JobStatus;
  waitingFor: string | null;
  instanceId: string | null;
  /** Number of the current or last attempt; 0 before the first. */
  attempt: number;
  error: JobError | null;
}

export interface OutputData {
  name: string;
  kind: OutputKind;
  nodeId: string;
  temporary: boolean;
  url: string;
}

export interface LogData {
  message: string;
  attempt: number;
}

export type JobEvent =
  | { type: 'status'; data: StatusData }
  | { type: 'output'; data: OutputData }
  | { type: 'log'; data: LogData };

export type StoredEvent = JobEvent & { id: number };

/** Writes an event and announces it, both at commit. */
export async function appendEvent(
  trx: Transaction<Tables>,
  jobId: string,
  { type, data }: JobEvent,
): Promise<void> {
  await trx
    .insertInto('job_events')
    .values({ job_id: jobId, type, data: JSON.stringify(data) })
    .execute();
  await announceJob(trx, jobId);
}

/** Tells whoever watches the job, in every replica, to look at it. */
export async function announceJob(executor: Executor, jobId: string): Promise<void> {
  await sql`select pg_notify(${CHANGES}, ${jobId})`.execute(executor);
}

/** Tells whoever runs the job, in every replica, to look whether it should stop. */
export async function announceStop(executor: Executor, jobId: string): Promise<void> {
  await sql`select pg_notify(${STOPS}, ${jobId})`.execute(executor);
}

/** Calls `listener` when something about the job may have changed, until the returned function is called. */
export function watchJob(notifications: Notifications, jobId: string, listener: () => void): () => void {
  return watch(notifications, CHANGES, jobId, listener);
}

/** Calls `listener` when the job may have to stop, until the returned function is called. */
export function watchStop(notifications: Notifications, jobId: string, listener: () => void): () => void {
  return watch(notifications, STOPS, jobId, listener);
}

/** The events after `afterId`, oldest first. */
export async function eventsAfter(
  db: Kysely<Tables>,
  jobId: string,
  afterId: number,
): Promise<StoredEvent[]> {
  const rows = await db
    .selectFrom('job_events')
    .select(['id', 'type', 'data'])
    .where('job_id', '=', jobId)
    .where('id', '>', afterId)
    .orderBy('id')
    .limit(1000)
    .execute();
  return rows.filter(isKnown);
}

/** A newer version of the service may write events that this one does not know. */
function isKnown(event: { id: number; type: string; data: object }): event is StoredEvent {
  return ['status', 'output', 'log'].includes(event.type);
}

/** An empty payload means that some may have been missed. */
function watch(
  notifications: Notifications,
  channel: string,
  jobId: string,
  listener: () => void,
): () => void {
  return notifications.subscribe(channel, (payload) => {
    if (payload === jobId || payload === '') listener();
  });
}
