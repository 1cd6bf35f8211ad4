// A file is exactly as long as was announced, or its reader is told that it is not.
import { finished, pipeline, Transform, type Readable } from 'node:stream';
import { ServiceError } from '../errors.ts';

/**
 * The bytes of `source`, `length` of them. Fails rather than pass on more, which would be read as the next answer of a kept connection,
 * or end with fewer, for which a reader would wait. Whatever is wrong with the source, the failure is `storage_unavailable`: a reader
 * who passes the bytes on can tell it from what went wrong there.
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
  // Before the pipeline, which would pass on the error as it is.
  finished(source, { writable: false }, (error) => {
    if (error) exact.destroy(brokenOff(error));
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

function brokenOff(cause: Error): ServiceError {
  const detail = 'The storage for files broke off in the middle of a file. Try again in a minute.';
  return new ServiceError('storage_unavailable', detail, { cause });
}
