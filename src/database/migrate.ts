// Brings the schema up to date at the start. Several replicas may start at once: one after the other has its turn.
import { isDeepStrictEqual } from 'node:util';
import { Migrator, type Migration, type MigrationResult } from 'kysely/migration';
import type { Client } from 'pg';
import type { Logger } from 'pino';
import { hasErrorCode } from '../errors.ts';
import { createKysely, createPool, type ServerAddress } from './connection.ts';
import * as initial from './migrations/001-initial.ts';
import * as hostMemory from './migrations/002-host-memory.ts';
import * as money from './migrations/003-money.ts';
import * as fleet from './migrations/004-fleet.ts';
import * as runs from './migrations/005-runs.ts';
import * as events from './migrations/006-events.ts';
import * as callers from './migrations/007-callers.ts';
import * as webhooks from './migrations/008-webhooks.ts';
import * as results from './migrations/009-results.ts';
import * as nodeCatalogs from './migrations/010-node-catalogs.ts';
import * as machineFacts from './migrations/011-machine-facts.ts';
import * as collecting from './migrations/012-collecting.ts';
import * as staticUrls from './migrations/013-static-urls.ts';
import * as failingSteps from './migrations/014-failing-steps.ts';
import * as lastFailures from './migrations/015-last-failures.ts';
import * as creditRaises from './migrations/016-credit-raises.ts';
import { missingRights, reach } from './reach.ts';

/** Every migration, by name, in order. A list rather than a folder that is read, so that it is the same in a build. */
export const migrations: Record<string, Migration> = {
  '001-initial': initial,
  '002-host-memory': hostMemory,
  '003-money': money,
  '004-fleet': fleet,
  '005-runs': runs,
  '006-events': events,
  '007-callers': callers,
  '008-webhooks': webhooks,
  '009-results': results,
  '010-node-catalogs': nodeCatalogs,
  '011-machine-facts': machineFacts,
  '012-collecting': collecting,
  '013-static-urls': staticUrls,
  '014-failing-steps': failingSteps,
  '015-last-failures': lastFailures,
  '016-credit-raises': creditRaises,
};

/** PostgreSQL's `undefined_table`. */
const UNDEFINED_TABLE = '42P01';
/** PostgreSQL's `lock_not_available`. */
const LOCKED = '55P03';
/** Two numbers that stand for "the one service that migrates". */
const turnLock = [0x636f6d66, 2];

/** The name of the newest migration: the level of a schema that is up to date. */
const schemaLevel = Object.keys(migrations).sort().at(-1) ?? '';

interface Patience {
  /** For so long it waits for another service that migrates without a word. */
  quietMs?: number;
  /** And then for so long before it gives up. */
  limitMs?: number;
}

/**
 * Applies what is missing up to `level`, all of it or nothing. Rejects when the database cannot be used, when it is newer than
 * this service, and when another service does not end with the same.
 */
export async function migrate(
  address: ServerAddress,
  log: Logger,
  { level = schemaLevel, ...patience }: Patience & { level?: string } = {},
): Promise<void> {
  const client = await reach(address);
  try {
    if (await isUpToDate(client, level)) return;
    await takeTurn(client, log, patience);
    await apply(address, log, level);
  } finally {
    await client.end();
  }
}

/** Kysely would wait for its own lock for an hour, without a word. Ours ends with the connection. */
async function takeTurn(
  client: Client,
  log: Logger,
  { quietMs = 5_000, limitMs = 300_000 }: Patience,
): Promise<void> {
  if (await lockWithin(client, quietMs)) return;
  log.warn('Another service brings the schema of the database up to date; waiting for it');
  if (await lockWithin(client, limitMs)) return;
  throw new Error(
    `Another service has not ended bringing the schema of the database up to date within ${limitMs / 60_000} minutes. Start again when it has, or stop it.`,
  );
}

async function lockWithin(client: Client, limitMs: number): Promise<boolean> {
  await client.query(`select set_config('lock_timeout', $1, false)`, [String(limitMs)]);
  try {
    await client.query('select pg_advisory_lock($1, $2)', turnLock);
    return true;
  } catch (error) {
    if (hasErrorCode(error, LOCKED)) return false;
    throw error;
  }
}

async function apply(address: ServerAddress, log: Logger, level: string): Promise<void> {
  // A migration may take longer than any statement of the service.
  const pool = createPool(address, { size: 1, log, statementTimeoutMs: null });
  try {
    const migrator = new Migrator({
      db: createKysely(pool),
      provider: { getMigrations: async () => migrations },
    });
    const { error, results: applied } = await migrator.migrateTo(level);
    report(applied ?? [], log);
    if (error !== undefined) {
      throw (
        missingRights(error) ??
        new Error(
          'The schema of the database could not be brought up to date. If a newer version of the service has used this database, run that version.',
          { cause: error },
        )
      );
    }
  } finally {
    await pool.end();
  }
}

/** Most starts change nothing, and Kysely reads much of the catalog to find out. */
async function isUpToDate(client: Client, level: string): Promise<boolean> {
  try {
    const { rows } = await client.query<{ name: string }>('select name from kysely_migration');
    const applied = rows.map(({ name }) => name).sort();
    const wanted = Object.keys(migrations).filter((name) => name <= level);
    return isDeepStrictEqual(applied, wanted.sort());
  } catch (error) {
    if (hasErrorCode(error, UNDEFINED_TABLE)) return false;
    throw missingRights(error) ?? error;
  }
}

function report(applied: MigrationResult[], log: Logger): void {
  for (const { migrationName, status } of applied) {
    if (status === 'Success') log.info({ migration: migrationName }, 'Schema migrated');
  }
}
