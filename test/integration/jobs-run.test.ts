import { randomBytes, randomInt } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { sql } from 'kysely';
import sharp from 'sharp';
import { describe, expect, it, onTestFinished } from 'vitest';
import { createSessions } from '../../src/instances/sessions.ts';
import { closeSlots } from '../../src/jobs/placement.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { runAttempt } from '../../src/jobs/run.ts';
import { COLLECTING_PER_INSTANCE } from '../../src/jobs/slots.ts';
import { openHurriedDatabase } from '../support/watched-database.ts';
import { fresh } from '../support/jobs.ts';
import {
  bench,
  counted,
  executing,
  fault,
  instanceId,
  instanceRow,
  png,
  readAsset,
  recover,
  requests,
  useOneInstance,
} from '../support/one-instance.ts';
import {
  emptyImage,
  failingRegex,
  failingSave,
  scaledImage,
  slowFrames,
  slowList,
  video,
} from '../support/workflows.ts';

useOneInstance({ INPUT_URL_ALLOWED_HOSTS: '127.0.0.1' });

/** A job whose result cannot be had before the downloads are let go. */
const slowToFetch = async (request = {}) => {
  bench.double.knobs.downloadBytesPerSecond = 20_000;
  bench.double.knobs.nodes['SaveLarge'] = { durationMs: 0, outputCount: 1, outputBytes: 1_000_000 };
  return bench.submit({ '1': { class_type: 'SaveLarge', inputs: { seed: randomInt(2 ** 40) } } }, request);
};
/** Saves two pictures, one of which it does not say. */
const partlyValid = () => ({
  ...fresh(emptyImage),
  '3': { class_type: 'SaveImage', inputs: { filename_prefix: 'e2e/other' } },
});
/** Works on the attempt until `when` has come; then the service stops, and nothing tells ComfyUI. */
async function cutOff(id: string, when: () => Promise<unknown>): Promise<void> {
  const stop = new AbortController();
  const running = bench.run(id, stop.signal);
  await when();
  stop.abort(new Error('The service stops.'));
  await expect(running).rejects.toThrow('The service stops.');
}
const collecting = (job: JobView) => job.attempts.at(-1)?.status === 'collecting';

