// The main job, seen from outside: a picture goes in, a video comes out.
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import type { JobView } from '../../src/jobs/presentation.ts';
import { video } from './workflows.ts';

/** Uploads a picture, makes a video of it with a service, and downloads the video. Rejects when the job does not succeed. */
export async function makeVideo(url: string, headers: Record<string, string> = {}): Promise<Uint8Array> {
  const picture = await sharp({ create: { width: 64, height: 48, channels: 3, background: '#c04020' } })
    .png()
    .toBuffer();
  const form = new FormData();
  form.append('file', new Blob([new Uint8Array(picture)], { type: 'image/png' }), 'picture.png');
  const asset = await read<{ id: string }>(`${url}/assets`, { method: 'POST', body: form, headers });
  const request = { workflow: video, inputs: [{ node: '1', input: 'image', assetId: asset.id }] };
  const { id } = await read<JobView>(`${url}/jobs`, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify(request),
  });
  const job = await finished(`${url}/jobs/${id}`, headers);
  const [output] = job.outputs;
  if (job.status !== 'succeeded' || output === undefined) throw new Error(JSON.stringify(job));
  const answer = await fetch(url + output.url, { headers });
  if (!answer.ok) throw new Error(`The video was not sent: ${answer.status}`);
  return answer.bytes();
}

async function finished(jobUrl: string, headers: Record<string, string>): Promise<JobView> {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const job = await read<JobView>(jobUrl, { headers });
    if (job.finishedAt !== null || performance.now() > deadline) return job;
    await delay(50);
  }
}

async function read<T>(url: string, init: RequestInit): Promise<T> {
  const answer = await fetch(url, init);
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}: ${await answer.text()}`);
  return (await answer.json()) as T;
}
