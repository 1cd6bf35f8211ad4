// The API of the vast.ai double behaves as the reference says vast.ai's does.
import { expect, test } from 'vitest';
import { z } from 'zod';
import { defaultOffers, instantPhases, manualClock } from '../doubles/vast/index.ts';
import type { ComfyUiOrder } from '../doubles/vast/index.ts';
import type { Answer } from './vast-double-client.ts';
import {
  call,
  careful,
  list,
  openDouble,
  password,
  rent,
  search,
  secureRecipe,
  show,
  startStandIn,
} from './vast-double-client.ts';

test('the search needs no key, and a wrong one is refused with 404', async () => {
  const vast = await openDouble();
  expect(await call(vast, 'POST', '/api/v0/bundles/', {}, null)).toMatchObject({ status: 200 });
  expect(await call(vast, 'POST', '/api/v0/bundles/', {}, 'wrong')).toMatchObject({
    status: 404,
    body: { error: 'auth_error', msg: 'Invalid user key' },
  });
});

test.each(['/api/v0/users/current/', '/api/v1/instances/', '/api/v0/instances/1/'])(
  'the key is needed for %s: 403 without one, 404 with a wrong one',
  async (path) => {
    const vast = await openDouble();
    expect(await call(vast, 'GET', path, undefined, null)).toMatchObject({ status: 403 });
    expect(await call(vast, 'GET', path, undefined, 'wrong')).toMatchObject({
      status: 404,
      body: { error: 'auth_error' },
    });
    expect(vast.counters.unauthorized).toBe(2);
  },
);

test('a key in the URL works and is counted, because it would end up in logs', async () => {
  const vast = await openDouble();
  const path = `/api/v0/users/current/?api_key=${vast.apiKey}`;
  expect(await call(vast, 'GET', path, undefined, null)).toMatchObject({ status: 200 });
  expect(vast.counters.keysInUrl).toBe(1);
});

test('the default offers make a list worth ranking, in the units of vast.ai', async () => {
  const vast = await openDouble();
  const offers = await search(vast, careful);
  expect(offers).toHaveLength(12);
  expect(new Set(offers.map((offer) => offer.gpu_name)).size).toBeGreaterThanOrEqual(7);
  const prices = offers.map((offer) => offer.dph_total);
  expect(prices).toEqual([...prices].sort((a, b) => a - b));
  expect(Math.min(...offers.map((offer) => offer.gpu_ram))).toBeGreaterThan(20_000);
});

test('the price includes the disk that was asked for', async () => {
  const vast = await openDouble();
  const one = { machine_id: { eq: 33_307 } };
  const [offer] = await search(vast, { ...one, allocated_storage: 72 });
  expect(offer).toMatchObject({ dph_base: 0.335, storage_total_cost: expect.closeTo(0.015) });
  expect(offer?.dph_total).toBeCloseTo(0.35);
});

test('a search without filters also lists what cannot be rented', async () => {
  const vast = await openDouble();
  const offers = await search(vast);
  expect(offers.filter((offer) => offer['rentable'] === false)).toHaveLength(1);
  expect(offers).toHaveLength(defaultOffers().length);
});

test('filters lie: deverified machines pass as verified, unknown filters are ignored, and so are some known ones', async () => {
  const vast = await openDouble();
  const verified = await search(vast, {
    verified: { eq: true },
    colour: { eq: 'red' },
    inet_up: { gte: 1e9 },
  });
  expect(verified.map((offer) => offer.verification)).toContain('deverified');
  expect(verified).toHaveLength(defaultOffers().length);
});

test.each([
  [{ gpu_name: { in: ['RTX 4090', 'L40S'] } }, 6],
  [{ gpu_name: { notin: ['RTX 4090'] } }, 12],
  [{ gpu_name: { eq: 'RTX_4090' } }, 0],
  [{ geolocation: { in: ['US', 'DE'] } }, 5],
  [{ datacenter: { eq: true } }, 4],
  [{ gpu_ram: { gt: 40_000, lte: 50_000 } }, 2],
  [{ direct_port_count: { lt: 1 } }, 1],
  [{ verification: { neq: 'verified' } }, 1],
])('the filter %j finds %i offers', async (filters, count) => {
  expect(await search(await openDouble(), filters)).toHaveLength(count);
});

