// What every store of assets must do, run against each of them. With TEST_S3_ENDPOINT, TEST_S3_BUCKET and the usual AWS
// variables for the credentials, also against a real S3-compatible server.
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { blake3 } from 'hash-wasm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newFileKey } from '../../src/assets/file-key.ts';
import { createLocalDiskStore } from '../../src/assets/local-disk.ts';
import { createS3Store } from '../../src/assets/s3.ts';
import type { AssetStore, ReceiveOptions } from '../../src/assets/store.ts';
import { startS3Double } from '../doubles/s3/index.ts';

interface StoreUnderTest {
  store: AssetStore;
  /** Everything that the store holds, whole or not: on its way, in parts, stored. Null where that cannot be seen. */
  files: (() => Promise<number>) | null;
  remove(): Promise<void>;
}

const implementations: Record<string, () => Promise<StoreUnderTest>> = {
  async 'the local disk'() {
    const dir = await newFolder();
    return {
      store: createLocalDiskStore({ dir }),
      files: () => countFiles(dir),
      remove: () => rm(dir, { recursive: true }),
    };
  },
  async S3() {
    const dir = await newFolder();
    const double = await startS3Double({ minPartBytes: 1_000_000 });
    const { url: endpoint, bucket, accessKeyId, secretAccessKey } = double;
    const credentials = { accessKeyId, secretAccessKey };
    return {
      store: await createS3Store({ ...s3Settings, endpoint, bucket, credentials, temporaryDir: dir }),
      files: async () => (await countFiles(dir)) + double.keys().length + double.pendingUploads().length,
      async remove() {
        await double.stop();
        await rm(dir, { recursive: true });
      },
    };
  },
};

const s3Settings = { region: 'us-east-1', forcePathStyle: true, prefix: 'assets/', partBytes: 1_000_000 };
const { TEST_S3_ENDPOINT: realEndpoint, TEST_S3_BUCKET: realBucket } = process.env;
if (realEndpoint !== undefined && realBucket !== undefined) {
  implementations[`the S3 at ${realEndpoint}`] = async () => {
    const dir = await newFolder();
    const place = { endpoint: realEndpoint, bucket: realBucket, credentials: undefined };
    const partBytes = 5_242_880;
    return {
      store: await createS3Store({ ...s3Settings, ...place, partBytes, temporaryDir: dir }),
      files: null,
      remove: () => rm(dir, { recursive: true }),
    };
  };
}

const limit = { maxBytes: 100_000_000 };

