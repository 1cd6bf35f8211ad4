// The bill against the limits: two services rent as much as they may, hosts raise their prices, and no machine can be destroyed
// for an hour. An hour lasts some seconds only, because prices are that much higher: then all clocks agree, the double's and ours.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { startVastDouble, type OfferSpec, type VastDouble } from '../doubles/vast/index.ts';
import type { Random } from '../doubles/vast/random.ts';
import { createTestDatabase } from '../support/database.ts';
import { clientOf, patiently, type Client } from './client.ts';
import { newDataFolder } from './folders.ts';
import { intervalCostUsd, moneyViolations, usd, watchMoney, type MoneyLimits } from './money-invariants.ts';
import type { ChaosOptions, Outcome, Scenario } from './scenario.ts';
import { serviceProcess, type ServiceProcess } from './service-process.ts';

export const money: Scenario = {
  name: 'money',
  about: 'compares the bill with the limits while prices rise and no machine can be destroyed for an hour',
  run,
};

interface Times {
  /** What stands for an hour. */
  hourSeconds: number;
  lifetimeSeconds: number;
}

/** Prices of offers, as if an hour were an hour. */
const CHEAPEST_USD = 0.5;
const DEAREST_USD = 0.6;
const STORAGE_USD_PER_GB_MONTH = 0.1;
/** Machines of the dearest kind whose worst case a day has room for, and whose price the total has. */
const ROOM_IN_A_DAY = 3.2;
const ROOM_AT_ONCE = 4;
/** Half of all hosts double their price a moment after the start. */
const RAISING_SHARE = 0.5;
const RAISED_AFTER_MS = 2_000;
const BURST = 20;
const RECOVERY_LIMIT_MS = 90_000;

async function run({ random, seed, full, folder, stack }: ChaosOptions): Promise<Outcome> {
  const times = full
    ? { hourSeconds: 300, lifetimeSeconds: 600 }
    : // No shorter life can be set.
      { hourSeconds: 15, lifetimeSeconds: 36 };
  const limits = limitsFor(times);
  const vast = await startDearVast(seed, random, times);
  stack.defer(() => vast.stop());
  const { database, url, stop } = await createTestDatabase();
  stack.defer(stop);
  const settings = { ...settingsFor(times, limits), DATABASE_URL: url, VASTAI_API_KEY: vast.apiKey };
  const env = { ...settings, VAST_API_URL: vast.url, DATA_DIR: await newDataFolder(folder, stack) };
  const services = ['one', 'two'].map((name) =>
    serviceProcess(name, { env, logFile: join(folder, `${name}.log`) }),
  );
  for (const service of services) stack.defer(() => service.stop());
  for (const service of services) service.start();
  await Promise.all(services.map((service) => service.up()));

  const client = clientOf(services);
  const watch = watchMoney(vast);
  stack.defer(() => watch.stop());
  const pressure = press(client);
  stack.defer(async () => void (await pressure.stop()));
  // The hour begins with the first destroy that does nothing.
  await vast.until(() => vast.counters.calls.destroy > 0, (times.lifetimeSeconds + 60) * 1000);
  await sleep(times.hourSeconds * 1000);
  vast.knobs.faultChances = {};
  const refused = await pressure.stop();
  const unended = await endAll(client, vast);
  watch.stop();

  const { rows } = await sql<{
    usd: number;
  }>`select coalesce(sum(gpu_micros + storage_micros), 0)::float8 / 1e6 as usd from rental_costs`.execute(
    database.db,
  );
  const booksUsd = rows[0]?.usd ?? 0;
  const dearestPerSecondUsd = DEAREST_USD / times.hourSeconds;
  return {
    figures: {
      'seconds that stand for an hour': times.hourSeconds,
      'machines rented': vast.counters.created,
      'most machines at once': watch.seen.machines,
      'requests refused for a limit': refused,
      'limit of the day in USD': usd(limits.perDayUsd),
      "the double's bill in USD": usd(watch.seen.billUsd),
      "the service's books in USD": usd(booksUsd),
      // They run from the sending of the create until the machine is seen to be gone.
      'seconds of one machine that the books have more': (
        (booksUsd - watch.seen.billUsd) /
        vast.counters.created /
        dearestPerSecondUsd
      ).toFixed(2),
      'cost of one interval in USD': usd(intervalCostUsd(watch.seen)),
    },
    violations: [
      ...accidentsOf(services),
      ...unended,
      ...moneyViolations(watch.seen, limits),
      ...(refused === 0 ? ['nothing was refused, so no limit was reached'] : []),
    ],
  };
}

