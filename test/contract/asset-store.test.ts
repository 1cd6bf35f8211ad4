// What every store of assets must do, run against each of them.
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { blake3 } from 'hash-wasm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createLocalDiskStore } from '../../src/assets/local-disk.ts';
import type { AssetStore } from '../../src/assets/store.ts';

interface StoreUnderTest {
  store: AssetStore;
  /** Names of all files that the store holds, whole or not. */
  files(): Promise<string[]>;
  remove(): Promise<void>;
}

const implementations: Record<string, () => Promise<StoreUnderTest>> = {
  async 'the local disk'() {
    const dir = await mkdtemp(join(tmpdir(), 'asset-store-'));
    return {
      store: createLocalDiskStore({ dir }),
      async files() {
        const entries = await readdir(dir, { recursive: true, withFileTypes: true });
        return entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
      },
      remove: () => rm(dir, { recursive: true }),
    };
  },
};

const limit = { maxBytes: 10_000_000 };

describe.each(Object.keys(implementations))('%s as a store of assets', (name) => {
  let test: StoreUnderTest;
  let store: AssetStore;

  beforeEach(async () => {
    const create = implementations[name];
    if (create === undefined) throw new Error(`There is no store named ${name}.`);
    test = await create();
    store = test.store;
  });

  afterEach(() => test.remove());

  const putBytes = (bytes: Buffer) => store.put(Readable.from([bytes]), limit);
  const readBytes = async (id: string, range?: { start: number; end: number }) =>
    buffer(await store.read(id, range));

  it('names bytes by their BLAKE3 hash and gives them back', async () => {
    const stored = await putBytes(Buffer.from('abc'));
    expect(stored).toEqual({
      id: '6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85',
      sizeBytes: 3,
      createdNew: true,
      head: Buffer.from('abc'),
    });
    expect(await store.has(stored.id)).toBe(true);
    expect((await readBytes(stored.id)).toString()).toBe('abc');
  });

  it('keeps an empty file', async () => {
    const stored = await store.put(Readable.from([]), limit);
    expect(stored).toMatchObject({ sizeBytes: 0, createdNew: true });
    expect(stored.id).toBe('af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262');
    expect(await readBytes(stored.id)).toHaveLength(0);
  });

  it('keeps a file of many chunks of odd sizes, and shows its first 4100 bytes', async () => {
    const bytes = randomBytes(3_000_001);
    const chunks = [bytes.subarray(0, 1), bytes.subarray(1, 4099), bytes.subarray(4099, 2_000_003)];
    const stored = await store.put(Readable.from([...chunks, bytes.subarray(2_000_003)]), limit);
    expect(stored.id).toBe(await blake3(bytes));
    expect(stored.head.equals(bytes.subarray(0, 4100))).toBe(true);
    expect((await readBytes(stored.id)).equals(bytes)).toBe(true);
  });

  it('reads ranges, their last byte included', async () => {
    const { id } = await putBytes(Buffer.from('0123456789'));
    expect((await readBytes(id, { start: 0, end: 0 })).toString()).toBe('0');
    expect((await readBytes(id, { start: 3, end: 5 })).toString()).toBe('345');
    expect((await readBytes(id, { start: 9, end: 9 })).toString()).toBe('9');
  });

  it('keeps the same bytes once', async () => {
    const first = await putBytes(Buffer.from('same'));
    const second = await putBytes(Buffer.from('same'));
    expect(second).toEqual({ ...first, createdNew: false });
    expect(await test.files()).toHaveLength(1);
  });

  it('takes the same and other bytes from many at once', async () => {
    const texts = Array.from({ length: 24 }, (_, index) => `text ${index % 3}`);
    const stored = await Promise.all(texts.map((text) => putBytes(Buffer.from(text))));
    const ids = new Set(stored.map(({ id }) => id));
    expect(ids.size).toBe(3);
    expect(await test.files()).toHaveLength(3);
    const read = await Promise.all(stored.map(async ({ id }) => (await readBytes(id)).toString()));
    expect(read).toEqual(texts);
  });

  it('shows nothing before it is whole', async () => {
    const source = new PassThrough();
    const put = store.put(source, limit);
    source.write('half');
    await expect.poll(() => test.files()).toHaveLength(1);
    expect(await store.has(await blake3('half'))).toBe(false);
    source.end(' and half');
    const { id } = await put;
    expect(id).toBe(await blake3('half and half'));
    expect(await test.files()).toHaveLength(1);
  });

  it('takes a file of exactly the limit', async () => {
    const { sizeBytes } = await store.put(Readable.from([Buffer.alloc(60), Buffer.alloc(40)]), {
      maxBytes: 100,
    });
    expect(sizeBytes).toBe(100);
  });

  it('refuses a byte more, without reading on, and keeps nothing', async () => {
    let chunksTaken = 0;
    const source = Readable.from(
      (function* endless() {
        for (;;) {
          chunksTaken += 1;
          yield Buffer.alloc(60);
        }
      })(),
    );
    await expect(store.put(source, { maxBytes: 100 })).rejects.toMatchObject({ code: 'payload_too_large' });
    expect(source.destroyed).toBe(true);
    expect(chunksTaken).toBeLessThan(100);
    expect(await test.files()).toEqual([]);
  });

  it('passes on the error of a stream that breaks, and keeps nothing', async () => {
    const broken = new Error('broken');
    const source = new PassThrough();
    const put = store.put(source, limit);
    source.write('half');
    await expect.poll(() => test.files()).toHaveLength(1);
    source.destroy(broken);
    await expect(put).rejects.toBe(broken);
    expect(await test.files()).toEqual([]);
  });

  it('passes on the error of a stream that breaks before its first byte', async () => {
    const broken = new Error('broken');
    const source = new PassThrough();
    const put = store.put(source, limit);
    source.destroy(broken);
    await expect(put).rejects.toBe(broken);
    expect(await test.files()).toEqual([]);
  });

  it('ends with the reason of the signal, and keeps nothing', async () => {
    const controller = new AbortController();
    const reason = new Error('the service stops');
    const source = new PassThrough();
    const put = store.put(source, { ...limit, signal: controller.signal });
    source.write('half');
    await expect.poll(() => test.files()).toHaveLength(1);
    controller.abort(reason);
    await expect(put).rejects.toBe(reason);
    if (!source.closed) await once(source, 'close');
    await expect.poll(() => test.files()).toEqual([]);
  });

  it('stores nothing for a signal that was aborted before', async () => {
    const reason = new Error('too late');
    const put = store.put(Readable.from(['x']), { ...limit, signal: AbortSignal.abort(reason) });
    await expect(put).rejects.toBe(reason);
    await expect.poll(() => test.files()).toEqual([]);
  });

  it('goes on after failures', async () => {
    await expect(store.put(Readable.from(['too long']), { maxBytes: 1 })).rejects.toThrow('larger');
    const { id } = await putBytes(Buffer.from('after'));
    expect(id).toBe(await blake3('after'));
  });

  it.each(['0'.repeat(64), '../../../../etc/passwd', '', 'A'.repeat(64)])(
    'has no file named %j',
    async (id) => {
      expect(await store.has(id)).toBe(false);
      await expect(store.read(id)).rejects.toMatchObject({ code: 'asset_not_found' });
      await store.remove(id);
    },
  );

  it('removes a file, also twice, and takes it again', async () => {
    const { id } = await putBytes(Buffer.from('gone'));
    await store.remove(id);
    await store.remove(id);
    expect(await store.has(id)).toBe(false);
    expect(await test.files()).toEqual([]);
    expect(await putBytes(Buffer.from('gone'))).toMatchObject({ id, createdNew: true });
  });

  it('says that it can be written, and leaves nothing of the check', async () => {
    await store.check();
    expect(await test.files()).toEqual([]);
  });
});
