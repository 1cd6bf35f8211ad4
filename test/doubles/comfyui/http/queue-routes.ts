// The queue, the interrupt and the history.
import { takeOne } from '../knobs.ts';
import { nodeError } from '../nodes/definition.ts';
import type { ComfyProcess } from '../process.ts';
import type { HistoryEntry, QueueItem } from '../support/model.ts';
import { isObject, isTruthy, pyFloat } from '../support/python.ts';
import { emptyAnswer, jsonAnswer, readJson, type Answer, type Exchange } from './exchange.ts';
import type { Route } from './router.ts';

const SECRETS = new Set(['auth_token_comfy_org', 'api_key_comfy_org']);

export const queueRoutes = (server: ComfyProcess): Route[] => [
  {
    method: 'GET',
    path: '/queue',
    handle: () =>
      jsonAnswer({
        queue_running: server.queue.running.map((item) => tuple(item)),
        queue_pending: server.queue.pending.map((item) => tuple(item)),
      }),
  },
  { method: 'POST', path: '/queue', handle: (exchange) => changeQueue(exchange, server) },
  { method: 'POST', path: '/interrupt', handle: (exchange) => interrupt(exchange, server) },
  { method: 'POST', path: '/free', handle: (exchange) => free(exchange, server) },
  { method: 'GET', path: '/history', handle: ({ query }) => jsonAnswer(listHistory(query, server)) },
  {
    method: 'GET',
    path: '/history/{id}',
    handle: ({ params }) => {
      const entry = server.queue.history.get(params['id'] ?? '');
      return jsonAnswer(entry === undefined ? {} : { [params['id'] ?? '']: showEntry(entry) });
    },
  },
  { method: 'POST', path: '/history', handle: (exchange) => changeHistory(exchange, server) },
];

/** The five elements of a queue item; secrets of 0.3.64 stay in the queue and are left out of the history. */
function tuple(item: QueueItem, hidesSecrets = false): unknown[] {
  const { number, numberIsFloat, promptId, graph, extraData, outputs } = item;
  const shown =
    hidesSecrets && extraData !== null
      ? Object.fromEntries(Object.entries(extraData).filter(([key]) => !SECRETS.has(key)))
      : extraData;
  return [numberIsFloat ? pyFloat(number) : number, promptId, graph, shown, outputs];
}

/** Interrupts what runs if it is that prompt, or whatever runs when none is named; says nothing of the effect. */
export function requestInterrupt(server: ComfyProcess): void {
  server.counters.interruptsReceived += 1;
  if (!takeOne(server.knobs, 'loseInterrupts')) server.interrupt.isSet = true;
}

async function changeQueue(exchange: Exchange, { queue }: ComfyProcess): Promise<Answer> {
  const body = await readObject(exchange);
  if (isTruthy(body['clear'])) queue.clear();
  for (const id of idsOf(body['delete'])) queue.remove((item) => item.promptId === id);
  return emptyAnswer();
}

async function interrupt(exchange: Exchange, server: ComfyProcess): Promise<Answer> {
  const body = await readJson(exchange).catch((error: unknown) => {
    if (error instanceof SyntaxError) return {};
    throw error;
  });
  if (!isObject(body)) throw nodeError('AttributeError', "'list' object has no attribute 'get'");
  const id = body['prompt_id'];
  const isRunning = server.queue.running.some(({ promptId }) => promptId === id);
  if (!isTruthy(id) || isRunning) requestInterrupt(server);
  return emptyAnswer();
}

async function free(exchange: Exchange, server: ComfyProcess): Promise<Answer> {
  const body = await readObject(exchange);
  if (isTruthy(body['free_memory'])) server.free.memory = true;
  server.queue.wake();
  return emptyAnswer();
}

/** Oldest first; without an offset, `max_items` are the newest. */
function listHistory(query: URLSearchParams, { queue }: ComfyProcess): Map<string, unknown> {
  const maxItems = integerOf(query.get('max_items'));
  const size = queue.history.size;
  const given = integerOf(query.get('offset')) ?? -1;
  const offset = given < 0 && maxItems !== undefined ? size - maxItems : given;
  const shown = [...queue.history].filter((_, index) => index >= offset).slice(0, maxItems);
  return new Map(shown.map(([id, entry]) => [id, showEntry(entry)]));
}

async function changeHistory(exchange: Exchange, { queue }: ComfyProcess): Promise<Answer> {
  const body = await readObject(exchange);
  if (isTruthy(body['clear'])) queue.history.clear();
  for (const id of idsOf(body['delete'])) queue.history.delete(id);
  return emptyAnswer();
}

const showEntry = ({ item, outputs, status, meta }: HistoryEntry): object => ({
  prompt: tuple(item, true),
  outputs,
  status,
  meta,
});

async function readObject(exchange: Exchange): Promise<Record<string, unknown>> {
  const body = await readJson(exchange);
  if (isObject(body)) return body;
  if (Array.isArray(body) || typeof body === 'string') return {};
  throw nodeError('TypeError', 'argument is not iterable');
}

function idsOf(value: unknown): string[] {
  if (value === undefined) return [];
  if (Array.isArray(value)) return value.filter((id) => typeof id === 'string');
  throw nodeError('TypeError', 'object is not iterable');
}

function integerOf(text: string | null): number | undefined {
  if (text === null) return undefined;
  if (!/^\s*[+-]?\d+\s*$/u.test(text)) throw nodeError('ValueError', 'invalid literal for int()');
  return Number(text);
}
