// Files on their way into a store: written, measured and hashed in one pass, under names that nobody reads.
import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rm, stat, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { IHasher } from 'hash-wasm';
import { ServiceError } from '../errors.ts';
import { createHasherPool } from './content-hash.ts';
import { headBytes } from './store.ts';

export interface TemporaryFile {
  path: string;
  /** BLAKE3 of its bytes. */
  id: string;
  sizeBytes: number;
  head: Buffer;
}

export interface TemporaryFiles {
  /** Makes the folder and removes what a killed process left in it; files that somebody may still be writing stay. */
  prepare(): Promise<void>;
  /** Writes a file and flushes it to the disk, lends it to `use`, and removes it unless that moved it away. */
  write<T>(
    chunks: AsyncIterable<Buffer | string>,
    options: { maxBytes: number },
    use: (file: TemporaryFile) => Promise<T>,
  ): Promise<T>;
}

/** A file that was not written to for so long belongs to a process that is gone: uploads that stall are cut off long before. */
const abandonedAfterMs = 3_600_000;

export function createTemporaryFiles({ dir }: { dir: string }): TemporaryFiles {
  const hashers = createHasherPool();
  return {
    async prepare() {
      await mkdir(dir, { recursive: true });
      await removeAbandoned(dir);
    },
    async write(chunks, { maxBytes }, use) {
      const path = join(dir, randomUUID());
      try {
        const written = await hashers.lend((hasher) => writeFile(path, chunks, maxBytes, hasher));
        return await use({ path, ...written });
      } finally {
        await rm(path, { force: true });
      }
    },
  };
}

async function removeAbandoned(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    const info = await stat(path).catch(() => null);
    if (info !== null && Date.now() - info.mtimeMs > abandonedAfterMs) await rm(path, { force: true });
  }
}

async function writeFile(
  path: string,
  chunks: AsyncIterable<Buffer | string>,
  maxBytes: number,
  hasher: IHasher,
): Promise<Omit<TemporaryFile, 'path'>> {
  const file = await open(path, 'wx', 0o600);
  try {
    let sizeBytes = 0;
    let head = Buffer.alloc(0);
    for await (const piece of chunks) {
      const chunk = typeof piece === 'string' ? Buffer.from(piece) : piece;
      sizeBytes += chunk.length;
      if (sizeBytes > maxBytes) {
        throw new ServiceError('payload_too_large', `The file is larger than ${maxBytes} bytes.`);
      }
      if (head.length < headBytes) {
        head = Buffer.concat([head, chunk.subarray(0, headBytes - head.length)]);
      }
      hasher.update(chunk);
      await writeFully(file, chunk);
    }
    await file.sync();
    return { id: hasher.digest(), sizeBytes, head };
  } finally {
    await file.close();
  }
}

async function writeFully(file: FileHandle, chunk: Buffer): Promise<void> {
  let rest = chunk;
  while (rest.length > 0) {
    const { bytesWritten } = await file.write(rest);
    rest = rest.subarray(bytesWritten);
  }
}
