// The routes of jobs: submit, look, follow, cancel, fetch what they produced. None of them waits for a GPU.
import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { bytesResponse, fileQuerySchema, sendAsset } from '../assets/send.ts';
import type { Assets } from '../assets/service.ts';
import { idempotencyHeadersSchema, markReplay, readIdempotencyKey } from '../http/idempotency.ts';
import { markWait, preferHeadersSchema, preferredWaitSeconds } from '../http/prefer.ts';
import { problems } from '../http/problems.ts';
import { flagOfQuery, idParamsSchema, pageOf } from '../http/schemas.ts';
import { plainLink, type SignedLinks } from '../http/signed-links.ts';
import { systemClock, type Clock } from '../support/clock.ts';
import { formAsBody } from './form.ts';
import { presentJob, presentSummary } from './presentation.ts';
import type { JobCost } from './cost.ts';
import type { JobDetails, StoredOutput } from './records.ts';
import {
  jobQuerySchema,
  jobRequestSchema,
  jobSchema,
  jobSummarySchema,
  outputParamsSchema,
} from './schemas.ts';
import type { JobService } from './service.ts';

export interface JobRoutesDeps {
  jobs: JobService;
  assets: Assets;
  /** Makes the links to outputs; plain ones unless told. */
  links?: SignedLinks['links'];
  /** What a job has cost until now; nothing is shown without it. */
  costOf?: (jobId: string, now: Date) => Promise<JobCost | null>;
  clock?: Clock;
}

/** Needs @fastify/multipart. */
export function jobRoutes({
  jobs,
  assets,
  costOf = async () => null,
  links = async () => plainLink,
  clock = systemClock,
}: JobRoutesDeps): FastifyPluginAsyncZod {
  const present = async (details: JobDetails) => {
    const now = clock.now();
    // Without an attempt it cannot have cost anything.
    const cost = details.attempts.length === 0 ? null : await costOf(details.job.id, now);
    return presentJob(details, now, cost, await links());
  };
  return async (app) => {
    /** Holds the request open as the caller prefers. False when he said nothing of it. */
    async function wait(id: string, request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
      const wanted = preferredWaitSeconds(request.headers.prefer);
      if (wanted === null) return false;
      const seconds = Math.min(wanted, jobs.maxWaitSeconds);
      await jobs.whenEnded(id, seconds * 1000, whileWanted(reply, app.stopping));
      markWait(reply, seconds);
      return true;
    }

    const preValidation = [formAsBody(assets, 'job'), readIdempotencyKey];
    app.post('/jobs', { schema: createSchema, preValidation }, async (request, reply) => {
      const { apiKey, idempotencyKey } = request;
      const created = await jobs.create({ ...request.body, apiKey, idempotencyKey });
      const { id } = created.job;
      const details = (await wait(id, request, reply)) ? await jobs.get(id) : created;
      markReplay(reply, created.replayed);
      return reply
        .code(201)
        .header('location', `/jobs/${id}`)
        .send(await present(details));
    });

    app.get('/jobs', { schema: listSchema }, async (request) => {
      const { label: labels, ...query } = request.query;
      const { items, nextCursor } = await jobs.list({ ...query, labels });
      return { items: items.map(presentSummary), nextCursor };
    });

    app.get('/jobs/:id', { schema: getSchema }, async (request, reply) => {
      await wait(request.params.id, request, reply);
      return present(await jobs.get(request.params.id));
    });

    app.post('/jobs/:id/cancel', { schema: cancelSchema }, async (request) =>
      present(await jobs.cancel(request.params.id)),
    );

    app.get('/jobs/:id/events', { schema: eventsSchema, exposeHeadRoute: false }, async (request, reply) => {
      const events = await jobs.events({
        jobId: request.params.id,
        afterId: lastEventId(request),
        previews: request.query.previews,
        gone: untilGone(reply),
        stopping: app.stopping,
      });
      // The answer that makes a browser's EventSource stop asking.
      if (events === null) return reply.code(204).send(null);
      return (
        reply
          .type('text/event-stream; charset=utf-8')
          .header('cache-control', 'no-store, no-transform')
          .header('x-accel-buffering', 'no')
          // Kept alive after its end, the connection would hold up a stop of the service.
          .header('connection', 'close')
          .send(Readable.from(events, { objectMode: false }))
      );
    });

    const outputRoute = { schema: outputSchema, config: { signed: true } };
    app.get('/jobs/:id/outputs/:name', outputRoute, async (request, reply) => {
      const output = await jobs.output(request.params.id, request.params.name);
      const disposition = request.query.download ? 'attachment' : 'inline';
      return sendOutput(request, reply, assets, output, disposition);
    });
  };
}