describe('a job', () => {
  it('runs and leaves its result, its times and its log', async () => {
    const id = await bench.submit(fresh(emptyImage), { metadata: { project: 'x' } });
    const job = await bench.run(id);
    expect(job).toMatchObject({
      status: 'succeeded',
      error: null,
      progress: null,
      instanceId,
      outputs: [
        {
          name: 'empty_00001_.png',
          url: `/jobs/${id}/outputs/empty_00001_.png`,
          kind: 'image',
          nodeId: '2',
          temporary: false,
          contentType: 'image/png',
        },
      ],
      attempts: [{ number: 1, status: 'ended', outcome: 'succeeded', reason: null }],
    });
    const [attempt] = job.attempts;
    const times = [
      attempt?.createdAt,
      attempt?.submittedAt,
      attempt?.startedAt,
      attempt?.executedAt,
      attempt?.endedAt,
    ];
    expect(times.every((time) => typeof time === 'string')).toBe(true);
    expect(times).toEqual(times.toSorted((a, b) => Date.parse(a ?? '') - Date.parse(b ?? '')));
    const events = await bench.database.db
      .selectFrom('job_events')
      .select(['type', 'data'])
      .where('job_id', '=', id)
      .where('type', '<>', 'log')
      .orderBy('id')
      .execute();
    expect(events.map(({ type, data }) => ('status' in data ? data.status : type))).toEqual([
      'queued',
      'running',
      'output',
      'succeeded',
    ]);
  });

  it('is forgotten by ComfyUI when its result is stored', async () => {
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const { attemptId } = await bench.attemptOf(id);
    await bench.run(id);
    expect(await bench.session.client.history(attemptId)).toBeNull();
  });

  it('gets its file by upload, and the same file is uploaded once', async () => {
    const asset = await bench.addAsset(await png(), 'photo.png');
    const inputs = [{ node: '1', input: 'image', assetId: asset.id }];
    const job = await bench.run(await bench.submit(scaledImage, { inputs }));
    expect(job).toMatchObject({ status: 'succeeded', outputs: [{ name: 'scaled_00001_.png' }] });
    const { info } = await sharp(await readAsset(job.outputs[0]?.assetId ?? '')).toBuffer({
      resolveWithObject: true,
    });
    expect(info).toMatchObject({ width: 96, height: 64 });
    expect(counted('uploads')).toBe(1);
  });

  it('makes a video, which is one although ComfyUI lists it under images', async () => {
    const asset = await bench.addAsset(await png(), 'photo.png');
    const inputs = [{ node: '1', input: 'image', assetId: asset.id }];
    const job = await bench.run(await bench.submit(video, { inputs }));
    expect(job).toMatchObject({
      status: 'succeeded',
      outputs: [{ name: 'video_00001_.mp4', kind: 'video', contentType: 'video/mp4' }],
    });
  });

  it('leaves texts as texts', async () => {
    const workflow = {
      '1': { class_type: 'PrimitiveString', inputs: { value: `hello ${randomBytes(4).toString('hex')}` } },
      '2': { class_type: 'PreviewAny', inputs: { source: ['1', 0] } },
    };
    const job = await bench.run(await bench.submit(workflow));
    expect(job.outputs).toMatchObject([
      { name: '2-text.txt', kind: 'text', nodeId: '2', text: workflow['1'].inputs.value, assetId: null },
    ]);
  });

  it('keeps texts as files where they are too long to be shown with it', async () => {
    const [long, short] = [randomBytes(150_000).toString('hex'), randomBytes(4).toString('hex')];
    const shown = (source: string) => ({ class_type: 'PreviewAny', inputs: { source } });
    const id = await bench.submit({ '1': shown(long), '2': shown(short), '3': shown(`${short} again`) });
    const { outputs } = await bench.run(id);
    expect(outputs).toMatchObject([
      { name: '1-text.txt', kind: 'text', contentType: 'text/plain', sizeBytes: 300_000, text: null },
      { name: '2-text.txt', kind: 'text', text: short, assetId: null },
      { name: '3-text.txt', kind: 'text', text: `${short} again`, assetId: null },
    ]);
    expect(String(await readAsset(outputs[0]?.assetId ?? ''))).toBe(long);
  });

  it('runs again when it is submitted again: the cache gives no old file names', async () => {
    const workflow = fresh(emptyImage);
    const first = await bench.run(await bench.submit(workflow));
    const second = await bench.run(await bench.submit(workflow));
    expect(second.outputs[0]?.name).toBe('empty_00001_.png');
    expect([first.status, second.status]).toEqual(['succeeded', 'succeeded']);
    expect(counted('executionsFinished')).toBe(2);
  });

  it.each([
    ['d', failingSave, { nodeId: '2', nodeType: 'SaveImage' }],
    ['d2', failingRegex, { nodeId: '2', nodeType: 'RegexReplace' }],
  ])('that fails in a node says which: %s', async (_name, workflow, where) => {
    const job = await bench.run(await bench.submit(workflow));
    expect(job).toMatchObject({
      status: 'failed',
      error: { code: 'node_error', ...where },
      attempts: [{ outcome: 'failed' }],
    });
    expect(job.error?.detail).toContain(`Node 2 (${where.nodeType}) failed: `);
  });

  it('that runs out of memory is tried once more on the same instance, with its memory freed', async () => {
    bench.double.knobs.outOfMemory = 1;
    const id = await bench.submit(fresh(emptyImage));
    expect(await bench.run(id)).toMatchObject({ status: 'running', attempt: 2, error: null, instanceId });
    expect(requests('POST /free')).toBe(0);
    expect(await bench.run(id)).toMatchObject({
      status: 'succeeded',
      attempts: [
        { outcome: 'failed', reason: expect.stringContaining('ran out of the memory of the GPU') },
        { outcome: 'succeeded' },
      ],
    });
    expect(requests('POST /free')).toBe(1);
  });

  it('that runs out of memory again fails, and says with what it would run', async () => {
    bench.double.knobs.outOfMemory = 2;
    const id = await bench.submit(fresh(emptyImage));
    await bench.run(id);
    expect(await bench.run(id)).toMatchObject({
      status: 'failed',
      error: { code: 'out_of_memory', nodeId: '1', requirements: { minVramGb: 32 } },
      attempts: [{ outcome: 'failed' }, { outcome: 'failed' }],
    });
  });

  it('that needs a model which is not there is not tried again', async () => {
    bench.double.knobs.nodes['CheckpointLoaderSimple'] = {
      durationMs: 0,
      returns: ['MODEL'],
      choices: { ckpt_name: ['there.safetensors'] },
      outputCount: 1,
    };
    const workflow = {
      '1': { class_type: 'CheckpointLoaderSimple', inputs: { ckpt_name: 'missing.safetensors' } },
    };
    const job = await bench.run(await bench.submit(workflow));
    expect(job).toMatchObject({
      status: 'failed',
      attempt: 1,
      error: { code: 'invalid_workflow', nodeErrors: { '1': { errors: [{ type: 'value_not_in_list' }] } } },
    });
  });

  it('that ComfyUI refuses fails with its findings', async () => {
    const workflow = fresh(emptyImage);
    const { '2': save } = workflow;
    delete save?.inputs['images'];
    const job = await bench.run(await bench.submit(workflow));
    expect(job).toMatchObject({
      status: 'failed',
      error: {
        code: 'invalid_workflow',
        detail: 'ComfyUI refuses the workflow. Node 2 (SaveImage): Required input is missing: images.',
        nodeId: '2',
        nodeType: 'SaveImage',
        nodeErrors: { '2': { class_type: 'SaveImage' } },
      },
    });
    expect(counted('executionsStarted')).toBe(0);
  });

  it('that ComfyUI refuses says why in its words, at a length that can be read', async () => {
    const image = `${'x'.repeat(5000)}.png`;
    const job = await bench.run(
      await bench.submit({ ...scaledImage, '1': { class_type: 'LoadImage', inputs: { image } } }),
    );
    expect(job.error).toMatchObject({ code: 'invalid_workflow', nodeId: '1', nodeType: 'LoadImage' });
    expect(job.error?.detail).toMatch(
      /Node 1 \(LoadImage\): Custom validation failed for node: image - Invalid image file: x{100}/,
    );
    expect(job.error?.detail.length).toBeLessThan(2100);
  });

  it('of which ComfyUI would run only a part is not run at all', async () => {
    bench.double.knobs.wedged = true;
    const job = await bench.run(await bench.submit(partlyValid()));
    expect(job).toMatchObject({
      status: 'failed',
      error: {
        code: 'invalid_workflow',
        detail: expect.stringContaining('Node 3 (SaveImage): Required input is missing: images.'),
        nodeId: '3',
        nodeErrors: { '3': {} },
      },
    });
    expect((await bench.session.client.queue()).pending).toEqual([]);
  });

  it('of which ComfyUI would run only a part is not run either when the answer that says so is lost', async () => {
    bench.double.knobs.wedged = true;
    fault('POST /prompt', 'drop-after', { times: 1 });
    const job = await bench.run(await bench.submit(partlyValid()));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'invalid_workflow' }, outputs: [] });
    expect(job.error?.detail).toMatch(/checks of nodes 3 failed/);
    expect((await bench.session.client.queue()).pending).toEqual([]);
  });

  it('of which ComfyUI would run only a part is stopped, also when that fails at first', async () => {
    bench.double.knobs.wedged = true;
    fault('POST /api/jobs/{id}/cancel', 'status', { status: 503, times: 1 });
    expect(await bench.run(await bench.submit(partlyValid()))).toMatchObject({ status: 'failed' });
    expect((await bench.session.client.queue()).pending).toEqual([]);
  });

  it('of which ComfyUI has run only a part has failed, also when that is seen late', async () => {
    fault('POST /prompt', 'drop-after', { times: 1 });
    // Until it has ended.
    fault('GET /history/{id}', 'status', { status: 503, times: 3 });
    const job = await bench.run(await bench.submit(partlyValid()));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'invalid_workflow' }, outputs: [] });
    expect(counted('executionsFinished')).toBe(1);
  });

  it('shows its progress, which never goes back', async () => {
    const id = await bench.submit(fresh(slowFrames));
    const seen: number[] = [];
    const watching = bench.jobWhen(id, (job) => {
      if (job.progress !== null) seen.push(job.progress.fraction);
      return job.status === 'succeeded';
    });
    await bench.run(id);
    await watching;
    expect(seen.length).toBeGreaterThan(3);
    expect(seen.some((fraction) => fraction > 0.3 && fraction < 0.9)).toBe(true);
    expect(seen).toEqual(seen.toSorted((a, b) => a - b));
  });
});

