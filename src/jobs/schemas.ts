// Jobs as the API takes and shows them.
import { z } from 'zod';
import { assetIdSchema } from '../assets/asset.ts';
import { apiKeyNamePattern } from '../config.ts';
import { pageQuerySchema, time } from '../http/schemas.ts';
import { instancePhases } from '../instances/instance.ts';
import { requirementsSchema } from '../instances/requirements.ts';
import { isStorableText, notStorable } from '../support/storable-text.ts';
import { jobCostSchema } from './cost.ts';
import { attemptStatuses, jobErrorCodes, jobStatuses, outputKinds } from './job.ts';

const milliseconds = (description: string) => z.int().nullable().describe(description);

/** Runs as it stands on any ComfyUI: it needs no model. */
export const exampleWorkflow = {
  '1': {
    class_type: 'EmptyImage',
    inputs: { width: 64, height: 48, batch_size: 1, color: 3_368_652 },
  },
  '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'example/empty' } },
};

const urlSchema = z
  .url({ protocol: /^https?$/, error: 'it must be an http or https URL' })
  .max(2000)
  .refine(isStorableText, notStorable);

const inputSchema = z
  .strictObject({
    node: z.string().min(1).max(200).describe('Id of the node'),
    input: z.string().min(1).max(200).refine(isStorableText, notStorable).describe('Name of its input'),
    value: z.unknown().optional().describe('A value as it is'),
    assetId: assetIdSchema.optional().describe('A file that was uploaded with `POST /assets`'),
    url: urlSchema.optional().describe('A file that is fetched before the job runs'),
    file: z
      .string()
      .min(1)
      .max(200)
      .optional()
      .describe('Name of a file part of this very request, which is then multipart/form-data'),
    random: z
      .literal(true)
      .optional()
      .describe(
        'A number, such as a seed, that is drawn for the job, kept for all its attempts and shown in `seeds`',
      ),
  })
  .meta({
    id: 'WorkflowInput',
    description: 'What goes into one input of one node: exactly one of value, assetId, url, file and random',
  });

/** Entries of the metadata of one job. */
export const MAX_LABELS = 32;

const metadataSchema = z
  .record(z.string().min(1).max(64), z.string().max(512))
  .refine((metadata) => Object.keys(metadata).length <= MAX_LABELS, {
    message: `it must have at most ${MAX_LABELS} entries`,
  })
  .refine(
    (metadata) =>
      Object.entries(metadata).every(([key, value]) => isStorableText(key) && isStorableText(value)),
    {
      message: 'a text holds a character that cannot be stored',
    },
  );

export const jobRequestSchema = z
  .strictObject({
    workflow: z.unknown().meta({
      type: 'object',
      description: 'The graph in API format: in ComfyUI, Workflow > Export (API)',
      additionalProperties: {
        type: 'object',
        properties: {
          class_type: { type: 'string' },
          inputs: { type: 'object', additionalProperties: true },
          _meta: { type: 'object', additionalProperties: true },
        },
        required: ['class_type', 'inputs'],
      },
    }),
    inputs: z.array(inputSchema).max(200).default([]).describe('Values and files to put into the workflow'),
    instanceId: z.uuid().optional().describe('Run on this very instance, and on no other'),
    requirements: requirementsSchema
      .optional()
      .describe(
        'What the instance must satisfy; absent accepts every instance. The price counts only where one is rented for the job.',
      ),
    priority: z
      .int()
      .min(-100)
      .max(100)
      .default(0)
      .describe('Higher runs earlier; a point is worth a minute of waiting'),
    metadata: metadataSchema.default({}).describe(`Labels of your own, at most ${MAX_LABELS}`),
    timeLimitSeconds: z
      .number()
      .positive()
      .max(604_800)
      .optional()
      .describe(
        'How long it may take to be staged and to run, its wait in line on the instance not counted; the service has a default',
      ),
    waitLimitSeconds: z
      .number()
      .positive()
      .max(2_592_000)
      .optional()
      .describe(
        'How long it may wait for an instance, and again as long in line there behind another job; both begin anew where an attempt is lost. The service has a default',
      ),
    previews: z
      .boolean()
      .default(false)
      .describe('Have ComfyUI make previews, for those who follow the job with `previews=true`'),
    webhookUrl: urlSchema
      .optional()
      .describe(
        'Where its end is announced, see the webhooks of this document; an http or https URL on the public internet',
      ),
  })
  .meta({
    id: 'JobRequest',
    examples: [
      { workflow: exampleWorkflow },
      {
        workflow: exampleWorkflow,
        inputs: [{ node: '1', input: 'color', value: 16_711_680 }],
        priority: 10,
        metadata: { project: 'demo' },
        timeLimitSeconds: 600,
      },
    ],
  });
