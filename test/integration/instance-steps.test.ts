// Instances, step by step by hand: what happens between two steps, to time, money, the key or the caller, counts in the next.
import { afterEach, describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { createBudget } from '../../src/fleet/budget.ts';
import type { Provider } from '../../src/instances/provider.ts';
import { noIntervals } from '../../src/vast/endpoints.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { createStepBench, type StepBench } from '../support/steps.ts';

let steps: StepBench;
afterEach(() => steps.stop());

describe('a machine that was chosen a while ago', () => {
  it('is not rented once the life of its instance is over', async () => {
    steps = await createStepBench();
    await steps.stepUntil('launch');
    const { db } = steps.database;
    await db
      .updateTable('instances')
      .set({ expires_at: new Date(Date.now() - 1000) })
      .execute();
    await steps.stepUntil('none');
    expect(steps.vast.state.rentals.size).toBe(0);
    const { instance } = await steps.state();
    expect(instance.termination_reason).toBe('lifetime_reached');
  });

  it('is not rented when the limits leave no more room for it, and another is looked for', async () => {
    steps = await createStepBench();
    await steps.stepUntil('launch');
    const { replica, database } = steps;
    const lowered = loadConfig({ MAX_SPEND_PER_DAY_USD: '0.01' });
    const budget = createBudget({ db: database.db, config: lowered, clock: replica.clock });
    await steps.step({ ...replica, budget });
    expect(steps.vast.state.rentals.size).toBe(0);
    const { instance, rental } = await steps.state();
    expect(instance).toMatchObject({ status: 'provisioning', phase: 'searching' });
    expect(rental).toMatchObject({ status: 'gone', end_reason: 'limit_reached', create_sent_at: null });
  });

  it('is not rented when its instance is ended while the call waits for its turn', async () => {
    const create = { calls: 1, perMs: 1000, penaltyMs: 0 };
    steps = await createStepBench({ intervals: { ...noIntervals, paces: { ...noIntervals.paces, create } } });
    const second = await steps.request();
    await steps.stepUntil('launch');
    await steps.stepUntil('launch', second);
    await steps.step();
    const { promise: asked, resolve } = Promise.withResolvers<void>();
    const provider: Provider = {
      ...steps.provider,
      launch(...given) {
        resolve();
        return steps.provider.launch(...given);
      },
    };
    const waiting = steps.step({ ...steps.replica, provider }, undefined, second);
    await asked;
    await steps.instances.end(second, { drain: false });
    await waiting;
    await steps.stepUntil('none', second);
    expect(steps.vast.counters.calls.create).toBe(1);
  });
});

describe('an instance whose process dies once its rental is known to have failed', () => {
  it('looks for another machine, and says so', async () => {
    steps = await createStepBench();
    await steps.stepUntil('launch');
    const { db } = steps.database;
    const failed = { status: 'gone', gone_at: new Date(), end_reason: 'renting_failed' } as const;
    await db.updateTable('rentals').set(failed).execute();
    steps.vast.knobs.faultChances.search = [{ fault: '500', chance: 1 }];
    for (let looks = 0; looks < 2; looks += 1) await steps.step();
    expect((await steps.state()).instance).toMatchObject({
      phase: 'searching',
      phases: [{ phase: 'searching' }, { phase: 'renting' }, { phase: 'searching', endedAt: null }],
    });
  });
});

describe('a ready machine whose price is raised above what may be paid', () => {
  it('is over its life, so that its jobs have no longer than those of one that has reached a limit', async () => {
    steps = await createStepBench();
    await steps.stepUntil('check');
    const { rental } = await steps.state();
    for (let raises = 0; raises < 5; raises += 1)
      steps.vast.strike(Number(rental?.provider_instance_id), 'price-raised');
    await steps.step();
    const { instance } = await steps.state();
    expect(instance).toMatchObject({ status: 'draining', pending_reason: 'price_raised' });
    expect(instance.expires_at?.getTime()).toBeLessThanOrEqual(Date.now());
  });
});

describe('without a key, after one had been there,', () => {
  it('a machine that answers is watched and kept, and nothing is searched for', async () => {
    steps = await createStepBench();
    const second = await steps.request();
    await steps.stepUntil('check');
    await steps.stepUntil('search', second);
    const { db } = steps.database;
    await db.updateTable('rentals').set({ heartbeat_at: null }).execute();
    const keyless = { ...steps.replica, provider: null };
    await steps.step(keyless);
    await steps.step(keyless, undefined, second);
    const { instance, rental } = await steps.state();
    expect(instance).toMatchObject({ status: 'ready', unreachable_since: null, failing_since: null });
    expect(rental?.heartbeat_at).toBeInstanceOf(Date);
    expect((await steps.state(second)).instance).toMatchObject({
      status: 'terminating',
      pending_reason: 'provider_refused_key',
      pending_detail: expect.stringContaining('VASTAI_API_KEY is not set'),
    });
  });
});

describe('an instance whose steps fail for a reason that nobody foresaw', () => {
  it('is ended when they do so for long, and not when they have failed before and after an outage', async () => {
    steps = await createStepBench();
    await steps.stepUntil('check');
    const provider: Provider = {
      ...steps.provider,
      describe: () => Promise.reject(new Error('This is not foreseen.')),
    };
    const begun = Date.now();
    const statusAfter = async (minutes: number) => {
      const clock = { now: () => new Date(begun + minutes * 60_000) };
      await steps.step({ ...steps.replica, provider, clock }).catch(() => {});
      return (await steps.state()).instance.status;
    };
    expect(await statusAfter(0)).toBe('ready');
    expect(await statusAfter(16)).toBe('ready');
    for (const minutes of [19, 22, 25, 28]) expect(await statusAfter(minutes)).toBe('ready');
    expect(await statusAfter(31)).toBe('terminating');
  });
});

describe('a ready machine that is silent while the single view of the provider fails for ever', () => {
  it('is given up after its limit where the list does not show it either', async () => {
    steps = await createStepBench({ env: { UNREACHABLE_TIMEOUT_SECONDS: '60' } });
    await steps.stepUntil('check');
    const begun = Date.now();
    steps.vast.strike(Number((await steps.state()).rental?.provider_instance_id), 'comfyui-gone');
    steps.vast.knobs.faultChances = {
      show: [{ fault: '500', chance: 1 }],
      list: [{ fault: 'empty-list', chance: 1 }],
    };
    const statusAfter = async (seconds: number) => {
      const clock = { now: () => new Date(begun + seconds * 1000) };
      await steps.step({ ...steps.replica, clock });
      return (await steps.state()).instance.status;
    };
    expect(await statusAfter(0)).toBe('ready');
    expect(await statusAfter(59)).toBe('ready');
    expect(await statusAfter(61)).toBe('terminating');
  });
});

describe('a machine that is destroyed while the single view of the provider fails for ever', () => {
  it('is gone when the list alone has not shown it for as long as a destruction may take', async () => {
    steps = await createStepBench({ env: { DESTROY_RESERVE_HOURS: '1' } });
    await steps.stepUntil('check');
    await steps.instances.end(steps.id, { drain: false });
    const begun = Date.now();
    const statusAfter = async (minutes: number) => {
      const clock = { now: () => new Date(begun + minutes * 60_000) };
      await steps.step({ ...steps.replica, clock });
      return (await steps.state()).rental?.status;
    };
    steps.vast.knobs.faultChances = {
      show: [{ fault: '500', chance: 1 }],
      destroy: [{ fault: 'noop', chance: 1 }],
    };
    for (const minutes of [0, 1, 2, 70, 140]) expect(await statusAfter(minutes)).toBe('destroying');
    delete steps.vast.knobs.faultChances.destroy;
    expect(await statusAfter(141)).toBe('destroying');
    expect(steps.vast.liveRentals()).toEqual([]);
    steps.vast.knobs.faults.list.push('500', '500');
    for (const minutes of [142, 143, 144, 203]) expect(await statusAfter(minutes)).toBe('destroying');
    expect(await statusAfter(205)).toBe('gone');
  });
});

describe('a clock that is set back', () => {
  const stepAt = (seconds: number) => {
    const clock = { now: () => new Date(begun + seconds * 1000) };
    return steps.step({ ...steps.replica, clock });
  };
  let begun = 0;

  it('does not prolong the time that a machine may be silent', async () => {
    steps = await createStepBench({ env: { UNREACHABLE_TIMEOUT_SECONDS: '60' } });
    await steps.stepUntil('check');
    begun = Date.now();
    steps.vast.strike(Number((await steps.state()).rental?.provider_instance_id), 'comfyui-gone');
    await stepAt(3600);
    await stepAt(0);
    expect((await steps.state()).instance.status).toBe('ready');
    await stepAt(61);
    expect((await steps.state()).instance.status).toBe('terminating');
  });

  it('does not prolong the time in which a rental is looked for', async () => {
    steps = await createStepBench({ env: { RENT_SETTLE_SECONDS: '60' } });
    steps.vast.knobs.faults.create.push('503');
    await steps.stepUntil('settle');
    begun = Date.now();
    await stepAt(3600);
    await stepAt(0);
    expect((await steps.state()).rental?.status).toBe('creating');
    await stepAt(61);
    expect((await steps.state()).rental?.status).toBe('gone');
  });

  it('does not prolong the time that a machine may be shown by no view', async () => {
    steps = await createStepBench({ env: { RENT_SETTLE_SECONDS: '60' } });
    await steps.stepUntil('check');
    begun = Date.now();
    steps.vast.knobs.faultChances = {
      show: [{ fault: 'null-instance', chance: 1 }],
      list: [{ fault: 'empty-list', chance: 1 }],
    };
    await stepAt(3600);
    await stepAt(0);
    expect((await steps.state()).instance.status).toBe('ready');
    await stepAt(61);
    expect((await steps.state()).instance.status).toBe('terminating');
  });

  it('does not prolong the time that a machine has to load', async () => {
    steps = await createStepBench({
      env: { LOADING_TIMEOUT_SECONDS: '60' },
      knobs: { phases: { ...instantPhases, loadingMs: 600_000 } },
    });
    await steps.stepUntil('launch');
    begun = Date.now();
    for (const seconds of [3600, 3600, 0]) await stepAt(seconds);
    expect((await steps.state()).instance.phase).toBe('loading');
    await stepAt(59);
    expect((await steps.state()).rental?.status).toBe('active');
    await stepAt(61);
    expect((await steps.state()).rental).toMatchObject({
      status: 'destroying',
      end_reason: 'loading_timeout',
    });
  });
});
