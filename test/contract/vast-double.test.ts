// The calls of the vast.ai double's API are answered as the reference says vast.ai's are.
import { expect, test } from 'vitest';
import { z } from 'zod';
import { manualClock } from '../doubles/vast/index.ts';
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
