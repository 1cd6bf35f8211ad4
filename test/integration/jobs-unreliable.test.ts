import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { readHistoryEntry } from '../../src/comfyui/history.ts';
import { openLink } from '../../src/comfyui/link.ts';
import { openSession } from '../../src/comfyui/session.ts';
import { runAttempt } from '../../src/jobs/run.ts';
import { fresh } from '../support/jobs.ts';
import {
  bench,
  counted,
  executing,
  fault,
  instanceRow,
  png,
  readAsset,
  recover,
  requests,
  useOneInstance,
} from '../support/one-instance.ts';
import { emptyImage, scaledImage, slowFrames, slowList } from '../support/workflows.ts';

useOneInstance();

/** Runs a job of which its ComfyUI tells this in the end, whatever it was. */
async function runAsTold({ outputs, messages }: { outputs: Record<string, unknown>; messages: Message[] }) {
  const { client } = bench.session;
  const raw = { prompt: [], outputs, status: { messages } };
  const locate: typeof client.locate = async (promptId, signal) => {
    const place = await client.locate(promptId, signal);
    return place.kind === 'finished' ? { ...place, entry: readHistoryEntry(promptId, raw) } : place;
  };
  const session = { ...bench.session, client: { ...client, locate } };
  const id = await bench.submit(fresh(emptyImage));
  await bench.dispatch();
  const deps = { ...bench.deps, sessions: { get: async () => session } };
  await runAttempt(deps, await bench.attemptOf(id), { signal: new AbortController().signal });
  return bench.job(id);
}

type Message = [event: string, data: Record<string, unknown>];

