// The queues on pg-boss: messages, retries and leases are its; claiming in batches and waking are ours.
import { CompiledQuery, sql, type Kysely } from 'kysely';
import type { Pool } from 'pg';
import { fromKysely, PgBoss, type Db } from 'pg-boss';
import type { Logger } from 'pino';
import { messageOf } from '../errors.ts';
import { startLoop } from './loop.ts';
import type { Notifications } from './notifications.ts';
import {
  queueNames,
  type Executor,
  type LoopName,
  type QueueMessages,
  type QueueName,
  type Queues,
} from './queues.ts';
import { missingRights } from './reach.ts';
import type { Tables } from './tables.ts';
import { within } from './within.ts';
import { claimKey, startWorker, type Claim, type ClaimStore, type Worker } from './worker.ts';

export interface QueuesOptions {
  pool: Pool;
  db: Kysely<Tables>;
  notifications: Notifications;
  /** True where no other process can use the database: what is being worked on at the start belongs to a dead one. */
  exclusive: boolean;
  log: Logger;
}

interface QueueSettings<M> {
  /** Messages with the same key are worked on one at a time, over all replicas: a unique index of pg-boss sees to it. */
  key?: (message: M) => string;
  /** Messages carry nothing, so one call stands for all of them, also for those sent for later. */
  merges?: boolean;
}

const settings: { [Q in QueueName]: QueueSettings<QueueMessages[Q]> } = {
  instance: { key: ({ instanceId }) => instanceId },
  search: { key: ({ instanceId }) => instanceId },
  rent: { key: ({ instanceId }) => instanceId },
  run: { key: ({ attemptId }) => attemptId },
  deliver: { key: ({ lane }) => lane },
  deliver_silent: { key: ({ host }) => host },
  sweep: { merges: true },
  money: { key: () => 'account', merges: true },
  reconcile: { key: () => 'account', merges: true },
};

/** How often a loop looks at the latest, and how long it lets wake-ups gather before it does, in milliseconds. */
const loopTimes: { [L in LoopName]: { everyMs: number; gatherMs: number } } = {
  dispatch: { everyMs: 5_000, gatherMs: 0 },
  // Machines take minutes to come, so it has not to follow each of a hundred jobs, nor to take its turn while a job is on its way.
  fleet: { everyMs: 30_000, gatherMs: 200 },
};

/** pg-boss's own options for every queue. */
const queueOptions = {
  // Without end: whether to give up is the domain's decision, not the queue's.
  retryLimit: 1_000_000_000,
  retryDelay: 1,
  retryBackoff: true,
  retryDelayMax: 30,
  // The least that pg-boss allows. A dead replica's messages come back after this.
  heartbeatSeconds: 10,
  // The most that pg-boss allows. A handler that takes longer is called again, and takes up its own work.
  expireInSeconds: 86_400,
  // How long a message may wait: longer than any limit of a job.
  retentionSeconds: 10 * 365 * 86_400,
  deleteAfterSeconds: 60,
};

const schema = 'pgboss';
/** pg-boss's table of messages, which it calls jobs. */
const table = sql.table(`${schema}.job`);
/** What pg-boss's `fail` does, without its delay; the next claim counts as a retry, which fences this one off. */
const released = sql`state = 'retry', start_after = now(), heartbeat_on = null`;
const channel = 'comfyfleet_queues';
/** How often what nothing woke anybody for is looked for: delayed and retried messages, and those of dead replicas. */
const pollMs = 1_000;
/** A message that is due sooner than this is looked for by the process that sent it, just when it is due. */
const shortWaitMs = 10_000;
/** Between our clock and the database's, and for the transaction of the message to commit. */
const dueMarginMs = 10;
const touchMs = 2_500;
/**
 * A claim that was not touched for so long is a dead replica's. Sooner than pg-boss's own heartbeat, which gives the message back
 * only after a pause that doubles each time.
 */
const deadMs = 9_000;
/** A pass of pg-boss's own upkeep may be under way. */
const engineStopMs = 5_000;

