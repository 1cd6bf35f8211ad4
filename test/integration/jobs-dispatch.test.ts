import { sql, type Transaction } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import type { Tables } from '../../src/database/tables.ts';
import { endAttempt } from '../../src/jobs/attempt.ts';
import { headsOfLines } from '../../src/jobs/lines.ts';
import { closeSlots, openSlots } from '../../src/jobs/placement.ts';
import { sweepJobs } from '../../src/jobs/sweep.ts';
import type { Verdict } from '../../src/jobs/verdict.ts';
import { collector } from '../support/collector.ts';
import { createJobBench, type JobBench } from '../support/jobs.ts';
import { emptyImage } from '../support/workflows.ts';

let bench: JobBench;

beforeAll(async () => {
  bench = await createJobBench({ JOB_MAX_ATTEMPTS: '2' });
});
afterAll(() => bench.stop());
beforeEach(async () => {
  const { db } = bench.database;
  for (const table of ['slots', 'outputs', 'job_events', 'attempts', 'jobs', 'instances'] as const) {
    await db.deleteFrom(table).execute();
  }
});

const statusOf = async (id: string) => (await bench.job(id)).status;
async function readsOfJobs(trx: Transaction<Tables>): Promise<{ whole: number; byIndex: number }> {
  const { rows } = await sql<{ whole: number; byIndex: number }>`
    select seq_tup_read::int as whole, idx_tup_fetch::int as "byIndex" from pg_stat_xact_user_tables where relname = 'jobs'`.execute(
    trx,
  );
  return rows[0] ?? { whole: 0, byIndex: 0 };
}
const place = async (id: string) => (await bench.attemptOf(id)).instanceId;
const agoMs = (ms: number) => new Date(Date.now() - ms);
const update = (id: string, columns: object) =>
  bench.database.db.updateTable('jobs').set(columns).where('id', '=', id).execute();
const setInstance = (id: string, columns: object) =>
  bench.database.db.updateTable('instances').set(columns).where('id', '=', id).execute();
const close = (instanceId: string) =>
  bench.database.db
    .transaction()
    .execute((trx) => closeSlots(trx, bench.database.queues, instanceId, 'The host went offline.', 2));
const end = async (id: string, verdict: Verdict) => {
  const { db, queues } = bench.database;
  const ref = await bench.attemptOf(id);
  await db
    .transaction()
    .execute((trx) => endAttempt(trx, queues, ref, verdict, { maxAttempts: 2, now: new Date() }));
};
/** Leaves one free slot of two. */
const fillSlot = async () => {
  const id = await bench.submit(emptyImage, { priority: 100 });
  await bench.database.db.updateTable('slots').set({ job_id: id }).where('slot', '=', 1).execute();
  await update(id, { status: 'running', started_at: new Date() });
};
const messages = async (queue: 'run') => (await bench.database.queues.health()).depth[queue] ?? 0;

