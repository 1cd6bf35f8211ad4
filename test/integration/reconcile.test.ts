// The rentals of the account against the records: what nobody accounts for is found, and nothing else is ever touched.
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import type { Database } from '../../src/database/database.ts';
import { createBudget } from '../../src/fleet/budget.ts';
import { reconcile } from '../../src/instances/reconcile.ts';
import { createSessions } from '../../src/instances/sessions.ts';
import { systemClock as clock } from '../../src/support/clock.ts';
import { createLogger } from '../../src/support/log.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { startTestService, type TestService } from '../support/service.ts';
import { createStepBench } from '../support/steps.ts';
import { emptyImage } from '../support/workflows.ts';

interface Instance {
  id: string;
  status: string;
  costUsd: number;
  expiresAt: string | null;
  rentals: { status: string; label: string; providerInstanceId: string | null; endReason: string | null }[];
  terminationReason: string | null;
}
interface AccountRental {
  providerInstanceId: string;
  label: string | null;
  ownership: string;
  instanceId: string | null;
}
interface Health {
  status: string;
  parts: Record<string, { status: string; detail: string }>;
}

let vast: VastDouble;
let service: TestService;

const quick = {
  DEPLOYMENT: 'test',
  RECONCILE_SECONDS: '0.1',
  ORPHAN_GRACE_SECONDS: '0.3',
  RENT_SETTLE_SECONDS: '1',
};

async function start(env: Record<string, string> = {}) {
  vast = await startVastDouble({ knobs: { phases: instantPhases } });
  service = await startTestService({ vast, env: { ...quick, ...env } });
}

async function stop() {
  await service.stop();
  await vast.stop();
}

const database = (): Database => service.service.database;
const labelled = (instanceId: string) => `cfy.test.${instanceId}.1`;

async function readyInstance(): Promise<Instance> {
  const { body } = await service.call<Instance>('/instances', { method: 'POST', json: {} });
  return service.until<Instance>(`/instances/${body.id}`, ({ status }) => status === 'ready');
}

/** As after the loss of the database: the machine goes on, and no record knows it. */
async function forget(instanceId: string): Promise<void> {
  const { db } = database();
  await db.deleteFrom('slots').where('instance_id', '=', instanceId).execute();
  const rentals = db.selectFrom('rentals').select('id').where('instance_id', '=', instanceId);
  await db.deleteFrom('rental_costs').where('rental_id', 'in', rentals).execute();
  await db.deleteFrom('rentals').where('instance_id', '=', instanceId).execute();
  await db.deleteFrom('instances').where('id', '=', instanceId).execute();
}

/** As when a create call that counted as failed makes its machine after all. */
async function closeRecords(
  instanceId: string,
  reason: 'renting_timeout' | 'unreachable' = 'renting_timeout',
  instance: { expires_at?: Date; pending_reason?: 'requested' } = {},
): Promise<void> {
  const { db } = database();
  const gone = { status: 'gone', gone_at: new Date(Date.now() - 60_000), end_reason: reason } as const;
  await db.updateTable('rentals').set(gone).where('instance_id', '=', instanceId).execute();
  await db.deleteFrom('slots').where('instance_id', '=', instanceId).execute();
  await db
    .updateTable('instances')
    .set({ ...instance, status: 'terminated', terminated_at: new Date() })
    .where('id', '=', instanceId)
    .execute();
}

/** An instance that got another machine, since the first did not appear in time; then it appears. */
async function machineThatCameLate(path: '/instances' | '/jobs'): Promise<Instance> {
  vast.knobs.faults.create.push('503');
  await service.call(path, { method: 'POST', json: path === '/jobs' ? { workflow: emptyImage } : {} });
  const { items } = await service.until<{ items: Instance[] }>(
    '/instances?status=ready',
    (page) => page.items.length === 1,
  );
  const [instance] = items;
  if (instance === undefined) throw new Error('There is no instance.');
  expect(instance.rentals.map(({ endReason }) => endReason)).toEqual(['renting_timeout', null]);
  vast.addForeignRental(labelled(instance.id));
  return instance;
}

/** The instance that the late machine got. */
async function recordOfTheLate({ id }: Instance): Promise<Instance> {
  const { items } = await service.until<{ items: Instance[] }>(
    '/instances',
    (page) => page.items.length === 2,
  );
  const record = items.find((instance) => instance.id !== id);
  if (record === undefined) throw new Error('The late machine has no record.');
  expect(record.rentals).toMatchObject([{ label: labelled(id) }]);
  return record;
}

