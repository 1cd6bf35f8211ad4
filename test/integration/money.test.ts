// Money as time passes, on a clock of the test's own: limits that end what was rented, books against the bill, and what a job would cost.
import { describe, expect } from 'vitest';
import { readCosts, type CostPage, type CostQuery } from '../../src/fleet/costs.ts';
import { estimateJob, type Estimate, type EstimateRequest } from '../../src/fleet/estimate.ts';
import { GUARD_INTERVAL_MS } from '../../src/fleet/guard.ts';
import { recordCosts } from '../../src/fleet/ledger.ts';
import { dayName, startOfNextDay } from '../../src/fleet/limits.ts';
import { MONEY_EVERY_MS } from '../../src/fleet/money.ts';
import { requirementsSchema } from '../../src/instances/requirements.ts';
import { createKnownNodes } from '../../src/jobs/known-nodes.ts';
import { dear, rich } from '../support/dear-machines.ts';
import { it as base, machineOf, type Simulation } from '../support/simulation.ts';

const HOUR_SECONDS = 3600;

/** When a day begins; not the next one, which may begin while this runs. */
const midnight = startOfNextDay(startOfNextDay(new Date()));

/** Simulations that begin with a day, so that what they spend within hours is spent in one. */
const it = base.extend('simulate', ({ simulate }) => async (options = {}) => {
  return simulate({ startsAt: midnight, ...options });
});

const wish = (requirements: object) => requirementsSchema.parse(requirements);

/** The books up to now, as `GET /costs` shows them. */
async function readBooks({ replica }: Simulation, query: Partial<CostQuery> = {}): Promise<CostPage> {
  const now = replica.clock.now();
  await recordCosts(replica.db, now);
  const all = { instanceId: undefined, apiKey: undefined, limit: 100, cursor: undefined };
  const days = { from: dayName(new Date()), to: dayName(now) };
  return readCosts(replica.db, { ...days, groupBy: 'day', ...all, ...query });
}

function estimate({ replica, instances }: Simulation, request: EstimateRequest = {}): Promise<Estimate> {
  const nodes = createKnownNodes({ ...replica, canRent: true });
  return estimateJob({ ...replica, instances, nodes }, request);
}

function onlyBill({ vast }: Simulation) {
  const [bill, ...others] = vast.bill();
  if (bill === undefined || others.length > 0) throw new Error('There is not one bill.');
  return bill;
}