describe('a job with an input by URL', () => {
  it('fetches it once, also when it takes two attempts', async () => {
    let fetches = 0;
    const bytes = await png();
    const server = createServer((_request, response) => {
      fetches += 1;
      response.setHeader('content-type', 'image/png').end(bytes);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const inputs = [{ node: '1', input: 'image', url: `http://127.0.0.1:${port}/photo.png` }];
    bench.double.knobs.wedged = true;
    const id = await bench.submit(scaledImage, { inputs });
    expect(await bench.run(id)).toMatchObject({ status: 'queued', attempts: [{ outcome: 'lost' }] });
    await recover();
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded' });
    expect(fetches).toBe(1);
    await new Promise((resolve) => server.close(resolve));
  });

  it('fails with a reason when the file is not there', async () => {
    const inputs = [{ node: '1', input: 'image', url: 'http://127.0.0.1:1/photo.png' }];
    const job = await bench.run(await bench.submit(scaledImage, { inputs }));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'input_unavailable' } });
    expect(counted('promptsAccepted')).toBe(0);
  });
});

describe('a running job', () => {
  it.each([
    ['e', slowList],
    ['f', slowFrames],
  ])('is canceled with effect on the GPU: %s', async (_name, workflow) => {
    bench.double.knobs.itemMs = 20;
    bench.double.knobs.frameMs = 20;
    bench.double.knobs.loseInterrupts = 1;
    const id = await bench.submit(fresh(workflow));
    const running = bench.run(id);
    await bench.jobWhen(id, executing);
    expect(await bench.jobs.cancel(id)).toMatchObject({ job: { status: 'canceling' } });
    expect(await running).toMatchObject({
      status: 'canceled',
      error: null,
      attempts: [{ outcome: 'canceled' }],
    });
    expect(await bench.session.client.queue()).toEqual({ running: [], pending: [] });
    expect(counted('executionsFinished')).toBe(counted('executionsStarted'));
  });

  it('is stopped at its time limit', async () => {
    bench.double.knobs.itemMs = 20;
    const job = await bench.run(await bench.submit(fresh(slowList), { timeLimitSeconds: 0.5 }));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'time_limit' } });
    expect(counted('executionsStarted')).toBe(1);
    expect(await bench.session.client.queue()).toEqual({ running: [], pending: [] });
  });

  it('ends at its limit even when ComfyUI never stops, and says that this is not confirmed', async () => {
    bench.double.knobs.itemMs = 20;
    bench.double.knobs.loseInterrupts = 1_000_000;
    const id = await bench.submit(fresh(slowList), { timeLimitSeconds: 0.5 });
    await bench.dispatch();
    const { attemptId } = await bench.attemptOf(id);
    const job = await bench.run(id);
    expect(job).toMatchObject({ status: 'failed', error: { code: 'time_limit' } });
    expect(job.error?.detail).toContain('not confirmed');
    expect(await instanceRow()).toMatchObject({ stuck_prompt_id: attemptId });
    await recover();
  });

  it('is stopped at its time limit while its file is on the way', async () => {
    bench.double.knobs.uploadBytesPerSecond = 20_000;
    const asset = await bench.addAsset(randomBytes(2_000_000), 'large.png');
    const inputs = [{ node: '1', input: 'image', assetId: asset.id }];
    const job = await bench.run(await bench.submit(scaledImage, { inputs, timeLimitSeconds: 0.3 }));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'time_limit' } });
    expect(job.error?.detail).toContain('did not reach the instance');
    expect(counted('promptsAccepted')).toBe(0);
  });

  it('has its limits by the clock, also while nobody looks', async () => {
    bench.double.knobs.itemMs = 20;
    const id = await bench.submit(fresh(slowList), { timeLimitSeconds: 60 });
    await cutOff(id, () => bench.jobWhen(id, executing));
    const { attemptId } = await bench.attemptOf(id);
    await bench.database.db
      .updateTable('attempts')
      .set({ started_at: new Date(Date.now() - 60_000) })
      .where('id', '=', attemptId)
      .execute();
    expect(await bench.run(id)).toMatchObject({ status: 'failed', error: { code: 'time_limit' } });
    expect(await bench.session.client.queue()).toEqual({ running: [], pending: [] });
  });

  it('that failed in time has failed by itself, also where that is seen when its limit has passed', async () => {
    bench.double.knobs.hangingNode = '1';
    const id = await bench.submit(failingSave, { timeLimitSeconds: 60 });
    await cutOff(id, () => bench.jobWhen(id, executing));
    bench.double.knobs.hangingNode = null;
    await expect.poll(() => counted('executionsFinished')).toBe(1);
    await bench.database.db
      .updateTable('attempts')
      .set({ started_at: new Date(Date.now() - 60_000) })
      .where('job_id', '=', id)
      .execute();
    expect(await bench.run(id)).toMatchObject({ status: 'failed', error: { code: 'node_error' } });
  });

  it('is charged for what it ran, also where its end is seen long after', async () => {
    bench.double.knobs.hangingNode = '1';
    const id = await bench.submit(fresh(emptyImage));
    await cutOff(id, () => bench.jobWhen(id, executing));
    bench.double.knobs.hangingNode = null;
    await expect.poll(() => counted('executionsFinished')).toBe(1);
    const hourMs = 3_600_000;
    const clock = { now: () => new Date(Date.now() + hourMs) };
    const { signal } = new AbortController();
    await runAttempt({ ...bench.deps, clock }, await bench.attemptOf(id), { signal });
    const { status, timings, attempts } = await bench.job(id);
    expect(status).toBe('succeeded');
    expect(timings.executingMs).toBeLessThan(hourMs / 2);
    expect(Date.parse(attempts[0]?.executedAt ?? '')).toBeLessThan(Date.now());
  });

  it('has as long to stop as any other, also where nobody could tell it so for long', async () => {
    bench.double.knobs.hangingNode = '1';
    const id = await bench.submit(fresh(emptyImage));
    await cutOff(id, () => bench.jobWhen(id, executing));
    await bench.jobs.cancel(id);
    await bench.database.db
      .updateTable('jobs')
      .set({ cancel_requested_at: new Date(Date.now() - 3_600_000) })
      .where('id', '=', id)
      .execute();
    const told = () => requests('POST /api/jobs/{id}/cancel');
    const running = bench.run(id);
    await expect.poll(told).toBeGreaterThan(1);
    bench.double.knobs.hangingNode = null;
    expect(await running).toMatchObject({
      status: 'canceled',
      attempts: [{ reason: 'It was canceled on request.' }],
    });
    expect(await instanceRow()).toMatchObject({ stuck_prompt_id: null, unreachable_since: null });
  });

  it('is canceled while it waits behind another in ComfyUI, and never runs', async () => {
    bench.double.knobs.itemMs = 20;
    const ahead = await bench.submit(fresh(slowList));
    const running = bench.run(ahead);
    await bench.jobWhen(ahead, executing);
    const id = await bench.submit(fresh(emptyImage));
    const waiting = bench.run(id);
    await bench.jobWhen(id, (job) => job.progress?.phase === 'waiting');
    await bench.jobs.cancel(id);
    expect(await waiting).toMatchObject({ status: 'canceled', attempts: [{ startedAt: null }] });
    await bench.jobs.cancel(ahead);
    await running;
    expect(counted('executionsStarted')).toBe(1);
  });

  it('is canceled while ComfyUI does not answer its submit, and runs nowhere', async () => {
    fault('POST /prompt', 'hang', { times: 1 });
    const id = await bench.submit(fresh(emptyImage));
    const running = bench.run(id);
    await expect.poll(() => requests('POST /prompt')).toBe(1);
    await bench.jobs.cancel(id);
    expect(await running).toMatchObject({ status: 'canceled' });
    expect(counted('promptsAccepted')).toBe(0);
  });

  it('is canceled although the answer to its submit was lost and it runs by now', async () => {
    bench.double.knobs.itemMs = 20;
    fault('POST /prompt', 'drop-after', { times: 1 });
    const id = await bench.submit(fresh(slowList));
    const running = bench.run(id);
    await bench.jobWhen(id, executing);
    await bench.jobs.cancel(id);
    expect(await running).toMatchObject({ status: 'canceled' });
    expect(await bench.session.client.queue()).toEqual({ running: [], pending: [] });
  });

  it('is canceled at once while its instance is out of reach and has nothing of it', async () => {
    await bench.double.exit();
    const asset = await bench.addAsset(await png(), 'photo.png');
    const id = await bench.submit(scaledImage, {
      inputs: [{ node: '1', input: 'image', assetId: asset.id }],
    });
    const running = bench.run(id);
    await bench.jobWhen(id, (job) => job.progress?.phase === 'staging');
    await bench.jobs.cancel(id);
    expect(await running).toMatchObject({ status: 'canceled' });
    await bench.double.restart();
  });

  it('is canceled while its result is fetched, which then is none', async () => {
    const id = await slowToFetch();
    const running = bench.run(id);
    await bench.jobWhen(id, collecting);
    await bench.jobs.cancel(id);
    expect(await running).toMatchObject({
      status: 'canceled',
      outputs: [],
      attempts: [{ outcome: 'canceled' }],
    });
  });

  it('is canceled while its file is still on the way, and nothing is submitted', async () => {
    bench.double.knobs.uploadBytesPerSecond = 20_000;
    const asset = await bench.addAsset(randomBytes(2_000_000), 'large.png');
    const inputs = [{ node: '1', input: 'image', assetId: asset.id }];
    const id = await bench.submit(scaledImage, { inputs });
    const running = bench.run(id);
    await bench.jobWhen(id, (job) => job.progress?.phase === 'staging');
    await bench.jobs.cancel(id);
    expect(await running).toMatchObject({ status: 'canceled' });
    expect(counted('promptsAccepted')).toBe(0);
  });

  it('goes back to the queue when its instance closes, and its prompt is stopped', async () => {
    bench.double.knobs.itemMs = 20;
    const other = await bench.addInstance({ gpuName: 'L40S' });
    const id = await bench.submit(fresh(slowList), { requirements: { gpuNames: ['L40S'] } });
    const running = bench.run(id);
    await bench.jobWhen(id, executing);
    const { db, queues } = bench.database;
    await db.transaction().execute((trx) => closeSlots(trx, queues, other, 'The host went offline.', 3));
    await running;
    expect(await bench.job(id)).toMatchObject({
      status: 'queued',
      progress: null,
      instanceId: null,
      attempts: [{ outcome: 'lost', reason: 'The host went offline.' }],
    });
    await expect.poll(() => bench.session.client.queue()).toEqual({ running: [], pending: [] });
    await bench.jobs.cancel(id);
  });
});

