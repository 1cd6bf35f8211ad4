// The rentals of the account against the records, on a clock of the test's own: what nobody accounts for is found, and nothing else is
// ever touched.
import { randomUUID } from 'node:crypto';
import { describe, expect } from 'vitest';
import { listAccount } from '../../src/instances/account.ts';
import { reconcile } from '../../src/instances/reconcile.ts';
import { forget, labelled } from '../support/orphans.ts';
import { it, machineOf, type Instance, type Simulate, type Simulation } from '../support/simulation.ts';

/** As when a create call that counted as failed makes its machine after all. */
async function closeRecords(
  { replica: { db, clock } }: Simulation,
  instanceId: string,
  reason: 'renting_timeout' | 'unreachable' = 'renting_timeout',
  instance: { expires_at?: Date; pending_reason?: 'requested' } = {},
): Promise<void> {
  const now = clock.now();
  const gone = { status: 'gone', gone_at: new Date(now.getTime() - 60_000), end_reason: reason } as const;
  await db.updateTable('rentals').set(gone).where('instance_id', '=', instanceId).execute();
  await db.deleteFrom('slots').where('instance_id', '=', instanceId).execute();
  await db
    .updateTable('instances')
    .set({ ...instance, status: 'terminated', terminated_at: now })
    .where('id', '=', instanceId)
    .execute();
}

/** An instance that got another machine, since the first did not appear in time; then it appears. */
async function machineThatCameLate({ vast, readyInstance }: Simulation): Promise<Instance> {
  vast.knobs.faults.create.push('503');
  const instance = await readyInstance();
  expect(instance.rentals.map(({ endReason }) => endReason)).toEqual(['renting_timeout', null]);
  vast.addForeignRental(labelled(instance.id));
  return instance;
}

/** The instance that the late machine got. */
async function recordOfTheLate({ passUntil, list }: Simulation, { id }: Instance): Promise<Instance> {
  await passUntil(async () => (await list()).length === 2);
  const record = (await list()).find((instance) => instance.id !== id);
  if (record === undefined) throw new Error('The late machine has no record.');
  expect(record.rentals).toMatchObject([{ label: labelled(id) }]);
  return record;
}

/** Seconds from now until the machine is gone. */
async function secondsUntilGone({ vast, replica: { clock }, passUntil }: Simulation): Promise<number> {
  const since = clock.now().getTime();
  await passUntil(() => vast.liveRentals().length === 0);
  return (clock.now().getTime() - since) / 1000;
}

/**
 * Ten minutes pass, several times what a rental may be absent from both views, in which reconciliations look at the list and checks of
 * instances at their single view.
 */
async function tenMinutesOfLooks({ vast, pass }: Simulation): Promise<void> {
  const { list, show } = vast.counters.calls;
  await pass(600);
  expect(vast.counters.calls.list - list).toBeGreaterThanOrEqual(10);
  expect(vast.counters.calls.show - show).toBeGreaterThanOrEqual(20);
}

