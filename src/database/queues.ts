// The port to the job engine: durable wake-ups that every replica works on. pg-boss shows in this folder only.
import type { Kysely, RawBuilder, Transaction } from 'kysely';
import type { Tables } from './tables.ts';

/** What each queue carries. */
export interface QueueMessages {
  /** One step of one instance. Active once at a time for each instance. */
  instance: { instanceId: string; wake: number };
  /** A step that looks for an offer: it may wait for minutes until the provider can be asked, and keeps no other step waiting. */
  search: { instanceId: string; wake: number };
  /** A step that rents, or looks for what it may have rented: it may wait for its turn, and for its answer, as long. */
  rent: { instanceId: string; wake: number };
  /** One attempt of one job on one slot. Active once at a time for each attempt; comes back after a crash. */
  run: { jobId: string; attemptId: string; instanceId: string; slot: number };
  /**
   * Expire what waited too long, re-arm lost wake-ups. One call stands for every message sent before it, also for those
   * sent for later: its handler sends the next one itself.
   */
  sweep: Record<string, never>;
  /** Guards the limits and keeps the ledger. One at a time over all replicas; merged as the sweep is. */
  money: Record<string, never>;
  /** One try to deliver one webhook. Active once at a time for each lane; dropped when `wake` is no longer the delivery's. */
  deliver: { deliveryId: string; wake: number; lane: string };
  /** The same, to a host that did not answer the last try. Active once at a time for each host. */
  deliver_silent: { deliveryId: string; wake: number; host: string };
  /** Compares the rentals of the account with our records. One at a time over all replicas; merged as the sweep is. */
  reconcile: Record<string, never>;
}

/**
 * Work without messages, done by every replica: `dispatch` places queued jobs on free slots, `fleet` rents what queued jobs need and lets go
 * what is idle. Each looks at everything there is to do, so nothing is lost with a wake-up.
 */
export type LoopName = 'dispatch' | 'fleet';

export type QueueName = keyof QueueMessages;
export const queueNames = [
  'instance',
  'search',
  'rent',
  'run',
  'sweep',
  'money',
  'deliver',
  'deliver_silent',
  'reconcile',
] as const satisfies QueueName[];

/** Either the database or a transaction of it: a message sent in a transaction exists only if that commits. */
export type Executor = Kysely<Tables> | Transaction<Tables>;

export interface SendOptions {
  /** Not before this many milliseconds; precise to about a second. */
  afterMs?: number;
}

export interface HandlerContext {
  /** Aborted when the service stops or when the engine gave the message to somebody else. */
  signal: AbortSignal;
}

export interface QueueHealth {
  ok: boolean;
  /** Loops whose last call failed; they are at it again. */
  failing: LoopName[];
  /** Messages that wait or are worked on, by queue. */
  depth: Partial<Record<QueueName, number>>;
}

export interface Queues {
  /** Installs the queues and begins to listen. */
  start(): Promise<void>;
  /** Works on a queue with `concurrency` handlers. A handler that throws is called again later with the same message. */
  work<Q extends QueueName>(
    queue: Q,
    concurrency: number,
    handler: (message: QueueMessages[Q], context: HandlerContext) => Promise<void>,
  ): Promise<void>;
  /** Enqueues; the wake-up leaves at commit. */
  send<Q extends QueueName>(
    executor: Executor,
    queue: Q,
    message: QueueMessages[Q],
    options?: SendOptions,
  ): Promise<void>;
  /** Those of the messages that neither wait nor are worked on: they were done, or got lost. */
  missing<Q extends QueueName>(
    executor: Executor,
    queue: Q,
    messages: QueueMessages[Q][],
  ): Promise<QueueMessages[Q][]>;
  /** Runs a loop from now on, at once and whenever it is woken. `act` may resolve with the milliseconds until it wants to look again. */
  loop(name: LoopName, act: (context: HandlerContext) => Promise<number | void>): void;
  /** Wakes a loop in every replica; the wake-up leaves at commit. */
  wake(executor: Executor, name: LoopName): Promise<void>;
  /** The same for a statement of the caller's to select, or to return. */
  waking(name: LoopName): RawBuilder<unknown>;
  /** Wakes a loop in this process. */
  wakeHere(name: LoopName): void;
  health(): Promise<QueueHealth>;
  /** Takes no more messages, aborts the running handlers' signals, waits up to `timeoutMs` for them, and hands back what did not end. */
  stop(timeoutMs: number): Promise<void>;
}
