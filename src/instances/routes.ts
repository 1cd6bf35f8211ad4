// The routes of offers and instances. None of them waits for a machine.
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { idempotencyHeadersSchema, markReplay, readIdempotencyKey } from '../http/idempotency.ts';
import { problems } from '../http/problems.ts';
import { flagOfQuery, idParamsSchema, idSchema, pageOf, pageQuerySchema } from '../http/schemas.ts';
import type { Clock } from '../support/clock.ts';
import { instanceStatuses } from './instance.ts';
import {
  instanceRequestSchema,
  instanceSchema,
  offersQuerySchema,
  offersSchema,
  presentInstance,
  presentOffer,
  presentRejected,
  requirementsOfQuery,
} from './schemas.ts';
import type { Instances } from './service.ts';

const listQuerySchema = pageQuerySchema.extend({
  cursor: idSchema.optional().describe('`nextCursor` of the page before; absent for the first page'),
  status: z
    .union([z.enum(instanceStatuses), z.array(z.enum(instanceStatuses))])
    .optional()
    .describe('Only these statuses; may be repeated'),
  provider: z.enum(['vast', 'static']).optional(),
});

export function instanceRoutes(instances: Instances, clock: Clock): FastifyPluginAsyncZod {
  return async (app) => {
    app.get(
      '/offers',
      {
        schema: {
          operationId: 'listOffers',
          tags: ['instances'],
          summary: 'Machines that can be rented now, the best first',
          description:
            'Asks the provider now. The order is by the expected cost of booting and one hour of work; every offer says why it stands where it stands, and the rejected ones say why they do not fit.',
          querystring: offersQuerySchema,
          response: {
            200: offersSchema,
            ...problems('provider_not_configured', 'provider_unavailable', 'insufficient_credit'),
          },
        },
      },
      async (request) => {
        const { offers, rejected } = await instances.offers(requirementsOfQuery(request.query));
        return { items: offers.map(presentOffer), rejected: rejected.map(presentRejected) };
      },
    );

    app.post(
      '/instances',
      {
        schema: {
          operationId: 'requestInstance',
          tags: ['instances'],
          summary: 'Rent a machine and get ComfyUI running on it',
          description:
            'Answers at once; the machine takes 2 to 20 minutes. Poll `Location` for its status, phase and message. Should a machine fail, it is destroyed and the next offer is taken, up to a limit.',
          headers: idempotencyHeadersSchema,
          body: instanceRequestSchema,
          response: {
            202: instanceSchema,
            ...problems(
              'provider_not_configured',
              'limit_reached',
              'insufficient_credit',
              'idempotency_in_flight',
              'idempotency_key_reused',
            ),
          },
        },
        preValidation: readIdempotencyKey,
      },
      async (request, reply) => {
        const made = await instances.request({
          requirements: request.body.requirements,
          offerId: request.body.offerId,
          idleMinutes: request.body.idleMinutes,
          maxLifetimeHours: request.body.maxLifetimeHours,
          apiKey: request.apiKey,
          idempotencyKey: request.idempotencyKey,
        });
        markReplay(reply, made.replayed);
        return reply
          .code(202)
          .header('location', `/instances/${made.instance.id}`)
          .send(presentInstance(made, clock.now()));
      },
    );

    app.get(
      '/instances',
      {
        schema: {
          operationId: 'listInstances',
          tags: ['instances'],
          summary: 'Instances, newest first',
          querystring: listQuerySchema,
          response: { 200: pageOf(instanceSchema) },
        },
      },
      async (request) => {
        const { status, provider, limit, cursor } = request.query;
        const page = await instances.list({ status: [status ?? []].flat(), provider, limit, cursor });
        const now = clock.now();
        return { items: page.items.map((item) => presentInstance(item, now)), nextCursor: page.nextCursor };
      },
    );

    app.get(
      '/instances/:id',
      {
        schema: {
          operationId: 'getInstance',
          tags: ['instances'],
          summary: 'One instance: status, phase, price, cost so far, and why it ended',
          params: idParamsSchema,
          response: { 200: instanceSchema, ...problems('instance_not_found') },
        },
      },
      async (request) => presentInstance(await instances.get(request.params.id), clock.now()),
    );

    app.delete(
      '/instances/:id',
      {
        schema: {
          operationId: 'endInstance',
          tags: ['instances'],
          summary: 'End an instance and destroy its machine',
          description:
            'Answers at once; the status is `terminated` only when the provider has confirmed that the machine is gone. Its running jobs go back to the queue, unless `drain=true` lets them end first.',
          params: idParamsSchema,
          querystring: z.strictObject({
            drain: flagOfQuery(z.boolean().default(false).describe('Let the running jobs end first')),
          }),
          response: { 202: instanceSchema, ...problems('instance_not_found', 'conflict') },
        },
      },
      async (request, reply) => {
        const ended = await instances.end(request.params.id, request.query);
        return reply.code(202).send(presentInstance(ended, clock.now()));
      },
    );
  };
}
