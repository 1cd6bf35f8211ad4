// Money: limits that hold before and after renting, books that agree with the provider's bill, and credit that is watched.
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect } from 'vitest';
import type { JobCost } from '../../src/jobs/cost.ts';
import type { OfferSpec } from '../doubles/vast/index.ts';
import { it as base, withEnv, type Instance, type Renting } from '../support/renting.ts';
import { emptyImage } from '../support/workflows.ts';

interface Job {
  id: string;
  status: string;
  cost: JobCost | null;
}
interface Problem {
  code: string;
  limitName?: string;
  limit?: number;
  committed?: number;
  asked?: number;
  period?: string | null;
}
interface Sums {
  gpuUsd: number;
  storageUsd: number;
  trafficUsd: number;
  totalUsd: number;
  final: boolean;
}
interface Costs {
  items: (Sums & { key: string })[];
  total: Sums;
  nextCursor: string | null;
}
interface Estimate {
  place: string;
  instanceId: string | null;
  pricePerHourUsd: number | null;
  offer: { id: string; vramGb: number; expectedParts: Record<string, number> } | null;
  bootSeconds: number | null;
  run: { seconds: number; basis: string; samples: number };
  expected: { totalUsd: number } | null;
  worstCaseUsd: number | null;
  obstacle: string | null;
}

/** So dear that seconds cost cents. */
const dear: OfferSpec = {
  gpuName: 'RTX 4090',
  gpuPricePerHourUsd: 90,
  vramMb: 24_564,
  downloadMbps: 1500,
  reliability: 0.99,
  slices: 4,
};
/** What dear machines need to be rented at all. */
const rich = {
  MAX_PRICE_PER_HOUR_USD: '1000',
  MAX_TOTAL_PRICE_PER_HOUR_USD: 'none',
  MAX_SPEND_PER_DAY_USD: 'none',
  MAX_SPEND_PER_MONTH_USD: 'none',
  CREDIT_RESERVE_HOURS: '0',
};

/** Nothing is rented but what a test asks for. */
const it = base.extend('start', ({ start }) => withEnv(start, { FLEET_MAX: '0' }));

async function run({ post, service }: Pick<Renting, 'post' | 'service'>, instanceId: string): Promise<Job> {
  const { body } = await post<Job>('/jobs', { workflow: emptyImage, instanceId });
  return service.until<Job>(`/jobs/${body.id}`, ({ status }) => status === 'succeeded');
}

const cents = (usd: number) => Math.round(usd * 100);