export function createQueues({ pool, db, notifications, exclusive, log }: QueuesOptions): Queues {
  const workers: { name: QueueName; worker: Worker }[] = [];
  const loops: { name: LoopName; worker: Worker }[] = [];
  const timers = new Set<NodeJS.Timeout>();
  let stopListening = (): void => undefined;
  let poll: Worker | undefined;
  let state: 'new' | 'running' | 'stopped' = 'new';
  const boss = new PgBoss({
    db: { executeSql: (text, values) => execute({ pool, db }, text, values) },
    schema,
    schedule: false,
    registerInstance: false,
    openTelemetry: { enabled: false },
    // Nothing waits for its upkeep: messages of a dead replica are given back by us.
    superviseIntervalSeconds: 30,
    monitorIntervalSeconds: 30,
    maintenanceIntervalSeconds: 60,
    // Messages that wait for others are not used here. It would look for them at each start, and every five seconds.
    flowIntervalSeconds: 86_400,
  });
  boss.on('error', (error) => log.warn({ err: error }, 'The queues report an error'));
  boss.on('warning', ({ message, data }) => log.warn({ data }, `The queues warn: ${message}`));

  function wake(name: string): void {
    for (const each of [...workers, ...loops]) if (name === each.name) each.worker.wake();
  }

  /** Wake-ups may have been missed: every loop looks, and one statement tells which queues have something. */
  function wakeAll(): void {
    for (const { worker } of loops) worker.wake();
    poll?.wake();
  }

  /** Polling would find the message too, up to a second late. */
  function wakeLater(queue: QueueName, afterMs: number): void {
    const timer = setTimeout(() => {
      timers.delete(timer);
      wake(queue);
    }, afterMs + dueMarginMs);
    timers.add(timer.unref());
  }

  return {
    start: async () => {
      await boss.start().catch((error: unknown) => {
        throw missingRights(error) ?? error;
      });
      await installQueues(boss);
      if (exclusive) await releaseAll(db, log);
      poll = startLoop({
        name: 'queues',
        act: async () => {
          await releaseDead(db, log);
          for (const name of await queuesWithDue(db)) wake(name);
        },
        everyMs: pollMs,
        gatherMs: 0,
        retryMs: pollMs,
        log,
      });
      stopListening = notifications.subscribe(channel, (name) => (name === '' ? wakeAll() : wake(name)));
      state = 'running';
    },

    work: async (queue, concurrency, handler) => {
      const worker = startWorker({
        name: queue,
        store: claimStore(boss, db, queue),
        concurrency,
        handler,
        retryMs: pollMs,
        touchMs,
        log,
      });
      workers.push({ name: queue, worker });
      poll?.wake();
    },

    send: async (executor, queue, message, { afterMs = 0 } = {}) => {
      const { key } = settings[queue];
      const isDelayed = afterMs > 0;
      const id = await boss.send(queue, message, {
        ...(key !== undefined && { singletonKey: key(message) }),
        // Counted on the database's clock.
        ...(isDelayed && { startAfter: afterMs / 1000 }),
        db: isDelayed ? fromKysely(executor) : wakingToo(executor, queue),
      });
      if (id === null) throw new Error(`The queue ${queue} did not take a message`);
      if (isDelayed && afterMs < shortWaitMs) wakeLater(queue, afterMs);
    },

    missing: async <Q extends QueueName>(executor: Executor, queue: Q, messages: QueueMessages[Q][]) => {
      if (messages.length === 0) return [];
      const texts = messages.map((message) => JSON.stringify(message));
      const { rows } = await sql<{ data: QueueMessages[Q] }>`
        select asked.data from unnest(${texts}::jsonb[]) as asked (data) where not exists (
          select from ${table} job where name = ${queue} and state <= 'active' and job.data = asked.data)`.execute(
        executor,
      );
      return rows.map(({ data }) => data);
    },

    loop: (name, act) => {
      loops.push({ name, worker: startLoop({ name, act, ...loopTimes[name], retryMs: pollMs, log }) });
    },

    wake: (executor, name) => notifications.publish(executor, channel, name),

    waking: (name) => sql.raw(wakeUpOf(name)),

    wakeHere: wake,

    health: async () => {
      const { rows } = await sql<{ name: QueueName; depth: number }>`
        select name, count(*) as depth from ${table}
        where state <= 'active' and name in (${sql.join(queueNames)}) group by name`.execute(db);
      return {
        ok:
          state === 'running' && poll?.healthy() === true && workers.every(({ worker }) => worker.healthy()),
        failing: loops.filter(({ worker }) => !worker.healthy()).map(({ name }) => name),
        depth: Object.fromEntries(rows.map(({ name, depth }) => [name, depth])),
      };
    },

    stop: async (timeoutMs) => {
      if (state === 'stopped') return;
      state = 'stopped';
      for (const timer of timers) clearTimeout(timer);
      await Promise.allSettled([
        poll?.stop(timeoutMs),
        ...[...workers, ...loops].map(({ worker }) => worker.stop(timeoutMs)),
      ]);
      stopListening();
      await within(engineStopMs, boss.stop({ graceful: false, close: false }));
    },
  };
}

/** Looked at first: the calls of a start that changes nothing took a third of its time. */
async function installQueues(boss: PgBoss): Promise<void> {
  const installed = new Map(
    (await boss.getQueues([...queueNames])).map((queue) => [
      queue.name,
      new Map<string, unknown>(Object.entries(queue)),
    ]),
  );
  const wanted = Object.entries(queueOptions);
  for (const name of queueNames) {
    const queue = installed.get(name);
    const policy = settings[name].key === undefined ? 'standard' : 'singleton';
    if (queue === undefined) await boss.createQueue(name, { ...queueOptions, policy });
    else if (wanted.some(([option, value]) => queue.get(option) !== value)) {
      // It keeps its policy, and takes over what changed of the rest.
      await boss.updateQueue(name, queueOptions);
    }
  }
}