describe('a rental with our label and no record', () => {
  it('is destroyed once it was seen for its grace, under a record that shows its reason and its cost', async ({
    simulate,
  }) => {
    const simulation = await simulate({ env: { ORPHAN_GRACE_SECONDS: '600', RECONCILE_SECONDS: '60' } });
    const { id } = await simulation.readyInstance();
    await forget(simulation.replica.db, id);
    const seconds = await secondsUntilGone(simulation);
    expect(seconds).toBeGreaterThanOrEqual(600);
    expect(seconds).toBeLessThanOrEqual(600 + 2 * 60);
    const ended = await simulation.instanceWhen(id, 'terminated');
    expect(ended).toMatchObject({
      terminationReason: 'orphaned',
      rentals: [{ status: 'gone', endReason: 'orphaned' }],
    });
    expect(ended.costUsd).toBeGreaterThan(0);
  });

  it('keeps money from nobody but for the time in which it may not be destroyed yet', async ({
    simulate,
  }) => {
    const simulation = await simulate({
      env: { MAX_SPEND_PER_DAY_USD: 'none', MAX_SPEND_PER_MONTH_USD: '20' },
    });
    const { id } = await simulation.readyInstance();
    simulation.vast.knobs.faultChances.destroy = [{ fault: '503', chance: 1 }];
    await forget(simulation.replica.db, id);
    await simulation.passUntil(async () => (await simulation.list()).length === 1);
    expect(await simulation.show(id)).toMatchObject({ status: 'terminating' });
    await simulation.rent({ maxLifetimeHours: 1 });
  });

  it('is left alone within its grace', async ({ simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_GRACE_SECONDS: '600', RECONCILE_SECONDS: '60' } });
    const { vast, replica } = simulation;
    const { id } = await simulation.readyInstance();
    await forget(simulation.replica.db, id);
    const { list } = vast.counters.calls;
    await simulation.pass(599);
    expect(vast.counters.calls.list - list).toBeGreaterThanOrEqual(9);
    expect(vast.liveRentals()).toHaveLength(1);
    const listed = await listAccount({ ...replica, provider: simulation.provider }, replica.labelPrefix);
    expect(listed).toMatchObject([
      { ownership: 'orphan', rental: { label: labelled(id) }, instanceId: null },
    ]);
  });

  it('is destroyed when its record was closed too early, and is no longer the old instance', async ({
    simulate,
  }) => {
    const simulation = await simulate();
    const { id } = await simulation.readyInstance();
    await closeRecords(simulation, id);
    await secondsUntilGone(simulation);
    const [fresh, old, ...others] = await simulation.list();
    expect(others).toHaveLength(0);
    expect(old?.id).toBe(id);
    expect(fresh?.rentals[0]).toMatchObject({
      label: labelled(id),
      providerInstanceId: old?.rentals[0]?.providerInstanceId,
      endReason: 'orphaned',
    });
  });

  it('is destroyed even by the policy to report when its record was written off', async ({ simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'report' } });
    const { id } = await simulation.readyInstance();
    await closeRecords(simulation, id);
    await secondsUntilGone(simulation);
    expect(simulation.vast.counters.destroyed).toBe(1);
  });

  it('is destroyed even by the policy to report when the machine of its record is another', async ({
    simulate,
  }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'report' } });
    const { vast } = simulation;
    const instance = await simulation.readyInstance();
    vast.addForeignRental(labelled(instance.id));
    await simulation.passUntil(() => vast.liveRentals().length === 1);
    expect(vast.liveRentals()).toMatchObject([{ id: machineOf(instance) }]);
  });

  it('is never destroyed by the policy to report when no record knew it', async ({ simulate }) => {
    // With the switch, the machine would destroy itself.
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'report', DEAD_MAN_SWITCH_MINUTES: '0' } });
    const { id } = await simulation.readyInstance();
    await forget(simulation.replica.db, id);
    const { list } = simulation.vast.counters.calls;
    await simulation.pass(3600);
    expect(simulation.vast.counters.calls.list - list).toBeGreaterThanOrEqual(60);
    expect(simulation.vast.liveRentals()).toHaveLength(1);
  });

  it('is used again where the policy says so and its secret is known', async ({ simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id } = await simulation.readyInstance();
    await closeRecords(simulation, id);
    const adopted = await adoptedInstance(simulation);
    expect(adopted.id).not.toBe(id);
    expect(simulation.vast.state.rentals.size).toBe(1);
  });

  it('is used again on the terms of the instance that it was rented for', async ({ simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'adopt' } });
    const { db } = simulation.replica;
    const { id, expiresAt } = await simulation.readyInstance({ maxLifetimeHours: 1, idleMinutes: 7 });
    const inFleet = { wish: 'null', race_id: randomUUID() };
    await db.updateTable('instances').set(inFleet).where('id', '=', id).execute();
    await closeRecords(simulation, id);
    const adopted = await adoptedInstance(simulation);
    expect(adopted).toMatchObject({ expiresAt, origin: 'fleet' });
    const row = await db
      .selectFrom('instances')
      .select(['idle_minutes', 'wish', 'race_id'])
      .where('id', '=', adopted.id)
      .executeTakeFirst();
    expect(row).toEqual({ idle_minutes: 7, ...inFleet });
  });

  it.for([
    ['the life that was asked for is over', { expires_at: new Date(0) }],
    ['its caller has ended the instance', { pending_reason: 'requested' }],
  ] as const)('is destroyed even by the policy to adopt when %s', async ([, end], { simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id } = await simulation.readyInstance();
    await closeRecords(simulation, id, 'renting_timeout', end);
    await secondsUntilGone(simulation);
    const [newest] = await simulation.list();
    expect(newest).toMatchObject({ terminationReason: 'orphaned', rentals: [{ endReason: 'orphaned' }] });
  });

  it('is destroyed even by the policy to adopt when it costs more than its caller accepts', async ({
    simulate,
  }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'adopt', MAX_PRICE_PER_HOUR_USD: '1' } });
    const instance = await simulation.readyInstance();
    await closeRecords(simulation, instance.id);
    for (let times = 0; times < 5; times += 1) simulation.vast.strike(machineOf(instance), 'price-raised');
    await secondsUntilGone(simulation);
    const [newest] = await simulation.list();
    expect(newest?.rentals).toMatchObject([{ endReason: 'orphaned' }]);
  });

  it('is destroyed even by the policy to adopt when it would pass MAX_INSTANCES', async ({ simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'adopt', MAX_INSTANCES: '1' } });
    const instance = await machineThatCameLate(simulation);
    const { id } = await recordOfTheLate(simulation, instance);
    expect(await simulation.instanceWhen(id, 'terminated')).toMatchObject({ terminationReason: 'orphaned' });
    expect(simulation.vast.liveRentals()).toHaveLength(1);
    expect((await simulation.show(instance.id)).status).toBe('ready');
  });

  it('is used beside the machine that replaced it within MAX_INSTANCES', async ({ simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'adopt', MAX_INSTANCES: '2' } });
    const record = await recordOfTheLate(simulation, await machineThatCameLate(simulation));
    expect(record.terminationReason).not.toBe('orphaned');
    expect(record.status).not.toBe('terminating');
  });

  it('is destroyed even by the policy to adopt when its end was meant', async ({ simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id } = await simulation.readyInstance();
    await closeRecords(simulation, id, 'unreachable');
    await secondsUntilGone(simulation);
    expect(simulation.vast.counters).toMatchObject({ created: 1, destroyed: 1 });
  });

  it('is destroyed even by the policy to adopt when nobody knows its secret', async ({ simulate }) => {
    const simulation = await simulate({ env: { ORPHAN_POLICY: 'adopt' } });
    const { id } = await simulation.readyInstance();
    await forget(simulation.replica.db, id);
    await secondsUntilGone(simulation);
    expect(simulation.vast.counters.destroyed).toBe(1);
  });

  it('is destroyed however the provider answers the call to destroy it', async ({ simulate }) => {
    const simulation = await simulate();
    const { vast } = simulation;
    const { id } = await simulation.readyInstance();
    vast.knobs.faults.destroy.push('noop', 'lying-404', '503', 'auth-404');
    await forget(simulation.replica.db, id);
    await secondsUntilGone(simulation);
    await simulation.instanceWhen(id, 'terminated');
    expect(vast.knobs.faults.destroy).toHaveLength(0);
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('is kept by no clock that is set back for longer than its grace', async ({ simulate }) => {
    const { vast, replica } = await simulate({ env: { ORPHAN_GRACE_SECONDS: '60' } });
    vast.addForeignRental(labelled(randomUUID()));
    const lookAt = async (hours: number) => {
      const clock = { now: () => new Date(replica.clock.now().getTime() + hours * 3_600_000) };
      return reconcile({ ...replica, clock }, new AbortController().signal);
    };
    expect(await lookAt(1)).toMatchObject({ orphans: 1, destroyed: 0 });
    expect(await lookAt(0)).toMatchObject({ orphans: 1, destroyed: 1 });
  });

  it('gets one record from replicas that reconcile at the same moment', async ({ simulate }) => {
    const { vast, replica } = await simulate({ env: { ORPHAN_GRACE_SECONDS: '0' } });
    const orphan = vast.addForeignRental(labelled(randomUUID()));
    const { signal } = new AbortController();
    const results = await Promise.all([1, 2, 3].map(() => reconcile(replica, signal)));
    expect(results.reduce((sum, result) => sum + (result?.destroyed ?? 0), 0)).toBe(1);
    const rentals = await replica.db
      .selectFrom('rentals')
      .select(['provider_instance_id', 'status'])
      .execute();
    expect(rentals).toEqual([{ provider_instance_id: String(orphan), status: 'destroying' }]);
  });
});

