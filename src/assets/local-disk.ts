// Assets on the local disk: `ab/cd/<key>` below one folder, `tmp` beside them for what is on its way.
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { hasErrorCode } from '../errors.ts';
import { isFileKey, pathOfKey } from './file-key.ts';
import { fileNotFound, type AssetStore } from './store.ts';
import { createTemporaryFiles, explainDiskError, onDisk } from './temporary-files.ts';

/** A store in the folder `dir`, which is made when it is first needed. Several processes may share it. */
export function createLocalDiskStore({ dir }: { dir: string }): AssetStore {
  // In the same folder, so that a rename stays within one file system and is atomic.
  const incoming = createTemporaryFiles({ dir: join(dir, 'tmp') });
  const pathOf = (key: string): string => join(dir, pathOfKey(key));

  return {
    receive: (stream, options, use) =>
      incoming.receive(stream, options, async ({ path, ...file }) => {
        // While it is found out whether the file is wanted, since a disk takes its time.
        const flushed = sync(path);
        flushed.catch(() => undefined);
        try {
          return await use({
            ...file,
            publish: (key) =>
              onDisk(async () => {
                const target = pathOf(key);
                await Promise.all([flushed, mkdir(dirname(target), { recursive: true })]);
                await rename(path, target);
                await Promise.all([dirname(target), dirname(dirname(target)), dir].map(sync));
              }),
          });
        } finally {
          await flushed.catch(() => undefined);
        }
      }),

    async read(key, range) {
      if (!isFileKey(key)) throw fileNotFound(key);
      const file = await open(pathOf(key), 'r').catch((error: unknown) => {
        throw hasErrorCode(error, 'ENOENT') ? fileNotFound(key) : explainDiskError(error);
      });
      return file.createReadStream(range);
    },

    async sizeOf(key) {
      if (!isFileKey(key)) return null;
      try {
        return (await stat(pathOf(key))).size;
      } catch (error) {
        if (hasErrorCode(error, 'ENOENT')) return null;
        throw explainDiskError(error);
      }
    },

    async remove(key) {
      if (isFileKey(key)) await rm(pathOf(key), { force: true });
    },

    check: () => incoming.check(),
    tidy: () => incoming.tidy(),
    close: async () => undefined,
  };
}

/** Makes the bytes of a file, or the names in a folder, survive a power failure. */
async function sync(path: string): Promise<void> {
  const opened = await open(path, 'r');
  try {
    await opened.sync();
  } finally {
    await opened.close();
  }
}
