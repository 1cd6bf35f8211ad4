// Making a thing once for each idempotency key, however often, wherever and at however many replicas the request is made.
import { sql, type Kysely, type Transaction } from 'kysely';
import type { Config } from '../config.ts';
import { ServiceError } from '../errors.ts';
import type { Clock } from '../support/clock.ts';
import type { Tables } from './tables.ts';

export interface IdempotencyKey {
  /** Name of the caller's API key, empty without one: callers never meet under the same key. */
  apiKey: string;
  /** Such as `POST /jobs`. */
  route: string;
  key: string;
  /** Of what is asked for. */
  fingerprint: string;
}

export interface OnceDeps {
  db: Kysely<Tables>;
  config: Pick<Config, 'IDEMPOTENCY_HOURS'>;
  clock: Clock;
}

/** How a thing is made: checked outside of the transaction, written inside of it. */
export interface Making<T> {
  check(): Promise<T>;
  /** Returns the id of what it has made. */
  write(trx: Transaction<Tables>, checked: T): Promise<string>;
}

export interface Made {
  id: string;
  /** It was made before, under the same key; nothing was made now. */
  replayed: boolean;
}

/**
 * Makes a thing, and in the same transaction writes down its key; without a key the request may not be repeated. Where the key has made something already, tells what; nothing is
 * checked then, because what was right at that time may be wrong by now. A request that fails leaves nothing. Rejects with
 * `idempotency_key_reused` where the key came with another fingerprint, with `idempotency_in_flight` while another request with it
 * is being written, and with what `check` and `write` reject with.
 */
export async function makeOnce<T>(
  deps: OnceDeps,
  key: IdempotencyKey | null,
  making: Making<T>,
): Promise<Made> {
  const { db, clock } = deps;
  const before = key === null ? null : await findMade(db, key, clock.now());
  if (before !== null) return { id: before, replayed: true };
  const checked = await making.check();
  return db.transaction().execute(async (trx) => {
    const meanwhile = key === null ? null : await claim(trx, key, clock.now());
    if (meanwhile !== null) return { id: meanwhile, replayed: true };
    const id = await making.write(trx, checked);
    if (key !== null) await remember(trx, key, id, deps);
    return { id, replayed: false };
  });
}

/** Forgets keys that were kept long enough. */
export async function forgetKeys(db: Kysely<Tables>, now: Date): Promise<void> {
  await db.deleteFrom('idempotency_keys').where('expires_at', '<=', now).execute();
}

async function findMade(
  executor: Kysely<Tables>,
  { apiKey, route, key, fingerprint }: IdempotencyKey,
  now: Date,
): Promise<string | null> {
  const row = await executor
    .selectFrom('idempotency_keys')
    .select(['fingerprint', 'made_id'])
    .where('api_key', '=', apiKey)
    .where('route', '=', route)
    .where('key', '=', key)
    .where('expires_at', '>', now)
    .executeTakeFirst();
  if (row === undefined) return null;
  if (row.fingerprint === fingerprint) return row.made_id;
  throw new ServiceError(
    'idempotency_key_reused',
    'This Idempotency-Key came before with another body. Take a new key for a new request.',
    { field: 'idempotency-key' },
  );
}

/**
 * Takes the key until the transaction ends: the mark of a request in flight is a lock of its connection, which goes with its process.
 * Then looks again, since another request may have been first. The lock is of a hash; two keys that share one can only meet a
 * needless `idempotency_in_flight`.
 */
async function claim(trx: Transaction<Tables>, key: IdempotencyKey, now: Date): Promise<string | null> {
  const name = JSON.stringify([key.apiKey, key.route, key.key]);
  const { rows } = await sql<{
    taken: boolean;
  }>`select pg_try_advisory_xact_lock(hashtextextended(${name}, 0)) as taken`.execute(trx);
  if (rows[0]?.taken === true) return findMade(trx, key, now);
  throw inFlight();
}

/** Over what the key made before it expired, and over nothing else. */
async function remember(
  trx: Transaction<Tables>,
  { apiKey, route, key, fingerprint }: IdempotencyKey,
  id: string,
  { config, clock }: OnceDeps,
): Promise<void> {
  const now = clock.now();
  const made = {
    fingerprint,
    made_id: id,
    created_at: now,
    expires_at: new Date(now.getTime() + config.IDEMPOTENCY_HOURS * 3_600_000),
  };
  const written = await trx
    .insertInto('idempotency_keys')
    .values({ api_key: apiKey, route, key, ...made })
    .onConflict((conflict) =>
      conflict
        .columns(['api_key', 'route', 'key'])
        .doUpdateSet(made)
        .where('idempotency_keys.expires_at', '<=', now),
    )
    .executeTakeFirst();
  if (written.numInsertedOrUpdatedRows !== 1n) throw inFlight();
}

function inFlight(): ServiceError {
  return new ServiceError(
    'idempotency_in_flight',
    'The first request with this Idempotency-Key is still under way. Repeat it in a moment.',
    { field: 'idempotency-key', extra: { retryAfterSeconds: 1 } },
  );
}