describe('an attempt that is cut off', () => {
  it('goes on where it was, with one execution', async () => {
    const id = await bench.submit(fresh(slowFrames));
    await cutOff(id, () => bench.jobWhen(id, executing));
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
    expect(counted('executionsStarted')).toBe(1);
  });

  it.each(['staging', 'submitting', 'collecting'] as const)('while %s is begun again there', async (at) => {
    const route = { staging: 'POST /upload/image', submitting: 'POST /prompt', collecting: 'GET /view' }[at];
    bench.double.knobs.requestFaults.push({ route, how: 'hang', times: 1 });
    const asset = await bench.addAsset(await png(), 'photo.png');
    const inputs = [{ node: '1', input: 'image', assetId: asset.id }];
    const id = await bench.submit(scaledImage, { inputs });
    await cutOff(id, async () => expect.poll(() => requests(route)).toBe(1));
    expect(await bench.run(id)).toMatchObject({
      status: 'succeeded',
      outputs: [{ name: 'scaled_00001_.png' }],
    });
    expect(counted('executionsStarted')).toBe(1);
  });

  it('may be worked on by two at once, and still ends once', async () => {
    const id = await bench.submit(fresh(slowFrames));
    await bench.dispatch();
    const ref = await bench.attemptOf(id);
    const { signal } = new AbortController();
    await Promise.all([runAttempt(bench.deps, ref, { signal }), runAttempt(bench.deps, ref, { signal })]);
    expect(await bench.job(id)).toMatchObject({ status: 'succeeded', outputs: [{ kind: 'image' }] });
    expect(counted('promptsAccepted')).toBe(1);
  });

  it('is dropped when its message comes after its end', async () => {
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const ref = await bench.attemptOf(id);
    await bench.run(id);
    await runAttempt(bench.deps, ref, { signal: new AbortController().signal });
    expect(counted('executionsStarted')).toBe(1);
  });
});

