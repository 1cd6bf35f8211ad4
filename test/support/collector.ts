// Gathers calls, so that a test can wait for a number of them.

/** Collects what a handler is called with, and lets a test wait for a number of calls. */
export function collector<M>(): {
  calls: M[];
  add: (message: M) => void;
  reach: (count: number) => Promise<M[]>;
} {
  const calls: M[] = [];
  const waiting = new Set<() => void>();
  return {
    calls,
    add: (message) => {
      calls.push(message);
      for (const look of waiting) look();
    },
    reach: (count) =>
      new Promise((resolve) => {
        const look = (): void => {
          if (calls.length < count) return;
          waiting.delete(look);
          resolve(calls);
        };
        waiting.add(look);
        look();
      }),
  };
}
