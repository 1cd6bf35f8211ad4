// Reading jobs: one whole, a page of many, one output.
import { sql, type ExpressionBuilder, type Kysely } from 'kysely';
import type { AttemptRow, JobRow, OutputRow, Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import type { InstancePhase } from '../instances/instance.ts';
import { isFinal, type JobStatus, type Workflow } from './job.ts';

export type StoredOutput = OutputRow;

export interface JobDetails {
  job: JobDetailRow;
  /** The first one first. */
  attempts: AttemptRow[];
  outputs: StoredOutput[];
  coming: ComingColumns | null;
}

/** What a list is narrowed to; every condition must hold. */
interface JobFilter {
  /** One of these; none means any. */
  status: JobStatus[];
  instanceId?: string | undefined;
  batchId?: string | undefined;
  /** Name of the API key that it came with. */
  apiKey?: string | undefined;
  /** Metadata that it must have. */
  labels?: { name: string; value: string }[];
  createdAfter?: Date | undefined;
  createdBefore?: Date | undefined;
}

export interface JobQuery extends JobFilter {
  limit: number;
  /** The id of the last job of the page before. */
  cursor?: string | undefined;
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
  'batch_id',
  'api_key',
  'created_at',
  'started_at',
  'finished_at',
] as const satisfies (keyof JobRow)[];

/** The columns that a job is shown with: its workflow and inputs, which may have megabytes, are not. */
export const detailColumns = [
  ...summaryColumns,
  'seeds',
  'requirements',
  'wanted_instance_id',
  'waiting_instance_id',
  'time_limit_ms',
  'wait_limit_ms',
  'webhook_url',
] as const satisfies (keyof JobRow)[];

export interface JobPage {
  items: JobSummaryRow[];
  nextCursor: string | null;
}

export type JobSummaryRow = Pick<JobRow, (typeof summaryColumns)[number]>;
export type JobDetailRow = Pick<JobRow, (typeof detailColumns)[number]>;

/** What is known of the instance that a queued job waits for, where that is on its way; else all null. */
export interface ComingColumns {
  coming_id: string | null;
  coming_phase: InstancePhase | null;
  coming_since: Date | null;
  coming_message: string | null;
}

/** The workflow of a job, which is stored with it or with its batch. */
export const storedWorkflow = sql<Workflow>`coalesce(
  jobs.workflow, (select batches.workflow from batches where batches.id = jobs.batch_id))`;

export async function findJob(db: Kysely<Tables>, id: string): Promise<JobDetails> {
  const job = await db.selectFrom('jobs').select(detailColumns).where('id', '=', id).executeTakeFirst();
  if (job === undefined) throw jobNotFound(id);
  const coming = await findComing(db, job);
  if (job.attempt === 0) return { job, attempts: [], outputs: [], coming };
  const [attempts, outputs] = await Promise.all([
    db.selectFrom('attempts').selectAll().where('job_id', '=', id).orderBy('number').execute(),
    outputsOf(db, id).orderBy('position').execute(),
  ]);
  return { job, attempts, outputs, coming };
}

async function findComing(db: Kysely<Tables>, job: JobDetailRow): Promise<ComingColumns | null> {
  if (job.status !== 'queued' || job.waiting_instance_id === null) return null;
  const row = await db
    .selectFrom('instances')
    .select([
      'id as coming_id',
      'phase as coming_phase',
      'phase_started_at as coming_since',
      'message as coming_message',
    ])
    .where('id', '=', job.waiting_instance_id)
    .where('status', 'in', ['requested', 'provisioning'])
    .executeTakeFirst();
  return row ?? null;
}

export async function findOutput(db: Kysely<Tables>, id: string, name: string): Promise<StoredOutput> {
  const output = await outputsOf(db, id).where('name', '=', name).executeTakeFirst();
  if (output !== undefined) {
    if (output.expired_at !== null) throw outputExpired(name, output.expired_at);
    return output;
  }
  const job = await db.selectFrom('jobs').select('status').where('id', '=', id).executeTakeFirst();
  if (job === undefined) throw jobNotFound(id);
  const hint = isFinal(job.status) ? '' : ' The job has not ended yet.';
  throw new ServiceError('output_not_found', `Job ${id} has no output of that name.${hint}`);
}

/** The outputs of a job, in no order. */
export function outputsOf(db: Kysely<Tables>, jobId: string) {
  return db.selectFrom('outputs').selectAll().where('job_id', '=', jobId);
}

/** Ids are made in the order of acceptance, so a page begins after an id and not at a number: new jobs move nothing. */
export async function listJobs(db: Kysely<Tables>, { limit, cursor, ...filter }: JobQuery): Promise<JobPage> {
  let query = db
    .selectFrom('jobs')
    .select(summaryColumns)
    .where(matches(filter))
    .orderBy('id', 'desc')
    .limit(limit + 1);
  if (cursor !== undefined) query = query.where('id', '<', cursor);
  return pageOfRows(await query.execute(), limit);
}

/** A page of what was read, which is one row more where there is another page. */
export function pageOfRows(rows: JobSummaryRow[], limit: number): JobPage {
  const items = rows.slice(0, limit);
  return { items, nextCursor: rows.length > limit ? (items.at(-1)?.id ?? null) : null };
}

function matches({
  status,
  instanceId,
  batchId,
  apiKey,
  labels = [],
  createdAfter,
  createdBefore,
}: JobFilter) {
  return (eb: ExpressionBuilder<Tables, 'jobs'>) =>
    eb.and([
      ...(status.length === 0 ? [] : [eb('status', 'in', status)]),
      ...(instanceId === undefined ? [] : [eb('instance_id', '=', instanceId)]),
      ...(batchId === undefined ? [] : [eb('batch_id', '=', batchId)]),
      ...(apiKey === undefined ? [] : [eb('api_key', '=', apiKey)]),
      ...(createdAfter === undefined ? [] : [eb('created_at', '>', createdAfter)]),
      ...(createdBefore === undefined ? [] : [eb('created_at', '<', createdBefore)]),
      // One by one, so that a name with two values is found nowhere.
      ...labels.map(
        ({ name, value }) => sql<boolean>`metadata @> ${JSON.stringify({ [name]: value })}::jsonb`,
      ),
    ]);
}

/** How far the events of a job have come. */
export async function findEventState(
  db: Kysely<Tables>,
  id: string,
): Promise<{ lastEventId: number; ended: boolean }> {
  const job = await db
    .selectFrom('jobs')
    .select([
      'status',
      sql<number | null>`(select max(id) from job_events where job_id = jobs.id)`.as('last'),
    ])
    .where('id', '=', id)
    .executeTakeFirst();
  if (job === undefined) throw jobNotFound(id);
  return { lastEventId: job.last ?? 0, ended: isFinal(job.status) };
}

function outputExpired(name: string, at: Date): ServiceError {
  const detail = `"${name}" was removed at ${at.toISOString()}: results are kept for a limited time. Run the workflow again to have it.`;
  return new ServiceError('output_expired', detail, { extra: { expiredAt: at.toISOString() } });
}

export function jobNotFound(id: string): ServiceError {
  return new ServiceError('job_not_found', `There is no job ${id}.`);
}