describe('a submit', () => {
  it('whose answer is lost is looked up and not repeated', async () => {
    fault('POST /prompt', 'drop-after', { times: 1 });
    expect(await bench.run(await bench.submit(fresh(emptyImage)))).toMatchObject({ status: 'succeeded' });
    expect(counted('promptsAccepted')).toBe(1);
  });

  it('that never arrived is repeated', async () => {
    fault('POST /prompt', 'drop-before', { times: 1 });
    expect(await bench.run(await bench.submit(fresh(emptyImage)))).toMatchObject({
      status: 'succeeded',
      attempts: [{ number: 1 }],
    });
    expect(counted('promptsAccepted')).toBe(1);
  });

  it('that is past the wait limit of its job before it is sent is neither sent nor looked for', async () => {
    const id = await bench.submit(fresh(emptyImage), { waitLimitSeconds: 0.01, timeLimitSeconds: 2 });
    await bench.dispatch();
    // However fast the machine is, 20 ms are over whenever it is looked at.
    let now = Date.now();
    const clock = { now: () => new Date((now += 20)) };
    const { signal } = new AbortController();
    await runAttempt({ ...bench.deps, clock }, await bench.attemptOf(id), { signal });
    const job = await bench.job(id);
    expect(job).toMatchObject({
      status: 'failed',
      error: { code: 'wait_limit' },
      attempts: [{ submittedAt: null }],
    });
    expect([requests('POST /prompt'), requests('GET /history/{id}'), requests('GET /queue')]).toEqual([
      0, 0, 0,
    ]);
  });

  it('that never arrived is not repeated past the wait limit of its job', async () => {
    fault('POST /prompt', 'drop-before', { times: 1 });
    // Over before it is sure that the prompt is nowhere.
    const job = await bench.run(await bench.submit(fresh(emptyImage), { waitLimitSeconds: 0.2 }));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'wait_limit' } });
    expect(counted('promptsAccepted')).toBe(0);
  });

  it('that ComfyUI never answers ends the job', async () => {
    fault('POST /prompt', 'status', { status: 500 });
    const job = await bench.run(await bench.submit(fresh(emptyImage)));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'unexpected_answer' } });
  });
});

