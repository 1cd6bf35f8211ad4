// Works on one queue: claims as many messages as there are free hands, keeps the claims alive, settles each.
import type { Logger } from 'pino';
import { createWake } from '../support/wake.ts';
import type { HandlerContext } from './queues.ts';
import { waitAtMost } from './within.ts';

/** One claim of one message. A message that is claimed again has a higher `retryCount`, which fences off the older claim. */
export interface Claim {
  id: string;
  retryCount: number;
}

export interface ClaimedMessage<M> extends Claim {
  data: M;
}

/** What the worker needs of a queue. Settling a claim that is no longer ours has no effect. */
export interface ClaimStore<M> {
  claim(limit: number): Promise<ClaimedMessage<M>[]>;
  /** Keeps claims alive; returns those that are still ours. */
  touch(claims: Claim[]): Promise<Claim[]>;
  /** Resolves with whether another message of its key is due, which no claim could take beside it. */
  complete(claim: Claim): Promise<boolean>;
  /** Gives back after a failure, for later. */
  retry(claim: Claim, error: unknown): Promise<void>;
  /** Gives back for somebody else, at once. */
  release(claims: Claim[]): Promise<void>;
}

export interface WorkerOptions<M> {
  name: string;
  store: ClaimStore<M>;
  concurrency: number;
  handler: (message: M, context: HandlerContext) => Promise<void>;
  /** After a claim that failed. */
  retryMs: number;
  /** How often claims are touched. */
  touchMs: number;
  log: Logger;
}

export interface Worker {
  /** Looks for messages now. */
  wake(): void;
  /** False while the queue cannot be reached. */
  healthy(): boolean;
  /** Claims no more, aborts the handlers' signals, waits up to `timeoutMs` for them and releases what did not end. */
  stop(timeoutMs: number): Promise<void>;
}

/** Tells a claim from an earlier one of the same message. */
export function claimKey({ id, retryCount }: Claim): string {
  return `${id}:${retryCount}`;
}

/** How many messages to ask for: a power of two, since each number makes a statement of its own that every connection keeps. */
function batchSize(free: number): number {
  return 2 ** Math.floor(Math.log2(free));
}

interface Held<M> {
  message: ClaimedMessage<M>;
  lost: AbortController;
  ended: Promise<void>;
}

/** Looks for nothing before it is woken: who starts many asks for all of them at once which have something to do. */
export function startWorker<M>(options: WorkerOptions<M>): Worker {
  const { name, store, concurrency, handler, retryMs, touchMs, log } = options;
  const held = new Set<Held<M>>();
  const stopping = new AbortController();
  let closed = false;
  let healthy = true;
  let claims = 0;
  const alarm = createWake();
  const wake = (): void => alarm.now();

  async function loop(): Promise<void> {
    while (!stopping.signal.aborted) {
      // What comes after it looked brings a wake-up of its own.
      await alarm.wait(healthy ? null : retryMs, stopping.signal).catch(() => undefined);
      await claimAll();
    }
  }

  /** Claims until nothing more is due, or no hand is free. */
  async function claimAll(): Promise<void> {
    while (!stopping.signal.aborted && held.size < concurrency) {
      const asked = batchSize(concurrency - held.size);
      const messages = await claim(asked);
      for (const message of messages) take(message);
      if (messages.length < asked) return;
    }
  }

  async function claim(limit: number): Promise<ClaimedMessage<M>[]> {
    claims += 1;
    try {
      const messages = await store.claim(limit);
      healthy = true;
      if (!stopping.signal.aborted) return messages;
      await store.release(messages);
    } catch (error) {
      healthy = false;
      log.warn({ err: error, queue: name }, 'The queue cannot be reached');
    }
    return [];
  }

  function take(message: ClaimedMessage<M>): void {
    const lost = new AbortController();
    const entry: Held<M> = { message, lost, ended: Promise.resolve() };
    held.add(entry);
    entry.ended = handle(message, AbortSignal.any([stopping.signal, lost.signal])).finally(() => {
      // Where there was a hand free all the time, it has looked already.
      if (held.size === concurrency) wake();
      held.delete(entry);
    });
  }

  async function handle(message: ClaimedMessage<M>, signal: AbortSignal): Promise<void> {
    let failure: { error: unknown } | null = null;
    try {
      await handler(message.data, { signal });
    } catch (error) {
      failure = { error };
    }
    if (closed) return;
    try {
      if (failure === null) {
        const before = claims;
        const follows = await store.complete(message);
        // A claim meanwhile may have left out what came too late for the answer.
        if (follows || claims > before) wake();
        return;
      }
      if (stopping.signal.aborted) return await store.release([message]);
      log.warn({ err: failure.error, queue: name, message: message.data }, 'A message failed and comes back');
      await store.retry(message, failure.error);
      // Another of its key may go first.
      wake();
    } catch (error) {
      // The claim runs out, and the message comes back by that.
      log.warn({ err: error, queue: name, message: message.data }, 'A message could not be settled');
    }
  }

  let touching = false;
  async function touch(): Promise<void> {
    const entries = [...held].filter(({ lost }) => !lost.signal.aborted);
    if (entries.length === 0 || touching) return;
    touching = true;
    try {
      const ours = new Set((await store.touch(entries.map(({ message }) => message))).map(claimKey));
      for (const { message, lost } of entries) {
        if (!ours.has(claimKey(message))) lost.abort(new Error('The message was given to somebody else'));
      }
    } catch (error) {
      // Whether the claims still hold is unknown, so nothing is aborted.
      log.warn({ err: error, queue: name }, 'The claims of a queue could not be kept alive');
    } finally {
      touching = false;
    }
  }

  const toucher = setInterval(() => void touch(), touchMs);
  const looping = loop();

  return {
    wake,
    healthy: () => healthy,
    stop: async (timeoutMs) => {
      stopping.abort(new Error('The service stops'));
      await waitAtMost(
        timeoutMs,
        looping.then(() => Promise.all([...held].map((entry) => entry.ended))),
      );
      closed = true;
      clearInterval(toucher);
      if (held.size > 0) {
        log.warn(
          { queue: name, messages: held.size },
          'Handlers did not end in time; their messages are given back',
        );
        await store.release([...held].map(({ message }) => message)).catch((error: unknown) => {
          log.warn(
            { err: error, queue: name },
            'Messages could not be given back; they come back when their claims end',
          );
        });
      }
    },
  };
}
