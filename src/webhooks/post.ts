// One POST to a receiver that a caller named: within limits, on the public internet, and never further than its URL.
import { Client, type Dispatcher } from 'undici';
import { messageOf, ServiceError } from '../errors.ts';
import { storable } from '../jobs/json-value.ts';
import { deadlineIn } from '../support/deadline.ts';
import type { ResolveHost } from '../support/host-names.ts';
import { HostRefusedError, publicConnector } from '../support/public-connector.ts';
import { HOST_NOT_PUBLIC, parsePublicUrl } from '../support/public-url.ts';
import type { TryResult } from './delivery.ts';

export interface PostOptions {
  headers: Record<string, string>;
  body: string;
  /** Limit of the whole try, from the look-up of the host to the end of the answer. */
  timeoutMs: number;
  /** Hosts whose address may be private, as `host` or `host:port`. */
  allowedHosts: readonly string[];
  signal: AbortSignal;
  /** Finds the addresses of a host name; as `publicConnector` does unless told. */
  resolveHost?: ResolveHost;
}

/** What is kept of an answer, in characters, and what is read of it for that, in bytes. */
const KEPT_CHARACTERS = 500;
const READ_BYTES = 4 * KEPT_CHARACTERS;

/** Sends and says what came of it. Follows no redirect. Rejects with the reason of `signal`, and with nothing else. */
export async function post(url: string, options: PostOptions): Promise<TryResult> {
  const { allowedHosts, timeoutMs, resolveHost } = options;
  const deadline = deadlineIn(timeoutMs);
  const signal = AbortSignal.any([options.signal, deadline]);
  let client: Client | undefined;
  try {
    const target = parsePublicUrl(url, { allowedHosts, field: 'webhookUrl' });
    const connect = publicConnector(target, { allowedHosts, connectTimeoutMs: timeoutMs, resolveHost });
    // One client for one request: no connection is kept, so none can be used later without its check.
    client = new Client(target.origin, { connect, allowH2: false });
    const response = await client.request({
      method: 'POST',
      path: `${target.pathname}${target.search}`,
      headers: { ...fixedHeaders, ...options.headers },
      body: options.body,
      signal,
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
    });
    return await read(response);
  } catch (error) {
    options.signal.throwIfAborted();
    return { kind: 'unanswered', error: explain(error, deadline.aborted, timeoutMs) };
  } finally {
    client?.destroy().catch(() => undefined);
  }
}

const fixedHeaders = {
  'content-type': 'application/json',
  'accept-encoding': 'identity',
  'user-agent': 'comfyfleet',
};

/** The status decides; of the rest, only the beginning is wanted, as far as it comes. */
async function read({ statusCode, headers, body }: Dispatcher.ResponseData): Promise<TryResult> {
  const retryAfter = [headers['retry-after']].flat()[0] ?? null;
  return { kind: 'answered', statusCode, retryAfter, answer: await beginningOf(body) };
}

async function beginningOf(body: Dispatcher.ResponseData['body']): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of body) {
      chunks.push(Buffer.from(chunk));
      bytes += chunks.at(-1)?.length ?? 0;
      if (bytes >= READ_BYTES) break;
    }
  } catch {
    // Cut off or too slow: what has come is kept.
  }
  return storable(Buffer.concat(chunks).toString('utf8').slice(0, KEPT_CHARACTERS));
}

function explain(error: unknown, isLate: boolean, timeoutMs: number): string {
  if (isLate) return `The receiver did not answer within ${timeoutMs / 1000} s.`;
  if (error instanceof ServiceError) return messageOf(error);
  if (error instanceof HostRefusedError) return HOST_NOT_PUBLIC;
  const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : '';
  return `The receiver could not be reached or broke off${code}.`;
}