async function adoptedInstance({ passUntil, list }: Simulation): Promise<Instance> {
  const ready = async () => (await list()).filter(({ status }) => status === 'ready');
  await passUntil(async () => (await ready()).length === 1);
  const [adopted] = await ready();
  if (adopted === undefined) throw new Error('Nothing was adopted.');
  return adopted;
}

describe('the end of a contract that is no moment of this age', () => {
  it.for([0, -1e15, 1.79e15])('is no end at all: %d', async (endMs, { simulate }) => {
    const simulation = await simulate();
    const { vast, replica, provider } = simulation;
    const instance = await simulation.readyInstance();
    const machine = vast.state.rentals.get(machineOf(instance))?.machine;
    if (machine === undefined) throw new Error('There is no machine.');
    machine.contractEndsAtMs = endMs;
    await tenMinutesOfLooks(simulation);
    const listed = await listAccount({ ...replica, provider }, replica.labelPrefix);
    expect(listed).toMatchObject([{ rental: { endsAt: null } }]);
    expect((await simulation.show(instance.id)).status).toBe('ready');
  });
});

describe('a list that cannot be relied on', () => {
  /** A machine of ours, and one of somebody else; the list fails in one of its ways from now on. */
  async function besideForeign(simulate: Simulate) {
    const simulation = await simulate({ env: { ORPHAN_GRACE_SECONDS: '0' } });
    const { id } = await simulation.readyInstance();
    return { simulation, id, foreign: simulation.vast.addForeignRental() };
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
  ] as const)('changes nothing when it is %s', async (fault, { simulate }) => {
    const { simulation, id, foreign } = await besideForeign(simulate);
    const { vast } = simulation;
    vast.knobs.faultChances = { list: [{ fault, chance: 1 }] };
    await tenMinutesOfLooks(simulation);
    expect(await simulation.show(id)).toMatchObject({
      status: 'ready',
      rentals: [{ status: 'active', endReason: null }],
    });
    expect(vast.liveRentals().map((rental) => rental.id)).toContain(foreign);
    expect(vast.liveRentals()).toHaveLength(2);
    expect(vast.counters.calls.destroy).toBe(0);
  });
});

