// A database of its own for each test file: migrated, with queues installed, on the one server of the run.
import { randomUUID } from 'node:crypto';
import { Pool, type PoolClient } from 'pg';
import { pino, type Logger } from 'pino';
import type { ServerAddress } from '../../src/database/connection.ts';
import { startDatabase, type Database } from '../../src/database/database.ts';
import { embeddedAddress, runEmbeddedServer } from '../../src/database/embedded.ts';
import { onceInRun, runFolder } from './run-folder.ts';

export interface TestDatabase {
  database: Database;
  /** For a second service, or a child process, on the same database. */
  url: string;
  stop: () => Promise<void>;
}

export interface TestDatabaseOptions {
  log?: Logger;
}

const quiet = pino({ level: 'silent' });

/** Nothing of what it keeps is worth anything after the run. */
const inAHurry = {
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  wal_level: 'minimal',
  max_wal_senders: '0',
  checkpoint_timeout: '1h',
  max_wal_size: '8GB',
  autovacuum: 'off',
  jit: 'off',
};

/** A database that nobody has opened yet. */
export interface BareDatabase {
  url: string;
  drop: () => Promise<void>;
}

/**
 * Creates a fresh database, with every migration applied and the queues installed. It lies on the server of
 * TEST_DATABASE_URL, whose user must be allowed to create databases, or else on one that the run starts.
 */
export async function createBareDatabase(): Promise<BareDatabase> {
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  const template = await ensureTemplate();
  await administrate((client) =>
    client.query(`create database ${name} template ${template} strategy file_copy`),
  );
  return {
    url: urlOf(await serverUrl(), name),
    drop: () =>
      administrate(async (client) => void (await client.query(`drop database ${name} with (force)`))),
  };
}

/** A database as `createBareDatabase` makes it, opened; the queues are not started. */
export async function createTestDatabase({ log = quiet }: TestDatabaseOptions = {}): Promise<TestDatabase> {
  const { url, drop } = await createBareDatabase();
  const database = await openDatabase(url, log);
  return {
    database,
    url,
    stop: async () => {
      await database.stop();
      await drop();
    },
  };
}

/** One more service on the database of `url`. */
export function openDatabase(url: string, log: Logger = quiet): Promise<Database> {
  return startDatabase({ config: { DATABASE_URL: url, DATA_DIR: '', DATABASE_POOL_SIZE: 8 }, log });
}

/** Drops what the run left on a server that goes on. */
export async function dropTemplate(): Promise<void> {
  await administrate((client) => client.query(`drop database if exists ${templateName()} with (force)`));
}

let template: Promise<string> | null = null;

/** The database that all others of the run are copies of; the first test file to need it makes it. */
function ensureTemplate(): Promise<string> {
  template ??= administrate(async (client) => {
    const name = templateName();
    // Other test files wait here until it is complete.
    await client.query(`select pg_advisory_lock(hashtext('template'))`);
    try {
      await createTemplate(client, name);
    } finally {
      await client.query(`select pg_advisory_unlock(hashtext('template'))`);
    }
    return name;
  });
  return template;
}

async function createTemplate(client: PoolClient, name: string): Promise<void> {
  const { rowCount } = await client.query('select from pg_database where datname = $1', [name]);
  if (rowCount !== 0) return;
  await client.query(`create database ${name}_draft`);
  const database = await openDatabase(urlOf(await serverUrl(), `${name}_draft`));
  await database.queues.start();
  await database.stop();
  await client.query(`alter database ${name}_draft rename to ${name}`);
}

/** Works on a connection of its own for as long as it takes, which the next one uses again. */
async function administrate<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
  administrators ??= openAdministrators();
  const client = await (await administrators).connect();
  try {
    return await work(client);
  } finally {
    client.release();
  }
}

let administrators: Promise<Pool> | null = null;

/** Keeps no process alive, and is gone with the server. */
async function openAdministrators(): Promise<Pool> {
  const pool = new Pool({ connectionString: await serverUrl(), allowExitOnIdle: true, idleTimeoutMillis: 0 });
  pool.on('error', () => undefined);
  return pool;
}

let started: Promise<string> | null = null;

function serverUrl(): Promise<string> {
  started ??=
    process.env['TEST_DATABASE_URL'] === undefined
      ? startServer()
      : Promise.resolve(process.env['TEST_DATABASE_URL']);
  return started;
}

/** One worker starts it for all: each would create a database of its own first, of which one is kept. */
async function startServer(): Promise<string> {
  const folder = runFolder();
  await onceInRun('server', () => runEmbeddedServer(folder, quiet, inAHurry));
  return embeddedUrl(await embeddedAddress(folder));
}

function embeddedUrl(address: ServerAddress): string {
  if ('connectionString' in address) return address.connectionString;
  return `postgresql://${address.user}@localhost/${address.database}?host=${encodeURIComponent(address.host)}`;
}

function urlOf(server: string, name: string): string {
  const url = new URL(server);
  url.pathname = `/${name}`;
  return url.href;
}

function templateName(): string {
  return `template_${runFolder()
    .replaceAll(/[^a-zA-Z0-9]/g, '')
    .slice(-16)
    .toLowerCase()}`;
}
