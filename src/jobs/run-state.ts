// One attempt under way, as the process that runs it sees it: its record, its fence, and whether it should stop.
import type { Logger } from 'pino';
import type { AttemptRow } from '../database/tables.ts';
import type { AttemptRef, CollectedOutput, Verdict } from './attempt.ts';
import { defaultTiming, type RunDeps, type RunTiming } from './deps.ts';
import type { AttemptStatus, JobProgress, JobStatus, Workflow } from './job.ts';
import { createProgressWriter, type ProgressWriter } from './progress-writer.ts';

/** What decides the next move; read again before each. */
export interface RunState {
  jobStatus: JobStatus;
  cancelRequestedAt: Date | null;
  timeLimitMs: number;
  waitLimitMs: number;
  attemptStatus: AttemptStatus;
  /** Set means that the prompt may have been submitted. */
  clientId: string | null;
  submittedAt: Date | null;
  startedAt: Date | null;
}

export interface Run {
  deps: RunDeps;
  ref: AttemptRef;
  timing: RunTiming;
  log: Logger;
  /** Aborted when the service stops; then somebody else goes on with the attempt. */
  signal: AbortSignal;
  /** As it was accepted, without its inputs. */
  workflow: Workflow;
  state: RunState;
  progress: ProgressWriter;
  /** Files that are stored already, by what ComfyUI calls them: a second try to collect goes on where the first stopped. */
  collected: Map<string, Pick<CollectedOutput, 'assetId' | 'kind'>>;
  /** Submits without a usable answer. */
  vainSubmits: number;
  touchedAt: number;
}

/** Thrown when the attempt is no longer the job's: it was ended by somebody else, and nothing more may be written. */
export class AttemptTaken extends Error {
  constructor() {
    super('The attempt was ended by somebody else');
    this.name = 'AttemptTaken';
  }
}

/** Why a prompt should stop, and since when. */
export interface Stop {
  because: 'canceled' | 'time_limit' | 'wait_limit';
  since: Date;
}

const TOUCH_MS = 10_000;

/** Loads the attempt of a message. Null when the attempt is over: the message came late or twice. */
export async function openRun(deps: RunDeps, ref: AttemptRef, signal: AbortSignal): Promise<Run | null> {
  const state = await loadState(deps, ref);
  if (state === null) return null;
  const { workflow, progress } = await deps.db
    .selectFrom('jobs')
    .select(['workflow', 'progress'])
    .where('id', '=', ref.jobId)
    .executeTakeFirstOrThrow();
  const timing = { ...defaultTiming, ...deps.timing };
  const log = deps.log.child({ jobId: ref.jobId, attemptId: ref.attemptId, instanceId: ref.instanceId });
  const before: JobProgress | null = progress;
  return {
    deps,
    ref,
    timing,
    log,
    signal,
    workflow,
    state,
    progress: createProgressWriter({
      db: deps.db,
      ref,
      workflow,
      before,
      intervalMs: timing.progressMs,
      log,
    }),
    collected: new Map(),
    vainSubmits: 0,
    touchedAt: 0,
  };
}

/** Reads the record again. Throws `AttemptTaken` when the attempt is over. */
export async function refresh(run: Run): Promise<RunState> {
  const state = await loadState(run.deps, run.ref);
  if (state === null) throw new AttemptTaken();
  run.state = state;
  const now = run.deps.clock.now();
  if (now.getTime() - run.touchedAt >= TOUCH_MS) {
    run.touchedAt = now.getTime();
    await updateAttempt(run, { touched_at: now });
  }
  return state;
}

type AttemptUpdate = Partial<
  Pick<AttemptRow, 'status' | 'client_id' | 'touched_at' | 'submitted_at' | 'started_at' | 'executed_at'>
>;

/** Writes to the attempt while it has not ended; `onlyIf` narrows that further. False when nothing was written. */
export async function updateAttempt(
  { deps, ref }: Run,
  update: AttemptUpdate,
  onlyIf: { status?: AttemptStatus; clientId?: string | null } = {},
): Promise<boolean> {
  let query = deps.db
    .updateTable('attempts')
    .set(update)
    .where('id', '=', ref.attemptId)
    .where('status', '<>', 'ended');
  if (onlyIf.status !== undefined) query = query.where('status', '=', onlyIf.status);
  if (onlyIf.clientId !== undefined)
    query = query.where('client_id', 'is not distinct from', onlyIf.clientId);
  const result = await query.executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

/** Why the prompt should stop now, from the record and the clock alone; null while it should go on. */
export function stopOf(state: RunState, now: Date): Stop | null {
  if (state.jobStatus === 'canceling') return { because: 'canceled', since: state.cancelRequestedAt ?? now };
  const due = (from: Date, limitMs: number) => new Date(from.getTime() + limitMs);
  if (state.startedAt !== null) {
    const since = due(state.startedAt, state.timeLimitMs);
    return since <= now ? { because: 'time_limit', since } : null;
  }
  if (state.submittedAt === null) return null;
  const since = due(state.submittedAt, state.waitLimitMs);
  return since <= now ? { because: 'wait_limit', since } : null;
}

/** What a stopped prompt means for the job. `confirmed` is false when ComfyUI never said that it has stopped. */
export function verdictOfStop({ because }: Stop, state: RunState, confirmed: boolean): Verdict {
  const doubt = confirmed ? '' : ' ComfyUI has not confirmed that it stopped.';
  if (because === 'canceled') return { kind: 'canceled', reason: `It was canceled on request.${doubt}` };
  const detail =
    because === 'time_limit'
      ? `The job ran longer than its limit of ${state.timeLimitMs / 1000} s.`
      : `ComfyUI did not come to the job within its limit of ${state.waitLimitMs / 1000} s.`;
  return { kind: 'failed', error: { code: because, detail: detail + doubt } };
}

async function loadState({ db }: RunDeps, ref: AttemptRef): Promise<RunState | null> {
  const row = await db
    .selectFrom('jobs')
    .innerJoin('attempts', 'attempts.id', 'jobs.attempt_id')
    .innerJoin('slots', 'slots.job_id', 'jobs.id')
    .select([
      'jobs.status as jobStatus',
      'jobs.cancel_requested_at as cancelRequestedAt',
      'jobs.time_limit_ms as timeLimitMs',
      'jobs.wait_limit_ms as waitLimitMs',
      'attempts.status as attemptStatus',
      'attempts.client_id as clientId',
      'attempts.submitted_at as submittedAt',
      'attempts.started_at as startedAt',
    ])
    .where('jobs.id', '=', ref.jobId)
    .where('jobs.status', 'in', ['running', 'canceling'])
    .where('attempts.id', '=', ref.attemptId)
    .where('slots.instance_id', '=', ref.instanceId)
    .where('slots.slot', '=', ref.slot)
    .executeTakeFirst();
  return row ?? null;
}
