// HTTP as a frugal client does it: kept connections, whole bodies, and a limit on every wait.
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { request } from 'undici';

const limitMs = 120_000;

type Method = 'GET' | 'POST';

export async function getJson<T>(url: string): Promise<T> {
  return call<T>('GET', url);
}

/** Rejects with the text of an answer that is not a success. */
export async function call<T>(
  method: Method,
  url: string,
  { json, headers = {} }: { json?: unknown; headers?: Record<string, string> } = {},
): Promise<T> {
  const answer = await send(method, url, { json, headers });
  return (await answer.body.json()) as T;
}

/** Where the bytes of an answer go. */
export interface Sink {
  path: string;
  /** Whether they must be on the disk, and not only on their way to it. */
  flush: boolean;
}

/** Saves a file, or reads its bytes and drops them. Resolves with their number. */
export async function download(url: string, sink: Sink | null): Promise<number> {
  const { body } = await send('GET', url, {});
  if (sink !== null) {
    const file = createWriteStream(sink.path, { flush: sink.flush });
    await pipeline(body, file);
    return file.bytesWritten;
  }
  let bytes = 0;
  body.on('data', (chunk: Buffer) => (bytes += chunk.length));
  await once(body, 'end');
  return bytes;
}

/** The text of an answer that goes on, piece by piece as it comes; leaving the loop ends the connection. */
export async function* follow(url: string): AsyncGenerator<string> {
  const { body } = await send('GET', url, { forever: true });
  body.setEncoding('utf8');
  for await (const text of body as AsyncIterable<string>) yield text;
}

interface SendOptions {
  json?: unknown;
  headers?: Record<string, string>;
  /** The answer may be silent as long as it likes. */
  forever?: boolean;
}

async function send(method: Method, url: string, { json, headers = {}, forever = false }: SendOptions) {
  const answer = await request(url, {
    method,
    headersTimeout: limitMs,
    bodyTimeout: forever ? 0 : limitMs,
    headers: json === undefined ? headers : { 'content-type': 'application/json', ...headers },
    ...(json === undefined ? {} : { body: JSON.stringify(json) }),
  });
  if (answer.statusCode < 300) return answer;
  throw new Error(`${method} ${url} answered ${answer.statusCode}: ${await answer.body.text()}`);
}
