// What `/health` asks of each part. Nothing it says names a host or a secret: anybody may read it.
import type { Kysely } from 'kysely';
import type { AssetStore } from './assets/store.ts';
import type { Config } from './config.ts';
import type { Database } from './database/database.ts';
import type { Queues } from './database/queues.ts';
import type { Tables } from './database/tables.ts';
import { isLow, readCredit, totalPricePerHourUsd } from './fleet/credit.ts';
import type { PartHealth, Probes } from './http/health.ts';
import { rentalAlarms } from './instances/alarms.ts';
import { ProviderError, type Provider } from './instances/provider.ts';
import type { Upkeep } from './support/upkeep.ts';

/** The provider is asked once in a while, however often `/health` is. */
const PROVIDER_CACHE_MS = 60_000;

interface Parts {
  database: Pick<Database, 'check'>;
  queues: Queues;
  upkeep: Upkeep;
  provider: Provider | null;
  store: AssetStore;
  db: Kysely<Tables>;
  config: Pick<Config, 'CREDIT_RESERVE_HOURS'>;
}

export function healthProbes({ database, queues, upkeep, provider, store, db, config }: Parts): Probes {
  return {
    async database() {
      await database.check();
      return { status: 'ok', detail: 'The database answers.' };
    },
    async queues() {
      const { ok, failing, depth } = await queues.health();
      const waiting = Object.entries(depth).map(([name, count]) => `${name} ${count}`);
      const detail = waiting.length === 0 ? 'Nothing waits.' : `Messages: ${waiting.join(', ')}.`;
      if (!ok) return { status: 'unavailable', detail };
      if (failing.length === 0) return { status: 'ok', detail };
      return { status: 'degraded', detail: `What fails is tried again: ${failing.join(', ')}. ${detail}` };
    },
    upkeep: async () => upkeepHealth(upkeep),
    provider:
      provider === null
        ? () => unrentable(db)
        : cached(PROVIDER_CACHE_MS, (signal) => askProvider(provider, signal)),
    rentals: () => rentalHealth(db),
    credit: () => creditHealth(db, config.CREDIT_RESERVE_HOURS),
    async files() {
      await store.check();
      return { status: 'ok', detail: 'Files can be stored.' };
    },
  };
}

/** What is done again and again, and hidden from whoever looks at single requests. */
function upkeepHealth(upkeep: Upkeep): PartHealth {
  const failing = upkeep.failing();
  if (failing.length === 0) return { status: 'ok', detail: 'Things are kept in order.' };
  return {
    status: 'degraded',
    detail: `Fails again and again: ${failing.join(', ')}. The log says why, under the name of the part.`,
  };
}

/** How long the credit lasts, without its amount: anybody may read it. */
async function creditHealth(db: Kysely<Tables>, reserveHours: number): Promise<PartHealth> {
  const credit = await readCredit(db);
  if (credit?.creditUsd == null) return { status: 'off', detail: 'No credit is known.' };
  const pricePerHourUsd = await totalPricePerHourUsd(db);
  if (!isLow(credit.creditUsd, pricePerHourUsd, reserveHours)) {
    return { status: 'ok', detail: 'There is enough credit for what is rented.' };
  }
  return {
    status: 'degraded',
    detail: `The credit at vast.ai is used up, or lasts for less than ${reserveHours} hours of what is rented. Nothing more is rented.`,
  };
}

/** Machines that bill although nobody wants them. The tries to end them go on; somebody should look at the provider's console. */
async function rentalHealth(db: Kysely<Tables>): Promise<PartHealth> {
  const { stuck, orphans } = await rentalAlarms(db);
  const alarms = [
    ...(stuck > 0 ? [`${stuck} rentals cannot be destroyed and still bill.`] : []),
    ...(orphans > 0 ? [`${orphans} rentals with the label of this deployment are without a record.`] : []),
  ];
  if (alarms.length > 0) return { status: 'degraded', detail: alarms.join(' ') };
  return { status: 'ok', detail: 'Every known rental is in use or ends as it should.' };
}

/** Without a key nothing is rented. That is fine, unless machines from before are still there. */
async function unrentable(db: Kysely<Tables>): Promise<PartHealth> {
  const { count } = await db
    .selectFrom('rentals')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .where('status', 'in', ['creating', 'active', 'destroying'])
    .executeTakeFirstOrThrow();
  if (count === 0) return { status: 'off', detail: 'No provider is set up to rent from.' };
  return {
    status: 'degraded',
    detail: `${count} rentals may still bill, and no VASTAI_API_KEY is set to end them.`,
  };
}

async function askProvider(provider: Provider, signal: AbortSignal): Promise<PartHealth> {
  try {
    await provider.account(signal);
    return { status: 'ok', detail: 'vast.ai answers and accepts the key.' };
  } catch (error) {
    if (error instanceof ProviderError && error.kind === 'unauthorized') {
      return { status: 'degraded', detail: 'vast.ai does not accept the key.' };
    }
    return { status: 'degraded', detail: 'vast.ai gives no usable answer.' };
  }
}

function cached(
  ms: number,
  ask: (signal: AbortSignal) => Promise<PartHealth>,
): (signal: AbortSignal) => Promise<PartHealth> {
  let latest: { health: PartHealth; at: number } | undefined;
  return async (signal) => {
    if (latest === undefined || performance.now() - latest.at >= ms || latest.health.status !== 'ok') {
      latest = { health: await ask(signal), at: performance.now() };
    }
    return latest.health;
  };
}
