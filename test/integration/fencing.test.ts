// A replica that was held up comes back with what it learned long ago: whoever owns the record by then must not notice.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Assets } from '../../src/assets/service.ts';
import { loadConfig, type Config } from '../../src/config.ts';
import { createBudget } from '../../src/fleet/budget.ts';
import type { Provider } from '../../src/instances/provider.ts';
import { loadState, type InstanceState } from '../../src/instances/records.ts';
import { createInstances, type Instances } from '../../src/instances/service.ts';
import { createSessions } from '../../src/instances/sessions.ts';
import { nextStep, stepInstance, type InstanceDeps, type StepName } from '../../src/instances/steps.ts';
import { endAttempt, type Verdict } from '../../src/jobs/attempt.ts';
import { closeSlots } from '../../src/jobs/placement.ts';
import { runAttempt } from '../../src/jobs/run.ts';
import { openRun } from '../../src/jobs/run-state.ts';
import { claimSubmit, submit } from '../../src/jobs/submit.ts';
import { systemClock } from '../../src/support/clock.ts';
import { createLogger } from '../../src/support/log.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { createJobBench, fresh } from '../support/jobs.ts';
import { emptyImage } from '../support/workflows.ts';

const { signal } = new AbortController();

/** Something that is held up on the way: it has happened, and whoever asked for it does not know yet. */
interface Pause {
  reached: Promise<void>;
  end(): void;
}
function createPause(): Pause & { pass(): Promise<void> } {
  const [reached, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  return {
    reached: reached.promise,
    end: ended.resolve,
    async pass() {
      reached.resolve();
      await ended.promise;
    },
  };
}

describe('a replica whose step comes back late', () => {
  let vast: VastDouble;
  let testDatabase: TestDatabase;
  let instances: Instances;
  let provider: Provider & { close(): Promise<void> };
  let replica: InstanceDeps;
  let id: string;
  const logged: string[] = [];
  const config: Config = loadConfig({ INSTANCE_POLL_SECONDS: '0.05', RENT_SETTLE_SECONDS: '1' });

  beforeEach(async () => {
    vast = await startVastDouble({ knobs: { phases: instantPhases } });
    testDatabase = await createTestDatabase();
    const { db, queues } = testDatabase.database;
    logged.length = 0;
    const log = createLogger(config, { write: (line) => void logged.push(line) });
    provider = createVastProvider({
      config: loadConfig({ VASTAI_API_KEY: vast.apiKey, VAST_API_URL: vast.url, VAST_PACING: 'none' }),
      log,
    });
    const clock = systemClock;
    const budget = createBudget({ db, config, clock });
    instances = createInstances({ db, queues, provider, budget, config, clock });
    const sessions = createSessions({ db, config, log });
    replica = { db, queues, provider, sessions, budget, config, labelPrefix: 'cfy.test', log, clock };
    const { instance } = await instances.request({
      requirements: undefined,
      offerId: undefined,
      apiKey: null,
    });
    ({ id } = instance);
  });
  afterEach(async () => {
    await replica.sessions.close();
    await provider.close();
    await testDatabase.stop();
    await vast.stop();
  });

  async function state(): Promise<InstanceState> {
    const found = await loadState(testDatabase.database.db, id);
    if (found === null) throw new Error('The instance is gone.');
    return found;
  }
  async function step(deps: InstanceDeps, wake: number): Promise<void> {
    await stepInstance(deps, { instanceId: id, wake }, { signal });
  }
  /** Takes step after step until that one is next. */
  async function stepUntil(name: StepName): Promise<void> {
    await expect
      .poll(
        async () => {
          const { instance, rental } = await state();
          const next = nextStep(instance, rental);
          if (next !== name) await step(replica, instance.wake);
          return next;
        },
        { timeout: 15_000, interval: 10 },
      )
      .toBe(name);
  }
  /** Begins the next step as another replica, which is held up with the provider's answer in hand. */
  async function holdUp(method: 'searchOffers' | 'launch' | 'describe' | 'terminate') {
    const pause = createPause();
    const slow: Provider = { ...provider };
    const call: (...given: never[]) => Promise<unknown> = provider[method];
    Object.assign(slow, {
      [method]: async (...given: never[]) => {
        const answer = await call(...given);
        await pause.pass();
        return answer;
      },
    });
    const { instance } = await state();
    const late = step({ ...replica, provider: slow }, instance.wake);
    await pause.reached;
    return {
      wake: instance.wake,
      async comesBack() {
        pause.end();
        await late;
      },
    };
  }
  async function everything(): Promise<object> {
    const { db } = testDatabase.database;
    const [instance, rentals, slots] = [
      await db.selectFrom('instances').selectAll().execute(),
      await db.selectFrom('rentals').selectAll().orderBy('number').execute(),
      await db.selectFrom('slots').selectAll().orderBy('slot').execute(),
    ];
    return { instance, rentals, slots };
  }

  it.each([
    ['search', 'searchOffers'],
    ['launch', 'launch'],
    ['load', 'describe'],
    ['start', 'describe'],
    ['check', 'describe'],
    ['destroy', 'terminate'],
  ] as const)('in the step %s changes nothing once another has taken that step', async (name, method) => {
    if (name === 'destroy') {
      await stepUntil('check');
      await instances.end(id, { drain: false });
      await step(replica, (await state()).instance.wake);
    }
    await stepUntil(name);
    const late = await holdUp(method);
    await step(replica, late.wake);
    const now = await everything();
    expect((await state()).instance.wake).toBeGreaterThan(late.wake);
    await late.comesBack();
    expect(await everything()).toEqual(now);
    expect(vast.state.rentals.size).toBeLessThanOrEqual(1);
  });

  it.each([
    ['load', 'describe'],
    ['start', 'describe'],
    ['check', 'describe'],
  ] as const)('in the step %s does not bring back what was ended meanwhile', async (name, method) => {
    await stepUntil(name);
    const late = await holdUp(method);
    await instances.end(id, { drain: false });
    await stepUntil('none');
    const now = await everything();
    await late.comesBack();
    expect(await everything()).toEqual(now);
    expect((await state()).instance.status).toBe('terminated');
    expect(vast.liveRentals()).toEqual([]);
  });

  it('with a rental that another has confirmed does not take it for one that was written off', async () => {
    await stepUntil('launch');
    const late = await holdUp('launch');
    await stepUntil('load');
    await late.comesBack();
    expect(logged.join('')).toContain('confirmed by somebody else');
    expect(logged.join('')).not.toContain('written off');
  });

  it('with a rental that was written off warns of it', async () => {
    await stepUntil('launch');
    const late = await holdUp('launch');
    const { db } = testDatabase.database;
    await db.updateTable('rentals').set({ status: 'gone', gone_at: new Date() }).execute();
    await late.comesBack();
    expect(logged.join('')).toContain('the rental was written off');
  });

  it('with the id of a new rental still hands that over, so that it can be destroyed', async () => {
    await stepUntil('launch');
    const late = await holdUp('launch');
    await instances.end(id, { drain: false });
    await late.comesBack();
    const { instance, rental } = await state();
    expect(instance.status).toBe('terminating');
    expect(rental).toMatchObject({
      status: 'active',
      provider_instance_id: String(vast.liveRentals()[0]?.id),
    });
    await stepUntil('none');
    expect(vast.liveRentals()).toEqual([]);
  });
});

describe('a replica whose run comes back late', () => {
  it('leaves nothing of its result, since the job was done again elsewhere', async () => {
    const bench = await createJobBench();
    const first = await bench.addInstance();
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const pause = createPause();
    const assets: Assets = {
      ...bench.deps.assets,
      async save(...given) {
        const saved = await bench.deps.assets.save(...given);
        await pause.pass();
        return saved;
      },
    };
    const late = runAttempt({ ...bench.deps, assets }, await bench.attemptOf(id), { signal });
    await pause.reached;

    const second = await bench.addInstance();
    const { db, queues } = bench.database;
    await db.transaction().execute((trx) => closeSlots(trx, queues, first, 'The host went offline.', 3));
    const done = await bench.run(id);
    expect(done).toMatchObject({ status: 'succeeded', attempt: 2, instanceId: second });

    pause.end();
    await late;
    const after = await bench.job(id);
    expect({ ...after, timings: null }).toEqual({ ...done, timings: null });
    const slots = await db.selectFrom('slots').selectAll().where('job_id', 'is not', null).execute();
    expect(slots).toEqual([]);
    await bench.stop();
  });

  it('cannot end the attempt that has taken the place of its own', async () => {
    const bench = await createJobBench();
    await bench.addInstance();
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const late = await bench.attemptOf(id);
    const { db, queues } = bench.database;
    const end = (verdict: Verdict) =>
      db
        .transaction()
        .execute((trx) => endAttempt(trx, queues, late, verdict, { maxAttempts: 3, now: new Date() }));
    expect(await end({ kind: 'lost', code: 'prompt_lost', reason: 'It was lost.' })).toBe(true);
    await bench.dispatch();
    expect(await bench.attemptOf(id)).toMatchObject({ instanceId: late.instanceId, slot: late.slot });

    expect(await end({ kind: 'succeeded', outputs: [] })).toBe(false);
    expect(await bench.job(id)).toMatchObject({ status: 'running', attempt: 2 });
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded', outputs: [{ kind: 'image' }] });
    await bench.stop();
  });

  it('does not send the prompt that it was about to send, since another has done so', async () => {
    const bench = await createJobBench();
    await bench.addInstance();
    const id = await bench.submit(fresh(emptyImage));
    await bench.dispatch();
    const late = await openRun(bench.deps, await bench.attemptOf(id), signal);
    if (late === null) throw new Error('The attempt is over.');
    expect(await claimSubmit(late, bench.session)).toBe(true);

    // It finds the mark, looks for the prompt until it is sure, and sends it.
    expect(await bench.run(id)).toMatchObject({ status: 'succeeded', attempt: 1 });
    await expect(submit(late, bench.session, late.workflow)).rejects.toThrow('ended by somebody else');
    expect(bench.double.counters.promptsAccepted).toBe(1);
    await late.progress.stop();
    await bench.stop();
  });
});
