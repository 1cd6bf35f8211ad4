// A wait that somebody else may cut short.

export interface Wake {
  /** Ends the current wait, or the next one if nobody waits. */
  now(): void;
  /** Takes back a wake-up that ended no wait yet. */
  forget(): void;
  /** Waits `ms` milliseconds or until woken; null waits for the latter alone. Rejects with the signal's reason when it is aborted. */
  wait(ms: number | null, signal: AbortSignal): Promise<void>;
}

export function createWake(): Wake {
  let woken = false;
  let end: (() => void) | null = null;
  return {
    now() {
      woken = true;
      end?.();
    },
    forget() {
      woken = false;
    },
    async wait(ms, signal) {
      signal.throwIfAborted();
      if (!woken) {
        await new Promise<void>((resolve) => {
          const timer = ms === null ? undefined : setTimeout(finish, ms);
          function finish(): void {
            clearTimeout(timer);
            signal.removeEventListener('abort', finish);
            end = null;
            resolve();
          }
          end = finish;
          signal.addEventListener('abort', finish, { once: true });
        });
      }
      signal.throwIfAborted();
      woken = false;
    },
  };
}
