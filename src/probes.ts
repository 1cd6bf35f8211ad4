// What `/health` asks of each part. Nothing it says names a host or a secret: anybody may read it.
import type { Kysely } from 'kysely';
import type { AssetStore } from './assets/store.ts';
import type { Database } from './database/database.ts';
import type { Queues } from './database/queues.ts';
import type { Tables } from './database/tables.ts';
import type { PartHealth, Probes } from './http/health.ts';
import { ProviderError, type Provider } from './instances/provider.ts';

/** The provider is asked once in a while, however often `/health` is. */
const PROVIDER_CACHE_MS = 60_000;

interface Parts {
  database: Pick<Database, 'check'>;
  queues: Queues;
  provider: Provider | null;
  store: AssetStore;
  db: Kysely<Tables>;
}

export function healthProbes({ database, queues, provider, store, db }: Parts): Probes {
  return {
    async database() {
      await database.check();
      return { status: 'ok', detail: 'The database answers.' };
    },
    async queues() {
      const { ok, depth } = await queues.health();
      const waiting = Object.entries(depth).map(([name, count]) => `${name} ${count}`);
      const detail = waiting.length === 0 ? 'Nothing waits.' : `Messages: ${waiting.join(', ')}.`;
      return { status: ok ? 'ok' : 'unavailable', detail };
    },
    provider:
      provider === null
        ? () => unrentable(db)
        : cached(PROVIDER_CACHE_MS, (signal) => askProvider(provider, signal)),
    async files() {
      await store.check();
      return { status: 'ok', detail: 'Files can be stored.' };
    },
  };
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