/** A job that never ends keeps an instance from ending by itself. */
async function endlessJob(instanceId: string, machine: number): Promise<void> {
  const comfy = vast.comfyOf(machine);
  if (comfy === undefined) throw new Error('ComfyUI does not run.');
  comfy.knobs.nodes = { EmptyImage: { durationMs: 60_000, returns: ['IMAGE'] } };
  const json = { workflow: emptyImage, instanceId };
  const { body } = await service.call<{ id: string }>('/jobs', { method: 'POST', json });
  await service.until<{ status: string }>(`/jobs/${body.id}`, ({ status }) => status === 'running');
}

/** Waits until so many more reconciliations have looked at the list. */
async function looks(count: number): Promise<void> {
  const wanted = vast.counters.calls.list + count;
  await vast.until(() => vast.counters.calls.list >= wanted);
}

describe('a rental with our label and no record', () => {
  afterEach(stop);

  it('is destroyed after its grace, under a record that shows its reason and its cost', async () => {
    await start();
    const { id } = await readyInstance();
    await forget(id);
    await vast.until(() => vast.liveRentals().length === 0);
    const ended = await service.until<Instance>(`/instances/${id}`, ({ status }) => status === 'terminated');
    expect(ended).toMatchObject({
      terminationReason: 'orphaned',
      rentals: [{ status: 'gone', endReason: 'orphaned' }],
    });
    expect(ended.costUsd).toBeGreaterThan(0);
  });

  it('keeps money from nobody but for the time in which it may not be destroyed yet', async () => {
    await start({ MAX_SPEND_PER_DAY_USD: 'none', MAX_SPEND_PER_MONTH_USD: '20' });
    const { id } = await readyInstance();
    vast.knobs.faultChances.destroy = [{ fault: '503', chance: 1 }];
    await forget(id);
    await service.until<Instance>(`/instances/${id}`, ({ status }) => status === 'terminating');
    const { status } = await service.call('/instances', { method: 'POST', json: { maxLifetimeHours: 1 } });
    expect(status).toBe(202);
  });

  it('is left alone within its grace', async () => {
    await start({ ORPHAN_GRACE_SECONDS: '60' });
    const { id } = await readyInstance();
    await forget(id);
    await looks(5);
    expect(vast.liveRentals()).toHaveLength(1);
    const { body } = await service.call<{ items: AccountRental[] }>('/rentals');
    expect(body.items).toMatchObject([{ ownership: 'orphan', label: labelled(id), instanceId: null }]);
  });

  it('is destroyed when its record was closed too early, and is no longer the old instance', async () => {
    await start();
    const { id } = await readyInstance();
    await closeRecords(id);
    await vast.until(() => vast.liveRentals().length === 0);
    const { body } = await service.call<{ items: Instance[] }>('/instances');
    const [fresh, old] = body.items;
    expect(body.items).toHaveLength(2);
    expect(old?.id).toBe(id);
    expect(fresh?.rentals[0]).toMatchObject({
      label: labelled(id),
      providerInstanceId: old?.rentals[0]?.providerInstanceId,
      endReason: 'orphaned',
    });
  });

  it('is said in health and metrics not to be looked for while the list of the account fails', async () => {
    await start();
    vast.knobs.faultChances.list = [{ fault: '500', chance: 1 }];
    const health = await service.until<Health>(
      '/health',
      ({ parts }) => parts['upkeep']?.status === 'degraded',
    );
    expect(health.parts['upkeep']?.detail).toContain('reconciliation');
    const metrics = await (await fetch(`${service.url}/metrics`)).text();
    expect(metrics).toMatch(/^comfyfleet_upkeep_failures{part="reconciliation"} [1-9]/m);
    expect(metrics).toMatch(/^comfyfleet_upkeep_failures{part="ledger"} 0$/m);
    vast.knobs.faultChances = {};
    await service.until<Health>('/health', ({ parts }) => parts['upkeep']?.status === 'ok');
  });

  it('is only reported when the policy says so', async () => {
    await start({ ORPHAN_POLICY: 'report' });
    const { id } = await readyInstance();
    await forget(id);
    const health = await service.until<Health>(
      '/health',
      ({ parts }) => parts['rentals']?.status === 'degraded',
    );
    expect(health.parts['rentals']?.detail).toMatch(/1 .*without a record/);
    expect(vast.liveRentals()).toHaveLength(1);
  });

  it('is destroyed even by the policy to report when its record was written off', async () => {
    await start({ ORPHAN_POLICY: 'report' });
    const { id } = await readyInstance();
    await closeRecords(id);
    await vast.until(() => vast.liveRentals().length === 0);
    expect(vast.counters.destroyed).toBe(1);
  });

  it('is destroyed even by the policy to report when the machine of its record is another', async () => {
    await start({ ORPHAN_POLICY: 'report' });
    const { id, rentals } = await readyInstance();
    vast.addForeignRental(labelled(id));
    await vast.until(() => vast.liveRentals().length === 1);
    expect(vast.liveRentals()).toMatchObject([{ id: Number(rentals[0]?.providerInstanceId) }]);
  });

  it('is used again where the policy says so and its secret is known', async () => {
    await start({ ORPHAN_POLICY: 'adopt' });
    const { id } = await readyInstance();
    await closeRecords(id);
    const page = await service.until<{ items: Instance[] }>(
      '/instances?status=ready',
      ({ items }) => items.length === 1,
    );
    expect(page.items[0]?.id).not.toBe(id);
    expect(vast.state.rentals.size).toBe(1);
  });

  it('is used again on the terms of the instance that it was rented for', async () => {
    await start({ ORPHAN_POLICY: 'adopt' });
    const { body } = await service.call<Instance>('/instances', {
      method: 'POST',
      json: { maxLifetimeHours: 1, idleMinutes: 7 },
    });
    const isReady = ({ status }: Instance) => status === 'ready';
    const { id, expiresAt } = await service.until<Instance>(`/instances/${body.id}`, isReady);
    const inFleet = { wish: 'null', race_id: randomUUID() };
    await database().db.updateTable('instances').set(inFleet).where('id', '=', id).execute();
    await closeRecords(id);
    const page = await service.until<{ items: Instance[] }>(
      '/instances?status=ready',
      ({ items }) => items.length === 1,
    );
    const [adopted] = page.items;
    expect(adopted).toMatchObject({ expiresAt, origin: 'fleet' });
    const row = await database()
      .db.selectFrom('instances')
      .select(['idle_minutes', 'wish', 'race_id'])
      .where('id', '=', adopted?.id ?? '')
      .executeTakeFirst();
    expect(row).toEqual({ idle_minutes: 7, ...inFleet });
  });

  it.each([
    ['the life that was asked for is over', { expires_at: new Date(0) }],
    ['its caller has ended the instance', { pending_reason: 'requested' }],
  ] as const)('is destroyed even by the policy to adopt when %s', async (_when, end) => {
    await start({ ORPHAN_POLICY: 'adopt' });
    const { id } = await readyInstance();
    await closeRecords(id, 'renting_timeout', end);
    await vast.until(() => vast.liveRentals().length === 0);
    const { items } = (await service.call<{ items: Instance[] }>('/instances')).body;
    expect(items[0]).toMatchObject({ terminationReason: 'orphaned', rentals: [{ endReason: 'orphaned' }] });
  });

  it('is destroyed even by the policy to adopt when it costs more than its caller accepts', async () => {
    await start({ ORPHAN_POLICY: 'adopt', MAX_PRICE_PER_HOUR_USD: '1' });
    const { id, rentals } = await readyInstance();
    await closeRecords(id);
    for (let times = 0; times < 5; times += 1)
      vast.strike(Number(rentals[0]?.providerInstanceId), 'price-raised');
    await vast.until(() => vast.liveRentals().length === 0);
    const { items } = (await service.call<{ items: Instance[] }>('/instances')).body;
    expect(items[0]?.rentals).toMatchObject([{ endReason: 'orphaned' }]);
  });

  it.each([
    { limit: 'MAX_INSTANCES', path: '/instances' },
    { limit: 'FLEET_MAX', path: '/jobs' },
  ] as const)(
    'is destroyed even by the policy to adopt when it would pass $limit',
    async ({ limit, path }) => {
      await start({ ORPHAN_POLICY: 'adopt', [limit]: '1' });
      const instance = await machineThatCameLate(path);
      expect(await recordOfTheLate(instance)).toMatchObject({ terminationReason: 'orphaned' });
      await vast.until(() => vast.liveRentals().length === 1);
      const { body } = await service.call<Instance>(`/instances/${instance.id}`);
      expect(body.status).toBe('ready');
    },
  );

  it.each([
    { limit: 'MAX_INSTANCES', path: '/instances' },
    { limit: 'FLEET_MAX', path: '/jobs' },
  ] as const)('is used beside the machine that replaced it within $limit', async ({ limit, path }) => {
    await start({ ORPHAN_POLICY: 'adopt', [limit]: '2' });
    const record = await recordOfTheLate(await machineThatCameLate(path));
    expect(record.terminationReason).not.toBe('orphaned');
  });

  it('is destroyed even by the policy to adopt when its end was meant', async () => {
    await start({ ORPHAN_POLICY: 'adopt' });
    const { id } = await readyInstance();
    await closeRecords(id, 'unreachable');
    await vast.until(() => vast.liveRentals().length === 0);
    expect(vast.counters).toMatchObject({ created: 1, destroyed: 1 });
  });

  it('is destroyed even by the policy to adopt when nobody knows its secret', async () => {
    await start({ ORPHAN_POLICY: 'adopt' });
    const { id } = await readyInstance();
    await forget(id);
    await vast.until(() => vast.liveRentals().length === 0);
    expect(vast.counters.destroyed).toBe(1);
  });

  it('is destroyed however the provider answers the call to destroy it', async () => {
    await start();
    const { id } = await readyInstance();
    vast.knobs.faults.destroy.push('noop', 'lying-404', '503', 'auth-404');
    await forget(id);
    await service.until<Instance | { code: string }>(
      `/instances/${id}`,
      (body) => 'status' in body && body.status === 'terminated',
      60_000,
    );
    expect(vast.liveRentals()).toHaveLength(0);
  });
});

