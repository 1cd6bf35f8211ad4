// ComfyUI's answers, checked only as far as they are used: servers from 0.3.57 on, with any custom nodes, must pass.
import { z } from 'zod';
import { isRecord } from '../support/is-record.ts';

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

/**
 * Lists and maps that are as long as their server pleases, of which only some members are looked at: looking takes microseconds, and an
 * answer of 64 MB may hold millions.
 */
const longList = z.custom<unknown[]>(Array.isArray);
const longMap = z.custom<Record<string, unknown>>(isRecord);
/** No workflow has as many nodes, and no server that anybody waits for as many prompts. */
const mostMembers = 20_000;

/** A queue item is `[number, prompt_id, graph, extra_data, outputs]`; the last are the ids of the nodes that it runs for. */
const queueItemSchema = z.tuple([z.number().nullable(), z.string()]).rest(z.unknown());
const queueItemsSchema = z.preprocess(
  (items) => (Array.isArray(items) && items.length > mostMembers ? null : items),
  z.array(queueItemSchema),
);
export const queueSchema = z.object({ queue_running: queueItemsSchema, queue_pending: queueItemsSchema });

/** There are three or four. */
const mostMessages = 100;
const messageSchema = z.tuple([z.string(), longMap]);
const messagesSchema = longList.transform((messages) =>
  messages.slice(0, mostMessages).flatMap((message) => {
    const parsed = messageSchema.safeParse(message);
    return parsed.success ? [parsed.data] : [];
  }),
);

const historyEntrySchema = z.object({
  /** `[number, prompt_id, graph, extra_data, outputs]` */
  prompt: longList.catch([]),
  outputs: longMap.catch({}).refine((outputs) => Object.keys(outputs).length <= mostMembers),
  status: z
    .object({ status_str: z.string().nullish(), messages: messagesSchema.catch([]) })
    .nullish()
    .catch(null),
});
export type RawHistoryEntry = z.output<typeof historyEntrySchema>;

/** The entry of one prompt in the history; undefined where it has none. */
export function historyEntryOf(promptId: string) {
  return z.preprocess(
    (history) => (isRecord(history) ? history[promptId] : null),
    historyEntrySchema.optional(),
  );
}

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
