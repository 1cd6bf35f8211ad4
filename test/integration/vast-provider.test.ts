// The provider against the double of vast.ai: a rental's life, and everything that goes wrong in it.
import { randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import type {
  LaunchRequest,
  Offer,
  Provider,
  ProviderInstance,
  ProviderView,
} from '../../src/instances/provider.ts';
import { completeRequirements, requirementsSchema } from '../../src/instances/requirements.ts';
import { noIntervals, type Intervals } from '../../src/vast/endpoints.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { instantPhases, startVastDouble, type VastDouble } from '../doubles/vast/index.ts';

type Knobs = NonNullable<NonNullable<Parameters<typeof startVastDouble>[0]>['knobs']>;

const running: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const stop of running.splice(0).toReversed()) await stop();
});

/** Nobody talks to ComfyUI here. */
const idleComfyUi = {
  url: 'http://127.0.0.1:9',
  exit: () => Promise.resolve(),
  restart: () => Promise.resolve(),
  stop: () => Promise.resolve(),
};

interface Setup {
  knobs?: Knobs;
  env?: Record<string, string>;
  intervals?: Partial<Intervals>;
}

async function start({ knobs = {}, env = {}, intervals = {} }: Setup = {}) {
  const double = await startVastDouble({
    knobs: { phases: instantPhases, ...knobs },
    startComfyUi: () => Promise.resolve(idleComfyUi),
  });
  const provider = createVastProvider({
    config: loadConfig({ VASTAI_API_KEY: double.apiKey, VAST_API_URL: double.url, ...env }),
    log: pino({ level: 'silent' }),
    intervals: { ...noIntervals, ...intervals },
  });
  running.push(
    () => double.stop(),
    () => provider.close(),
  );
  return { double, provider };
}

function requirements(wanted: object = {}) {
  return completeRequirements(requirementsSchema.parse(wanted), { diskGb: 80, maxPricePerHourUsd: 1 });
}

async function offerOf(provider: Provider, wanted: object = {}): Promise<Offer> {
  const { offers } = await provider.searchOffers(requirements(wanted));
  const offer = offers[0];
  if (offer === undefined) throw new Error('no offer');
  return offer;
}

async function requestOf(provider: Provider, label = 'cfy.test.one'): Promise<LaunchRequest> {
  const secret = randomBytes(32).toString('base64url');
  return { offer: await offerOf(provider), label, secret, diskGb: 80, deadMan: null };
}

async function launched(provider: Provider, label?: string): Promise<string> {
  return (await provider.launch(await requestOf(provider, label))).providerInstanceId;
}

/** Looks until the view is as wanted. */
async function viewWhen(
  provider: Provider,
  id: string,
  isWanted: (view: ProviderView) => boolean,
): Promise<ProviderView> {
  let view = await provider.describe(id);
  await expect
    .poll(async () => isWanted((view = await provider.describe(id))), { timeout: 5000, interval: 5 })
    .toBe(true);
  return view;
}

function instanceIn(view: ProviderView): ProviderInstance {
  if (view.kind === 'absent') throw new Error('it is absent');
  return view.instance;
}

const hasAddress = (view: ProviderView) =>
  view.kind === 'present' &&
  view.instance.condition.kind === 'running' &&
  view.instance.condition.address !== null;
const hasFailed = (view: ProviderView) =>
  view.kind === 'present' && view.instance.condition.kind === 'failed';

function addressOf(double: VastDouble, id: string): string | undefined {
  return double.liveRentals().find((rental) => rental.id === Number(id))?.addresses['8188/tcp'];
}

