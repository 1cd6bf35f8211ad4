// Renting through the API against the double of vast.ai: from an offer to a ready instance, and what can go wrong between.
import { describe, expect } from 'vitest';
import { defaultOffers } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { eventually } from '../support/eventually.ts';
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

  it('rents the machine that the caller chose, and no other when it fails', async ({ start }) => {
    const { vast, service, settled } = await start();
    const { body: offers } = await service.call<{ items: { id: string; machineId: string }[] }>('/offers');
    const chosen = offers.items[1];
    if (chosen === undefined) throw new Error('The double has too few offers.');
    vast.knobs.machineFates[Number(chosen.machineId)] = 'oci-error';
    const ended = await settled({ offerId: chosen.id });
    expect(ended).toMatchObject({ status: 'terminated', terminationReason: 'rental_failed' });
    expect(ended.rentals.map(({ machineId, endReason }) => [machineId, endReason])).toEqual([
      [chosen.machineId, 'container_failed'],
    ]);
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('rents the machine that the caller chose behind any number of cheaper ones', async ({ start }) => {
    const cheap = Array.from({ length: 300 }, () => ({ gpuName: 'RTX 3060', gpuPricePerHourUsd: 0.05 }));
    const { service, settled } = await start({
      vast: { offers: [...cheap, { gpuName: 'RTX 5090', gpuPricePerHourUsd: 0.6 }] },
    });
    const { body: offers } = await service.call<{ items: { id: string; machineId: string }[] }>(
      '/offers?gpuName=RTX+5090',
    );
    const ready = await settled({ offerId: offers.items[0]?.id });
    expect(ready).toMatchObject({
      status: 'ready',
      rentals: [{ machineId: offers.items[0]?.machineId }],
    });
  });

  it.for([
    ['pull-error', 'image_pull_failed'],
    ['exited-at-start', 'exited'],
    ['gpu-error', 'container_failed'],
  ] as const)(
    'destroys a machine with %s and takes the next offer on another machine',
    async ([fate, reason], { start }) => {
      const { vast, settled } = await start();
      vast.knobs.fates.push(fate);
      const ready = await settled();
      expect(ready.status).toBe('ready');
      expect(ready.rentals.map(({ status, endReason }) => [status, endReason])).toEqual([
        ['gone', reason],
        ['active', null],
      ]);
      expect(new Set(ready.rentals.map(({ machineId }) => machineId)).size).toBe(2);
      expect(vast.liveRentals()).toHaveLength(1);
    },
  );

  it.for([
    ['loading-forever', { LOADING_TIMEOUT_SECONDS: '1' }, 'loading_timeout'],
    ['provisioning-forever', { STARTING_TIMEOUT_SECONDS: '1' }, 'starting_timeout'],
    ['no-ports', { LOADING_TIMEOUT_SECONDS: '1' }, 'loading_timeout'],
  ] as const)(
    'gives up a machine that is %s when its phase is over',
    async ([fate, env, reason], { start }) => {
      const { vast, settled } = await start({ env: { ...env, MAX_RENTALS_PER_INSTANCE: '1' } });
      vast.knobs.fates.push(fate);
      const ended = await settled();
      expect(ended).toMatchObject({ status: 'terminated', terminationReason: 'rental_failed' });
      expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: reason });
      expect(vast.liveRentals()).toHaveLength(0);
    },
  );

  it('keeps to the limit of a phase also while the provider cannot be asked for the machine', async ({
    start,
  }) => {
    const { vast, rent, instanceWhen } = await start({
      env: { LOADING_TIMEOUT_SECONDS: '1', MAX_RENTALS_PER_INSTANCE: '1' },
    });
    vast.knobs.faultChances.show = [{ fault: '500', chance: 1 }];
    vast.knobs.faultChances.list = [{ fault: '500', chance: 1 }];
    vast.knobs.fates.push('loading-forever');
    const { id } = await rent();
    await instanceWhen(id, ({ rentals }) => rentals[0]?.status === 'destroying');
    vast.knobs.faultChances = {};
    const ended = await instanceWhen(id, isSettled);
    expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: 'loading_timeout' });
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('gives up a machine whose log holds bytes that no text may hold', async ({ start }) => {
    const { vast, rent, instanceWhen } = await start({
      vast: { knobs: { phases: { ...instantPhases, bootMs: 60_000 } } },
      env: { STARTING_TIMEOUT_SECONDS: '1', MAX_RENTALS_PER_INSTANCE: '1' },
    });
    const { id } = await rent();
    const { rentals } = await instanceWhen(id, ({ phase }) => phase === 'starting');
    const machine = vast.state.rentals.get(Number(rentals[0]?.providerInstanceId));
    machine?.plan.log.push('\u0001\u0000\u0000Traceback');
    const ended = await instanceWhen(id, isSettled);
    expect(ended.rentals[0]).toMatchObject({ endReason: 'starting_timeout', status: 'gone' });
    expect(ended.terminationDetail).toContain('Traceback');
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
    '503-after-create',
    'reset-after-create',
    'truncated-after-create',
    'no-id-after-create',
    '503-and-late',
  ] as const)(
    'finds by its label what a create with %s has made, and rents nothing twice',
    async (fault, { start }) => {
      const { vast, settled } = await start();
      vast.knobs.faults.create.push(fault);
      const ready = await settled();
      expect(ready.status).toBe('ready');
      expect(ready.rentals).toHaveLength(1);
      expect(vast.liveRentals()).toHaveLength(1);
    },
  );

  it('takes the next offer when one is gone, and destroys what a refused create has left behind', async ({
    start,
  }) => {
    const { vast, settled } = await start();
    vast.knobs.faults.create.push('no-such-ask-410', '400-with-new-contract');
    const ready = await settled();
    expect(ready.status).toBe('ready');
    expect(ready.rentals.map(({ endReason }) => endReason)).toEqual([
      'renting_failed',
      'renting_failed',
      null,
    ]);
    expect(vast.liveRentals()).toHaveLength(1);
  });

  it('stops at once when the provider finds the search wrong, and says what it finds', async ({ start }) => {
    const { vast, service, settled } = await start();
    vast.knobs.faultChances.search = [{ fault: 'bad-request', chance: 1 }];
    const ended = await settled();
    expect(ended).toMatchObject({
      terminationReason: 'renting_failed',
      terminationDetail: expect.stringContaining('bad_request: q.type'),
    });
    expect(vast.counters.calls.search).toBe(1);
    const offers = await service.call<{ code: string; detail: string }>('/offers');
    expect(offers.body).toMatchObject({
      code: 'provider_unavailable',
      detail: expect.stringContaining('bad_request: q.type'),
    });
  });

  it('stops at once when the account lacks credit', async ({ start }) => {
    const { vast, settled } = await start();
    vast.knobs.faults.create.push('insufficient-credit');
    const ended = await settled();
    expect(ended).toMatchObject({
      status: 'terminated',
      terminationReason: 'insufficient_credit',
      costUsd: 0,
    });
    expect(vast.liveRentals()).toHaveLength(0);
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

  it('takes a machine whose ComfyUI calls its version what no text may hold', async ({ start }) => {
    const { settled } = await start({ vast: { comfyKnobs: { reportedVersion: '0.35.0\u0000' } } });
    const ready = await settled();
    expect(ready).toMatchObject({ status: 'ready', comfyuiVersion: 'unknown' });
  });

  it('follows a machine that moves while ComfyUI starts on it', async ({ start }) => {
    const { settled } = await start({
      vast: {
        knobs: { fates: ['moved'], phases: { ...instantPhases, provisioningMs: 1500 }, mishapAfterMs: 500 },
      },
    });
    const ready = await settled();
    expect(ready).toMatchObject({ status: 'ready', rentals: [{ status: 'active' }] });
  });

  it('forgets that a port gave no answer once it only refuses: two such moments are not a long one', async ({
    start,
  }) => {
    const phases = { ...instantPhases, bootMs: 60_000 };
    const { service, rent, instanceWhen } = await start({ vast: { knobs: { phases } } });
    const { id } = await rent();
    await instanceWhen(id, ({ phase }) => phase === 'starting');
    const { db } = service.service.database;
    // As if a look had found no answer.
    const troubled = { trouble: 'timeout', trouble_since: new Date() } as const;
    await db.updateTable('rentals').set(troubled).where('status', '=', 'active').execute();
    await eventually(async () =>
      expect(await db.selectFrom('rentals').select(['certificate_fingerprint', 'trouble']).execute()).toEqual(
        [{ certificate_fingerprint: null, trouble: null }],
      ),
    );
  });

  it('refuses a machine that speaks plain HTTP where HTTPS was asked for, without showing it the secret', async ({
    start,
  }) => {
    const { vast, settled } = await start({
      vast: { knobs: { edge: { httpsFailsOpen: true, portsChangeOnRestart: false, refusalMs: 0 } } },
      env: { STARTING_TIMEOUT_SECONDS: '1', MAX_RENTALS_PER_INSTANCE: '1' },
    });
    const ended = await settled();
    expect(ended.status).toBe('terminated');
    expect(vast.liveRentals()).toHaveLength(0);
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

  it('end with the nearest offers named when nothing fits', async ({ start }) => {
    const { settled } = await start({ env: { SEARCH_TIMEOUT_SECONDS: '1' } });
    const ended = await settled({ requirements: { minVramGb: 600 } });
    expect(ended).toMatchObject({ status: 'terminated', terminationReason: 'no_offer', costUsd: 0 });
    expect(ended.terminationDetail).toMatch(/No offer satisfies the requirements/);
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
});