test('at most 64 offers are answered, whatever the limit', async () => {
  const vast = await openDouble({
    offers: Array.from({ length: 80 }, (_, at) => ({ gpuName: 'RTX 4090', gpuPricePerHourUsd: 1 + at })),
  });
  const cheapest = await search(vast, { limit: 500, order: [['dph_total', 'asc']] });
  expect(cheapest).toHaveLength(64);
  const rest = await search(vast, { limit: 500, dph_total: { gt: cheapest.at(-1)?.dph_total } });
  expect(rest).toHaveLength(16);
});

test('an offer is found by ask_contract_id and never by id', async () => {
  const vast = await openDouble({ knobs: { search: { newOfferIdChance: 0 } } });
  const [offer] = await search(vast, careful);
  expect(await search(vast, { id: { eq: offer?.id } })).toEqual([]);
  expect(await search(vast, { ask_contract_id: { eq: offer?.id } })).toHaveLength(1);
});

test('a machine comes back under another offer id, and the old one can still be rented for a while', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, knobs: { search: { newOfferIdChance: 1, oldOfferIdMs: 60_000 } } });
  const one = { machine_id: { eq: 33_307 } };
  const [first] = await search(vast, one);
  const [second] = await search(vast, one);
  expect(second?.id).not.toBe(first?.id);
  clock.advance(59_999);
  expect(await call(vast, 'PUT', `/api/v0/asks/${first?.id ?? 0}/`, secureRecipe)).toMatchObject({
    status: 200,
  });

  const other = { machine_id: { eq: 41_190 } };
  const [old] = await search(vast, other);
  await search(vast, other);
  clock.advance(60_001);
  const late = await call(vast, 'PUT', `/api/v0/asks/${old?.id ?? 0}/`, secureRecipe);
  expect(late).toMatchObject({ status: 404, body: { error: 'invalid_args' } });
  expect(late.text).toContain('no_such_ask');
});

test('of two who rent the same offer at once, one gets it', async () => {
  const vast = await openDouble();
  const [offer] = await search(vast, { machine_id: { eq: 33_307 } });
  const path = `/api/v0/asks/${offer?.id ?? 0}/`;
  const answers = await Promise.all([1, 2].map(() => call(vast, 'PUT', path, secureRecipe)));
  expect(answers.map((answer) => answer.status).toSorted((a, b) => a - b)).toEqual([200, 404]);
  expect(await search(vast, { machine_id: { eq: 33_307 } })).toEqual([]);
  expect(vast.liveRentals()).toHaveLength(1);
});

test('a machine with two slices is listed again, and one that was given back too', async () => {
  const vast = await openDouble();
  const slices = { machine_id: { eq: 44_871 } };
  const [offer] = await search(vast, slices);
  const id = await rent(vast, secureRecipe, 44_871);
  expect(await search(vast, slices)).toHaveLength(1);
  expect(await call(vast, 'PUT', `/api/v0/asks/${offer?.id ?? 0}/`, secureRecipe)).toMatchObject({
    status: 404,
  });
  await rent(vast, secureRecipe, 44_871);
  expect(await search(vast, slices)).toEqual([]);
  await call(vast, 'DELETE', `/api/v0/instances/${id}/`);
  expect(await search(vast, slices)).toHaveLength(1);
});

test.each([
  ['nonsense', 'invalid_request'],
  ['[]', 'invalid_request'],
  ['{"gpu_name":"RTX 4090"}', 'bad_request'],
])('the search refuses the body %s', async (body, error) => {
  expect(await call(await openDouble(), 'POST', '/api/v0/bundles/', body)).toMatchObject({
    status: 400,
    body: { success: false, error },
  });
});

test('a rental passes through its phases, and its ports come a moment after it runs', async () => {
  const clock = manualClock();
  const vast = await openDouble({
    clock,
    knobs: {
      phases: { ...instantPhases, scheduledMs: 100, createdMs: 100, loadingMs: 500, portsLateMs: 100 },
    },
  });
  const id = await rent(vast);
  expect(await show(vast, id)).toMatchObject({
    actual_status: null,
    intended_status: 'running',
    status_msg: null,
    ports: null,
    public_ipaddr: null,
  });
  clock.advance(100);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'created', ports: {} });
  clock.advance(100);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'loading' });
  clock.advance(400);
  expect((await show(vast, id))?.status_msg).toMatch(/: Pull complete\n$/);
  clock.advance(100);
  expect(await show(vast, id)).toMatchObject({
    actual_status: 'running',
    cur_state: 'running',
    status_msg: 'success, running vastai/comfy_v0.35.0-cuda-12.9-py312/ssh\n',
    ports: {},
    direct_port_start: -1,
  });
  clock.advance(100);
  const up = await show(vast, id);
  expect(Object.keys(up?.ports ?? {})).toEqual(['22/tcp', '8188/tcp']);
  expect(up?.ports?.['8188/tcp']?.map((entry) => entry.HostIp)).toEqual(['::', '0.0.0.0']);
  expect(up?.public_ipaddr).toMatch(/^\s+127\.0\.0\.1\s+$/);
  expect(up).toMatchObject({ uptime_mins: 100 / 60_000, extra_env: Object.entries(secureRecipe.env) });
});

