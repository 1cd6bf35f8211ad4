// Statements that come again are prepared: PostgreSQL then parses and plans each once for a connection, which is most of what a small
// one costs.
import { createHash } from 'node:crypto';
import type { PostgresCursor, PostgresPool, PostgresPoolClient, PostgresQueryResult } from 'kysely';
import type { Pool, PoolClient } from 'pg';
import { hasErrorCode } from '../errors.ts';

/** Statements made for one occasion, such as those with a long list of values, are not worth a place in every connection. */
const SEEN_UNTIL_NAMED = 3;
/** A connection keeps the plan of every name, some ten kilobytes each. */
const MAX_NAMES = 300;
const MAX_COUNTED = 2_000;
/** PostgreSQL's `feature_not_supported`: it comes when a migration has changed what a prepared statement returns. */
const STALE = '0A000';
/** PostgreSQL's `read_only_sql_transaction`: after a failover an old connection leads to what is a standby now. */
const READ_ONLY = '25006';

/** The pool with a name for every statement that comes again, the same in all its connections. */
export function prepared(pool: Pool): PostgresPool {
  const names = createNames();
  const clients = new WeakMap<PoolClient, PreparingClient>();
  return {
    options: pool.options,
    async connect() {
      const client = await pool.connect().catch((cause: unknown) => {
        // The system, the server and the pool each have words of their own for it.
        throw new Error('Connection terminated before it began', { cause });
      });
      const known = clients.get(client) ?? new PreparingClient(client, names);
      clients.set(client, known);
      return known;
    },
    end: () => pool.end(),
  };
}

class PreparingClient implements PostgresPoolClient {
  readonly #client: PoolClient;
  readonly #names: Names;
  /** Whether the pool must not have the connection back, although it is not broken. */
  #spent = false;

  constructor(client: PoolClient, names: Names) {
    this.#client = client;
    this.#names = names;
  }

  query<R>(cursor: PostgresCursor<R>): PostgresCursor<R>;
  query<R>(text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>>;
  query(text: unknown, values: readonly unknown[] = []): unknown {
    if (typeof text !== 'string') throw new Error('Cursors are not used here');
    return this.#names
      .ask(text, (name) => this.#client.query({ ...name, text, values: [...values] }))
      .catch((error: unknown) => {
        if (isSilent(error) || hasErrorCode(error, READ_ONLY)) this.#spent = true;
        throw isBrokenPipe(error) ? new Error('Connection terminated unexpectedly', { cause: error }) : error;
      });
  }

  release(destroy?: boolean): void {
    this.#client.release(destroy === true || this.#spent);
  }
}

interface Names {
  /** Runs a statement under its name, if it has one. */
  ask<T>(text: string, run: (name: { name?: string }) => Promise<T>): Promise<T>;
}

function createNames(): Names {
  let names = new Map<string, string>();
  let seen = new Map<string, number>();
  let generation = 0;

  function nameOf(text: string): { name?: string } {
    const known = names.get(text);
    if (known !== undefined) return { name: known };
    const times = (seen.get(text) ?? 0) + 1;
    if (times < SEEN_UNTIL_NAMED || names.size >= MAX_NAMES) {
      if (seen.size >= MAX_COUNTED) seen = new Map();
      seen.set(text, times);
      return {};
    }
    seen.delete(text);
    const name = `s${generation}_${createHash('sha256').update(text).digest('base64url').slice(0, 32)}`;
    names.set(text, name);
    return { name };
  }

  return {
    async ask(text, run) {
      try {
        return await run(nameOf(text));
      } catch (error) {
        // Under new names every connection prepares anew. What failed comes again by itself, or by its caller.
        if (hasErrorCode(error, STALE)) {
          generation += 1;
          names = new Map();
        }
        throw error;
      }
    },
  };
}

/** What `pg` says when no answer comes in time: the other end may be gone without a word. */
function isSilent(error: unknown): boolean {
  return error instanceof Error && error.message === 'Query read timeout';
}

/** A statement may be on its way to a connection that has ended already. */
function isBrokenPipe(error: unknown): boolean {
  return hasErrorCode(error, 'EPIPE') || hasErrorCode(error, 'ECONNRESET');
}
