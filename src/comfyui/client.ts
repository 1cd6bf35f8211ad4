// The calls to one ComfyUI server that the service needs, and no others.
import type { Readable } from 'node:stream';
import {
  askComfy,
  errorBehind,
  isPlaceholder,
  readAnswer,
  type Answer,
  type AnswerLimits,
} from './answer.ts';
import { ComfyError } from './errors.ts';
import { readHistoryEntry, type ComfyFile, type HistoryEntry } from './history.ts';
import type { Link, LinkRequest } from './link.ts';
import { linkErrorFrom } from './link-error.ts';
import { multipartBody, type UploadFile } from './multipart.ts';
import { askNodeClass, type NodeClass } from './object-info.ts';
import {
  cancelledSchema,
  historyEntryOf,
  queueSchema,
  systemStatsSchema,
  uploadedSchema,
  type SystemStats,
} from './schemas.ts';
import { submitPrompt, type SubmitRequest, type Submitted } from './submission.ts';

export type { ComfyFile, ComfyOutput, HistoryEntry, PromptError } from './history.ts';
export type { UploadFile } from './multipart.ts';
export type { SubmitRequest, Submitted } from './submission.ts';

export interface ComfyQueue {
  running: string[];
  /** In the order in which they will run. */
  pending: string[];
}

export type Location =
  | { kind: 'finished'; entry: HistoryEntry }
  | { kind: 'running' }
  /** `ahead` prompts run before it, the running one included; `idle` where none is running at all. */
  | { kind: 'pending'; ahead: number; idle: boolean }
  /** Never arrived, or forgotten: by a restart, a clearing of the queue, or a removal of the history entry. */
  | { kind: 'absent' };

export interface Download {
  /** Fails when the connection breaks before the whole file has come. */
  stream: Readable;
  contentType: string;
  sizeBytes: number | null;
}

/** Every method rejects with a `ComfyError`, or with the signal's reason. None repeats its call. */
export interface ComfyClient {
  systemStats(signal?: AbortSignal): Promise<SystemStats>;
  submit(request: SubmitRequest, signal?: AbortSignal): Promise<Submitted>;
  /** A node class as it is now, read as that version of ComfyUI means it; null when the server does not have it. */
  nodeClass(name: string, comfyuiVersion: string, signal?: AbortSignal): Promise<NodeClass | null>;
  queue(signal?: AbortSignal): Promise<ComfyQueue>;
  /** Null when the prompt is unknown or has not finished. */
  history(promptId: string, signal?: AbortSignal): Promise<HistoryEntry | null>;
  /** Where the prompt is now. History, queue, history again: a prompt may move while we look. */
  locate(promptId: string, signal?: AbortSignal): Promise<Location>;
  /**
   * The output nodes that ComfyUI runs the prompt for: those that passed its checks. Null when the prompt is nowhere, or
   * the server does not say.
   */
  targets(promptId: string, signal?: AbortSignal): Promise<string[] | null>;
  /** Asks once that the prompt stop or not start; interrupts can be lost, so look again and repeat. */
  cancel(promptId: string, signal?: AbortSignal): Promise<void>;
  /** Stores an input. Resolves to the name under which a workflow finds it: ComfyUI renames rather than overwrites. */
  upload(file: UploadFile, signal?: AbortSignal): Promise<string>;
  download(file: ComfyFile, signal?: AbortSignal): Promise<Download>;
  /** Removes the history entry, which holds the whole graph in the server's memory. */
  forget(promptId: string, signal?: AbortSignal): Promise<void>;
  /** Unloads models and clears the cache, after the current prompt. */
  freeMemory(signal?: AbortSignal): Promise<void>;
}

const MB = 1024 * 1024;
/** Workers that hold Python's lock make ComfyUI slow to answer. */
const usualAnswerMs = 30_000;
const fileIdleMs = 60_000;
/** The time limit of the call itself bounds silence; this one, a trickle. */
const uploadLimits: AnswerLimits = { deadlineMs: 6 * 3_600_000, maxBytes: MB };

export interface ComfyClientOptions {
  /** How long ComfyUI may take to answer what takes it no work. */
  answerMs?: number;
}