test('each view lags behind a create by itself', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, knobs: { readLag: { byIdMs: 2000, listMs: 500 } } });
  const id = await rent(vast);
  expect(await show(vast, id)).toBeNull();
  expect((await list(vast)).instances).toEqual([]);
  clock.advance(500);
  expect(await show(vast, id)).toBeNull();
  expect((await list(vast)).instances).toMatchObject([{ id }]);
  clock.advance(1500);
  expect(await show(vast, id)).toMatchObject({ id });
});

test('the ports may be missing by id and be there in the list', async () => {
  const vast = await openDouble({ knobs: { views: { portsOnlyInList: true } } });
  const id = await rent(vast);
  await vast.until(() => vast.state.rentals.get(id)?.arePortsPublished === true);
  expect(await show(vast, id)).toMatchObject({ ports: {} });
  const [row] = (await list(vast)).instances ?? [];
  expect(Object.keys(row?.ports ?? {})).toContain('8188/tcp');
});

test('the old list is gone', async () => {
  expect(await call(await openDouble(), 'GET', '/api/v0/instances/')).toMatchObject({
    status: 410,
    body: { error: 'deprecated_endpoint' },
  });
});

test('the list comes in pages of at most 25, with a token', async () => {
  const vast = await openDouble();
  for (let count = 0; count < 30; count += 1) vast.addForeignRental(count % 2 === 0 ? 'even' : undefined);
  const first = await list(vast, '?limit=1000');
  expect(first).toMatchObject({
    instances_found: 25,
    total_instances: 30,
    label_counts: { even: 15, '': 15 },
  });
  const second = await list(vast, `?after_token=${encodeURIComponent(first.next_token ?? '')}`);
  expect(second).toMatchObject({ instances_found: 5, next_token: null });
  const ids = [...(first.instances ?? []), ...(second.instances ?? [])].map((row) => row.id);
  expect(new Set(ids).size).toBe(30);
  expect((await list(vast, '?limit=0')).instances_found).toBe(5);
});

test.each(['', `order_by=${encodeURIComponent('[{"col":"id","dir":"desc"}]')}&`])(
  'a page begins behind the last row of the one before, although that is gone (%s)',
  async (order) => {
    const vast = await openDouble();
    for (let count = 0; count < 30; count += 1) vast.addForeignRental('somebody else');
    const first = await list(vast, `?${order}`);
    const last = first.instances?.at(-1)?.id;
    await call(vast, 'DELETE', `/api/v0/instances/${last}/`);
    const second = await list(vast, `?${order}after_token=${encodeURIComponent(first.next_token ?? '')}`);
    expect(second).toMatchObject({ instances_found: 5, total_instances: 29, next_token: null });
    const ids = [...(first.instances ?? []), ...(second.instances ?? [])].map((row) => row.id);
    expect(new Set(ids).size).toBe(30);
  },
);

test('the list filters and orders by stored columns and refuses computed ones', async () => {
  const vast = await openDouble();
  const id = await rent(vast);
  vast.addForeignRental('somebody else');
  const query = (name: string, value: unknown) => `?${name}=${encodeURIComponent(JSON.stringify(value))}`;
  const byLabel = await list(vast, query('select_filters', { label: { eq: secureRecipe.label } }));
  expect(byLabel).toMatchObject({ total_instances: 1, instances: [{ id }] });
  const descending = await list(vast, query('order_by', [{ col: 'id', dir: 'desc' }]));
  expect(descending.instances?.at(-1)?.id).toBe(id);
  const wrong = [
    query('select_filters', { dph_total: { lt: 1 } }),
    query('select_filters', { label: { like: 'cfy' } }),
    query('order_by', [{ col: 'num_gpus' }]),
    '?after_token=nonsense',
  ];
  for (const text of wrong) {
    expect(await call(vast, 'GET', `/api/v1/instances/${text}`)).toMatchObject({ status: 400 });
  }
});