describe('a search', () => {
  it('gives what fits, and says of the rest why not', async () => {
    const { provider } = await start();
    const { offers, rejected } = await provider.searchOffers(requirements({ minVramGb: 20 }));
    expect(offers.length).toBeGreaterThan(5);
    for (const offer of offers) {
      expect(offer).toMatchObject({ verified: true, gpuCount: 1, diskGb: 80 });
      expect(offer.pricePerHourUsd).toBeLessThanOrEqual(1);
      expect(offer.storagePricePerHourUsd).toBeCloseTo((0.15 * 80) / 720);
    }
    expect(rejected.map(({ offer, reasons }) => [offer.machineId, reasons])).toContainEqual([
      '35002',
      ['The provider has not verified it (deverified).'],
    ]);
  });

  it('checks again what the service does not filter', async () => {
    const unappliedFilters = ['dph_total', 'gpu_ram', 'geolocation', 'direct_port_count', 'cuda_max_good'];
    const { provider } = await start({
      knobs: { search: { unappliedFilters: [...unappliedFilters, 'cpu_arch', 'rentable'] } },
    });
    const wanted = requirements({ minVramGb: 32, regions: ['DE'], maxPricePerHourUsd: 0.6 });
    const { offers, rejected } = await provider.searchOffers(wanted);
    expect(offers.map(({ gpuName, region }) => [gpuName, region])).toEqual([['RTX 5090', 'DE']]);
    const words = rejected.flatMap(({ reasons }) => reasons).join(' ');
    for (const word of [
      'USD per hour',
      'GPU memory',
      'region',
      'open ports',
      'CUDA',
      'arm64',
      'not for rent',
    ])
      expect(words).toContain(word);
  });

  it.each(['503', 'not-json', 'success-false', 'truncated', 'reset'] as const)(
    'that is answered by %s is an error, not an empty market',
    async (fault) => {
      const { double, provider } = await start();
      double.knobs.faults.search.push(fault);
      await expect(provider.searchOffers(requirements())).rejects.toMatchObject({ kind: 'unavailable' });
    },
  );
});

describe("a rental's life", () => {
  it('goes from launch to an address, and ends in absence', async () => {
    const { double, provider } = await start();
    const request = await requestOf(provider);
    const { providerInstanceId: id } = await provider.launch(request);

    const view = await viewWhen(provider, id, hasAddress);
    const [host, port] = addressOf(double, id)?.split(':') ?? [];
    const instance = instanceIn(view);
    expect(instance).toMatchObject({
      providerInstanceId: id,
      label: request.label,
      machineId: request.offer.machineId,
      condition: { kind: 'running', address: { scheme: 'https', host, port: Number(port) } },
    });
    expect(instance.message).toMatch(/^success, running vastai\/comfy_v0\.35\.0/);
    expect(instance.pricePerHourUsd).toBeCloseTo(request.offer.pricePerHourUsd);

    await provider.terminate(id);
    expect(await provider.describe(id)).toEqual({ kind: 'absent' });
    expect(await provider.listByLabel('cfy.')).toEqual([]);
    expect(double.counters).toMatchObject({ created: 1, destroyed: 1, keysInUrl: 0, unknownCalls: 0 });
  });

  it('is seen as loading while it loads', async () => {
    const { provider } = await start({ knobs: { phases: { ...instantPhases, loadingMs: 60_000 } } });
    const id = await launched(provider);
    const view = await provider.describe(id);
    expect(view).toMatchObject({ kind: 'present', instance: { condition: { kind: 'loading' } } });
  });

  it('has its ports from the list when its single view lacks them', async () => {
    const { double, provider } = await start({ knobs: { views: { portsOnlyInList: true } } });
    const id = await launched(provider);
    await viewWhen(provider, id, hasAddress);
    expect(double.counters.calls.list).toBeGreaterThan(0);
  });

  it('runs without an address while none is published', async () => {
    const { provider } = await start({ knobs: { fates: ['no-ports'] } });
    const id = await launched(provider);
    const isRunning = (view: ProviderView) =>
      view.kind === 'present' && view.instance.condition.kind === 'running';
    expect(await viewWhen(provider, id, isRunning)).toMatchObject({
      instance: { condition: { kind: 'running', address: null } },
    });
  });

  it.each([
    ['pull-error', 'image_pull_failed'],
    ['oci-error', 'container_failed'],
    ['gpu-error', 'container_failed'],
    ['exited-at-start', 'exited'],
    ['exited', 'exited'],
    ['offline', 'offline'],
    ['unknown', 'unknown_to_provider'],
    ['outbid', 'outbid'],
    ['contract-ended', 'stopped_by_provider'],
  ] as const)('fails as %s', async (fate, reason) => {
    const env = fate === 'pull-error' ? { VAST_IMAGE: 'nobody/nothing' } : {};
    const { provider } = await start({ knobs: { fates: [fate] }, env });
    const id = await launched(provider);
    expect(await viewWhen(provider, id, hasFailed)).toMatchObject({
      instance: { condition: { kind: 'failed', reason } },
    });
  });

  it('may be seen by one view before the other', async () => {
    const { provider } = await start({ knobs: { readLag: { byIdMs: 60_000, listMs: 0 } } });
    const id = await launched(provider);
    expect(await provider.describe(id)).toEqual({ kind: 'absent' });
    expect(await provider.listByLabel('cfy.test.one')).toHaveLength(1);
  });
});

