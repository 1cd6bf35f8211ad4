// Assets on the local disk: `ab/cd/<hash>` below one folder, `tmp` beside them for what is on its way.
import { randomUUID } from 'node:crypto';
import { mkdir, open, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { ServiceError } from '../errors.ts';
import { isAssetId } from './asset.ts';
import type { AssetStore, StoredFile } from './store.ts';
import { createTemporaryFiles, type TemporaryFile } from './temporary-files.ts';

/** A store in the folder `dir`, which is made when it is first needed. Several processes may share it. */
export function createLocalDiskStore({ dir }: { dir: string }): AssetStore {
  // In the same folder, so that a rename stays within one file system and is atomic.
  const temporaryDir = join(dir, 'tmp');
  const temporaryFiles = createTemporaryFiles({ dir: temporaryDir });
  const prepare = once(() => temporaryFiles.prepare());

  return {
    async put(stream, { maxBytes, signal }) {
      try {
        // The pipeline listens to the stream from the first moment: an error while the folder is made must not go unheard.
        return await pipeline(
          stream,
          async (chunks: AsyncIterable<Buffer | string>) => {
            await prepare();
            return temporaryFiles.write(chunks, { maxBytes }, (file) => publish(dir, file, signal));
          },
          signal === undefined ? {} : { signal },
        );
      } catch (error) {
        if (signal?.aborted === true) throw signal.reason;
        throw explainDiskError(error);
      }
    },

    async read(id, range) {
      const file = await open(pathOf(dir, id), 'r').catch((error: unknown) => {
        throw hasErrorCode(error, 'ENOENT') ? notFound(id) : error;
      });
      return file.createReadStream(range);
    },

    async has(id) {
      return isAssetId(id) && (await sizeOf(pathOf(dir, id))) !== null;
    },

    async remove(id) {
      if (isAssetId(id)) await rm(pathOf(dir, id), { force: true });
    },

    async check() {
      try {
        await prepare();
        const probe = join(temporaryDir, `check-${randomUUID()}`);
        await writeFile(probe, 'x', { flag: 'wx', flush: true });
        await rm(probe);
      } catch (error) {
        throw explainDiskError(error);
      }
    },
  };
}

/** What a failure of the disk means to a caller; everything else stays what it is. */
export function explainDiskError(error: unknown): unknown {
  if (!hasErrorCode(error, 'ENOSPC') && !hasErrorCode(error, 'EDQUOT')) return error;
  return new ServiceError('storage_full', 'The disk that holds the files is full. Try again later.', {
    cause: error,
  });
}

async function publish(
  dir: string,
  file: TemporaryFile,
  signal: AbortSignal | undefined,
): Promise<StoredFile> {
  signal?.throwIfAborted();
  const { path, ...stored } = file;
  const target = pathOf(dir, file.id);
  const createdNew = (await sizeOf(target)) !== file.sizeBytes;
  if (createdNew) {
    await mkdir(dirname(target), { recursive: true });
    await rename(path, target);
  }
  // Also when the file was there: the one who moved it may be about to lose power before doing this.
  for (const folder of [dirname(target), dirname(dirname(target)), dir]) await syncFolder(folder);
  return { ...stored, createdNew };
}

/** Makes the names in a folder survive a power failure. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function pathOf(dir: string, id: string): string {
  if (!isAssetId(id)) throw notFound(id);
  return join(dir, id.slice(0, 2), id.slice(2, 4), id);
}

async function sizeOf(path: string): Promise<number | null> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (hasErrorCode(error, 'ENOENT')) return null;
    throw error;
  }
}

function notFound(id: string): ServiceError {
  return new ServiceError('asset_not_found', `There is no stored file ${id}.`);
}

function hasErrorCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

/** Runs `work` at the first call and again only after it failed. */
function once(work: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | null = null;
  return () => {
    running ??= work().catch((error: unknown) => {
      running = null;
      throw error;
    });
    return running;
  };
}