describe('an unreliable instance', () => {
  it('may lose its event stream', async () => {
    const id = await bench.submit(fresh(slowFrames));
    const running = bench.run(id);
    await bench.jobWhen(id, executing);
    bench.double.dropSockets();
    expect(await running).toMatchObject({ status: 'succeeded' });
    expect(counted('executionsStarted')).toBe(1);
  });

  it('may write its history after it announced the end', async () => {
    bench.double.knobs.historyDelayMs = 200;
    expect(await bench.run(await bench.submit(fresh(emptyImage)))).toMatchObject({ status: 'succeeded' });
  });

  it('may say nothing over an event stream that seems to be well', async () => {
    bench.double.knobs.sockets = 'silent';
    expect(await bench.run(await bench.submit(fresh(emptyImage)))).toMatchObject({ status: 'succeeded' });
  });

  it('may fail for a moment in every call', async () => {
    for (const route of ['POST /upload/image', 'GET /history/{id}', 'GET /queue', 'GET /view']) {
      fault(route, 'status', { status: 502, times: 2 });
      fault(route, 'drop-before', { times: 1 });
    }
    bench.double.knobs.itemMs = 2;
    const asset = await bench.addAsset(await png(), 'photo.png');
    const inputs = [{ node: '1', input: 'image', assetId: asset.id }];
    const job = await bench.run(await bench.submit(scaledImage, { inputs }));
    expect(job).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
    expect(counted('executionsStarted')).toBe(1);
  });

  it('may give odd answers for a while: the prompt that it has is not given up', async () => {
    bench.double.knobs.frameMs = 10;
    const id = await bench.submit(fresh(slowFrames));
    const running = bench.run(id);
    await bench.jobWhen(id, executing);
    fault('GET /history/{id}', 'status', { status: 404, times: 10 });
    expect(await running).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
    expect(counted('executionsStarted')).toBe(1);
  });

  it('may be out of reach while a prompt begins and its wait limit passes: it goes on', async () => {
    bench.double.knobs.hangingNode = '1';
    const id = await bench.submit(fresh(emptyImage), { waitLimitSeconds: 0.3 });
    fault('GET /queue', 'drop-before');
    const running = bench.run(id);
    await expect.poll(() => counted('executionsStarted')).toBe(1);
    const { submittedAt } = (await bench.job(id)).attempts[0] ?? {};
    await expect.poll(() => Date.now() - Date.parse(submittedAt ?? '')).toBeGreaterThan(400);
    expect((await bench.job(id)).attempts).toMatchObject([{ startedAt: null }]);
    bench.double.knobs.requestFaults = [];
    await bench.jobWhen(id, executing);
    bench.double.knobs.hangingNode = null;
    expect(await running).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
    expect([counted('executionsStarted'), requests('POST /api/jobs/{id}/cancel')]).toEqual([1, 0]);
  });

  it('may begin a prompt that is told to stop because it has waited too long: it is not begun once more', async () => {
    Object.assign(bench.double.knobs, { hangingNode: '1', frameMs: 10 });
    const first = await bench.submit(fresh(emptyImage));
    const holding = bench.run(first);
    await bench.jobWhen(first, executing);
    const late = await bench.submit(fresh(slowFrames), { waitLimitSeconds: 0.2 });
    fault('POST /api/jobs/{id}/cancel', 'status', { status: 500 });
    const running = bench.run(late);
    await expect.poll(() => requests('POST /api/jobs/{id}/cancel')).toBeGreaterThan(0);
    bench.double.knobs.hangingNode = null;
    await expect.poll(() => counted('executionsStarted')).toBe(2);
    const seen = requests('GET /queue');
    await expect.poll(() => requests('GET /queue')).toBeGreaterThan(seen + 1);
    bench.double.knobs.requestFaults = [];
    expect(await holding).toMatchObject({ status: 'succeeded' });
    expect(await running).toMatchObject({
      status: 'failed',
      error: { code: 'wait_limit' },
      attempts: [{ number: 1 }],
    });
  });

  it('may fall silent over a job that is past its time limit: it is not begun again', async () => {
    bench.double.knobs.itemMs = 100;
    const id = await bench.submit(fresh(slowList), { timeLimitSeconds: 1 });
    await bench.dispatch();
    const ref = await bench.attemptOf(id);
    const timing = { ...bench.deps.timing, unreachableMs: 1200, confirmStopMs: 60_000 };
    const running = runAttempt({ ...bench.deps, timing }, ref, { signal: new AbortController().signal });
    await bench.jobWhen(id, executing);
    for (const route of ['GET /history/{id}', 'GET /queue', 'POST /api/jobs/{id}/cancel'])
      fault(route, 'status', { status: 503 });
    await running;
    expect(await bench.job(id)).toMatchObject({
      status: 'failed',
      error: { code: 'time_limit', detail: expect.stringContaining('not confirmed') },
    });
    bench.double.knobs.requestFaults = [];
    await bench.session.client.cancel(ref.attemptId);
  });

  it('may refuse to stop a prompt and still tell that it has ended', async () => {
    bench.double.knobs.hangingNode = '1';
    fault('POST /api/jobs/{id}/cancel', 'status', { status: 500 });
    const id = await bench.submit(fresh(emptyImage));
    const running = bench.run(id);
    await bench.jobWhen(id, executing);
    await bench.jobs.cancel(id);
    await expect.poll(() => requests('POST /api/jobs/{id}/cancel')).toBeGreaterThan(0);
    bench.double.knobs.hangingNode = null;
    expect(await running).toMatchObject({
      status: 'canceled',
      attempts: [{ reason: 'It was canceled on request.' }],
    });
  });

  it('may cut off a download: no half file is a result', async () => {
    bench.double.knobs.cutDownloadAfterBytes = 40;
    const id = await bench.submit(fresh(emptyImage));
    const running = bench.run(id);
    await expect.poll(() => requests('GET /view')).toBeGreaterThan(1);
    bench.double.knobs.cutDownloadAfterBytes = null;
    const job = await running;
    expect(job.status).toBe('succeeded');
    await expect(sharp(await readAsset(job.outputs[0]?.assetId ?? '')).stats()).resolves.toBeDefined();
  });

  it('may tell of nodes and times what cannot be stored: the result is', async () => {
    const messages: Message[] = [
      ['execution_start', { timestamp: 1 }],
      ['execution_success', { timestamp: 1e300 }],
    ];
    expect(await runAsTold({ outputs: { '2\0': { text: ['done'] } }, messages })).toMatchObject({
      status: 'succeeded',
      outputs: [{ nodeId: '2', text: 'done' }],
    });
  });

  it('may report more outputs than a job can have: it fails and says so', async () => {
    const text = Array.from({ length: 10_001 }, () => 'x');
    expect(await runAsTold({ outputs: { '2': { text } }, messages: [] })).toMatchObject({
      status: 'failed',
      error: { code: 'output_unavailable', detail: expect.stringContaining('more outputs') },
      outputs: [],
    });
  });

  it('may tell again and again that a prompt began and ended: it is not looked at each time', async () => {
    const told = Promise.withResolvers<void>();
    const watch: typeof bench.session.watch = (promptId, clientId, listener) => {
      let times = 0;
      const telling = setInterval(() => {
        listener({ kind: 'started' });
        listener({ kind: 'ended' });
        if ((times += 1) === 200) told.resolve();
      }, 1);
      const leave = bench.session.watch(promptId, clientId, listener);
      return () => {
        clearInterval(telling);
        leave();
      };
    };
    bench.double.knobs.hangingNode = '1';
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const deps = { ...bench.deps, sessions: { get: async () => ({ ...bench.session, watch }) } };
    const running = runAttempt(deps, await bench.attemptOf(id), { signal: new AbortController().signal });
    await told.promise;
    expect(requests('GET /queue')).toBeLessThan(40);
    bench.double.knobs.hangingNode = null;
    await running;
    expect(await bench.job(id)).toMatchObject({ status: 'succeeded', attempts: [{ number: 1 }] });
  });

  it('may report a file that it does not have: the job is tried once more, and then fails and says so', async () => {
    fault('GET /view', 'status', { status: 404 });
    const id = await bench.submit(fresh(emptyImage));
    expect(await bench.run(id)).toMatchObject({ status: 'queued', attempts: [{ outcome: 'failed' }] });
    expect(await bench.run(id)).toMatchObject({
      status: 'failed',
      attempt: 2,
      error: { code: 'output_unavailable', nodeId: '2' },
      outputs: [],
    });
  });

  it('may name a file from its cache that is gone: the job is run again without the cache', async () => {
    const workflow = fresh(emptyImage);
    const previewed = { ...workflow, '2': { class_type: 'PreviewImage', inputs: { images: ['1', 0] } } };
    expect(await bench.run(await bench.submit(previewed))).toMatchObject({ status: 'succeeded' });
    await rm(join(bench.double.dataDir, 'temp'), { recursive: true });
    await mkdir(join(bench.double.dataDir, 'temp'));
    const id = await bench.submit(previewed);
    expect(await bench.run(id)).toMatchObject({ status: 'queued' });
    expect(await bench.run(id)).toMatchObject({
      status: 'succeeded',
      outputs: [{ nodeId: '2', temporary: true }],
      attempts: [{ outcome: 'failed', reason: expect.stringContaining('does not have it') }, {}],
    });
  });

  it('may forget the prompt: the job is tried again', async () => {
    bench.double.knobs.frameMs = 20;
    const id = await bench.submit(fresh(slowFrames));
    const running = bench.run(id);
    await bench.jobWhen(id, executing);
    await bench.double.restart();
    expect(await running).toMatchObject({ status: 'queued', attempts: [{ outcome: 'lost' }] });
    bench.double.knobs.frameMs = 0;
    expect(await bench.run(id)).toMatchObject({
      status: 'succeeded',
      attempts: [
        { number: 1, outcome: 'lost' },
        { number: 2, outcome: 'succeeded' },
      ],
    });
  });

  it('may never run anything: it takes no more jobs, and its prompt stays for its check to see', async () => {
    bench.double.knobs.wedged = true;
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const { attemptId } = await bench.attemptOf(id);
    expect(await bench.run(id)).toMatchObject({
      status: 'queued',
      attempts: [{ outcome: 'lost', reason: expect.stringContaining('has run nothing for') }],
    });
    expect(await bench.session.client.queue()).toEqual({ running: [], pending: [attemptId] });
    expect(await instanceRow()).toMatchObject({
      stuck_prompt_id: attemptId,
      unreachable_since: expect.any(Date),
    });
    expect(await bench.dispatch()).toBe(0);
    await recover();
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded' });
  });

  it('may never run anything, ever again: the job is given up after its last attempt', async () => {
    const id = await bench.submit(fresh(emptyImage));
    const ends: string[] = [];
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      bench.double.knobs.wedged = true;
      ends.push((await bench.run(id)).status);
      await recover();
    }
    expect(ends).toEqual(['queued', 'queued', 'failed']);
    expect((await bench.job(id)).error).toMatchObject({ code: 'prompt_lost' });
  });

  it('may be silent over one long node: it is not wedged', async () => {
    bench.double.knobs.nodeMs = 700;
    expect(await bench.run(await bench.submit(fresh(emptyImage)))).toMatchObject({
      status: 'succeeded',
      attempt: 1,
    });
  });

  it('may let a job wait behind a long one: it is not wedged', async () => {
    bench.double.knobs.nodeMs = 400;
    const ids = [await bench.submit(fresh(emptyImage)), await bench.submit(fresh(emptyImage))];
    for (const job of await Promise.all(ids.map((id) => bench.run(id))))
      expect(job).toMatchObject({ status: 'succeeded', attempt: 1 });
  });

  it('may hang in every call: its job goes back to the queue, and its check is asked for', async () => {
    const link = openLink({ baseUrl: bench.double.url, token: null, certificateFingerprint: null });
    const session = openSession(link, { log: bench.deps.log, answerMs: 100 });
    const deps = { ...bench.deps, sessions: { get: async () => session } };
    for (const route of ['GET /history/{id}', 'GET /queue', 'POST /prompt']) fault(route, 'hang');
    const id = await bench.submit(fresh(emptyImage), { timeLimitSeconds: 600 });
    await bench.dispatch();
    const { wake } = await instanceRow();
    const ref = await bench.attemptOf(id);
    await bench.database.db
      .updateTable('attempts')
      .set({ client_id: randomUUID(), submitted_at: new Date(), status: 'submitted' })
      .where('id', '=', ref.attemptId)
      .execute();
    const timing = { ...deps.timing, unreachableMs: 300 };
    await runAttempt({ ...deps, timing }, ref, { signal: new AbortController().signal });
    expect(await bench.job(id)).toMatchObject({
      status: 'queued',
      attempts: [{ outcome: 'lost', reason: expect.stringContaining('out of reach') }],
    });
    expect((await instanceRow()).wake).toBe(wake + 1);
    await session.close();
    await link.close();
    await bench.jobs.cancel(id);
  });

  it('may stay away: the job goes back to the queue', async () => {
    await bench.double.exit();
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const ref = await bench.attemptOf(id);
    const deps = { ...bench.deps, timing: { ...bench.deps.timing, unreachableMs: 200 } };
    await runAttempt(deps, ref, { signal: new AbortController().signal });
    expect(await bench.job(id)).toMatchObject({ status: 'queued', attempts: [{ outcome: 'lost' }] });
    await bench.double.restart();
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded' });
  });
});