/** Claims through pg-boss, with every settlement fenced to the claim. A done message is deleted, so the table stays small. */
function claimStore<Q extends QueueName>(
  boss: PgBoss,
  db: Kysely<Tables>,
  queue: Q,
): ClaimStore<QueueMessages[Q]> {
  const { merges } = settings[queue];
  return {
    claim: async (limit) => {
      const batchSize = merges === true ? 1 : limit;
      const messages = await boss.fetch<QueueMessages[Q]>(queue, { batchSize });
      // After the claim: what these stood for was committed before, so the handler sees it.
      if (merges === true && messages.length > 0) await forget(db, queue);
      return messages.map(({ id, retryCount, data }) => ({ id, retryCount, data }));
    },
    touch: async (claims) => {
      const { rows } = await sql<Claim>`update ${table} set heartbeat_on = now() where ${held(queue, claims)}
        returning id, retry_count as "retryCount"`.execute(db);
      return rows;
    },
    complete: async (claim) => {
      const { rows } = await sql<{ follows: boolean }>`
        with done as (delete from ${table} where ${held(queue, [claim])} returning singleton_key)
        select exists (
          select from done join ${table} job using (singleton_key)
          where job.name = ${queue} and job.state < 'active' and job.start_after <= now()) as follows`.execute(
        db,
      );
      return rows[0]?.follows === true;
    },
    retry: async (claim, error) => {
      await boss.fail(queue, claim, { message: messageOf(error) });
    },
    release: async (claims) => {
      if (claims.length === 0) return;
      await sql`update ${table} set ${released} where ${held(queue, claims)}`.execute(db);
      await sql`select pg_notify(${channel}, ${queue})`.execute(db);
    },
  };
}

function held(queue: QueueName, claims: Claim[]) {
  return sql<boolean>`name = ${queue} and state = 'active' and id = any(${claims.map(({ id }) => id)}::uuid[])
    and id::text || ':' || retry_count::text = any(${claims.map(claimKey)}::text[])`;
}

/** Leaves out what another service is taking at this moment: its call stands for that one. */
async function forget(db: Kysely<Tables>, queue: QueueName): Promise<void> {
  await sql`delete from ${table} where name = ${queue} and id in (
    select id from ${table} where name = ${queue} and state < 'active' for update skip locked)`.execute(db);
}

/** What a statement selects to wake who works on a queue, or a loop, when it commits. */
function wakeUpOf(name: QueueName | LoopName): string {
  return `pg_notify('${channel}', '${name}')`;
}

/** Runs pg-boss's insert of a message, and wakes who works on its queue in the same statement. */
function wakingToo(executor: Executor, queue: QueueName): Db {
  const db = fromKysely(executor);
  return {
    executeSql: (text, values) =>
      db.executeSql(`with sent as (${text}) select id, ${wakeUpOf(queue)} from sent`, values),
  };
}

/** Runs a text of pg-boss. One that may be several statements cannot be prepared. */
async function execute(
  { pool, db }: Pick<QueuesOptions, 'pool' | 'db'>,
  text: string,
  values: unknown[] = [],
) {
  const one = text.trim().replace(/;$/, '');
  if (one.includes(';')) return pool.query(text, values);
  return db.executeQuery(CompiledQuery.raw(one, values));
}

async function releaseAll(db: Kysely<Tables>, log: Logger): Promise<void> {
  const { numAffectedRows = 0n } = await sql`update ${table} set ${released} where state = 'active'`.execute(
    db,
  );
  if (numAffectedRows > 0n) {
    log.info({ messages: Number(numAffectedRows) }, 'Took over the messages of a service that died');
  }
}

/** One statement for all queues: most of the time nothing is due in any. */
async function queuesWithDue(db: Kysely<Tables>): Promise<QueueName[]> {
  const { rows } = await sql<{ name: QueueName }>`
    select queue.name from unnest(${[...queueNames]}::text[]) as queue (name) where exists (
      select from ${table} job
      where job.name = queue.name and job.state < 'active' and job.start_after <= now())`.execute(db);
  return rows.map(({ name }) => name);
}

/** Gives back what nobody has touched for `deadMs`, for somebody else, at once. */
async function releaseDead(db: Kysely<Tables>, log: Logger): Promise<void> {
  const { rows } = await sql<{ name: QueueName }>`update ${table} set ${released} where state = 'active'
    and name in (${sql.join(queueNames)}) and heartbeat_on < now() - ${deadMs} * interval '1 ms' returning name`.execute(
    db,
  );
  if (rows.length === 0) return;
  log.warn({ messages: rows.length }, 'Took over the messages of a replica that is gone');
  for (const { name } of rows) await sql`select pg_notify(${channel}, ${name})`.execute(db);
}
