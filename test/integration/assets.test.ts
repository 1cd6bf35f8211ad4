import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request as openRequest } from 'node:http';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { blake3 } from 'hash-wasm';
import { fetch, FormData } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { assetSchema } from '../../src/assets/asset.ts';
import { createLocalDiskStore } from '../../src/assets/local-disk.ts';
import { createS3Store, type S3StoreOptions } from '../../src/assets/s3.ts';
import { assetRoutes } from '../../src/assets/routes.ts';
import { createAssets, type Assets } from '../../src/assets/service.ts';
import type { AssetStore } from '../../src/assets/store.ts';
import { loadConfig } from '../../src/config.ts';
import { createSignedLinks } from '../../src/http/signed-links.ts';
import { systemClock } from '../../src/support/clock.ts';
import { createLogger } from '../../src/support/log.ts';
import { startS3Double, type S3Double } from '../doubles/s3/index.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { watchMemory } from '../support/held-bytes.ts';
import { createTestApp, type TestApp } from '../support/http.ts';

const limitMb = 200;
/** A connection whose rest is still being drained when the app closes holds it up for so long. */
const quickStop = { SHUTDOWN_TIMEOUT_SECONDS: '1' };
const png = Buffer.from(
  '89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000a49444154789c6360000000020001e221bc330000000049454e44ae426082',
  'hex',
);

/** There are no API keys here, so the links are plain. */
const links = createSignedLinks({
  secrets: ['a secret for links that is long enough'],
  lifetimeMs: 86_400_000,
  apiKeys: { any: async () => false },
  clock: systemClock,
});

