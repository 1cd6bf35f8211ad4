// One request and its answer, with the statuses and content types that aiohttp gives.
import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { dumpPythonJson, parsePythonJson } from '../support/python.ts';

export interface Exchange {
  readonly request: IncomingMessage;
  /** Values of `{name}` parts of the route. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** The body; throws BodyTooLarge. */
  readBody(): Promise<Buffer>;
}

export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string | number>>;
  readonly body?: string | Buffer | Readable;
}

export class BodyTooLarge extends Error {}

export const jsonAnswer = (value: unknown, status = 200): Answer => ({
  status,
  headers: { 'Content-Type': 'application/json; charset=utf-8' },
  body: dumpPythonJson(value),
});

export const textAnswer = (status: number, body: string): Answer => ({
  status,
  headers: { 'Content-Type': 'text/plain; charset=utf-8' },
  body,
});

/** `web.Response(status=…)`: no body and no content type. */
export const emptyAnswer = (status = 200): Answer => ({ status });

/** What aiohttp says for any exception that a handler lets out. */
export const serverError = (): Answer =>
  textAnswer(500, '500 Internal Server Error\n\nServer got itself in trouble');

/** The static route answers what nothing else does: a GET with 404, anything else with 405. */
export const notFound = (method: string, allowed: readonly string[]): Answer =>
  method === 'GET' || method === 'HEAD'
    ? { status: 404, headers: { 'Content-Type': 'application/octet-stream' } }
    : {
        ...textAnswer(405, '405: Method Not Allowed'),
        headers: { 'Content-Type': 'text/plain; charset=utf-8', Allow: allowed.join(',') },
      };

/** `await request.json()`: throws where Python raises, also for an empty body. The content type does not matter. */
export async function readJson(exchange: Exchange): Promise<unknown> {
  return parsePythonJson((await exchange.readBody()).toString('utf8'));
}

export interface ReadLimits {
  maxBytes: number;
  bytesPerSecond: number | null;
}

export async function readBody(
  request: IncomingMessage,
  { maxBytes, bytesPerSecond }: ReadLimits,
): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw new BodyTooLarge();
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxBytes) throw new BodyTooLarge();
    chunks.push(chunk);
    if (bytesPerSecond !== null) await delay((chunk.length / bytesPerSecond) * 1000);
  }
  return Buffer.concat(chunks);
}

/** Sends an answer; a client that has gone is not an error. */
export async function sendAnswer(
  request: IncomingMessage,
  response: ServerResponse,
  answer: Answer,
): Promise<void> {
  const { status, headers = {}, body } = answer;
  response.setHeader('Server', 'Python/3.11 aiohttp/3.14.3');
  const isStream = body !== undefined && typeof body !== 'string' && !Buffer.isBuffer(body);
  const bodiless = status === 304 || request.method === 'HEAD';
  const size = body === undefined || isStream ? 0 : Buffer.byteLength(body);
  response.writeHead(status, {
    ...(isStream || status === 304 ? {} : { 'Content-Length': size }),
    ...Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, asHeader(value)])),
  });
  if (bodiless || body === undefined) {
    if (isStream) body.destroy();
    response.end();
  } else if (isStream) {
    await pipeline(body, response).catch(() => response.destroy());
  } else response.end(body);
}

/** In UTF-8, byte for byte, as aiohttp writes headers; Node takes one character for each byte. */
function asHeader(value: string | number): string {
  return Buffer.from(String(value), 'utf8').toString('latin1');
}
