// Following a submitted prompt to its end. The truth is ComfyUI's history and queue; events only make it fast.
import type { ComfyClient, HistoryEntry } from '../comfyui/client.ts';
import { ComfyError } from '../comfyui/errors.ts';
import type { ComfySession } from '../comfyui/session.ts';
import type { Hints } from './hints.ts';
import { refresh, updateAttempt, type Run } from './run-state.ts';
import { stopOf, verdictOfStop, type Stop } from './stop.ts';
import { AttemptEnd, type Verdict } from './verdict.ts';

/** A prompt must be seen nowhere this often in a row before it counts as lost: the price of a mistake is a second execution. */
const LOOKS_UNTIL_LOST = 2;

/** What a prompt left behind, and why it was told to stop, if it was. */
export interface Finished {
  entry: HistoryEntry;
  stop: Stop | null;
}

/** Resolves when ComfyUI's history has the prompt. Throws `AttemptEnd` where it never will. `reached` is called at each answer. */
export async function follow(
  run: Run,
  session: ComfySession,
  hints: Hints,
  reached: () => void,
): Promise<Finished> {
  const { client } = session;
  const promptId = run.ref.attemptId;
  const stall = createStall(run);
  let absentLooks = 0;
  for (;;) {
    const state = await refresh(run);
    const due = stopOf(state, run.deps.clock.now());
    const stop = certainStop(run, due);
    // An interrupt may come too early or too late to have an effect, so it is repeated until there is one.
    if (stop !== null) await askToStop(run, client);
    const place = await client.locate(promptId, run.signal);
    reached();
    absentLooks = place.kind === 'absent' ? absentLooks + 1 : 0;
    switch (place.kind) {
      case 'finished':
        return { entry: place.entry, stop };
      case 'absent':
        // A prompt that is canceled before it starts leaves no history.
        if (stop !== null) throw new AttemptEnd(verdictOfStop(stop, state, true));
        if (absentLooks < LOOKS_UNTIL_LOST) break;
        throw new AttemptEnd(due === null ? forgotten() : verdictOfStop(due, state, true));
      case 'running':
        run.progress.enter('executing');
        // One that was told to stop for having waited too long did not begin in time.
        if (state.startedAt === null && stop === null)
          await updateAttempt(run, { started_at: run.deps.clock.now() });
        break;
      case 'pending':
        run.progress.enter('waiting');
        stall.look(place.idle);
        if (due === stop) break;
        run.waitedInVain = true;
        continue;
    }
    endUnconfirmed(run, stop);
    await hints.wait({ stopping: stop !== null });
  }
}

/** What is due, unless only a look can tell: a prompt may have begun since it was last seen in line, when nobody could look. */
export function certainStop(run: Run, due: Stop | null): Stop | null {
  return due === 'wait_limit' && !run.waitedInVain ? null : due;
}

/** Whether it helped is seen later, also where the call itself failed. */
export async function askToStop({ ref, signal, log }: Run, client: ComfyClient): Promise<void> {
  try {
    await client.cancel(ref.attemptId, signal);
  } catch (error) {
    if (!(error instanceof ComfyError)) throw error;
    log.warn({ err: error }, 'a prompt could not be told to stop; it is told again');
  }
}

/** Ends the attempt when nobody need confirm its stop, or it has been asked for long enough: a wedged ComfyUI confirms nothing. */
export function endUnconfirmed(run: Run, stop: Stop | null): void {
  if (stop === null) return;
  const { clientId, attemptStatus } = run.state;
  if (clientId === null || attemptStatus === 'collecting')
    throw new AttemptEnd(verdictOfStop(stop, run.state, true));
  const now = run.deps.clock.now();
  run.stoppingSince ??= now;
  const lasted = now.getTime() - run.stoppingSince.getTime();
  if (lasted < run.timing.confirmStopMs) return;
  run.log.error({ because: stop, lasted }, 'ComfyUI does not stop a prompt; its slot is given free');
  run.wedged = true;
  throw new AttemptEnd(verdictOfStop(stop, run.state, false));
}

/** ComfyUI 0.33: the thread that runs the queue can end while the server still answers, and then nothing runs again. */
function createStall(run: Run): { look(idle: boolean): void } {
  let since: number | null = null;
  return {
    look(idle) {
      const now = run.deps.clock.now().getTime();
      since = idle ? (since ?? now) : null;
      if (since === null || now - since < run.timing.stalledMs) return;
      run.wedged = true;
      const reason = `ComfyUI accepted the workflow and has run nothing for ${Math.round((now - since) / 1000)} s.`;
      throw new AttemptEnd({ kind: 'lost', code: 'prompt_lost', reason });
    },
  };
}

function forgotten(): Verdict {
  const reason = 'ComfyUI no longer knows the workflow that it was given; it was probably started again.';
  return { kind: 'lost', code: 'prompt_lost', reason };
}