it('no clock that is set back keeps an orphan for longer than its grace', async () => {
  const steps = await createStepBench({ env: { ORPHAN_GRACE_SECONDS: '60' } });
  onTestFinished(() => steps.stop());
  steps.vast.addForeignRental(labelled(randomUUID()));
  const lookAt = async (hours: number) => {
    const clockThen = { now: () => new Date(Date.now() + hours * 3_600_000) };
    return reconcile({ ...steps.replica, clock: clockThen }, new AbortController().signal);
  };
  expect(await lookAt(1)).toMatchObject({ orphans: 1, destroyed: 0 });
  expect(await lookAt(0)).toMatchObject({ orphans: 1, destroyed: 1 });
});

describe('replicas that reconcile at the same moment', () => {
  afterEach(stop);

  it('make one record for one orphan', async () => {
    vast = await startVastDouble({ knobs: { phases: instantPhases } });
    // Its own sees no provider, so that nothing but the calls below reconciles.
    service = await startTestService({ env: quick });
    const { db, queues } = database();
    const config = loadConfig({
      VASTAI_API_KEY: vast.apiKey,
      VAST_API_URL: vast.url,
      VAST_PACING: 'none',
      ORPHAN_GRACE_SECONDS: '0',
    });
    const log = createLogger({ ...config, LOG_LEVEL: 'silent' });
    const provider = createVastProvider({ config, log });
    const sessions = createSessions({ db, config, log });
    const budget = createBudget({ db, config, clock });
    const deps = { db, queues, provider, sessions, budget, config, labelPrefix: 'cfy.test', log, clock };
    const orphan = vast.addForeignRental(labelled(randomUUID()));
    const { signal } = new AbortController();
    const results = await Promise.all([1, 2, 3].map(() => reconcile(deps, signal)));
    await provider.close();
    expect(results.reduce((sum, result) => sum + (result?.destroyed ?? 0), 0)).toBe(1);
    const rentals = await db.selectFrom('rentals').select(['provider_instance_id', 'status']).execute();
    expect(rentals).toEqual([{ provider_instance_id: String(orphan), status: 'destroying' }]);
  });
});

