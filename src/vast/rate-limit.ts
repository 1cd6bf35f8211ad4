// Calls wait their turn, endpoint by endpoint, so that vast.ai's minimum intervals hold however many instances ask.
import { sleep } from '../support/sleep.ts';
import type { EndpointName, Pace } from './endpoints.ts';

export interface Pacer {
  /** Resolves when the call may be sent, in the order of asking; rejects with the signal's reason as soon as it is aborted. */
  turn(endpoint: EndpointName, signal?: AbortSignal): Promise<void>;
  /** Whether a call would be sent at once. */
  isFree(endpoint: EndpointName): boolean;
  /** Sends nothing to the endpoint for `ms` milliseconds from now: the answer to a 429. */
  hold(endpoint: EndpointName, ms: number): void;
}

interface Lane {
  pace: Pace;
  /** Settles when the last one in the queue has been let through or has gone. */
  tail: Promise<void>;
  waiting: number;
  /** When the latest calls started, at most `pace.calls` of them, oldest first. */
  starts: number[];
  heldUntil: number;
}

/** What tells the time and waits. `now` is monotonic, in milliseconds; `wait` rejects with the signal's reason. */
export interface PacerTime {
  now: () => number;
  wait: (ms: number, signal?: AbortSignal) => Promise<void>;
}

const realTime: PacerTime = { now: () => performance.now(), wait: sleep };

export function createPacer(paces: Record<EndpointName, Pace>, time = realTime): Pacer {
  const { now } = time;
  const lanes = new Map<string, Lane>(
    Object.entries(paces).map(([name, pace]) => [name, emptyLane(pace)] as const),
  );
  const lane = (name: EndpointName): Lane => {
    const found = lanes.get(name);
    if (found === undefined) throw new Error(`no pace for ${name}`);
    return found;
  };

  return {
    async turn(endpoint, signal) {
      const queue = lane(endpoint);
      queue.waiting += 1;
      const mine = queue.tail.then(() => letThrough(queue, time, signal));
      queue.tail = mine.catch(() => {}).finally(() => (queue.waiting -= 1));
      await orAborted(mine, signal);
    },
    isFree(endpoint) {
      const queue = lane(endpoint);
      return queue.waiting === 0 && waitMs(queue, now()) <= 0;
    },
    hold(endpoint, ms) {
      const queue = lane(endpoint);
      queue.heldUntil = Math.max(queue.heldUntil, now() + ms);
    },
  };
}

/** The promise's result, or the signal's reason if that comes first; the promise goes on unheard. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

function emptyLane(pace: Pace): Lane {
  return { pace, tail: Promise.resolve(), waiting: 0, starts: [], heldUntil: 0 };
}

async function letThrough(
  lane: Lane,
  { now, wait }: PacerTime,
  signal: AbortSignal | undefined,
): Promise<void> {
  signal?.throwIfAborted();
  // Looked at again after each wait, because a 429 may have put the time off meanwhile.
  for (let ms = waitMs(lane, now()); ms > 0; ms = waitMs(lane, now())) await wait(Math.ceil(ms), signal);
  lane.starts.push(now());
  if (lane.starts.length > lane.pace.calls) lane.starts.shift();
}

function waitMs({ pace, starts, heldUntil }: Lane, at: number): number {
  const oldest = starts[0];
  const free = starts.length < pace.calls || oldest === undefined ? 0 : oldest + pace.perMs;
  return Math.max(free, heldUntil) - at;
}
