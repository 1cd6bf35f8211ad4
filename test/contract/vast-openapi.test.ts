// The vast.ai double, and what the service sends to it, against vast.ai's own OpenAPI pages.
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { loadConfig } from '../../src/config.ts';
import { completeRequirements, requirementsSchema } from '../../src/instances/requirements.ts';
import { noIntervals } from '../../src/vast/endpoints.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { instantPhases, manualClock, startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { call, openDouble, rent, secureRecipe, startStandIn, type Method } from './vast-double-client.ts';
import { CORRECTIONS, NOT_PLAYED } from './vast-openapi-corrections.ts';
import { openPages } from './vast-openapi-pages.ts';
import { tapWire, type Wire } from './vast-wire.ts';

/** Can be rented, closed and reached. */
const MACHINE = 33_307;
const pages = openPages(CORRECTIONS);

describe('what goes over the wire', () => {
  let vast: VastDouble;
  let wire: Wire;

  beforeAll(async () => {
    vast = await startVastDouble({ knobs: { phases: instantPhases }, startComfyUi: startStandIn });
    wire = await tapWire(vast.url);
    const tapped = { ...vast, url: wire.url };
    await useService(tapped);
    await useEverything(tapped);
    await playFaults(tapped);
  });
  afterAll(async () => {
    await wire.stop();
    await vast.stop();
  });

  it('is what the pages say, where they are not corrected', () => {
    expect([...new Set(wire.exchanges.flatMap((exchange) => pages.problemsOf(exchange)))]).toEqual([]);
  });

  it('plays every answer of the pages but those that are named', () => {
    const played = new Set(wire.exchanges.map((exchange) => pages.nameOf(exchange)));
    const described = openPages([]).answers();
    const missing = described.filter((name) => !played.has(name));
    expect(missing.sort()).toEqual(Object.keys(NOT_PLAYED).sort());
  });

  it('needs every correction', () => {
    const needless = CORRECTIONS.filter((correction) => {
      const without = openPages(CORRECTIONS.filter((other) => other !== correction));
      const exchanges = wire.exchanges.filter((exchange) =>
        without.nameOf(exchange).startsWith(`${correction.page} `),
      );
      return exchanges.every((exchange) => without.problemsOf(exchange).length === 0);
    });
    expect(needless.map(({ page, at }) => `${page}: ${at.join(' ')}`)).toEqual([]);
  });
});

describe('limits', () => {
  const largest = (name: string) =>
    Number(pages.part('create_instance', 'x-input-validation', name, 'max_length'));
  const smallestDisk = Number(pages.part('create_instance', 'x-input-validation', 'disk', 'min'));
  const price = (bound: string) =>
    Number(pages.part('create_instance', 'x-input-validation', 'price', bound));

  it.each([
    ['image', 'invalid_args', { image: 'x'.repeat(largest('image') + 1) }],
    ['label', 'invalid_args', { label: 'x'.repeat(largest('label') + 1) }],
    ['env', 'invalid_args', { env: { NAME: 'x'.repeat(largest('env') + 1) } }],
    ['args', 'invalid_args', { args: ['x'.repeat(largest('args') + 1)] }],
    ['disk', 'invalid_args', { disk: smallestDisk - 1 }],
    ['high price', 'invalid_price', { price: price('max') + 1 }],
    ['low price', 'invalid_price', { price: price('min') / 2 }],
  ])('a create beyond the limit of its %s is refused', async (_what, error, body) => {
    const answer = await call(await openDouble(), 'PUT', '/api/v0/asks/1/', { ...secureRecipe, ...body });
    expect(answer).toMatchObject({ status: 400, body: { error } });
  });

  it.each([
    ['create_instance', 'PUT', '/api/v0/asks/1/'],
    ['show_instance', 'GET', '/api/v0/instances/1/'],
    ['show_instances', 'GET', '/api/v1/instances/'],
    ['manage_instance', 'PUT', '/api/v0/instances/1/'],
    ['destroy_instance', 'DELETE', '/api/v0/instances/1/'],
    ['reboot_instance', 'PUT', '/api/v0/instances/reboot/1/'],
    ['recycle_instance', 'PUT', '/api/v0/instances/recycle/1/'],
  ] as const)('%s may be called as often as its page says', async (page, method, path) => {
    const clock = manualClock();
    const vast = await openDouble({ clock, knobs: { rateLimitScale: 1 } });
    const isLimited = async () => (await call(vast, method, path, {})).status === 429;
    const intervalMs = Number(pages.part(page, 'x-rate-limit', 'threshold')) * 1000;
    expect(await isLimited()).toBe(false);
    clock.advance(intervalMs);
    expect(await isLimited()).toBe(false);
    clock.advance(intervalMs - 1);
    expect(await isLimited()).toBe(true);
    const penaltyMs = page === 'create_instance' ? penaltySeconds() * 1000 : 1;
    clock.advance(penaltyMs);
    expect(await isLimited()).toBe(false);
  });

  it('the search may be called as often in a minute as its page says', async () => {
    const clock = manualClock();
    const vast = await openDouble({ clock, knobs: { rateLimitScale: 1 } });
    const search = async () => (await call(vast, 'POST', '/api/v0/bundles/', {})).status;
    const limit = pages.part('search_offers', 'x-rate-limit', 'requests');
    const statuses: number[] = [];
    while (!statuses.includes(429)) statuses.push(await search());
    expect(statuses).toHaveLength(Number(limit) + 1);
    clock.advance(60_000);
    expect(await search()).toBe(200);
  });
});

const penaltySeconds = (): number => Number(pages.part('create_instance', 'x-rate-limit', 'penalty'));

