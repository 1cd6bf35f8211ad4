// One HTTP exchange with vast.ai: bounded in time and size, never redirected, never repeated.
import { Agent, request } from 'undici';
import { messageOf } from '../errors.ts';
import { deadlineIn } from '../support/deadline.ts';

interface Exchange {
  method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  url: URL;
  headers?: Record<string, string>;
  /** Sent as JSON. */
  body?: unknown;
  timeoutMs: number;
}

export interface Answer {
  status: number;
  text: string;
  /** The parsed body; undefined when it is not JSON. */
  json: unknown;
  /** From the Retry-After header, which vast.ai does not send today. */
  retryAfterMs: number | null;
}

/** No usable answer. `sent` is false only when the request certainly did not leave. */
export class NoAnswerError extends Error {
  readonly sent: boolean;

  constructor(message: string, sent: boolean, cause: unknown) {
    super(message, { cause });
    this.name = 'NoAnswerError';
    this.sent = sent;
  }
}

export interface Transport {
  /** Resolves with whatever status came; rejects with a `NoAnswerError`. */
  exchange(exchange: Exchange, signal?: AbortSignal): Promise<Answer>;
  close(): Promise<void>;
}

const MAX_ANSWER_BYTES = 8 * 1024 * 1024;
const CONNECT_TIMEOUT_MS = 10_000;

export function createTransport(): Transport {
  // undici follows no redirect unless told to: a redirected call would lose its credentials or carry them elsewhere.
  const agent = new Agent({
    connect: { timeout: CONNECT_TIMEOUT_MS },
    maxResponseSize: MAX_ANSWER_BYTES,
    connections: 16,
  });
  return {
    exchange: (exchange, signal) => send(agent, exchange, signal),
    close: () => agent.destroy(),
  };
}

async function send(agent: Agent, exchange: Exchange, signal: AbortSignal | undefined): Promise<Answer> {
  const isGivenUp = () => signal?.aborted === true;
  if (isGivenUp()) throw new NoAnswerError('given up before it was sent', false, signal?.reason);
  const timeout = deadlineIn(exchange.timeoutMs);
  try {
    const response = await request(exchange.url, {
      dispatcher: agent,
      method: exchange.method,
      headers: { accept: 'application/json', 'content-type': 'application/json', ...exchange.headers },
      body: exchange.body === undefined ? null : JSON.stringify(exchange.body),
      signal: signal === undefined ? timeout : AbortSignal.any([timeout, signal]),
    });
    const text = await response.body.text();
    return {
      status: response.statusCode,
      text,
      json: parsed(text),
      retryAfterMs: secondsIn(response.headers['retry-after']),
    };
  } catch (error) {
    if (isGivenUp()) throw new NoAnswerError('given up while it was under way', true, error);
    const text = timeout.aborted ? `no answer within ${exchange.timeoutMs} ms` : messageOf(error);
    throw new NoAnswerError(text, !neverLeft(error), error);
  }
}

/** Whether the connection was never made, so that nothing can have been sent. */
function neverLeft(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.length > 0 && error.errors.every(neverLeft);
  if (!(error instanceof Error)) return false;
  if ('code' in error && error.code === 'UND_ERR_CONNECT_TIMEOUT') return true;
  return 'syscall' in error && (error.syscall === 'connect' || error.syscall === 'getaddrinfo');
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function secondsIn(header: string | string[] | undefined): number | null {
  const seconds = typeof header === 'string' ? Number(header) : Number.NaN;
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : null;
}
