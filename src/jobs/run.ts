// Running one attempt on one slot: stage, submit, follow, collect. It may be cut off after any line and begun again by anybody.
import type { HistoryEntry } from '../comfyui/client.ts';
import { ComfyError } from '../comfyui/errors.ts';
import type { ComfySession } from '../comfyui/session.ts';
import type { HandlerContext } from '../database/queues.ts';
import { messageOf, ServiceError } from '../errors.ts';
import { backoffMs } from '../support/backoff.ts';
import { AttemptEnd, endAttempt, type AttemptRef, type Verdict } from './attempt.ts';
import { collect } from './collect.ts';
import type { RunDeps } from './deps.ts';
import { endUnconfirmed, follow, type Finished } from './follow.ts';
import { watchPrompt } from './hints.ts';
import {
  AttemptTaken,
  openRun,
  refresh,
  stopOf,
  updateAttempt,
  verdictOfStop,
  type Run,
} from './run-state.ts';
import { stageInputs } from './stage.ts';
import { claimSubmit, NotSubmitted, settle, submit } from './submit.ts';
import { createWake } from './wake.ts';
import { whileOurs } from './while-ours.ts';

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
  for (let failures = 1; ; failures += 1) {
    try {
      await refresh(run);
      const session = await connect(run);
      return await advance(run, session, () => {
        unreachableSince = null;
        failures = 1;
      });
    } catch (error) {
      run.signal.throwIfAborted();
      if (error instanceof AttemptEnd) return error.verdict;
      if (error instanceof NotSubmitted) continue;
      if (isOutOfReach(error)) {
        unreachableSince ??= Date.now();
        run.log.warn({ err: error, failures }, 'the instance is out of reach; trying again');
        const verdict = giveUp(run, Date.now() - unreachableSince, error);
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
    if (claimed) await submit(run, session, workflow);
    else if (run.state.attemptStatus === 'staging') await settle(run, session.client);
    reached();
    const finished = await follow(run, session, hints);
    reached();
    return await judge(run, session, finished);
  } finally {
    hints.stop();
  }
}

async function stage(run: Run, session: ComfySession) {
  run.progress.enter('staging');
  return whileOurs(run, { evenIfCanceled: false }, (signal) => stageInputs(run, session.client, signal));
}

/** What the history says of the end. A prompt that was told to stop and succeeded all the same did succeed. */
async function judge(run: Run, session: ComfySession, { entry, stop }: Finished): Promise<Verdict> {
  await noteTimes(run, entry);
  if (entry.outcome === 'succeeded') {
    run.progress.enter('collecting');
    await updateAttempt(run, { status: 'collecting' }, { status: 'submitted' });
    const outputs = await whileOurs(run, { evenIfCanceled: true }, (signal) =>
      collect(run, session.client, entry, signal),
    );
    return { kind: 'succeeded', outputs };
  }
  // A node may turn the interruption into an error of its own.
  if (stop !== null) return verdictOfStop(stop, run.state, true);
  if (entry.outcome === 'failed') return failureOf(entry);
  const reason = 'Somebody else interrupted the workflow on the instance.';
  return { kind: 'lost', code: 'prompt_lost', reason };
}

/** By our clock, with the duration by ComfyUI's: the clocks of rented machines are wrong at times. */
async function noteTimes(run: Run, entry: HistoryEntry): Promise<void> {
  const now = run.deps.clock.now();
  const { startedAt, submittedAt } = run.state;
  const durationMs = (entry.endedAt?.getTime() ?? 0) - (entry.startedAt?.getTime() ?? 0);
  const begun = Math.max(now.getTime() - Math.max(0, durationMs), submittedAt?.getTime() ?? 0);
  const started = startedAt ?? new Date(Math.min(begun, now.getTime()));
  await updateAttempt(run, { started_at: started, executed_at: now }, { status: 'submitted' });
  await refresh(run);
}

function failureOf(entry: HistoryEntry): Verdict {
  const {
    nodeId = null,
    nodeType = null,
    exceptionType = null,
    message = '',
    outOfMemory = false,
  } = entry.error ?? {};
  const where = nodeId === null ? 'A node' : `Node ${nodeId}${nodeType === null ? '' : ` (${nodeType})`}`;
  const detail = outOfMemory
    ? `${where} ran out of memory. Ask for more with requirements.minVramGb, or make the work smaller. ${message}`
    : `${where} failed: ${message || 'ComfyUI does not say why.'}`;
  return {
    kind: 'failed',
    error: {
      code: outOfMemory ? 'out_of_memory' : 'node_error',
      detail: detail.trim(),
      ...(nodeId === null ? {} : { nodeId }),
      ...(nodeType === null ? {} : { nodeType }),
      ...(exceptionType === null ? {} : { exceptionType }),
    },
  };
}

async function connect({ deps, ref }: Run): Promise<ComfySession> {
  try {
    return await deps.sessions.get(ref.instanceId);
  } catch (error) {
    throw new ComfyError('unavailable', messageOf(error), { cause: error });
  }
}

function isOutOfReach(error: unknown): boolean {
  return error instanceof ComfyError && (error.kind === 'unavailable' || error.kind === 'unauthorized');
}

/** Whoever looks after the instance ends it, and with it the attempt. This is for those that nobody ends, and for jobs that should stop. */
function giveUp(run: Run, unreachableMs: number, error: unknown): Verdict | null {
  try {
    endUnconfirmed(run, stopOf(run.state, run.deps.clock.now()));
  } catch (end) {
    if (end instanceof AttemptEnd) return end.verdict;
    throw end;
  }
  if (unreachableMs < run.timing.unreachableMs) return null;
  const reason = `Its instance has been out of reach for ${Math.round(unreachableMs / 1000)} s. ${messageOf(error)}`;
  return { kind: 'lost', code: 'instance_lost', reason };
}

function unexpected(error: Error): Verdict {
  const detail = `Something other than expected happened ${MAX_ODD_ANSWERS} times: ${error.message}`;
  return { kind: 'failed', error: { code: 'unexpected_answer', detail } };
}

async function conclude(run: Run, verdict: Verdict): Promise<void> {
  const { db, queues, config, clock } = run.deps;
  const written = await db.transaction().execute((trx) => {
    const options = { maxAttempts: config.JOB_MAX_ATTEMPTS, now: clock.now() };
    return endAttempt(trx, queues, run.ref, verdict, options);
  });
  if (!written) throw new AttemptTaken();
  run.log.info({ verdict: verdict.kind }, 'the attempt ended');
  await courtesy(run, async ({ client }, signal) => {
    // It may still lie in the queue of a ComfyUI that has stood still.
    if (verdict.kind === 'lost') await client.cancel(run.ref.attemptId, signal);
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
    const session = await run.deps.sessions.get(run.ref.instanceId);
    await act(session, AbortSignal.any([run.signal, AbortSignal.timeout(COURTESY_MS)]));
  } catch (error) {
    run.log.debug({ err: error }, 'the instance was left as it is');
  }
}
