// Batches as the API takes and shows them: many jobs of one workflow.
import { z } from 'zod';
import { pageQuerySchema, time } from '../http/schemas.ts';
import { jobStatuses } from './job.ts';
import { exampleWorkflow, jobRequestSchema, jobSummarySchema } from './schemas.ts';

/** Whatever `BATCH_MAX_ITEMS` says, no batch is larger. */
const MOST_ITEMS = 1000;

const { inputs, metadata, ...sharedFields } = jobRequestSchema.shape;

const batchItemSchema = z
  .strictObject({
    inputs,
    metadata: metadata.describe('Labels of this job beside those of the batch, before which they go'),
  })
  .meta({ id: 'BatchItem', description: 'What one job of a batch has of its own' });

export const batchRequestSchema = z
  .strictObject({
    ...sharedFields,
    metadata: metadata.describe('Labels of every job'),
    items: z
      .array(batchItemSchema)
      .min(1)
      .max(MOST_ITEMS)
      .describe('One job each, in this order; `BATCH_MAX_ITEMS` may allow fewer'),
  })
  .meta({
    id: 'BatchRequest',
    description:
      'One workflow with many inputs; all other fields are those of JobRequest and hold for every job',
    examples: [
      {
        workflow: exampleWorkflow,
        metadata: { project: 'seeds' },
        items: [101, 102, 103].map((seed) => ({
          inputs: [{ node: '1', input: 'color', value: seed }],
          metadata: { seed: String(seed) },
        })),
      },
    ],
  });
export type BatchRequestBody = z.output<typeof batchRequestSchema>;

export const batchQuerySchema = pageQuerySchema.extend({
  cursor: z.uuid().optional().describe('`nextCursor` of the page before; absent for the first page'),
});

const batchFields = {
  batchId: z.uuid(),
  createdAt: time('When it was accepted'),
  finishedAt: time('When its last job reached its final status').nullable(),
  total: z.int().describe('Its jobs'),
  counts: z.record(z.enum(jobStatuses), z.int()).describe('Its jobs by status'),
  urls: z.object({ self: z.string(), jobs: z.string(), cancel: z.string() }),
};

export const createdBatchSchema = z
  .object({
    ...batchFields,
    jobs: z
      .array(z.object({ id: z.uuid(), url: z.string() }))
      .describe('Its jobs, in the order of the items'),
  })
  .meta({ id: 'CreatedBatch', description: 'A batch that was accepted' });

export const batchSchema = z
  .object({
    ...batchFields,
    items: z.array(jobSummarySchema).describe('A page of its jobs, in the order of the items'),
    nextCursor: z.string().nullable().describe('Cursor of the next page; null on the last'),
  })
  .meta({ id: 'Batch', description: 'Jobs of one workflow that were accepted together' });
