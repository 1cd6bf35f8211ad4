// Why an attempt should stop, and what that means for its job: pure.
import type { RunState } from './run-state.ts';
import type { Verdict } from './verdict.ts';

/** Why a prompt should stop. */
export type Stop = 'canceled' | 'time_limit' | 'wait_limit';

/**
 * Why the attempt should stop now, from the record and the clock alone; null while it should go on. Staging and executing share the
 * time limit; waiting in line on the instance has its own, and what is done already is collected however long that takes.
 */
export function stopOf(state: RunState, now: Date): Stop | null {
  const { createdAt, submittedAt, startedAt, timeLimitMs, waitLimitMs } = state;
  if (state.jobStatus === 'canceling') return 'canceled';
  if (state.attemptStatus === 'collecting') return null;
  const after = (from: Date, ms: number) => new Date(from.getTime() + ms);
  if (submittedAt !== null && startedAt === null)
    return ifDue('wait_limit', after(submittedAt, waitLimitMs), now);
  if (submittedAt === null || startedAt === null)
    return ifDue('time_limit', after(createdAt, timeLimitMs), now);
  const stagedMs = submittedAt.getTime() - createdAt.getTime();
  return ifDue('time_limit', after(startedAt, Math.max(0, timeLimitMs - stagedMs)), now);
}

function ifDue(stop: Stop, from: Date, now: Date): Stop | null {
  return from <= now ? stop : null;
}

/** What a stopped prompt means for the job. `confirmed` is false when ComfyUI never said that it has stopped. */
export function verdictOfStop(stop: Stop, state: RunState, confirmed: boolean): Verdict {
  const doubt = confirmed ? '' : ' ComfyUI has not confirmed that it stopped.';
  if (stop === 'canceled') return { kind: 'canceled', reason: `It was canceled on request.${doubt}` };
  return { kind: 'failed', error: { code: stop, detail: limitText(stop, state) + doubt } };
}

function limitText(limit: 'time_limit' | 'wait_limit', state: RunState): string {
  if (limit === 'wait_limit')
    return `ComfyUI did not come to the job within its limit of ${state.waitLimitMs / 1000} s.`;
  const seconds = state.timeLimitMs / 1000;
  return state.submittedAt === null
    ? `The inputs of the job did not reach the instance within its time limit of ${seconds} s.`
    : `The job ran longer than its limit of ${seconds} s.`;
}
