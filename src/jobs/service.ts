// Jobs as the routes use them: every request writes its intention and a wake-up in one transaction.
import { sql, type Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Assets } from '../assets/service.ts';
import { makeOnce, type IdempotencyKey } from '../database/once.ts';
import type { Executor } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import type { SignedLinks } from '../http/signed-links.ts';
import type { JobDeps } from './deps.ts';
import { createWhenEnded, type WhenEnded } from './ended.ts';
import { endJobs } from './ending.ts';
import { announcement, announceStop, appendEvent } from './events.ts';
import { checkAssets, checkInputs, checkUrls, type FormField } from './inputs.ts';
import { jobStatusesBefore, type JobInput, type JobSeed, type JobStatus, type Workflow } from './job.ts';
import type { KnownNodes } from './known-nodes.ts';
import {
  detailColumns,
  findEventState,
  findJob,
  findOutput,
  jobNotFound,
  listJobs,
  type JobDetailRow,
  type JobDetails,
  type JobPage,
  type JobQuery,
  type StoredOutput,
} from './records.ts';
import type { JobRequestBody } from './schemas.ts';
import { drawSeeds, seedsOf } from './seeds.ts';
import { workflowShape } from './shape.ts';
import { createStreams, type StreamRequest } from './stream.ts';
import { applyInputs, checkWorkflow } from './workflow.ts';
import { checkWebhookUrl } from '../webhooks/target.ts';

export interface JobRequest extends JobRequestBody {
  /** Name of the caller's API key. */
  apiKey: string | null;
  /** Under which the request may be repeated. */
  idempotencyKey?: IdempotencyKey | null;
}

export interface CreatedJob extends JobDetails {
  /** An earlier request with the same key made it. */
  replayed: boolean;
}

export interface JobService {
  /** The longest time that a request is held open for the end of a job. */
  readonly maxWaitSeconds: number;
  /**
   * Checks a request and accepts it. Rejects with `workflow_format_ui`, `invalid_workflow`, `invalid_input`, `instance_not_found` or
   * `conflict`, and for its key with `idempotency_key_reused` or `idempotency_in_flight`.
   */
  create(request: JobRequest): Promise<CreatedJob>;
  /** Rejects with `job_not_found`, as do the others. */
  get(id: string): Promise<JobDetails>;
  /** Newest first. */
  list(query: JobQuery): Promise<JobPage>;
  /** Rejects for nothing but a database out of reach: a job that is not there is over at once. */
  whenEnded: WhenEnded;
  /** Asks for the end of a job. A queued one ends at once, a running one when ComfyUI has stopped it; an ended one stays as it is. */
  cancel(id: string): Promise<JobDetails>;
  /** Rejects with `output_not_found` where the job has no such output. */
  output(id: string, name: string): Promise<StoredOutput>;
  /**
   * What happens to a job, as Server-Sent Events, until its final status or a signal; after the event `afterId`, or from a
   * snapshot on where that is null, or an event that the job has not had: a restored backup may know fewer. Null when the job has
   * ended and the caller has seen all of it.
   */
  events(request: StreamRequest): Promise<AsyncIterable<string> | null>;
}

export interface JobServiceDeps extends Pick<
  JobDeps,
  'db' | 'queues' | 'notifications' | 'assets' | 'config' | 'clock'
> {
  nodes: KnownNodes;
  /** Makes the links to outputs in events; plain ones unless told. */
  links?: SignedLinks['links'];
}

export function createJobs(deps: JobServiceDeps): JobService {
  const streams = createStreams(deps);
  return {
    maxWaitSeconds: deps.config.PREFER_WAIT_MAX_SECONDS,
    create: (request) => createJob(deps, request),
    get: (id) => findJob(deps.db, id),
    list: (query) => listJobs(deps.db, query),
    whenEnded: createWhenEnded(deps),
    async cancel(id) {
      await deps.db.transaction().execute((trx) => cancelJob(deps, trx, id));
      return findJob(deps.db, id);
    },
    output: (id, name) => findOutput(deps.db, id, name),
    async events(request) {
      const { lastEventId, ended } = await findEventState(deps.db, request.jobId);
      const { afterId } = request;
      if (ended && afterId === lastEventId) return null;
      const isKnown = afterId !== null && afterId <= lastEventId;
      return streams.open({ ...request, afterId: isKnown ? afterId : null });
    },
  };
}

async function createJob(deps: JobServiceDeps, request: JobRequest): Promise<CreatedJob> {
  const { idempotencyKey: key = null, instanceId } = request;
  if (key === null && instanceId === undefined) {
    // One statement is a transaction of its own.
    const job = await insertJob(deps, deps.db, request, await checkRequest(deps, request));
    return { job, attempts: [], outputs: [], coming: null, replayed: false };
  }
  const { id, replayed } = await makeOnce(deps, key, {
    check: () => checkRequest(deps, request),
    async write(trx, checked) {
      if (instanceId !== undefined) await checkInstance(trx, instanceId);
      return (await insertJob(deps, trx, request, checked)).id;
    },
  });
  return { ...(await findJob(deps.db, id)), replayed };
}

interface CheckedRequest {
  workflow: Workflow;
  inputs: JobInput[];
}

async function checkRequest(deps: JobServiceDeps, request: JobRequest): Promise<CheckedRequest> {
  const workflow = checkWorkflow(request.workflow, deps.config.WORKFLOW_MAX_NODES);
  return { workflow, inputs: await checkJob(deps, workflow, request) };
}