describe('limits', () => {
  it.for(['day', 'month'])(
    'on a %s look at the worst case: what cannot be paid for all its life is not rented',
    async (period, { simulate }) => {
      const limitName = `MAX_SPEND_PER_${period.toUpperCase()}_USD`;
      const { vast, replica, rent, show, settled, pass, instanceWhen } = await simulate({
        env: { [limitName]: '2' },
      });
      const { SEARCH_TIMEOUT_SECONDS, INSTANCE_POLL_SECONDS } = replica.config;
      const id = await rent({ requirements: wish({ minVramGb: 24 }) });
      await pass(SEARCH_TIMEOUT_SECONDS - 1);
      expect(await show(id)).toMatchObject({ status: 'provisioning', phase: 'searching' });
      expect(vast.counters.calls.search).toBe(SEARCH_TIMEOUT_SECONDS / INSTANCE_POLL_SECONDS);
      const ended = await instanceWhen(id, 'terminated', 2);
      expect(ended).toMatchObject({ terminationReason: 'limit_reached', costUsd: 0 });
      expect(ended.terminationDetail).toContain(`${limitName} is 2 USD`);
      expect(vast.counters.calls.create).toBe(0);

      const short = await settled({ requirements: wish({ minVramGb: 24 }), maxLifetimeHours: 1 });
      expect(short.status).toBe('ready');
    },
  );

  it('refuse a chosen offer that is dearer than one machine may be', async ({ simulate }) => {
    const { vast, offers, rent, instanceWhen } = await simulate({ vast: { offers: [dear] } });
    vast.knobs.search.unappliedFilters.push('dph_total');
    const [rejected] = (await offers()).rejected;
    if (rejected === undefined) throw new Error('The offer was not listed.');
    const id = await rent({ offerId: rejected.id });
    // At once: it does not become cheaper.
    const ended = await instanceWhen(id, 'terminated', 1);
    expect(ended.terminationReason).toBe('limit_reached');
    expect(vast.counters.calls.create).toBe(0);
  });

  it('are kept by the running total too, when a host raises its price and the machine cannot be destroyed for a while', async ({
    simulate,
  }) => {
    const limitUsd = 150;
    const reserveHours = 0.1;
    const simulation = await simulate({
      vast: { offers: [{ ...dear, downloadPricePerGbUsd: 0 }], creditUsd: 1000 },
      env: {
        ...rich,
        MAX_SPEND_PER_DAY_USD: String(limitUsd),
        INSTANCE_MAX_LIFETIME_HOURS: '1',
        DRAIN_LIMIT_MINUTES: '0',
        DESTROY_RESERVE_HOURS: String(reserveHours),
      },
      money: true,
    });
    const { vast, readyInstance, pass, instanceWhen } = simulation;
    const ready = await readyInstance();
    vast.knobs.faults.destroy.push(...Array.from({ length: 1000 }, () => 'noop' as const));
    for (let times = 0; times < 3; times += 1) {
      vast.strike(machineOf(ready), 'price-raised');
    }
    const ending = await instanceWhen(ready.id, ({ terminationReason }) => terminationReason !== null);
    expect(ending.terminationReason).toBe('limit_reached');
    expect(ending.terminationDetail).toMatch(
      /MAX_SPEND_PER_DAY_USD is 150 and MAX_SPEND_PER_MONTH_USD none\.$/,
    );
    // As late as it can be: the round before, there was still enough for the destruction and the time until the next look.
    const priceUsd = ending.pricePerHourUsd ?? NaN;
    expect(priceUsd).toBeGreaterThan(8 * 90);
    const neededUsd = priceUsd * (reserveHours + GUARD_INTERVAL_MS / 3_600_000);
    const roundUsd = (priceUsd * MONEY_EVERY_MS) / 3_600_000;
    expect(ending.costUsd + neededUsd).toBeGreaterThan(limitUsd);
    expect(ending.costUsd + neededUsd - roundUsd).toBeLessThanOrEqual(limitUsd);

    // Tries are up to a minute apart.
    await pass(reserveHours * HOUR_SECONDS - 90);
    expect(vast.liveRentals()).toHaveLength(1);
    expect(vast.counters.calls.destroy).toBeGreaterThan(5);
    vast.knobs.faults.destroy.length = 0;
    await instanceWhen(ready.id, 'terminated', 180);
    const spent = onlyBill(simulation).totalUsd;
    expect(spent).toBeGreaterThan(limitUsd * 0.8);
    expect(spent).toBeLessThanOrEqual(limitUsd);
  });

  it('on the life of an instance end it, and a request may ask for less but not for more', async ({
    simulate,
  }) => {
    const { vast, replica, rent, show, readyInstance, pass, instanceWhen } = await simulate({
      env: { INSTANCE_MAX_LIFETIME_HOURS: '2' },
      money: true,
    });
    const begun = replica.clock.now().getTime();
    const long = await show(await rent({ maxLifetimeHours: 100 }));
    expect(long.expiresAt).toBe(new Date(begun + 2 * HOUR_SECONDS * 1000).toISOString());
    const short = await readyInstance({ maxLifetimeHours: 0.1 });
    expect(short.expiresAt).toBe(new Date(begun + 0.1 * HOUR_SECONDS * 1000).toISOString());
    await pass((begun - replica.clock.now().getTime()) / 1000 + 0.1 * HOUR_SECONDS - 1);
    expect((await show(short.id)).status).toBe('ready');
    await instanceWhen(short.id, ({ status }) => status !== 'ready', 1 + MONEY_EVERY_MS / 1000);
    const ended = await instanceWhen(short.id, 'terminated', 10);
    expect(ended.terminationReason).toBe('lifetime_reached');
    expect(vast.liveRentals()).toHaveLength(1);
    expect((await show(long.id)).status).toBe('ready');
  });
});

