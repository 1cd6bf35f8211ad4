import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, open, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { newFileKey } from '../../src/assets/file-key.ts';
import { createLocalDiskStore } from '../../src/assets/local-disk.ts';
import type { AssetStore } from '../../src/assets/store.ts';
import { explainDiskError } from '../../src/assets/temporary-files.ts';

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'local-disk-'));
});

afterEach(() => rm(dir, { recursive: true }));

const put = (store: AssetStore, bytes: string | Buffer) =>
  store.receive(Readable.from([bytes]), { maxBytes: 10_000_000 }, async ({ id, publish }) => {
    const key = newFileKey(id);
    await publish(key);
    return key;
  });

describe('the local disk', () => {
  it('spreads files over folders named by their hash', async () => {
    const key = await put(createLocalDiskStore({ dir }), 'abc');
    expect(key).toMatch(/^6437[0-9a-f]{60}\.[0-9a-f]{16}$/);
    expect(await readdir(join(dir, '64', '37'))).toEqual([key]);
  });

  it('reads files from before names had a part of their own', async () => {
    const key = '6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85';
    await mkdir(join(dir, '64', '37'), { recursive: true });
    await writeFile(join(dir, '64', '37', key), 'abc');
    expect((await buffer(await createLocalDiskStore({ dir }).read(key))).toString()).toBe('abc');
  });

  it('removes what a killed process left, and leaves what somebody is writing', async () => {
    await mkdir(join(dir, 'tmp'));
    await writeFile(join(dir, 'tmp', 'old'), 'x');
    await writeFile(join(dir, 'tmp', 'young'), 'x');
    const twoDaysAgo = new Date(Date.now() - 172_800_000);
    await utimes(join(dir, 'tmp', 'old'), twoDaysAgo, twoDaysAgo);
    await createLocalDiskStore({ dir }).check();
    expect(await readdir(join(dir, 'tmp'))).toEqual(['young']);
  });

  it('takes files although it holds something old that cannot be removed, and removes the rest of what is old', async () => {
    const twoDaysAgo = new Date(Date.now() - 172_800_000);
    const tmp = join(dir, 'tmp');
    await mkdir(join(tmp, 'a folder', 'of others'), { recursive: true });
    await writeFile(join(tmp, 'old'), 'x');
    await writeFile(join(tmp, 'a file'), 'x');
    for (const name of ['a folder', 'old', 'a file']) await utimes(join(tmp, name), twoDaysAgo, twoDaysAgo);
    const store = createLocalDiskStore({ dir });
    await store.check();
    expect(await store.sizeOf(await put(store, 'x'))).toBe(1);
    expect(await readdir(tmp)).toEqual(['a folder']);
    await expect(store.tidy()).rejects.toThrow('a folder');
  });

  it('reports a folder that cannot be used, and works once it can', async () => {
    const store = createLocalDiskStore({ dir: join(dir, 'files') });
    await writeFile(join(dir, 'files'), 'a file in the way');
    const unusable = { code: 'storage_unavailable', cause: { code: 'ENOTDIR' } };
    await expect(store.check()).rejects.toMatchObject(unusable);
    await expect(put(store, 'x')).rejects.toMatchObject(unusable);
    await rm(join(dir, 'files'));
    await store.check();
  });

  it('makes its folder anew when somebody has removed it', async () => {
    const store = createLocalDiskStore({ dir: join(dir, 'files') });
    await store.check();
    await rm(join(dir, 'files'), { recursive: true });
    const key = await put(store, 'x');
    expect(await store.sizeOf(key)).toBe(1);
  });

  it('leaves nothing of a check that found it full', async () => {
    const file = await open(join(dir, 'any'), 'w');
    const flush = vi.spyOn(Object.getPrototypeOf(file) as typeof file, 'sync');
    onTestFinished(() => flush.mockRestore());
    flush.mockRejectedValueOnce(Object.assign(new Error('no space left'), { code: 'ENOSPC' }));
    await file.close();
    const store = createLocalDiskStore({ dir });
    await expect(store.check()).rejects.toMatchObject({ code: 'storage_full' });
    expect(await readdir(join(dir, 'tmp'))).toEqual([]);
  });

  it('stores nothing that could not be flushed on its way', async () => {
    const file = await open(join(dir, 'any'), 'w');
    const flush = vi.spyOn(Object.getPrototypeOf(file) as typeof file, 'datasync');
    onTestFinished(() => flush.mockRestore());
    flush.mockRejectedValueOnce(new Error('the disk is broken'));
    await file.close();
    const store = createLocalDiskStore({ dir: join(dir, 'files') });
    await expect(put(store, Buffer.alloc(5_000_000))).rejects.toThrow('the disk is broken');
    expect(flush).toHaveBeenCalled();
    expect(await readdir(join(dir, 'files'))).toEqual(['tmp']);
  });

  it('that runs full in the middle of a file says so, leaves nothing of it, and goes on when there is room', async (context) => {
    const disk = join(dir, 'disk');
    await mkdir(disk);
    if (!mountTinyDisk(disk)) context.skip('No file system could be mounted: it takes Linux and root.');
    try {
      const store = createLocalDiskStore({ dir: disk });
      const first = await put(store, Buffer.alloc(700_000));
      const second = put(store, Buffer.alloc(700_000));
      await expect(second).rejects.toMatchObject({ code: 'storage_full', status: 507 });
      expect(await readdir(join(disk, 'tmp'))).toEqual([]);
      await store.remove(first);
      await put(store, Buffer.alloc(700_000));
    } finally {
      execFileSync('umount', [disk]);
    }
  });

  it('says plainly that the disk is full', async () => {
    // The one device of Linux that is always full.
    const full: unknown = await writeFile('/dev/full', 'x').catch((error: unknown) => error);
    expect(explainDiskError(full)).toMatchObject({ code: 'storage_full', status: 507, cause: full });
  });

  it.each(['ENOENT', 'ESTALE', 'EROFS', 'EIO', 'EACCES', 'EMFILE', 'ENFILE', 'EPERM', 'ENOTDIR', 'EUCLEAN'])(
    'says that the disk cannot be used (%s)',
    (code) => {
      const broken = Object.assign(new Error('it failed'), { code });
      expect(explainDiskError(broken)).toMatchObject({ code: 'storage_unavailable', cause: broken });
    },
  );

  it('leaves other errors as they are', () => {
    const other = new Error('other');
    expect(explainDiskError(other)).toBe(other);
  });
});

/** A file system of one megabyte. */
function mountTinyDisk(path: string): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', path], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
