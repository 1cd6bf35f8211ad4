// Running one attempt on one slot: stage, submit, follow, collect. It may be cut off after any line and begun again by anybody.
import type { ComfyClient, HistoryEntry } from '../comfyui/client.ts';
import { ComfyError } from '../comfyui/errors.ts';
import type { ComfySession } from '../comfyui/session.ts';
import type { HandlerContext } from '../database/queues.ts';
import { messageOf, ServiceError } from '../errors.ts';
import { checkSoon, isVerdictDue, suspect } from '../instances/suspicion.ts';
import { backoffMs } from '../support/backoff.ts';
import { endAttempt, type AttemptRef } from './attempt.ts';
import { collect } from './collect.ts';
import type { RunDeps } from './deps.ts';
import { failedInTime, timesOf, type ExecutionTimes } from './execution.ts';
import { certainStop, endUnconfirmed, follow, type Finished } from './follow.ts';
import { failureOf } from './failure.ts';
import { watchPrompt } from './hints.ts';
import { beginCollecting } from './placement.ts';
import { AttemptTaken, openRun, refresh, updateAttempt, type Run } from './run-state.ts';
import { stageInputs } from './stage.ts';
import { stopOf, verdictOfStop } from './stop.ts';
import { claimSubmit, NotSubmitted, settle, submit } from './submit.ts';
import { AttemptEnd, type CollectedOutput, type Verdict } from './verdict.ts';
import { createWake } from '../support/wake.ts';
import { whileOurs } from './while-ours.ts';

/** Told to whoever waits for the job. */
const SILENT_INSTANCE = 'The instance does not answer at the moment. The attempt goes on when it does.';
/** Answers in a row that make no sense, after which the attempt is given up. */
const MAX_ODD_ANSWERS = 5;
/** How long the courtesies after an end may take. */
const COURTESY_MS = 10_000;

/** Works on the attempt of a `run` message until it has ended. Rejects when the service stops: whoever gets the message next goes on. */
export async function runAttempt(
  deps: RunDeps,
  message: AttemptRef,
  { signal }: HandlerContext,
): Promise<void> {
  const run = await openRun(deps, message, signal);
  if (run === null) return;
  try {
    const verdict = await findVerdict(run);
    await run.progress.stop();
    await conclude(run, verdict);
  } catch (error) {
    if (!(error instanceof AttemptTaken)) throw error;
    run.log.info('the attempt was ended by somebody else');
    await withdraw(run);
  } finally {
    await run.progress.stop();
  }
}

/** Tries until there is a verdict; a machine out of reach is no verdict while the instance is still ours. */
async function findVerdict(run: Run): Promise<Verdict> {
  const wake = createWake();
  let unreachableSince: number | null = null;
  let oddAnswers = 0;
  let again = false;
  let storedFiles = 0;
  for (let failures = 1; ; failures += 1) {
    try {
      // It was read just before the first try.
      if (again) await refresh(run);
      again = true;
      const session = await connect(run);
      return await advance(run, session, () => {
        unreachableSince = null;
        oddAnswers = 0;
        failures = 1;
      });
    } catch (error) {
      run.signal.throwIfAborted();
      if (error instanceof AttemptEnd) return error.verdict;
      if (error instanceof NotSubmitted) continue;
      if (saysNothing(run, error)) {
        if (run.collected.size > storedFiles) unreachableSince = null;
        storedFiles = run.collected.size;
        if (unreachableSince === null) {
          run.progress.note({ kind: 'warning', message: SILENT_INSTANCE });
          await askForCheck(run);
        }
        unreachableSince ??= Date.now();
        run.log.warn({ err: error, failures }, 'the instance gives no usable answer; trying again');
        const verdict = await giveUp(run, Date.now() - unreachableSince, error);
        if (verdict !== null) return verdict;
      } else {
        if (!(error instanceof ComfyError || error instanceof ServiceError)) throw error;
        oddAnswers += 1;
        run.log.warn({ err: error, oddAnswers }, 'the attempt met something unexpected; trying again');
        if (oddAnswers >= MAX_ODD_ANSWERS) return unexpected(error);
      }
      const { retryMs: baseMs, retryCapMs: capMs } = run.timing;
      await wake.wait(backoffMs(failures, { baseMs, capMs }), run.signal);
    }
  }
}

