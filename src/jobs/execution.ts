// When a prompt executed, from ComfyUI's history and our record of the attempt: pure.
import type { HistoryEntry } from '../comfyui/client.ts';
import type { RunState } from './run-state.ts';
import { stopOf } from './stop.ts';

export interface ExecutionTimes {
  startedAt: Date;
  executedAt: Date;
}

/**
 * By our clock, with the duration by ComfyUI's: the clocks of rented machines are wrong at times. It may have run for a while when
 * that was first seen, and been done for long when that was.
 */
export function timesOf(
  { startedAt, submittedAt }: RunState,
  entry: HistoryEntry,
  now: Date,
): ExecutionTimes {
  const seen = (startedAt ?? now).getTime();
  const durationMs = durationOf(entry);
  const executed = durationMs === null ? now.getTime() : Math.min(now.getTime(), seen + durationMs);
  const begun = Math.max(executed - (durationMs ?? 0), submittedAt?.getTime() ?? 0);
  return { startedAt: new Date(Math.min(seen, begun)), executedAt: new Date(executed) };
}

/** Whether nothing was due yet when it failed, however late that is seen: then nobody has interrupted it. */
export function failedInTime(state: RunState, entry: HistoryEntry): boolean {
  const durationMs = durationOf(entry);
  if (entry.outcome !== 'failed' || state.startedAt === null || durationMs === null) return false;
  return stopOf(state, new Date(state.startedAt.getTime() + durationMs)) === null;
}

/** Null where ComfyUI does not say, or its clock was set back meanwhile. */
function durationOf({ startedAt, endedAt }: HistoryEntry): number | null {
  if (startedAt === null || endedAt === null || endedAt < startedAt) return null;
  return endedAt.getTime() - startedAt.getTime();
}