test.each([
  [{ env: '-p 8188:8188' }, 'invalid_args'],
  [{ env: { PORT: 8188 } }, 'invalid_args'],
  [{ env: { LONG: 'x'.repeat(257) } }, 'invalid_args'],
  [{ label: 'x'.repeat(257) }, 'invalid_args'],
  [{ disk: 7.9 }, 'invalid_args'],
  [{ disk: 100_000 }, 'invalid_args'],
  [{ onstart: 'x'.repeat(4049) }, 'invalid_args'],
  [{ image: '' }, 'invalid_args'],
  [{ runtype: 'ssh_directly' }, 'invalid_args'],
  [{ price: 500 }, 'invalid_price'],
])('a create with %j is refused and makes nothing', async (change, error) => {
  const vast = await openDouble();
  const [offer] = await search(vast, careful);
  const answer = await call(vast, 'PUT', `/api/v0/asks/${offer?.id ?? 0}/`, { ...secureRecipe, ...change });
  expect(answer).toMatchObject({ status: 400, body: { success: false, error, ask_id: offer?.id } });
  expect(vast.counters.created).toBe(0);
});

test.each([
  ['no-such-ask-400', 400, 0],
  ['no-such-ask-404', 404, 0],
  ['no-such-ask-410', 410, 0],
  ['not-your-own', 403, 0],
  ['insufficient-credit', 400, 0],
  ['spend-rate-limit', 400, 0],
  ['rate-limit-text', 429, 0],
  ['rate-limit-detail', 429, 0],
  ['auth-404', 404, 0],
  ['success-false', 200, 0],
  ['redirect-308', 308, 0],
  ['503', 503, 0],
  ['503-after-create', 503, 1],
  ['400-with-new-contract', 400, 1],
  ['no-id-after-create', 200, 1],
  ['reset', 'lost', 0],
  ['reset-after-create', 'lost', 1],
  ['truncated-after-create', 'lost', 1],
] as const)('a create that meets %s answers %s and makes %i rentals', async (fault, status, created) => {
  const vast = await openDouble();
  vast.knobs.faults.create.push(fault);
  const [offer] = await search(vast, careful);
  const answer = await orLost(call(vast, 'PUT', `/api/v0/asks/${offer?.id ?? 0}/`, secureRecipe));
  expect(answer === 'lost' ? answer : answer.status).toBe(status);
  expect(vast.liveRentals()).toHaveLength(created);
  expect(vast.knobs.faults.create).toEqual([]);
  expect(await rent(vast)).toBeGreaterThan(0);
});

test('a create without an answer may still have made a rental, and one that failed may make it later', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, knobs: { lateCreateMs: 5000 } });
  vast.knobs.faults.create.push('hang-after-create', '503-and-late');
  const [offer, another] = await search(vast, careful);
  const hanging = orLost(call(vast, 'PUT', `/api/v0/asks/${offer?.id ?? 0}/`, secureRecipe));
  await vast.until(() => vast.counters.created === 1);
  expect(await call(vast, 'PUT', `/api/v0/asks/${another?.id ?? 0}/`, secureRecipe)).toMatchObject({
    status: 503,
  });
  expect(vast.liveRentals()).toHaveLength(1);
  clock.advance(5000);
  await vast.until(() => vast.liveRentals().length === 2);
  await vast.stop();
  expect(await hanging).toBe('lost');
});

test('a machine that somebody else takes first is refused, or stored and billed without cancel_unavail', async () => {
  const vast = await openDouble({ knobs: { takenMachines: [33_307] } });
  const [offer] = await search(vast, { machine_id: { eq: 33_307 } });
  expect(await call(vast, 'PUT', `/api/v0/asks/${offer?.id ?? 0}/`, secureRecipe)).toMatchObject({
    status: 410,
    body: { error: 'no_such_ask' },
  });
  expect(await search(vast, { machine_id: { eq: 33_307 } })).toEqual([]);

  vast.knobs.takenMachines = [41_190];
  const id = await rent(vast, { ...secureRecipe, cancel_unavail: false }, 41_190);
  expect(await show(vast, id)).toMatchObject({ intended_status: 'stopped', cur_state: 'stopped' });
});