/** One rental from the search to its end, by the service's own client. */
async function useService(vast: VastDouble): Promise<void> {
  const provider = createVastProvider({
    config: loadConfig({ VASTAI_API_KEY: vast.apiKey, VAST_API_URL: vast.url }),
    log: pino({ level: 'silent' }),
    intervals: noIntervals,
  });
  const wanted = completeRequirements(requirementsSchema.parse({}), { diskGb: 80, maxPricePerHourUsd: 1 });
  const [offer] = (await provider.searchOffers(wanted)).offers;
  if (offer === undefined) throw new Error('The double has no offer for the service.');
  const secret = 'Zk3_uJ0b-q7Yt1cXw5Rr8Lm2NaPs4DfGh6JkVe9BoUi';
  const launch = { offer, label: 'cfy.test.service', secret, diskGb: 80, deadMan: null };
  const { providerInstanceId: id } = await provider.launch(launch);
  await vast.until(() => vast.state.rentals.get(Number(id))?.arePortsPublished === true);
  await provider.describe(id);
  await provider.listAll();
  await provider.logs(id, 10);
  await provider.account();
  await provider.terminate(id);
  await provider.close();
}

/** Every call, with what it accepts and what it refuses. */
async function useEverything(vast: VastDouble): Promise<void> {
  const send = (method: Method, path: string, body?: unknown) => call(vast, method, path, body);
  await send('POST', '/api/v0/bundles/', { type: 'on-demand', order: [['dph_total', 'asc']], limit: 64 });
  await send('POST', '/api/v0/bundles/', { gpu_name: 'RTX 4090' });

  vast.knobs.phases.scheduledMs = 60_000;
  const unscheduled = await rent(vast, { ...secureRecipe, onstart: '' }, MACHINE);
  await send('GET', `/api/v0/instances/${unscheduled}/`);
  await send('GET', '/api/v1/instances/');
  await send('DELETE', `/api/v0/instances/${unscheduled}/`, {});
  vast.knobs.phases.scheduledMs = 0;

  const id = await rent(vast, secureRecipe, MACHINE);
  await vast.until(() => vast.state.rentals.get(id)?.arePortsPublished === true);
  await send('GET', `/api/v0/instances/${id}/`);
  await send('GET', '/api/v0/instances/1/');
  await send('GET', '/api/v1/instances/');
  await send('GET', `/api/v1/instances/?select_filters=${JSON.stringify({ dph_total: { lt: 1 } })}`);
  await send('GET', '/api/v1/instances/?after_token=none');
  await send('PUT', `/api/v0/instances/request_logs/${id}/`, { tail: '10', daemon_logs: 'true' });
  await send('PUT', '/api/v0/instances/request_logs/1/', {});
  await send('PUT', `/api/v0/instances/request_logs/${vast.addForeignRental()}/`, {});
  await send('PUT', `/api/v0/instances/${id}/`, { label: 'another' });
  await send('PUT', `/api/v0/instances/${id}/`, { label: 'x'.repeat(1025) });
  await send('PUT', '/api/v0/instances/1/', { label: 'another' });
  for (const action of ['reboot', 'recycle']) {
    await send('PUT', `/api/v0/instances/${action}/${id}/`, {});
    await send('PUT', `/api/v0/instances/${action}/1/`, {});
  }
  await send('PUT', `/api/v0/instances/${id}/`, { state: 'stopped' });
  vast.knobs.gpuTakenOnStart = true;
  await send('PUT', `/api/v0/instances/${id}/`, { state: 'running' });
  await send('GET', '/api/v0/users/current/');
  await send('DELETE', `/api/v0/instances/${id}/`, {});
  await send('DELETE', `/api/v0/instances/${id}/`, {});
}

const offersSchema = z.object({ offers: z.array(z.object({ id: z.number() })) });

/** Every refusal, in every form in which it comes. */
async function playFaults(vast: VastDouble): Promise<void> {
  const { faults } = vast.knobs;
  for (const fault of [
    'no-such-ask-400',
    'no-such-ask-404',
    'no-such-ask-410',
    'not-your-own',
    'invalid-args',
    'invalid-price',
    'insufficient-credit',
    'spend-rate-limit',
    'missing-billing',
    '400-with-new-contract',
  ] as const) {
    const filter = { machine_id: { eq: MACHINE } };
    const { offers } = offersSchema.parse((await call(vast, 'POST', '/api/v0/bundles/', filter)).body);
    faults.create.push(fault);
    await call(vast, 'PUT', `/api/v0/asks/${offers[0]?.id}/`, secureRecipe);
  }
  for (const [operation, method, path] of [
    ['search', 'POST', '/api/v0/bundles/'],
    ['create', 'PUT', '/api/v0/asks/1/'],
    ['show', 'GET', '/api/v0/instances/1/'],
    ['list', 'GET', '/api/v1/instances/'],
    ['manage', 'PUT', '/api/v0/instances/1/'],
    ['destroy', 'DELETE', '/api/v0/instances/1/'],
    ['reboot', 'PUT', '/api/v0/instances/reboot/1/'],
    ['recycle', 'PUT', '/api/v0/instances/recycle/1/'],
    ['logs', 'PUT', '/api/v0/instances/request_logs/1/'],
    ['user', 'GET', '/api/v0/users/current/'],
  ] as const) {
    const common = ['auth-401', 'auth-403', 'auth-404'] as const;
    // The search, the logs and the user have no limit of this kind.
    const isLimited = !['search', 'logs', 'user'].includes(operation);
    const limits = isLimited ? (['rate-limit-text', 'rate-limit-detail', 'rate-limit-json'] as const) : [];
    for (const fault of [...common, ...limits]) {
      faults[operation].push(fault);
      await call(vast, method, path, method === 'GET' ? undefined : {});
    }
  }
  faults.user.push('500');
  await call(vast, 'GET', '/api/v0/users/current/');
}
