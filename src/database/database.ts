// The database of the service: its own server or one given by URL, migrated, with queues and notifications.
import { sql, type Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import { createKysely, createPool } from './connection.ts';
import { startEmbeddedServer, type EmbeddedServer } from './embedded.ts';
import { migrate } from './migrate.ts';
import { startNotifications, type Notifications } from './notifications.ts';
import { createQueues } from './pg-boss.ts';
import type { Queues } from './queues.ts';
import type { Tables } from './tables.ts';
import { within } from './within.ts';

export interface Database {
  readonly kind: 'embedded' | 'external';
  readonly db: Kysely<Tables>;
  readonly queues: Queues;
  readonly notifications: Notifications;
  /** Resolves when the database answers; rejects after 2 s without an answer. */
  check(): Promise<void>;
  /** Keeps the log of the embedded server short; another one has its own. */
  tidy(): Promise<void>;
  /** Stops the queues (at once, unless they were stopped before), then every connection, then the embedded server. */
  stop(): Promise<void>;
}

export interface DatabaseOptions {
  config: Pick<Config, 'DATABASE_URL' | 'DATA_DIR' | 'DATABASE_POOL_SIZE'>;
  log: Logger;
}

const checkLimitMs = 2_000;
const endLimitMs = 5_000;

/** Starts or reaches the server and brings the schema up to date. Rejects, saying what to do, when either fails. */
export async function startDatabase({ config, log }: DatabaseOptions): Promise<Database> {
  // What was started so far, last first: undone when a later step fails, and by `stop`.
  const started = new AsyncDisposableStack();
  try {
    const { address, tidy } = await openServer(config, log, started);
    await migrate(address, log);
    const pool = createPool(address, { size: config.DATABASE_POOL_SIZE, log, statementTimeoutMs: 60_000 });
    // A server that is out of reach must not keep the service from stopping.
    started.defer(() => within(endLimitMs, pool.end()));
    const db = createKysely(pool);
    const notifications = await startNotifications(address, log);
    started.defer(() => notifications.stop());
    const exclusive = config.DATABASE_URL === undefined;
    const queues = createQueues({ pool, db, notifications, exclusive, log });
    started.defer(() => queues.stop(0));
    return {
      kind: exclusive ? 'embedded' : 'external',
      db,
      queues,
      notifications,
      check: () => check(db),
      tidy,
      stop: () => started.disposeAsync(),
    };
  } catch (error) {
    await started
      .disposeAsync()
      .catch((problem: unknown) => log.warn({ err: problem }, 'The database was not left cleanly'));
    throw error;
  }
}

async function openServer(
  config: DatabaseOptions['config'],
  log: Logger,
  started: AsyncDisposableStack,
): Promise<Pick<EmbeddedServer, 'address' | 'tidy'>> {
  if (config.DATABASE_URL !== undefined) {
    return { address: { connectionString: config.DATABASE_URL }, tidy: async () => undefined };
  }
  const server = await startEmbeddedServer(config.DATA_DIR, log);
  started.defer(() => server.stop());
  return server;
}

async function check(db: Kysely<Tables>): Promise<void> {
  await within(checkLimitMs, sql`select 1`.execute(db));
}
