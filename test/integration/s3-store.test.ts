import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newFileKey } from '../../src/assets/file-key.ts';
import { createS3Store, type S3StoreOptions } from '../../src/assets/s3.ts';
import type { AssetStore } from '../../src/assets/store.ts';
import { ServiceError } from '../../src/errors.ts';
import { startS3Double, type S3Double } from '../doubles/s3/index.ts';

const partBytes = 100_000;
const small = Buffer.from('a small file');
const large = randomBytes(350_000);

let dir: string;
let double: S3Double;
let store: AssetStore;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 's3-store-'));
  double = await startS3Double({ minPartBytes: partBytes });
  store = await openTestStore(double.url);
});

afterEach(async () => {
  await store.close();
  await double.stop();
  await rm(dir, { recursive: true });
});

function openTestStore(endpoint: string, options: Partial<S3StoreOptions> = {}): Promise<AssetStore> {
  const { bucket, accessKeyId, secretAccessKey } = double;
  return createS3Store({
    endpoint,
    bucket,
    region: 'us-east-1',
    credentials: { accessKeyId, secretAccessKey },
    forcePathStyle: true,
    prefix: 'some/folder/',
    temporaryDir: dir,
    partBytes,
    ...options,
  });
}

const put = (bytes: Buffer, signal?: AbortSignal) =>
  store.receive(Readable.from([bytes]), { maxBytes: 10_000_000, signal }, async ({ id, publish }) => {
    const key = newFileKey(id);
    await publish(key);
    return key;
  });

async function expectNothingLeft(): Promise<void> {
  expect([double.keys(), double.pendingUploads(), await readdir(dir)]).toEqual([[], [], []]);
}

async function failureOf(work: Promise<unknown>): Promise<ServiceError> {
  const error: unknown = await work.catch((thrown: unknown) => thrown);
  if (error instanceof ServiceError) return error;
  throw new Error(`Not the error of a service: ${String(error)}`);
}

describe('an upload', () => {
  it('lies in the folder of the settings, spread by its hash', async () => {
    const key = await put(small);
    expect(double.keys()).toEqual([`some/folder/${key.slice(0, 2)}/${key.slice(2, 4)}/${key}`]);
    expect(double.counts).toEqual({ PutObject: 1 });
  });

  it('of a large file goes in parts', async () => {
    const key = await put(large);
    expect(double.counts).toEqual({ CreateMultipartUpload: 1, UploadPart: 4, CompleteMultipartUpload: 1 });
    expect((await buffer(await store.read(key))).equals(large)).toBe(true);
    expect(double.pendingUploads()).toEqual([]);
  });

  it.each([
    ['the connection breaks', 'reset'],
    ['the connection breaks within the bytes', 'cut'],
    ['the storage has too much to do', 'unavailable'],
  ] as const)('is tried again when %s', async (_what, fault) => {
    double.fail('PutObject', fault);
    double.fail('UploadPart', fault, fault);
    for (const bytes of [small, large]) {
      expect((await buffer(await store.read(await put(bytes)))).equals(bytes)).toBe(true);
    }
    expect(double.counts).toMatchObject({ PutObject: 2, UploadPart: 6 });
  });

  it('is given up in the end, and leaves nothing', async () => {
    const always = Array<'unavailable'>(40).fill('unavailable');
    double.fail('PutObject', ...always);
    double.fail('UploadPart', ...always);
    for (const bytes of [small, large]) {
      const error = await failureOf(put(bytes));
      expect(error).toMatchObject({ code: 'storage_unavailable', status: 503 });
      await expectNothingLeft();
    }
  });

  it('that finds no room says so at once', async () => {
    double.fail('PutObject', 'full');
    expect(await failureOf(put(small))).toMatchObject({ code: 'storage_full', status: 507 });
    expect(double.counts).toEqual({ PutObject: 1 });
    await expectNothingLeft();
  });

  it('without permission is not repeated, and tells no secret', async () => {
    double.fail('PutObject', 'denied');
    const error = await failureOf(put(small));
    expect(error.code).toBe('storage_unavailable');
    expect(String(error.cause)).toContain('AccessDenied (403)');
    expect(JSON.stringify([error, Object(error.cause)])).not.toContain(double.secretAccessKey);
    expect(double.counts).toEqual({ PutObject: 1 });
  });

  it('that is stopped in the middle leaves nothing', async () => {
    const stopping = new AbortController();
    double.fail('UploadPart', ...Array<'unavailable'>(40).fill('unavailable'));
    const done = put(large, stopping.signal);
    await expect.poll(() => double.counts.UploadPart ?? 0).toBeGreaterThan(3);
    stopping.abort(new Error('the service stops'));
    await expect(done).rejects.toThrow('the service stops');
    await expectNothingLeft();
  });

  it('that a killed process left in parts is aborted after a day, and no younger one', async () => {
    double.fail('AbortMultipartUpload', ...Array<'denied'>(5).fill('denied'));
    double.fail('CompleteMultipartUpload', ...Array<'denied'>(5).fill('denied'));
    for (let count = 0; count < 5; count += 1) await put(large).catch(() => undefined);
    const [young, ...old] = double.pendingUploads();
    expect(old).toHaveLength(4);
    for (const upload of old) upload.initiated = new Date(Date.now() - 90_000_000);
    await store.tidy();
    expect(double.pendingUploads()).toEqual([young]);
  });
});

