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

/** The clocks of replicas differ by less. */
const SKEW_MS = 60_000;

/**
 * Whether a time that began at `since` is over. Also where it began so far in the future that a clock was set back since: nobody knows
 * how long ago that was, and to wait for it would take as much longer.
 */
export function isOver(since: Date, limitMs: number, now: Date): boolean {
  const lastedMs = now.getTime() - since.getTime();
  return lastedMs >= limitMs || lastedMs < -SKEW_MS;
}

/** When something began that lasts: as noted, or now. What was noted of the future, before a clock was set back, begins anew. */
export function begunAt(noted: Date | null, now: Date): Date {
  return noted === null || noted > now ? now : noted;
}