test.each([
  ['noop', 200, 1],
  ['lying-404', 404, 1],
  ['rate-limit-json', 429, 1],
  ['503', 503, 1],
  ['404-after-destroy', 404, 0],
  ['410-after-destroy', 410, 0],
  ['503-after-destroy', 503, 0],
  ['reset-after-destroy', 'lost', 0],
] as const)('a destroy that meets %s answers %s and leaves %i rentals', async (fault, status, left) => {
  const vast = await openDouble();
  const id = await rent(vast);
  vast.knobs.faults.destroy.push(fault);
  const answer = await orLost(call(vast, 'DELETE', `/api/v0/instances/${id}/`));
  expect(answer === 'lost' ? answer : answer.status).toBe(status);
  expect(vast.liveRentals()).toHaveLength(left);
});

test('what is destroyed is null by id, absent from the list, and 404 when destroyed again', async () => {
  const vast = await openDouble();
  const id = await rent(vast);
  expect(await call(vast, 'DELETE', `/api/v0/instances/${id}`)).toMatchObject({
    status: 200,
    body: { success: true },
  });
  expect(await show(vast, id)).toBeNull();
  expect((await list(vast)).total_instances).toBe(0);
  expect(await call(vast, 'DELETE', `/api/v0/instances/${id}/`)).toMatchObject({ status: 404 });
  vast.knobs.views.unknownId = '404';
  expect(await call(vast, 'GET', `/api/v0/instances/${id}/`)).toMatchObject({
    status: 404,
    body: { error: 'no_such_instance' },
  });
});

test.each([
  ['null-list', { instances: null }],
  ['empty-list', { instances: [], total_instances: 0, next_token: null }],
  ['lost-pages', { total_instances: 2, next_token: null }],
  ['500', { success: false }],
] as const)('a list that meets %s lies as it should', async (fault, body) => {
  const vast = await openDouble();
  await rent(vast);
  vast.knobs.faults.list.push(fault);
  expect((await call(vast, 'GET', '/api/v1/instances/')).body).toMatchObject(body);
});

test('a token loop answers the same token for ever', async () => {
  const vast = await openDouble();
  await rent(vast);
  vast.knobs.faults.list.push('token-loop', 'token-loop');
  const first = await list(vast);
  const second = await list(vast, `?after_token=${encodeURIComponent(first.next_token ?? '')}`);
  expect(first.next_token).not.toBeNull();
  expect(second.next_token).toBe(first.next_token);
});

test.each([
  ['loading-forever', { actual_status: 'loading', intended_status: 'running' }],
  [
    'oci-error',
    { actual_status: 'created', status_msg: expect.stringContaining('OCI runtime create failed') },
  ],
  ['gpu-error', { actual_status: 'created', status_msg: expect.stringContaining('GPU error') }],
  ['exited-at-start', { actual_status: 'exited', intended_status: 'running', cur_state: 'running' }],
  ['no-ports', { actual_status: 'running', ports: {} }],
  ['no-address', { actual_status: 'running', public_ipaddr: null }],
  ['exited', { actual_status: 'exited', intended_status: 'running', cur_state: 'running', ports: {} }],
  ['offline', { actual_status: 'offline', cur_state: 'running' }],
  ['unknown', { actual_status: 'unknown', cur_state: 'running' }],
  [
    'outbid',
    {
      actual_status: 'stopped',
      intended_status: 'stopped',
      cur_state: 'stopped',
      next_state: 'stopped',
      is_bid: true,
    },
  ],
  [
    'contract-ended',
    { actual_status: 'exited', intended_status: 'stopped', cur_state: 'stopped', is_bid: false },
  ],
  ['price-raised', { actual_status: 'running', dph_base: 0.67 }],
] as const)('a rental whose fate is %s shows it', async (fate, shown) => {
  const clock = manualClock();
  const vast = await openDouble({ clock, knobs: { fates: [fate], mishapAfterMs: 1000 } });
  const id = await rent(vast, secureRecipe, 33_307);
  clock.advance(3_600_000);
  expect(await show(vast, id)).toMatchObject(shown);
});

