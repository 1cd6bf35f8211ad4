// Kills a service again and again, at moments drawn at random, and starts it again at once.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../doubles/vast/random.ts';
import type { ServiceProcess } from './service-process.ts';

export interface Killing {
  readonly kills: number;
  /** Rejects when the service does not stay up by itself; else it never ends. */
  readonly broken: Promise<never>;
  /** Ends the killing and resolves when the service answers. */
  stop(): Promise<void>;
}

/** Share of the kills that hit a start: the migrations, the take-over of what a dead process left. */
const EARLY_SHARE = 0.25;
const EARLY_MS = 1_500;
/** Ends that nobody asked for, after which nothing more is expected of the service. */
const MOST_ACCIDENTS = 3;

/** The service is left alone for at most `calmMs` once it answers. Ends with `stack` at the latest. */
export function startKilling(
  service: ServiceProcess,
  random: Random,
  calmMs: number,
  stack: AsyncDisposableStack,
): Killing {
  const stopping = new AbortController();
  const broken = Promise.withResolvers<never>();
  broken.promise.catch(() => undefined);
  let kills = 0;
  const done = killOn();
  stack.defer(end);

  async function killOn(): Promise<void> {
    while (!stopping.signal.aborted) {
      if (await worstMoment()) {
        await service.kill();
        kills += 1;
      } else if (stopping.signal.aborted) return;
      if (service.accidents.length >= MOST_ACCIDENTS) {
        return broken.reject(new Error(`${service.name} does not stay up: ${service.accidents.join('; ')}`));
      }
      service.start();
    }
  }

  /** False when there is nothing to kill: it ended by itself, or no more is to be killed. */
  async function worstMoment(): Promise<boolean> {
    try {
      const isEarly = random.fraction() < EARLY_SHARE;
      if (!isEarly) await service.up();
      await sleep(random.fraction() * (isEarly ? EARLY_MS : calmMs), undefined, { signal: stopping.signal });
      return true;
    } catch {
      return false;
    }
  }

  async function end(): Promise<void> {
    stopping.abort();
    await done;
  }

  return {
    get kills() {
      return kills;
    },
    broken: broken.promise,
    async stop() {
      await end();
      await service.up();
    },
  };
}
