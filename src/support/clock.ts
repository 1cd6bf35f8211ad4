// The time as the domain sees it, so that a test can move it.

export interface Clock {
  now(): Date;
}

export const systemClock: Clock = { now: () => new Date() };

/**
 * Whether what happened at `at` is less than `limitMs` old. What lies in the future was written before a clock was set back:
 * nobody knows how old it is.
 */
export function isFresh(at: Date, limitMs: number, now: Date): boolean {
  const ageMs = now.getTime() - at.getTime();
  return ageMs >= 0 && ageMs < limitMs;
}
