// Fetches a file from a URL that a caller wrote, without letting the caller reach into our own network.
import type { Readable } from 'node:stream';
import { parse as parseDisposition } from 'content-disposition';
import { Client, type Dispatcher } from 'undici';
import { ServiceError } from '../errors.ts';
import { deadlineIn } from './deadline.ts';
import { guardStream, type StreamFailure } from './guarded-stream.ts';
import type { ResolveHost } from './host-names.ts';
import { HostRefusedError, publicConnector } from './public-connector.ts';
import { HOST_NOT_PUBLIC, parsePublicUrl } from './public-url.ts';

export interface PublicFetchOptions {
  /** Largest file that is accepted. */
  maxBytes: number;
  /** Limit of the whole retrieval, from the first look-up to the last byte. */
  timeoutMs: number;
  /** Limit of every wait for a connection, for headers and for the next bytes; 30 s unless told. */
  stallMs?: number;
  maxRedirects?: number;
  /** Hosts whose address may be private, as `host` or `host:port`. */
  allowedHosts: readonly string[];
  /** What the caller's field is called in errors. */
  field?: string;
  signal?: AbortSignal | undefined;
  /** Finds the addresses of a host name; as `publicConnector` does unless told. */
  resolveHost?: ResolveHost;
}

export interface PublicFile {
  /** Fails with a `ServiceError` when a limit is passed or the sender breaks off. */
  stream: Readable;
  /** As claimed by the sender. */
  contentType: string | null;
  /** As the sender names it, else the last part of the URL; not checked. */
  fileName: string | null;
  /** As announced; null where it was not. */
  sizeBytes: number | null;
}

/** What one fetch carries from hop to hop. */
interface Retrieval extends Required<Omit<PublicFetchOptions, 'signal' | 'resolveHost'>> {
  resolveHost: ResolveHost | undefined;
  callerSignal: AbortSignal | undefined;
  deadline: AbortSignal;
  /** Either of the two. */
  signal: AbortSignal;
}

interface Answer {
  url: URL;
  status: number;
  headers: Dispatcher.ResponseData['headers'];
  body: Readable;
  /** Drops the connection. */
  close: () => void;
}

const userAgent = 'comfyfleet';
const redirectStatuses = new Set([301, 302, 303, 307, 308]);

/**
 * Opens a public file. Connections go only to addresses of the public internet, checked at the moment of connecting, on every hop.
 * Rejects with a `ServiceError` of code `invalid_input` that tells nothing about our network, or with the reason of `signal`.
 */
export async function fetchPublic(url: string, options: PublicFetchOptions): Promise<PublicFile> {
  const retrieval = begin(options);
  let target = checkedUrl(url, null, retrieval);
  for (let redirects = 0; redirects <= retrieval.maxRedirects; redirects += 1) {
    const answer = await ask(target, retrieval);
    const location = redirectLocation(answer);
    if (location === null) return accept(answer, retrieval);
    answer.close();
    target = checkedUrl(location, target, retrieval);
  }
  throw refusal(retrieval, `The URL redirects more than ${retrieval.maxRedirects} times.`);
}

function begin({ signal: callerSignal, ...options }: PublicFetchOptions): Retrieval {
  const deadline = deadlineIn(options.timeoutMs);
  return {
    maxRedirects: 5,
    stallMs: 30_000,
    field: 'url',
    resolveHost: undefined,
    ...options,
    callerSignal,
    deadline,
    signal: callerSignal === undefined ? deadline : AbortSignal.any([callerSignal, deadline]),
  };
}

/** The URL of the next hop. */
function checkedUrl(text: string, from: URL | null, { allowedHosts, field }: Retrieval): URL {
  const url = parsePublicUrl(text, { allowedHosts, field, base: from?.href });
  if (from?.protocol === 'https:' && url.protocol === 'http:') {
    throw new ServiceError('invalid_input', 'The URL redirects from https to http.', { field });
  }
  return url;
}

