// Long work that ends early when it is for nothing.
import { AttemptEnd } from './attempt.ts';
import { watchStop } from './events.ts';
import { refresh, stopOf, verdictOfStop, type Run } from './run-state.ts';
import { createWake } from './wake.ts';

/**
 * Does `work` with a signal that is aborted when the attempt is taken away, or the job should stop and `evenIfCanceled` is false.
 * Rejects then with the reason: `AttemptTaken`, or `AttemptEnd` with the verdict.
 */
export async function whileOurs<T>(
  run: Run,
  { evenIfCanceled }: { evenIfCanceled: boolean },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const stopping = new AbortController();
  const over = new AbortController();
  const wake = createWake();
  const unwatch = watchStop(run.deps.notifications, run.ref.jobId, () => wake.now());

  async function guard(): Promise<void> {
    const signal = AbortSignal.any([run.signal, over.signal]);
    for (;;) {
      const state = await refresh(run);
      const stop = evenIfCanceled ? null : stopOf(state, run.deps.clock.now());
      if (stop !== null) throw new AttemptEnd(verdictOfStop(stop, state, true));
      await wake.wait(run.timing.guardMs, signal);
    }
  }

  const guarding = guard().catch((error: unknown) => {
    if (!over.signal.aborted) stopping.abort(error);
  });
  try {
    return await work(AbortSignal.any([run.signal, stopping.signal]));
  } catch (error) {
    stopping.signal.throwIfAborted();
    throw error;
  } finally {
    over.abort();
    unwatch();
    await guarding;
  }
}
