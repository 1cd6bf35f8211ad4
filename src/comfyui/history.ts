// What ComfyUI remembers of a finished prompt: how it ended, why, and what it produced.
import { executionErrorSchema, fileSchema, type RawHistoryEntry } from './schemas.ts';
import { reusesResults } from './reuse.ts';
import { presentable } from './text.ts';

export interface ComfyFile {
  filename: string;
  subfolder: string;
  type: 'output' | 'temp' | 'input';
}

export type ComfyOutput =
  | { kind: 'file'; nodeId: string; key: string; file: ComfyFile; animated: boolean }
  | { kind: 'text'; nodeId: string; key: string; text: string };

export interface PromptError {
  nodeId: string | null;
  nodeType: string | null;
  exceptionType: string | null;
  /** ComfyUI's message, trimmed, without host paths, inputs and traceback. */
  message: string;
  /** Whose memory it was that did not suffice; null where memory was not the cause. */
  outOfMemory: 'gpu' | 'host' | null;
}

/** As many outputs are read, and one more, which tells that there are more. */
export const MOST_OUTPUTS = 10_000;

export interface HistoryEntry {
  promptId: string;
  outcome: 'succeeded' | 'failed' | 'interrupted';
  /** Set exactly when the outcome is `failed`. */
  error: PromptError | null;
  /** A failed prompt keeps the outputs of the nodes that finished before the failure. */
  outputs: ComfyOutput[];
  /** Nodes whose results ComfyUI took from its cache. */
  cachedNodes: string[];
  /** Nothing was made anew: all results come from an earlier run, if saved again. */
  outputsReused: boolean;
  startedAt: Date | null;
  endedAt: Date | null;
}

/**
 * ComfyUI 0.33 has the status `error` for an interruption too, and `success` when the graph stalls between two nodes:
 * the last message decides, and the status only where there is none.
 */
const outcomes = new Map<string, HistoryEntry['outcome']>([
  ['execution_success', 'succeeded'],
  ['execution_error', 'failed'],
  ['execution_interrupted', 'interrupted'],
]);

/** Far more than a workflow has nodes. */
const mostCached = 20_000;

/** Reads one history entry of ComfyUI. */
export function readHistoryEntry(promptId: string, raw: RawHistoryEntry): HistoryEntry {
  const messages = raw.status?.messages ?? [];
  const start = messages.find(([event]) => event === 'execution_start')?.[1];
  const cached = messages.find(([event]) => event === 'execution_cached')?.[1];
  const end = messages.findLast(([event]) => outcomes.has(event));
  const cachedNodes = Array.isArray(cached?.['nodes'])
    ? cached['nodes'].slice(0, mostCached).map(String)
    : [];
  const outcome = outcomes.get(end?.[0] ?? '') ?? outcomeOf(raw.status?.status_str);
  return {
    promptId,
    outcome,
    error: outcome === 'failed' ? readError(end?.[1]) : null,
    outputs: [...readOutputs(raw.outputs)],
    cachedNodes,
    outputsReused:
      outcome === 'succeeded' && reusesResults(raw.prompt[2], cachedNodes, Object.keys(raw.outputs)),
    startedAt: dateOf(start?.timestamp),
    endedAt: dateOf(end?.[1].timestamp),
  };
}

/** No status at all counts as success, as in ComfyUI's own list of jobs. */
function outcomeOf(status: string | null | undefined): HistoryEntry['outcome'] {
  return status === 'error' ? 'failed' : 'succeeded';
}

function readError(data: unknown): PromptError {
  const parsed = executionErrorSchema.safeParse(data);
  if (!parsed.success) {
    return {
      nodeId: null,
      nodeType: null,
      exceptionType: null,
      message: 'ComfyUI reports a failure without saying which.',
      outOfMemory: null,
    };
  }
  const { node_id, node_type, exception_type, exception_message } = parsed.data;
  return {
    nodeId: node_id ?? null,
    nodeType: node_type ?? null,
    exceptionType: exception_type ?? null,
    message: presentable(exception_message),
    outOfMemory: memoryBehind(exception_type ?? '', exception_message),
  };
}

/** CUDA and ROCm, and below the CPU allocators of PyTorch 2, say it in these words, some of them as a plain RuntimeError. */
const gpuMemoryWords = /out of memory|CUBLAS_STATUS_ALLOC_FAILED/i;
const hostMemoryWords = /can't allocate memory|not enough memory: you tried/i;

function memoryBehind(exceptionType: string, message: string): PromptError['outOfMemory'] {
  if (/OutOfMemory/.test(exceptionType)) return 'gpu';
  if (/MemoryError/.test(exceptionType) || hostMemoryWords.test(message)) return 'host';
  return gpuMemoryWords.test(message) ? 'gpu' : null;
}

function* readOutputs(outputs: Record<string, unknown>): Generator<ComfyOutput> {
  let left = MOST_OUTPUTS + 1;
  for (const [nodeId, output] of Object.entries(outputs)) {
    for (const one of readNodeOutput(nodeId, output)) {
      yield one;
      left -= 1;
      if (left === 0) return;
    }
  }
}

function* readNodeOutput(nodeId: string, output: unknown): Generator<ComfyOutput> {
  if (typeof output !== 'object' || output === null) return;
  const lists = Object.entries(output).filter((entry): entry is [string, unknown[]] =>
    Array.isArray(entry[1]),
  );
  const animated = lists.some(([key, items]) => key === 'animated' && items.includes(true));
  for (const [key, items] of lists) {
    for (const item of items) {
      if (typeof item === 'string' && key === 'text') {
        yield { kind: 'text', nodeId, key, text: item };
        continue;
      }
      const file = typeof item === 'string' ? readModelPath(item) : readFile(item);
      if (file !== null) yield { kind: 'file', nodeId, key, file, animated };
    }
  }
}

function readFile(item: unknown): ComfyFile | null {
  const parsed = fileSchema.safeParse(item);
  return parsed.success ? parsed.data : null;
}

/** Nodes that show a 3D model name it by its path below the output folder (`Preview3D`, under `result`). */
function readModelPath(path: string): ComfyFile | null {
  if (!/\.(glb|gltf|obj|fbx|stl|ply|usdz|splat|ksplat|spz)$/i.test(path)) return null;
  const parts = path.split(/[/\\]/);
  return { filename: parts.pop() ?? '', subfolder: parts.join('/'), type: 'output' };
}

function dateOf(timestampMs: unknown): Date | null {
  if (typeof timestampMs !== 'number' || timestampMs <= 0) return null;
  const date = new Date(timestampMs);
  // Beyond what a date can be, such as nanoseconds.
  return Number.isNaN(date.getTime()) ? null : date;
}