test('a pull that fails says so, and is stopped minutes later while it still loads', async () => {
  const clock = manualClock();
  const vast = await openDouble({
    clock,
    knobs: { fates: ['pull-error'], phases: { ...instantPhases, pullErrorToStoppedMs: 420_000 } },
  });
  const id = await rent(vast);
  clock.advance(1000);
  const failed = await show(vast, id);
  expect(failed).toMatchObject({ actual_status: 'loading', intended_status: 'running' });
  expect(failed?.status_msg).toMatch(/^Error response from daemon: pull access denied.*\n$/);
  clock.advance(420_000);
  expect(await show(vast, id)).toMatchObject({
    actual_status: 'loading',
    intended_status: 'stopped',
    cur_state: 'stopped',
  });
});

test.each([
  ['vastai/comfy:latest', null],
  ['vastai/comfy', null],
  ['vastai/comfy:v9.9.9-cuda-12.9-py312', null],
  ['nobody/comfy:v0.35.0-cuda-12.9-py312', 'pull access denied'],
])('the image %s never runs, with the error %s', async (image, error) => {
  const clock = manualClock();
  const vast = await openDouble({ clock });
  const id = await rent(vast, { ...secureRecipe, image });
  clock.advance(3_600_000);
  const shown = await show(vast, id);
  expect(shown).toMatchObject({ actual_status: 'loading' });
  expect((shown?.status_msg ?? '').includes('denied') ? 'pull access denied' : null).toBe(error);
});

test('the contract of the host ends at its time, whatever the rental does', async () => {
  const clock = manualClock();
  const vast = await openDouble({
    clock,
    offers: [{ gpuName: 'RTX 4090', gpuPricePerHourUsd: 0.3, remainingSeconds: 7200 }],
  });
  const id = await rent(vast);
  clock.advance(7_199_000);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'running', duration: 1 });
  clock.advance(1000);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'exited', intended_status: 'stopped' });
});

test.each([
  ['v0.35.0-cuda-13.2-py312', 33_307, 'v0.35.0-cuda-13.2-py312', true],
  ['v0.35.0-cuda-13.2-py312', 58_212, 'v0.35.0-cuda-13.2-py312', false],
  ['v0.35.0-cuda-12.9-py312', 33_307, 'v0.35.0-cuda-12.9-py312', false],
  ['@vastai-automatic-tag', 33_307, 'v0.7.0-cuda-12.8-py312', false],
])('the tag %s on machine %i runs %s, too new for its driver: %s', async (tag, machineId, runs, isTooNew) => {
  const orders: ComfyUiOrder[] = [];
  const vast = await openDouble({
    startComfyUi: (order) => {
      orders.push(order);
      return startStandIn();
    },
  });
  const id = await rent(vast, { ...secureRecipe, image: `vastai/comfy:${tag}` }, machineId);
  await vast.until(() => vast.state.rentals.get(id)?.installation?.running() !== undefined);
  expect(orders).toMatchObject([{ image: `vastai/comfy:${runs}`, hasCudaMismatch: isTooNew }]);
});

test('a bad machine fails whoever rents it, under whatever offer id', async () => {
  const vast = await openDouble({ knobs: { machineFates: { 12_041: 'gpu-error' } } });
  for (let round = 0; round < 2; round += 1) {
    const id = await rent(vast);
    expect(vast.state.rentals.get(id)?.machine.machineId).toBe(12_041);
    await vast.until(() => vast.state.rentals.get(id)?.statusMessage?.includes('GPU error') === true);
    await call(vast, 'DELETE', `/api/v0/instances/${id}/`);
  }
});

test.each(['loading-forever', 'pull-error', 'gpu-error', 'oci-error', 'exited-at-start'] as const)(
  'a machine that met %s does not come up by a reboot either',
  async (fate) => {
    const clock = manualClock();
    const vast = await openDouble({ clock, knobs: { fates: [fate] } });
    const id = await rent(vast);
    clock.advance(60_000);
    await call(vast, 'PUT', `/api/v0/instances/reboot/${id}/`, {});
    clock.advance(60_000);
    expect((await show(vast, id))?.actual_status).not.toBe('running');
  },
);

test('a rental does not start again after the end of its contract', async () => {
  const clock = manualClock();
  const offers = [{ gpuName: 'RTX 4090', gpuPricePerHourUsd: 0.3, remainingSeconds: 7200 }];
  const vast = await openDouble({ clock, offers });
  const id = await rent(vast);
  clock.advance(7_200_000);
  const start = await call(vast, 'PUT', `/api/v0/instances/${id}/`, { state: 'running' });
  expect(start).toMatchObject({ body: { success: false } });
  clock.advance(3_600_000);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'exited', cur_state: 'stopped' });
});

