import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { v7 as uuid } from 'uuid';
import type { Database } from '../../src/database/database.ts';
import type { Notifications } from '../../src/database/notifications.ts';
import type { App } from '../../src/http/server.ts';
import { appendEvent } from '../../src/jobs/events.ts';
import { createKnownNodes } from '../../src/jobs/known-nodes.ts';
import { createPreviewWriter } from '../../src/jobs/preview-writer.ts';
import { createProgressWriter } from '../../src/jobs/progress-writer.ts';
import { sweepPreviews } from '../../src/jobs/previews.ts';
import { jobRoutes } from '../../src/jobs/routes.ts';
import { createJobs } from '../../src/jobs/service.ts';
import { createStreams, type StreamRequest, type StreamTiming } from '../../src/jobs/stream.ts';
import { openDatabase } from '../support/database.ts';
import { createTestApp } from '../support/http.ts';
import { openEvents, openJudge, type SentEvent } from '../support/job-events.ts';
import { createJobBench, fresh, type JobBench } from '../support/jobs.ts';
import { openHurriedDatabase, openWatchedDatabase } from '../support/watched-database.ts';
import { emptyImage, slowFrames } from '../support/workflows.ts';

let bench: JobBench;
let replicas: Replica[];
let url: string;

interface Replica {
  app: App;
  url: string;
  database: Database;
}

beforeAll(async () => {
  bench = await createJobBench({ PREVIEWS_PER_SECOND: '20', PREVIEW_LIMIT_KB: '50' });
  await bench.addInstance();
  replicas = [await openReplica(bench.database), await openReplica(await openDatabase(bench.databaseUrl))];
  url = replicas[0]?.url ?? '';
});
afterAll(async () => {
  for (const { app } of replicas) await app.close();
  await replicas[1]?.database.stop();
  await bench.stop();
});

/** The routes of jobs on a database connection of their own. */
async function openReplica(database: Database): Promise<Replica> {
  const { db, queues, notifications } = database;
  const deps = { ...bench.deps, db, queues, notifications };
  const jobs = createJobs({ ...deps, nodes: createKnownNodes({ ...deps, canRent: false }) });
  const { app } = await createTestApp({ routes: [jobRoutes({ jobs, assets: deps.assets })] });
  return { app, url: await app.listen({ host: '127.0.0.1', port: 0 }), database };
}

const eventsOf = (id: string, query = '', at = url) => `${at}/jobs/${id}/events${query}`;
/** Waits for what no instance is. */
const nowhere = { requirements: { gpuNames: ['H200'] } };
const forever = new AbortController().signal;

function requestOf(request: Pick<StreamRequest, 'jobId'> & Partial<StreamRequest>): StreamRequest {
  return { afterId: null, previews: false, gone: forever, stopping: forever, ...request };
}

/** A stream without the service around it. Its first piece is the advice on coming back. */
function open(
  request: Parameters<typeof requestOf>[0],
  timing: Partial<StreamTiming> = {},
  deps: Partial<Pick<Database, 'db' | 'notifications'>> = {},
): AsyncGenerator<string> {
  return createStreams({ ...bench.database, ...deps }, timing).open(requestOf(request));
}

/** What an event is about, in a word. */
function nameOf(event: SentEvent | undefined): unknown {
  return event?.data['status'] ?? event?.type;
}

