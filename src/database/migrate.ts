// Brings the schema up to date at the start. Several replicas may do it at once: Kysely takes a lock in the database.
import { isDeepStrictEqual } from 'node:util';
import { Migrator, type Migration, type MigrationResult } from 'kysely/migration';
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
import { reach } from './reach.ts';

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
};

/** PostgreSQL's `undefined_table`. */
const UNDEFINED_TABLE = '42P01';

/** The name of the newest migration: the level of a schema that is up to date. */
const schemaLevel = Object.keys(migrations).sort().at(-1) ?? '';

/**
 * Applies what is missing up to `level`, all of it or nothing. Rejects when the database cannot be used, and when it is
 * newer than this service.
 */
export async function migrate(address: ServerAddress, log: Logger, level = schemaLevel): Promise<void> {
  if (await isUpToDate(address, level)) return;
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
      throw new Error(
        'The schema of the database could not be brought up to date. If a newer version of the service has used this database, run that version.',
        { cause: error },
      );
    }
  } finally {
    await pool.end();
  }
}

/** Most starts change nothing, and Kysely reads much of the catalog to find out. A server that is out of reach rejects in words of its own. */
async function isUpToDate(address: ServerAddress, level: string): Promise<boolean> {
  const client = await reach(address);
  try {
    const { rows } = await client.query<{ name: string }>('select name from kysely_migration');
    const applied = rows.map(({ name }) => name).sort();
    const wanted = Object.keys(migrations).filter((name) => name <= level);
    return isDeepStrictEqual(applied, wanted.sort());
  } catch (error) {
    if (hasErrorCode(error, UNDEFINED_TABLE)) return false;
    throw error;
  } finally {
    await client.end();
  }
}

function report(applied: MigrationResult[], log: Logger): void {
  for (const { migrationName, status } of applied) {
    if (status === 'Success') log.info({ migration: migrationName }, 'Schema migrated');
  }
}
