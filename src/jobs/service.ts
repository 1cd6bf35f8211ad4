// Jobs as the routes use them: every request writes its intention and a wake-up in one transaction.
import type { Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import type { JobDeps } from './deps.ts';
import { announceStop, appendEvent } from './events.ts';
import { checkAssets, checkInputs } from './inputs.ts';
import { jobStatusesBefore, type JobInput, type JobStatus, type Workflow } from './job.ts';
import {
  findEventState,
  findJob,
  findOutput,
  jobNotFound,
  listJobs,
  type JobDetails,
  type JobQuery,
  type JobSummaryRow,
  type StoredOutput,
} from './records.ts';
import type { JobRequestBody } from './schemas.ts';
import { workflowShape } from './shape.ts';
import { streamEvents } from './stream.ts';
import { applyInputs, checkWorkflow } from './workflow.ts';

export interface JobRequest extends JobRequestBody {
  /** Name of the caller's API key. */
  apiKey: string | null;
}

export interface JobService {
  /** Checks a request and accepts it. Rejects with `workflow_format_ui`, `invalid_workflow`, `invalid_input`, `instance_not_found` or `conflict`. */
  create(request: JobRequest): Promise<JobDetails>;
  /** Rejects with `job_not_found`, as do the others. */
  get(id: string): Promise<JobDetails>;
  /** Newest first. */
  list(query: JobQuery): Promise<{ items: JobSummaryRow[]; nextCursor: string | null }>;
  /** Asks for the end of a job. A queued one ends at once, a running one when ComfyUI has stopped it; an ended one stays as it is. */
  cancel(id: string): Promise<JobDetails>;
  /** Rejects with `output_not_found` where the job has no such output. */
  output(id: string, name: string): Promise<StoredOutput>;
  /**
   * What happens to a job, as Server-Sent Events, until its final status or the signal; after the event `afterId`, or from a
   * snapshot on. Null when the job has ended and the caller has seen all of it.
   */
  events(id: string, afterId: number | null, signal: AbortSignal): Promise<AsyncIterable<string> | null>;
}

type Deps = Pick<JobDeps, 'db' | 'queues' | 'notifications' | 'assets' | 'config' | 'clock'>;

export function createJobs(deps: Deps): JobService {
  return {
    create: (request) => createJob(deps, request),
    get: (id) => findJob(deps.db, id),
    list: (query) => listJobs(deps.db, query),
    async cancel(id) {
      await deps.db.transaction().execute((trx) => cancelJob(deps, trx, id));
      return findJob(deps.db, id);
    },
    output: (id, name) => findOutput(deps.db, id, name),
    async events(id, afterId, signal) {
      const { lastEventId, ended } = await findEventState(deps.db, id);
      if (ended && afterId !== null && afterId >= lastEventId) return null;
      return streamEvents({ db: deps.db, notifications: deps.notifications, jobId: id, afterId, signal });
    },
  };
}

async function createJob(deps: Deps, request: JobRequest): Promise<JobDetails> {
  const { config } = deps;
  const workflow = checkWorkflow(request.workflow, config.WORKFLOW_MAX_NODES);
  const inputs = checkInputs(workflow, request.inputs);
  // A value may be a link; it must not lead nowhere or close a circle.
  checkWorkflow(applyInputs(workflow, inputs.flatMap(plainValue)), config.WORKFLOW_MAX_NODES);
  await checkAssets(deps.assets, inputs);
  const id = uuid();
  await deps.db.transaction().execute(async (trx) => {
    if (request.instanceId !== undefined) await checkInstance(trx, request.instanceId);
    await insertJob(deps, trx, id, request, workflow, inputs);
    await deps.queues.send(trx, 'dispatch', {});
  });
  return findJob(deps.db, id);
}

function plainValue({ node, input, value }: JobInput): { node: string; input: string; value: unknown }[] {
  return value === undefined ? [] : [{ node, input, value }];
}

async function checkInstance(trx: Transaction<Tables>, instanceId: string): Promise<void> {
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

async function insertJob(
  { config, clock }: Deps,
  trx: Transaction<Tables>,
  id: string,
  request: JobRequest,
  workflow: Workflow,
  inputs: JobInput[],
): Promise<void> {
  const now = clock.now();
  await trx
    .insertInto('jobs')
    .values({
      id,
      status: 'queued',
      workflow: JSON.stringify(workflow),
      inputs: JSON.stringify(inputs),
      requirements: request.requirements === undefined ? null : JSON.stringify(request.requirements),
      wanted_instance_id: request.instanceId ?? null,
      priority: request.priority,
      metadata: JSON.stringify(request.metadata),
      time_limit_ms: Math.ceil((request.timeLimitSeconds ?? config.JOB_TIME_LIMIT_SECONDS) * 1000),
      wait_limit_ms: Math.ceil((request.waitLimitSeconds ?? config.JOB_WAIT_LIMIT_SECONDS) * 1000),
      workflow_shape: workflowShape(workflow),
      api_key: request.apiKey,
      created_at: now,
      queued_at: now,
    })
    .execute();
  await appendEvent(trx, id, {
    type: 'status',
    data: { status: 'queued', waitingFor: null, instanceId: null, attempt: 0, error: null },
  });
}

async function cancelJob({ clock }: Deps, trx: Transaction<Tables>, id: string): Promise<void> {
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
    .set({
      status: to,
      cancel_requested_at: now,
      waiting_for: null,
      ...(to === 'canceled' ? { finished_at: now } : {}),
    })
    .where('id', '=', id)
    .execute();
  if (to === 'canceling') await announceStop(trx, id);
  const instanceId = to === 'canceling' ? job.instance_id : null;
  await appendEvent(trx, id, {
    type: 'status',
    data: { status: to, waitingFor: null, instanceId, attempt: job.attempt, error: null },
  });
}