describe('GET /jobs/:id/events', () => {
  it('tells everything from the first moment to the last, and ends', async () => {
    bench.double.knobs.frameMs = 5;
    const id = await bench.submit(fresh(slowFrames));
    const stream = await openEvents(eventsOf(id));
    const first = await stream.next();
    expect(first).toMatchObject({ type: 'status', data: { status: 'queued' }, id: expect.any(Number) });
    await bench.run(id);
    const rest = await stream.rest();
    const statuses = rest.flatMap(({ type, data }) => (type === 'status' ? [data['status']] : []));
    expect(statuses).toEqual(['running', 'succeeded']);
    const progress = rest.filter(({ type }) => type === 'progress');
    expect(progress.length).toBeGreaterThan(2);
    expect(progress.every((event) => event.id === null)).toBe(true);
    expect(progress.map(({ data }) => data)).toContainEqual(
      expect.objectContaining({ currentNodeType: 'ColorTransfer', step: expect.any(Number) }),
    );
    expect(rest.find(({ type }) => type === 'output')?.data).toMatchObject({
      url: expect.stringContaining(`/jobs/${id}/outputs/`),
    });
    const ids = [first, ...rest].flatMap((event) => event?.id ?? []);
    expect(ids).toEqual(ids.toSorted((a, b) => a - b));
  });

  it('begins after the last event that the caller has seen', async () => {
    const id = await bench.submit(fresh(emptyImage));
    const queued = await (await openEvents(eventsOf(id))).next();
    await bench.run(id);
    const missed = await (await openEvents(eventsOf(id), queued?.id)).rest();
    expect(missed.map(nameOf)).toEqual(['log', 'running', 'output', 'succeeded']);
    const last = await fetch(eventsOf(id), { headers: { 'last-event-id': String(missed.at(-1)?.id) } });
    expect(last.status).toBe(204);
  });

  it('gives the whole state to who names an event that its job has not had, such as one from before a restore', async () => {
    const unknown = 999_999_999;
    const id = await bench.submit(fresh(emptyImage));
    const stream = await openEvents(eventsOf(id), unknown);
    expect(await stream.next()).toMatchObject({ data: { status: 'queued' }, id: expect.any(Number) });
    await bench.run(id);
    expect((await stream.rest()).map(nameOf).at(-1)).toBe('succeeded');
    const events = await (await openEvents(eventsOf(id), unknown)).rest();
    expect(events.map(nameOf)).toEqual(['output', 'succeeded']);
  });

  it('gives who comes late the whole state and ends', async () => {
    const id = await bench.submit(fresh(emptyImage));
    await bench.run(id);
    const events = await (await openEvents(eventsOf(id))).rest();
    expect(events.map(nameOf)).toEqual(['output', 'succeeded']);
  });

  it('sends each event in one shape, the documented one: as it happens, after a lost connection, in a snapshot', async () => {
    bench.double.knobs.nodes = {
      Sampler: { durationMs: 400, steps: 20, previews: true, outputCount: 1 },
    };
    const id = await bench.submit({
      ...fresh(emptyImage),
      '3': { class_type: 'PreviewAny', inputs: { source: 'some words' } },
      '4': { class_type: 'Sampler', inputs: { seed: Math.random() } },
    });
    const stream = await openEvents(eventsOf(id, '?previews=true'));
    const first = await stream.next();
    const { outputs } = await bench.run(id);
    const live = await stream.rest();
    const resumed = await (await openEvents(eventsOf(id), first?.id)).rest();
    const snapshot = await (await openEvents(eventsOf(id))).rest();

    const all = [...live, ...resumed, ...snapshot];
    expect(new Set(all.map(({ type }) => type))).toEqual(
      new Set(['status', 'progress', 'output', 'log', 'preview']),
    );
    const complaintOf = await openJudge(url);
    expect(all.map(complaintOf).filter((complaint) => complaint !== null)).toEqual([]);
    expect(outputs.map(({ text }) => text)).toContain('some words');
    for (const events of [live, resumed, snapshot]) {
      expect(events.flatMap(({ type, data }) => (type === 'output' ? [data] : []))).toEqual(outputs);
      expect(events.at(-1)).toEqual(snapshot.at(-1));
    }
  });

  it('shows an output as it is by now, also who comes back late', async () => {
    const id = await bench.submit(fresh(emptyImage));
    const queued = await (await openEvents(eventsOf(id))).next();
    await bench.run(id);
    await bench.database.db
      .updateTable('outputs')
      .set({ asset_id: null, expired_at: new Date() })
      .where('job_id', '=', id)
      .execute();
    const missed = await openEvents(eventsOf(id), queued?.id);
    expect((await missed.nextOf('output')).data).toEqual((await bench.job(id)).outputs[0]);
  });

  it('goes on in another replica when the first one stops, which says so, and nothing is missed', async () => {
    const id = await bench.submit(fresh(emptyImage));
    const leaving = await openReplica(bench.database);
    const before = await openEvents(eventsOf(id, '', leaving.url));
    const first = await before.next();
    expect(before.retryMs).toBe(2000);
    await leaving.app.close();
    expect(await before.rest()).toEqual([]);
    expect(before.retryMs).toBeLessThanOrEqual(1000);
    const other = replicas[1];
    const after = await openEvents(eventsOf(id, '', other?.url), first?.id);
    await bench.run(id);
    const events = [first, ...(await after.rest())].filter((event) => event?.id != null);
    const logged = await bench.database.db
      .selectFrom('job_events')
      .select(['id', 'type'])
      .where('job_id', '=', id)
      .orderBy('id')
      .execute();
    expect(events.map((event) => ({ id: event?.id, type: event?.type }))).toEqual(logged);
  });

  it('says where each attempt is placed, that its instance is silent, why it was lost, and that there is another', async () => {
    bench.double.knobs.hangingNode = '1';
    const id = await bench.submit(fresh(emptyImage));
    const stream = await openEvents(eventsOf(id));
    await stream.next();
    const running = bench.run(id);
    const placed = await stream.nextOf('log');
    await bench.jobWhen(id, ({ progress }) => progress?.phase === 'executing');
    await bench.double.exit();
    const silent = await stream.nextOf('log');
    bench.double.knobs.hangingNode = null;
    await bench.double.restart();
    const lost = await running;
    expect(lost.status).toBe('queued');
    await bench.run(id);
    const rest = (await stream.rest()).filter(({ type }) => type === 'log');
    const { instanceId } = lost.attempts[0] ?? {};
    expect([placed, silent, ...rest].map(({ data }) => data)).toEqual([
      { attempt: 1, message: `Attempt 1 is placed on instance ${instanceId} (RTX 4090, DE).` },
      { attempt: 1, message: expect.stringContaining('The instance does not answer') },
      { attempt: 1, message: expect.stringContaining('Attempt 1 was lost, and the job waits for another.') },
      { attempt: 2, message: expect.stringContaining('Attempt 2 is placed on instance ') },
    ]);
  });

  it('passes on the warnings of ComfyUI, each once', async () => {
    const id = await bench.submit(fresh(emptyImage));
    const stream = await openEvents(eventsOf(id));
    await stream.next();
    await bench.dispatch();
    const writer = createProgressWriter({
      db: bench.deps.db,
      ref: await bench.attemptOf(id),
      workflow: emptyImage,
      before: null,
      intervalMs: 10,
      previews: { intervalMs: 10, maxBytes: 1000 },
      log: bench.deps.log,
    });
    const message = 'Node 2 (SaveImage) was left out. There is no face.';
    writer.note({ kind: 'warning', message });
    writer.note({ kind: 'warning', message });
    await writer.stop();
    writer.note({ kind: 'warning', message: 'too late' });
    await bench.run(id);
    const lines = (await stream.rest()).flatMap(({ type, data }) => (type === 'log' ? [data] : []));
    expect(lines.slice(1)).toEqual([{ attempt: 1, message }]);
  });

  it('shows progress that could not be written at first, also where nothing comes after it', async () => {
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const { db, failures } = openHurriedDatabase(bench);
    const { log } = bench.deps;
    const ref = await bench.attemptOf(id);
    const previews = { intervalMs: 10, maxBytes: 1000 };
    const options = { db, ref, workflow: emptyImage, before: null, intervalMs: 10, previews, log };
    const writer = createProgressWriter(options);
    await bench.deps.db.transaction().execute(async (trx) => {
      await trx.selectFrom('jobs').select('id').where('id', '=', id).forUpdate().execute();
      writer.note({ kind: 'executing', node: '2' });
      await failures.reach(1);
    });
    const shown = await bench.jobWhen(id, ({ progress }) => progress?.phase === 'executing');
    expect(shown.progress).toMatchObject({ currentNode: '2', currentNodeType: 'SaveImage' });
    await writer.stop();
    await bench.run(id);
  });

  it('shows what a job waits for when that changes', async () => {
    const id = await bench.submit(emptyImage, nowhere);
    const stream = await openEvents(eventsOf(id));
    await stream.next();
    await bench.dispatch();
    expect(await stream.next()).toMatchObject({
      type: 'status',
      data: { status: 'queued', waitingFor: expect.stringContaining('No ready'), comingInstance: null },
      id: null,
    });
    await bench.jobs.cancel(id);
    expect(await stream.rest()).toMatchObject([{ data: { status: 'canceled' } }]);
  });

  it('says again what a job waits for when it waits again for the same', async () => {
    const id = await bench.submit(emptyImage, nowhere);
    await bench.dispatch();
    const stream = open({ jobId: id });
    await stream.next();
    expect((await stream.next()).value).toContain('No ready');
    const past = { waitingFor: null, instanceId: null, attempt: 1, error: null };
    await bench.deps.db.transaction().execute(async (trx) => {
      await trx.updateTable('jobs').set({ attempt: 1 }).where('id', '=', id).execute();
      await appendEvent(
        trx,
        id,
        { type: 'status', data: { ...past, status: 'running' } },
        { type: 'status', data: { ...past, status: 'queued' } },
      );
    });
    expect((await stream.next()).value).toContain('"running"');
    expect((await stream.next()).value).toContain('No ready');
    await stream.return(undefined);
    await bench.jobs.cancel(id);
  });

  it('shows the phase of the instance that a job waits for, and what the phase is at', async () => {
    const { db } = bench.deps;
    const coming = { id: uuid(), phase: 'loading' as const, message: 'Pulling layer 3 of 12' };
    await db
      .insertInto('instances')
      .values({
        ...coming,
        provider: 'vast',
        status: 'provisioning',
        requirements: '{"minVramGb":90}',
        gpu_name: 'H200',
        gpu_count: 1,
        vram_gb: 141,
        phase_started_at: new Date(),
      })
      .execute();
    const id = await bench.submit(emptyImage, nowhere);
    await bench.dispatch();
    const stream = open({ jobId: id }, { pollMs: 20 });
    await stream.next();
    const complaintOf = await openJudge(url);
    const nextStatus = async () => {
      const data = JSON.parse(/data: (.*)/.exec((await stream.next()).value ?? '')?.[1] ?? '');
      expect(complaintOf({ id: null, type: 'status', data })).toBeNull();
      return data;
    };
    expect(await nextStatus()).toMatchObject({
      waitingFor: 'The machine loads its image.',
      comingInstance: { ...coming, phaseStartedAt: expect.any(String) },
    });
    await db
      .updateTable('instances')
      .set({ message: 'Pulling layer 9 of 12' })
      .where('id', '=', coming.id)
      .execute();
    expect(await nextStatus()).toMatchObject({ comingInstance: { message: 'Pulling layer 9 of 12' } });
    expect(await bench.job(id)).toMatchObject({ comingInstance: { id: coming.id, phase: 'loading' } });
    await db.updateTable('instances').set({ phase: 'starting' }).where('id', '=', coming.id).execute();
    await bench.dispatch();
    expect(await nextStatus()).toMatchObject({ comingInstance: { phase: 'starting' } });
    await db.updateTable('instances').set({ status: 'terminated' }).where('id', '=', coming.id).execute();
    expect(await nextStatus()).toMatchObject({ comingInstance: null });
    await stream.return(undefined);
    await bench.jobs.cancel(id);
  });

  it('ends with its job, should that be deleted', async () => {
    const id = await bench.submit(emptyImage, nowhere);
    const stream = await openEvents(eventsOf(id));
    await stream.next();
    const { db } = bench.deps;
    await db.deleteFrom('jobs').where('id', '=', id).execute();
    await replicas[0]?.database.notifications.publish(db, 'jobs', id);
    expect(await stream.rest()).toEqual([]);
  });

  it('leaves nothing behind when the caller goes', async () => {
    const left = Promise.withResolvers<string>();
    const { notifications } = bench.deps;
    const watched: Notifications = {
      ...notifications,
      subscribe(channel, listener, only) {
        const leave = notifications.subscribe(channel, listener, only);
        return () => {
          leave();
          left.resolve(`${channel} ${only}`);
        };
      },
    };
    const replica = await openReplica({ ...bench.database, notifications: watched });
    const id = await bench.submit(emptyImage, nowhere);
    const leaving = new AbortController();
    const stream = await openEvents(eventsOf(id, '', replica.url), null, leaving.signal);
    await stream.next();
    leaving.abort();
    expect(await left.promise).toBe(`jobs ${id}`);
    await replica.app.close();
    await bench.jobs.cancel(id);
  });
});

