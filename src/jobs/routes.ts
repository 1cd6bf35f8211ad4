// The routes of jobs: submit, look, follow, cancel, fetch what they produced. None of them waits for a GPU.
import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { sendAsset } from '../assets/send.ts';
import type { Assets } from '../assets/service.ts';
import { ServiceError } from '../errors.ts';
import { problems } from '../http/problems.ts';
import { idParamsSchema, pageOf } from '../http/schemas.ts';
import { systemClock, type Clock } from '../support/clock.ts';
import { readJobForm } from './form.ts';
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
  /** What a job has cost until now; nothing is shown without it. */
  costOf?: (jobId: string, now: Date) => Promise<JobCost | null>;
  clock?: Clock;
}

/** Needs @fastify/multipart. */
export function jobRoutes({
  jobs,
  assets,
  costOf = async () => null,
  clock = systemClock,
}: JobRoutesDeps): FastifyPluginAsyncZod {
  const present = async (details: JobDetails) => {
    const now = clock.now();
    return presentJob(details, now, await costOf(details.job.id, now));
  };
  return async (app) => {
    app.post('/jobs', { schema: createSchema, preValidation: formAsBody(assets) }, async (request, reply) => {
      const created = await jobs.create({ ...request.body, apiKey: request.apiKey });
      return reply
        .code(201)
        .header('location', `/jobs/${created.job.id}`)
        .send(presentJob(created, clock.now()));
    });

    app.get('/jobs', { schema: listSchema }, async (request) => {
      const { status, instanceId, limit, cursor } = request.query;
      const { items, nextCursor } = await jobs.list({ status, instanceId, limit, cursor });
      return { items: items.map(presentSummary), nextCursor };
    });

    app.get('/jobs/:id', { schema: getSchema }, async (request) =>
      present(await jobs.get(request.params.id)),
    );

    app.post('/jobs/:id/cancel', { schema: cancelSchema }, async (request) =>
      present(await jobs.cancel(request.params.id)),
    );

    app.get('/jobs/:id/events', { schema: eventsSchema, exposeHeadRoute: false }, async (request, reply) => {
      const gone = new AbortController();
      reply.raw.once('close', () => gone.abort());
      const signal = AbortSignal.any([gone.signal, app.stopping]);
      const events = await jobs.events(request.params.id, lastEventId(request), signal);
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

    app.get('/jobs/:id/outputs/:name', { schema: outputSchema }, async (request, reply) => {
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
    'Answers at once; the job waits for an instance that fits. As multipart/form-data, the field `job` holds this JSON, and every input with `file` takes the file part of that name.',
  consumes: ['application/json', 'multipart/form-data'],
  body: jobRequestSchema,
  response: {
    201: jobSchema.describe('Accepted; `Location` is where to look'),
    ...problems(
      'workflow_format_ui',
      'invalid_workflow',
      'invalid_input',
      'instance_not_found',
      'conflict',
      'storage_full',
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

const eventsSchema = {
  operationId: 'followJob',
  tags: ['jobs'],
  summary: 'Follow a job as Server-Sent Events',
  description:
    'Events `status`, `progress`, `output` and `log`, each with JSON: first a snapshot, then every change; the stream ends after the final status. After a lost connection send `Last-Event-ID` and nothing is missed but progress.',
  params: idParamsSchema,
  headers: z.looseObject({
    'last-event-id': z.string().max(100).optional().describe('Id of the last event that was received'),
  }),
  response: {
    200: {
      description: 'The stream',
      content: { 'text/event-stream': { schema: z.unknown().meta({ type: 'string' }) } },
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
  querystring: z.strictObject({
    download: z.stringbool().default(false).describe('Save it instead of showing it'),
  }),
  response: {
    200: bytesResponse('The whole output'),
    206: bytesResponse('The part that the Range header names'),
    ...problems('job_not_found', 'output_not_found', 'range_not_satisfiable'),
  },
};

function bytesResponse(description: string) {
  const schema = z.unknown().meta({ type: 'string', format: 'binary' });
  return { description, content: { 'application/octet-stream': { schema } } };
}

/** Before the validation, so that a form is checked like JSON. */
function formAsBody(assets: Assets): (request: FastifyRequest) => Promise<void> {
  return async (request) => {
    if (request.isMultipart()) request.body = await readJobForm(request, assets);
  };
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
  const asset = output.asset_id === null ? null : await assets.get(output.asset_id);
  if (asset === null)
    throw new ServiceError('output_not_found', 'The file of this output is no longer stored.');
  return sendAsset(request, reply, assets, asset, { fileName: output.name, disposition });
}