describe('a record without a rental', () => {
  it('is closed as lost when both views have agreed for as long as a rental may be absent', async ({
    simulate,
  }) => {
    const simulation = await simulate({ env: { RENT_SETTLE_SECONDS: '120', INSTANCE_CHECK_SECONDS: '30' } });
    const { vast, replica } = simulation;
    const instance = await simulation.readyInstance();
    const rental = vast.state.rentals.get(machineOf(instance));
    if (rental === undefined) throw new Error('There is no rental.');
    const since = replica.clock.now().getTime();
    rental.endedAtMs = since;
    rental.hiddenFromMs = since;
    const ended = await simulation.instanceWhen(instance.id, 'terminated');
    expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: 'lost' });
    const seconds = (replica.clock.now().getTime() - since) / 1000;
    expect(seconds).toBeGreaterThanOrEqual(120);
    expect(seconds).toBeLessThanOrEqual(120 + 2 * 30);
  });

  it('stays open while only one of the views misses it', async ({ simulate }) => {
    const simulation = await simulate();
    const { id } = await simulation.readyInstance();
    simulation.vast.knobs.faultChances = { show: [{ fault: 'null-instance', chance: 1 }] };
    await tenMinutesOfLooks(simulation);
    expect((await simulation.show(id)).status).toBe('ready');
  });
});

describe('a destroy that does not end', () => {
  it('is tried again although neither view answers', async ({ simulate }) => {
    const simulation = await simulate();
    const { vast, instances } = simulation;
    const { id } = await simulation.readyInstance();
    vast.knobs.faults.destroy.push('noop');
    vast.knobs.faultChances = { show: [{ fault: '500', chance: 1 }], list: [{ fault: '500', chance: 1 }] };
    await instances.end(id, { drain: false });
    await secondsUntilGone(simulation);
    expect((await simulation.show(id)).status).toBe('terminating');
    vast.knobs.faultChances = {};
    await simulation.instanceWhen(id, 'terminated');
  });
});

describe('what the host changes under a rental', () => {
  it('is noted when it is the price, and ends the rental in good order above what the caller accepts', async ({
    simulate,
  }) => {
    const simulation = await simulate({ env: { MAX_PRICE_PER_HOUR_USD: '1', INSTANCE_CHECK_SECONDS: '30' } });
    const instance = await simulation.readyInstance();
    const raise = () => simulation.vast.strike(machineOf(instance), 'price-raised');
    raise();
    const dearer = await simulation.instanceWhen(
      instance.id,
      ({ pricePerHourUsd }) => Number(pricePerHourUsd) > Number(instance.pricePerHourUsd) * 1.5,
      30,
    );
    expect(dearer.status).toBe('ready');
    for (let raises = 0; raises < 4; raises += 1) raise();
    const ended = await simulation.instanceWhen(instance.id, 'terminated');
    expect(ended.terminationReason).toBe('price_raised');
  });

  it('ends the instance before the contract of the host ends', async ({ simulate }) => {
    const simulation = await simulate();
    const instance = await simulation.readyInstance();
    const rental = simulation.vast.state.rentals.get(machineOf(instance));
    if (rental === undefined) throw new Error('There is no rental.');
    const endsAt = simulation.replica.clock.now().getTime() + 1_800_000;
    rental.machine.contractEndsAtMs = endsAt;
    const ended = await simulation.instanceWhen(instance.id, 'terminated');
    expect(ended.terminationReason).toBe('contract_ending');
    expect(Date.parse(ended.terminatedAt ?? '')).toBeLessThan(endsAt);
  });
});
