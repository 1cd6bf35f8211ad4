import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createLocalDiskStore, explainDiskError } from '../../src/assets/local-disk.ts';

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'local-disk-'));
});

afterEach(() => rm(dir, { recursive: true }));

describe('the local disk', () => {
  it('spreads files over folders named by their hash', async () => {
    const { id } = await createLocalDiskStore({ dir }).put(Readable.from(['abc']), { maxBytes: 10 });
    expect(await readdir(join(dir, '64', '37'))).toEqual([id]);
  });

  it('removes what a killed process left, and leaves what somebody is writing', async () => {
    await mkdir(join(dir, 'tmp'));
    await writeFile(join(dir, 'tmp', 'old'), 'x');
    await writeFile(join(dir, 'tmp', 'young'), 'x');
    const twoHoursAgo = new Date(Date.now() - 7_200_000);
    await utimes(join(dir, 'tmp', 'old'), twoHoursAgo, twoHoursAgo);
    await createLocalDiskStore({ dir }).check();
    expect(await readdir(join(dir, 'tmp'))).toEqual(['young']);
  });

  it('replaces a file that is cut short', async () => {
    const store = createLocalDiskStore({ dir });
    const put = () => store.put(Readable.from(['whole']), { maxBytes: 10 });
    const { id } = await put();
    await writeFile(join(dir, id.slice(0, 2), id.slice(2, 4), id), 'who');
    expect(await put()).toMatchObject({ createdNew: true });
    expect((await buffer(await store.read(id))).toString()).toBe('whole');
  });

  it('reports a folder that cannot be used, and works once it can', async () => {
    const store = createLocalDiskStore({ dir: join(dir, 'files') });
    await writeFile(join(dir, 'files'), 'a file in the way');
    await expect(store.check()).rejects.toThrow('not a directory');
    await expect(store.put(Readable.from(['x']), { maxBytes: 10 })).rejects.toThrow('not a directory');
    await rm(join(dir, 'files'));
    await store.check();
  });

  it('says plainly that the disk is full', async () => {
    // The one device of Linux that is always full.
    const full: unknown = await writeFile('/dev/full', 'x').catch((error: unknown) => error);
    expect(explainDiskError(full)).toMatchObject({ code: 'storage_full', status: 507, cause: full });
  });

  it('leaves other errors as they are', () => {
    const other = new Error('other');
    expect(explainDiskError(other)).toBe(other);
  });
});
