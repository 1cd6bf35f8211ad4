// Renting through the API of the whole service, against the double of vast.ai; what can go wrong on the way is in renting.test.ts.
import { describe, expect } from 'vitest';
import { defaultOffers } from '../doubles/vast/index.ts';
import { isSettled, it } from '../support/renting.ts';

interface Problem {
  code: string;
  detail: string;
  field?: string;
}

/** Limits that many instances keep to. */
const roomy = {
  MAX_INSTANCES: '20',
  MAX_TOTAL_PRICE_PER_HOUR_USD: '100',
  MAX_SPEND_PER_DAY_USD: 'none',
  MAX_SPEND_PER_MONTH_USD: 'none',
};

describe.concurrent('renting an instance', () => {
  it('goes from requested through every phase to ready, and to confirmed gone', async ({ start }) => {
    const { vast, service, rent, instanceWhen } = await start();
    const requested = await rent();
    expect(requested.status).toBe('requested');

    const ready = await instanceWhen(requested.id, isSettled);
    expect(ready).toMatchObject({ status: 'ready', phase: null, comfyuiVersion: '0.35.0' });
    expect(ready.phases.map(({ phase }) => phase)).toEqual(['searching', 'renting', 'loading', 'starting']);
    expect(ready.phases.every(({ endedAt }) => endedAt !== null)).toBe(true);
    expect(ready.rentals[0]?.label).toMatch(new RegExp(`^cfy\\.[0-9a-f]{8}\\.${ready.id}\\.1$`));
    expect(vast.liveRentals()).toHaveLength(1);

    const { status } = await service.call(`/instances/${ready.id}`, { method: 'DELETE' });
    expect(status).toBe(202);
    const gone = await instanceWhen(ready.id, 'terminated');
    expect(gone.terminationReason).toBe('requested');
    expect(gone.rentals[0]).toMatchObject({ status: 'gone' });
    expect(gone.costUsd).toBeGreaterThan(0);
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('never shows the secret of the machine, neither to callers nor in the list', async ({ start }) => {
    const { vast, service, settled } = await start();
    const { id } = await settled();
    const stored = await service.service.database.db
      .selectFrom('rentals')
      .select('secret')
      .executeTakeFirstOrThrow();
    expect(stored.secret).toMatch(/^[A-Za-z0-9_-]{43}$/);
    for (const path of [`/instances/${id}`, '/instances', '/health', '/metrics']) {
      const text = await (await fetch(service.url + path)).text();
      expect(text).not.toContain(stored.secret);
      expect(text).not.toContain(vast.apiKey);
    }
  });

  it('rents an offer with the disk that it was shown with', async ({ start }) => {
    const { vast, service, settled } = await start();
    const { body: offers } = await service.call<{ items: { id: string; machineId: string }[] }>(
      '/offers?diskGb=200',
    );
    const ready = await settled({ offerId: offers.items[0]?.id });
    expect(ready.status).toBe('ready');
    expect(ready.rentals[0]?.machineId).toBe(offers.items[0]?.machineId);
    const [rental] = vast.state.rentals.values();
    expect(rental?.request.diskGb).toBe(200);
  });

  it.for([
    ['search', 'searching'],
    ['create', 'renting'],
  ] as const)(
    'keeps no machine from being destroyed while many instances wait for an answer to their %s',
    async ([call, wanted], { start }) => {
      const { vast, service, rent, settled, instanceWhen } = await start({
        vast: { creditUsd: 1000 },
        env: roomy,
      });
      const { id } = await settled();
      vast.knobs.faultChances[call] = [{ fault: 'hang', chance: 1 }];
      const others = await Promise.all(Array.from({ length: 10 }, () => rent()));
      await Promise.all(
        others.slice(0, 8).map((other) => instanceWhen(other.id, ({ phase }) => phase === wanted)),
      );
      await service.call(`/instances/${id}`, { method: 'DELETE' });
      await instanceWhen(id, 'terminated', 10_000);
      expect(vast.liveRentals()).toHaveLength(0);
      // The service would wait for what hangs.
      await vast.stop();
    },
  );

  it('gives instances that search at the same time a machine each at the first try', async ({ start }) => {
    const { rent, instanceWhen } = await start({ vast: { creditUsd: 1000 }, env: roomy });
    const rented = await Promise.all(Array.from({ length: 5 }, () => rent()));
    const ready = await Promise.all(rented.map(({ id }) => instanceWhen(id, isSettled)));
    expect(ready.map(({ status, rentals }) => [status, rentals.length])).toEqual(
      rented.map(() => ['ready', 1]),
    );
    expect(new Set(ready.map(({ rentals }) => rentals[0]?.machineId)).size).toBe(rented.length);
  });

  it('rents of a machine that is just being rented where there is no other', async ({ start }) => {
    const [spec] = defaultOffers();
    if (spec === undefined) throw new Error('The double has no offers.');
    const { vast, rent, settled } = await start({
      vast: { offers: [{ ...spec, slices: 2 }] },
      env: { SHUTDOWN_TIMEOUT_SECONDS: '1' },
    });
    vast.knobs.faults.create.push('hang');
    await rent();
    await vast.until(() => vast.counters.calls.create === 1);
    const ready = await settled();
    expect(ready).toMatchObject({ status: 'ready', rentals: [{ machineId: String(spec.machineId) }] });
  });

  it('ends an instance at once that waits for an answer to its search', async ({ start }) => {
    const { vast, service, rent, instanceWhen } = await start();
    vast.knobs.faultChances.search = [{ fault: 'hang', chance: 1 }];
    const { id } = await rent();
    await vast.until(() => vast.counters.calls.search === 1);
    await service.call(`/instances/${id}`, { method: 'DELETE' });
    const ended = await instanceWhen(id, 'terminated', 10_000);
    expect(ended).toMatchObject({ terminationReason: 'requested', rentals: [] });
  });
});

describe.concurrent('requests for instances', () => {
  it('are refused over the limit, together as well as one by one', async ({ start }) => {
    const { post } = await start({ env: { MAX_INSTANCES: '2' } });
    const answers = await Promise.all(Array.from({ length: 6 }, () => post<Problem>('/instances')));
    const statuses = answers.map(({ status }) => status).toSorted((a, b) => a - b);
    expect(statuses).toEqual([202, 202, 402, 402, 402, 402]);
    expect(answers.find(({ status }) => status === 402)?.body.code).toBe('limit_reached');
  });

  it('name the field at fault and spend nothing', async ({ start }) => {
    const { vast, post } = await start();
    const unknown = await post<Problem>('/instances', { gpu: 'RTX 4090' });
    expect(unknown).toMatchObject({ status: 400, body: { code: 'invalid_request', field: 'gpu' } });
    const negative = await post<Problem>('/instances', { idleMinutes: -1 });
    expect(negative).toMatchObject({ status: 400, body: { code: 'invalid_request', field: 'idleMinutes' } });
    const low = await post<Problem>('/instances', { requirements: { diskGb: 1 } });
    for (const offerId of ['nonsense', '1.m2.1x64', '1.2.0x64', '1.2.9x64', '1.2.1x0', '1.2.1x99999'])
      expect(await post<Problem>('/instances', { offerId })).toMatchObject({
        status: 400,
        body: { code: 'invalid_request', field: 'offerId', detail: expect.stringContaining('GET /offers') },
      });
    expect(low).toMatchObject({
      status: 400,
      body: { code: 'invalid_request', field: 'requirements.diskGb' },
    });
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('answer 404 for an instance that does not exist', async ({ start }) => {
    const { service } = await start();
    const answer = await service.call<Problem>('/instances/0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21');
    expect(answer).toMatchObject({ status: 404, body: { code: 'instance_not_found' } });
  });
});

describe.concurrent('offers', () => {
  it('come ranked, each with its reasons, and so do those that do not fit', async ({ start }) => {
    const { service } = await start();
    const { body } = await service.call<{
      items: { rank: number; expectedCostUsd: number; reasons: string[] }[];
      rejected: { reasons: string[] }[];
    }>('/offers?minVramGb=24&maxPricePerHourUsd=0.5');
    expect(body.items.length).toBeGreaterThan(0);
    expect(body.items.map(({ rank }) => rank)).toEqual(body.items.map((_, index) => index + 1));
    const costs = body.items.map(({ expectedCostUsd }) => expectedCostUsd);
    expect(costs).toEqual(costs.toSorted((a, b) => a - b));
    expect([...body.items, ...body.rejected].every(({ reasons }) => reasons.length > 0)).toBe(true);
  });

  it('say what the provider finds wrong with the search', async ({ start }) => {
    const { vast, service } = await start();
    vast.knobs.faultChances.search = [{ fault: 'bad-request', chance: 1 }];
    const offers = await service.call<Problem>('/offers');
    expect(offers.body).toMatchObject({
      code: 'provider_unavailable',
      detail: expect.stringContaining('bad_request: q.type'),
    });
  });
});