async function insertJob(
  deps: JobServiceDeps,
  executor: Executor,
  request: JobRequest,
  { workflow, inputs }: CheckedRequest,
): Promise<JobDetailRow> {
  const seeds = seedsOf(workflow, inputs);
  const job = { id: uuid(), request, inputs, seeds, workflow: JSON.stringify(workflow), batchId: null };
  const [row] = await insertJobs(deps, executor, [job], workflowShape(workflow), detailColumns);
  if (row === undefined) throw new Error(`Job ${job.id} was not written.`);
  return row;
}

/** Checks what a job puts into a checked workflow. Rejects with `invalid_workflow` or `invalid_input`. */
export async function checkJob(
  { assets, config, nodes }: Pick<JobServiceDeps, 'config' | 'nodes'> & { assets: Pick<Assets, 'use'> },
  workflow: Workflow,
  request: Pick<JobRequestBody, 'inputs' | 'requirements' | 'instanceId'>,
  formField: FormField = 'job',
): Promise<JobInput[]> {
  const inputs = checkInputs(workflow, request.inputs, formField);
  checkUrls(inputs, config.INPUT_URL_ALLOWED_HOSTS);
  const values = inputs.flatMap(plainValue);
  // A value may be a link; it must not lead nowhere or close a circle.
  if (values.some(({ value }) => Array.isArray(value))) {
    checkWorkflow(applyInputs(workflow, values), config.WORKFLOW_MAX_NODES);
  }
  const places = await nodes.placesFor(request);
  const drawn = drawSeeds(workflow, await checkAssets(assets, inputs), places);
  await places.check(workflow, drawn);
  return drawn;
}

function plainValue({ node, input, value }: JobInput): { node: string; input: string; value: unknown }[] {
  return value === undefined ? [] : [{ node, input, value }];
}

/** Refuses an instance that takes no more jobs. */
export async function checkInstance(trx: Transaction<Tables>, instanceId: string): Promise<void> {
  const instance = await trx
    .selectFrom('instances')
    .select('status')
    .where('id', '=', instanceId)
    // Whoever ends it at this moment sees the job, or is seen by it.
    .forKeyShare()
    .executeTakeFirst();
  const options = { field: 'instanceId' };
  if (instance === undefined) {
    throw new ServiceError('instance_not_found', `There is no instance ${instanceId}.`, options);
  }
  if (['draining', 'terminating', 'terminated'].includes(instance.status)) {
    const detail = `Instance ${instanceId} is ${instance.status} and takes no more jobs. Name another, or none.`;
    throw new ServiceError('conflict', detail, options);
  }
}

export interface NewJob {
  id: string;
  request: JobRequest;
  inputs: JobInput[];
  seeds: JobSeed[];
  /** As JSON; null for a job of a batch, which holds it. */
  workflow: string | null;
  batchId: string | null;
}

/** Writes queued jobs of one workflow, and the wake-up of what places them, in one statement. Returns these columns of each. */
export async function insertJobs<C extends keyof JobDetailRow>(
  { queues, config, clock }: JobServiceDeps,
  executor: Executor,
  jobs: NewJob[],
  shape: string,
  columns: readonly C[],
): Promise<Pick<JobDetailRow, C>[]> {
  const now = clock.now();
  const rows = jobs.map(({ id, request, inputs, seeds, workflow, batchId }) => ({
    id,
    status: 'queued' as const,
    workflow,
    batch_id: batchId,
    inputs: JSON.stringify(inputs),
    seeds: JSON.stringify(seeds),
    requirements: request.requirements === undefined ? null : JSON.stringify(request.requirements),
    wanted_instance_id: request.instanceId ?? null,
    priority: request.priority,
    previews: request.previews,
    metadata: JSON.stringify(request.metadata),
    time_limit_ms: Math.ceil((request.timeLimitSeconds ?? config.JOB_TIME_LIMIT_SECONDS) * 1000),
    wait_limit_ms: Math.ceil((request.waitLimitSeconds ?? config.JOB_WAIT_LIMIT_SECONDS) * 1000),
    workflow_shape: shape,
    api_key: request.apiKey,
    webhook_url: checkWebhookUrl(request.webhookUrl, config),
    created_at: now,
    queued_at: now,
  }));
  const data = { status: 'queued', waitingFor: null, instanceId: null, attempt: 0, error: null } as const;
  const shown = sql.join(columns.map((column) => sql.ref(column)));
  const accepted = await sql<Pick<JobDetailRow, C>>`
    with accepted as (
      ${executor.insertInto('jobs').values(rows).returning(detailColumns)}
    ), written as (
      insert into job_events (job_id, type, data) select id, 'status', ${JSON.stringify(data)}::jsonb from accepted
    )
    select ${shown}, ${announcement(sql`id`)}, ${queues.waking('dispatch')} from accepted`.execute(executor);
  return accepted.rows;
}

export async function cancelJob(
  { queues, clock }: Pick<JobServiceDeps, 'queues' | 'clock'>,
  trx: Transaction<Tables>,
  id: string,
): Promise<void> {
  const job = await trx
    .selectFrom('jobs')
    .select(['status', 'attempt', 'instance_id'])
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst();
  if (job === undefined) throw jobNotFound(id);
  const to: JobStatus = job.status === 'queued' ? 'canceled' : 'canceling';
  if (!jobStatusesBefore(to).includes(job.status)) return;
  const now = clock.now();
  await trx
    .updateTable('jobs')
    .set({ cancel_requested_at: now, ...(to === 'canceling' ? { status: to } : {}) })
    .where('id', '=', id)
    .execute();
  if (to === 'canceled') {
    await endJobs(trx, queues, [id], { status: to, error: null, instanceId: null, now });
    return;
  }
  await announceStop(trx, id);
  const { attempt, instance_id: instanceId } = job;
  await appendEvent(trx, id, {
    type: 'status',
    data: { status: to, waitingFor: null, instanceId, attempt, error: null },
  });
}