export type JobRequestBody = z.output<typeof jobRequestSchema>;

const labelSchema = z
  .string()
  .max(600)
  .refine(isStorableText, notStorable)
  .refine((text) => text.indexOf(':') > 0, { message: 'it must be name:value, such as project:demo' });

const instant = (description: string) =>
  z.iso
    .datetime({ offset: true })
    .transform((text) => new Date(text))
    .optional()
    .describe(`${description}, in ISO 8601`);

export const jobQuerySchema = pageQuerySchema.extend({
  cursor: z.uuid().optional().describe('`nextCursor` of the page before; absent for the first page'),
  status: z
    .union([z.enum(jobStatuses), z.array(z.enum(jobStatuses))])
    .optional()
    .transform((status) => (status === undefined ? [] : [status].flat()))
    .describe('Only jobs with this status; may be repeated'),
  instanceId: z.uuid().optional().describe('Only jobs whose current or last instance is this one'),
  batchId: z.uuid().optional().describe('Only jobs of this batch'),
  label: z
    .union([labelSchema, z.array(labelSchema).max(MAX_LABELS)])
    .optional()
    .transform((label) => (label === undefined ? [] : [label].flat().map(labelOf)))
    .describe(
      'Only jobs whose metadata has this, as `name:value`, such as `project:demo`; the name ends at the first colon. May be repeated; then a job must have all of them',
    ),
  apiKey: z
    .string()
    .regex(apiKeyNamePattern, 'it must be the name of an API key: 1 to 64 letters, digits, _ . or -')
    .optional()
    .describe('Only jobs that came with the API key of this name'),
  createdAfter: instant('Only jobs that were accepted after this time'),
  createdBefore: instant('Only jobs that were accepted before this time'),
});

export const outputParamsSchema = z.strictObject({ id: z.uuid(), name: z.string().min(1).max(500) });

const errorSchema = z
  .object({
    code: z.enum(jobErrorCodes),
    detail: z.string().describe('What happened and what to do, for a person'),
    nodeId: z.string().optional(),
    nodeType: z.string().optional(),
    exceptionType: z.string().optional().describe("The exception's name in ComfyUI"),
    nodeErrors: z
      .record(z.string(), z.unknown())
      .optional()
      .describe("ComfyUI's findings, node by node, where it refused the workflow"),
    requirements: z
      .object({ minVramGb: z.number() })
      .optional()
      .describe('With which it would probably run, where the memory of the GPU did not suffice'),
  })
  .meta({ id: 'JobError', description: 'Why a job failed or expired' });

const progressSchema = z
  .object({
    phase: z.enum(['staging', 'waiting', 'executing', 'collecting']),
    fraction: z
      .number()
      .min(0)
      .max(1)
      .describe('Part of the nodes that are done; never goes back within an attempt'),
    nodesDone: z.int(),
    nodesTotal: z.int(),
    currentNode: z.string().nullable(),
    currentNodeType: z.string().nullable(),
    step: z.number().nullable(),
    steps: z.number().nullable(),
  })
  .meta({ id: 'JobProgress' });

const attemptSchema = z
  .object({
    number: z.int().describe('Counted from 1'),
    instanceId: z.uuid(),
    status: z.enum(attemptStatuses),
    outcome: z.enum(['succeeded', 'failed', 'canceled', 'lost']).nullable(),
    reason: z.string().nullable().describe('Why it ended, unless it succeeded'),
    createdAt: time('When it was placed'),
    submittedAt: time('When ComfyUI was given the workflow').nullable(),
    startedAt: time('When ComfyUI began with it').nullable(),
    executedAt: time('When ComfyUI was done with it').nullable(),
    endedAt: time('When its results were stored, or it ended otherwise').nullable(),
  })
  .meta({ id: 'JobAttempt', description: 'One try of a job on one instance' });

export const outputSchema = z
  .object({
    name: z.string().describe('Unique within the job'),
    url: z
      .string()
      .describe(
        'Where it is, below the address of this service. Where API keys are needed it opens without one for a while, in a browser too; look the job up again for a new one',
      ),
    kind: z.enum(outputKinds),
    nodeId: z.string(),
    temporary: z.boolean().describe('A preview rather than a result'),
    assetId: assetIdSchema.nullable(),
    contentType: z.string(),
    sizeBytes: z.int(),
    text: z
      .string()
      .nullable()
      .describe('The text itself, where the output is one and not too long; else it is a file'),
    expiredAt: time(
      'When it was removed because results are not kept longer; null while it is there',
    ).nullable(),
  })
  .meta({ id: 'JobOutput', description: 'What one node of a finished job produced' });

