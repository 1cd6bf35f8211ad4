// Money, asked of the whole service: limits that refuse, books that jobs share, estimates, and credit that is watched.
import { describe, expect } from 'vitest';
import type { JobCost } from '../../src/jobs/cost.ts';
import { dear, rich } from '../support/dear-machines.ts';
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

/** Nothing is rented but what a test asks for. */
const it = base.extend('start', ({ start }) => withEnv(start, { FLEET_MAX: '0' }));

async function run({ post, service }: Pick<Renting, 'post' | 'service'>, instanceId: string): Promise<Job> {
  const { body } = await post<Job>('/jobs', { workflow: emptyImage, instanceId });
  return service.until<Job>(`/jobs/${body.id}`, ({ status }) => status === 'succeeded');
}

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

  it('refuse at once what could not even be paid at the lowest price', async ({ start }) => {
    const { post } = await start({ env: { MAX_SPEND_PER_MONTH_USD: '0.1' } });
    const { status, body } = await post<Problem>('/instances');
    expect(status).toBe(402);
    expect(body).toMatchObject({ limitName: 'MAX_SPEND_PER_MONTH_USD', limit: 0.1, committed: 0 });
  });
});

describe.concurrent('the books', () => {
  it('are divided among the jobs without a rest', async ({ start }) => {
    const world = await start({ vast: { offers: [dear] }, env: rich });
    const { service, settled, end } = world;
    const { id } = await settled();
    const jobs = [await run(world, id), await run(world, id), await run(world, id)];
    const ended = await end(id);

    const readBooks = async (query: string) => (await service.call<Costs>(`/costs?${query}`)).body;
    const { items, nextCursor } = await readBooks(`groupBy=instance&instanceId=${id}`);
    const [entry] = items;
    if (entry === undefined) throw new Error('It is not in the books.');
    expect(items).toHaveLength(1);
    expect(nextCursor).toBeNull();
    expect(entry).toMatchObject({ key: id, final: true });
    expect(entry.totalUsd).toBeGreaterThan(0.02);
    expect(ended.costUsd).toBeCloseTo(entry.gpuUsd + entry.storageUsd, 9);
    const byDay = await readBooks('');
    const byKey = await readBooks('groupBy=apiKey&limit=1');
    expect(byDay.total).toEqual(byKey.total);
    expect(byDay.total.totalUsd).toBeCloseTo(entry.totalUsd, 9);
    expect(byKey.items.map(({ key }) => key)).toEqual(['']);
    // The page after its own.
    expect((await readBooks(`groupBy=instance&cursor=${id}`)).items).toEqual([]);

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
