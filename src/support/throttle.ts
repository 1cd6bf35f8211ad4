// Work that is wanted often and done at intervals.

export interface Throttle {
  /** Does the work, soon or when the interval since the last time is over. Asking meanwhile adds nothing. */
  ask(): void;
  /** Begins no more; resolves when nothing is being done. */
  stop(): Promise<void>;
}

/** `work` must not reject; it is never done twice at once, and not before `leadMs` milliseconds have passed since it was asked for. */
export function createThrottle(intervalMs: number, work: () => Promise<void>, leadMs = 0): Throttle {
  let timer: NodeJS.Timeout | null = null;
  let lastAt = -Infinity;
  let working = Promise.resolve();
  let stopped = false;
  return {
    ask() {
      if (stopped || timer !== null) return;
      const waitMs = Math.max(leadMs, lastAt + intervalMs - performance.now());
      timer = setTimeout(() => {
        timer = null;
        lastAt = performance.now();
        working = working.then(work);
      }, waitMs);
    },
    async stop() {
      stopped = true;
      if (timer !== null) clearTimeout(timer);
      timer = null;
      await working;
    },
  };
}
