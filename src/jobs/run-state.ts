// One attempt under way, as the process that runs it sees it: its record, its fence, and whether it should stop.
import type { Logger } from 'pino';
import type { ComfySession } from '../comfyui/session.ts';
import type { AttemptRow } from '../database/tables.ts';
import type { AttemptRef } from './attempt.ts';
import { timingOf, type RunDeps, type RunTiming } from './deps.ts';
import type { AttemptStatus, JobInput, JobStatus, Workflow } from './job.ts';
import { previewLimits } from './preview-writer.ts';
import { arePreviewsAskedFor } from './previews.ts';
import { createProgressWriter, type ProgressWriter } from './progress-writer.ts';
import { storedWorkflow } from './records.ts';
import type { CollectedFile } from './verdict.ts';

/** What decides the next move, as it was last read or written. */
export interface RunState {
  jobStatus: JobStatus;
  timeLimitMs: number;
  waitLimitMs: number;
  attemptStatus: AttemptStatus;
  /** Set means that the prompt may have been submitted. */
  clientId: string | null;
  createdAt: Date;
  submittedAt: Date | null;
  startedAt: Date | null;
  /** When whoever runs it last showed that he does. */
  touchedAt: Date;
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
  inputs: JobInput[];
  /** ComfyUI is asked to make previews. */
  previews: boolean;
  state: RunState;
  progress: ProgressWriter;
  /** What the instance was asked through last; null before the first time. */
  session: ComfySession | null;
  /** Files that are stored already, by what ComfyUI calls them: a second try to collect goes on where the first stopped. */
  collected: Map<string, CollectedFile>;
  /** Submits without a usable answer. */
  vainSubmits: number;
  /** Whether the memory of the instance is to be freed first: the attempt before needed more, or something newer. */
  freesMemory: boolean;
  /** ComfyUI's history has the prompt: there is nothing left to stop. */
  finished: boolean;
  /** The prompt has succeeded, whatever the record says yet: from here on no limit ends the attempt. */
  collecting: boolean;
  /** The prompt was seen in line when its wait limit had passed: it is told to stop, also where it begins before it hears of that. */
  waitedInVain: boolean;
  /** Since when ComfyUI has been told to stop the prompt: what was due before, nobody could tell it. */
  stoppingSince: Date | null;
  /** ComfyUI neither runs nor ends the prompt, so its instance must take no more. */
  wedged: boolean;
}

/** Thrown when the attempt is no longer the job's: it was ended by somebody else, and nothing more may be written. */
export class AttemptTaken extends Error {
  constructor() {
    super('The attempt was ended by somebody else');
    this.name = 'AttemptTaken';
  }
}

const TOUCH_MS = 10_000;

/** Loads the attempt of a message. Null when the attempt is over: the message came late or twice. */
export async function openRun(deps: RunDeps, ref: AttemptRef, signal: AbortSignal): Promise<Run | null> {
  const found = await stateOf(deps, ref)
    .select([storedWorkflow.as('workflow'), 'jobs.inputs', 'jobs.progress', 'jobs.attempt'])
    .select(arePreviewsAskedFor.as('previews'))
    .executeTakeFirst();
  if (found === undefined) return null;
  const { workflow, inputs, progress, attempt, previews, ...state } = found;
  const timing = timingOf(deps);
  const log = deps.log.child({ jobId: ref.jobId, attemptId: ref.attemptId, instanceId: ref.instanceId });
  return {
    deps,
    ref,
    timing,
    log,
    signal,
    workflow,
    inputs,
    previews,
    state,
    progress: createProgressWriter({
      db: deps.db,
      ref,
      workflow,
      before: progress,
      intervalMs: timing.progressMs,
      previews: previewLimits(deps.config),
      log,
    }),
    session: null,
    collected: new Map(),
    vainSubmits: 0,
    freesMemory: attempt > 1 && (await followsFailure(deps, ref, attempt)),
    finished: false,
    collecting: false,
    waitedInVain: false,
    stoppingSince: null,
    wedged: false,
  };
}

/** Reads the record again. Throws `AttemptTaken` when the attempt is over. */
export async function refresh(run: Run): Promise<RunState> {
  const state = await stateOf(run.deps, run.ref).executeTakeFirst();
  if (state === undefined) throw new AttemptTaken();
  run.state = run.collecting ? { ...state, attemptStatus: 'collecting' } : state;
  const now = run.deps.clock.now();
  if (now.getTime() - state.touchedAt.getTime() >= TOUCH_MS) await updateAttempt(run, { touched_at: now });
  return run.state;
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

/** Whether the attempt before ended, on this very instance, with an error that freed memory may cure. */
async function followsFailure({ db }: RunDeps, ref: AttemptRef, attempt: number): Promise<boolean> {
  const before = await db
    .selectFrom('attempts')
    .select('id')
    .where('job_id', '=', ref.jobId)
    .where('number', '=', attempt - 1)
    .where('instance_id', '=', ref.instanceId)
    .where('retried_for', 'is not', null)
    .executeTakeFirst();
  return before !== undefined;
}

/** The record of an attempt, while it is the job's. */
function stateOf({ db }: RunDeps, ref: AttemptRef) {
  return db
    .selectFrom('jobs')
    .innerJoin('attempts', 'attempts.id', 'jobs.attempt_id')
    .leftJoin('slots', (join) =>
      join
        .onRef('slots.job_id', '=', 'jobs.id')
        .on('slots.instance_id', '=', ref.instanceId)
        .on('slots.slot', '=', ref.slot),
    )
    .select([
      'jobs.status as jobStatus',
      'jobs.time_limit_ms as timeLimitMs',
      'jobs.wait_limit_ms as waitLimitMs',
      'attempts.status as attemptStatus',
      'attempts.client_id as clientId',
      'attempts.created_at as createdAt',
      'attempts.submitted_at as submittedAt',
      'attempts.started_at as startedAt',
      'attempts.touched_at as touchedAt',
    ])
    .where('jobs.id', '=', ref.jobId)
    .where('jobs.status', 'in', ['running', 'canceling'])
    .where('attempts.id', '=', ref.attemptId)
    .where((where) =>
      where.or([where('slots.job_id', 'is not', null), where('attempts.status', '=', 'collecting')]),
    );
}
