// The way to one S3-compatible bucket: the library's client, limits of time, and what errors mean.
import type * as Sdk from '@aws-sdk/client-s3';
import { messageOf, ServiceError } from '../errors.ts';

export interface S3Settings {
  /** Absent for Amazon's own, by its region. */
  endpoint: string | undefined;
  bucket: string;
  region: string;
  /** Absent where the surroundings give them, as on a machine with a role. */
  credentials: { accessKeyId: string; secretAccessKey: string } | undefined;
  forcePathStyle: boolean;
  /** Connections for reads, and as many for everything else; 500 unless told. */
  maxConnections?: number;
}

export interface Bucket {
  sdk: typeof Sdk;
  name: string;
  client: Sdk.S3Client;
  /** For the bytes of files, with connections of its own: slow readers hold one each, and must leave some for everything else. */
  readingClient: Sdk.S3Client;
}

const CONNECT_TIMEOUT_MS = 5000;
/** A connection on which nothing moves for so long is given up; a reader who pauses longer has to ask again. */
const STALL_MS = 120_000;
/** For every answer, up to its head; the bytes of a file may take longer. */
const ANSWER_TIMEOUT_MS = 60_000;

const ignore = (): void => undefined;
const silent = { debug: ignore, info: ignore, warn: ignore, error: ignore };

/** Loads the library only here, so that whoever stores files on the disk does without it. */
export async function openBucket(settings: S3Settings): Promise<Bucket> {
  const sdk = await import('@aws-sdk/client-s3');
  const { bucket: name } = settings;
  return { sdk, name, client: openClient(sdk, settings), readingClient: openClient(sdk, settings) };
}

function openClient(
  sdk: typeof Sdk,
  { region, forcePathStyle, endpoint, credentials, maxConnections = 500 }: S3Settings,
): Sdk.S3Client {
  const agent = { keepAlive: true, maxSockets: maxConnections };
  return new sdk.S3Client({
    region,
    forcePathStyle,
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(credentials === undefined ? {} : { credentials }),
    // What the library would add by itself is understood by Amazon's servers, but not by all others.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // It would write to the console what is told by the errors anyway.
    logger: silent,
    requestHandler: {
      connectionTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: STALL_MS,
      httpAgent: agent,
      httpsAgent: agent,
    },
  });
}

/** What `ask` brings, in time. */
export async function answerOf<T>(
  ask: (abortSignal: AbortSignal) => Promise<T>,
  timeoutMs = ANSWER_TIMEOUT_MS,
): Promise<T> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error(`No answer within ${timeoutMs / 1000} s`)), timeoutMs);
  try {
    return await ask(late.signal);
  } finally {
    clearTimeout(timer);
  }
}

/** Does `work`, and turns what the storage has against it into `storage_full` or `storage_unavailable`. */
export async function explaining<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof ServiceError ? error : explain(error);
  }
}

/** Whether another try may do better: nobody answered, or the storage says that it is its own fault. */
export function mayPass(error: unknown): boolean {
  const status = statusOf(error);
  if (isFull(error)) return false;
  if (status === null || status >= 500 || status === 429 || status === 408) return true;
  // The library sets its clock by such an answer.
  return /TimeTooSkewed|RequestTimeout/.test(nameOf(error));
}

/** The HTTP status of an answer that the library made an error of; null when there was no answer. */
export function statusOf(error: unknown): number | null {
  const status: unknown = Object(Object(error).$metadata).httpStatusCode;
  return typeof status === 'number' ? status : null;
}

function explain(error: unknown): ServiceError {
  // Without what the library hangs on its errors, the whole request among it.
  const cause = new Error(`${nameOf(error)} (${statusOf(error) ?? 'no answer'}): ${messageOf(error)}`);
  if (isFull(error)) {
    return new ServiceError('storage_full', 'The storage for files is full. Try again later.', { cause });
  }
  const detail = 'The storage for files does not answer as it should. Try again in a minute.';
  return new ServiceError('storage_unavailable', detail, { cause, extra: { retryAfterSeconds: 60 } });
}

/** Each server has a word of its own for it. */
function isFull(error: unknown): boolean {
  return statusOf(error) === 507 || /StorageFull|QuotaExceeded|InsufficientStorage/.test(nameOf(error));
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : 'Error';
}