/** From wherever the record says that the attempt is, to its verdict. `reached` is called when the instance has answered. */
async function advance(run: Run, session: ComfySession, reached: () => void): Promise<Verdict> {
  const workflow = run.state.clientId === null ? await stage(run, session) : null;
  const claimed = workflow !== null && (await claimSubmit(run, session));
  const hints = watchPrompt(run, session);
  try {
    if (claimed) {
      await submit(run, session, workflow);
      // Its events come from the beginning, so there is nothing to see before them.
      await hints.first();
    } else if (run.state.attemptStatus === 'staging') await settle(run, session.client);
    // One that answers but never sends a file whole is as good as out of reach.
    const finished = await follow(run, session, hints, () => {
      if (run.state.attemptStatus !== 'collecting') reached();
    });
    return await judge(run, session, finished);
  } finally {
    hints.stop();
  }
}

async function stage(run: Run, { client }: ComfySession) {
  run.progress.enter('staging');
  return whileOurs(run, async (signal) => {
    const workflow = await stageInputs(run, client, signal);
    if (run.freesMemory) await freeMemory(run, client, signal);
    return workflow;
  });
}

/** It takes effect after the prompt that runs now, which is before ours. */
async function freeMemory(run: Run, client: ComfyClient, signal: AbortSignal): Promise<void> {
  try {
    await client.freeMemory(signal);
  } catch (error) {
    if (!(error instanceof ComfyError) || isOutOfReach(error)) throw error;
    run.log.warn({ err: error }, 'ComfyUI does not free its memory');
  }
}

/** What the history says of the end. A prompt that passed its limit and succeeded all the same did succeed. */
async function judge(run: Run, session: ComfySession, { entry, stop }: Finished): Promise<Verdict> {
  run.finished = true;
  const times = timesOf(run.state, entry, run.deps.clock.now());
  if (entry.outcome === 'succeeded' && stop !== 'canceled') {
    run.progress.enter('collecting');
    return { kind: 'succeeded', outputs: await collectAll(run, session, entry, times) };
  }
  await updateAttempt(
    run,
    { started_at: times.startedAt, executed_at: times.executedAt },
    { status: 'submitted' },
  );
  // A node may turn the interruption into an error of its own.
  if (stop !== null && !failedInTime(run.state, entry)) return verdictOfStop(stop, run.state, true);
  if (entry.outcome === 'failed') return failureOf(entry, await vramOf(run));
  const reason = 'Somebody else interrupted the workflow on the instance.';
  return { kind: 'lost', code: 'prompt_lost', reason };
}

/** The files are on their way while the record says so, and the slot is handed on. */
async function collectAll(
  run: Run,
  { client }: ComfySession,
  entry: HistoryEntry,
  times: ExecutionTimes,
): Promise<CollectedOutput[]> {
  const { db, queues } = run.deps;
  const made = { ...times, collectingAt: run.deps.clock.now(), outputsReused: entry.outputsReused };
  run.collecting = true;
  run.state = { ...run.state, attemptStatus: 'collecting' };
  return whileOurs(run, async (signal) => {
    const begun = db.transaction().execute((trx) => beginCollecting(trx, queues, run.ref, made));
    try {
      const [outputs] = await Promise.all([collect(run, client, entry, signal), begun]);
      return outputs;
    } finally {
      // However the attempt ends, the times of its execution are known by then.
      await begun.catch(() => undefined);
    }
  });
}

async function vramOf({ deps, ref }: Run): Promise<number | null> {
  const instance = await deps.db
    .selectFrom('instances')
    .select('vram_gb')
    .where('id', '=', ref.instanceId)
    .executeTakeFirst();
  return instance?.vram_gb ?? null;
}