describe('a launch that is refused', () => {
  it.each([
    ['no-such-ask-400', 'offer_gone'],
    ['no-such-ask-404', 'offer_gone'],
    ['no-such-ask-410', 'offer_gone'],
    ['not-your-own', 'offer_gone'],
    ['invalid-args', 'invalid'],
    ['invalid-price', 'invalid'],
    ['insufficient-credit', 'no_credit'],
    ['spend-rate-limit', 'no_credit'],
    ['missing-billing', 'no_credit'],
    ['rate-limit-text', 'rate_limited'],
    ['rate-limit-detail', 'rate_limited'],
    ['rate-limit-json', 'rate_limited'],
    ['auth-401', 'unauthorized'],
    ['auth-404', 'unauthorized'],
    ['session-expired', 'unauthorized'],
  ] as const)('by %s says %s and is not repeated', async (fault, kind) => {
    const { double, provider } = await start();
    const request = await requestOf(provider);
    double.knobs.faults.create.push(fault);
    await expect(provider.launch(request)).rejects.toMatchObject({ kind, leftoverId: undefined });
    expect(double.counters).toMatchObject({ created: 0, calls: { create: 1 } });
  });

  it('because somebody was faster takes nothing', async () => {
    const { double, provider } = await start();
    const request = await requestOf(provider);
    double.knobs.takenMachines.push(Number(request.offer.machineId));
    await expect(provider.launch(request)).rejects.toMatchObject({ kind: 'offer_gone' });
    expect(double.liveRentals()).toEqual([]);
  });

  it('with a rental left behind names it, so that it can be destroyed', async () => {
    const { double, provider } = await start();
    const request = await requestOf(provider);
    double.knobs.faults.create.push('400-with-new-contract');
    const error: unknown = await provider.launch(request).catch((reason: unknown) => reason);
    const [left] = double.liveRentals();
    expect(error).toMatchObject({ name: 'ProviderError', kind: 'invalid', leftoverId: String(left?.id) });
  });
});

describe('a launch whose answer is lost', () => {
  it.each([
    ['503-after-create', 1],
    ['reset-after-create', 1],
    ['truncated-after-create', 1],
    ['no-id-after-create', 1],
    ['hang-after-create', 1],
    ['500', 0],
    ['502-html', 0],
    ['reset', 0],
    ['hang', 0],
    ['not-json', 0],
    ['truncated', 0],
  ] as const)('by %s may have rented, and the label tells', async (fault, made) => {
    const { double, provider } = await start({ intervals: { maxCallMs: 1500 } });
    const request = await requestOf(provider, 'cfy.test.lost');
    double.knobs.faults.create.push(fault);
    await expect(provider.launch(request)).rejects.toMatchObject({ kind: 'ambiguous' });
    expect(double.counters.calls.create).toBe(1);
    expect(await provider.listByLabel('cfy.test.lost')).toHaveLength(made);
  });

  it('may rent only later', async () => {
    const { double, provider } = await start({ knobs: { lateCreateMs: 30 } });
    const request = await requestOf(provider, 'cfy.test.late');
    double.knobs.faults.create.push('503-and-late');
    await expect(provider.launch(request)).rejects.toMatchObject({ kind: 'ambiguous' });
    await double.until(() => double.counters.created === 1);
    expect(await provider.listByLabel('cfy.test.late')).toHaveLength(1);
  });
});

