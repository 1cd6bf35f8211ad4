// /api/jobs of 0.33: one view of queue and history, and cancelling by id.
import type { ComfyProcess } from '../process.ts';
import { isObject } from '../support/python.ts';
import { jsonAnswer, readJson, type Answer, type Exchange } from './exchange.ts';
import { findJob, JOB_STATUSES, listJobs, type Job } from './jobs.ts';
import { isCanonicalUuid } from './prompt-routes.ts';
import { requestInterrupt } from './queue-routes.ts';
import type { Route } from './router.ts';

export const jobRoutes = (server: ComfyProcess): Route[] => [
  { method: 'GET', path: '/api/jobs', handle: ({ query }) => getJobs(query, server) },
  {
    method: 'GET',
    path: '/api/jobs/{id}',
    handle: ({ params }) => {
      const job = findJob(params['id'] ?? '', server.queue);
      return job === undefined ? jsonAnswer({ error: 'Job not found' }, 404) : jsonAnswer(job);
    },
  },
  {
    method: 'POST',
    path: '/api/jobs/{id}/cancel',
    handle: ({ params }) => jsonAnswer({ cancelled: cancel(params['id'] ?? '', server) }),
  },
  { method: 'POST', path: '/api/jobs/cancel', handle: (exchange) => cancelMany(exchange, server) },
];

function getJobs(query: URLSearchParams, { queue }: ComfyProcess): Answer {
  const statuses = (query.get('status') ?? '')
    .split(',')
    .map((status) => status.trim())
    .filter(Boolean);
  const unknown = statuses.filter((status) => !JOB_STATUSES.some((known) => known === status));
  if (unknown.length > 0) {
    return bad(`Invalid status value(s): ${unknown.join(', ')}. Valid values: ${JOB_STATUSES.join(', ')}`);
  }
  const sortBy = query.get('sort_by') ?? 'created_at';
  if (sortBy !== 'created_at' && sortBy !== 'execution_duration') {
    return bad("sort_by must be 'created_at' or 'execution_duration'");
  }
  const order = query.get('sort_order') ?? 'desc';
  if (order !== 'asc' && order !== 'desc') return bad("sort_order must be 'asc' or 'desc'");
  const limit = integerOf(query.get('limit'));
  if (limit !== undefined && !(limit >= 1)) return bad('limit must be a positive integer');
  const offset = Math.max(0, integerOf(query.get('offset')) ?? 0);
  if (Number.isNaN(offset)) return bad('offset must be an integer');

  const jobs = listJobs(queue)
    .filter(({ status }) => statuses.length === 0 || statuses.includes(status))
    .filter(
      ({ workflow_id }) => query.get('workflow_id') === null || workflow_id === query.get('workflow_id'),
    )
    .sort((a, b) => (sortKey(a, sortBy) - sortKey(b, sortBy)) * (order === 'asc' ? 1 : -1));
  const page = jobs.slice(offset, limit === undefined ? undefined : offset + limit);
  return jsonAnswer({
    jobs: page,
    pagination: {
      offset,
      limit: limit ?? null,
      total: jobs.length,
      has_more: offset + page.length < jobs.length,
    },
  });
}

function sortKey(job: Job, sortBy: 'created_at' | 'execution_duration'): number {
  if (sortBy === 'created_at') return job.create_time ?? 0;
  const { execution_start_time: start = 0, execution_end_time: end = 0 } = job;
  return start !== 0 && end !== 0 ? end - start : 0;
}

async function cancelMany(exchange: Exchange, server: ComfyProcess): Promise<Answer> {
  const body = await readJson(exchange).catch((error: unknown) => {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  });
  if (!isObject(body)) return bad('Invalid JSON body');
  const ids = body['job_ids'];
  if (!Array.isArray(ids)) return bad('job_ids must be a list');
  const invalid = ids.filter((id) => !isCanonicalUuid(id));
  if (invalid.length > 0) {
    return jsonAnswer({ error: 'job_ids contains invalid id(s)', invalid_ids: invalid }, 400);
  }
  const results = ids.map((id) => cancel(String(id), server));
  return jsonAnswer({ cancelled: results.includes(true) });
}

/** Running: interrupted. Pending: dequeued. Anything else: false. True means asked for, not done. */
function cancel(id: string, server: ComfyProcess): boolean {
  if (server.queue.running.some(({ promptId }) => promptId === id)) {
    requestInterrupt(server);
    return true;
  }
  return server.queue.remove(({ promptId }) => promptId === id);
}

const bad = (error: string): Answer => jsonAnswer({ error }, 400);

const integerOf = (text: string | null): number | undefined => {
  if (text === null) return undefined;
  return /^[+-]?\d+$/u.test(text) ? Number(text) : Number.NaN;
};
