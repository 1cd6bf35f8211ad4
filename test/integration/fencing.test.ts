// A replica that was held up comes back with what it learned long ago: whoever owns the record by then must not notice.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Assets } from '../../src/assets/service.ts';
import type { Provider } from '../../src/instances/provider.ts';
import { endAttempt, type Verdict } from '../../src/jobs/attempt.ts';
import { closeSlots } from '../../src/jobs/placement.ts';
import { runAttempt } from '../../src/jobs/run.ts';
import { openRun } from '../../src/jobs/run-state.ts';
import { claimSubmit, submit } from '../../src/jobs/submit.ts';
import { createJobBench, fresh } from '../support/jobs.ts';
import { createStepBench, type StepBench } from '../support/steps.ts';
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
  let steps: StepBench;
  beforeEach(async () => {
    steps = await createStepBench();
  });
  afterEach(() => steps.stop());

  /** Begins the next step as another replica, which is held up with the provider's answer in hand. */
  async function holdUp(method: 'searchOffers' | 'launch' | 'describe' | 'terminate') {
    const pause = createPause();
    const slow: Provider = { ...steps.provider };
    const call: (...given: never[]) => Promise<unknown> = steps.provider[method];
    Object.assign(slow, {
      [method]: async (...given: never[]) => {
        const answer = await call(...given);
        await pause.pass();
        return answer;
      },
    });
    const { instance } = await steps.state();
    const late = steps.step({ ...steps.replica, provider: slow }, instance.wake);
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
    const { db } = steps.database;
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
      await steps.stepUntil('check');
      await steps.instances.end(steps.id, { drain: false });
      await steps.step();
    }
    await steps.stepUntil(name);
    const late = await holdUp(method);
    await steps.step(steps.replica, late.wake);
    const now = await everything();
    expect((await steps.state()).instance.wake).toBeGreaterThan(late.wake);
    await late.comesBack();
    expect(await everything()).toEqual(now);
    expect(steps.vast.state.rentals.size).toBeLessThanOrEqual(1);
  });

  it.each([
    ['load', 'describe'],
    ['start', 'describe'],
    ['check', 'describe'],
  ] as const)('in the step %s does not bring back what was ended meanwhile', async (name, method) => {
    await steps.stepUntil(name);
    const late = await holdUp(method);
    await steps.instances.end(steps.id, { drain: false });
    await steps.stepUntil('none');
    const now = await everything();
    await late.comesBack();
    expect(await everything()).toEqual(now);
    expect((await steps.state()).instance.status).toBe('terminated');
    expect(steps.vast.liveRentals()).toEqual([]);
  });

  it('with a rental that another has confirmed does not take it for one that was written off', async () => {
    await steps.stepUntil('launch');
    const late = await holdUp('launch');
    await steps.stepUntil('load');
    await late.comesBack();
    expect(steps.logged.join('')).toContain('confirmed by somebody else');
    expect(steps.logged.join('')).not.toContain('written off');
  });

  it('with a rental that was written off warns of it', async () => {
    await steps.stepUntil('launch');
    const late = await holdUp('launch');
    const { db } = steps.database;
    await db.updateTable('rentals').set({ status: 'gone', gone_at: new Date() }).execute();
    await late.comesBack();
    expect(steps.logged.join('')).toContain('the rental was written off');
  });

  it('with the id of a new rental still hands that over, so that it can be destroyed', async () => {
    await steps.stepUntil('launch');
    const late = await holdUp('launch');
    await steps.instances.end(steps.id, { drain: false });
    await late.comesBack();
    const { instance, rental } = await steps.state();
    expect(instance.status).toBe('terminating');
    expect(rental).toMatchObject({
      status: 'active',
      provider_instance_id: String(steps.vast.liveRentals()[0]?.id),
    });
    await steps.stepUntil('none');
    expect(steps.vast.liveRentals()).toEqual([]);
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
