// PostgreSQL's LISTEN/NOTIFY over one connection of its own, which comes back by itself.
import { sql } from 'kysely';
import { Client, escapeIdentifier } from 'pg';
import type { Logger } from 'pino';
import { backoffMs } from '../support/backoff.ts';
import { sleep } from '../support/sleep.ts';
import { connectionSettings, type ServerAddress } from './connection.ts';
import type { Executor } from './queues.ts';

export interface Notifications {
  /** Sends `payload` (below 8000 bytes) to every subscriber in every replica. In a transaction it leaves at commit. */
  publish(executor: Executor, channel: string, payload: string): Promise<void>;
  /**
   * Calls `listener` with each payload until the returned function is called. An empty payload means "look for
   * yourself": it comes when listening begins, and again after a lost connection, because some may have been missed.
   */
  subscribe(channel: string, listener: (payload: string) => void): () => void;
  stop(): Promise<void>;
}

const pulseMs = 15_000;

interface Connection {
  client: Client;
  /** Resolves when the connection has ended, for whatever reason. */
  ended: Promise<void>;
}

/** Connects; rejects if the first connection fails. */
export async function startNotifications(address: ServerAddress, log: Logger): Promise<Notifications> {
  const listeners = new Map<string, Set<(payload: string) => void>>();
  const stopping = new AbortController();
  let { client, ended } = await connect();
  void keepConnected();

  async function connect(): Promise<Connection> {
    const next = new Client({ ...connectionSettings(address), query_timeout: 10_000 });
    const end = Promise.withResolvers<void>();
    next.once('end', end.resolve);
    next.on('error', (error) => log.warn({ err: error }, 'The listening connection to the database broke'));
    next.on('notification', ({ channel, payload }) => tell(channel, payload ?? ''));
    await next.connect();
    return { client: next, ended: end.promise };
  }

  async function keepConnected(): Promise<void> {
    for (let attempt = 0; !stopping.signal.aborted; attempt++) {
      try {
        if (attempt > 0) {
          ({ client, ended } = await connect());
          await Promise.all([...listeners.keys()].map((channel) => listen(channel)));
        }
        attempt = 0;
        if (stopping.signal.aborted) drop(client);
        await ended;
      } catch (error) {
        drop(client);
        log.warn({ err: error, attempt }, 'The listening connection to the database is not back yet');
        await sleep(backoffMs(attempt, { baseMs: 100, capMs: 5_000 }), stopping.signal).catch(
          () => undefined,
        );
      }
    }
  }

  async function listen(channel: string): Promise<void> {
    await client.query(`listen ${escapeIdentifier(channel)}`);
    tell(channel, '');
  }

  function tell(channel: string, payload: string): void {
    for (const listener of listeners.get(channel) ?? []) {
      try {
        listener(payload);
      } catch (error) {
        log.error({ err: error, channel }, 'A listener of a notification failed');
      }
    }
  }

  // A silent connection may be dead without anybody knowing; a failed query ends it, and `end` brings the next one.
  const pulse = setInterval(() => {
    const current = client;
    current.query('select 1').catch(() => drop(current));
  }, pulseMs);
  pulse.unref();

  return {
    publish: async (executor, channel, payload) => {
      await sql`select pg_notify(${channel}, ${payload})`.execute(executor);
    },
    subscribe: (channel, listener) => {
      const present = listeners.get(channel);
      const all = present ?? new Set();
      all.add(listener);
      listeners.set(channel, all);
      const current = client;
      if (present === undefined) listen(channel).catch(() => drop(current));
      return () => {
        all.delete(listener);
        if (all.size > 0 || listeners.get(channel) !== all) return;
        listeners.delete(channel);
        client.query(`unlisten ${escapeIdentifier(channel)}`).catch(() => undefined);
      };
    },
    stop: async () => {
      stopping.abort();
      clearInterval(pulse);
      await client.end().catch(() => undefined);
    },
  };
}

/** Ends a connection that does not answer; the socket may hang, so nobody waits for it. */
function drop(client: Client): void {
  client.end().catch(() => undefined);
}
