// Submitting: exactly one prompt for each attempt, also when the answer is lost or the process dies around it.
import { randomUUID } from 'node:crypto';
import type { ComfyClient, Submitted } from '../comfyui/client.ts';
import { ComfyError, type NodeFindings } from '../comfyui/errors.ts';
import type { ComfySession } from '../comfyui/session.ts';
import { deadlineIn } from '../support/deadline.ts';
import { sleep } from '../support/sleep.ts';
import { firstFinding } from './findings.ts';
import { askToStop } from './follow.ts';
import type { JobError, Workflow } from './job.ts';
import { AttemptTaken, refresh, updateAttempt, type Run } from './run-state.ts';
import { stopOf, verdictOfStop } from './stop.ts';
import { AttemptEnd } from './verdict.ts';
import { whileOurs } from './while-ours.ts';

/** Submits without a usable answer, after which the workflow is held to be the cause. */
const MAX_VAIN_SUBMITS = 3;
const SETTLE_POLL_MS = 250;
const LONG_WAIT_MS = 100;

/** Thrown when the prompt is surely not on the instance: stage and submit again. */
export class NotSubmitted extends Error {
  constructor() {
    super('The prompt did not arrive');
    this.name = 'NotSubmitted';
  }
}

/**
 * Writes that the prompt is about to be sent, before it is: whoever finds the mark looks the prompt up first. False when another
 * process was faster.
 */
export async function claimSubmit(run: Run, session: ComfySession): Promise<boolean> {
  const asked = performance.now();
  const clientId = await streamIdOf(session, run);
  // A cancel that came meanwhile is seen before the prompt is sent.
  if (performance.now() - asked > LONG_WAIT_MS) await refresh(run);
  const now = run.deps.clock.now();
  const onlyIf = { status: 'staging', clientId: null } as const;
  const claimed = await updateAttempt(run, { client_id: clientId, submitted_at: now }, onlyIf);
  if (claimed) run.state = { ...run.state, clientId, submittedAt: now };
  else await refresh(run);
  return claimed;
}

/** Sends the prompt. When it returns, the prompt is on the instance and the record says so. */
export async function submit(run: Run, session: ComfySession, workflow: Workflow): Promise<void> {
  const { attemptId: promptId } = run.ref;
  const { clientId, submittedAt } = run.state;
  if (clientId === null) throw new AttemptTaken();
  // A process that stood still since it set the mark may have been given up, and the prompt sent by another.
  const ageMs = run.deps.clock.now().getTime() - (submittedAt?.getTime() ?? 0);
  if (ageMs >= run.timing.settleMs / 2) return settle(run, session.client);
  const request = { promptId, clientId, workflow, previews: run.previews };
  let sent = false;
  let submitted: Submitted;
  try {
    submitted = await whileOurs(run, (signal) => {
      sent = true;
      return session.client.submit(request, signal);
    });
  } catch (error) {
    run.signal.throwIfAborted();
    // Told to stop before: there is nothing to look for.
    if (!sent) return release(run);
    // Told to stop while the request was on its way, which may arrive all the same.
    if (error instanceof AttemptEnd) return settleAnew(run, session.client);
    if (!(error instanceof ComfyError)) throw error;
    return onSubmitError(run, session.client, error);
  }
  const { nodeErrors } = submitted;
  const refused = Object.keys(nodeErrors);
  if (refused.length > 0) throw await refuseParts(run, session.client, refused, nodeErrors);
  await markSubmitted(run);
}

/**
 * Finds out whether a prompt that may have been sent is on the instance. Throws when it is surely not: `NotSubmitted`, or the end of
 * an attempt that should have stopped by now.
 */
export async function settle(run: Run, client: ComfyClient): Promise<void> {
  for (;;) {
    const place = await client.locate(run.ref.attemptId, run.signal);
    if (place.kind !== 'absent') {
      const missing = await missingOutputs(run, client);
      if (missing.length > 0) throw await refuseParts(run, client, missing);
      return markSubmitted(run);
    }
    const { submittedAt } = await refresh(run);
    const ageMs = run.deps.clock.now().getTime() - (submittedAt?.getTime() ?? 0);
    if (ageMs >= run.timing.settleMs) return release(run);
    await sleep(Math.min(SETTLE_POLL_MS, run.timing.settleMs - ageMs), run.signal);
  }
}

/** The window begins anew: the request may have been on its way until now. */
async function settleAnew(run: Run, client: ComfyClient): Promise<void> {
  await updateAttempt(run, { submitted_at: run.deps.clock.now() }, { status: 'staging' });
  await settle(run, client);
}

