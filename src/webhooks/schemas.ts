// Deliveries as the API shows them, and events as receivers get them.
import { z } from 'zod';
import { idSchema, pageQuerySchema, time } from '../http/schemas.ts';
import { jobSchema } from '../jobs/schemas.ts';
import { deliveryStatuses, webhookEvents } from './delivery.ts';

export const webhookEventSchema = z
  .object({
    type: z.enum(webhookEvents),
    timestamp: time('When the job reached its final status'),
    data: jobSchema,
  })
  .meta({
    id: 'WebhookEvent',
    description:
      'What a receiver is sent: the job as `GET /jobs/{id}` showed it when the event was first sent, with URLs instead of paths where `PUBLIC_URL` is set. Its cost may still change.',
  });

export const deliveryQuerySchema = pageQuerySchema.extend({
  cursor: idSchema.optional().describe('`nextCursor` of the page before; absent for the first page'),
  jobId: idSchema.optional().describe('Only the delivery of this job'),
  status: z
    .union([z.enum(deliveryStatuses), z.array(z.enum(deliveryStatuses))])
    .optional()
    .transform((status) => (status === undefined ? [] : [status].flat()))
    .describe('Only deliveries with this status; may be repeated'),
});

const summaryFields = {
  id: idSchema.describe('The header `webhook-id` of every try'),
  jobId: idSchema,
  type: z.enum(webhookEvents),
  url: z.string().describe('Where it goes'),
  status: z.enum(deliveryStatuses).describe('`failed` is tried no more, unless it is replayed'),
  tryCount: z.int().describe('How often it was tried, replays included'),
  nextTryAt: time('When it is tried next, or the try under way began').nullable(),
  createdAt: time('When the job reached its final status'),
  endedAt: time('When it was delivered or given up').nullable(),
};

export const deliverySummarySchema = z.object(summaryFields).meta({
  id: 'WebhookDeliverySummary',
  description: 'One event of one job on its way to its `webhookUrl`',
});

const trySchema = z
  .object({
    number: z.int().describe('Counted from 1'),
    startedAt: time('When it began'),
    endedAt: time('When it ended')
      .nullable()
      .describe('Null while it goes on, and for ever where the service died in it'),
    statusCode: z.int().nullable().describe('The HTTP status of the receiver, where it answered'),
    error: z.string().nullable().describe('Why there was no answer'),
    answer: z.string().nullable().describe('The first 500 characters of what the receiver answered'),
  })
  .meta({ id: 'WebhookTry' });

export const deliverySchema = z
  .object({
    ...summaryFields,
    body: z.string().nullable().describe('What is sent, to the letter; null before the first try'),
    tries: z.array(trySchema).describe('The tries, the first one first'),
  })
  .meta({ id: 'WebhookDelivery', description: 'A delivery with its tries' });