describe('rentals of others', () => {
  afterEach(stop);

  it('are listed and never touched, whatever their label looks like', async () => {
    await start();
    const labels = [
      undefined,
      'mine',
      'cfy.other.' + randomUUID() + '.1',
      'cfy.test',
      'cfy.test.by-hand.1',
      'cfy.tests.1',
    ];
    const ids = labels.map((label) => vast.addForeignRental(label));
    const { id } = await readyInstance();
    await looks(8);
    expect(vast.liveRentals().filter(({ isForeign }) => isForeign)).toHaveLength(labels.length);
    const { body } = await service.call<{ items: AccountRental[] }>('/rentals');
    const foreign = body.items.filter(({ ownership }) => ownership === 'foreign');
    expect(new Set(foreign.map(({ providerInstanceId }) => Number(providerInstanceId)))).toEqual(
      new Set(ids),
    );
    expect(body.items.find(({ ownership }) => ownership === 'ours')).toMatchObject({ instanceId: id });
    const stored = await database().db.selectFrom('rentals').select('secret').executeTakeFirstOrThrow();
    expect(JSON.stringify(body)).not.toContain(stored.secret);
  });

  it('are listed once for all who ask at the same time: the reconciliation waits for its turn behind them', async () => {
    await start({ RECONCILE_SECONDS: '600' });
    vast.addForeignRental();
    const listed = vast.counters.calls.list;
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => service.call<{ items: AccountRental[] }>('/rentals')),
    );
    expect(answers.map(({ body }) => body.items.length)).toEqual(Array.from({ length: 20 }, () => 1));
    expect(vast.counters.calls.list - listed).toBeLessThan(10);
  });
});