describe('a list', () => {
  it.each([
    'null-list',
    'token-loop',
    'lost-pages',
    '500',
    '502-html',
    'not-json',
    'truncated',
    'reset',
    'success-false',
    'auth-404',
    'session-expired',
  ] as const)('that is answered by %s is an error, never an empty list', async (fault) => {
    const { double, provider } = await start();
    await launched(provider);
    double.knobs.faults.list.push(...Array.from({ length: 5 }, () => fault));
    await expect(provider.listByLabel('cfy.')).rejects.toMatchObject({ name: 'ProviderError' });
  });

  it('is complete over several pages and leaves out what is not ours', async () => {
    const { double, provider } = await start();
    for (let other = 0; other < 60; other++) double.addForeignRental('somebody else');
    const id = await launched(provider);
    const found = await provider.listByLabel('cfy.');
    expect(found.map(({ providerInstanceId }) => providerInstanceId)).toEqual([id]);
    expect(double.counters.calls.list).toBe(3);
  });
});

describe('a termination', () => {
  it.each(['404-after-destroy', '410-after-destroy'] as const)('answered by %s is done', async (fault) => {
    const { double, provider } = await start();
    const id = await launched(provider);
    double.knobs.faults.destroy.push(fault);
    await provider.terminate(id);
    expect(await provider.describe(id)).toEqual({ kind: 'absent' });
  });

  it('can be asked for twice', async () => {
    const { double, provider } = await start();
    const id = await launched(provider);
    await provider.terminate(id);
    await provider.terminate(id);
    expect(double.counters.destroyed).toBe(1);
  });

  it.each(['noop', 'lying-404'] as const)('that did nothing (%s) shows in the view', async (fault) => {
    const { double, provider } = await start();
    const id = await launched(provider);
    double.knobs.faults.destroy.push(fault);
    await provider.terminate(id);
    expect(await provider.describe(id)).toMatchObject({ kind: 'present' });
  });

  it.each([
    ['auth-401', 'unauthorized'],
    ['auth-404', 'unauthorized'],
    ['session-expired', 'unauthorized'],
    ['503-after-destroy', 'unavailable'],
    ['reset-after-destroy', 'unavailable'],
    ['hang-after-destroy', 'unavailable'],
    ['success-false', 'unavailable'],
    ['502-html', 'unavailable'],
  ] as const)('answered by %s is not done', async (fault, kind) => {
    const { double, provider } = await start({ intervals: { maxCallMs: 1500 } });
    const id = await launched(provider);
    double.knobs.faults.destroy.push(fault);
    await expect(provider.terminate(id)).rejects.toMatchObject({ kind });
  });

  it('is asked for again after a 429', async () => {
    const { double, provider } = await start();
    const id = await launched(provider);
    double.knobs.faults.destroy.push('rate-limit-json', 'rate-limit-text');
    await provider.terminate(id);
    expect(double.counters).toMatchObject({ destroyed: 1, calls: { destroy: 3 } });
  });
});

describe('the view of one rental', () => {
  it.each(['auth-401', 'auth-403', 'auth-404', 'session-expired'] as const)(
    'never reads %s as absence',
    async (fault) => {
      const { double, provider } = await start();
      const id = await launched(provider);
      double.knobs.faults.show.push(fault);
      await expect(provider.describe(id)).rejects.toMatchObject({ kind: 'unauthorized' });
    },
  );

  it.each(['500', 'reset', 'not-json', 'rate-limit-text'] as const)(
    'comes from the list where its own call fails for ever with %s, which proves no absence',
    async (fault) => {
      const { double, provider } = await start();
      const id = await launched(provider);
      double.knobs.faultChances.show = [{ fault, chance: 1 }];
      expect(await provider.describe(id)).toMatchObject({ instance: { providerInstanceId: id } });
      await expect(provider.describe('36000000')).rejects.toMatchObject({ name: 'ProviderError' });
    },
  );

  it.each(['null', '404'] as const)('takes %s for an unknown id as absence', async (unknownId) => {
    const { provider } = await start({ knobs: { views: { unknownId } } });
    expect(await provider.describe('36000000')).toEqual({ kind: 'absent' });
  });

  it('reads an array of one', async () => {
    const { provider } = await start({ knobs: { views: { byIdAsArray: true } } });
    const id = await launched(provider);
    expect(await provider.describe(id)).toMatchObject({ instance: { providerInstanceId: id } });
  });
});