export function createComfyClient(
  link: Link,
  { answerMs = usualAnswerMs }: ComfyClientOptions = {},
): ComfyClient {
  const small: AnswerLimits = { deadlineMs: answerMs, maxBytes: MB };
  // The queue and the history hold whole graphs.
  const large: AnswerLimits = { ...small, maxBytes: 64 * MB };
  const askQueue = async (signal: AbortSignal | undefined) =>
    readAnswer(queueSchema, await askComfy(link, get('/queue', signal), large));
  const askHistory = async (promptId: string, signal: AbortSignal | undefined) => {
    const request = get(`/history/${encodeURIComponent(promptId)}`, signal);
    return readAnswer(historyEntryOf(promptId), await askComfy(link, request, large));
  };
  const client: ComfyClient = {
    async systemStats(signal) {
      return readAnswer(systemStatsSchema, await askComfy(link, get('/system_stats', signal), small));
    },
    nodeClass: (name, comfyuiVersion, signal) => askNodeClass(link, name, comfyuiVersion, signal),
    async submit(request, signal) {
      const { promptId, ...submitted } = await submitPrompt(link, request, signal);
      if (promptId === request.promptId) return submitted;
      await client.cancel(promptId, signal).catch(() => undefined);
      const detail =
        'ComfyUI gave the workflow an id of its own, by which it cannot be followed: it is too old.';
      throw new ComfyError('foreign_id', detail);
    },
    async queue(signal) {
      const raw = await askQueue(signal);
      return {
        running: raw.queue_running.map(([, promptId]) => promptId),
        // ComfyUI 0.33 sends its heap as it lies in memory.
        pending: raw.queue_pending.toSorted(byPlaceInLine).map(([, promptId]) => promptId),
      };
    },
    async history(promptId, signal) {
      const entry = await askHistory(promptId, signal);
      return entry === undefined ? null : readHistoryEntry(promptId, entry);
    },
    async locate(promptId, signal) {
      const before = await client.history(promptId, signal);
      if (before !== null) return { kind: 'finished', entry: before };
      const { running, pending } = await client.queue(signal);
      if (running.includes(promptId)) return { kind: 'running' };
      const place = pending.indexOf(promptId);
      if (place !== -1) return { kind: 'pending', ahead: running.length + place, idle: running.length === 0 };
      const after = await client.history(promptId, signal);
      return after === null ? { kind: 'absent' } : { kind: 'finished', entry: after };
    },
    async targets(promptId, signal) {
      const { queue_running: running, queue_pending: pending } = await askQueue(signal);
      const item = [...running, ...pending].find(([, id]) => id === promptId);
      // From the queue it goes to the history, so it cannot be missed in between.
      return readTargets(item ?? (await askHistory(promptId, signal))?.prompt);
    },
    async cancel(promptId, signal) {
      const request = post(`/api/jobs/${encodeURIComponent(promptId)}/cancel`, {}, signal);
      const answer = await askComfy(link, request, small);
      if (errorBehind(answer)?.kind === 'not_found')
        await cancelByQueue(link, client, promptId, small, signal);
      else readAnswer(cancelledSchema, answer);
    },
    async upload(file, signal) {
      const { headers, body } = multipartBody(file, { type: 'input' });
      const request = {
        method: 'POST',
        path: '/upload/image',
        headers,
        body,
        signal,
        timeoutMs: 120_000,
      } as const;
      const stored = readAnswer(uploadedSchema, await askComfy(link, request, uploadLimits));
      return stored.subfolder === '' ? stored.name : `${stored.subfolder}/${stored.name}`;
    },
    download: (file, signal) => download(link, file, signal),
    async forget(promptId, signal) {
      expectSuccess(await askComfy(link, post('/history', { delete: [promptId] }, signal), small));
    },
    async freeMemory(signal) {
      const body = { unload_models: true, free_memory: true };
      expectSuccess(await askComfy(link, post('/free', body, signal), small));
    },
  };
  return client;
}

/** The last part of a queue item, which the history keeps. */
function readTargets(item: readonly unknown[] | undefined): string[] | null {
  const targets = item?.[4];
  return Array.isArray(targets) ? targets.map(String) : null;
}

function get(path: string, signal: AbortSignal | undefined): LinkRequest {
  return { method: 'GET', path, signal };
}

function post(path: string, body: unknown, signal: AbortSignal | undefined): LinkRequest {
  const headers = { 'content-type': 'application/json' };
  return { method: 'POST', path, headers, body: JSON.stringify(body), signal };
}

function expectSuccess(answer: Answer): void {
  const error = errorBehind(answer);
  if (error !== null) throw error;
}

type QueueItem = [number: number | null, promptId: string, ...rest: unknown[]];

function byPlaceInLine([a, idA]: QueueItem, [b, idB]: QueueItem): number {
  return (a ?? Infinity) - (b ?? Infinity) || (idA < idB ? -1 : 1);
}

/**
 * Before 0.26 there is no cancelling of one job. The interrupt goes out only while our prompt runs: ComfyUI before
 * 0.3.57 ignores the id and stops whatever runs.
 */
async function cancelByQueue(
  link: Link,
  client: ComfyClient,
  promptId: string,
  small: AnswerLimits,
  signal: AbortSignal | undefined,
): Promise<void> {
  expectSuccess(await askComfy(link, post('/queue', { delete: [promptId] }, signal), small));
  const { running } = await client.queue(signal);
  if (!running.includes(promptId)) return;
  expectSuccess(await askComfy(link, post('/interrupt', { prompt_id: promptId }, signal), small));
}

async function download(link: Link, file: ComfyFile, signal: AbortSignal | undefined): Promise<Download> {
  const request: LinkRequest = {
    method: 'GET',
    path: '/view',
    query: { filename: file.filename, subfolder: file.subfolder, type: file.type },
    signal,
    idleTimeoutMs: fileIdleMs,
  };
  let response;
  try {
    response = await link.request(request);
  } catch (error) {
    if (signal?.aborted === true) throw signal.reason;
    const cause = linkErrorFrom(error);
    throw new ComfyError('unavailable', cause.message, { cause });
  }
  const error = errorBehind({ status: response.statusCode, isPlaceholder: isPlaceholder(response) });
  if (error !== null) {
    response.body.on('error', () => undefined).destroy();
    throw error;
  }
  const length = response.headers['content-length'];
  return {
    stream: response.body,
    contentType: String(response.headers['content-type'] ?? 'application/octet-stream'),
    sizeBytes: length === undefined ? null : Number(length),
  };
}