describe('the books', () => {
  it('agree with the bill of the provider to the cent', async ({ simulate }) => {
    const simulation = await simulate({
      // In the seconds between a destruction and its confirmation it costs no cent.
      vast: { offers: [{ ...dear, gpuPricePerHourUsd: 3 }] },
      env: rich,
    });
    const { instances, readyInstance, pass, instanceWhen } = simulation;
    const { id } = await readyInstance();
    await pass(0.25 * HOUR_SECONDS);
    await instances.end(id, { drain: false });
    const ended = await instanceWhen(id, 'terminated');

    const books = await readBooks(simulation, { groupBy: 'instance', instanceId: id });
    const [entry] = books.groups;
    if (entry === undefined) throw new Error('It is not in the books.');
    const bill = onlyBill(simulation);
    expect(books.groups).toHaveLength(1);
    expect(entry).toMatchObject({ key: id, final: true });
    expect(entry.totalUsd).toBeGreaterThan(0.75);
    // Rather too much than too little.
    for (const part of ['gpuUsd', 'storageUsd'] as const) {
      expect(entry[part]).toBeGreaterThanOrEqual(bill[part] - 1e-6);
      expect(entry[part] - bill[part]).toBeLessThan(0.005);
    }
    expect(ended.costUsd).toBeCloseTo(entry.gpuUsd + entry.storageUsd, 9);
  });

  it('follow a price that the host raises while the machine cannot be destroyed', async ({ simulate }) => {
    const simulation = await simulate({ vast: { offers: [dear], creditUsd: 1000 }, env: rich });
    const { vast, replica, instances, readyInstance, pass, instanceWhen } = simulation;
    const { id, rentals } = await readyInstance();
    vast.knobs.faults.destroy.push(...Array.from({ length: 1000 }, () => 'noop' as const));
    await instances.end(id, { drain: false });
    await pass(600);
    vast.strike(machineOf({ rentals }), 'price-raised');
    const raisedAt = replica.clock.now().getTime();
    // Tries are up to a minute apart.
    const ending = await instanceWhen(id, ({ pricePerHourUsd }) => (pricePerHourUsd ?? 0) > 2 * 90, 61);
    expect(ending.status).toBe('terminating');
    const unseenHours = (replica.clock.now().getTime() - raisedAt) / 3_600_000;
    await pass(600);
    vast.knobs.faults.destroy.length = 0;
    await instanceWhen(id, 'terminated', 180);
    const { total } = await readBooks(simulation);
    const { gpuUsd: billedUsd } = onlyBill(simulation);
    expect(billedUsd).toBeGreaterThan((600 / HOUR_SECONDS) * (90 + 2 * 90));
    // Nothing is missing but what nobody could know of, and nothing is too much but the time until it was seen gone.
    expect(total.gpuUsd).toBeGreaterThanOrEqual(billedUsd - unseenHours * 90 - 1e-6);
    expect(total.gpuUsd).toBeLessThan(billedUsd + (61 / HOUR_SECONDS) * 2 * 90);
  });

  it('add up by day, by instance and by key, page by page', async ({ simulate }) => {
    const simulation = await simulate({
      startsAt: new Date(midnight.getTime() - 60_000 + 86_400_000),
      vast: { offers: [dear] },
      env: { ...rich, MAX_INSTANCES: '2' },
    });
    const { replica, instances, readyInstance, pass, instanceWhen } = simulation;
    const first = dayName(replica.clock.now());
    const ids = [(await readyInstance()).id, (await readyInstance({ apiKey: 'studio' })).id];
    await pass(120);
    for (const id of ids) {
      await instances.end(id, { drain: false });
      await instanceWhen(id, 'terminated');
    }
    const byDay = await readBooks(simulation);
    const byKey = await readBooks(simulation, { groupBy: 'apiKey' });
    expect(byDay.total).toEqual(byKey.total);
    expect(byDay.groups.map(({ key }) => key)).toEqual([dayName(replica.clock.now()), first]);
    expect(byKey.groups.map(({ key }) => key)).toEqual(['studio', '']);
    for (const { groups, total } of [byDay, byKey]) {
      const sum = groups.reduce((usd, { totalUsd }) => usd + totalUsd, 0);
      expect(sum).toBeCloseTo(total.totalUsd, 9);
    }

    const pages: string[] = [];
    let cursor: string | null | undefined;
    while (cursor !== null) {
      const page: CostPage = await readBooks(simulation, { groupBy: 'instance', limit: 1, cursor });
      pages.push(...page.groups.map(({ key }) => key));
      cursor = page.nextCursor;
    }
    expect(pages).toEqual(ids.toReversed());
    const none = await readBooks(simulation, { from: '2020-01-01', to: '2020-12-31' });
    expect(none).toMatchObject({ groups: [], total: { totalUsd: 0 } });
  });

  it('show what is still billing, and are then not final', async ({ simulate }) => {
    const simulation = await simulate({ vast: { offers: [dear] }, env: rich });
    await simulation.readyInstance();
    await simulation.pass(60);
    const { total } = await readBooks(simulation);
    expect(total.final).toBe(false);
    expect(total.totalUsd).toBeGreaterThan(1.5);
    const { gpuUsd, storageUsd } = onlyBill(simulation);
    expect(total.gpuUsd).toBeCloseTo(gpuUsd, 5);
    expect(total.storageUsd).toBeCloseTo(storageUsd, 5);
  });
});