describe('an instance whose results take long to fetch', () => {
  it('gets the next job as soon as ComfyUI is done with one', async () => {
    bench.double.knobs.itemMs = 20;
    const first = await slowToFetch();
    const running = [bench.run(first)];
    await bench.jobWhen(first, collecting);
    const second = await bench.submit(fresh(slowList));
    running.push(bench.run(second));
    await bench.jobWhen(second, executing);
    const third = await bench.submit(fresh(emptyImage));
    running.push(bench.run(third));
    await bench.jobWhen(third, (job) => job.progress?.phase === 'waiting');
    expect((await bench.job(first)).status).toBe('running');
    expect(await instanceRow()).toMatchObject({ busy: 3 });
    bench.double.knobs.downloadBytesPerSecond = null;
    await bench.jobs.cancel(second);
    await bench.jobWhen(third, (job) => job.status === 'succeeded');
    expect((await bench.job(first)).status).toBe('running');
    await bench.jobs.cancel(first);
    await Promise.all(running);
  });

  it('keeps slots for what it cannot hand over fast enough', async () => {
    const ids = [];
    for (let count = 0; count < COLLECTING_PER_INSTANCE + 2; count += 1) ids.push(await slowToFetch());
    const waits = await slowToFetch();
    const running: Promise<unknown>[] = [];
    for (const id of ids) {
      running.push(bench.run(id));
      await bench.jobWhen(id, collecting);
    }
    expect(await bench.dispatch()).toBe(0);
    expect((await bench.job(waits)).status).toBe('queued');
    expect(await instanceRow()).toMatchObject({ busy: ids.length });

    await bench.jobs.cancel(ids[0] ?? '');
    await running[0];
    expect(await bench.dispatch()).toBe(1);
    expect((await bench.job(waits)).status).toBe('running');
    running.push(bench.run(waits));
    for (const id of [waits, ...ids]) await bench.jobs.cancel(id);
    await Promise.all(running);
  });

  it('gives those back too when it ends, and their outputs are fetched from elsewhere', async () => {
    const other = await bench.addInstance({ gpuName: 'H100' });
    const id = await slowToFetch({ requirements: { gpuNames: ['H100'] } });
    const running = bench.run(id);
    await bench.jobWhen(id, collecting);
    const { db, queues } = bench.database;
    await db.transaction().execute((trx) => closeSlots(trx, queues, other, 'The host went offline.', 3));
    await running;
    expect(await bench.job(id)).toMatchObject({ status: 'queued', attempts: [{ outcome: 'lost' }] });
    bench.double.knobs.downloadBytesPerSecond = null;
    await bench.addInstance({ gpuName: 'H100' });
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded', attempt: 2 });
  });

  it('lets another process go on fetching', async () => {
    const id = await slowToFetch();
    await cutOff(id, () => bench.jobWhen(id, collecting));
    bench.double.knobs.downloadBytesPerSecond = null;
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
    expect(counted('executionsStarted')).toBe(1);
  });

  it('goes on fetching them while the database is out of reach', async () => {
    const { db, failures } = openHurriedDatabase(bench);
    const id = await slowToFetch();
    bench.double.knobs.downloadBytesPerSecond = 100_000;
    await bench.dispatch();
    const { signal } = new AbortController();
    const running = runAttempt({ ...bench.deps, db }, await bench.attemptOf(id), { signal });
    await bench.jobWhen(id, collecting);
    await bench.database.db.transaction().execute(async (trx) => {
      await sql`lock table attempts in access exclusive mode`.execute(trx);
      await Promise.race([failures.reach(2), running]);
    });
    bench.double.knobs.downloadBytesPerSecond = null;
    await running;
    expect(await bench.job(id)).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
    expect(requests('GET /view')).toBe(1);
  });
});

