// Fetching a machine's log: vast.ai names an address where the log appears a little later.
import { setTimeout as delay } from 'node:timers/promises';
import { ProviderError } from '../instances/provider.ts';
import type { Transport } from './transport.ts';
import { NoAnswerError } from './transport.ts';

export interface LogSource {
  /** What is tried, for the error. */
  what: string;
  transport: Transport;
  /** vast.ai's own address; its host may be reached without TLS, as a double's is. */
  baseUrl: string;
  url: string;
  pollMs: number;
}

const FETCH_TIMEOUT_MS = 15_000;
const MAX_FETCHES = 40;

/**
 * The text at the address, fetched without our key, which the storage behind it must not see. Until the log is uploaded the storage
 * answers 403 or 404 (vast.ai's own client looks 30 times). Rejects with a `ProviderError` of kind `unavailable`.
 */
export async function fetchLog(source: LogSource, signal?: AbortSignal): Promise<string> {
  const url = new URL(source.url);
  if (url.protocol !== 'https:' && url.origin !== new URL(source.baseUrl).origin) {
    throw new ProviderError('unavailable', `${source.what}: vast.ai named an address that is not HTTPS`);
  }
  for (let fetches = 1; fetches <= MAX_FETCHES; fetches++) {
    const text = await tryFetch(source, url, signal);
    if (text !== null) return text;
    await pause(source, signal);
  }
  throw new ProviderError('unavailable', `${source.what}: the log did not appear`);
}

async function tryFetch(
  source: LogSource,
  url: URL,
  signal: AbortSignal | undefined,
): Promise<string | null> {
  try {
    const exchange = { method: 'GET', url, timeoutMs: FETCH_TIMEOUT_MS } as const;
    const answer = await source.transport.exchange(exchange, signal);
    if (answer.status === 200) return answer.text;
    if (answer.status === 403 || answer.status === 404) return null;
    throw new ProviderError('unavailable', `${source.what}: its storage answered ${answer.status}`);
  } catch (error) {
    if (!(error instanceof NoAnswerError)) throw error;
    throw new ProviderError('unavailable', `${source.what}: ${error.message}`, { cause: error });
  }
}

async function pause({ what, pollMs }: LogSource, signal: AbortSignal | undefined): Promise<void> {
  try {
    await delay(pollMs, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    throw new ProviderError('unavailable', `${what}: given up`, { cause: error });
  }
}