async function streamIdOf(session: ComfySession, { signal, timing }: Run): Promise<string> {
  const patience = deadlineIn(timing.streamWaitMs);
  try {
    return await session.clientId(AbortSignal.any([signal, patience]));
  } catch (error) {
    signal.throwIfAborted();
    if (patience.aborted) return randomUUID();
    // The session was closed because the machine has another address; the next one may do.
    throw new ComfyError('unavailable', 'The session with ComfyUI was closed', { cause: error });
  }
}

async function onSubmitError(run: Run, client: ComfyClient, error: ComfyError): Promise<void> {
  switch (error.kind) {
    case 'rejected':
      throw refusal('ComfyUI refuses the workflow.', error.nodeErrors, error.message);
    case 'too_large':
      throw invalidWorkflow('The workflow is larger than its ComfyUI takes.');
    case 'foreign_id':
      throw new AttemptEnd({
        kind: 'failed',
        error: { code: 'unexpected_answer', detail: error.message },
      });
    case 'ambiguous':
      return settleVainSubmit(run, client, error);
    default:
      // It never reached ComfyUI.
      await unmark(run);
      throw error;
  }
}

async function settleVainSubmit(run: Run, client: ComfyClient, error: ComfyError): Promise<void> {
  run.vainSubmits += 1;
  run.log.warn(
    { err: error, tries: run.vainSubmits },
    'a submit got no usable answer; looking for the prompt',
  );
  try {
    await settleAnew(run, client);
  } catch (reason) {
    if (!(reason instanceof NotSubmitted) || run.vainSubmits < MAX_VAIN_SUBMITS) throw reason;
    const detail = `ComfyUI gave no usable answer to the workflow ${run.vainSubmits} times and does not know it. ${error.message}`;
    throw new AttemptEnd({ kind: 'failed', error: { code: 'unexpected_answer', detail } });
  }
}

/**
 * ComfyUI answers 200 and leaves out the outputs that did not pass its checks, as long as one did. Half a result is not what was
 * asked for, and nothing later would tell.
 */
async function refuseParts(
  run: Run,
  client: ComfyClient,
  nodes: readonly string[],
  nodeErrors: NodeFindings = {},
): Promise<AttemptEnd> {
  await askToStop(run, client);
  const otherwise = `The checks of nodes ${nodes.join(', ')} failed.`;
  return refusal('ComfyUI would run only a part of the workflow.', nodeErrors, otherwise);
}

/** The output nodes that ComfyUI has left out, of a prompt whose answer, which would say so, was not seen. */
async function missingOutputs({ ref, workflow, signal }: Run, client: ComfyClient): Promise<string[]> {
  const targets = await client.targets(ref.attemptId, signal);
  if (targets === null) return [];
  const left = Object.entries(workflow).filter(([id]) => !targets.includes(id));
  const outputClasses = new Set<string>();
  for (const name of new Set(left.map(([, node]) => node.class_type))) {
    // Its inputs, which versions read in different ways, do not matter here.
    const nodeClass = await client.nodeClass(name, 'unknown', signal);
    if (nodeClass?.isOutput === true) outputClasses.add(name);
  }
  return left.filter(([, node]) => outputClasses.has(node.class_type)).map(([id]) => id);
}

async function markSubmitted(run: Run): Promise<void> {
  await updateAttempt(run, { status: 'submitted' }, { status: 'staging' });
}

/** For a prompt that is surely not on the instance. The mark says since when it has waited in line: without it, its limit would begin anew. */
async function release(run: Run): Promise<never> {
  const { state } = run;
  const stop = stopOf(state, run.deps.clock.now());
  await unmark(run);
  throw stop === null ? new NotSubmitted() : new AttemptEnd(verdictOfStop(stop, state, true));
}

async function unmark(run: Run): Promise<void> {
  const onlyIf = { status: 'staging', clientId: run.state.clientId } as const;
  await updateAttempt(run, { client_id: null, submitted_at: null }, onlyIf);
  run.state = { ...run.state, clientId: null, submittedAt: null };
}

/** Says the first of the findings, or something else where there is none. */
function refusal(what: string, nodeErrors: NodeFindings, otherwise: string): AttemptEnd {
  const first = firstFinding(nodeErrors);
  if (first === null) return invalidWorkflow(`${what} ${otherwise}`);
  const { nodeId, nodeType, text } = first;
  return invalidWorkflow(`${what} ${text}`, {
    nodeId,
    ...(nodeType === null ? {} : { nodeType }),
    nodeErrors,
  });
}

function invalidWorkflow(detail: string, more: Omit<JobError, 'code' | 'detail'> = {}): AttemptEnd {
  return new AttemptEnd({ kind: 'failed', error: { code: 'invalid_workflow', detail, ...more } });
}