const createSchema = {
  operationId: 'createJob',
  tags: ['jobs'],
  summary: 'Run a workflow',
  description:
    'Answers at once, unless `Prefer: wait` asks for more; the job waits for an instance that fits. As multipart/form-data, the field `job` holds this JSON, and every input with `file` takes the file part of that name.',
  consumes: ['application/json', 'multipart/form-data'],
  formField: 'job',
  headers: preferHeadersSchema.extend(idempotencyHeadersSchema.shape),
  body: jobRequestSchema,
  response: {
    201: jobSchema.describe('Accepted; `Location` is where to look'),
    ...problems(
      'workflow_format_ui',
      'invalid_workflow',
      'invalid_input',
      'instance_not_found',
      'conflict',
      'webhooks_not_configured',
      'idempotency_in_flight',
      'idempotency_key_reused',
      'storage_full',
      'storage_unavailable',
    ),
  },
};

const listSchema = {
  operationId: 'listJobs',
  tags: ['jobs'],
  summary: 'Jobs, newest first',
  querystring: jobQuerySchema,
  response: { 200: pageOf(jobSummarySchema) },
};

const getSchema = {
  operationId: 'getJob',
  tags: ['jobs'],
  summary: 'One job: status, progress, attempts, results',
  headers: preferHeadersSchema,
  params: idParamsSchema,
  response: { 200: jobSchema, ...problems('job_not_found') },
};

const cancelSchema = {
  operationId: 'cancelJob',
  tags: ['jobs'],
  summary: 'Cancel a job',
  description:
    'A queued job is canceled at once. A running one is `canceling` until ComfyUI has stopped it; it may still succeed when it was about to end. An ended job stays as it is.',
  params: idParamsSchema,
  response: { 200: jobSchema, ...problems('job_not_found') },
};

/** OpenAPI 3.1 has no word for the items of a stream, so they are what its text holds. `JobEvent` is the component that the schema of that id becomes. */
const eventStreamSchema = z.unknown().meta({
  type: 'string',
  contentMediaType: 'text/event-stream',
  contentSchema: { type: 'array', items: { $ref: '#/components/schemas/JobEvent' } },
});

const eventsSchema = {
  operationId: 'followJob',
  tags: ['jobs'],
  summary: 'Follow a job as Server-Sent Events',
  description: [
    'Events `status`, `progress`, `output` and `log`, each with JSON, which the schema `JobEvent` describes: first a snapshot, then every change; the stream ends after the final status. After a lost connection send `Last-Event-ID`, to whatever replica, and nothing is missed but progress; with an id that the job has not had, it begins with a snapshot again.',
    'With `previews=true` also `preview`: the newest image of the unfinished result, when ComfyUI makes any. It is asked to do so when the job reaches it, so set `previews` in the request of the job, or listen before that.',
  ].join('\n\n'),
  params: idParamsSchema,
  querystring: z.strictObject({
    previews: flagOfQuery(z.boolean().default(false).describe('Send previews too')),
  }),
  headers: z.looseObject({
    'last-event-id': z.string().max(100).optional().describe('Id of the last event that was received'),
  }),
  response: {
    200: {
      description: 'The stream',
      content: { 'text/event-stream': { schema: eventStreamSchema } },
    },
    204: z.null().describe('The job has ended, and everything was received'),
    ...problems('job_not_found'),
  },
};

const outputSchema = {
  operationId: 'getJobOutput',
  tags: ['jobs'],
  summary: 'The bytes of one output, whole or a range',
  params: outputParamsSchema,
  querystring: fileQuerySchema,
  response: {
    200: bytesResponse('The whole output'),
    206: bytesResponse('The part that the Range header names'),
    ...problems(
      'job_not_found',
      'output_not_found',
      'output_expired',
      'asset_not_found',
      'link_expired',
      'range_not_satisfiable',
      'storage_unavailable',
    ),
  },
};

/** Aborted when the caller has gone, or when the service stops. */
function whileWanted(reply: FastifyReply, stopping: AbortSignal): AbortSignal {
  return AbortSignal.any([untilGone(reply), stopping]);
}

/** Aborted when the caller has gone. */
function untilGone(reply: FastifyReply): AbortSignal {
  const gone = new AbortController();
  reply.raw.once('close', () => gone.abort());
  return gone.signal;
}

/** Null for none, and for one that is not ours: then a snapshot comes first. */
function lastEventId(request: FastifyRequest): number | null {
  const text = request.headers['last-event-id'];
  return typeof text === 'string' && /^\d{1,15}$/.test(text) ? Number(text) : null;
}

async function sendOutput(
  request: FastifyRequest,
  reply: FastifyReply,
  assets: Assets,
  output: StoredOutput,
  disposition: 'inline' | 'attachment',
): Promise<FastifyReply> {
  if (output.text !== null) {
    if (disposition === 'attachment') reply.header('content-disposition', 'attachment');
    return reply
      .type('text/plain; charset=utf-8')
      .header('x-content-type-options', 'nosniff')
      .send(output.text);
  }
  if (output.asset_id === null) throw new Error(`The output ${output.name} is neither a file nor a text.`);
  const file = { id: output.asset_id, sizeBytes: output.size_bytes, contentType: output.content_type };
  return sendAsset(request, reply, assets, file, { fileName: output.name, disposition });
}
