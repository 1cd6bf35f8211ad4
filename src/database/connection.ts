// Connections to PostgreSQL: one pool, Kysely on top of it, and the settings that every connection shares.
import { Kysely, PostgresDialect } from 'kysely';
import { Pool, types, type ClientBase, type ClientConfig } from 'pg';
import type { Logger } from 'pino';
import { prepared } from './prepared.ts';
import type { Tables } from './tables.ts';

/** Where the server is: a URL, or the folder of its Unix socket. */
export type ServerAddress =
  { connectionString: string } | { host: string; port: number; user: string; database: string };

/** The settings of every connection. 64-bit integers come as numbers, for these connections only: ours stay far below 2^53. */
export function connectionSettings(address: ServerAddress): ClientConfig {
  return {
    ...address,
    application_name: `comfyfleet ${process.pid}`,
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    types: {
      getTypeParser: (type, format) =>
        type === types.builtins.INT8 && format !== 'binary' ? Number : types.getTypeParser(type, format),
    },
  };
}

/**
 * Has a new connection write times, intervals and numbers so that each can be read back as what it is. A server, a database or a
 * user may have a style of its own, in which PostgreSQL itself takes 05/04 for another day. Not among the settings of the
 * start, which a URL may replace and some poolers refuse.
 */
export async function agreeOnStyle(client: ClientBase): Promise<void> {
  await client.query(`set datestyle to 'ISO'; set intervalstyle to 'postgres'; set extra_float_digits to 1`);
}

export interface PoolOptions {
  size: number;
  log: Logger;
  /** The longest that one statement may take; null for no limit. */
  statementTimeoutMs: number | null;
}

/** A pool whose connections may break at any time: a broken one is logged and replaced, and never ends the process. */
export function createPool(address: ServerAddress, { size, log, statementTimeoutMs }: PoolOptions): Pool {
  const pool = new Pool({
    ...connectionSettings(address),
    max: size,
    idleTimeoutMillis: 60_000,
    // oxlint-disable-next-line typescript/no-misused-promises -- the pool waits for it, whatever its types say
    onConnect: agreeOnStyle,
    ...(statementTimeoutMs !== null && {
      statement_timeout: statementTimeoutMs,
      idle_in_transaction_session_timeout: statementTimeoutMs,
      // A little longer than the server's own limit: it decides only when the server is out of reach.
      query_timeout: statementTimeoutMs + 10_000,
    }),
  });
  // The pool listens to idle connections only. One that breaks in use would end the process otherwise.
  pool.on('connect', (client) => {
    client.on('error', (error: NodeJS.ErrnoException) => {
      // On its way out the server may be faster than the farewell of the client.
      if (pool.ending) return;
      // The pool hangs the whole connection onto the error, its keys included.
      log.warn({ code: error.code, error: error.message }, 'A connection to the database broke');
    });
  });
  // What the connection has said already.
  pool.on('error', () => undefined);
  return pool;
}

export function createKysely(pool: Pool): Kysely<Tables> {
  return new Kysely<Tables>({ dialect: new PostgresDialect({ pool: prepared(pool) }) });
}
