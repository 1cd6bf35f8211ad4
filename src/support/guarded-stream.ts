// A stream from somebody we do not trust, passed on within limits and with errors that a caller may see.
import { finished, Transform, type Readable } from 'node:stream';

export type StreamFailure =
  /** It grew beyond `maxBytes`. */
  | 'too_large'
  /** No byte came for `stallMs`, although there was room for it. */
  | 'stalled'
  /** The source failed, or ended before it was complete. */
  | 'broken';

export interface StreamGuard {
  maxBytes?: number;
  stallMs: number;
  /** What the reader gets to see for a failure. */
  failure: (kind: StreamFailure, cause?: unknown) => unknown;
}

/**
 * The bytes of `source` as long as they keep to the limits, with backpressure. A failure of the guarded stream leaves `source`
 * paused and alive: whoever owns it decides whether to drain or to destroy it.
 */
export function guardStream(
  source: Readable,
  { maxBytes = Infinity, stallMs, failure }: StreamGuard,
): Readable {
  let receivedBytes = 0;
  const fail = (kind: StreamFailure, cause?: unknown): void => {
    guarded.destroy(toError(failure(kind, cause)));
  };
  const stall = setTimeout(() => {
    // Held back by whoever reads, which is not its fault.
    if (guarded.writableNeedDrain) stall.refresh();
    else fail('stalled');
  }, stallMs);
  const guarded = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      stall.refresh();
      receivedBytes += chunk.length;
      if (receivedBytes > maxBytes) done(toError(failure('too_large')));
      else done(null, chunk);
    },
    flush(done) {
      clearTimeout(stall);
      done();
    },
    destroy(error, done) {
      clearTimeout(stall);
      done(error);
    },
  });
  // A failure before anybody reads must not end the process; a later reader still gets it.
  guarded.on('error', () => {});
  finished(source, { writable: false }, (error) => {
    if (error != null) fail('broken', error);
  });
  return source.pipe(guarded);
}

function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error('The stream was aborted.', { cause: thrown });
}