describe('the dispatch', () => {
  it('places two jobs on an instance and no more', async () => {
    await bench.addInstance();
    const ids = [
      await bench.submit(emptyImage),
      await bench.submit(emptyImage),
      await bench.submit(emptyImage),
    ];
    expect(await bench.dispatch()).toBe(2);
    expect(await Promise.all(ids.map(statusOf))).toEqual(['running', 'running', 'queued']);
    expect((await bench.job(ids[2] ?? '')).waitingFor).toBe('Every ready instance that fits is busy.');
  });

  it('places every job once, however many dispatches there are at a time', async () => {
    await Promise.all(Array.from({ length: 4 }, () => bench.addInstance()));
    await Promise.all(Array.from({ length: 12 }, () => bench.submit(emptyImage)));
    const runsBefore = await messages('run');
    const placed = await Promise.all(Array.from({ length: 6 }, () => bench.dispatch()));
    expect(placed.reduce((sum, count) => sum + count)).toBe(8);
    const attempts = await bench.database.db.selectFrom('attempts').selectAll().execute();
    expect(new Set(attempts.map(({ job_id }) => job_id)).size).toBe(8);
    expect(new Set(attempts.map(({ instance_id, slot }) => `${instance_id}/${slot}`)).size).toBe(8);
    expect((await messages('run')) - runsBefore).toBe(8);
  });

  it('takes the higher priority first, unless another has waited a minute longer for each point', async () => {
    await bench.addInstance();
    const normal = await bench.submit(emptyImage);
    const high = await bench.submit(emptyImage, { priority: 5 });
    const old = await bench.submit(emptyImage, { priority: -1 });
    await update(old, { created_at: agoMs(7 * 60_000) });
    await bench.dispatch();
    expect([await statusOf(normal), await statusOf(high), await statusOf(old)]).toEqual([
      'queued',
      'running',
      'running',
    ]);
  });

  it('lets one job of a key through before the many of another', async () => {
    const from = async (key: string) => {
      const id = await bench.submit(emptyImage);
      await update(id, { api_key: key });
      return id;
    };
    const many = [];
    for (let count = 0; count < 4; count += 1) many.push(await from('many'));
    const one = await from('one');
    await bench.addInstance();
    await bench.dispatch();
    const placed = await Promise.all([...many, one].map(statusOf));
    expect(placed).toEqual(['running', 'queued', 'queued', 'queued', 'running']);

    // Both have ended; the key that was served longer ago comes first, also with a later job.
    for (const [id, ms] of [
      [many[0] ?? '', 10],
      [one, 10_000],
    ] as const) {
      await end(id, { kind: 'succeeded', outputs: [] });
      await update(id, { finished_at: agoMs(ms) });
    }
    const another = await from('one');
    await update(another, { created_at: agoMs(0) });
    await fillSlot();
    await bench.dispatch();
    expect([await statusOf(another), await statusOf(many[1] ?? '')]).toEqual(['queued', 'running']);
  });

  it('sends a job to the instance that ran such a workflow last', async () => {
    const other = { '3': { class_type: 'PrimitiveInt', inputs: { value: 1 } }, ...emptyImage };
    const [first, second] = [await bench.addInstance(), await bench.addInstance()];
    const before = [
      await bench.submit(emptyImage, { instanceId: second }),
      await bench.submit(other, { instanceId: first }),
    ];
    await bench.dispatch();
    for (const id of before) await end(id, { kind: 'succeeded', outputs: [] });
    const same = [await bench.submit(emptyImage), await bench.submit(other)] as const;
    await bench.dispatch();
    expect([await place(same[0]), await place(same[1])]).toEqual([second, first]);
  });

  it('reads as few jobs as it needs, also with thousands that wait', async () => {
    await bench.addInstance();
    const { db } = bench.database;
    const id = await bench.submit(emptyImage);
    await sql`insert into jobs (id, status, workflow, requirements, priority, time_limit_ms, wait_limit_ms, api_key, waiting_for)
      select gen_random_uuid(), 'queued', workflow, jsonb_build_object('minVramGb', 100 + number % 5), number % 7, 1000, 1000000,
        'key' || number % 4, 'No ready instance satisfies the requirements.'
      from jobs, generate_series(1, 4000) as number`.execute(db);
    await sql`update jobs set requirements = requirements || '{"gpuNames": [], "regions": [], "gpuCount": 1}'
      where requirements is not null`.execute(db);
    await sql`analyze jobs`.execute(db);
    await db.transaction().execute(async (trx) => {
      // Of the connection: what it read before is in it as well, until that is written down.
      const before = await readsOfJobs(trx);
      expect(await headsOfLines(trx, 2)).toHaveLength(20 * 2 + 1);
      const after = await readsOfJobs(trx);
      expect(after.whole - before.whole).toBe(0);
      expect(after.byIndex - before.byIndex).toBeLessThan(100);
    });
    expect(await bench.dispatch()).toBe(1);
    expect(await statusOf(id)).toBe('running');
  });

  it('is not held up by any number of jobs that fit nowhere', async () => {
    await bench.addInstance();
    const picky = { requirements: { minVramGb: 80 }, priority: 100 };
    for (let count = 0; count < 5; count += 1) await bench.submit(emptyImage, picky);
    const modest = await bench.submit(emptyImage);
    await bench.dispatch();
    expect(await statusOf(modest)).toBe('running');
  });

  it('heeds requirements and the wanted instance', async () => {
    const small = await bench.addInstance({ gpuName: 'RTX 3060', vramGb: 12 });
    const large = await bench.addInstance({ gpuName: 'L40S', vramGb: 48 });
    const demanding = await bench.submit(emptyImage, { requirements: { minVramGb: 40 } });
    const pinned = await bench.submit(emptyImage, { instanceId: small });
    await bench.dispatch();
    expect([await place(demanding), await place(pinned)]).toEqual([large, small]);
  });

  it('passes over instances that are not ready or do not answer', async () => {
    const draining = await bench.addInstance();
    const silent = await bench.addInstance();
    await setInstance(draining, { status: 'draining' });
    await setInstance(silent, { unreachable_since: new Date() });
    const id = await bench.submit(emptyImage);
    expect(await bench.dispatch()).toBe(0);
    expect((await bench.job(id)).waitingFor).toBe('The instance that fits does not answer at the moment.');
  });

  it('waits for nobody who is ending an instance', async () => {
    const id = await bench.addInstance();
    await bench.submit(emptyImage);
    await bench.database.db.transaction().execute(async (trx) => {
      await trx.selectFrom('instances').select('id').where('id', '=', id).forUpdate().execute();
      expect(await bench.dispatch()).toBe(0);
    });
    expect(await bench.dispatch()).toBe(1);
  });

  it('says what a job waits for', async () => {
    const id = await bench.submit(emptyImage, { requirements: { gpuNames: ['L40S'] } });
    await bench.dispatch();
    expect((await bench.job(id)).waitingFor).toBe('No ready instance satisfies the requirements.');
    const coming = await bench.addInstance({ gpuName: 'L40S' });
    await setInstance(coming, { status: 'provisioning', phase: 'loading' });
    await bench.dispatch();
    expect((await bench.job(id)).waitingFor).toBe('The machine loads its image.');
  });

  it('writes what a job waits for only when it changes', async () => {
    const id = await bench.submit(emptyImage);
    const version = async () =>
      (
        await bench.database.db
          .selectFrom('jobs')
          .select('xmin' as never)
          .where('id', '=', id)
          .execute()
      )[0];
    await bench.dispatch();
    const first = await version();
    await bench.dispatch();
    expect(await version()).toEqual(first);
  });
});

