// What the vast.ai double lets out, and to whom: offers as the reference says vast.ai has them.
import { expect, test } from 'vitest';
import { defaultOffers, manualClock } from '../doubles/vast/index.ts';
import { call, careful, openDouble, rent, search, secureRecipe } from './vast-double-client.ts';

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
