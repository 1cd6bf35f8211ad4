// The double's time: real by default, or a test's own.

export interface Timer {
  cancel(): void;
}

export interface DoubleClock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Calls `run` once after `ms` milliseconds, unless cancelled. */
  schedule(ms: number, run: () => void): Timer;
}

/** The longest wait that `setTimeout` keeps; beyond it nothing is scheduled, because no test lives that long. */
const longestTimerMs = 2 ** 31 - 1;

export const systemClock: DoubleClock = {
  now: () => Date.now(),
  schedule(ms, run) {
    if (ms > longestTimerMs) return { cancel() {} };
    const timer = setTimeout(run, ms);
    return { cancel: () => clearTimeout(timer) };
  },
};

export interface ManualClock extends DoubleClock {
  /** Moves the time on; what falls due on the way runs in its order, what that schedules included. */
  advance(ms: number): void;
}

/** A clock that stands still unless it is moved. */
export function manualClock(startMs = Date.UTC(2026, 0, 1)): ManualClock {
  const pending = new Set<{ atMs: number; run: () => void }>();
  let nowMs = startMs;
  return {
    now: () => nowMs,
    schedule(ms, run) {
      const entry = { atMs: nowMs + ms, run };
      pending.add(entry);
      return { cancel: () => pending.delete(entry) };
    },
    advance(ms) {
      const untilMs = nowMs + ms;
      for (;;) {
        const due = [...pending].filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0];
        if (due === undefined) break;
        pending.delete(due);
        nowMs = Math.max(nowMs, due.atMs);
        due.run();
      }
      nowMs = untilMs;
    },
  };
}
