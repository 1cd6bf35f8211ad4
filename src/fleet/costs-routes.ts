// The routes of money: what was spent, and what a job would cost.
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { ServiceError } from '../errors.ts';
import { problems } from '../http/problems.ts';
import { pageQuerySchema } from '../http/schemas.ts';
import { presentOffer, rankedOfferSchema } from '../instances/schemas.ts';
import { jobRequestSchema } from '../jobs/schemas.ts';
import { costGroups, readCosts, type CostPage } from './costs.ts';
import { estimateJob, type Estimate, type EstimateDeps } from './estimate.ts';
import { recordCosts } from './ledger.ts';
import { dayName } from './limits.ts';

const usd = (description: string) => z.number().describe(`${description}, in US dollars`);

/** The database knows no year 0. */
const day = (description: string) =>
  z.iso
    .date()
    .refine((text) => !text.startsWith('0000'), 'it must be a day of the year 1 or later')
    .optional()
    .describe(description);

const sumsSchema = {
  gpuUsd: usd('GPUs, from the create call until confirmed gone'),
  storageUsd: usd('Disks, for as long'),
  trafficUsd: usd("Files of jobs; what machines download by themselves only the provider's bill shows"),
  totalUsd: usd('All of that'),
  final: z.boolean().describe('Whether all of it is confirmed gone, so that nothing is added any more'),
};

const costsQuerySchema = pageQuerySchema.extend({
  from: day('First day of UTC; the first of the month of `to` unless told'),
  to: day('Last day of UTC; today unless told'),
  groupBy: z.enum(costGroups).default('day').describe('What each entry is the sum of'),
  instanceId: z.uuid().optional().describe('Only this instance'),
  apiKey: z
    .string()
    .max(64)
    .optional()
    .describe('Only instances that this API key asked for, by its name; empty for those that none did'),
});

const costsSchema = z
  .object({
    from: z.iso.date(),
    to: z.iso.date(),
    items: z.array(
      z.object({
        key: z
          .string()
          .describe(
            'The day, the id of the instance, or the name of the API key; empty where none asked for it',
          ),
        ...sumsSchema,
      }),
    ),
    total: z.object(sumsSchema).describe('Of all pages together'),
    nextCursor: z.string().nullable().describe('Cursor of the next page; null on the last'),
  })
  .meta({ id: 'Costs', description: 'What was spent, from the ledger' });

const estimateRequestSchema = jobRequestSchema
  .extend({
    workflow: jobRequestSchema.shape.workflow
      .optional()
      .describe('As for `POST /jobs`; recent runs of it tell how long it takes'),
  })
  .meta({ id: 'EstimateRequest', examples: [{}, { requirements: { gpuNames: ['RTX 4090'] } }] });

const estimateSchema = z
  .object({
    place: z
      .enum(['instance', 'offer', 'none'])
      .describe('Where it would run: on a ready instance, on a machine that would be rented, or nowhere now'),
    instanceId: z.uuid().nullable(),
    offer: rankedOfferSchema.nullable(),
    pricePerHourUsd: usd('Price per hour there').nullable(),
    bootSeconds: z.number().nullable().describe('Expected wait until it is ready; 0 for a ready instance'),
    run: z
      .object({
        seconds: z.number().describe('Expected time on the GPU'),
        basis: z
          .enum(['same_gpu', 'other_gpu', 'assumed'])
          .describe('Recent runs of the same workflow on the same GPU, on others, or none'),
        samples: z.int().describe('Runs that were looked at'),
      })
      .describe('The same nodes and links are the same workflow, whatever their values'),
    expected: z
      .object({
        bootUsd: usd('Boot'),
        runUsd: usd('Time on the GPU'),
        downloadUsd: usd('Traffic of the image'),
        totalUsd: usd('All of that'),
      })
      .nullable(),
    worstCaseUsd: usd(
      'The most that it can cost: each machine that may be tried boots as long as it may, and all attempts but the last are lost at their end. Without what further machines download, and the time for which the last one waits for more jobs',
    ).nullable(),
    obstacle: z.string().nullable().describe('Why it could not run now, a limit for example'),
  })
  .meta({ id: 'Estimate', description: 'What a job would cost' });

export function costRoutes(deps: EstimateDeps): FastifyPluginAsyncZod {
  return async (app) => {
    app.get(
      '/costs',
      {
        schema: {
          operationId: 'listCosts',
          tags: ['fleet'],
          summary: 'What was spent, by day, instance or API key',
          description:
            'Days are those of UTC, both included. The last key comes first. An instance counts for the API key that asked for it; instances that the fleet rented count for none.',
          querystring: costsQuerySchema,
          response: { 200: costsSchema },
        },
      },
      async (request) => {
        const now = deps.clock.now();
        const { to = dayName(now), from = `${to.slice(0, -2)}01`, ...rest } = request.query;
        if (from > to) throw new ServiceError('invalid_request', '`from` is after `to`.', { field: 'from' });
        await recordCosts(deps.db, now);
        const { groupBy, instanceId, apiKey, limit, cursor } = rest;
        const page = await readCosts(deps.db, { from, to, groupBy, instanceId, apiKey, limit, cursor });
        return { from, to, ...presentCosts(page) };
      },
    );

    app.post(
      '/jobs/estimate',
      {
        schema: {
          operationId: 'estimateJob',
          tags: ['jobs'],
          summary: 'What a job would cost, before anything is spent',
          description:
            'Takes the body of `POST /jobs`, of which only the workflow, the requirements, the instance and the time limit matter; all may be left out. Asks the provider for offers when no ready instance fits.',
          body: estimateRequestSchema,
          response: {
            200: estimateSchema,
            ...problems(
              'workflow_format_ui',
              'invalid_workflow',
              'instance_not_found',
              'provider_not_configured',
              'provider_unavailable',
              'insufficient_credit',
            ),
          },
        },
      },
      async (request) => presentEstimate(await estimateJob(deps, request.body)),
    );
  };
}

function presentCosts({ groups, total, nextCursor }: CostPage) {
  return { items: groups, total, nextCursor };
}

function presentEstimate({ place, ...estimate }: Estimate): z.output<typeof estimateSchema> {
  return {
    place: place.kind,
    instanceId: place.kind === 'instance' ? place.instanceId : null,
    offer: place.kind === 'offer' ? presentOffer(place.offer) : null,
    ...estimate,
  };
}
