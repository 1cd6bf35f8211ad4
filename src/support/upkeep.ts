// What is done again and again to keep things in order: each part by itself, and which of them succeed no more.
import { messageOf } from '../errors.ts';
import type { Logger } from './log.ts';

export interface Upkeep {
  /** One round of some parts, by name. One that fails is logged, and the others are done. */
  round(parts: Record<string, () => Promise<unknown>>, signal: AbortSignal): Promise<void>;
  /** How often each part has failed since it last succeeded. */
  failures(): ReadonlyMap<string, number>;
  /** The parts that fail again and again. */
  failing(): string[];
}

/** What fails less often may be a moment of an outage. */
const ROUNDS_OF_AN_OUTAGE = 3;

export function createUpkeep(log: Logger): Upkeep {
  const failures = new Map<string, number>();
  return {
    async round(parts, signal) {
      for (const [part, keep] of Object.entries(parts)) {
        try {
          await keep();
          failures.set(part, 0);
        } catch (error) {
          if (signal.aborted) throw error;
          const count = (failures.get(part) ?? 0) + 1;
          failures.set(part, count);
          const level = count < ROUNDS_OF_AN_OUTAGE ? 'warn' : 'error';
          log[level]({ part, rounds: count, error: messageOf(error) }, 'the upkeep failed and is done again');
        }
      }
    },
    failures: () => failures,
    failing: () => [...failures].flatMap(([part, count]) => (count < ROUNDS_OF_AN_OUTAGE ? [] : [part])),
  };
}