it('blames no instance for a database that fails when its address is looked up', async () => {
  const { db, failures } = openHurriedDatabase(bench);
  const sessions = createSessions({ ...bench.deps, db });
  onTestFinished(() => sessions.close());
  await bench.database.db
    .updateTable('instances')
    .set({ static_url: bench.double.url })
    .where('id', '=', instanceId)
    .execute();
  const id = await bench.submit(fresh(emptyImage));
  await bench.dispatch();
  const ref = await bench.attemptOf(id);
  const { signal } = new AbortController();
  const run = () => runAttempt({ ...bench.deps, sessions }, ref, { signal });
  const running = bench.database.db.transaction().execute(async (trx) => {
    await sql`lock table instances in access exclusive mode`.execute(trx);
    const first = run();
    first.catch(() => undefined);
    await failures.reach(1);
    return { first };
  });
  const failure: unknown = await (await running).first.catch((error: unknown) => error);
  if (failure !== undefined) await run();
  expect(await bench.job(id)).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
  const told = await bench.database.db
    .selectFrom('job_events')
    .select('data')
    .where('job_id', '=', id)
    .where('type', '=', 'log')
    .execute();
  expect(JSON.stringify(told)).not.toContain('does not answer');
  expect(failure).toMatchObject({ message: expect.stringContaining('statement timeout') });
});
