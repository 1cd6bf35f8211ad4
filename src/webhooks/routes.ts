// The routes of the delivery log.
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { problems } from '../http/problems.ts';
import { idParamsSchema, pageOf } from '../http/schemas.ts';
import { presentDelivery, presentDeliverySummary } from './presentation.ts';
import { deliveryQuerySchema, deliverySchema, deliverySummarySchema } from './schemas.ts';
import type { Deliveries } from './service.ts';

export function webhookRoutes(deliveries: Deliveries): FastifyPluginAsyncZod {
  return async (app) => {
    app.get('/webhooks/deliveries', { schema: listSchema }, async (request) => {
      const { jobId, status, limit, cursor } = request.query;
      const { items, nextCursor } = await deliveries.list({ jobId, status, limit, cursor });
      return { items: items.map(presentDeliverySummary), nextCursor };
    });

    app.get('/webhooks/deliveries/:id', { schema: getSchema }, async (request) =>
      presentDelivery(await deliveries.get(request.params.id)),
    );

    app.post('/webhooks/deliveries/:id/replay', { schema: replaySchema }, async (request, reply) =>
      reply.code(202).send(presentDelivery(await deliveries.replay(request.params.id))),
    );
  };
}

const listSchema = {
  operationId: 'listWebhookDeliveries',
  tags: ['webhooks'],
  summary: 'Deliveries of webhooks, newest first',
  querystring: deliveryQuerySchema,
  response: { 200: pageOf(deliverySummarySchema) },
};

const getSchema = {
  operationId: 'getWebhookDelivery',
  tags: ['webhooks'],
  summary: 'One delivery: what is sent, and what came of each try',
  params: idParamsSchema,
  response: { 200: deliverySchema, ...problems('delivery_not_found') },
};

const replaySchema = {
  operationId: 'replayWebhookDelivery',
  tags: ['webhooks'],
  summary: 'Deliver once more',
  description:
    'Begins a new round of tries at once, also for what was delivered or given up. The id and the body are those of the first time.',
  params: idParamsSchema,
  response: { 202: deliverySchema, ...problems('delivery_not_found') },
};
