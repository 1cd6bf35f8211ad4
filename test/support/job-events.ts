// Reads the events of a job as a browser would.
import { Ajv2020 } from 'ajv/dist/2020.js';
import { expect } from 'vitest';

export interface SentEvent {
  id: number | null;
  type: string;
  data: Record<string, unknown>;
}

export interface EventReader {
  /** What the connection was told to wait before it comes back, in milliseconds; the newest word. */
  readonly retryMs: number | null;
  next(): Promise<SentEvent | null>;
  /** The next one of a type; those before it are passed over. */
  nextOf(type: string): Promise<SentEvent>;
  rest(): Promise<SentEvent[]>;
}

/**
 * Opens the stream at `url`, after the event `lastId` where it is given. Without one it begins with a snapshot, made after the answer
 * has begun: only what happens once that was read is sure to come as events of its own.
 */
export async function openEvents(
  url: string,
  lastId?: number | null,
  signal?: AbortSignal,
): Promise<EventReader> {
  const headers: Record<string, string> = lastId == null ? {} : { 'last-event-id': String(lastId) };
  const answer = await fetch(url, { headers, ...(signal === undefined ? {} : { signal }) });
  expect(answer.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  let retryMs: number | null = null;
  const events = readEvents(answer, (ms) => (retryMs = ms));
  const next = async () => (await events.next()).value ?? null;
  return {
    get retryMs() {
      return retryMs;
    },
    next,
    async nextOf(type) {
      for (;;) {
        const event = await next();
        if (event === null) throw new Error(`The stream ended without a ${type}`);
        if (event.type === type) return event;
      }
    },
    async rest() {
      const rest: SentEvent[] = [];
      for await (const event of events) rest.push(event);
      return rest;
    },
  };
}

/** Reads the OpenAPI document of the service at `url`, and says of an event what is not as it is described there; null where all is. */
export async function openJudge(url: string): Promise<(event: SentEvent) => string | null> {
  const ajv = new Ajv2020({ strict: false, validateFormats: false });
  ajv.addSchema(Object(await (await fetch(`${url}/openapi.json`)).json()), 'api');
  const isDocumented = ajv.compile({ $ref: 'api#/components/schemas/JobEvent' });
  return ({ id, type: event, data }) => {
    const isFine = isDocumented({ event, data, ...(id === null ? {} : { id: String(id) }) });
    return isFine ? null : `${JSON.stringify({ event, data })}: ${ajv.errorsText(isDocumented.errors)}`;
  };
}

async function* readEvents(
  answer: Response,
  noteRetry: (ms: number) => void,
): AsyncGenerator<SentEvent, undefined> {
  let text = '';
  const decoder = new TextDecoder();
  for await (const chunk of answer.body ?? []) {
    text += decoder.decode(chunk as Uint8Array, { stream: true });
    const frames = text.split('\n\n');
    text = frames.pop() ?? '';
    for (const frame of frames) {
      const fields = new Map(
        frame.split('\n').map((line) => [line.split(':', 1)[0], line.slice(line.indexOf(': ') + 2)]),
      );
      const retry = fields.get('retry');
      if (retry !== undefined) noteRetry(Number(retry));
      const data = fields.get('data');
      if (data === undefined) continue;
      const id = fields.get('id');
      yield {
        id: id === undefined ? null : Number(id),
        type: fields.get('event') ?? '',
        data: JSON.parse(data) as Record<string, unknown>,
      };
    }
  }
}