describe('a stream', () => {
  it('finds changes that nobody told it of', async () => {
    const id = await bench.submit(emptyImage, nowhere);
    const silent = { ...bench.deps.notifications, subscribe: () => () => {} };
    const stream = open({ jobId: id }, { pollMs: 20 }, { notifications: silent });
    await stream.next();
    expect((await stream.next()).value).toContain('"queued"');
    await bench.jobs.cancel(id);
    expect((await stream.next()).value).toContain('"canceled"');
    expect((await stream.next()).done).toBe(true);
  });

  it('says something now and then, so that proxies keep it', async () => {
    const id = await bench.submit(emptyImage, nowhere);
    const stream = open({ jobId: id }, { pollMs: 10, keepAliveMs: 30 });
    await stream.next();
    await stream.next();
    const begun = performance.now();
    expect((await stream.next()).value).toBe(': keep-alive\n\n');
    expect((await stream.next()).value).toBe(': keep-alive\n\n');
    expect(performance.now() - begun).toBeGreaterThan(50);
    await stream.return(undefined);
    await bench.jobs.cancel(id);
  });

  it('gives who reads slowly the newest progress, and no backlog', async () => {
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const stream = open({ jobId: id });
    await stream.next();
    await stream.next();
    for (let step = 1; step <= 50; step += 1) {
      await bench.deps.db
        .updateTable('jobs')
        .set({ progress: JSON.stringify({ phase: 'executing', step }) })
        .where('id', '=', id)
        .execute();
      await bench.deps.notifications.publish(bench.deps.db, 'jobs', id);
    }
    const { value } = await stream.next();
    expect(value?.match(/"step":\d+/g)).toEqual(['"step":50']);
    await stream.return(undefined);
    await bench.run(id);
  });

  it('costs the database next to nothing while there is nothing to tell, however many there are', async () => {
    const ids = await Promise.all(Array.from({ length: 20 }, () => bench.submit(emptyImage, nowhere)));
    const { db, statements } = openWatchedDatabase(bench, { size: 8, statementTimeoutMs: null });
    const streams = createStreams({ db, notifications: bench.deps.notifications }, { pollMs: 50 });
    const opened = ids.flatMap((jobId) =>
      Array.from({ length: 10 }, () => streams.open(requestOf({ jobId }))),
    );
    for (const stream of opened) await stream.next();
    await Promise.all(opened.map((stream) => stream.next()));
    const ends = opened.map((stream) => stream.next());
    // All look together, in one statement.
    const idle = await statements.reach(statements.calls.length + 10);
    expect(new Set(idle.slice(-10)).size).toBe(1);
    for (const id of ids) await bench.jobs.cancel(id);
    expect((await Promise.all(ends)).every(({ value }) => String(value).includes('canceled'))).toBe(true);
    for (const stream of opened) await stream.return(undefined);
  });
});

