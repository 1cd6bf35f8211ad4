// A server that plays an S3-compatible store: one bucket, files on disk, parts, ranges, and faults that a test asks for.
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeServer, listen } from '../ports/listen.ts';
import { createBucket, type PendingUpload } from './bucket.ts';
import { operationOf, sendError, type Operation } from './protocol.ts';

/** What the next request of an operation meets. */
export type Fault =
  /** An answer that may be better the next time. */
  | 'unavailable'
  /** The server has no room. */
  | 'full'
  /** It is not for this key. */
  | 'denied'
  /** The connection breaks before an answer. */
  | 'reset'
  /** The bytes arrive in part, and then the connection breaks. */
  | 'cut'
  /** The whole file comes, whatever range was asked for. */
  | 'whole';

export interface S3Double {
  readonly url: string;
  readonly bucket: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Requests that have come, by operation. */
  readonly counts: Partial<Record<Operation, number>>;
  /** The keys of all files that are whole. */
  keys(): string[];
  /** Uploads in parts that are neither complete nor aborted. `initiated` may be set. */
  pendingUploads(): PendingUpload[];
  /** Lets the next requests of an operation fail, one for each fault. */
  fail(operation: Operation, ...faults: Fault[]): void;
  stop(): Promise<void>;
}

export interface S3DoubleOptions {
  /** The smallest part that may be followed by another; 5 MiB on Amazon's. */
  minPartBytes?: number;
}

const credentials = { accessKeyId: 'double-access-key', secretAccessKey: 'double-secret-key-0123456789' };
const bucketName = 'double';

/** Starts on loopback, on a free port. It answers path-style requests that name its access key; signatures are not checked. */
export async function startS3Double({ minPartBytes = 5_242_880 }: S3DoubleOptions = {}): Promise<S3Double> {
  const dir = await mkdtemp(join(tmpdir(), 's3-double-'));
  const bucket = createBucket(dir, bucketName, minPartBytes);
  const counts: Partial<Record<Operation, number>> = {};
  const faults = new Map<Operation, Fault[]>();

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const call = operationOf(request, bucketName);
    if (call === null) return sendError(response, 501, 'NotImplemented');
    counts[call.operation] = (counts[call.operation] ?? 0) + 1;
    const fault = faults.get(call.operation)?.shift();
    const isKnown = request.headers.authorization?.includes(`Credential=${credentials.accessKeyId}/`);
    if (fault === 'reset') return void request.socket.destroy();
    if (fault === 'cut') return cut(request, response);
    if (fault === 'denied' || isKnown !== true) return sendError(response, 403, 'AccessDenied');
    if (fault === 'unavailable') return sendError(response, 503, 'SlowDown');
    if (fault === 'full') return sendError(response, 507, 'XMinioStorageFull');
    if (fault === 'whole') delete request.headers.range;
    // Extensions of Amazon's own that not every server understands.
    if (String(request.headers['x-amz-content-sha256']).startsWith('STREAMING-')) {
      return sendError(response, 501, 'NotImplemented');
    }
    await bucket.answer(call, request, response);
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      if (response.headersSent || request.destroyed) response.destroy();
      else sendError(response, 500, 'InternalError', String(error));
    });
  });
  const port = await listen(server, 0, '127.0.0.1');

  return {
    url: `http://127.0.0.1:${port}`,
    bucket: bucketName,
    ...credentials,
    counts,
    keys: () => bucket.keys(),
    pendingUploads: () => bucket.pendingUploads(),
    fail(operation, ...more) {
      faults.set(operation, [...(faults.get(operation) ?? []), ...more]);
    },
    async stop() {
      server.closeAllConnections();
      await closeServer(server);
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** A few bytes in the direction in which the file goes, and no more. */
async function cut(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method === 'GET') {
    response.writeHead(200, { 'content-length': 1000 }).write('some bytes', () => request.socket.destroy());
    return;
  }
  request.once('data', () => request.socket.destroy());
}