async function ask(url: URL, retrieval: Retrieval): Promise<Answer> {
  // One client for one request: no connection is kept, so none can be used later without its check.
  const { allowedHosts, stallMs, resolveHost } = retrieval;
  const connect = publicConnector(url, { allowedHosts, connectTimeoutMs: stallMs, resolveHost });
  const client = new Client(url.origin, { connect, allowH2: false });
  const close = (): void => {
    client.destroy().catch(() => {});
  };
  try {
    const { statusCode, headers, body } = await client.request({
      method: 'GET',
      path: `${url.pathname}${url.search}`,
      headers: { accept: '*/*', 'accept-encoding': 'identity', 'user-agent': userAgent },
      signal: retrieval.signal,
      headersTimeout: retrieval.stallMs,
      // The guard of the stream has this limit.
      bodyTimeout: 0,
    });
    body.on('error', () => {});
    return { url, status: statusCode, headers, body, close };
  } catch (error) {
    close();
    throw explain(error, retrieval);
  }
}

function redirectLocation({ status, headers }: Answer): string | null {
  if (!redirectStatuses.has(status)) return null;
  return headerText(headers.location);
}

function accept(answer: Answer, retrieval: Retrieval): PublicFile {
  const problem = problemOf(answer, retrieval);
  if (problem !== null) {
    answer.close();
    throw refusal(retrieval, problem);
  }
  const stream = guardStream(answer.body, {
    maxBytes: retrieval.maxBytes,
    stallMs: retrieval.stallMs,
    failure: (kind, cause) => explainFailure(kind, cause, retrieval),
  });
  stream.once('close', answer.close);
  return {
    stream,
    contentType: headerText(answer.headers['content-type']),
    fileName: fileNameOf(answer),
    sizeBytes: announcedBytes(answer),
  };
}

function problemOf(answer: Answer, retrieval: Retrieval): string | null {
  if (answer.status !== 200) return `The URL answered with status ${answer.status}.`;
  const encoding = headerText(answer.headers['content-encoding']);
  if (encoding !== null && encoding.toLowerCase() !== 'identity') {
    return 'The URL answered with a compressed body although none was asked for.';
  }
  return (announcedBytes(answer) ?? 0) > retrieval.maxBytes ? tooLarge(retrieval) : null;
}

function announcedBytes({ headers }: Answer): number | null {
  const text = headerText(headers['content-length']);
  return text === null ? null : Number(text);
}

function fileNameOf({ headers, url }: Answer): string | null {
  const disposition = headerText(headers['content-disposition']);
  const named = disposition === null ? undefined : parseDisposition(disposition).parameters.filename;
  if (named !== undefined && named !== '') return named;
  const last = url.pathname.slice(url.pathname.lastIndexOf('/') + 1);
  try {
    return last === '' ? null : decodeURIComponent(last);
  } catch {
    return last;
  }
}

function headerText(value: string | string[] | undefined): string | null {
  return (Array.isArray(value) ? value[0] : value) ?? null;
}

function explainFailure(kind: StreamFailure, cause: unknown, retrieval: Retrieval): unknown {
  if (kind === 'too_large') return refusal(retrieval, tooLarge(retrieval));
  if (kind === 'stalled') {
    return refusal(retrieval, `The URL sent nothing for ${retrieval.stallMs / 1000} s.`);
  }
  return explain(cause, retrieval);
}

/** What the caller is told of a failure; the cause goes to the log only. */
function explain(cause: unknown, retrieval: Retrieval): unknown {
  if (retrieval.callerSignal?.aborted === true) return retrieval.callerSignal.reason;
  if (retrieval.deadline.aborted) {
    return refusal(retrieval, `The file did not arrive within ${retrieval.timeoutMs / 1000} s.`, cause);
  }
  if (cause instanceof HostRefusedError) {
    return refusal(retrieval, HOST_NOT_PUBLIC, cause);
  }
  return refusal(retrieval, 'The host of the URL could not be reached or broke off.', cause);
}

function tooLarge({ maxBytes }: Retrieval): string {
  return `The file behind the URL is larger than ${maxBytes} bytes.`;
}

function refusal(retrieval: Retrieval, detail: string, cause?: unknown): ServiceError {
  return new ServiceError('invalid_input', detail, { field: retrieval.field, cause });
}
