// The steps of an instance: which one is next, and running it.
import { messageOf } from '../errors.ts';
import type { HandlerContext, QueueMessages } from '../database/queues.ts';
import type { InstanceRow, RentalRow } from '../database/tables.ts';
import { backoffMs } from '../support/backoff.ts';
import { isOver } from '../support/clock.ts';
import type { TerminationReason } from './instance.ts';
import { ProviderError, type ProviderErrorKind } from './provider.ts';
import { enterPhase, loadState, updateOwned } from './records.ts';
import { check } from './steps/check.ts';
import { destroy, drain, terminate } from './steps/destroy.ts';
import { load } from './steps/load.ts';
import { discardIntention, launch, settle } from './steps/rent.ts';
import { search } from './steps/search.ts';
import { start, startStatic } from './steps/start.ts';
import {
  endInstance,
  failRental,
  finish,
  lookAgain,
  phaseAgeMs,
  type InstanceDeps,
  type RentalStep,
  type Step,
} from './steps/step.ts';

export type { InstanceDeps } from './steps/step.ts';

export type StepName =
  | 'none'
  | 'begin'
  | 'search'
  | 'launch'
  | 'settle'
  | 'load'
  | 'start'
  | 'startStatic'
  | 'check'
  | 'drain'
  | 'discard'
  | 'destroy'
  | 'terminate';

/** So long an instance may go without a step that comes to its end: half of what the dead-man switch waits by default. */
const FAILING_LIMIT_MS = 15 * 60_000;
/** Between two failures further apart nobody tried: the service or its database was not there. */
const FAILURES_APART_MS = 5 * 60_000;

/** Answers to a search that come again however often it is repeated, before anything was rented. */
const HOPELESS_SEARCHES: Partial<Record<ProviderErrorKind, TerminationReason>> = {
  unauthorized: 'provider_refused_key',
  invalid: 'renting_failed',
};

/** Which step an instance needs, from its record and its current rental alone. */
export function nextStep(
  instance: Pick<InstanceRow, 'status' | 'phase' | 'provider'>,
  rental: Pick<RentalRow, 'status'> | null,
): StepName {
  const { status } = instance;
  if (status === 'terminated') return 'none';
  if (rental?.status === 'destroying') return 'destroy';
  if (status === 'requested') return 'begin';
  if (status === 'ready') return 'check';
  if (status === 'draining') return 'drain';
  if (status === 'provisioning' && instance.provider === 'static') return 'startStatic';
  if (rental === null || rental.status === 'gone') return status === 'terminating' ? 'terminate' : 'search';
  if (rental.status === 'creating') return 'settle';
  if (status === 'terminating') return rental.status === 'intended' ? 'discard' : 'destroy';
  if (rental.status === 'intended') return 'launch';
  return instance.phase === 'starting' ? 'start' : 'load';
}

/** Runs one step. A wake-up that was overtaken does nothing; a provider that cannot answer is asked again later. */
export async function stepInstance(
  deps: InstanceDeps,
  message: QueueMessages['instance'],
  { signal }: HandlerContext,
): Promise<void> {
  const state = await loadState(deps.db, message.instanceId);
  if (state === null || state.instance.wake !== message.wake) return;
  const { instance, rental } = state;
  const name = nextStep(instance, rental);
  const log = deps.log.child({ instanceId: instance.id, step: name });
  const step: Step = { deps, instance, rental, now: deps.clock.now(), log, signal };
  try {
    await run(name, step);
  } catch (error) {
    if (error instanceof ProviderError) return retryLater(step, name, error);
    if (!(await givenUpForFailing(step, name))) throw error;
  }
}

async function run(name: StepName, step: Step): Promise<void> {
  switch (name) {
    case 'none':
      return;
    case 'begin':
      return begin(step);
    case 'search':
      return search(step);
    case 'startStatic':
      return startStatic(step);
    case 'check':
      return check(step);
    case 'drain':
      return drain(step);
    case 'terminate':
      return terminate(step);
    default:
      return runForRental(name, withRental(step));
  }
}

async function runForRental(
  name: 'launch' | 'settle' | 'load' | 'start' | 'discard' | 'destroy',
  step: RentalStep,
): Promise<void> {
  const steps = { launch, settle, load, start, discard: discardIntention, destroy };
  await steps[name](step);
}

async function begin(step: Step): Promise<void> {
  const phase = step.instance.provider === 'static' ? 'starting' : 'searching';
  await finish(step, { status: 'provisioning', ...enterPhase(step.instance, phase, 0, step.now) }, 0);
}

/** The provider gave no usable answer to a question that may be repeated. */
async function retryLater(step: Step, name: StepName, error: ProviderError): Promise<void> {
  const detail = messageOf(error);
  const hopeless = name === 'search' ? HOPELESS_SEARCHES[error.kind] : undefined;
  if (hopeless !== undefined) return endInstance(step, hopeless, detail);
  const urgent = error.kind === 'unauthorized' || name === 'destroy';
  step.log[urgent ? 'error' : 'warn']({ kind: error.kind, error: detail }, 'the provider could not be used');
  if (await givenUp(step, name, detail)) return;
  const tries = Math.min(6, 1 + (step.rental?.destroy_tries ?? 0));
  const baseMs = step.deps.config.INSTANCE_POLL_SECONDS * 1000;
  await lookAgain(step, detail, backoffMs(tries, { baseMs, capMs: 60_000 }));
}

/**
 * A step that fails for a reason that nobody foresaw is begun again by its queue. A machine must not bill for ever for that: when no
 * step has come to its end for long, it is ended, before its dead-man switch would do so under its jobs.
 */
async function givenUpForFailing(step: Step, name: StepName): Promise<boolean> {
  const { deps, instance, signal, log } = step;
  if (signal.aborted || instance.provider === 'static' || instance.status === 'terminating') return false;
  const now = deps.clock.now();
  const since = failingSince(instance, now);
  const isOurs = await updateOwned(deps.db, instance, { failing_since: since, failed_at: now });
  const lastedMs = now.getTime() - since.getTime();
  if (!isOurs || lastedMs < FAILING_LIMIT_MS) return false;
  log.error({ lastedMs }, 'an instance is ended because its steps fail');
  const minutes = Math.round(lastedMs / 60_000);
  await endInstance(step, 'step_failed', `Its step "${name}" has failed for ${minutes} minutes.`);
  return true;
}

/** Since when steps have failed one after the other. */
function failingSince({ failing_since: since, failed_at: last }: InstanceRow, now: Date): Date {
  if (since === null || last === null) return now;
  return isOver(last, FAILURES_APART_MS, now) ? now : since;
}

/** A phase has its limit also while the provider cannot be asked. */
async function givenUp(step: Step, name: StepName, detail: string): Promise<boolean> {
  const { config } = step.deps;
  const ageSeconds = phaseAgeMs(step) / 1000;
  if (name === 'search' && ageSeconds >= config.SEARCH_TIMEOUT_SECONDS) {
    await endInstance(step, 'no_offer', detail);
    return true;
  }
  const limits = { load: config.LOADING_TIMEOUT_SECONDS, start: config.STARTING_TIMEOUT_SECONDS };
  if ((name !== 'load' && name !== 'start') || ageSeconds < limits[name]) return false;
  await failRental(withRental(step), name === 'load' ? 'loading_timeout' : 'starting_timeout', detail);
  return true;
}

function withRental(step: Step): RentalStep {
  if (step.rental === null) throw new Error(`Instance ${step.instance.id} has no rental.`);
  return { ...step, rental: step.rental };
}
