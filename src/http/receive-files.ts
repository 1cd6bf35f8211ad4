// Bodies that hold files: stored as they come, which may take long.
import type { Readable } from 'node:stream';
import type { FastifyRequest } from 'fastify';
import { ServiceError } from '../errors.ts';
import { guardStream, type StreamFailure } from '../support/guarded-stream.ts';

/** Of one form. */
export const MOST_FILES = 20;
export const MOST_FIELDS = 50;

/** An upload that sends nothing for so long is given up. */
const STALL_MS = 60_000;

/** Does `work`, which reads the body of the request through `guardUpload` and stores what it holds. */
export async function receiveFiles<T>({ raw }: FastifyRequest, work: () => Promise<T>): Promise<T> {
  const { socket } = raw;
  const { timeout = 0 } = socket;
  // All of it has come, and the connection is silent, while a slow storage still takes it. Until then the guard watches the client.
  socket.setTimeout(0);
  try {
    return await work();
  } catch (error) {
    // The client is still sending; it reads the answer only if somebody takes the rest.
    raw.unpipe();
    raw.resume();
    throw error;
  } finally {
    socket.setTimeout(timeout);
  }
}

/** The body, or a file of a form, as long as its sender keeps sending. */
export function guardUpload(source: Readable): Readable {
  return guardStream(source, { stallMs: STALL_MS, failure: uploadFailure });
}

function uploadFailure(kind: StreamFailure, cause: unknown): ServiceError {
  const detail =
    kind === 'stalled'
      ? `The upload sent nothing for ${STALL_MS / 1000} s.`
      : 'The upload broke off before it was complete.';
  return new ServiceError('invalid_request', detail, { cause });
}