async function connect(run: Run): Promise<ComfySession> {
  run.session = await run.deps.sessions.get(run.ref.instanceId);
  return run.session;
}

function isOutOfReach(error: unknown): boolean {
  return error instanceof ComfyError && (error.kind === 'unavailable' || error.kind === 'unauthorized');
}

/**
 * Where ComfyUI may have the prompt, an odd answer tells as little of it as none does: a proxy may give it while what is
 * behind it starts again.
 */
function saysNothing({ state }: Run, error: unknown): boolean {
  const mayRun = state.clientId !== null && state.attemptStatus !== 'collecting';
  return isOutOfReach(error) || (mayRun && error instanceof ComfyError);
}

/** The instance is looked at now rather than at its next check: until it answers, it takes no more jobs. */
async function askForCheck({ deps, ref }: Run): Promise<void> {
  await deps.db.transaction().execute((trx) => checkSoon(trx, deps.queues, ref.instanceId));
}

/** Whoever looks after a rented machine ends it, and with it the attempt. This is for what nobody ends, and for jobs that should stop. */
async function giveUp(run: Run, unreachableMs: number, error: unknown): Promise<Verdict | null> {
  const due = stopOf(run.state, run.deps.clock.now());
  try {
    endUnconfirmed(run, certainStop(run, due));
  } catch (end) {
    if (end instanceof AttemptEnd) return end.verdict;
    throw end;
  }
  if (unreachableMs < run.timing.unreachableMs) return null;
  // What should have ended is not begun once more.
  if (due !== null) return verdictOfStop(due, run.state, false);
  if (await isVerdictDue(run.deps.db, run.ref.instanceId)) return null;
  const trouble = isOutOfReach(error) ? 'been out of reach' : 'given no usable answer';
  const reason = `Its instance has ${trouble} for ${Math.round(unreachableMs / 1000)} s. ${messageOf(error)}`;
  return { kind: 'lost', code: 'instance_lost', reason };
}

function unexpected(error: Error): Verdict {
  const detail = `Something other than expected happened ${MAX_ODD_ANSWERS} times: ${error.message}`;
  return { kind: 'failed', error: { code: 'unexpected_answer', detail } };
}

async function conclude(run: Run, verdict: Verdict): Promise<void> {
  const { db, queues, config, clock } = run.deps;
  const written = await db.transaction().execute(async (trx) => {
    const options = { maxAttempts: config.JOB_MAX_ATTEMPTS, now: clock.now() };
    // In one transaction, so that no dispatch in between gives the instance another job.
    if (run.wedged) await suspect(trx, queues, run.ref.instanceId, run.ref.attemptId);
    return endAttempt(trx, queues, run.ref, verdict, options);
  });
  if (!written) throw new AttemptTaken();
  run.log.info({ verdict: verdict.kind }, 'the attempt ended');
  // A prompt that is stuck stays where it is: by that the check knows when ComfyUI works again.
  if (run.wedged) return;
  await courtesy(run, async ({ client }, signal) => {
    // It may still lie in the queue of a ComfyUI that was out of reach, and would keep the next one waiting.
    if (!run.finished) await client.cancel(run.ref.attemptId, signal);
    await client.forget(run.ref.attemptId, signal);
  });
}

/** Stops a prompt that nobody waits for any more; harmless when it has ended, since no other job has this id. */
async function withdraw(run: Run): Promise<void> {
  await courtesy(run, ({ client }, signal) => client.cancel(run.ref.attemptId, signal));
}

/** What is good for the instance but changes nothing for the job: one try. */
async function courtesy(
  run: Run,
  act: (session: ComfySession, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  if (run.state.clientId === null || run.signal.aborted) return;
  try {
    const session = run.session ?? (await connect(run));
    await act(session, AbortSignal.any([run.signal, AbortSignal.timeout(COURTESY_MS)]));
  } catch (error) {
    run.log.debug({ err: error }, 'the instance was left as it is');
  }
}
