// Reconciliation in the whole service: what callers and ops see of it, and what it does beside jobs.
import { randomUUID } from 'node:crypto';
import { describe, expect } from 'vitest';
import type { VastDouble } from '../doubles/vast/index.ts';
import { forget, labelled } from '../support/orphans.ts';
import { it as base, withEnv, type Instance, type Renting } from '../support/renting.ts';
import type { TestService } from '../support/service.ts';
import { emptyImage } from '../support/workflows.ts';

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

const quick = {
  DEPLOYMENT: 'test',
  RECONCILE_SECONDS: '0.1',
  ORPHAN_GRACE_SECONDS: '0.3',
  RENT_SETTLE_SECONDS: '1',
};

const it = base.extend('start', ({ start }) => withEnv(start, quick));

/** An instance of the fleet that got another machine, since the first did not appear in time; then it appears. */
async function machineThatCameLate({ vast, service, post }: Renting): Promise<Instance> {
  vast.knobs.faults.create.push('503');
  await post('/jobs', { workflow: emptyImage });
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
async function recordOfTheLate(service: TestService, { id }: Instance): Promise<Instance> {
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
async function endlessJob(
  { vast, service, post }: Renting,
  instanceId: string,
  machine: number,
): Promise<void> {
  const comfy = vast.comfyOf(machine);
  if (comfy === undefined) throw new Error('ComfyUI does not run.');
  comfy.knobs.nodes = { EmptyImage: { durationMs: 60_000, returns: ['IMAGE'] } };
  const { body } = await post<{ id: string }>('/jobs', { workflow: emptyImage, instanceId });
  await service.until<{ status: string }>(`/jobs/${body.id}`, ({ status }) => status === 'running');
}

/** Waits for so many more reconciliations. */
async function looks(vast: VastDouble, count: number): Promise<void> {
  const wanted = vast.counters.calls.list + count;
  await vast.until(() => vast.counters.calls.list >= wanted);
}

describe.concurrent('a rental with our label and no record', () => {
  it('is destroyed after its grace, under a record that shows its reason and its cost', async ({ start }) => {
    const { vast, service, readyInstance, instanceWhen } = await start();
    const { id } = await readyInstance();
    await forget(service.service.database.db, id);
    await vast.until(() => vast.liveRentals().length === 0);
    const ended = await instanceWhen(id, 'terminated');
    expect(ended).toMatchObject({
      terminationReason: 'orphaned',
      rentals: [{ status: 'gone', endReason: 'orphaned' }],
    });
    expect(ended.costUsd).toBeGreaterThan(0);
  });

  it('is said in health and metrics not to be looked for while the list of the account fails', async ({
    start,
  }) => {
    const { vast, service } = await start();
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

  it('is only reported when the policy says so', async ({ start }) => {
    const { vast, service, readyInstance } = await start({ env: { ORPHAN_POLICY: 'report' } });
    const { id } = await readyInstance();
    await forget(service.service.database.db, id);
    const health = await service.until<Health>(
      '/health',
      ({ parts }) => parts['rentals']?.status === 'degraded',
    );
    expect(health.parts['rentals']?.detail).toMatch(/1 .*without a record/);
    expect(vast.liveRentals()).toHaveLength(1);
    const { body } = await service.call<{ items: AccountRental[] }>('/rentals');
    expect(body.items).toMatchObject([{ ownership: 'orphan', label: labelled(id), instanceId: null }]);
  });

  it('is destroyed even by the policy to adopt when it would pass FLEET_MAX', async ({ start }) => {
    const renting = await start({ env: { ORPHAN_POLICY: 'adopt', FLEET_MAX: '1' } });
    const { vast, service } = renting;
    const instance = await machineThatCameLate(renting);
    expect(await recordOfTheLate(service, instance)).toMatchObject({ terminationReason: 'orphaned' });
    await vast.until(() => vast.liveRentals().length === 1);
    const { body } = await service.call<Instance>(`/instances/${instance.id}`);
    expect(body.status).toBe('ready');
  });

  it('is used beside the machine that replaced it within FLEET_MAX', async ({ start }) => {
    const renting = await start({ env: { ORPHAN_POLICY: 'adopt', FLEET_MAX: '2' } });
    const record = await recordOfTheLate(renting.service, await machineThatCameLate(renting));
    expect(record.terminationReason).not.toBe('orphaned');
  });
});

describe.concurrent('rentals of others', () => {
  it('are listed and never touched, whatever their label looks like', async ({ start }) => {
    const { vast, service, readyInstance } = await start();
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
    await looks(vast, 8);
    expect(vast.liveRentals().filter(({ isForeign }) => isForeign)).toHaveLength(labels.length);
    const { body } = await service.call<{ items: AccountRental[] }>('/rentals');
    const foreign = body.items.filter(({ ownership }) => ownership === 'foreign');
    expect(new Set(foreign.map(({ providerInstanceId }) => Number(providerInstanceId)))).toEqual(
      new Set(ids),
    );
    expect(body.items.find(({ ownership }) => ownership === 'ours')).toMatchObject({ instanceId: id });
    const { db } = service.service.database;
    const stored = await db.selectFrom('rentals').select('secret').executeTakeFirstOrThrow();
    expect(JSON.stringify(body)).not.toContain(stored.secret);
  });

  it('are listed once for all who ask at the same time: the reconciliation waits for its turn behind them', async ({
    start,
  }) => {
    const { vast, service } = await start({ env: { RECONCILE_SECONDS: '600' } });
    vast.addForeignRental();
    // All have asked before the first list is there.
    vast.knobs.latencyMs = 500;
    const listed = vast.counters.calls.list;
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => service.call<{ items: AccountRental[] }>('/rentals')),
    );
    expect(answers.map(({ body }) => body.items.length)).toEqual(Array.from({ length: 20 }, () => 1));
    expect(vast.counters.calls.list - listed).toBeLessThan(10);
  });
});

describe.concurrent('a list that cannot be relied on', () => {
  it('is an error for who asks for it, never an empty answer', async ({ start }) => {
    const { vast, service, readyInstance } = await start();
    await readyInstance();
    vast.knobs.faultChances = { list: [{ fault: 'lost-pages', chance: 1 }] };
    const answer = await service.call<{ code: string }>('/rentals');
    expect(answer).toMatchObject({ status: 502, body: { code: 'provider_unavailable' } });
  });
});

describe.concurrent('a record without a rental', () => {
  it('is closed as lost when both views agree, also while it is draining', async ({ start }) => {
    const renting = await start();
    const { vast, service, readyInstance, instanceWhen } = renting;
    const { id, rentals } = await readyInstance();
    await endlessJob(renting, id, Number(rentals[0]?.providerInstanceId));
    await service.call(`/instances/${id}?drain=true`, { method: 'DELETE' });
    const rental = vast.state.rentals.get(Number(rentals[0]?.providerInstanceId));
    if (rental === undefined) throw new Error('There is no rental.');
    rental.endedAtMs = Date.now();
    rental.hiddenFromMs = Date.now();
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: 'lost' });
  });
});

describe.concurrent('a destroy that does not end', () => {
  it('goes on, bills on, and shows in health and metrics', async ({ start }) => {
    const { vast, service, readyInstance, instanceWhen } = await start();
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
    const after = await instanceWhen(id, 'terminated', 40_000);
    expect(after.costUsd).toBeGreaterThan(before.costUsd);
  });
});

describe.concurrent('what the host changes under a rental', () => {
  it('leaves jobs no longer than a limit would when it is the price, also where it drains already', async ({
    start,
  }) => {
    const renting = await start({ env: { MAX_PRICE_PER_HOUR_USD: '1', DRAIN_LIMIT_MINUTES: '0.02' } });
    const { vast, service, readyInstance, instanceWhen } = renting;
    const { id, rentals } = await readyInstance();
    const machine = Number(rentals[0]?.providerInstanceId);
    await endlessJob(renting, id, machine);
    await service.call(`/instances/${id}?drain=true`, { method: 'DELETE' });
    for (let raises = 0; raises < 5; raises += 1) vast.strike(machine, 'price-raised');
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.terminationReason).toBe('price_raised');
  });
});
