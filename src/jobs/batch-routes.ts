// The routes of batches: submit many jobs of one workflow, look at them together, cancel them together.
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import type { z } from 'zod';
import type { Assets } from '../assets/service.ts';
import { idempotencyHeadersSchema, markReplay, readIdempotencyKey } from '../http/idempotency.ts';
import { problems } from '../http/problems.ts';
import { idParamsSchema } from '../http/schemas.ts';
import { batchQuerySchema, batchRequestSchema, batchSchema, createdBatchSchema } from './batch-schemas.ts';
import type { BatchService, BatchSummary } from './batch.ts';
import { formAsBody } from './form.ts';
import { presentSummary } from './presentation.ts';

/** Needs @fastify/multipart. */
export function batchRoutes({
  batches,
  assets,
}: {
  batches: BatchService;
  assets: Assets;
}): FastifyPluginAsyncZod {
  return async (app) => {
    const preValidation = [formAsBody(assets, 'batch'), readIdempotencyKey];
    app.post('/jobs/batch', { schema: createSchema, preValidation }, async (request, reply) => {
      const { apiKey, idempotencyKey } = request;
      const created = await batches.create({ ...request.body, apiKey, idempotencyKey });
      markReplay(reply, created.replayed);
      const jobs = created.jobIds.map((id) => ({ id, url: `/jobs/${id}` }));
      return reply
        .code(201)
        .header('location', `/batches/${created.batch.id}`)
        .send({ ...presentBatch(created), jobs });
    });

    async function show(id: string, page: z.output<typeof batchQuerySchema>) {
      const { items, nextCursor, ...summary } = await batches.get(id, page);
      return { ...presentBatch(summary), items: items.map(presentSummary), nextCursor };
    }

    app.get('/batches/:id', { schema: getSchema }, (request) => show(request.params.id, request.query));

    app.post('/batches/:id/cancel', { schema: cancelSchema }, async (request) => {
      await batches.cancel(request.params.id);
      return show(request.params.id, request.query);
    });
  };
}

function presentBatch({ batch, counts, finishedAt }: BatchSummary) {
  return {
    batchId: batch.id,
    createdAt: batch.created_at.toISOString(),
    finishedAt: finishedAt?.toISOString() ?? null,
    total: batch.job_count,
    counts,
    urls: {
      self: `/batches/${batch.id}`,
      jobs: `/jobs?batchId=${batch.id}`,
      cancel: `/batches/${batch.id}/cancel`,
    },
  };
}

const createSchema = {
  operationId: 'createBatch',
  tags: ['jobs'],
  summary: 'Run a workflow many times, with other inputs each time',
  description:
    'For several seeds, several prompts or several pictures: one job for each item. Every item is checked first, and an error names it (`items[3].inputs[0].node`); then all of them are accepted, or none. As multipart/form-data, the field `batch` holds this JSON, and every input with `file` takes the file part of that name; several items may name the same.',
  consumes: ['application/json', 'multipart/form-data'],
  formField: 'batch',
  headers: idempotencyHeadersSchema,
  body: batchRequestSchema,
  response: {
    201: createdBatchSchema.describe('Accepted; `Location` is where to look'),
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

const getSchema = {
  operationId: 'getBatch',
  tags: ['jobs'],
  summary: 'One batch: how many of its jobs are where, and the jobs, page by page',
  params: idParamsSchema,
  querystring: batchQuerySchema,
  response: { 200: batchSchema, ...problems('batch_not_found') },
};

const cancelSchema = {
  operationId: 'cancelBatch',
  tags: ['jobs'],
  summary: 'Cancel every job of a batch',
  description:
    'As `POST /jobs/{id}/cancel` for each of them; those that have ended stay as they are. Should the request break off, some are canceled: repeat it.',
  params: idParamsSchema,
  querystring: batchQuerySchema,
  response: { 200: batchSchema, ...problems('batch_not_found') },
};