describe('searches at the same time', () => {
  /** Waits for each search to begin: a turn comes after the last one has gone. */
  const paced = { paces: { ...noIntervals.paces, search: { calls: 1, perMs: 150, penaltyMs: 0 } } };

  it('go out as one where they ask alike, and one that comes later gets a new answer', async () => {
    const { double, provider } = await start({ intervals: paced });
    const ask = (gpuCount = 1) => provider.searchOffers(requirements({ gpuCount }));
    const alike = Array.from({ length: 12 }, () => ask());
    const other = ask(2);
    const [first] = await Promise.all(alike);
    expect(first?.offers.length).toBeGreaterThan(0);
    expect((await other).offers).not.toEqual(first?.offers);
    expect(double.counters.calls.search).toBe(2);

    const before = ask();
    await double.until(() => double.counters.calls.search === 3);
    const machine = double.addOffer({ gpuName: 'RTX 4090', gpuPricePerHourUsd: 0.05 });
    const machinesIn = async (search: typeof before) =>
      (await search).offers.map(({ machineId }) => machineId);
    const after = ask();
    await before;
    expect(await machinesIn(after)).toContain(String(machine.machineId));
  });

  it('that are to rent go before those of who only looks, also where both ask alike', async () => {
    const { provider } = await start({ intervals: paced });
    const done: string[] = [];
    const ask = (who: string, gpuCount: number, options = {}) =>
      provider.searchOffers(requirements({ gpuCount }), options).then(() => done.push(who));
    const first = ask('looks at 1', 1);
    const rest = [2, 3, 4, 5].map((gpuCount) => ask(`looks at ${gpuCount}`, gpuCount));
    rest.push(ask('rents 6', 6, { toRent: true }), ask('rents 4', 4, { toRent: true }));
    await Promise.all([first, ...rest]);
    expect(
      done
        .filter((who) => who !== 'looks at 1')
        .slice(0, 3)
        .toSorted(),
    ).toEqual(['looks at 4', 'rents 4', 'rents 6']);
  });

  it('are given up one by one, and one for which nobody waits is not made', async () => {
    const { double, provider } = await start({ intervals: paced });
    const [leaving, gone] = [new AbortController(), new AbortController()];
    const first = provider.searchOffers(requirements());
    const [left, stayed] = [
      provider.searchOffers(requirements({ minVramGb: 20 }), { signal: leaving.signal }),
      provider.searchOffers(requirements({ minVramGb: 20 })),
    ];
    const unwanted = provider.searchOffers(requirements({ gpuCount: 2 }), { signal: gone.signal });
    leaving.abort(new Error('left'));
    gone.abort(new Error('gone'));
    await expect(left).rejects.toMatchObject({ kind: 'unavailable' });
    await expect(unwanted).rejects.toMatchObject({ kind: 'unavailable' });
    expect((await first).offers.length).toBeGreaterThan(0);
    expect((await stayed).offers.length).toBeGreaterThan(0);
    await provider.searchOffers(requirements());
    expect(double.counters.calls.search).toBe(3);
  });
});

it('a wrong key is unauthorized everywhere, and the error does not show it', async () => {
  const wrongKey = 'wrong-key-0123456789';
  const { provider } = await start({ env: { VASTAI_API_KEY: wrongKey } });
  const calls = [
    provider.searchOffers(requirements()),
    provider.describe('1'),
    provider.listByLabel('cfy.'),
    provider.terminate('1'),
    provider.logs('1', 10),
    provider.account(),
  ];
  for (const result of await Promise.allSettled(calls)) {
    expect(result).toMatchObject({ status: 'rejected', reason: { kind: 'unauthorized' } });
    expect(JSON.stringify(result)).not.toContain(wrongKey);
  }
});

it('the log comes without the secrets that the image prints into it', async () => {
  const { double, provider } = await start();
  const request = await requestOf(provider);
  const { providerInstanceId: id } = await provider.launch(request);
  await viewWhen(provider, id, hasAddress);
  const log = await provider.logs(id, 100);
  expect(log).toContain('Starting ComfyUI with arguments: --disable-auto-launch --port 18188');
  expect(log).toContain('web credentials[removed]');
  expect(log).not.toContain(request.secret);
  expect(log).not.toContain(double.state.rentals.get(Number(id))?.jupyterToken);
  expect(double.counters).toMatchObject({ calls: { logFile: 3 }, keysToLogStore: 0 });
});

it('the account tells its credit', async () => {
  const { double, provider } = await start();
  double.state.creditUsd = 12.5;
  expect(await provider.account()).toEqual({ creditUsd: 12.5 });
});