describe('the slots of an instance', () => {
  it('are two, however often they are opened', async () => {
    const id = await bench.addInstance();
    const { db } = bench.database;
    await db.transaction().execute((trx) => openSlots(trx, id));
    expect(await db.selectFrom('slots').select('slot').orderBy('slot').execute()).toEqual([
      { slot: 0 },
      { slot: 1 },
    ]);
  });

  it('give their jobs back to the queue when they close, and a later job does not overtake them', async () => {
    const first = await bench.addInstance();
    const lost = await bench.submit(emptyImage);
    await bench.dispatch();
    await close(first);
    expect(await bench.job(lost)).toMatchObject({
      status: 'queued',
      startedAt: null,
      instanceId: null,
      attempts: [{ status: 'ended', outcome: 'lost', reason: 'The host went offline.' }],
    });
    const later = await bench.submit(emptyImage);
    const second = await bench.addInstance();
    await bench.dispatch();
    expect(await bench.attemptOf(lost)).toMatchObject({ instanceId: second, slot: 0 });
    expect(await bench.attemptOf(later)).toMatchObject({ instanceId: second, slot: 1 });
  });

  it('bring a dispatch when they come free that has passed over them while they were held', async () => {
    const { db, queues, notifications } = bench.database;
    await bench.addInstance();
    const [ended, waiting] = [await bench.submit(emptyImage), await bench.submit(emptyImage)];
    await bench.dispatch();
    const third = await bench.submit(emptyImage);
    // Its slot was handed on before, so its end frees none.
    const ref = await bench.attemptOf(ended);
    await db.updateTable('slots').set({ job_id: null }).where('job_id', '=', ended).execute();
    await db.updateTable('attempts').set({ status: 'collecting' }).where('id', '=', ref.attemptId).execute();
    const wakeUps = collector<string>();
    onTestFinished(notifications.subscribe('comfyfleet_queues', wakeUps.add));
    await wakeUps.reach(1);
    await db.transaction().execute(async (trx) => {
      const options = { maxAttempts: 2, now: new Date() };
      await endAttempt(trx, queues, ref, { kind: 'succeeded', outputs: [] }, options);
      expect(await bench.dispatch()).toBe(0);
    });
    expect((await wakeUps.reach(2)).slice(1)).toEqual(['dispatch']);
    expect(await bench.dispatch()).toBe(1);
    expect([await statusOf(third), await statusOf(waiting)]).toEqual(['running', 'running']);
  });

  it('let a job fail that was tried often enough, or wanted this very instance', async () => {
    const id = await bench.submit(emptyImage);
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      const instanceId = await bench.addInstance();
      await bench.dispatch();
      await close(instanceId);
    }
    const instanceId = await bench.addInstance();
    const pinned = await bench.submit(emptyImage, { instanceId });
    await bench.dispatch();
    await close(instanceId);
    expect(await bench.job(id)).toMatchObject({
      status: 'failed',
      attempt: 2,
      error: { code: 'instance_lost' },
    });
    expect(await bench.job(pinned)).toMatchObject({
      status: 'failed',
      attempt: 1,
      error: { code: 'instance_lost' },
    });
  });

  it('let a job be canceled that was to be canceled', async () => {
    const instanceId = await bench.addInstance();
    const id = await bench.submit(emptyImage);
    await bench.dispatch();
    await bench.jobs.cancel(id);
    await close(instanceId);
    expect(await statusOf(id)).toBe('canceled');
  });

  it('are freed once by whoever ends the attempt first', async () => {
    await bench.addInstance();
    const id = await bench.submit(emptyImage);
    await bench.dispatch();
    const ref = await bench.attemptOf(id);
    const { db, queues } = bench.database;
    const verdicts = [
      { kind: 'succeeded', outputs: [] },
      { kind: 'failed', error: { code: 'node_error', detail: 'x' } },
      { kind: 'lost', code: 'prompt_lost', reason: 'x' },
    ] as const;
    const written = await Promise.all(
      verdicts.map((verdict) =>
        db.transaction().execute((trx) =>
          endAttempt(trx, queues, ref, structuredClone(verdict) as never, {
            maxAttempts: 2,
            now: new Date(),
          }),
        ),
      ),
    );
    expect(written.filter(Boolean)).toHaveLength(1);
    expect(await db.selectFrom('slots').select('job_id').where('job_id', 'is not', null).execute()).toEqual(
      [],
    );
  });

  it('survive dispatches, ends and closures at the same time', async () => {
    const ids = await Promise.all(Array.from({ length: 10 }, () => bench.submit(emptyImage)));
    for (let round = 0; round < 4; round += 1) {
      const instances = await Promise.all([bench.addInstance(), bench.addInstance()]);
      await Promise.all([bench.dispatch(), ...instances.map(close), bench.dispatch()]);
      await Promise.all(instances.map((id) => setInstance(id, { status: 'terminated' })));
    }
    await sweepJobs(bench.deps);
    const jobs = await Promise.all(ids.map((id) => bench.job(id)));
    expect(jobs.every(({ status, attempt }) => status === (attempt === 2 ? 'failed' : 'queued'))).toBe(true);
    expect(
      await bench.database.db.selectFrom('slots').selectAll().where('job_id', 'is not', null).execute(),
    ).toEqual([]);
  });
});

