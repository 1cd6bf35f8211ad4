// The ledger's arithmetic against the bill of the double, over days that pass at once on its clock.
import { pino } from 'pino';
import { afterEach, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { daysOf } from '../../src/fleet/ledger.ts';
import { priceChange, usdOf, type BilledRental } from '../../src/instances/cost.ts';
import type { Provider } from '../../src/instances/provider.ts';
import { completeRequirements, requirementsSchema } from '../../src/instances/requirements.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { instantPhases, manualClock, startVastDouble, type VastDouble } from '../doubles/vast/index.ts';

const HOUR_MS = 3_600_000;
const clock = manualClock(Date.UTC(2026, 0, 30, 13, 7, 11));
const now = () => new Date(clock.now());

let vast: VastDouble;
let provider: Provider & { close(): Promise<void> };

afterEach(async () => {
  await provider.close();
  await vast.stop();
});

async function pricePerHourUsd(id: string): Promise<number> {
  const view = await provider.describe(id);
  if (view.kind === 'absent' || view.instance.pricePerHourUsd === null) throw new Error('It has no price.');
  return view.instance.pricePerHourUsd;
}

it('is the bill to the cent, by part, through a rise of the price and the end of a month', async () => {
  vast = await startVastDouble({
    knobs: { phases: instantPhases },
    clock,
    creditUsd: 10_000,
    offers: [
      {
        gpuName: 'RTX 4090',
        gpuPricePerHourUsd: 0.317,
        storagePricePerGbMonthUsd: 0.213,
        downloadMbps: 1500,
        reliability: 0.99,
        remainingSeconds: 30 * 86_400,
      },
    ],
  });
  const env = { VASTAI_API_KEY: vast.apiKey, VAST_API_URL: vast.url, VAST_PACING: 'none' };
  provider = createVastProvider({ config: loadConfig(env), log: pino({ level: 'silent' }) });
  const wanted = completeRequirements(requirementsSchema.parse({}), { diskGb: 80, maxPricePerHourUsd: 1 });
  const [offer] = (await provider.searchOffers(wanted)).offers;
  if (offer === undefined) throw new Error('The double has no offer.');

  const created = now();
  const launch = { offer, label: 'cfy.test.bill', secret: 'x'.repeat(43), diskGb: 80, deadMan: null };
  const { providerInstanceId: id } = await provider.launch(launch);
  clock.advance(1);
  let rental: BilledRental = {
    status: 'active',
    offer,
    price_per_hour_usd: offer.pricePerHourUsd,
    past_prices: [],
    create_sent_at: created,
    confirmed_at: created,
    gone_at: null,
  };
  expect(priceChange(rental, await pricePerHourUsd(id), now())).toBeNull();

  clock.advance(31 * HOUR_MS);
  vast.strike(Number(id), 'price-raised');
  const change = priceChange(rental, await pricePerHourUsd(id), now());
  if (change === null) throw new Error('The price was not raised.');
  rental = { ...rental, ...change, past_prices: JSON.parse(change.past_prices) };
  clock.advance(47.3 * HOUR_MS);
  await provider.terminate(id);
  rental = { ...rental, status: 'gone', gone_at: now() };
  clock.advance(24 * HOUR_MS);

  const days = daysOf(rental, new Map(), now());
  expect(days.map(({ day }) => day)).toEqual(['2026-01-30', '2026-01-31', '2026-02-01', '2026-02-02']);
  const [bill] = vast.bill();
  const gpuUsd = usdOf(days.reduce((sum, { gpuMicros }) => sum + gpuMicros, 0));
  const storageUsd = usdOf(days.reduce((sum, { storageMicros }) => sum + storageMicros, 0));
  expect(gpuUsd).toBeGreaterThan(35);
  expect(Math.abs(gpuUsd - (bill?.gpuUsd ?? 0))).toBeLessThan(0.005);
  expect(Math.abs(storageUsd - (bill?.storageUsd ?? 0))).toBeLessThan(0.005);
});