it('aborts other uploads that were left where one cannot be aborted, and says so', async () => {
  double.fail('AbortMultipartUpload', ...Array<'denied'>(3).fill('denied'));
  double.fail('CompleteMultipartUpload', ...Array<'denied'>(3).fill('denied'));
  for (let count = 0; count < 3; count += 1) await put(large).catch(() => undefined);
  for (const upload of double.pendingUploads()) upload.initiated = new Date(Date.now() - 90_000_000);
  double.fail('AbortMultipartUpload', 'denied');
  await expect(store.tidy()).rejects.toMatchObject({
    code: 'storage_unavailable',
    cause: { message: expect.stringContaining('AccessDenied') },
  });
  expect(double.pendingUploads()).toHaveLength(1);
  await store.tidy();
  expect(double.pendingUploads()).toEqual([]);
});

it('leaves the uploads of others in its bucket alone', async () => {
  const headers = { authorization: `Credential=${double.accessKeyId}/` };
  const hash = 'ab'.repeat(32);
  for (const place of ['weekly.tar', hash, `some/folder/cd/ab/${hash}`, `some/folder/ab/ab/${hash}`]) {
    await fetch(`${double.url}/${double.bucket}/${place}?uploads`, { method: 'POST', headers });
  }
  const all = double.pendingUploads();
  expect(all).toHaveLength(4);
  for (const upload of all) upload.initiated = new Date(Date.now() - 90_000_000);
  await store.tidy();
  expect(double.pendingUploads()).toEqual(all.slice(0, 3));
});

describe('a read', () => {
  it('that breaks off fails, rather than be short', async () => {
    const key = await put(large);
    double.fail('GetObject', 'cut');
    await expect(buffer(await store.read(key))).rejects.toThrow('aborted');
  });

  it('that is answered with more than its range is refused', async () => {
    const key = await put(small);
    double.fail('GetObject', 'whole');
    const error = await failureOf(store.read(key, { start: 2, end: 4 }));
    expect(error).toMatchObject({ code: 'storage_unavailable' });
    expect(String(error.cause)).toContain('12 bytes came for bytes=2-4');
  });

  it('that is slow keeps nothing but other reads waiting', async () => {
    await store.close();
    store = await openTestStore(double.url, { maxConnections: 1 });
    const slow = await store.read(await put(large));
    const key = await put(small);
    expect(await store.sizeOf(key)).toBe(small.length);
    await store.remove(key);
    await store.check();
    slow.destroy();
  });

  it('is tried again when the storage has too much to do', async () => {
    const key = await put(small);
    double.fail('GetObject', 'unavailable', 'reset');
    expect((await buffer(await store.read(key))).equals(small)).toBe(true);
  });
});

it('says that it is out of reach when nobody answers', async () => {
  await double.stop();
  expect(await failureOf(store.check())).toMatchObject({ code: 'storage_unavailable' });
  expect(await failureOf(put(small))).toMatchObject({ code: 'storage_unavailable' });
  expect(await failureOf(store.read(newFileKey('0'.repeat(64))))).toMatchObject({
    code: 'storage_unavailable',
  });
  expect(await readdir(dir)).toEqual([]);
  double = await startS3Double();
});

it('is not well when the bucket cannot be used', async () => {
  double.fail('HeadBucket', 'denied');
  expect(await failureOf(store.check())).toMatchObject({ code: 'storage_unavailable' });
  await store.check();
});
