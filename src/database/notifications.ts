// PostgreSQL's LISTEN/NOTIFY over one connection of its own, which comes back by itself.
import { sql } from 'kysely';
import { Client, escapeIdentifier } from 'pg';
import type { Logger } from 'pino';
import { backoffMs } from '../support/backoff.ts';
import { sleep } from '../support/sleep.ts';
import { connectionSettings, type ServerAddress } from './connection.ts';
import type { Executor } from './queues.ts';
import { waitAtMost } from './within.ts';

export interface Notifications {
  /** Sends `payload` (below 8000 bytes) to every subscriber in every replica. In a transaction it leaves at commit. */
  publish(executor: Executor, channel: string, payload: string): Promise<void>;
  /**
   * Calls `listener` with each payload until the returned function is called. An empty payload means "look for
   * yourself": it comes when listening begins, and again after a lost connection, because some may have been missed.
   * With `only`, other payloads pass by without a call, however many there are.
   */
  subscribe(channel: string, listener: Listener, only?: string): () => void;
  stop(): Promise<void>;
}

type Listener = (payload: string) => void;

const pulseMs = 15_000;
const endLimitMs = 2_000;

interface Connection {
  client: Client;
  /** Sends one statement when all before it have been answered: a client takes no more than one at a time. */
  run(statement: string): Promise<unknown>;
  /** Resolves when the connection has ended, for whatever reason. */
  ended: Promise<void>;
}

/** Connects; rejects if the first connection fails. */
export async function startNotifications(address: ServerAddress, log: Logger): Promise<Notifications> {
  /** By channel, then by the payload that is wanted; null for all of them. */
  const channels = new Map<string, Map<string | null, Set<Listener>>>();
  const stopping = new AbortController();
  let connection = await connect();
  void keepConnected();

  async function connect(): Promise<Connection> {
    const client = new Client({ ...connectionSettings(address), query_timeout: 10_000 });
    const end = Promise.withResolvers<void>();
    client.once('end', end.resolve);
    client.on('error', (error) => log.warn({ err: error }, 'The listening connection to the database broke'));
    client.on('notification', ({ channel, payload }) => tell(channel, payload ?? ''));
    await client.connect();
    let last: Promise<unknown> = Promise.resolve();
    return {
      client,
      run(statement) {
        const answer = last.then(() => client.query(statement));
        last = answer.catch(() => undefined);
        return answer;
      },
      ended: end.promise,
    };
  }

  async function keepConnected(): Promise<void> {
    for (let attempt = 0; !stopping.signal.aborted; attempt++) {
      try {
        if (attempt > 0) {
          connection = await connect();
          for (const channel of channels.keys()) await listen(channel);
        }
        attempt = 0;
        if (stopping.signal.aborted) drop(connection);
        await connection.ended;
      } catch (error) {
        drop(connection);
        log.warn({ err: error, attempt }, 'The listening connection to the database is not back yet');
        await sleep(backoffMs(attempt, { baseMs: 100, capMs: 5_000 }), stopping.signal).catch(
          () => undefined,
        );
      }
    }
  }

  async function listen(channel: string): Promise<void> {
    await connection.run(`listen ${escapeIdentifier(channel)}`);
    tell(channel, '');
  }

  function tell(channel: string, payload: string): void {
    const byPayload = channels.get(channel);
    if (byPayload === undefined) return;
    const told = payload === '' ? [...byPayload.values()] : [byPayload.get(null), byPayload.get(payload)];
    for (const listener of told.flatMap((set) => [...(set ?? [])])) {
      try {
        listener(payload);
      } catch (error) {
        log.error({ err: error, channel }, 'A listener of a notification failed');
      }
    }
  }

  // A silent connection may be dead without anybody knowing; a failed query ends it, and `end` brings the next one.
  const pulse = setInterval(() => {
    const current = connection;
    current.run('select 1').catch(() => drop(current));
  }, pulseMs);
  pulse.unref();

  return {
    publish: async (executor, channel, payload) => {
      await sql`select pg_notify(${channel}, ${payload})`.execute(executor);
    },
    subscribe: (channel, listener, only) => {
      const key = only ?? null;
      const byPayload = channels.get(channel) ?? new Map<string | null, Set<Listener>>();
      const set = byPayload.get(key) ?? new Set();
      byPayload.set(key, set.add(listener));
      if (!channels.has(channel)) {
        channels.set(channel, byPayload);
        const current = connection;
        listen(channel).catch(() => drop(current));
      }
      return () => {
        set.delete(listener);
        // The channels are few: each is listened to for good, whoever comes and goes.
        if (set.size === 0 && byPayload.get(key) === set) byPayload.delete(key);
      };
    },
    stop: async () => {
      stopping.abort();
      clearInterval(pulse);
      // A server that is out of reach never says goodbye.
      await waitAtMost(endLimitMs, connection.client.end());
    },
  };
}

/** Ends a connection that does not answer; the socket may hang, so nobody waits for it. */
function drop({ client }: Connection): void {
  client.end().catch(() => undefined);
}
