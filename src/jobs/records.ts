// Reading jobs: one whole, a page of many, one output.
import type { Kysely } from 'kysely';
import type { AttemptRow, JobRow, OutputRow, Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import { isFinal, type JobStatus } from './job.ts';

/** An output with what is known of its file. */
export type StoredOutput = OutputRow & { content_type: string | null; size_bytes: number | null };

export interface JobDetails {
  job: JobRow;
  /** The first one first. */
  attempts: AttemptRow[];
  outputs: StoredOutput[];
}

export interface JobQuery {
  status: JobStatus[];
  instanceId: string | undefined;
  limit: number;
  /** The id of the last job of the page before. */
  cursor: string | undefined;
}

/** The columns that a summary is made of: all but the large ones. */
export const summaryColumns = [
  'id',
  'status',
  'waiting_for',
  'progress',
  'error',
  'instance_id',
  'attempt',
  'priority',
  'metadata',
  'created_at',
  'started_at',
  'finished_at',
] as const satisfies (keyof JobRow)[];

export type JobSummaryRow = Pick<JobRow, (typeof summaryColumns)[number]>;

export async function findJob(db: Kysely<Tables>, id: string): Promise<JobDetails> {
  const job = await db.selectFrom('jobs').selectAll().where('id', '=', id).executeTakeFirst();
  if (job === undefined) throw jobNotFound(id);
  const attempts = await db
    .selectFrom('attempts')
    .selectAll()
    .where('job_id', '=', id)
    .orderBy('number')
    .execute();
  const outputs = await outputsOf(db, id).orderBy('position').execute();
  return { job, attempts, outputs };
}

export async function findOutput(db: Kysely<Tables>, id: string, name: string): Promise<StoredOutput> {
  const output = await outputsOf(db, id).where('name', '=', name).executeTakeFirst();
  if (output !== undefined) return output;
  const job = await db.selectFrom('jobs').select('status').where('id', '=', id).executeTakeFirst();
  if (job === undefined) throw jobNotFound(id);
  const hint = isFinal(job.status) ? '' : ' The job has not ended yet.';
  throw new ServiceError('output_not_found', `Job ${id} has no output of that name.${hint}`);
}

/** The outputs of a job with what is known of their files, in no order. */
export function outputsOf(db: Kysely<Tables>, jobId: string) {
  return db
    .selectFrom('outputs')
    .leftJoin('assets', 'assets.id', 'outputs.asset_id')
    .selectAll('outputs')
    .select(['assets.content_type', 'assets.size_bytes'])
    .where('job_id', '=', jobId);
}

export async function listJobs(
  db: Kysely<Tables>,
  { status, instanceId, limit, cursor }: JobQuery,
): Promise<{ items: JobSummaryRow[]; nextCursor: string | null }> {
  let query = db
    .selectFrom('jobs')
    .select(summaryColumns)
    .orderBy('id', 'desc')
    .limit(limit + 1);
  if (status.length > 0) query = query.where('status', 'in', status);
  if (instanceId !== undefined) query = query.where('instance_id', '=', instanceId);
  if (cursor !== undefined) query = query.where('id', '<', cursor);
  const rows = await query.execute();
  const items = rows.slice(0, limit);
  return { items, nextCursor: rows.length > limit ? (items.at(-1)?.id ?? null) : null };
}

/** How far the events of a job have come. */
export async function findEventState(
  db: Kysely<Tables>,
  id: string,
): Promise<{ lastEventId: number; ended: boolean }> {
  const job = await db.selectFrom('jobs').select('status').where('id', '=', id).executeTakeFirst();
  if (job === undefined) throw jobNotFound(id);
  const { last } = await db
    .selectFrom('job_events')
    .select(({ fn }) => fn.max('id').as('last'))
    .where('job_id', '=', id)
    .executeTakeFirstOrThrow();
  return { lastEventId: last ?? 0, ended: isFinal(job.status) };
}

export function jobNotFound(id: string): ServiceError {
  return new ServiceError('job_not_found', `There is no job ${id}.`);
}
