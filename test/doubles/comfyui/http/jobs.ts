// Queue items and history entries seen as jobs.
import { nodeError } from '../nodes/definition.ts';
import type { PromptQueue } from '../queue.ts';
import type { Dict, HistoryEntry, NodeUi, QueueItem } from '../support/model.ts';
import { isObject, pyFloat, pyStr, type PyFloat } from '../support/python.ts';

export const JOB_STATUSES = ['pending', 'in_progress', 'completed', 'failed', 'cancelled'] as const;

export interface Job {
  id: string;
  status: (typeof JOB_STATUSES)[number];
  priority: number | PyFloat;
  create_time?: number | undefined;
  execution_start_time?: number | undefined;
  execution_end_time?: number | undefined;
  execution_error?: Dict | undefined;
  outputs_count: number;
  previewable_outputs_count: number;
  preview_output?: Dict | undefined;
  workflow_id?: unknown;
  outputs?: Dict;
  execution_status?: HistoryEntry['status'];
  workflow?: { prompt: unknown; extra_data: unknown };
}

const PREVIEWABLE_KEYS = new Set(['images', 'video', 'audio', '3d', 'text']);
const MODEL_FILE = /\.(?:obj|fbx|gltf|glb|usdz)$/iu;
const TEXT_FILE = /\.(?:txt|md|json)$/iu;
const TEXT_PREVIEW_LENGTH = 1024;

/** Throws, and so answers 500, while an entry has an `extra_pnginfo` that is not an object. */
export function listJobs({ running, pending, history }: PromptQueue): Job[] {
  return [
    ...running.map((item) => queuedJob(item, 'in_progress')),
    ...pending.map((item) => queuedJob(item, 'pending')),
    ...[...history.values()].map(finishedJob),
  ];
}

export function findJob(id: string, { running, pending, history }: PromptQueue): Job | undefined {
  const entry = history.get(id);
  if (entry !== undefined) {
    return {
      ...finishedJob(entry),
      outputs: normalizeOutputs(entry.outputs),
      execution_status: entry.status,
      workflow: workflowOf(entry.item),
    };
  }
  const active = running.find(({ promptId }) => promptId === id);
  if (active !== undefined) return { ...queuedJob(active, 'in_progress'), workflow: workflowOf(active) };
  const waiting = pending.find(({ promptId }) => promptId === id);
  return waiting === undefined
    ? undefined
    : { ...queuedJob(waiting, 'pending'), workflow: workflowOf(waiting) };
}

const workflowOf = ({ graph, extraData }: QueueItem): { prompt: unknown; extra_data: unknown } => ({
  prompt: graph,
  extra_data: extraData,
});

function queuedJob(item: QueueItem, status: 'pending' | 'in_progress'): Job {
  const { createTime, workflowId } = metadataOf(item.extraData);
  return {
    id: item.promptId,
    status,
    priority: priorityOf(item),
    create_time: createTime,
    outputs_count: 0,
    previewable_outputs_count: 0,
    workflow_id: workflowId,
  };
}

function finishedJob({ item, outputs, status }: HistoryEntry): Job {
  const { createTime, workflowId } = metadataOf(item.extraData);
  const find = (...events: string[]): Dict | undefined =>
    status.messages.findLast(([event]) => events.includes(event))?.[1];
  const interrupted = find('execution_interrupted');
  const failed = status.status_str === 'error';
  const end = find('execution_success', 'execution_error', 'execution_interrupted');
  const summary = summarize(outputs);
  return {
    id: item.promptId,
    status: failed ? (interrupted === undefined ? 'failed' : 'cancelled') : 'completed',
    priority: priorityOf(item),
    create_time: createTime,
    execution_start_time: timeOf(find('execution_start')),
    execution_end_time: timeOf(end),
    execution_error: find('execution_error'),
    outputs_count: summary.count,
    previewable_outputs_count: summary.previewable,
    preview_output: summary.preview,
    workflow_id: workflowId,
  };
}

const priorityOf = ({ number, numberIsFloat }: QueueItem): number | PyFloat =>
  numberIsFloat ? pyFloat(number) : number;

const timeOf = (data: Dict | undefined): number | undefined => {
  const time = data?.['timestamp'];
  return typeof time === 'number' ? time : undefined;
};

function metadataOf(extraData: Dict | null): { createTime: number | undefined; workflowId: unknown } {
  const createTime = extraData?.['create_time'];
  const workflow = attribute(attribute(extraData ?? {}, 'extra_pnginfo'), 'workflow');
  const id = isObject(workflow) ? workflow['id'] : undefined;
  return {
    createTime: typeof createTime === 'number' ? createTime : undefined,
    workflowId: id === null ? undefined : id,
  };
}

/** Python: `.get(name, {})` on something that is no dict raises. */
function attribute(value: unknown, name: string): unknown {
  if (!isObject(value)) throw nodeError('AttributeError', "object has no attribute 'get'");
  return name in value ? value[name] : {};
}

interface Summary {
  count: number;
  previewable: number;
  preview: Dict | undefined;
}

/** Saved media come first as preview, then temporary ones, then saved texts, then plain text. */
function summarize(outputs: Readonly<Record<string, NodeUi>>): Summary {
  let [count, previewable] = [0, 0];
  const candidates: { rank: number; preview: Dict }[] = [];
  for (const [nodeId, ui] of Object.entries(outputs)) {
    for (const [key, items] of Object.entries(ui)) {
      if (key === 'animated') continue;
      for (const raw of items) {
        const item = isObject(raw) ? raw : modelItem(raw);
        if (item === undefined) {
          if (key === 'text')
            candidates.push({ rank: 3, preview: { ...textPreview(raw), nodeId, mediaType: key } });
          continue;
        }
        count += 1;
        if (!isPreviewable(key, item)) continue;
        previewable += 1;
        candidates.push({
          rank: rankOf(key, item),
          preview: { ...item, nodeId, ...('mediaType' in item ? {} : { mediaType: key }) },
        });
      }
    }
  }
  const [best] = candidates.sort((a, b) => a.rank - b.rank);
  return { count, previewable, preview: best?.preview };
}

const rankOf = (key: string, item: Dict): number => {
  if (key === 'text' || TEXT_FILE.test(pyStr(item['filename'] ?? ''))) return 2;
  return item['type'] === 'output' ? 0 : 1;
};

function isPreviewable(key: string, item: Dict): boolean {
  const name = pyStr(item['filename'] ?? '');
  const format = pyStr(item['format'] ?? '');
  return (
    PREVIEWABLE_KEYS.has(key) ||
    /^(?:video|audio)\//u.test(format) ||
    MODEL_FILE.test(name) ||
    TEXT_FILE.test(name)
  );
}

function textPreview(value: unknown): Dict {
  const text = pyStr(value);
  if (text.length <= TEXT_PREVIEW_LENGTH) return { content: text };
  return { content: text.slice(0, TEXT_PREVIEW_LENGTH), truncated: true };
}

const modelItem = (value: unknown): Dict | undefined =>
  typeof value === 'string' && MODEL_FILE.test(value)
    ? { filename: value, type: 'output', subfolder: '', mediaType: '3d' }
    : undefined;

const normalizeOutputs = (outputs: Readonly<Record<string, NodeUi>>): Dict =>
  Object.fromEntries(
    Object.entries(outputs).map(([nodeId, ui]) => [
      nodeId,
      Object.fromEntries(
        Object.entries(ui).map(([key, items]) => [
          key,
          key === 'animated'
            ? items
            : items.filter((item) => item !== null).map((item) => modelItem(item) ?? item),
        ]),
      ),
    ]),
  );