const seedSchema = z
  .object({ node: z.string(), input: z.string(), value: z.number() })
  .meta({ id: 'JobSeed', description: 'A number that decides what is random in a job' });

const comingInstanceSchema = z
  .object({
    id: z.uuid(),
    phase: z.enum(instancePhases).nullable(),
    phaseStartedAt: time('When the phase began').nullable(),
    message: z.string().nullable().describe('What the phase is at, for a person'),
  })
  .meta({ id: 'ComingInstance', description: 'The instance on its way that a queued job waits for' });

const summaryFields = {
  id: z.uuid(),
  status: z.enum(jobStatuses),
  waitingFor: z.string().nullable().describe('What a queued job waits for, in words'),
  progress: progressSchema.nullable(),
  error: errorSchema.nullable(),
  instanceId: z.uuid().nullable().describe('Where it runs, or ran last'),
  attempt: z.int().describe('Number of the current or last attempt; 0 before the first'),
  priority: z.int(),
  metadata: z.record(z.string(), z.string()),
  batchId: z.uuid().nullable().describe('The batch that it belongs to'),
  apiKey: z.string().nullable().describe('Name of the API key that it came with'),
  createdAt: time('When it was accepted'),
  startedAt: time('When its current or last attempt was placed').nullable(),
  finishedAt: time('When it reached its final status').nullable(),
};

export const jobSummarySchema = z.object(summaryFields).meta({ id: 'JobSummary' });

export const jobSchema = z
  .object({
    ...summaryFields,
    comingInstance: comingInstanceSchema
      .nullable()
      .describe('The instance that it waits for, where that is on its way'),
    wantedInstanceId: z.uuid().nullable(),
    requirements: requirementsSchema.nullable(),
    timeLimitSeconds: z.number(),
    waitLimitSeconds: z.number(),
    webhookUrl: z.string().nullable().describe('Where its end is announced'),
    attempts: z.array(attemptSchema),
    outputs: z.array(outputSchema),
    outputsReused: z
      .boolean()
      .nullable()
      .describe(
        'ComfyUI made nothing anew: it had all results from an earlier run, and at most saved them again. Null until it is done',
      ),
    seeds: z.array(seedSchema).describe('The seeds of the workflow as it was run, where they are not linked'),
    timings: z
      .object({
        waitingMs: milliseconds('From acceptance to the placement of the current or last attempt'),
        stagingMs: milliseconds('From there until ComfyUI had the workflow'),
        executingMs: milliseconds("ComfyUI's work"),
        collectingMs: milliseconds('Storing the results'),
        totalMs: milliseconds('From acceptance to the final status, or until now'),
      })
      .describe('In milliseconds, of the current or last attempt; null where it has not come to that'),
    cost: jobCostSchema.nullable().describe('What it has cost so far; null when nothing was rented for it'),
    urls: z.object({ self: z.string(), events: z.string(), cancel: z.string() }),
  })
  .meta({ id: 'Job', description: 'One execution of one workflow' });

const statusEventSchema = jobSchema
  .pick({
    status: true,
    waitingFor: true,
    comingInstance: true,
    instanceId: true,
    attempt: true,
    error: true,
  })
  .meta({ id: 'JobStatusEvent', description: 'Where a job stands' });

const logEventSchema = z
  .object({
    message: z.string().describe('A sentence for whoever waits for the job'),
    attempt: z.int().describe('Number of the attempt that it is about'),
  })
  .meta({ id: 'JobLogEvent', description: 'What happened to a job besides' });

const previewEventSchema = z
  .object({ nodeId: z.string(), contentType: z.string(), dataBase64: z.string() })
  .meta({
    id: 'JobPreviewEvent',
    description:
      'The newest image of an unfinished result; a browser shows it as `data:{contentType};base64,{dataBase64}`',
  });

const eventSchema = <Name extends string, Data extends z.ZodType>(event: Name, data: Data) =>
  z.object({
    event: z.literal(event),
    id: z.string().optional().describe('For `Last-Event-ID`; what is sent without one is not sent again'),
    data,
  });

export const jobEventSchema = z
  .discriminatedUnion('event', [
    eventSchema('status', statusEventSchema),
    eventSchema('progress', progressSchema),
    eventSchema('output', outputSchema),
    eventSchema('log', logEventSchema),
    eventSchema('preview', previewEventSchema),
  ])
  .meta({
    id: 'JobEvent',
    description:
      'One event of `GET /jobs/{id}/events`, with the JSON in its `data` parsed; the same while it happens, after a lost connection and in a snapshot',
  });

function labelOf(text: string): { name: string; value: string } {
  const end = text.indexOf(':');
  return { name: text.slice(0, end), value: text.slice(end + 1) };
}
