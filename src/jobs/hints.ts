// When to look at a prompt again: its events and a request to stop say so early, but never what is true.
import type { ComfySession } from '../comfyui/session.ts';
import { watchStop } from './events.ts';
import type { Run } from './run-state.ts';
import { createWake } from '../support/wake.ts';

const FIRST_MS = 200;
/** A prompt begins and ends once, and some of that is told twice. What is told without end must not be looked at without end. */
const MOST_TURNS = 10;

export interface Hints {
  /** Waits until it is worth looking again; rejects with the reason of the run's signal. */
  wait(options: { stopping: boolean }): Promise<void>;
  /** Waits for the first of them, but not long: a prompt that waits in line has none to tell. */
  first(): Promise<void>;
  stop(): void;
}

/** Watches the prompt under the client id that it was, or will be, submitted with. Begin before the submit. */
export function watchPrompt(run: Run, session: ComfySession): Hints {
  const { timing, ref, state } = run;
  const wake = createWake();
  let live = state.clientId !== null;
  let looksAfterEnd: number | null = null;
  let turns = 0;

  function turn(): void {
    turns += 1;
    if (turns <= MOST_TURNS) wake.now();
  }

  const unwatchPrompt =
    state.clientId === null
      ? () => {}
      : session.watch(ref.attemptId, state.clientId, (event) => {
          run.progress.note(event);
          if (event.kind === 'stream_lost') live = false;
          if (event.kind === 'ended') looksAfterEnd ??= 0;
          if (event.kind === 'started' || event.kind === 'ended' || event.kind === 'stream_lost') turn();
        });
  const unwatchStop = watchStop(run.deps.notifications, ref.jobId, () => wake.now());

  /** ComfyUI 0.33 announces the end a moment before it writes the history. */
  function intervalMs(stopping: boolean): number {
    if (looksAfterEnd === null) {
      return live && session.connected && !stopping ? timing.pollMs : timing.blindPollMs;
    }
    looksAfterEnd += 1;
    return Math.min(timing.blindPollMs, timing.endedPollMs * 2 ** (looksAfterEnd - 1));
  }

  return {
    wait: ({ stopping }) => wake.wait(intervalMs(stopping), run.signal),
    first: () => wake.wait(live ? FIRST_MS : 0, run.signal),
    stop() {
      unwatchPrompt();
      unwatchStop();
    },
  };
}
