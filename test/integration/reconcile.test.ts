// The rentals of the account against the records: what nobody accounts for is found, and nothing else is ever touched.
import { randomUUID } from 'node:crypto';
import { describe, expect } from 'vitest';
import { reconcile } from '../../src/instances/reconcile.ts';
import type { VastDouble } from '../doubles/vast/index.ts';
import { it as base, withEnv, type Instance, type Renting, type StartRenting } from '../support/renting.ts';
import type { TestService } from '../support/service.ts';
import { createStepBench } from '../support/steps.ts';
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

const labelled = (instanceId: string) => `cfy.test.${instanceId}.1`;

/** As after the loss of the database: the machine goes on, and no record knows it. */
async function forget(service: TestService, instanceId: string): Promise<void> {
  const { db } = service.service.database;
  await db.deleteFrom('slots').where('instance_id', '=', instanceId).execute();
  const rentals = db.selectFrom('rentals').select('id').where('instance_id', '=', instanceId);
  await db.deleteFrom('rental_costs').where('rental_id', 'in', rentals).execute();
  await db.deleteFrom('rentals').where('instance_id', '=', instanceId).execute();
  await db.deleteFrom('instances').where('id', '=', instanceId).execute();
}

/** As when a create call that counted as failed makes its machine after all. */
async function closeRecords(
  service: TestService,
  instanceId: string,
  reason: 'renting_timeout' | 'unreachable' = 'renting_timeout',
  instance: { expires_at?: Date; pending_reason?: 'requested' } = {},
): Promise<void> {
  const { db } = service.service.database;
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
async function machineThatCameLate(
  { vast, service, post }: Renting,
  path: '/instances' | '/jobs',
): Promise<Instance> {
  vast.knobs.faults.create.push('503');
  await post(path, path === '/jobs' ? { workflow: emptyImage } : {});
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

/** Waits for so many more looks: reconciliations look at the list, checks of an instance at its single view. */
async function looks(vast: VastDouble, count: number, view: 'list' | 'show' = 'list'): Promise<void> {
  const wanted = vast.counters.calls[view] + count;
  await vast.until(() => vast.counters.calls[view] >= wanted);
}

/** Waits until checks have seen the views as they are now for longer than a rental may be absent from both. */
async function looksForLong(vast: VastDouble): Promise<void> {
  await looks(vast, 2, 'show');
  const until = performance.now() + 1500;
  while (performance.now() < until) await looks(vast, 1);
  await looks(vast, 2, 'show');
}

describe.concurrent('a rental with our label and no record', () => {
  it('is destroyed after its grace, under a record that shows its reason and its cost', async ({ start }) => {
    const { vast, service, readyInstance, instanceWhen } = await start();
    const { id } = await readyInstance();
    await forget(service, id);
    await vast.until(() => vast.liveRentals().length === 0);
    const ended = await instanceWhen(id, 'terminated');
    expect(ended).toMatchObject({
      terminationReason: 'orphaned',
      rentals: [{ status: 'gone', endReason: 'orphaned' }],
    });
    expect(ended.costUsd).toBeGreaterThan(0);
  });

  it('keeps money from nobody but for the time in which it may not be destroyed yet', async ({ start }) => {
    const { vast, service, post, readyInstance, instanceWhen } = await start({
      env: { MAX_SPEND_PER_DAY_USD: 'none', MAX_SPEND_PER_MONTH_USD: '20' },
    });
    const { id } = await readyInstance();
    vast.knobs.faultChances.destroy = [{ fault: '503', chance: 1 }];
    await forget(service, id);
    await instanceWhen(id, 'terminating');
    const { status } = await post('/instances', { maxLifetimeHours: 1 });
    expect(status).toBe(202);
  });

  it('is left alone within its grace', async ({ start }) => {
    const { vast, service, readyInstance } = await start({ env: { ORPHAN_GRACE_SECONDS: '60' } });
    const { id } = await readyInstance();
    await forget(service, id);
    await looks(vast, 5);
    expect(vast.liveRentals()).toHaveLength(1);
    const { body } = await service.call<{ items: AccountRental[] }>('/rentals');
    expect(body.items).toMatchObject([{ ownership: 'orphan', label: labelled(id), instanceId: null }]);
  });

  it('is destroyed when its record was closed too early, and is no longer the old instance', async ({
    start,
  }) => {
    const { vast, service, readyInstance } = await start();
    const { id } = await readyInstance();
    await closeRecords(service, id);
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
    await forget(service, id);
    const health = await service.until<Health>(
      '/health',
      ({ parts }) => parts['rentals']?.status === 'degraded',
    );
    expect(health.parts['rentals']?.detail).toMatch(/1 .*without a record/);
    expect(vast.liveRentals()).toHaveLength(1);
  });

  it('is destroyed even by the policy to report when its record was written off', async ({ start }) => {
    const { vast, service, readyInstance } = await start({ env: { ORPHAN_POLICY: 'report' } });
    const { id } = await readyInstance();
    await closeRecords(service, id);
    await vast.until(() => vast.liveRentals().length === 0);
    expect(vast.counters.destroyed).toBe(1);
  });

  it('is destroyed even by the policy to report when the machine of its record is another', async ({
    start,
  }) => {
    const { vast, readyInstance } = await start({ env: { ORPHAN_POLICY: 'report' } });
    const { id, rentals } = await readyInstance();
    vast.addForeignRental(labelled(id));
    await vast.until(() => vast.liveRentals().length === 1);
    expect(vast.liveRentals()).toMatchObject([{ id: Number(rentals[0]?.providerInstanceId) }]);
  });

  it('is used again where the policy says so and its secret is known', async ({ start }) => {
    const { vast, service, readyInstance } = await start({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id } = await readyInstance();
    await closeRecords(service, id);
    const page = await service.until<{ items: Instance[] }>(
      '/instances?status=ready',
      ({ items }) => items.length === 1,
    );
    expect(page.items[0]?.id).not.toBe(id);
    expect(vast.state.rentals.size).toBe(1);
  });

  it('is used again on the terms of the instance that it was rented for', async ({ start }) => {
    const { service, readyInstance } = await start({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id, expiresAt } = await readyInstance({ maxLifetimeHours: 1, idleMinutes: 7 });
    const inFleet = { wish: 'null', race_id: randomUUID() };
    const { db } = service.service.database;
    await db.updateTable('instances').set(inFleet).where('id', '=', id).execute();
    await closeRecords(service, id);
    const page = await service.until<{ items: Instance[] }>(
      '/instances?status=ready',
      ({ items }) => items.length === 1,
    );
    const [adopted] = page.items;
    expect(adopted).toMatchObject({ expiresAt, origin: 'fleet' });
    const row = await db
      .selectFrom('instances')
      .select(['idle_minutes', 'wish', 'race_id'])
      .where('id', '=', adopted?.id ?? '')
      .executeTakeFirst();
    expect(row).toEqual({ idle_minutes: 7, ...inFleet });
  });

  it.for([
    ['the life that was asked for is over', { expires_at: new Date(0) }],
    ['its caller has ended the instance', { pending_reason: 'requested' }],
  ] as const)('is destroyed even by the policy to adopt when %s', async ([, end], { start }) => {
    const { vast, service, readyInstance } = await start({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id } = await readyInstance();
    await closeRecords(service, id, 'renting_timeout', end);
    await vast.until(() => vast.liveRentals().length === 0);
    const { items } = (await service.call<{ items: Instance[] }>('/instances')).body;
    expect(items[0]).toMatchObject({ terminationReason: 'orphaned', rentals: [{ endReason: 'orphaned' }] });
  });

  it('is destroyed even by the policy to adopt when it costs more than its caller accepts', async ({
    start,
  }) => {
    const { vast, service, readyInstance } = await start({
      env: { ORPHAN_POLICY: 'adopt', MAX_PRICE_PER_HOUR_USD: '1' },
    });
    const { id, rentals } = await readyInstance();
    await closeRecords(service, id);
    for (let times = 0; times < 5; times += 1)
      vast.strike(Number(rentals[0]?.providerInstanceId), 'price-raised');
    await vast.until(() => vast.liveRentals().length === 0);
    const { items } = (await service.call<{ items: Instance[] }>('/instances')).body;
    expect(items[0]?.rentals).toMatchObject([{ endReason: 'orphaned' }]);
  });

  it.for([
    { limit: 'MAX_INSTANCES', path: '/instances' },
    { limit: 'FLEET_MAX', path: '/jobs' },
  ] as const)(
    'is destroyed even by the policy to adopt when it would pass $limit',
    async ({ limit, path }, { start }) => {
      const renting = await start({ env: { ORPHAN_POLICY: 'adopt', [limit]: '1' } });
      const { vast, service } = renting;
      const instance = await machineThatCameLate(renting, path);
      expect(await recordOfTheLate(service, instance)).toMatchObject({ terminationReason: 'orphaned' });
      await vast.until(() => vast.liveRentals().length === 1);
      const { body } = await service.call<Instance>(`/instances/${instance.id}`);
      expect(body.status).toBe('ready');
    },
  );

  it.for([
    { limit: 'MAX_INSTANCES', path: '/instances' },
    { limit: 'FLEET_MAX', path: '/jobs' },
  ] as const)(
    'is used beside the machine that replaced it within $limit',
    async ({ limit, path }, { start }) => {
      const renting = await start({ env: { ORPHAN_POLICY: 'adopt', [limit]: '2' } });
      const record = await recordOfTheLate(renting.service, await machineThatCameLate(renting, path));
      expect(record.terminationReason).not.toBe('orphaned');
    },
  );

  it('is destroyed even by the policy to adopt when its end was meant', async ({ start }) => {
    const { vast, service, readyInstance } = await start({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id } = await readyInstance();
    await closeRecords(service, id, 'unreachable');
    await vast.until(() => vast.liveRentals().length === 0);
    expect(vast.counters).toMatchObject({ created: 1, destroyed: 1 });
  });

  it('is destroyed even by the policy to adopt when nobody knows its secret', async ({ start }) => {
    const { vast, service, readyInstance } = await start({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id } = await readyInstance();
    await forget(service, id);
    await vast.until(() => vast.liveRentals().length === 0);
    expect(vast.counters.destroyed).toBe(1);
  });

  it('is destroyed however the provider answers the call to destroy it', async ({ start }) => {
    const { vast, service, readyInstance, instanceWhen } = await start();
    const { id } = await readyInstance();
    vast.knobs.faults.destroy.push('noop', 'lying-404', '503', 'auth-404');
    await forget(service, id);
    await instanceWhen(id, 'terminated', 60_000);
    expect(vast.liveRentals()).toHaveLength(0);
  });
});

it.concurrent(
  'no clock that is set back keeps an orphan for longer than its grace',
  async ({ onTestFinished }) => {
    const steps = await createStepBench({ env: { ORPHAN_GRACE_SECONDS: '60' } });
    onTestFinished(() => steps.stop());
    steps.vast.addForeignRental(labelled(randomUUID()));
    const lookAt = async (hours: number) => {
      const clockThen = { now: () => new Date(Date.now() + hours * 3_600_000) };
      return reconcile({ ...steps.replica, clock: clockThen }, new AbortController().signal);
    };
    expect(await lookAt(1)).toMatchObject({ orphans: 1, destroyed: 0 });
    expect(await lookAt(0)).toMatchObject({ orphans: 1, destroyed: 1 });
  },
);

describe.concurrent('replicas that reconcile at the same moment', () => {
  it('make one record for one orphan', async ({ onTestFinished }) => {
    const steps = await createStepBench({ env: { ORPHAN_GRACE_SECONDS: '0' } });
    onTestFinished(() => steps.stop());
    const orphan = steps.vast.addForeignRental(labelled(randomUUID()));
    const { signal } = new AbortController();
    const results = await Promise.all([1, 2, 3].map(() => reconcile(steps.replica, signal)));
    expect(results.reduce((sum, result) => sum + (result?.destroyed ?? 0), 0)).toBe(1);
    const { db } = steps.database;
    const rentals = await db.selectFrom('rentals').select(['provider_instance_id', 'status']).execute();
    expect(rentals).toEqual([{ provider_instance_id: String(orphan), status: 'destroying' }]);
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

describe.concurrent('the end of a contract that is no moment of this age', () => {
  it.for([0, -1e15, 1.79e15])('is no end at all: %d', async (endMs, { start }) => {
    const { vast, service, readyInstance } = await start({ env: { INSTANCE_CHECK_SECONDS: '0.05' } });
    const { id, rentals } = await readyInstance();
    const machine = vast.state.rentals.get(Number(rentals[0]?.providerInstanceId))?.machine;
    if (machine === undefined) throw new Error('There is no machine.');
    machine.contractEndsAtMs = endMs;
    await looks(vast, 4, 'show');
    expect(await service.call('/rentals')).toMatchObject({
      status: 200,
      body: { items: [{ contractEndsAt: null }] },
    });
    expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('ready');
  });
});

describe.concurrent('a list that cannot be relied on', () => {
  /** A machine of ours, and one of somebody else. */
  async function startBesideForeign(start: StartRenting) {
    const renting = await start({ env: { ORPHAN_GRACE_SECONDS: '0', INSTANCE_CHECK_SECONDS: '0.1' } });
    const { id } = await renting.readyInstance();
    return { ...renting, id, foreign: renting.vast.addForeignRental() };
  }

  it.for([
    'null-list',
    '500',
    'token-loop',
    'lost-pages',
    'empty-list',
    'success-false',
    'not-json',
    'auth-404',
  ] as const)('changes nothing when it is %s', async (fault, { start }) => {
    const { vast, service, id, foreign } = await startBesideForeign(start);
    vast.knobs.faultChances = { list: [{ fault, chance: 1 }] };
    await looksForLong(vast);
    const { body } = await service.call<Instance>(`/instances/${id}`);
    expect(body).toMatchObject({ status: 'ready', rentals: [{ status: 'active', endReason: null }] });
    expect(vast.liveRentals().map((rental) => rental.id)).toContain(foreign);
    expect(vast.liveRentals()).toHaveLength(2);
    expect(vast.counters.calls.destroy).toBe(0);
  });

  it('is an error for who asks for it, never an empty answer', async ({ start }) => {
    const { vast, service } = await startBesideForeign(start);
    vast.knobs.faultChances = { list: [{ fault: 'lost-pages', chance: 1 }] };
    const answer = await service.call<{ code: string }>('/rentals');
    expect(answer).toMatchObject({ status: 502, body: { code: 'provider_unavailable' } });
  });
});

describe.concurrent('a record without a rental', () => {
  it.for(['ready', 'draining'] as const)(
    'is closed as lost when both views agree, while it is %s',
    async (status, { start }) => {
      const renting = await start();
      const { vast, service, readyInstance, instanceWhen } = renting;
      const { id, rentals } = await readyInstance();
      if (status === 'draining') {
        await endlessJob(renting, id, Number(rentals[0]?.providerInstanceId));
        await service.call(`/instances/${id}?drain=true`, { method: 'DELETE' });
      }
      const rental = vast.state.rentals.get(Number(rentals[0]?.providerInstanceId));
      if (rental === undefined) throw new Error('There is no rental.');
      rental.endedAtMs = Date.now();
      rental.hiddenFromMs = Date.now();
      const ended = await instanceWhen(id, 'terminated');
      expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: 'lost' });
    },
  );

  it('stays open while only one of the views misses it', async ({ start }) => {
    const { vast, service, readyInstance } = await start({ env: { INSTANCE_CHECK_SECONDS: '0.1' } });
    const { id } = await readyInstance();
    vast.knobs.faultChances = { show: [{ fault: 'null-instance', chance: 1 }] };
    await looksForLong(vast);
    const { body } = await service.call<Instance>(`/instances/${id}`);
    expect(body.status).toBe('ready');
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

  it('is tried again although neither view answers', async ({ start }) => {
    const { vast, service, readyInstance, instanceWhen } = await start();
    const { id } = await readyInstance();
    vast.knobs.faults.destroy.push('noop');
    vast.knobs.faultChances = { show: [{ fault: '500', chance: 1 }], list: [{ fault: '500', chance: 1 }] };
    await service.call(`/instances/${id}`, { method: 'DELETE' });
    await vast.until(() => vast.liveRentals().length === 0, 20_000);
    expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('terminating');
    vast.knobs.faultChances = {};
    await instanceWhen(id, 'terminated', 40_000);
  });
});

describe.concurrent('what the host changes under a rental', () => {
  it('is noted when it is the price, and ends the rental in good order above what the caller accepts', async ({
    start,
  }) => {
    const { vast, service, readyInstance, instanceWhen } = await start({
      env: { MAX_PRICE_PER_HOUR_USD: '1' },
    });
    const instance = await readyInstance();
    vast.strike(Number(instance.rentals[0]?.providerInstanceId), 'price-raised');
    const dearer = await instanceWhen(
      instance.id,
      ({ pricePerHourUsd }) => Number(pricePerHourUsd) > Number(instance.pricePerHourUsd) * 1.5,
    );
    expect(dearer.status).toBe('ready');
    while ((await service.call<Instance>(`/instances/${instance.id}`)).body.status === 'ready') {
      vast.strike(Number(instance.rentals[0]?.providerInstanceId), 'price-raised');
      await looks(vast, 3);
    }
    const ended = await instanceWhen(instance.id, 'terminated');
    expect(ended.terminationReason).toBe('price_raised');
  });

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

  it('ends the instance before the contract of the host ends', async ({ start }) => {
    const { vast, readyInstance, instanceWhen } = await start();
    const { id, rentals } = await readyInstance();
    const rental = vast.state.rentals.get(Number(rentals[0]?.providerInstanceId));
    if (rental === undefined) throw new Error('There is no rental.');
    rental.machine.contractEndsAtMs = Date.now() + 1_800_000;
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.terminationReason).toBe('contract_ending');
  });
});