function limitsFor({ hourSeconds, lifetimeSeconds }: Times): MoneyLimits {
  const dearestPerSecondUsd = DEAREST_USD / hourSeconds;
  return {
    perDayUsd: ROOM_IN_A_DAY * dearestPerSecondUsd * (lifetimeSeconds + hourSeconds),
    totalPricePerHourUsd: ROOM_AT_ONCE * dearestPerSecondUsd * 3600,
  };
}

function settingsFor(
  { hourSeconds, lifetimeSeconds }: Times,
  { perDayUsd, totalPricePerHourUsd }: MoneyLimits,
): Record<string, string> {
  return {
    MAX_INSTANCES: '50',
    MAX_PRICE_PER_HOUR_USD: String((DEAREST_USD / hourSeconds) * 3600),
    MAX_TOTAL_PRICE_PER_HOUR_USD: String(totalPricePerHourUsd),
    MAX_SPEND_PER_DAY_USD: String(perDayUsd),
    INSTANCE_MAX_LIFETIME_HOURS: String(lifetimeSeconds / 3600),
    DESTROY_RESERVE_HOURS: String(hourSeconds / 3600),
    DRAIN_LIMIT_MINUTES: '0',
    FLEET_MAX: '0',
    INSTANCE_IDLE_MINUTES: '0',
    VAST_PACING: 'none',
    INSTANCE_POLL_SECONDS: '0.2',
    INSTANCE_CHECK_SECONDS: '0.5',
    RENT_SETTLE_SECONDS: '3',
    DATABASE_POOL_SIZE: '8',
  };
}

async function startDearVast(seed: number, random: Random, { hourSeconds }: Times): Promise<VastDouble> {
  const scale = 3600 / hourSeconds;
  const offers = Array.from({ length: 40 }, (_, at): OfferSpec => {
    const priceUsd = CHEAPEST_USD + (DEAREST_USD - CHEAPEST_USD - 0.02) * random.fraction();
    return {
      gpuName: 'RTX 4090',
      machineId: 2_000 + at,
      gpuPricePerHourUsd: priceUsd * scale,
      storagePricePerGbMonthUsd: STORAGE_USD_PER_GB_MONTH * scale,
      downloadPricePerGbUsd: 0,
      uploadPricePerGbUsd: 0,
      vramMb: 24_564,
      cudaVersion: 12.9,
      downloadMbps: 1_000,
    };
  });
  return startVastDouble({
    seed,
    offers,
    creditUsd: 1_000_000,
    knobs: {
      phases: {
        scheduledMs: 20,
        createdMs: 20,
        loadingMs: 200,
        portsLateMs: 20,
        bootMs: 20,
        provisioningMs: 100,
      },
      fates: offers.map(() => (random.fraction() < RAISING_SHARE ? 'price-raised' : 'healthy')),
      mishapAfterMs: RAISED_AFTER_MS,
      faultChances: {
        destroy: [
          { fault: 'noop', chance: 0.6 },
          { fault: 'lying-404', chance: 0.4 },
        ],
      },
    },
  });
}

/** Asks for more than there may be, first all at once, then without an end. `stop` tells how often a limit was the answer. */
function press(client: Client): { stop(): Promise<number> } {
  const stopping = new AbortController();
  let refused = 0;

  async function ask(): Promise<void> {
    try {
      await client.call('/instances', { method: 'POST', json: {} });
    } catch (error) {
      if (error instanceof Error && error.message.includes('answered 402')) refused += 1;
    }
  }
  async function goOn(): Promise<void> {
    await Promise.all(Array.from({ length: BURST }, ask));
    while (!stopping.signal.aborted) {
      await Promise.all([ask(), ask()]);
      await sleep(500);
    }
  }

  const done = goOn();
  return {
    async stop() {
      stopping.abort();
      await done;
      return refused;
    },
  };
}

async function endAll(client: Client, vast: VastDouble): Promise<string[]> {
  try {
    await patiently('every machine is destroyed', RECOVERY_LIMIT_MS, async () => {
      const { items } = await client.call<{ items: { id: string; status: string }[] }>(
        '/instances?limit=100',
      );
      const left = items.filter(({ status }) => status !== 'terminated');
      for (const { id } of left) await client.call(`/instances/${id}`, { method: 'DELETE' });
      return left.length === 0 && vast.liveRentals().length === 0 ? true : undefined;
    });
    return [];
  } catch (error) {
    return [`unended: ${error instanceof Error ? error.message : String(error)}`];
  }
}

function accidentsOf(services: readonly ServiceProcess[]): string[] {
  return services.flatMap(({ accidents }) => [...accidents]);
}