test('nothing recovers without a container', async () => {
  const vast = await openDouble();
  const id = await rent(vast);
  await vast.until(() => vast.state.rentals.get(id)?.actualStatus === 'running');
  vast.strike(id, 'exited');
  expect(() => vast.strike(id, 'recovered')).toThrow('container runs');
});

test('a host lost and found again: offline, then running', async () => {
  const vast = await openDouble();
  const id = await rent(vast);
  await vast.until(() => vast.state.rentals.get(id)?.actualStatus === 'running');
  vast.strike(id, 'offline');
  expect(await show(vast, id)).toMatchObject({ actual_status: 'offline' });
  vast.strike(id, 'recovered');
  expect(await show(vast, id)).toMatchObject({ actual_status: 'running' });
});

test('the GPU is billed from loading on, the storage from creation to the end, and dearer while stopped', async () => {
  const clock = manualClock();
  const hourMs = 3_600_000;
  const vast = await openDouble({
    clock,
    creditUsd: 10,
    knobs: { phases: { ...instantPhases, createdMs: hourMs, loadingMs: hourMs } },
  });
  const id = await rent(vast, { ...secureRecipe, disk: 72 }, 33_307);
  clock.advance(hourMs);
  expect(vast.bill()).toMatchObject([{ rentalId: id, gpuUsd: 0, storageUsd: expect.closeTo(0.015) }]);
  clock.advance(2 * hourMs);
  expect(vast.bill()[0]?.gpuUsd).toBeCloseTo(2 * 0.335);
  expect(vast.bill()[0]?.storageUsd).toBeCloseTo(3 * 0.015);

  await call(vast, 'PUT', `/api/v0/instances/${id}/`, { state: 'stopped' });
  clock.advance(hourMs);
  expect(vast.bill()[0]?.gpuUsd).toBeCloseTo(2 * 0.335);
  expect(vast.bill()[0]?.storageUsd).toBeCloseTo(4.5 * 0.015);

  await call(vast, 'DELETE', `/api/v0/instances/${id}/`);
  clock.advance(hourMs);
  expect(vast.bill()[0]?.totalUsd).toBeCloseTo(2 * 0.335 + 4.5 * 0.015);
  const user = await call(vast, 'GET', '/api/v0/users/current/');
  expect(user.body).toMatchObject({ credit: expect.closeTo(10 - 2 * 0.335 - 4.5 * 0.015), balance: 0 });
});

test('nothing is billed while the host is offline', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock });
  const id = await rent(vast, secureRecipe, 33_307);
  clock.advance(1000);
  vast.strike(id, 'offline');
  const before = vast.bill()[0]?.totalUsd;
  clock.advance(3_600_000);
  expect(vast.bill()[0]?.totalUsd).toBe(before);
});

test('without credit everything is stopped and nothing more can be rented', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, creditUsd: 0.34 });
  const id = await rent(vast, secureRecipe, 33_307);
  clock.advance(3_600_000);
  expect(await show(vast, id)).toMatchObject({ intended_status: 'stopped', cur_state: 'stopped' });
  const [offer] = await search(vast, careful);
  expect(await call(vast, 'PUT', `/api/v0/asks/${offer?.id ?? 0}/`, secureRecipe)).toMatchObject({
    status: 400,
    body: { error: 'insufficient_credit' },
  });
  vast.state.creditUsd = 5;
  expect(await rent(vast)).toBeGreaterThan(0);
});