describe.each(Object.keys(implementations))('%s as a store of assets', (name) => {
  let test: StoreUnderTest;
  let store: AssetStore;

  beforeEach(async () => {
    const create = implementations[name];
    if (create === undefined) throw new Error(`There is no store named ${name}.`);
    test = await create();
    store = test.store;
  });

  afterEach(async () => {
    await store.close();
    await test.remove();
  });

  /** Stores a stream under a key of its own. */
  const put = (stream: Readable, options: ReceiveOptions = limit) =>
    store.receive(stream, options, async ({ publish, ...file }) => {
      const key = newFileKey(file.id);
      await publish(key);
      return { key, ...file };
    });
  const putBytes = (bytes: Buffer) => put(Readable.from([bytes]));
  const readBytes = async (key: string, range?: { start: number; end: number }) =>
    buffer(await store.read(key, range));
  const expectFiles = async (count: number) => {
    if (test.files !== null) expect(await test.files()).toBe(count);
  };
  /** Until as much can be seen; a real server shows nothing of what is on its way. */
  const untilFiles = async (count: number) => {
    if (test.files !== null) await expect.poll(test.files).toBe(count);
  };

  it('measures and hashes what it receives, and gives it back', async () => {
    const stored = await putBytes(Buffer.from('abc'));
    expect(stored).toMatchObject({
      id: '6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85',
      sizeBytes: 3,
      head: Buffer.from('abc'),
    });
    expect(await store.sizeOf(stored.key)).toBe(3);
    expect((await readBytes(stored.key)).toString()).toBe('abc');
  });

  it('keeps an empty file', async () => {
    const stored = await put(Readable.from([]));
    expect(stored.sizeBytes).toBe(0);
    expect(stored.id).toBe('af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262');
    expect(await store.sizeOf(stored.key)).toBe(0);
    expect(await readBytes(stored.key)).toHaveLength(0);
  });

  it('keeps a file of many chunks of odd sizes, and shows its first 4100 bytes', async () => {
    const bytes = randomBytes(12_000_001);
    const chunks = [bytes.subarray(0, 1), bytes.subarray(1, 4099), bytes.subarray(4099, 2_000_003)];
    const stored = await put(Readable.from([...chunks, bytes.subarray(2_000_003)]));
    expect(stored.id).toBe(await blake3(bytes));
    expect(stored.head.equals(bytes.subarray(0, 4100))).toBe(true);
    expect((await readBytes(stored.key)).equals(bytes)).toBe(true);
    await expectFiles(1);
  });

  it('reads ranges, their last byte included', async () => {
    const { key } = await putBytes(Buffer.from('0123456789'));
    expect((await readBytes(key, { start: 0, end: 0 })).toString()).toBe('0');
    expect((await readBytes(key, { start: 3, end: 5 })).toString()).toBe('345');
    expect((await readBytes(key, { start: 9, end: 9 })).toString()).toBe('9');
  });

  it('reads ranges of a large file', async () => {
    const bytes = randomBytes(6_000_000);
    const { key } = await putBytes(bytes);
    const part = await readBytes(key, { start: 2_500_000, end: 5_500_000 });
    expect(part.equals(bytes.subarray(2_500_000, 5_500_001))).toBe(true);
  });

  it('takes the same and other bytes from many at once', async () => {
    const texts = Array.from({ length: 24 }, (_, index) => `text ${index % 3}`);
    const stored = await Promise.all(texts.map((text) => putBytes(Buffer.from(text))));
    expect(new Set(stored.map(({ id }) => id)).size).toBe(3);
    await expectFiles(24);
    const read = await Promise.all(stored.map(async ({ key }) => (await readBytes(key)).toString()));
    expect(read).toEqual(texts);
  });

  it('shows nothing before it is whole and wanted', async () => {
    const source = new PassThrough();
    const ready = Promise.withResolvers<string>();
    const wanted = Promise.withResolvers<void>();
    const done = store.receive(source, limit, async ({ id, publish }) => {
      const key = newFileKey(id);
      ready.resolve(key);
      await wanted.promise;
      await publish(key);
    });
    source.write('half');
    await untilFiles(1);
    source.end(' and half');
    const key = await ready.promise;
    expect(await store.sizeOf(key)).toBeNull();
    wanted.resolve();
    await done;
    expect((await readBytes(key)).toString()).toBe('half and half');
    await expectFiles(1);
  });

  it('keeps nothing of what is not published', async () => {
    await store.receive(Readable.from(['nobody wants it']), limit, async () => undefined);
    await expectFiles(0);
    const refusal = new Error('not this one');
    const refused = store.receive(Readable.from(['this neither']), limit, () => Promise.reject(refusal));
    await expect(refused).rejects.toBe(refusal);
    await expectFiles(0);
  });

  it('passes on as it is what failed elsewhere while a file was lent', async () => {
    // As of a database whose socket is gone.
    const gone = Object.assign(new Error('connect ENOENT /run/postgres.sock'), { code: 'ENOENT' });
    const lent = store.receive(Readable.from(['bytes']), limit, () => Promise.reject(gone));
    await expect(lent).rejects.toBe(gone);
    const broken = new Readable({ read: () => undefined });
    broken.destroy(gone);
    await expect(store.receive(broken, limit, async () => undefined)).rejects.toBe(gone);
  });

  it('takes a file of exactly the limit', async () => {
    const { sizeBytes } = await put(Readable.from([Buffer.alloc(60), Buffer.alloc(40)]), { maxBytes: 100 });
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
    await expect(put(source, { maxBytes: 100 })).rejects.toMatchObject({ code: 'payload_too_large' });
    expect(source.destroyed).toBe(true);
    expect(chunksTaken).toBeLessThan(100);
    await expectFiles(0);
  });

  it('passes on the error of a stream that breaks, and keeps nothing', async () => {
    const broken = new Error('broken');
    const source = new PassThrough();
    const done = put(source);
    source.write('half');
    await untilFiles(1);
    source.destroy(broken);
    await expect(done).rejects.toBe(broken);
    await expectFiles(0);
  });

  it('passes on the error of a stream that breaks before its first byte', async () => {
    const broken = new Error('broken');
    const source = new PassThrough();
    const done = put(source);
    source.destroy(broken);
    await expect(done).rejects.toBe(broken);
    await expectFiles(0);
  });

  it('ends with the reason of the signal, and keeps nothing', async () => {
    const controller = new AbortController();
    const reason = new Error('the service stops');
    const source = new PassThrough();
    const done = put(source, { ...limit, signal: controller.signal });
    source.write('half');
    await untilFiles(1);
    controller.abort(reason);
    await expect(done).rejects.toBe(reason);
    if (!source.closed) await once(source, 'close');
    await expectFiles(0);
  });

  it('stores nothing for a signal that was aborted before', async () => {
    const reason = new Error('too late');
    const done = put(Readable.from(['x']), { ...limit, signal: AbortSignal.abort(reason) });
    await expect(done).rejects.toBe(reason);
    await expectFiles(0);
  });

  it('goes on after failures', async () => {
    await expect(put(Readable.from(['too long']), { maxBytes: 1 })).rejects.toThrow('larger');
    const { id } = await putBytes(Buffer.from('after'));
    expect(id).toBe(await blake3('after'));
  });

  it.each([
    '0'.repeat(64),
    `${'0'.repeat(64)}.0123456789abcdef`,
    '../../../../etc/passwd',
    '',
    'A'.repeat(64),
  ])('has no file named %j', async (key) => {
    expect(await store.sizeOf(key)).toBeNull();
    await expect(store.read(key)).rejects.toMatchObject({ code: 'asset_not_found' });
    await store.remove(key);
  });

  it('removes a file, also twice', async () => {
    const { key } = await putBytes(Buffer.from('gone'));
    await store.remove(key);
    await store.remove(key);
    expect(await store.sizeOf(key)).toBeNull();
    await expect(store.read(key)).rejects.toMatchObject({ code: 'asset_not_found' });
    await expectFiles(0);
  });

  it('removes one file and not another of the same bytes', async () => {
    const first = await putBytes(Buffer.from('same'));
    const second = await putBytes(Buffer.from('same'));
    await store.remove(first.key);
    expect((await readBytes(second.key)).toString()).toBe('same');
  });

  it('says that it can be written, and leaves nothing of the check', async () => {
    await expect(store.check()).resolves.toBeUndefined();
    await expectFiles(0);
  });

  it('leaves alone what is on its way when it tidies up', async () => {
    const source = new PassThrough();
    const done = put(source);
    source.write('half');
    await untilFiles(1);
    await store.tidy();
    source.end();
    const { key } = await done;
    await store.tidy();
    expect(await store.sizeOf(key)).toBe(4);
  });
});

function newFolder(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'asset-store-'));
}

async function countFiles(dir: string): Promise<number> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).length;
}