describe('the end of a job', () => {
  it('tells of all its results in their order, however many there are', async () => {
    await bench.addInstance();
    const id = await bench.submit(emptyImage);
    await bench.dispatch();
    const text = { nodeId: '2', kind: 'text', temporary: false, assetId: null, text: 'x' } as const;
    const names = Array.from({ length: 2500 }, (_, index) => `${index}.txt`);
    const outputs = names.map((name) => ({ ...text, name, contentType: 'text/plain', sizeBytes: 1 }));
    await end(id, { kind: 'succeeded', outputs });
    expect((await bench.job(id)).outputs.map(({ name }) => name)).toEqual(names);
    const events = await bench.database.db
      .selectFrom('job_events')
      .select(['type', sql<string | null>`data->>'name'`.as('name')])
      .where('job_id', '=', id)
      .orderBy('id')
      .execute();
    expect(events.flatMap(({ type, name }) => (type === 'output' ? [name] : []))).toEqual(names);
    expect(events.at(-1)?.type).toBe('status');
  });
});

describe('the sweep', () => {
  it('lets jobs expire that waited too long, and says what for', async () => {
    const late = await bench.submit(emptyImage, { waitLimitSeconds: 60 });
    const patient = await bench.submit(emptyImage, { waitLimitSeconds: 600 });
    await bench.dispatch();
    for (const id of [late, patient]) await update(id, { queued_at: agoMs(61_000) });
    await sweepJobs(bench.deps);
    expect(await bench.job(late)).toMatchObject({
      status: 'expired',
      error: { code: 'wait_limit', detail: expect.stringContaining('No ready instance') },
    });
    expect(await statusOf(patient)).toBe('queued');
  });

  it('fails jobs whose wanted instance takes no more', async () => {
    const instanceId = await bench.addInstance();
    const id = await bench.submit(emptyImage, { instanceId });
    await setInstance(instanceId, { status: 'draining' });
    await sweepJobs(bench.deps);
    expect(await bench.job(id)).toMatchObject({ status: 'failed', error: { code: 'instance_lost' } });
  });

  it('sends a lost run again, once in a while', async () => {
    await bench.addInstance();
    const id = await bench.submit(emptyImage);
    await bench.dispatch();
    const before = await messages('run');
    await sweepJobs(bench.deps);
    expect(await messages('run')).toBe(before);
    const { attemptId } = await bench.attemptOf(id);
    await bench.database.db
      .updateTable('attempts')
      .set({ touched_at: agoMs(61_000) })
      .where('id', '=', attemptId)
      .execute();
    await Promise.all([sweepJobs(bench.deps), sweepJobs(bench.deps)]);
    expect(await messages('run')).toBe(before + 1);
  });

  it.each([
    ['whose instance has ended', (instanceId: string) => setInstance(instanceId, { status: 'terminated' })],
    [
      'that have no slot',
      (instanceId: string) =>
        bench.database.db.deleteFrom('slots').where('instance_id', '=', instanceId).execute(),
    ],
  ])('gives back jobs %s', async (_name, breakIt) => {
    const instanceId = await bench.addInstance();
    const id = await bench.submit(emptyImage);
    await bench.dispatch();
    await breakIt(instanceId);
    await sweepJobs(bench.deps);
    expect(await bench.job(id)).toMatchObject({ status: 'queued', attempts: [{ outcome: 'lost' }] });
  });

  it('ends what nobody ended, when all limits have long passed', async () => {
    await bench.addInstance();
    const id = await bench.submit(emptyImage, { timeLimitSeconds: 60 });
    await bench.dispatch();
    const { attemptId } = await bench.attemptOf(id);
    const started = (ms: number) =>
      bench.database.db
        .updateTable('attempts')
        .set({ started_at: agoMs(ms) })
        .where('id', '=', attemptId)
        .execute();
    await started(60_000 + 3_500_000);
    await sweepJobs(bench.deps);
    expect(await statusOf(id)).toBe('running');
    await started(60_000 + 3_601_000);
    await sweepJobs(bench.deps);
    expect(await bench.job(id)).toMatchObject({ status: 'failed', error: { code: 'time_limit' } });
  });

  it('has somebody look first at what nobody worked on for long: it may have its result', async () => {
    await bench.addInstance();
    const id = await bench.submit(emptyImage, { timeLimitSeconds: 60 });
    await bench.dispatch();
    const stop = new AbortController();
    bench.double.knobs.hangingNode = '1';
    const running = bench.run(id, stop.signal);
    await bench.jobWhen(id, (job) => job.attempts.at(-1)?.startedAt != null);
    stop.abort(new Error('The service stops.'));
    await expect(running).rejects.toThrow('The service stops.');
    bench.double.knobs.hangingNode = null;
    await expect.poll(() => bench.double.counters.executionsFinished).toBe(1);
    const longAgo = agoMs(60_000 + 3_601_000);
    await bench.database.db
      .updateTable('attempts')
      .set({ started_at: longAgo, touched_at: longAgo })
      .where('job_id', '=', id)
      .execute();
    await sweepJobs(bench.deps);
    expect(await statusOf(id)).toBe('running');
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded' });
  });

  it('gives what has executed as long again for its results, and cancels what was to be canceled', async () => {
    await bench.addInstance();
    const [collecting, canceled] = [
      await bench.submit(emptyImage, { timeLimitSeconds: 60 }),
      await bench.submit(emptyImage, { timeLimitSeconds: 60 }),
    ];
    await bench.dispatch();
    await bench.database.db
      .updateTable('attempts')
      .set({ started_at: agoMs(60_000 + 3_601_000) })
      .execute();
    await bench.database.db
      .updateTable('attempts')
      .set({ status: 'collecting', collecting_at: agoMs(60_000) })
      .where('job_id', '=', collecting)
      .execute();
    await bench.jobs.cancel(canceled);
    await sweepJobs(bench.deps);
    expect([await statusOf(collecting), await statusOf(canceled)]).toEqual(['running', 'canceled']);
  });
});