describe('previews', () => {
  /** A sampler that takes 0.4 s. */
  const sampler = (previews: boolean) => ({
    Sampler: { durationMs: 400, steps: 20, previews, outputCount: 1 },
  });
  const sampled = (seed: number) => ({ '1': { class_type: 'Sampler', inputs: { seed } } });
  const stored = (id: string) =>
    bench.deps.db.selectFrom('job_previews').selectAll().where('job_id', '=', id).execute();

  it.each([
    ['whose request asks for them', true],
    ['that somebody listened for before it ran', false],
  ])('of a job %s reach a listener in another replica, at a bounded rate', async (_name, asked) => {
    bench.double.knobs.nodes = sampler(false);
    const id = await bench.submit(sampled(Math.random()), asked ? { previews: true } : {});
    const stream = await openEvents(eventsOf(id, '?previews=true', replicas[1]?.url));
    await expect.poll(() => stored(id)).toMatchObject([{ image: null }]);
    const begunAt = performance.now();
    await bench.run(id);
    const tookMs = performance.now() - begunAt;
    const events = await stream.rest();
    const previews = events.filter(({ type }) => type === 'preview');
    expect(previews.length).toBeGreaterThan(1);
    // 20 a second, and the first at once.
    expect(previews.length).toBeLessThanOrEqual(1 + tookMs / 50);
    for (const { id: eventId, data } of previews) {
      expect(eventId).toBeNull();
      expect(data).toMatchObject({ nodeId: '1', contentType: expect.stringMatching(/^image\/(png|jpeg)$/) });
      const [first, second] = Buffer.from(String(data['dataBase64']), 'base64');
      expect([first, second]).toEqual(data['contentType'] === 'image/png' ? [0x89, 0x50] : [0xff, 0xd8]);
    }
    expect(nameOf(events.at(-1))).toBe('succeeded');
    expect(await stored(id)).toMatchObject([{ image: null }]);
    await sweepPreviews(bench.deps.db);
    expect(await stored(id)).toEqual([]);
  });

  it('are not made for a job that nobody asked them of, and not sent to who did not ask', async () => {
    bench.double.knobs.nodes = sampler(false);
    const unasked = await bench.submit(sampled(Math.random()));
    const running = bench.run(unasked);
    await bench.jobWhen(unasked, ({ progress }) => progress?.phase === 'executing');
    const late = await openEvents(eventsOf(unasked, '?previews=true'));
    await running;
    const asked = await bench.submit(sampled(Math.random()), { previews: true });
    const uninterested = await openEvents(eventsOf(asked));
    await bench.run(asked);
    for (const stream of [late, uninterested]) {
      expect((await stream.rest()).map(({ type }) => type)).not.toContain('preview');
    }
  });

  it('that a server makes unasked are written nowhere while nobody listens, and sent from when somebody does', async () => {
    bench.double.knobs.nodes = { Sampler: { durationMs: 3000, steps: 60, previews: true, outputCount: 1 } };
    const id = await bench.submit(sampled(Math.random()));
    const running = bench.run(id);
    await bench.jobWhen(id, ({ progress }) => (progress?.step ?? 0) > 5);
    expect(await stored(id)).toEqual([]);
    const leaving = new AbortController();
    const stream = await openEvents(eventsOf(id, '?previews=true'), null, leaving.signal);
    expect((await stream.nextOf('preview')).data).toMatchObject({ nodeId: '1' });
    leaving.abort();
    await bench.jobs.cancel(id);
    await running;
    expect(await stored(id)).toMatchObject([{ image: null }]);
    await sweepPreviews(bench.deps.db);
  });

  it.each([
    ['too large', { image: new Uint8Array(1001), contentType: 'image/png' }],
    ['no image', { image: new Uint8Array(10), contentType: 'text/html' }],
  ])('that are %s are dropped', async (_name, preview) => {
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const ref = await bench.attemptOf(id);
    const limits = { intervalMs: 5, maxBytes: 1000 };
    const writer = createPreviewWriter({ db: bench.deps.db, ref, limits, log: bench.deps.log });
    const stream = open({ jobId: id, previews: true });
    await stream.next();
    await stream.next();
    await expect.poll(() => stored(id)).toHaveLength(1);
    writer.offer({ nodeId: '1', ...preview });
    writer.offer({ nodeId: '2', image: new Uint8Array(1000), contentType: 'image/webp' });
    expect((await stream.next()).value).toContain('"nodeId":"2"');
    await writer.stop();
    await stream.return(undefined);
    await bench.run(id);
  });
});
