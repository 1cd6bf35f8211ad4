// The recorded workflows through the whole service and `COMFYUI_URLS`: against the double, or against the server of COMFYUI_URL.
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { isFinal, type Workflow } from '../../src/jobs/job.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { fresh } from '../support/jobs.ts';
import { startTestService, type TestService } from '../support/service.ts';
import {
  emptyImage,
  failingRegex,
  failingSave,
  scaledImage,
  slowFrames,
  slowList,
  video,
} from '../support/workflows.ts';

const realUrl = process.env['COMFYUI_URL'];
/** A real server on a CPU takes its time. */
const limitMs = realUrl === undefined ? 20_000 : 120_000;

let double: ComfyDouble | undefined;
let service: TestService;
let comfyUrl: string;

beforeAll(async () => {
  double = realUrl === undefined ? await startComfyDouble({ knobs: { itemMs: 5, frameMs: 20 } }) : undefined;
  comfyUrl = realUrl ?? double?.url ?? '';
  service = await startTestService({ comfyUrls: [comfyUrl] });
});
afterAll(async () => {
  await service.stop();
  await double?.stop();
});

async function submit(workflow: Workflow, inputs: object[] = []): Promise<string> {
  const answer = await service.call<JobView>('/jobs', {
    method: 'POST',
    json: { workflow: fresh(workflow), inputs },
  });
  expect(answer.status).toBe(201);
  return answer.body.id;
}

const ended = (id: string) => service.until<JobView>(`/jobs/${id}`, ({ status }) => isFinal(status), limitMs);

async function uploadPicture(): Promise<string> {
  const png = await sharp({
    create: { width: 120, height: 80, channels: 3, background: { r: 200, g: 60, b: 20 } },
  })
    .png()
    .toBuffer();
  const form = new FormData();
  form.set('file', new Blob([new Uint8Array(png)]), 'picture.png');
  return (await service.call<{ id: string }>('/assets', { method: 'POST', body: form })).body.id;
}

async function download(job: JobView): Promise<{ name: string; type: string | null; bytes: Buffer }> {
  const [output] = job.outputs;
  if (output?.url == null) throw new Error(`No output with a file: ${JSON.stringify(job)}`);
  const answer = await fetch(service.url + output.url);
  expect(answer.status).toBe(200);
  return {
    name: output.name,
    type: answer.headers.get('content-type'),
    bytes: Buffer.from(await answer.arrayBuffer()),
  };
}

/** What ComfyUI itself still has to do. */
async function queueRemaining(): Promise<number> {
  const answer = (await (await fetch(`${comfyUrl}/prompt`)).json()) as {
    exec_info: { queue_remaining: number };
  };
  return answer.exec_info.queue_remaining;
}

async function cancelWhenExecuting(workflow: Workflow): Promise<JobView> {
  const id = await submit(workflow);
  await service.until<JobView>(`/jobs/${id}`, ({ progress }) => progress?.phase === 'executing', limitMs);
  expect((await service.call(`/jobs/${id}/cancel`, { method: 'POST' })).status).toBe(200);
  return ended(id);
}

describe(`the recorded workflows against ${realUrl ?? 'the double'}`, { timeout: limitMs * 2 }, () => {
  it('a: an image out of nothing', async () => {
    const job = await ended(await submit(emptyImage));
    expect(job).toMatchObject({ status: 'succeeded', error: null });
    const { type, bytes, name } = await download(job);
    expect([type, name]).toEqual(['image/png', 'empty_00001_.png']);
    expect(await sharp(bytes).metadata()).toMatchObject({ format: 'png', width: 64, height: 48 });
  });

  it('b: an uploaded picture, scaled and inverted', async () => {
    const assetId = await uploadPicture();
    const job = await ended(await submit(scaledImage, [{ node: '1', input: 'image', assetId }]));
    expect(job).toMatchObject({ status: 'succeeded', error: null });
    const { bytes } = await download(job);
    const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
    expect(info).toMatchObject({ width: 96, height: 64 });
    // The inverse of the picture's color; a float on its way through ComfyUI may round either way.
    for (const [channel, value] of [55, 195, 235].entries()) {
      expect(Math.abs((data[channel] ?? 0) - value)).toBeLessThanOrEqual(1);
    }
  });

  it('c: a video of an uploaded picture', async () => {
    const assetId = await uploadPicture();
    const job = await ended(await submit(video, [{ node: '1', input: 'image', assetId }]));
    expect(job).toMatchObject({ status: 'succeeded', error: null });
    const { type, bytes, name } = await download(job);
    expect([type, name]).toEqual(['video/mp4', 'video_00001_.mp4']);
    expect(bytes.subarray(4, 8).toString()).toBe('ftyp');
  });

  it("d: a failure in a node, with the node's own words", async () => {
    const job = await ended(await submit(failingSave));
    expect(job).toMatchObject({
      status: 'failed',
      error: { code: 'node_error', nodeId: '2', nodeType: 'SaveImage', exceptionType: 'Exception' },
    });
  });

  it("d2: another failure, with the node's own words", async () => {
    const job = await ended(await submit(failingRegex));
    expect(job).toMatchObject({
      status: 'failed',
      error: { code: 'node_error', nodeId: '2', nodeType: 'RegexReplace', exceptionType: 're.error' },
    });
  });

  it('e: a cancel that really stops a run without progress events', async () => {
    const job = await cancelWhenExecuting(slowList);
    expect(job).toMatchObject({ status: 'canceled', outputs: [] });
    expect(await queueRemaining()).toBe(0);
  });

  it('f: a cancel that really stops a run with progress', async () => {
    const job = await cancelWhenExecuting(slowFrames);
    expect(job).toMatchObject({ status: 'canceled', outputs: [] });
    expect(await queueRemaining()).toBe(0);
  });
});
