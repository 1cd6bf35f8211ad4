// Files on their way into a store: written to the local disk, measured and hashed in one pass, under names that nobody reads.
import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rm, stat, writeFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { IHasher } from 'hash-wasm';
import { hasErrorCode, ServiceError } from '../errors.ts';
import { createHasherPool, type HasherPool } from './content-hash.ts';
import { headBytes, type ReceivedFile, type ReceiveOptions } from './store.ts';

export interface TemporaryFile extends Omit<ReceivedFile, 'publish'> {
  path: string;
}

export interface TemporaryFiles {
  /** Writes a file, lends it to `use`, and removes it unless that moved it away. Rejects like `AssetStore.receive`. */
  receive<T>(stream: Readable, options: ReceiveOptions, use: (file: TemporaryFile) => Promise<T>): Promise<T>;
  /** Rejects when files could not be written now. */
  check(): Promise<void>;
  /** Removes what a killed process left; files that somebody may still be writing stay. Rejects where something stays that should not. */
  tidy(): Promise<void>;
}

/** A file that was not written to for so long belongs to a process that is gone: uploads that stall are cut off long before. */
const ABANDONED_AFTER_MS = 86_400_000;
const TIDY_EVERY_MS = 3_600_000;
const FLUSH_BYTES = 2_000_000;

/** Temporary files in the folder `dir`, which is made when it is first needed. Every process looks after its own disk. */
export function createTemporaryFiles({ dir }: { dir: string }): TemporaryFiles {
  const hashers = createHasherPool();
  const tidy = atMostEvery(TIDY_EVERY_MS, () => removeAbandoned(dir));
  // Each time, since somebody may have removed the folder.
  const makeDir = () => mkdir(dir, { recursive: true });
  const prepare = async (): Promise<void> => {
    await onDisk(makeDir);
    // What cannot be removed is in nobody's way, and told by whoever tidies up.
    await tidy().catch(() => undefined);
  };

  return {
    async receive(stream, { maxBytes, signal }, use) {
      const path = join(dir, randomUUID());
      let writing: Promise<Omit<TemporaryFile, 'path'>> | undefined;
      try {
        // The pipeline listens to the stream from the first moment: an error while the folder is made must not go unheard.
        const written = await pipeline(
          stream,
          (chunks: AsyncIterable<Buffer | string>) => {
            writing = prepare().then(() => writeHashed(path, chunks, maxBytes, hashers));
            return writing;
          },
          signal === undefined ? {} : { signal },
        );
        signal?.throwIfAborted();
        return await use({ path, ...written });
      } catch (error) {
        throw signal?.aborted === true ? signal.reason : error;
      } finally {
        // A pipeline that is aborted does not wait for its last part, which may be about to make the file.
        await writing?.catch(() => undefined);
        // On a broken disk it stays until somebody tidies up.
        await rm(path, { force: true }).catch(() => undefined);
      }
    },

    async check() {
      const probe = join(dir, `check-${randomUUID()}`);
      await prepare();
      try {
        await onDisk(() => writeFile(probe, 'x', { flag: 'wx', flush: true }));
      } finally {
        await onDisk(() => rm(probe, { force: true }));
      }
    },

    async tidy() {
      await makeDir();
      await tidy();
    },
  };
}

/** Does something with the disk alone: what the system has against it is the disk's fault, and nobody else's. */
export async function onDisk<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw explainDiskError(error);
  }
}

/** What a failure of the disk means to a caller. It may be gone, read-only, broken or somebody else's; what is no error of the system stays what it is. */
export function explainDiskError(error: unknown): unknown {
  if (fullDisk.some((code) => hasErrorCode(error, code))) {
    const detail = 'The disk that holds the files is full. Try again later.';
    return new ServiceError('storage_full', detail, { cause: error });
  }
  if (isSystemError(error)) {
    const detail = 'The disk that holds the files cannot be used. Try again in a minute.';
    return new ServiceError('storage_unavailable', detail, {
      cause: error,
      extra: { retryAfterSeconds: 60 },
    });
  }
  return error;
}

const fullDisk = ['ENOSPC', 'EDQUOT'];

/** By its code, such as EIO; those of Node itself have underscores. */
function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'code' in error && /^E[A-Z0-9]+$/.test(String(error.code));
}

/** One that cannot be removed keeps none of the others. */
async function removeAbandoned(dir: string): Promise<void> {
  const failures: unknown[] = [];
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    const info = await stat(path).catch(() => null);
    if (info === null || Date.now() - info.mtimeMs <= ABANDONED_AFTER_MS) continue;
    await rm(path, { force: true }).catch((error: unknown) => failures.push(error));
  }
  if (failures.length > 0) throw failures[0];
}

function writeHashed(
  path: string,
  chunks: AsyncIterable<Buffer | string>,
  maxBytes: number,
  hashers: HasherPool,
): Promise<Omit<TemporaryFile, 'path'>> {
  return hashers.lend(async (hasher) => {
    const file = await onDisk(() => open(path, 'wx', 0o600));
    try {
      return await writeChunks(file, chunks, maxBytes, hasher);
    } finally {
      await onDisk(() => file.close());
    }
  });
}

async function writeChunks(
  file: FileHandle,
  chunks: AsyncIterable<Buffer | string>,
  maxBytes: number,
  hasher: IHasher,
): Promise<Omit<TemporaryFile, 'path'>> {
  let sizeBytes = 0;
  let head = Buffer.alloc(0);
  let writing = Promise.resolve();
  const flush = createFlusher(file);
  for await (const piece of chunks) {
    const chunk = typeof piece === 'string' ? Buffer.from(piece) : piece;
    sizeBytes += chunk.length;
    if (sizeBytes > maxBytes) {
      throw new ServiceError('payload_too_large', `The file is larger than ${maxBytes} bytes.`);
    }
    if (head.length < headBytes) {
      head = Buffer.concat([head, chunk.subarray(0, headBytes - head.length)]);
    }
    // One piece is written while it is hashed, and while the next one comes.
    await writing;
    writing = onDisk(() => writeFully(file, chunk));
    writing.catch(() => undefined);
    hasher.update(chunk);
    flush.wrote(chunk.length);
  }
  await writing;
  await flush.settled();
  return { id: hasher.digest(), sizeBytes, head };
}

/** Brings a large file to the disk while it still comes, so that there is little left to wait for in the end. */
function createFlusher(file: FileHandle) {
  let unflushed = 0;
  let flushing: Promise<void> | null = null;
  let failure: { error: unknown } | null = null;
  return {
    wrote(bytes: number): void {
      unflushed += bytes;
      if (unflushed < FLUSH_BYTES || flushing !== null) return;
      unflushed = 0;
      flushing = onDisk(() => file.datasync())
        .catch((error: unknown) => {
          failure = { error };
        })
        .finally(() => (flushing = null));
    },
    /** Rejects where a flush failed: the system tells that once, so no later one would. */
    async settled(): Promise<void> {
      await flushing;
      if (failure !== null) throw failure.error;
    },
  };
}

async function writeFully(file: FileHandle, chunk: Buffer): Promise<void> {
  let rest = chunk;
  while (rest.length > 0) {
    const { bytesWritten } = await file.write(rest);
    rest = rest.subarray(bytesWritten);
  }
}

/** Runs `work` at the first call, and when so long has passed; other calls share what the last one found. */
function atMostEvery(ms: number, work: () => Promise<void>): () => Promise<void> {
  let latest: { at: number; done: Promise<void> } | null = null;
  return () => {
    if (latest === null || performance.now() - latest.at >= ms) {
      latest = { at: performance.now(), done: work() };
    }
    return latest.done;
  };
}