describe('an estimate', () => {
  it('counts in the worst case every machine that may be tried before one gets ready', async ({
    simulate,
  }) => {
    const simulation = await simulate({
      env: {
        MAX_PRICE_PER_HOUR_USD: '0.9',
        MAX_RENTALS_PER_INSTANCE: '3',
        JOB_MAX_ATTEMPTS: '2',
        LOADING_TIMEOUT_SECONDS: '1800',
        STARTING_TIMEOUT_SECONDS: '1800',
        JOB_TIME_LIMIT_SECONDS: '3600',
      },
    });
    const { worstCaseUsd, pricePerHourUsd } = await estimate(simulation);
    // An hour for each boot, the first at the price of the offer, and for each of two runs.
    const hoursAtHighestPrice = 2 * (3 + 1) - 1;
    expect(worstCaseUsd).toBeGreaterThanOrEqual(hoursAtHighestPrice * 0.9 + (pricePerHourUsd ?? 1));
    expect(worstCaseUsd).toBeLessThan((hoursAtHighestPrice + 2) * 0.9);
  });

  it('says that there may be no further instance', async ({ simulate }) => {
    const simulation = await simulate({ env: { MAX_INSTANCES: '1' } });
    await simulation.readyInstance();
    const wanted = { requirements: wish({ minVramGb: 40 }) };
    expect(await estimate(simulation, wanted)).toMatchObject({
      place: { kind: 'offer' },
      obstacle: expect.stringMatching(/MAX_INSTANCES/),
    });
    await expect(simulation.rent(wanted)).rejects.toMatchObject({ extra: { limitName: 'MAX_INSTANCES' } });
  });

  it('does not count on an instance that does not answer', async ({ simulate }) => {
    const simulation = await simulate();
    const { vast, replica, readyInstance, pass, show } = simulation;
    const { id, rentals } = await readyInstance();
    expect((await estimate(simulation)).place).toEqual({ kind: 'instance', instanceId: id });
    vast.strike(machineOf({ rentals }), 'comfyui-gone');
    await pass(replica.config.INSTANCE_CHECK_SECONDS + 1);
    expect(await show(id)).toMatchObject({ status: 'ready', reachable: false });
    expect((await estimate(simulation)).place.kind).toBe('offer');
    expect(await estimate(simulation, { instanceId: id })).toMatchObject({
      place: { kind: 'none' },
      obstacle: expect.stringMatching(/does not answer/),
    });
  });
});
