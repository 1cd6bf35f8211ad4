// How long to wait before the next try.

export interface BackoffOptions {
  /** The first wait in milliseconds, before jitter. */
  baseMs: number;
  /** The longest wait in milliseconds. */
  capMs: number;
  /** A number in [0, 1); tests give a fixed one. */
  random?: () => number;
}

/** The wait before try `attempt` (1 is the first repetition): doubles up to the cap, with up to half of it as jitter. */
export function backoffMs(attempt: number, { baseMs, capMs, random = Math.random }: BackoffOptions): number {
  const full = Math.min(capMs, baseMs * 2 ** Math.max(0, attempt - 1));
  return Math.round(full / 2 + (full / 2) * random());
}