describe.concurrent('limits', () => {
  it('on the price of all machines hold in a burst, and say by how much they would be passed', async ({
    start,
  }) => {
    const { service, post, instanceWhen } = await start({
      env: { MAX_TOTAL_PRICE_PER_HOUR_USD: '1', MAX_INSTANCES: '10' },
    });
    const answers = await Promise.all(
      Array.from({ length: 8 }, () =>
        post<Problem & Instance>('/instances', { requirements: { maxPricePerHourUsd: 0.4 } }),
      ),
    );
    const refused = answers.filter(({ status }) => status === 402);
    expect(refused.length).toBeGreaterThan(0);
    for (const { body } of refused) {
      expect(body).toMatchObject({
        code: 'limit_reached',
        limitName: 'MAX_TOTAL_PRICE_PER_HOUR_USD',
        limit: 1,
        period: null,
      });
      expect((body.committed ?? 0) + (body.asked ?? 0)).toBeGreaterThan(1);
    }
    const accepted = answers.filter(({ status }) => status === 202);
    for (const { body } of accepted) {
      await instanceWhen(
        body.id,
        ({ status, message }) => status === 'ready' || message?.startsWith('A spending limit') === true,
      );
    }
    const { items } = (await service.call<{ items: Instance[] }>('/instances')).body;
    const total = items.reduce((sum, { pricePerHourUsd }) => sum + (pricePerHourUsd ?? 0), 0);
    expect(total).toBeGreaterThan(0);
    expect(total).toBeLessThanOrEqual(1);
  });

  it('on a day look at the worst case: what cannot be paid for all its life is not rented', async ({
    start,
  }) => {
    const { vast, post, settled, instanceWhen } = await start({
      env: {
        // Whenever they begin, 18 hours of it lie in one day.
        INSTANCE_MAX_LIFETIME_HOURS: '36',
        MAX_SPEND_PER_DAY_USD: '2',
        MAX_SPEND_PER_MONTH_USD: '2',
        SEARCH_TIMEOUT_SECONDS: '1',
      },
    });
    const { body } = await post<Instance>('/instances', { requirements: { minVramGb: 24 } });
    const ended = await instanceWhen(body.id, 'terminated');
    expect(ended).toMatchObject({ terminationReason: 'limit_reached', costUsd: 0 });
    expect(ended.terminationDetail).toMatch(/MAX_SPEND_PER_(DAY|MONTH)_USD is 2 USD/);
    expect(vast.counters.created).toBe(0);

    const short = await settled({ requirements: { minVramGb: 24 }, maxLifetimeHours: 1 });
    expect(short.status).toBe('ready');
  });

  it('refuse at once what could not even be paid at the lowest price', async ({ start }) => {
    const { post } = await start({ env: { MAX_SPEND_PER_MONTH_USD: '0.1' } });
    const { status, body } = await post<Problem>('/instances');
    expect(status).toBe(402);
    expect(body).toMatchObject({ limitName: 'MAX_SPEND_PER_MONTH_USD', limit: 0.1, committed: 0 });
  });

  it('refuse a chosen offer that is dearer than one machine may be', async ({ start }) => {
    const { vast, service, post, instanceWhen } = await start({ vast: { offers: [dear] } });
    vast.knobs.search.unappliedFilters.push('dph_total');
    const { body: offers } = await service.call<{ rejected: { id: string }[] }>('/offers');
    const { body } = await post<Instance>('/instances', { offerId: offers.rejected[0]?.id });
    const ended = await instanceWhen(body.id, 'terminated');
    expect(ended.terminationReason).toBe('limit_reached');
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('are kept by the running total too, when a host raises its price and the machine cannot be destroyed for a while', async ({
    start,
  }) => {
    const { vast, settled, instanceWhen } = await start({
      vast: { offers: [dear] },
      env: {
        ...rich,
        MAX_SPEND_PER_DAY_USD: '4',
        INSTANCE_MAX_LIFETIME_HOURS: '0.02',
        DRAIN_LIMIT_MINUTES: '0',
        DESTROY_RESERVE_HOURS: String(10 / 3600),
      },
    });
    const ready = await settled();
    expect(ready.status).toBe('ready');
    const rentalId = Number(ready.rentals[0]?.providerInstanceId);
    vast.knobs.faults.destroy.push(...Array.from({ length: 10_000 }, () => 'noop' as const));
    for (let times = 0; times < 3; times += 1) vast.strike(rentalId, 'price-raised');
    const ending = await instanceWhen(
      ready.id,
      ({ terminationReason }) => terminationReason === 'limit_reached',
      30_000,
    );
    expect(ending.terminationDetail).toMatch(
      /MAX_SPEND_PER_DAY_USD is 4 and MAX_SPEND_PER_MONTH_USD none\.$/,
    );
    await sleep(8000);
    vast.knobs.faults.destroy.length = 0;
    await instanceWhen(ready.id, 'terminated');
    const spent = vast.bill()[0]?.totalUsd ?? Infinity;
    expect(spent).toBeGreaterThan(1);
    expect(spent).toBeLessThanOrEqual(4);
  });

  it('on the life of an instance end it, and a request may ask for less but not for more', async ({
    start,
  }) => {
    const { vast, service, post, settled, instanceWhen } = await start({
      env: { INSTANCE_MAX_LIFETIME_HOURS: '2' },
    });
    const before = Date.now();
    const long = await post<Instance>('/instances', { maxLifetimeHours: 100 });
    expect(Date.parse(long.body.expiresAt ?? '') - before).toBeLessThan(2.1 * 3_600_000);
    const { id } = await settled({ maxLifetimeHours: 1 });
    await service.service.database.db
      .updateTable('instances')
      .set({ expires_at: new Date(Date.now() - 1000) })
      .where('id', '=', id)
      .execute();
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.terminationReason).toBe('lifetime_reached');
    expect(vast.liveRentals()).toHaveLength(1);
  });
});

describe.concurrent('the books', () => {
  it('agree with the bill of the provider to the cent, and are divided among the jobs without a rest', async ({
    start,
  }) => {
    const world = await start({ vast: { offers: [dear] }, env: rich });
    const { vast, service, settled, end } = world;
    const { id } = await settled();
    const jobs = [await run(world, id), await run(world, id), await run(world, id)];
    const ended = await end(id);

    const { body: costs } = await service.call<Costs>(`/costs?groupBy=instance&instanceId=${id}`);
    const [entry] = costs.items;
    const [bill] = vast.bill();
    if (entry === undefined || bill === undefined) throw new Error('There is no bill.');
    expect(costs.items).toHaveLength(1);
    expect(entry).toMatchObject({ key: id, final: true });
    expect(entry.totalUsd).toBeGreaterThan(0.02);
    expect(Math.abs(cents(entry.gpuUsd) - cents(bill.gpuUsd))).toBeLessThanOrEqual(1);
    expect(Math.abs(cents(entry.storageUsd) - cents(bill.storageUsd))).toBeLessThanOrEqual(1);
    expect(ended.costUsd).toBeCloseTo(entry.gpuUsd + entry.storageUsd, 9);

    const shares = await Promise.all(
      jobs.map(async (job) => (await service.call<Job>(`/jobs/${job.id}`)).body.cost),
    );
    expect(shares.every((share) => share?.final === true)).toBe(true);
    const sum = shares.reduce((total, share) => total + (share?.totalUsd ?? 0), 0);
    expect(sum).toBeCloseTo(entry.totalUsd, 9);
    for (const share of shares) {
      if (share === null) throw new Error('A job has no cost.');
      expect(share.workUsd + share.bootUsd + share.idleUsd + share.trafficUsd).toBeCloseTo(share.totalUsd, 9);
      expect(share.bootUsd).toBeGreaterThan(0);
    }
  });

  it('follow a price that the host raises while the machine cannot be destroyed', async ({ start }) => {
    const { vast, service, settled, instanceWhen } = await start({ vast: { offers: [dear] }, env: rich });
    const { id, rentals } = await settled();
    vast.knobs.faults.destroy.push(...Array.from({ length: 1000 }, () => 'noop' as const));
    await service.call(`/instances/${id}`, { method: 'DELETE' });
    vast.strike(Number(rentals[0]?.providerInstanceId), 'price-raised');
    const ending = await instanceWhen(id, ({ pricePerHourUsd }) => (pricePerHourUsd ?? 0) > 2 * 90, 10_000);
    expect(ending.status).toBe('terminating');
    vast.knobs.faults.destroy.length = 0;
    await instanceWhen(id, 'terminated');
  });

  it('add up by day, by instance and by key, page by page', async ({ start }) => {
    const { service, settled, end } = await start({
      vast: { offers: [dear] },
      env: { ...rich, MAX_INSTANCES: '2' },
    });
    const ids = [(await settled()).id, (await settled()).id];
    for (const id of ids) await end(id);
    const { body: byDay } = await service.call<Costs>('/costs');
    const { body: byKey } = await service.call<Costs>('/costs?groupBy=apiKey');
    expect(byDay.total).toEqual(byKey.total);
    expect(byKey.items.map(({ key }) => key)).toEqual(['']);
    const sumOf = (items: Sums[]) => items.reduce((sum, { totalUsd }) => sum + totalUsd, 0);
    expect(sumOf(byDay.items)).toBeCloseTo(byDay.total.totalUsd, 9);

    const pages: string[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const query: string = cursor === '' ? '' : `&cursor=${cursor}`;
      const { body }: { body: Costs } = await service.call<Costs>(`/costs?groupBy=instance&limit=1${query}`);
      pages.push(...body.items.map(({ key }) => key));
      cursor = body.nextCursor;
    }
    expect(pages).toEqual(ids.toReversed());
    const { body: none } = await service.call<Costs>('/costs?from=2020-01-01&to=2020-12-31');
    expect(none).toMatchObject({ items: [], total: { totalUsd: 0 } });
  });

  it('begin with the month of their last day unless told, have no year 0, and say so of the field that names it', async ({
    start,
  }) => {
    const { service } = await start();
    const past = await service.call<{ from: string }>('/costs?to=2026-01-31');
    expect(past).toMatchObject({ status: 200, body: { from: '2026-01-01' } });
    for (const field of ['from', 'to']) {
      const { status, body } = await service.call<Problem>(`/costs?${field}=0000-01-01`);
      expect({ status, body }).toMatchObject({
        status: 400,
        body: { field, detail: `"${field}" is not valid: it must be a day of the year 1 or later.` },
      });
    }
    expect((await service.call('/costs?from=0001-01-01&to=9999-12-31')).status).toBe(200);
  });

  it('show what is still billing, and are then not final', async ({ start }) => {
    const { service, settled } = await start({ vast: { offers: [dear] }, env: rich });
    await settled();
    const { body } = await service.call<Costs>('/costs');
    expect(body.total.totalUsd).toBeGreaterThan(0);
    expect(body.total.final).toBe(false);
  });
});

describe.concurrent('an estimate', () => {
  it('is made from offers before anything is rented, and from a ready instance and past runs then', async ({
    start,
  }) => {
    const world = await start();
    const { vast, post, settled } = world;
    const { body: offered } = await post<Estimate>('/jobs/estimate', { workflow: emptyImage });
    expect(offered).toMatchObject({ place: 'offer', run: { basis: 'assumed', samples: 0 }, obstacle: null });
    expect(offered.bootSeconds).toBeGreaterThan(60);
    expect(offered.worstCaseUsd).toBeGreaterThan(offered.expected?.totalUsd ?? Infinity);
    expect(vast.counters.created).toBe(0);

    const { id } = await settled();
    await run(world, id);
    const changed = structuredClone(emptyImage);
    const image = changed['1'];
    if (image === undefined) throw new Error('The workflow has changed.');
    image.inputs['color'] = 7;
    const { body: ready } = await post<Estimate>('/jobs/estimate', { workflow: changed });
    expect(ready).toMatchObject({
      place: 'instance',
      instanceId: id,
      bootSeconds: 0,
      run: { basis: 'same_gpu', samples: 1 },
    });
    expect(ready.expected?.totalUsd).toBeLessThan(offered.expected?.totalUsd ?? 0);
  });

  it('counts in the worst case every machine that may be tried before one gets ready', async ({ start }) => {
    const { post } = await start({
      env: {
        MAX_PRICE_PER_HOUR_USD: '0.9',
        MAX_RENTALS_PER_INSTANCE: '3',
        JOB_MAX_ATTEMPTS: '2',
        LOADING_TIMEOUT_SECONDS: '1800',
        STARTING_TIMEOUT_SECONDS: '1800',
        JOB_TIME_LIMIT_SECONDS: '3600',
      },
    });
    const { body } = await post<Estimate>('/jobs/estimate');
    // An hour for each boot, the first at the price of the offer, and for each of two runs.
    const hoursAtHighestPrice = 2 * (3 + 1) - 1;
    expect(body.worstCaseUsd).toBeGreaterThanOrEqual(hoursAtHighestPrice * 0.9 + (body.pricePerHourUsd ?? 1));
    expect(body.worstCaseUsd).toBeLessThan((hoursAtHighestPrice + 2) * 0.9);
  });

  it('says what stands in the way', async ({ start }) => {
    const { post } = await start({ env: { MAX_SPEND_PER_DAY_USD: '0.5', MAX_SPEND_PER_MONTH_USD: '0.5' } });
    const { body: dearer } = await post<Estimate>('/jobs/estimate');
    expect(dearer.obstacle).toMatch(/MAX_SPEND_PER_/);
    const { body: nothing } = await post<Estimate>('/jobs/estimate', { requirements: { minVramGb: 600 } });
    expect(nothing).toMatchObject({ place: 'none', expected: null, worstCaseUsd: null });
    const { status, body } = await post<Problem>('/jobs/estimate', { workflow: { nodes: [], links: [] } });
    expect({ status, code: body.code }).toEqual({ status: 422, code: 'workflow_format_ui' });
  });

  it('without requirements is made for the machine that the fleet would rent', async ({ start }) => {
    const { post } = await start({
      env: { FLEET_REQUIREMENTS: '{"minVramGb":40,"maxPricePerHourUsd":0.9}' },
    });
    const { body: own } = await post<Estimate>('/jobs/estimate', { requirements: {} });
    expect(own.offer?.vramGb).toBeLessThan(40);
    const { body: ours } = await post<Estimate>('/jobs/estimate');
    expect(ours.offer?.vramGb).toBeGreaterThanOrEqual(40);
  });

  it('says that there may be no further instance', async ({ start }) => {
    const { post, settled } = await start({ env: { MAX_INSTANCES: '1' } });
    await settled();
    const wanted = { requirements: { minVramGb: 40 } };
    const { body } = await post<Estimate>('/jobs/estimate', wanted);
    expect(body).toMatchObject({ place: 'offer', obstacle: expect.stringMatching(/MAX_INSTANCES/) });
    const { body: refused } = await post<Problem>('/instances', wanted);
    expect(refused.limitName).toBe('MAX_INSTANCES');
  });

  it('does not count on an instance that does not answer', async ({ start }) => {
    const { service, post, settled } = await start({ env: { INSTANCE_CHECK_SECONDS: '600' } });
    const { id } = await settled();
    const { db } = service.service.database;
    await db.updateTable('instances').set({ unreachable_since: new Date() }).execute();
    expect((await post<Estimate>('/jobs/estimate')).body.place).toBe('offer');
    const { body: pinned } = await post<Estimate>('/jobs/estimate', { instanceId: id });
    expect(pinned).toMatchObject({ place: 'none', obstacle: expect.stringMatching(/does not answer/) });
  });
});

describe.concurrent('credit', () => {
  it('that runs low is told in health and metrics, and nothing more is rented', async ({ start }) => {
    const { vast, service, post, settled } = await start({
      vast: { creditUsd: 25 },
      env: { CREDIT_CHECK_SECONDS: '1', SEARCH_TIMEOUT_SECONDS: '1' },
    });
    interface Health {
      parts: { credit: { status: string } };
    }
    await settled();
    await service.until<Health>('/health', ({ parts }) => parts.credit.status === 'ok');
    vast.state.creditUsd = 0.3;
    await service.until<Health>('/health', ({ parts }) => parts.credit.status === 'degraded');
    const metrics = await (await fetch(`${service.url}/metrics`)).text();
    expect(Number(/^comfyfleet_credit_usd (\S+)$/m.exec(metrics)?.[1])).toBeLessThan(0.31);
    expect(Number(/^comfyfleet_price_per_hour_usd (\S+)$/m.exec(metrics)?.[1])).toBeGreaterThan(0.1);
    expect(metrics).toMatch(/^comfyfleet_limit\{limit="spend_per_day"\} 50$/m);
    const { status, body } = await post<Problem>('/instances');
    expect({ status, code: body.code }).toEqual({ status: 402, code: 'insufficient_credit' });
    expect(vast.liveRentals()).toHaveLength(1);
  });
});
