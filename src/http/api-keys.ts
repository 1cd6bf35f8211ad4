// API keys: who may call. The database holds their hashes only.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { sql, type Kysely } from 'kysely';
import { v7 as uuid } from 'uuid';
import { apiKeyNamePattern } from '../config.ts';
import type { Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';

interface ApiKeyInfo {
  name: string;
  /** `settings`: from API_KEYS; `command`: made by the command line. */
  origin: 'settings' | 'command';
  createdAt: Date;
  revokedAt: Date | null;
}

export interface ApiKeys {
  /** The name of the key, or null where it is unknown or revoked. */
  verify(key: string): Promise<string | null>;
  /** Whether there is any key at all. */
  any(): Promise<boolean>;
  /** Makes a key. It is shown this once; only its hash is kept. */
  create(name: string): Promise<{ key: string }>;
  /** Every key that ever was, by name. */
  list(): Promise<ApiKeyInfo[]>;
  /** Ends a key that was made by command. Replicas heed it within the few seconds of their cache. */
  revoke(name: string): Promise<void>;
  /** Makes the keys of the settings exist, and revokes those of the settings that are gone. */
  adoptSettings(keys: { name: string; key: string }[]): Promise<void>;
}

interface KnownKey {
  name: string;
  hash: Buffer;
}

/** API keys in the database, remembered for `cacheMs` so that a request costs no query. A new or revoked key shows in other processes after that long. */
export function createApiKeys(db: Kysely<Tables>, { cacheMs = 5000 } = {}): ApiKeys {
  let cached: { keys: KnownKey[]; loadedAt: number } | undefined;
  let loading: Promise<KnownKey[]> | undefined;

  async function knownKeys(): Promise<KnownKey[]> {
    if (cached !== undefined && performance.now() - cached.loadedAt < cacheMs) return cached.keys;
    loading ??= load();
    return loading;
  }

  /** One query for all who wait. One that `forget` overtook does not become the cache. */
  function load(): Promise<KnownKey[]> {
    const current = selectKnownKeys(db).then(
      (keys) => {
        if (loading === current) {
          cached = { keys, loadedAt: performance.now() };
          loading = undefined;
        }
        return keys;
      },
      (error: unknown) => {
        if (loading === current) loading = undefined;
        throw error;
      },
    );
    return current;
  }

  function forget(): void {
    cached = undefined;
    loading = undefined;
  }

  return {
    async verify(key) {
      return nameOf(hashOf(key), await knownKeys());
    },
    async any() {
      return (await knownKeys()).length > 0;
    },
    async create(name) {
      const key = generateKey();
      await insertCreated(db, name, key);
      forget();
      return { key };
    },
    list: () => selectInfos(db),
    async revoke(name) {
      await revokeCreated(db, name);
      forget();
    },
    async adoptSettings(keys) {
      await db.transaction().execute((transaction) => adopt(transaction, keys));
      forget();
    },
  };
}

/** 256 random bits; the prefix lets a secret scanner recognise a leaked one. */
function generateKey(): string {
  return `cfy_${randomBytes(32).toString('base64url')}`;
}

/** SHA-256 and not a slow password hash: a key is long and random, so nobody can try them all, and every request pays for the hash. */
function hashOf(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}

/** Compares with every key, in constant time, so that the time tells nothing about which is close. */
function nameOf(hash: Buffer, keys: KnownKey[]): string | null {
  let name: string | null = null;
  for (const known of keys) {
    if (timingSafeEqual(known.hash, hash)) name = known.name;
  }
  return name;
}

async function selectKnownKeys(db: Kysely<Tables>): Promise<KnownKey[]> {
  const rows = await db
    .selectFrom('api_keys')
    .select(['name', 'hash'])
    .where('revoked_at', 'is', null)
    .execute();
  return rows.map(({ name, hash }) => ({ name, hash: Buffer.from(hash, 'hex') }));
}

async function selectInfos(db: Kysely<Tables>): Promise<ApiKeyInfo[]> {
  const rows = await db
    .selectFrom('api_keys')
    .select(['name', 'origin', 'created_at as createdAt', 'revoked_at as revokedAt'])
    .orderBy('name')
    .execute();
  return rows;
}

async function insertCreated(db: Kysely<Tables>, name: string, key: string): Promise<void> {
  if (!apiKeyNamePattern.test(name)) {
    throw new ServiceError('invalid_request', 'A name has 1 to 64 letters, digits, _ . or -.', {
      field: 'name',
    });
  }
  const hash = hashOf(key).toString('hex');
  const inserted = await db
    .insertInto('api_keys')
    .values({ id: uuid(), name, hash, origin: 'command' })
    .onConflict((conflict) =>
      conflict
        .column('name')
        .doUpdateSet({ hash, origin: 'command', created_at: sql<Date>`now()`, revoked_at: null })
        .where('api_keys.revoked_at', 'is not', null),
    )
    .returning('id')
    .executeTakeFirst();
  if (inserted === undefined) {
    throw new ServiceError(
      'conflict',
      `There is an API key named ${name} already. Revoke it first, or choose another name.`,
    );
  }
}

async function revokeCreated(db: Kysely<Tables>, name: string): Promise<void> {
  const row = await db
    .selectFrom('api_keys')
    .select('origin')
    .where('name', '=', name)
    .where('revoked_at', 'is', null)
    .executeTakeFirst();
  if (row === undefined) throw new ServiceError('not_found', `There is no active API key named ${name}.`);
  if (row.origin === 'settings') {
    throw new ServiceError(
      'conflict',
      `The API key ${name} comes from API_KEYS. Remove it there and restart the service.`,
    );
  }
  await db
    .updateTable('api_keys')
    .set({ revoked_at: sql<Date>`now()` })
    .where('name', '=', name)
    .where('origin', '=', 'command')
    .where('revoked_at', 'is', null)
    .execute();
}

/** Replicas that start together adopt one after the other, because of the lock. */
async function adopt(db: Kysely<Tables>, keys: { name: string; key: string }[]): Promise<void> {
  await sql`lock table api_keys in share row exclusive mode`.execute(db);
  const wanted = keys.map(({ name, key }) => ({ name, hash: hashOf(key).toString('hex') }));
  await refuseClashes(db, wanted);
  const names = wanted.map(({ name }) => name);
  const hashes = wanted.map(({ hash }) => hash);
  await db
    .updateTable('api_keys')
    .set({ revoked_at: sql<Date>`now()` })
    .where('origin', '=', 'settings')
    .where('revoked_at', 'is', null)
    .$if(names.length > 0, (query) => query.where('name', 'not in', names))
    .execute();
  if (wanted.length === 0) return;
  // A key that is kept under a new name: the old row would hold on to its hash.
  await db
    .deleteFrom('api_keys')
    .where('hash', 'in', hashes)
    .where((row) => row.or([row('origin', '=', 'settings'), row('revoked_at', 'is not', null)]))
    .where(
      sql<boolean>`(name, hash) not in (${sql.join(wanted.map(({ name, hash }) => sql`(${name}, ${hash})`))})`,
    )
    .execute();
  await db
    .insertInto('api_keys')
    .values(wanted.map(({ name, hash }) => ({ id: uuid(), name, hash, origin: 'settings' as const })))
    .onConflict((conflict) =>
      conflict.column('name').doUpdateSet((row) => ({
        hash: row.ref('excluded.hash'),
        origin: 'settings',
        revoked_at: null,
      })),
    )
    .execute();
}

/** A key of the settings must not take over a name or a key that the command line gave out. */
async function refuseClashes(db: Kysely<Tables>, wanted: { name: string; hash: string }[]): Promise<void> {
  const created = await db
    .selectFrom('api_keys')
    .select(['name', 'hash'])
    .where('origin', '=', 'command')
    .where('revoked_at', 'is', null)
    .execute();
  const owners = new Map(created.map(({ name, hash }) => [hash, name]));
  const names = new Set(owners.values());
  for (const { name, hash } of wanted) {
    const owner = owners.get(hash);
    if (owner !== undefined) throw clash(`The key named ${name} is also the key of ${owner}.`);
    if (names.has(name))
      throw clash(`A key named ${name} was made by command already; revoke it or choose another name.`);
    owners.set(hash, name);
  }
}

function clash(detail: string): ServiceError {
  return new ServiceError('conflict', `API_KEYS: ${detail}`);
}