describe.each(['the local disk', 'S3'] as const)('with files on %s,', (kind) => {
  let dir: string;
  let test: TestDatabase;
  let double: S3Double | null = null;
  let store: AssetStore;
  let assets: Assets;
  const logged: string[] = [];
  let http: TestApp;
  let url: string;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'assets-'));
    test = await createTestDatabase();
    if (kind === 'S3') double = await startS3Double();
    store =
      double === null
        ? createLocalDiskStore({ dir })
        : await createS3Store(settingsFor(double, join(dir, 'tmp')));
    assets = createTestAssets();
    http = await createTestApp({ routes: [assetRoutes(assets, links)], settings: quickStop });
    url = await http.app.listen({ host: '127.0.0.1', port: 0 });
  });

  afterAll(async () => {
    await http.app.close();
    await store.close();
    await double?.stop();
    await test.stop();
    await rm(dir, { recursive: true });
  });

  function createTestAssets(settings: Record<string, string> = {}, ofStore = store): Assets {
    const config = loadConfig({ LOG_LEVEL: 'error', UPLOAD_LIMIT_MB: String(limitMb), ...settings });
    const log = createLogger(config, { write: (line) => void logged.push(line) });
    return createAssets({ db: test.database.db, store: ofStore, config, log });
  }

  async function upload(
    body: Buffer | string | FormData,
    { type, query = '' }: { type?: string; query?: string } = {},
  ) {
    const headers = type === undefined ? {} : { 'content-type': type };
    const response = await fetch(`${url}/assets${query}`, { method: 'POST', body, headers });
    const answer: unknown = await response.json();
    return { status: response.status, answer };
  }

  async function uploaded(...args: Parameters<typeof upload>) {
    const { status, answer } = await upload(...args);
    return { status, asset: assetSchema.parse(answer) };
  }

  function form(
    ...files: { field?: string; bytes: Buffer | string; name: string; type?: string }[]
  ): FormData {
    const data = new FormData();
    for (const { field = 'file', bytes, name, type = '' } of files) {
      data.append(field, new Blob([bytes], { type }), name);
    }
    return data;
  }

  const content = (id: string, headers: Record<string, string> = {}, method = 'GET', query = '') =>
    fetch(`${url}/assets/${id}/content${query}`, { method, headers });

  /** A text that no other test stores. */
  const fresh = (): string => randomBytes(16).toString('hex');

  const temporaryFiles = () => readdir(join(dir, 'tmp'));

  /** The name of an asset's file in the store. */
  async function keyOf(id: string): Promise<string> {
    const row = await test.database.db
      .selectFrom('assets')
      .select('stored_as')
      .where('id', '=', id)
      .executeTakeFirstOrThrow();
    return row.stored_as;
  }

  describe('an upload', () => {
    it('of a form stores the file, and knows it the next time', async () => {
      const bytes = Buffer.concat([png, randomBytes(8)]);
      const first = await uploaded(form({ bytes, name: 'Größe 猫.png' }));
      expect(first).toMatchObject({
        status: 201,
        asset: {
          id: await blake3(bytes),
          sizeBytes: bytes.length,
          contentType: 'image/png',
          fileName: 'Größe 猫.png',
        },
      });
      const second = await uploaded(form({ bytes, name: 'Größe 猫.png' }));
      expect(second).toEqual({ status: 200, asset: first.asset });
      const found = await fetch(`${url}/assets/${first.asset.id}`);
      expect(await found.json()).toEqual(first.asset);
    });

    it('of known bytes has its own name and type, which are those of the asset from then on', async () => {
      const bytes = fresh();
      const first = await uploaded(form({ bytes, name: 'notes.txt', type: 'text/plain' }));
      const second = await uploaded(form({ bytes, name: 'notes.md', type: 'text/markdown' }));
      expect(second).toEqual({
        status: 200,
        asset: { ...first.asset, fileName: 'notes.md', contentType: 'text/markdown' },
      });
      // What an upload does not say stays as it was.
      const third = await uploaded(Buffer.from(bytes));
      expect(third).toEqual({ status: 200, asset: second.asset });
      const response = await content(first.asset.id);
      expect(response.headers.get('content-disposition')).toContain('notes.md');
      expect(await response.text()).toBe(bytes);
    });

    it('of known bytes that a job produced before shows what it says, and a result changes no name', async () => {
      const bytes = fresh();
      const save = (fileName: string) =>
        assets.save(Readable.from([bytes]), { fileName, contentType: 'text/plain', isResult: true });
      const { asset: result } = await save('result_00001_.txt');
      expect(result.fileName).toBe('result_00001_.txt');
      const { asset } = await uploaded(form({ bytes, name: 'mine.txt', type: 'text/plain' }));
      expect(asset).toMatchObject({ id: result.id, fileName: 'mine.txt' });
      expect((await save('result_00002_.txt')).asset.fileName).toBe('result_00002_.txt');
      expect(await assets.get(asset.id)).toMatchObject({ fileName: 'mine.txt' });
    });

    it('restores the bytes of an asset that the store has lost', async () => {
      const bytes = fresh();
      const { asset } = await uploaded(bytes);
      await store.remove(await keyOf(asset.id));
      expect(await uploaded(bytes)).toMatchObject({ status: 200, asset: { id: asset.id } });
      expect(await (await content(asset.id)).text()).toBe(bytes);
    });

    it.each([
      ['JSON', 'application/json', 'application/json'],
      ['JSON with a charset', 'application/json; charset=utf-8', 'application/json'],
      ['text', 'text/plain', 'text/plain'],
      ['bytes', 'application/octet-stream', 'application/octet-stream'],
      ['a type of its own', 'application/x-latent', 'application/x-latent'],
    ])('of a body takes %s as it is', async (_kind, type, stored) => {
      const body = `{"a": ${fresh()}`;
      const { status, asset } = await uploaded(body, { type });
      expect({ status, type: asset.contentType }).toEqual({ status: 201, type: stored });
      expect(await (await content(asset.id)).text()).toBe(body);
    });

    it('of a body takes its name from the query', async () => {
      const { asset } = await uploaded(Buffer.from(fresh()), { query: '?fileName=a%2Fdata.json' });
      expect(asset).toMatchObject({ fileName: 'data.json', contentType: 'application/json' });
    });

    it.each([
      ['no file', () => form(), 'file'],
      ['two files', () => form({ bytes: 'a', name: 'a' }, { bytes: 'b', name: 'b' }), 'file'],
      ['a file in another field', () => form({ field: 'image', bytes: 'a', name: 'a' }), 'image'],
      ['a text before the file', () => withText('overwrite'), 'overwrite'],
    ])('of a form with %s is refused', async (_kind, body, field) => {
      expect(await upload(body())).toMatchObject({
        status: 400,
        answer: { code: 'invalid_request', field },
      });
    });

    it('of nothing is refused', async () => {
      const response = await fetch(`${url}/assets`, { method: 'POST' });
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ code: 'invalid_request', field: 'file' });
    });

    it('that names no boundary is refused', async () => {
      expect(await upload('x', { type: 'multipart/form-data' })).toMatchObject({ status: 400 });
    });

    it('of the same file by two at once is new to one of them', async () => {
      const bytes = Buffer.from(fresh());
      const both = await Promise.all([uploaded(bytes), uploaded(bytes)]);
      expect(new Set(both.map(({ status }) => status))).toEqual(new Set([200, 201]));
      expect(both[0].asset).toEqual(both[1].asset);
    });

    it('is answered however long the storage takes: its connection may be silent', async () => {
      let socket: Socket | undefined;
      const limits: unknown[] = [];
      const slow: AssetStore = {
        ...store,
        receive: (stream, options, use) =>
          store.receive(stream, options, (file) => {
            limits.push(socket?.timeout);
            return use(file);
          }),
      };
      const { app } = await createTestApp({ routes: [assetRoutes(createTestAssets({}, slow), links)] });
      app.server.once('connection', (opened: Socket) => (socket = opened));
      try {
        const slowUrl = await app.listen({ host: '127.0.0.1', port: 0 });
        const response = await fetch(`${slowUrl}/assets`, { method: 'POST', body: fresh() });
        expect(response.status).toBe(201);
        expect(limits).toEqual([0]);
      } finally {
        await app.close();
      }
    });

    it('that breaks off leaves nothing', async () => {
      const request = openRequest(`${url}/assets`, {
        method: 'POST',
        headers: { 'content-type': 'text/plain', 'content-length': 1000 },
      });
      request.on('error', () => {});
      request.write(fresh());
      await expect.poll(temporaryFiles).toHaveLength(1);
      request.destroy();
      await expect.poll(temporaryFiles).toEqual([]);
    });

    it('of a form that breaks off leaves nothing', async () => {
      const request = openRequest(`${url}/assets`, {
        method: 'POST',
        headers: { 'content-type': 'multipart/form-data; boundary=b', 'content-length': 1000 },
      });
      request.on('error', () => {});
      request.write('--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nhalf of it');
      await expect.poll(temporaryFiles).toHaveLength(1);
      request.destroy();
      await expect.poll(temporaryFiles).toEqual([]);
    });

    it('of a form that ends too early is refused', async () => {
      const body = '--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nhalf of it';
      expect(await upload(body, { type: 'multipart/form-data; boundary=b' })).toMatchObject({ status: 400 });
      expect(await temporaryFiles()).toEqual([]);
    });
  });

  describe('an upload beyond the limit', () => {
    let small: TestApp;
    let smallUrl: string;

    beforeAll(async () => {
      small = await createTestApp({
        routes: [assetRoutes(createTestAssets({ UPLOAD_LIMIT_MB: '1' }), links)],
        settings: quickStop,
      });
      smallUrl = await small.app.listen({ host: '127.0.0.1', port: 0 });
    });

    afterAll(() => small.app.close());

    const tooLarge = { status: 413, answer: { code: 'payload_too_large' } };
    const post = async (body: Buffer | FormData) => {
      const response = await fetch(`${smallUrl}/assets`, { method: 'POST', body });
      const answer: unknown = await response.json();
      return { status: response.status, answer };
    };

    it('is refused at its announcement', async () => {
      expect(await post(Buffer.alloc(1_000_001))).toMatchObject(tooLarge);
    });

    it('is refused as a form', async () => {
      expect(await post(form({ bytes: Buffer.alloc(3_000_000), name: 'a' }))).toMatchObject(tooLarge);
      expect(await temporaryFiles()).toEqual([]);
    });

    it('is refused when it comes without a length, and the client, still sending, gets the answer', async () => {
      // By hand, because HTTP clients stop sending at an early answer.
      const socket = connect(Number(new URL(smallUrl).port), '127.0.0.1');
      socket.write('POST /assets HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n');
      const chunk = Buffer.concat([Buffer.from('f4240\r\n'), Buffer.alloc(1_000_000), Buffer.from('\r\n')]);
      for (let sent = 0; sent < 20; sent += 1) {
        if (!socket.write(chunk)) await once(socket, 'drain');
      }
      socket.end('0\r\n\r\n');
      expect((await buffer(socket)).toString()).toMatch(/^HTTP\/1.1 413 /);
      expect(await temporaryFiles()).toEqual([]);
    });

    it('is not refused at the limit itself', async () => {
      expect(await post(Buffer.alloc(1_000_000))).toMatchObject({ status: 201 });
    });
  });

  describe('the bytes of an asset', () => {
    let id: string;

    beforeAll(async () => {
      ({ id } = (await uploaded('0123456789', { type: 'text/plain', query: '?fileName=ten.txt' })).asset);
    });

    it('come with what a browser needs to keep and show them', async () => {
      const response = await content(id);
      expect(response.status).toBe(200);
      expect(Object.fromEntries(response.headers)).toMatchObject({
        'content-type': 'text/plain; charset=utf-8',
        'content-length': '10',
        'content-disposition': 'inline; filename=ten.txt',
        'cache-control': 'private, max-age=31536000, immutable',
        'accept-ranges': 'bytes',
        'x-content-type-options': 'nosniff',
        'content-security-policy': expect.stringContaining("media-src 'self'"),
        'cross-origin-resource-policy': 'cross-origin',
        etag: `"${id}"`,
      });
      expect(await response.text()).toBe('0123456789');
    });

    it('can be saved instead', async () => {
      const response = await content(id, {}, 'GET', '?download=true');
      expect(response.headers.get('content-disposition')).toBe('attachment; filename=ten.txt');
      await response.text();
    });

    it.each([
      ['bytes=2-4', '234', 'bytes 2-4/10'],
      ['bytes=7-', '789', 'bytes 7-9/10'],
      ['bytes=-2', '89', 'bytes 8-9/10'],
      ['bytes=-20', '0123456789', 'bytes 0-9/10'],
      ['bytes=8-100', '89', 'bytes 8-9/10'],
      ['bytes=0-0', '0', 'bytes 0-0/10'],
    ])('of the range %s are %s', async (range, text, contentRange) => {
      const response = await content(id, { range });
      expect(response.status).toBe(206);
      expect(response.headers.get('content-range')).toBe(contentRange);
      expect(response.headers.get('content-length')).toBe(String(text.length));
      expect(await response.text()).toBe(text);
    });

    it.each(['bytes=10-', 'bytes=100-200', 'bytes=-0', 'bytes=10-,20-30'])(
      'do not exist for %s',
      async (range) => {
        const response = await content(id, { range });
        expect(response.status).toBe(416);
        expect(response.headers.get('content-range')).toBe('bytes */10');
        expect(response.headers.get('cache-control')).not.toContain('immutable');
        expect(await response.json()).toMatchObject({ code: 'range_not_satisfiable' });
      },
    );

    it.each(['bytes=4-2', 'bytes=a-b', 'bytes', 'lines=1-2', 'bytes=0-1,4-5', 'bytes=0-1,99-'])(
      'come whole for %s',
      async (range) => {
        const response = await content(id, { range });
        expect(response.status).toBe(200);
        expect(await response.text()).toBe('0123456789');
      },
    );

    it('come in part only while the copy of the client is still the same', async () => {
      const same = await content(id, { range: 'bytes=0-1', 'if-range': `"${id}"` });
      expect([same.status, await same.text()]).toEqual([206, '01']);
      for (const ifRange of ['"other"', `W/"${id}"`, 'Wed, 21 Oct 2015 07:28:00 GMT']) {
        const other = await content(id, { range: 'bytes=0-1', 'if-range': ifRange });
        expect([other.status, await other.text()]).toEqual([200, '0123456789']);
      }
    });

    it('are not sent to whom has them', async () => {
      for (const tag of [`"${id}"`, `W/"${id}"`, `"other", "${id}"`, '*']) {
        const response = await content(id, { 'if-none-match': tag });
        expect([response.status, await response.text()]).toEqual([304, '']);
        expect(response.headers.get('etag')).toBe(`"${id}"`);
      }
      const response = await content(id, { 'if-none-match': '"other"' });
      expect([response.status, await response.text()]).toEqual([200, '0123456789']);
    });

    it('are described by HEAD, and not read for it', async () => {
      const response = await content(id, { range: 'bytes=0-1' }, 'HEAD');
      expect(response.status).toBe(200);
      expect(response.headers.get('content-length')).toBe('10');
      expect(response.headers.get('etag')).toBe(`"${id}"`);
      expect(await response.text()).toBe('');
    });

    it.each([
      ['HTML', '<script>alert(1)</script>', 'text/html'],
      ['SVG', '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', 'image/svg+xml'],
      ['XML', '<?xml version="1.0"?><a/>', 'application/xml'],
      ['JavaScript', 'alert(1)', 'text/javascript'],
    ])('of %s are never run by a browser', async (_kind, text, type) => {
      const { asset } = await uploaded(text, { type });
      const response = await content(asset.id);
      expect(response.headers.get('content-disposition')).toBe('attachment');
      expect(response.headers.get('content-security-policy')).toBe("default-src 'none'; sandbox");
      expect(response.headers.get('x-content-type-options')).toBe('nosniff');
      expect(await response.text()).toBe(text);
    });

    it('of an empty file are none', async () => {
      const { asset } = await uploaded(form({ bytes: '', name: 'empty' }));
      const whole = await content(asset.id);
      expect([whole.status, await whole.text()]).toEqual([200, '']);
      const part = await content(asset.id, { range: 'bytes=0-' });
      expect(part.status).toBe(416);
      await part.text();
    });

    it('that are lost are not found, rather than cut short', async () => {
      const { asset } = await uploaded(fresh());
      const key = await keyOf(asset.id);
      await store.remove(key);
      logged.length = 0;
      const response = await content(asset.id);
      expect(response.status).toBe(404);
      expect(response.headers.get('cache-control')).not.toContain('immutable');
      const problem = z.object({ code: z.string(), detail: z.string() }).parse(await response.json());
      expect(problem.code).toBe('asset_not_found');
      expect(problem.detail).toMatch(/has lost the bytes of asset \w+\. Upload the file again/);
      expect(problem.detail).not.toContain(key);
      expect(logged.map((line) => JSON.parse(line))).toMatchObject([
        { level: 'error', assetId: asset.id, storedAs: key },
      ]);
    });

    it.each([
      ['more', [], ['01234', '56789, HTTP/1.1 200 OK and so on'], '01234'],
      ['more', ['range: bytes=0-6'], ['01234', '56789'], '01234'],
      ['fewer', [], ['01234', '56'], '0123456'],
    ])('that come as %s than announced (%j) end with the connection', async (_, range, chunks, sent) => {
      const lying = { ...store, read: async () => Readable.from(chunks.map((chunk) => Buffer.from(chunk))) };
      const lyingAssets = createTestAssets({}, lying);
      const { app } = await createTestApp({ routes: [assetRoutes(lyingAssets, links)], settings: quickStop });
      try {
        const address = await app.listen({ host: '127.0.0.1', port: 0 });
        const socket = connect(Number(new URL(address).port), '127.0.0.1');
        socket.setTimeout(2000, () => socket.destroy(new Error('The connection stays open.')));
        const head = [`GET /assets/${id}/content HTTP/1.1`, 'host: localhost', ...range];
        socket.write(`${head.join('\r\n')}\r\n\r\n`);
        const [, body] = (await buffer(socket)).toString().split('\r\n\r\n');
        expect(body).toBe(sent);
      } finally {
        await app.close();
      }
    });

    it.each(['', '/content'])('of an unknown asset are not found (%s)', async (path) => {
      const response = await fetch(`${url}/assets/${'0'.repeat(64)}${path}`);
      expect(response.status).toBe(404);
      expect(await response.json()).toMatchObject({ code: 'asset_not_found' });
    });

    it('of what is no id are a mistake', async () => {
      const response = await fetch(`${url}/assets/..%2f..%2fetc%2fpasswd/content`);
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ code: 'invalid_request', field: 'id' });
    });
  });

  describe('an asset from a URL', () => {
    it('is fetched, named and typed', async () => {
      const sender = createServer((_request, response) => {
        response.writeHead(200, { 'content-type': 'text/html' }).end(png);
      });
      sender.listen(0, '127.0.0.1');
      await once(sender, 'listening');
      try {
        const { port } = z.object({ port: z.number() }).parse(sender.address());
        const source = `http://127.0.0.1:${port}/folder/cat.png?token=secret`;
        const allowed = createTestAssets({ INPUT_URL_ALLOWED_HOSTS: `127.0.0.1:${port}` });
        const asset = await allowed.saveFromUrl(source, {});
        expect(asset).toMatchObject({ id: await blake3(png), contentType: 'image/png', fileName: 'cat.png' });
        expect(await allowed.get(asset.id)).toEqual(asset);
        // Without the setting, the same server is out of reach.
        await expect(assets.saveFromUrl(source, { field: 'inputs[2].url' })).rejects.toMatchObject({
          code: 'invalid_input',
          field: 'inputs[2].url',
        });
      } finally {
        sender.closeAllConnections();
        sender.close();
      }
    });
  });

  describe('a large file', () => {
    const sizeBytes = 14_000_000;
    const atBytes = 8_000_000;
    const limitBytes = 2_000_000;

    it('passes through in both directions without being held in memory', async () => {
      const watched = watchMemory({ atBytes, limitBytes });
      const sent = watched(pieces(sizeBytes));
      const response = await fetch(`${url}/assets`, {
        method: 'POST',
        headers: { 'content-type': 'application/octet-stream' },
        body: sent.chunks,
        duplex: 'half',
      });
      const asset = assetSchema.parse(await response.json());
      expect(asset.sizeBytes).toBe(sizeBytes);
      expect(sent.heldBytes()).toBeLessThan(limitBytes);

      const received = watched((await content(asset.id)).body ?? Readable.from([]));
      let receivedBytes = 0;
      for await (const chunk of received.chunks) receivedBytes += chunk.length;
      expect(receivedBytes).toBe(sizeBytes);
      expect(received.heldBytes()).toBeLessThan(limitBytes);
    });
  });
});

async function* pieces(totalBytes: number): AsyncGenerator<Uint8Array> {
  const piece = randomBytes(64_000);
  for (let sent = 0; sent < totalBytes; sent += piece.length) yield piece.subarray(0, totalBytes - sent);
}

function withText(field: string): FormData {
  const data = new FormData();
  data.append(field, 'true');
  data.append('file', new Blob(['a']), 'a');
  return data;
}

function settingsFor(double: S3Double, temporaryDir: string): S3StoreOptions {
  const { url: endpoint, bucket, accessKeyId, secretAccessKey } = double;
  const credentials = { accessKeyId, secretAccessKey };
  return {
    endpoint,
    bucket,
    credentials,
    region: 'us-east-1',
    forcePathStyle: true,
    prefix: '',
    temporaryDir,
  };
}