describe('the end of a contract that is no moment of this age', () => {
  afterEach(stop);

  it.each([0, -1e15, 1.79e15])('is no end at all: %d', async (endMs) => {
    await start({ INSTANCE_CHECK_SECONDS: '0.05' });
    const { id, rentals } = await readyInstance();
    const machine = vast.state.rentals.get(Number(rentals[0]?.providerInstanceId))?.machine;
    if (machine === undefined) throw new Error('There is no machine.');
    machine.contractEndsAtMs = endMs;
    const wanted = vast.counters.calls.show + 3;
    await vast.until(() => vast.counters.calls.show > wanted);
    expect(await service.call('/rentals')).toMatchObject({
      status: 200,
      body: { items: [{ contractEndsAt: null }] },
    });
    expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('ready');
  });
});

describe('a list that cannot be relied on', () => {
  let id: string;
  let foreign: number;

  beforeAll(async () => {
    await start({ ORPHAN_GRACE_SECONDS: '0' });
    ({ id } = await readyInstance());
    foreign = vast.addForeignRental();
  });
  afterAll(stop);

  it.each([
    'null-list',
    '500',
    'token-loop',
    'lost-pages',
    'empty-list',
    'success-false',
    'not-json',
    'auth-404',
  ] as const)('changes nothing when it is %s', async (fault) => {
    vast.knobs.faultChances = { list: [{ fault, chance: 1 }] };
    // Longer than a rental may be absent from both views.
    const until = performance.now() + 1500;
    while (performance.now() < until) await looks(1);
    const { body } = await service.call<Instance>(`/instances/${id}`);
    expect(body).toMatchObject({ status: 'ready', rentals: [{ status: 'active', endReason: null }] });
    expect(vast.liveRentals().map((rental) => rental.id)).toContain(foreign);
    expect(vast.liveRentals()).toHaveLength(2);
    expect(vast.counters.calls.destroy).toBe(0);
  });

  it('is an error for who asks for it, never an empty answer', async () => {
    vast.knobs.faultChances = { list: [{ fault: 'lost-pages', chance: 1 }] };
    const answer = await service.call<{ code: string }>('/rentals');
    expect(answer).toMatchObject({ status: 502, body: { code: 'provider_unavailable' } });
  });
});

describe('a record without a rental', () => {
  afterEach(stop);

  it.each(['ready', 'draining'] as const)(
    'is closed as lost when both views agree, while it is %s',
    async (status) => {
      await start();
      const { id, rentals } = await readyInstance();
      if (status === 'draining') {
        await endlessJob(id, Number(rentals[0]?.providerInstanceId));
        await service.call(`/instances/${id}?drain=true`, { method: 'DELETE' });
      }
      const rental = vast.state.rentals.get(Number(rentals[0]?.providerInstanceId));
      if (rental === undefined) throw new Error('There is no rental.');
      rental.endedAtMs = Date.now();
      rental.hiddenFromMs = Date.now();
      const ended = await service.until<Instance>(
        `/instances/${id}`,
        (instance) => instance.status === 'terminated',
      );
      expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: 'lost' });
    },
  );

  it('stays open while only one of the views misses it', async () => {
    await start();
    const { id } = await readyInstance();
    vast.knobs.faultChances = { show: [{ fault: 'null-instance', chance: 1 }] };
    const until = performance.now() + 1500;
    while (performance.now() < until) await looks(1);
    const { body } = await service.call<Instance>(`/instances/${id}`);
    expect(body.status).toBe('ready');
  });
});

