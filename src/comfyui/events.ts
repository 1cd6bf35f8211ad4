// ComfyUI's WebSocket frames, reduced to what a running prompt tells about itself.
import { z } from 'zod';
import { parseJson } from './json.ts';
import { presentable } from './text.ts';

export type PromptEvent =
  | { kind: 'started' }
  /** Nodes that need not run. */
  | { kind: 'cached'; nodes: string[] }
  | { kind: 'executing'; node: string }
  /** Every node seen so far, the finished ones included. */
  | { kind: 'progress'; nodes: Record<string, NodeProgress> }
  /** Steps of the current node. */
  | { kind: 'steps'; node: string; value: number; max: number }
  /** A node has handed over its output; not every node does. */
  | { kind: 'executed'; node: string }
  /** An image of an unfinished result, where the server makes previews. */
  | { kind: 'preview'; node: string; contentType: string; image: Uint8Array }
  /** A branch was left out, and the prompt goes on. */
  | { kind: 'warning'; message: string }
  /** Over, for better or worse: the history tells. May come more than once, and before the history is written. */
  | { kind: 'ended' }
  /** No more events will come for this prompt, though it may go on: poll. */
  | { kind: 'stream_lost' };

export interface NodeProgress {
  value: number;
  max: number;
  state: 'running' | 'finished';
  /** The node of the workflow that it stands for, where it is one that ComfyUI made up; else itself. */
  shownAs: string;
}

export type Frame =
  /** The first frame on every connection, and after every change of the queue. */
  { kind: 'status' } | { kind: 'prompt'; promptId: string; event: PromptEvent };

/**
 * What is longer than this is not read: the frames of a thousand nodes are shorter, and parsing takes 100 ms for each million
 * characters, during which the service does nothing else. The end that a longer one may tell of is found in the history.
 */
const longestJson = 1024 * 1024;

/** Null for everything that concerns no prompt, or that we do not understand. Never throws. */
export function readFrame(data: string | Uint8Array): Frame | null {
  try {
    if (typeof data !== 'string') return readBinaryFrame(data);
    return data.length > longestJson ? null : readTextFrame(parseJson(data));
  } catch {
    return null;
  }
}

const frameSchema = z.object({
  type: z.string(),
  data: z.looseObject({ prompt_id: z.string().nullish() }),
});
const nodeSchema = z.object({ node: z.string().nullable(), display_node: z.string().nullish() });
const cachedSchema = z.object({ nodes: z.array(z.string()) });
const stepsSchema = z.object({ node: z.string(), value: z.number(), max: z.number() });
const nodeProgressSchema = z.object({
  value: z.number(),
  max: z.number(),
  state: z.enum(['running', 'finished']),
  display_node_id: z.string().nullish(),
});
const blockedSchema = z.object({
  node_id: z.string(),
  node_type: z.string().catch(''),
  exception_message: z.string().catch(''),
});
const progressSchema = z.object({ nodes: z.record(z.string(), z.unknown()) });
const previewSchema = z.object({
  prompt_id: z.string(),
  node_id: z.string(),
  display_node_id: z.string().nullish(),
  image_type: z.string(),
});

function readTextFrame(json: unknown): Frame | null {
  const frame = frameSchema.safeParse(json);
  if (!frame.success) return null;
  const { type, data } = frame.data;
  if (type === 'status') return { kind: 'status' };
  if (data.prompt_id === undefined || data.prompt_id === null) return null;
  const event = readEvent(type, data);
  return event === null ? null : { kind: 'prompt', promptId: data.prompt_id, event };
}

function readEvent(type: string, data: Record<string, unknown>): PromptEvent | null {
  switch (type) {
    case 'execution_start':
      return { kind: 'started' };
    case 'execution_cached':
      return { kind: 'cached', ...cachedSchema.parse(data) };
    case 'executing':
    case 'executed':
      return readNodeEvent(type, nodeSchema.parse(data));
    case 'progress':
      return { kind: 'steps', ...stepsSchema.parse(data) };
    case 'progress_state':
      return { kind: 'progress', nodes: readProgress(progressSchema.parse(data).nodes) };
    case 'execution_error':
      return data['exception_type'] === 'ExecutionBlocked' ? readBlocked(data) : { kind: 'ended' };
    case 'execution_success':
    case 'execution_interrupted':
      return { kind: 'ended' };
    default:
      return null;
  }
}

/** The displayed node is the one in the workflow; `node` may be one that it was expanded into. No node: the prompt is over. */
function readNodeEvent(
  kind: 'executing' | 'executed',
  data: z.output<typeof nodeSchema>,
): PromptEvent | null {
  const node = data.display_node ?? data.node;
  if (node !== null) return { kind, node };
  return kind === 'executing' ? { kind: 'ended' } : null;
}

/** A branch that a node has blocked: the prompt goes on, and usually succeeds. */
function readBlocked(data: Record<string, unknown>): PromptEvent {
  const { node_id: id, node_type: type, exception_message: why } = blockedSchema.parse(data);
  const node = type === '' ? `Node ${id}` : `Node ${id} (${type})`;
  return { kind: 'warning', message: `${node} was left out. ${presentable(why)}`.trim() };
}

function readProgress(nodes: Record<string, unknown>): Record<string, NodeProgress> {
  return Object.fromEntries(
    Object.entries(nodes).flatMap(([node, progress]) => {
      const parsed = nodeProgressSchema.safeParse(progress);
      if (!parsed.success) return [];
      const { display_node_id: shownAs, ...rest } = parsed.data;
      return [[node, { ...rest, shownAs: shownAs ?? node }]];
    }),
  );
}

/** Of the binary frames only previews with metadata (event 4) name their prompt: event, length, JSON, image; big-endian. */
function readBinaryFrame(data: Uint8Array): Frame | null {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (view.getUint32(0) !== 4) return null;
  const jsonBytes = view.getUint32(4);
  const imageAt = 8 + jsonBytes;
  if (jsonBytes > longestJson || imageAt > data.byteLength) return null;
  const about = previewSchema.parse(parseJson(new TextDecoder().decode(data.subarray(8, imageAt))));
  const event: PromptEvent = {
    kind: 'preview',
    node: about.display_node_id ?? about.node_id,
    contentType: about.image_type,
    image: data.subarray(imageAt),
  };
  return { kind: 'prompt', promptId: about.prompt_id, event };
}
