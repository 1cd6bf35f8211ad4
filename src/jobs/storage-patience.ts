// Patience with our own storage, which may be full or out of reach for a while.
import { ServiceError } from '../errors.ts';
import { backoffMs } from '../support/backoff.ts';
import { sleep } from '../support/sleep.ts';
import type { Run } from './run-state.ts';
import type { AttemptEnd } from './verdict.ts';

/**
 * Does `work` until the storage has nothing against it: neither the work of a GPU nor the job of a caller is lost to an outage.
 * When that lasts too long, rejects with what `giveUp` makes of `trouble`, as in '"a.png" could not be stored', and its reason.
 */
export async function withStoragePatience<T>(
  { timing, log, progress }: Run,
  trouble: string,
  work: () => Promise<T>,
  { giveUp, signal }: { giveUp: (detail: string) => AttemptEnd; signal: AbortSignal },
): Promise<T> {
  const { retryMs: baseMs, retryCapMs: capMs, storageMs: patienceMs } = timing;
  /** The first trouble: how long the work took until then does not count. */
  let since: number | null = null;
  for (let tries = 1; ; tries += 1) {
    try {
      return await work();
    } catch (error) {
      signal.throwIfAborted();
      if (!isStorageTrouble(error)) throw error;
      since ??= performance.now();
      const waitedMs = performance.now() - since;
      if (waitedMs >= patienceMs)
        throw giveUp(`${trouble} for ${Math.round(waitedMs / 1000)} s. ${error.message}`);
      log.warn({ err: error, tries, trouble }, 'the storage is full or out of reach; trying again');
      const state = error.code === 'storage_full' ? 'full' : 'out of reach';
      const message = `${trouble}: the storage for files is ${state}. The job waits for it and goes on.`;
      progress.note({ kind: 'warning', message });
    }
    await sleep(backoffMs(tries, { baseMs, capMs }), signal);
  }
}

export function isStorageTrouble(error: unknown): error is ServiceError {
  return error instanceof ServiceError && ['storage_full', 'storage_unavailable'].includes(error.code);
}
