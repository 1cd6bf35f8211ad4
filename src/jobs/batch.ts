// Batches: many jobs of one workflow under one id, accepted all together or not at all. Afterwards each is a job like any other.
import { setImmediate as pause } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Asset, Assets } from '../assets/service.ts';
import { makeOnce, type IdempotencyKey } from '../database/once.ts';
import type { BatchRow, Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import type { BatchRequestBody } from './batch-schemas.ts';
import { endJobs } from './ending.ts';
import { isFinal, jobStatusesBefore, type JobInput, type JobStatus, type Workflow } from './job.ts';
import { pageOfRows, summaryColumns, type JobPage } from './records.ts';
import { MAX_LABELS } from './schemas.ts';
import { seedsOf } from './seeds.ts';
import {
  cancelJob,
  checkInstance,
  checkJob,
  insertJobs,
  type JobRequest,
  type JobServiceDeps,
  type NewJob,
} from './service.ts';
import { workflowShape } from './shape.ts';
import { checkWorkflow } from './workflow.ts';

export interface BatchRequest extends BatchRequestBody {
  /** Name of the caller's API key. */
  apiKey: string | null;
  /** Under which the request may be repeated. */
  idempotencyKey?: IdempotencyKey | null;
}

export interface BatchSummary {
  batch: Pick<BatchRow, 'id' | 'job_count' | 'created_at'>;
  counts: Record<JobStatus, number>;
  /** Null until all have ended. */
  finishedAt: Date | null;
}

interface BatchPage {
  limit: number;
  /** The id of the last job of the page before. */
  cursor?: string | undefined;
}

export interface BatchService {
  /**
   * Checks every item and accepts all of them. Rejects as `JobService.create` does, with the item in the field at fault; then none
   * of them was accepted.
   */
  create(request: BatchRequest): Promise<BatchSummary & { jobIds: string[]; replayed: boolean }>;
  /** Its jobs are in the order of the items. Rejects with `batch_not_found`. */
  get(id: string, page: BatchPage): Promise<BatchSummary & JobPage>;
  /** Cancels each of its jobs as `JobService.cancel` does; repeated after a failure, it goes on. Rejects with `batch_not_found`. */
  cancel(id: string): Promise<void>;
}

export function createBatches(deps: JobServiceDeps): BatchService {
  return {
    create: (request) => createBatch(deps, request),
    async get(id, page) {
      return { ...(await summarize(deps.db, id)), ...(await pageOfJobs(deps.db, id, page)) };
    },
    cancel: (id) => cancelBatch(deps, id),
  };
}

async function createBatch(deps: JobServiceDeps, request: BatchRequest) {
  const { db, clock } = deps;
  const { id, replayed } = await makeOnce(deps, request.idempotencyKey ?? null, {
    check: () => checkBatch(deps, request),
    async write(trx, { workflow, items }) {
      const batchId = uuid();
      await trx
        .insertInto('batches')
        .values({
          id: batchId,
          workflow: JSON.stringify(workflow),
          job_count: items.length,
          api_key: request.apiKey,
          created_at: clock.now(),
        })
        .execute();
      if (request.instanceId !== undefined) await checkInstance(trx, request.instanceId);
      // Ids that are made one after the other are in that order, and so the order of the items is kept.
      const jobs = items.map((item): NewJob => ({ ...item, id: uuid(), workflow: null, batchId }));
      await insertJobs(deps, trx, jobs, workflowShape(workflow), ['id']);
      return batchId;
    },
  });
  const jobs = await db.selectFrom('jobs').select('id').where('batch_id', '=', id).orderBy('id').execute();
  return { ...(await summarize(db, id)), jobIds: jobs.map((job) => job.id), replayed };
}

type CheckedItem = Pick<NewJob, 'request' | 'inputs' | 'seeds'>;

async function checkBatch(deps: JobServiceDeps, request: BatchRequest) {
  const { items, workflow: sent, ...shared } = request;
  const { BATCH_MAX_ITEMS: most, WORKFLOW_MAX_NODES: mostNodes } = deps.config;
  if (items.length > most) {
    const detail = `The batch has ${items.length} items; at most ${most} are allowed. Send several batches.`;
    throw new ServiceError('invalid_request', detail, { field: 'items' });
  }
  const workflow = checkWorkflow(sent, mostNodes);
  const places = await deps.nodes.placesFor(request);
  const known = {
    config: deps.config,
    assets: rememberAssets(deps.assets),
    nodes: { placesFor: async () => places },
  };
  const checked: CheckedItem[] = [];
  for (const [index, item] of items.entries()) {
    const job = { ...shared, workflow, inputs: item.inputs, metadata: labelsOf(shared, item, index) };
    const inputs = await checkItem(known, workflow, job, index);
    checked.push({ request: job, inputs, seeds: seedsOf(workflow, inputs) });
    // Others want to be served too, however long this takes.
    await pause();
  }
  return { workflow, items: checked };
}

function labelsOf(
  shared: Pick<BatchRequest, 'metadata'>,
  item: BatchRequest['items'][number],
  index: number,
): Record<string, string> {
  const labels = { ...shared.metadata, ...item.metadata };
  if (Object.keys(labels).length <= MAX_LABELS) return labels;
  throw new ServiceError(
    'invalid_request',
    `With those of the batch, these are more than ${MAX_LABELS} labels.`,
    {
      field: `items[${index}].metadata`,
    },
  );
}

async function checkItem(
  deps: Parameters<typeof checkJob>[0],
  workflow: Workflow,
  request: JobRequest,
  index: number,
): Promise<JobInput[]> {
  try {
    return await checkJob(deps, workflow, request, 'batch');
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    const { code, message, field = '', extra } = error;
    // What is wrong with the workflow now is wrong by what the item puts into it.
    const at = field.startsWith('inputs') ? field : 'inputs';
    throw new ServiceError(code, message, {
      field: `items[${index}].${at}`,
      cause: error,
      ...(extra === undefined ? {} : { extra }),
    });
  }
}

/** Asks once for each file, since many items may name the same. */
function rememberAssets({ use }: Pick<Assets, 'use'>): Pick<Assets, 'use'> {
  const known = new Map<string, Promise<Asset | null>>();
  return {
    use(id) {
      const asset = known.get(id) ?? use(id);
      known.set(id, asset);
      return asset;
    },
  };
}

async function summarize(db: Kysely<Tables>, id: string): Promise<BatchSummary> {
  const batch = await findBatch(db, id);
  const rows = await db
    .selectFrom('jobs')
    .select(({ fn }) => ['status', fn.countAll<number>().as('count'), fn.max('finished_at').as('last')])
    .where('batch_id', '=', id)
    .groupBy('status')
    .execute();
  const counts = noCounts();
  for (const { status, count } of rows) counts[status] = count;
  const hasEnded = rows.every(({ status }) => isFinal(status));
  const ends = rows.flatMap(({ last }) => (last === null ? [] : [last.getTime()]));
  return { batch, counts, finishedAt: hasEnded && ends.length > 0 ? new Date(Math.max(...ends)) : null };
}

function noCounts(): Record<JobStatus, number> {
  return { queued: 0, running: 0, canceling: 0, succeeded: 0, failed: 0, canceled: 0, expired: 0 };
}

async function findBatch(db: Kysely<Tables>, id: string): Promise<BatchSummary['batch']> {
  const batch = await db
    .selectFrom('batches')
    .select(['id', 'job_count', 'created_at'])
    .where('id', '=', id)
    .executeTakeFirst();
  if (batch === undefined) throw new ServiceError('batch_not_found', `There is no batch ${id}.`);
  return batch;
}

async function pageOfJobs(db: Kysely<Tables>, id: string, { limit, cursor }: BatchPage): Promise<JobPage> {
  let query = db
    .selectFrom('jobs')
    .select(summaryColumns)
    .where('batch_id', '=', id)
    .orderBy('id')
    .limit(limit + 1);
  if (cursor !== undefined) query = query.where('id', '>', cursor);
  return pageOfRows(await query.execute(), limit);
}

/** Those that wait go first, or one of them would take the place of one that runs. */
async function cancelBatch(deps: JobServiceDeps, id: string): Promise<void> {
  await findBatch(deps.db, id);
  await cancelQueued(deps, id);
  const rest = await deps.db
    .selectFrom('jobs')
    .select('id')
    .where('batch_id', '=', id)
    .where('status', 'in', ['queued', ...jobStatusesBefore('canceling')])
    .orderBy('id')
    .execute();
  for (const job of rest) {
    await deps.db.transaction().execute((trx) => cancelJob(deps, trx, job.id));
  }
}

/** At once, but for those that somebody holds: who waits for one and holds others may be waited for. */
async function cancelQueued({ db, queues, clock }: JobServiceDeps, id: string): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const queued = await trx
      .selectFrom('jobs')
      .select('id')
      .where('batch_id', '=', id)
      .where('status', '=', 'queued')
      .forUpdate()
      .skipLocked()
      .execute();
    if (queued.length === 0) return;
    const ids = queued.map((job) => job.id);
    const now = clock.now();
    await trx.updateTable('jobs').set({ cancel_requested_at: now }).where('id', 'in', ids).execute();
    await endJobs(trx, queues, ids, { status: 'canceled', error: null, instanceId: null, now });
  });
}
