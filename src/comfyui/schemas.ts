// ComfyUI's answers, checked only as far as they are used: servers from 0.3.57 on, with any custom nodes, must pass.
import { z } from 'zod';

/** What a machine calls something: kept and shown, and PostgreSQL takes no zero byte in a text. */
const nameSchema = z.string().transform((name) => (/^\P{Cc}{1,200}$/u.test(name) ? name : 'unknown'));

export const systemStatsSchema = z.object({
  system: z.object({ comfyui_version: nameSchema.catch('unknown') }),
  devices: z.array(z.object({ name: nameSchema, type: z.string(), vram_total: z.number().catch(0) })),
});
export type SystemStats = z.output<typeof systemStatsSchema>;

const nodeErrorsSchema = z.record(
  z.string(),
  z.object({
    class_type: z.string().nullish(),
    dependent_outputs: z.array(z.string()).catch([]),
    errors: z
      .array(
        z.object({
          type: z.string(),
          message: z.string().catch(''),
          details: z.string().catch(''),
          extra_info: z.object({ input_name: z.string().optional() }).catch({}),
        }),
      )
      .catch([]),
  }),
);
export type NodeErrors = z.output<typeof nodeErrorsSchema>;

export const submittedSchema = z.object({
  prompt_id: z.string(),
  // A server that counts in NaN has still accepted the prompt.
  number: z.number().catch(Number.NaN),
  node_errors: nodeErrorsSchema.catch({}),
});

export const rejectedSchema = z.object({
  error: z.object({
    type: z.string(),
    message: z.string().catch(''),
    details: z.string().catch(''),
  }),
  node_errors: nodeErrorsSchema.catch({}),
});

/** A queue item is `[number, prompt_id, graph, extra_data, outputs]`; the last are the ids of the nodes that it runs for. */
const queueItemSchema = z.tuple([z.number().nullable(), z.string()]).rest(z.unknown());
export const queueSchema = z.object({
  queue_running: z.array(queueItemSchema),
  queue_pending: z.array(queueItemSchema),
});

const messageSchema = z.tuple([z.string(), z.record(z.string(), z.unknown())]);
export const historySchema = z.record(
  z.string(),
  z.object({
    /** `[number, prompt_id, graph, extra_data, outputs]` */
    prompt: z.array(z.unknown()).catch([]),
    outputs: z.record(z.string(), z.unknown()).catch({}),
    status: z
      .object({
        status_str: z.string().nullish(),
        messages: z
          .array(z.unknown())
          .transform((messages) =>
            messages.flatMap((message) => {
              const parsed = messageSchema.safeParse(message);
              return parsed.success ? [parsed.data] : [];
            }),
          )
          .catch([]),
      })
      .nullish()
      .catch(null),
  }),
);
export type RawHistoryEntry = z.output<typeof historySchema>[string];

export const executionErrorSchema = z.object({
  node_id: z.coerce.string().nullish().catch(null),
  node_type: z.string().nullish().catch(null),
  exception_type: z.string().nullish().catch(null),
  exception_message: z.string().catch(''),
});

export const fileSchema = z.object({
  filename: z.string().min(1),
  subfolder: z.string().catch(''),
  type: z.enum(['output', 'temp', 'input']).catch('output'),
});

export const uploadedSchema = z.object({ name: z.string().min(1), subfolder: z.string().catch('') });

export const cancelledSchema = z.object({ cancelled: z.boolean() });