test('rate limits are one interval for each endpoint, and a create that comes too early closes it for longer', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, knobs: { rateLimitScale: 1 } });
  const tooEarly = () => call(vast, 'GET', '/api/v1/instances/');
  expect(await tooEarly()).toMatchObject({ status: 200 });
  const forms = [await tooEarly(), await tooEarly(), await tooEarly()];
  expect(forms.map((answer) => answer.status)).toEqual([429, 429, 429]);
  expect(new Set(forms.map((answer) => answer.text)).size).toBe(3);
  expect(forms[0]?.body).toEqual({ detail: 'API requests too frequent endpoint threshold=1.0' });
  clock.advance(1000);
  expect(await tooEarly()).toMatchObject({ status: 200 });

  const create = () => call(vast, 'PUT', '/api/v0/asks/1/', secureRecipe);
  expect(await create()).toMatchObject({ status: 404 });
  expect(await create()).toMatchObject({ status: 429 });
  clock.advance(4600);
  expect(await create()).toMatchObject({ status: 429 });
  clock.advance(12_000);
  expect(await create()).toMatchObject({ status: 404 });

  const destroy = () => call(vast, 'DELETE', '/api/v0/instances/1/');
  await destroy();
  expect(await destroy()).toMatchObject({ status: 429, body: { error: 'rate_limit_exceeded' } });
  for (let count = 0; count < 10; count += 1) await search(vast);
  expect(await call(vast, 'POST', '/api/v0/bundles/', {})).toMatchObject({ status: 429 });
  expect(vast.counters.rateLimited).toBe(7);
});

test('logs are uploaded a moment later, need no key, and contain the credentials', async () => {
  const vast = await openDouble();
  const id = await rent(vast);
  await vast.until(() => vast.state.rentals.get(id)?.actualStatus === 'running');
  const asked = await call(vast, 'PUT', `/api/v0/instances/request_logs/${id}/`, { tail: '50' });
  const url = z.object({ result_url: z.string() }).parse(asked.body).result_url.slice(vast.url.length);
  const fetchLog = () => call(vast, 'GET', url, undefined, null);
  expect(await call(vast, 'GET', url)).toMatchObject({ status: 400 });
  expect(vast.counters.keysToLogStore).toBe(1);
  expect((await fetchLog()).status).toBe(404);
  expect((await fetchLog()).status).toBe(404);
  const log = await fetchLog();
  expect(log).toMatchObject({ status: 200 });
  expect(log.text).toContain(`(Authorization: Bearer ${password})`);
  expect(await call(vast, 'PUT', '/api/v0/instances/request_logs/1/', {})).toMatchObject({
    status: 404,
    body: { error: 'invalid_id' },
  });
});

test('a rental can be renamed, stopped and started; a start without a free GPU is queued and costs later', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, knobs: { phases: { ...instantPhases, queuedStartMs: 60_000 } } });
  const id = await rent(vast);
  const manage = (body: object) => call(vast, 'PUT', `/api/v0/instances/${id}/`, body);
  clock.advance(1000);
  expect(await manage({ label: 'renamed' })).toMatchObject({ status: 200, body: { success: true } });
  expect(await manage({ label: 'x'.repeat(1025) })).toMatchObject({
    status: 400,
    body: { error: 'label_too_long' },
  });
  await manage({ state: 'stopped' });
  expect(await show(vast, id)).toMatchObject({
    label: 'renamed',
    actual_status: 'exited',
    intended_status: 'stopped',
    status_msg: expect.stringContaining('success, running'),
  });
  vast.knobs.gpuTakenOnStart = true;
  expect(await manage({ state: 'running' })).toMatchObject({ status: 200, body: { success: false } });
  expect(await show(vast, id)).toMatchObject({
    actual_status: 'exited',
    intended_status: 'running',
    cur_state: 'stopped',
  });
  const before = vast.bill()[0]?.gpuUsd ?? 0;
  clock.advance(60_000);
  await vast.until(() => vast.state.rentals.get(id)?.currentState === 'running');
  await vast.until(() => vast.state.rentals.get(id)?.actualStatus === 'loading');
  clock.advance(60_000);
  expect(vast.bill()[0]?.gpuUsd).toBeGreaterThan(before);
});

test('the same seed draws the same faults', async () => {
  const drawn = async (seed: number) => {
    const vast = await openDouble({
      seed,
      knobs: {
        faultChances: {
          user: [
            { fault: '503', chance: 0.3 },
            { fault: '500', chance: 0.3 },
          ],
        },
      },
    });
    const statuses: number[] = [];
    for (let count = 0; count < 12; count += 1) {
      statuses.push((await call(vast, 'GET', '/api/v0/users/current/')).status);
    }
    return statuses;
  };
  const first = await drawn(7);
  expect(await drawn(7)).toEqual(first);
  expect(await drawn(8)).not.toEqual(first);
  expect(new Set(first)).toEqual(new Set([200, 500, 503]));
});

async function orLost(answer: Promise<Answer>): Promise<Answer | 'lost'> {
  return answer.catch(() => 'lost' as const);
}
