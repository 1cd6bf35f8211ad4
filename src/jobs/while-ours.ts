// Long work that ends early when it is for nothing.
import { watchStop } from './events.ts';
import { AttemptTaken, refresh, type Run } from './run-state.ts';
import { stopOf, verdictOfStop } from './stop.ts';
import { AttemptEnd } from './verdict.ts';
import { createWake } from '../support/wake.ts';

/**
 * Does `work` with a signal that is aborted when the attempt is taken away, or should stop. Rejects then with the reason:
 * `AttemptTaken`, or `AttemptEnd` with the verdict of a stop that nobody need confirm.
 */
export async function whileOurs<T>(run: Run, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  // As the record was last read.
  endIfStopped(run);
  const stopping = new AbortController();
  const over = new AbortController();
  const wake = createWake();
  const unwatch = watchStop(run.deps.notifications, run.ref.jobId, () => wake.now());

  async function guard(): Promise<void> {
    const signal = AbortSignal.any([run.signal, over.signal]);
    for (;;) {
      await wake.wait(run.timing.guardMs, signal);
      await look(run);
      endIfStopped(run);
    }
  }

  const guarding = guard().catch((error: unknown) => {
    if (!over.signal.aborted) stopping.abort(error);
  });
  try {
    // Nothing that it began goes on after it.
    return await work(AbortSignal.any([run.signal, stopping.signal, over.signal]));
  } catch (error) {
    stopping.signal.throwIfAborted();
    throw error;
  } finally {
    over.abort();
    unwatch();
    await guarding;
  }
}

/** A database out of reach says nothing of the attempt, so the work goes on: what it leads to is written when it can be. */
async function look(run: Run): Promise<void> {
  try {
    await refresh(run);
  } catch (error) {
    if (error instanceof AttemptTaken) throw error;
    run.log.warn({ err: error }, 'the record of the attempt could not be read; its work goes on');
  }
}

function endIfStopped({ state, deps }: Run): void {
  const stop = stopOf(state, deps.clock.now());
  if (stop !== null) throw new AttemptEnd(verdictOfStop(stop, state, true));
}
