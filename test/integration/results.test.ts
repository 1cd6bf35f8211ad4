// Results as a caller gets them: through the whole service, with files in S3, and links that a browser can open.
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { z } from 'zod';
import type { assetSchema } from '../../src/assets/asset.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { startS3Double, type S3Double } from '../doubles/s3/index.ts';
import { startTestService, type TestService } from '../support/service.ts';
import { fresh } from '../support/jobs.ts';
import { emptyImage } from '../support/workflows.ts';

type Asset = z.output<typeof assetSchema>;

const key = 'a-key-that-is-long-enough-to-be-one';
const withKey = { authorization: `Bearer ${key}` };

let comfy: ComfyDouble;
let s3: S3Double;
let service: TestService;

beforeAll(async () => {
  comfy = await startComfyDouble();
  s3 = await startS3Double();
  service = await startTestService({
    comfyUrls: [comfy.url],
    env: {
      API_KEYS: `alice=${key}`,
      ASSET_STORE: 's3',
      S3_ENDPOINT: s3.url,
      S3_BUCKET: s3.bucket,
      S3_ACCESS_KEY_ID: s3.accessKeyId,
      S3_SECRET_ACCESS_KEY: s3.secretAccessKey,
    },
  });
});

afterAll(async () => {
  await service.stop();
  await s3.stop();
  await comfy.stop();
});

const call = async <T>(path: string, init: RequestInit & { json?: unknown } = {}): Promise<T> =>
  (await service.call<T>(path, { ...init, headers: withKey })).body;
/** As a browser does it: with nothing but the link. */
const open = (link: string, init?: RequestInit) => fetch(service.url + link, init);

async function succeeded(): Promise<JobView> {
  const { id } = await call<JobView>('/jobs', { method: 'POST', json: { workflow: fresh(emptyImage) } });
  const events = await fetch(`${service.url}/jobs/${id}/events`, { headers: withKey });
  await events.text();
  return call<JobView>(`/jobs/${id}`);
}

function outputOf(job: JobView): JobView['outputs'][number] {
  const [output] = job.outputs;
  if (output === undefined) throw new Error(`The job has no output: ${JSON.stringify(job)}`);
  return output;
}

it('lie in the bucket, and open from the link alone, whole, in part, or not at all where the browser has them', async () => {
  const output = outputOf(await succeeded());
  expect(output).toMatchObject({ contentType: 'image/png', kind: 'image', expiredAt: null });
  expect(s3.keys().filter((place) => place.includes(output.assetId ?? '?'))).toHaveLength(1);

  const whole = await open(output.url);
  const bytes = Buffer.from(await whole.arrayBuffer());
  expect([whole.status, bytes.length]).toEqual([200, output.sizeBytes]);
  expect(Object.fromEntries(whole.headers)).toMatchObject({
    'content-type': 'image/png',
    'content-disposition': `inline; filename=${output.name}`,
    'cache-control': 'private, max-age=31536000, immutable',
    'accept-ranges': 'bytes',
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    etag: `"${output.assetId}"`,
  });

  const part = await open(output.url, { headers: { range: 'bytes=1-3' } });
  expect([part.status, await part.text()]).toEqual([206, 'PNG']);
  const etag = `"${output.assetId}"`;
  const sameStill = await open(output.url, { headers: { range: 'bytes=1-3', 'if-range': etag } });
  expect([sameStill.status, await sameStill.text()]).toEqual([206, 'PNG']);
  const another = await open(output.url, { headers: { range: 'bytes=1-3', 'if-range': '"other"' } });
  expect([another.status, (await another.arrayBuffer()).byteLength]).toEqual([200, bytes.length]);
  const beyond = await open(output.url, { headers: { range: 'bytes=100000-' } });
  expect([beyond.status, beyond.headers.get('content-range')]).toEqual([416, `bytes */${bytes.length}`]);
  await beyond.text();
  const known = await open(output.url, { headers: { 'if-none-match': etag } });
  expect([known.status, await known.text()]).toEqual([304, '']);
  const head = await open(output.url, { method: 'HEAD' });
  expect([head.status, head.headers.get('content-length')]).toEqual([200, String(bytes.length)]);
  const saved = await open(`${output.url}&download=true`);
  expect(saved.headers.get('content-disposition')).toBe(`attachment; filename=${output.name}`);
  await saved.arrayBuffer();
});

it('do not open without a link, with that of another file, or for another method', async () => {
  const [one, other] = [outputOf(await succeeded()), outputOf(await succeeded())];
  const [path = '', query = ''] = one.url.split('?');
  const [otherPath = ''] = other.url.split('?');
  const statusOf = async (link: string, init?: RequestInit) => {
    const answer = await open(link, init);
    await answer.text();
    return answer.status;
  };
  expect(await statusOf(path)).toBe(401);
  expect(await statusOf(`${otherPath}?${query}`)).toBe(403);
  expect(await statusOf(one.url, { method: 'DELETE' })).not.toBe(200);
  expect(await statusOf(path.replace(/\/outputs.*/, `?${query}`))).toBe(401);
});

it('come in events with links that open, now and when the events are read again', async () => {
  const job = await succeeded();
  const stream = async (headers: Record<string, string>) => {
    const answer = await fetch(`${service.url}/jobs/${job.id}/events`, {
      headers: { ...withKey, ...headers },
    });
    const urls = (await answer.text()).matchAll(/"url":"([^"]+)"/g);
    return [...urls].map(([, url = '']) => url);
  };
  for (const urls of [await stream({}), await stream({ 'last-event-id': '1' })]) {
    expect(urls.length).toBeGreaterThan(0);
    for (const url of urls) {
      const answer = await open(url);
      expect([answer.status, (await answer.arrayBuffer()).byteLength]).toEqual([
        200,
        outputOf(job).sizeBytes,
      ]);
    }
  }
});

it('and uploads are linked alike, for as long as the caller says', async () => {
  const asset = await call<Asset>('/assets?fileName=note.txt', { method: 'POST', body: 'a note' });
  expect(await (await open(asset.url)).text()).toBe('a note');
  expect(await call<Asset>(`/assets/${asset.id}`)).toMatchObject({ url: asset.url, fileName: 'note.txt' });

  const link = await call<{ url: string; expiresAt: string }>(`/assets/${asset.id}/links`, {
    method: 'POST',
    json: { expiresInSeconds: 3600 },
  });
  expect(Math.abs(Date.parse(link.expiresAt) - Date.now() - 3_600_000)).toBeLessThan(60_000);
  expect(await (await open(link.url)).text()).toBe('a note');
  const usual = await call<{ url: string }>(`/assets/${asset.id}/links`, { method: 'POST' });
  expect(await (await open(usual.url)).text()).toBe('a note');
  const refused = await service.call(`/assets/${asset.id}/links`, {
    method: 'POST',
    headers: withKey,
    json: { expiresInSeconds: 0 },
  });
  expect(refused).toMatchObject({ status: 400, body: { field: 'expiresInSeconds' } });
});

it('are waited for while the storage has no room', async () => {
  s3.fail('PutObject', 'full', 'full');
  const output = outputOf(await succeeded());
  expect((await open(output.url)).status).toBe(200);
});

it('that the storage cannot give are a 503 that says so, and no half an answer', async () => {
  const output = outputOf(await succeeded());
  s3.fail('GetObject', 'denied');
  const answer = await open(output.url);
  expect(answer.headers.get('retry-after')).toBe('60');
  expect(await answer.json()).toMatchObject({ status: 503, code: 'storage_unavailable' });
});