describe('a destroy that does not end', () => {
  afterEach(stop);

  it('goes on, bills on, and shows in health and metrics', async () => {
    await start();
    const { id } = await readyInstance();
    vast.knobs.faultChances = { destroy: [{ fault: 'noop', chance: 1 }] };
    await service.call(`/instances/${id}`, { method: 'DELETE' });
    const health = await service.until<Health>(
      '/health',
      ({ parts }) => parts['rentals']?.status === 'degraded',
      40_000,
    );
    expect(health.parts['rentals']?.detail).toMatch(/cannot be destroyed/);
    const metrics = await (await fetch(`${service.url}/metrics`)).text();
    expect(metrics).toMatch(/^comfyfleet_rentals_stuck 1$/m);
    const before = (await service.call<Instance>(`/instances/${id}`)).body;
    expect(before.status).toBe('terminating');
    vast.knobs.faultChances = {};
    const after = await service.until<Instance>(
      `/instances/${id}`,
      ({ status }) => status === 'terminated',
      40_000,
    );
    expect(after.costUsd).toBeGreaterThan(before.costUsd);
  });

  it('is tried again although neither view answers', async () => {
    await start();
    const { id } = await readyInstance();
    vast.knobs.faults.destroy.push('noop');
    vast.knobs.faultChances = { show: [{ fault: '500', chance: 1 }], list: [{ fault: '500', chance: 1 }] };
    await service.call(`/instances/${id}`, { method: 'DELETE' });
    await vast.until(() => vast.liveRentals().length === 0, 20_000);
    expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('terminating');
    vast.knobs.faultChances = {};
    await service.until<Instance>(`/instances/${id}`, ({ status }) => status === 'terminated', 40_000);
  });
});

describe('what the host changes under a rental', () => {
  afterEach(stop);

  it('is noted when it is the price, and ends the rental in good order above what the caller accepts', async () => {
    await start({ MAX_PRICE_PER_HOUR_USD: '1' });
    const instance = await readyInstance();
    vast.strike(Number(instance.rentals[0]?.providerInstanceId), 'price-raised');
    const dearer = await service.until<Instance & { pricePerHourUsd: number }>(
      `/instances/${instance.id}`,
      ({ pricePerHourUsd }) =>
        pricePerHourUsd > (instance as Instance & { pricePerHourUsd: number }).pricePerHourUsd * 1.5,
    );
    expect(dearer.status).toBe('ready');
    while ((await service.call<Instance>(`/instances/${instance.id}`)).body.status === 'ready') {
      vast.strike(Number(instance.rentals[0]?.providerInstanceId), 'price-raised');
      await looks(3);
    }
    const ended = await service.until<Instance>(
      `/instances/${instance.id}`,
      ({ status }) => status === 'terminated',
    );
    expect(ended.terminationReason).toBe('price_raised');
  });

  it('leaves jobs no longer than a limit would when it is the price, also where it drains already', async () => {
    await start({ MAX_PRICE_PER_HOUR_USD: '1', DRAIN_LIMIT_MINUTES: '0.02' });
    const { id, rentals } = await readyInstance();
    const machine = Number(rentals[0]?.providerInstanceId);
    await endlessJob(id, machine);
    await service.call(`/instances/${id}?drain=true`, { method: 'DELETE' });
    for (let raises = 0; raises < 5; raises += 1) vast.strike(machine, 'price-raised');
    const ended = await service.until<Instance>(`/instances/${id}`, ({ status }) => status === 'terminated');
    expect(ended.terminationReason).toBe('price_raised');
  });

  it('ends the instance before the contract of the host ends', async () => {
    await start();
    const { id, rentals } = await readyInstance();
    const rental = vast.state.rentals.get(Number(rentals[0]?.providerInstanceId));
    if (rental === undefined) throw new Error('There is no rental.');
    rental.machine.contractEndsAtMs = Date.now() + 1_800_000;
    const ended = await service.until<Instance>(`/instances/${id}`, ({ status }) => status === 'terminated');
    expect(ended.terminationReason).toBe('contract_ending');
  });
});
