// A file is exactly as long as was announced, or its reader is told that it is not.
import { pipeline, Transform, type Readable } from 'node:stream';
import { ServiceError } from '../errors.ts';

/**
 * The bytes of `source`, `length` of them. Fails rather than pass on more, which would be read as the next answer of a kept connection,
 * or end with fewer, for which a reader would wait.
 */
export function exactLength(source: Readable, length: number): Readable {
  let leftBytes = length;
  const exact = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      leftBytes -= chunk.length;
      if (leftBytes < 0) done(wrongLength(length));
      else done(null, chunk);
    },
    flush(done) {
      done(leftBytes === 0 ? null : wrongLength(length));
    },
  });
  // Whoever reads gets the error.
  pipeline(source, exact, () => undefined);
  return exact;
}

function wrongLength(length: number): ServiceError {
  return new ServiceError(
    'storage_unavailable',
    `The storage for files gave more or fewer than the ${length} bytes that it should have. Try again, or upload the file again.`,
  );
}
