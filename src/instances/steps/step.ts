// What every step of an instance has in hand, and the few ways in which a step can end.
import type { Kysely, Transaction } from 'kysely';
import type { Logger } from 'pino';
import type { Config } from '../../config.ts';
import type { Queues } from '../../database/queues.ts';
import type { InstanceRow, RentalRow, Tables } from '../../database/tables.ts';
import { closeSlots } from '../../jobs/placement.ts';
import { begunAt, type Clock } from '../../support/clock.ts';
import type { Budget, Terms } from '../budget.ts';
import { fatalSilenceSince } from '../dead-man.ts';
import { terminationReasons, type TerminationReason, type Trouble } from '../instance.ts';
import { isMachineFault, noteFailure } from '../machines.ts';
import { ProviderError, type Provider } from '../provider.ts';
import type { Requirements } from '../requirements.ts';
import { advanceOwned, leavePhases, sendStep, type InstanceUpdate } from '../records.ts';
import type { Sessions } from '../sessions.ts';

export interface InstanceDeps {
  db: Kysely<Tables>;
  queues: Queues;
  /** Null when no key is set; then nothing new is rented, and what is rented waits for a key. */
  provider: Provider | null;
  sessions: Sessions;
  /** Asked before anything is rented. */
  budget: Budget;
  config: Config;
  /** `<prefix>.<deployment>`: how the label of every rental of this deployment begins. */
  labelPrefix: string;
  log: Logger;
  clock: Clock;
}

export interface Step {
  deps: InstanceDeps;
  instance: InstanceRow;
  rental: RentalRow | null;
  now: Date;
  log: Logger;
  signal: AbortSignal;
}

/** A step of an instance that has a rental. */
export interface RentalStep extends Step {
  rental: RentalRow;
}

/** Returns the status that it has given to the rental, where that decides which queue carries the next step. */
type Write = (trx: Transaction<Tables>) => Promise<'intended' | void>;

/** How long a state that is fatal when it lasts may last. */
const TROUBLE_LIMIT_MS: Record<Exclude<Trouble, 'timeout' | 'absent'>, number> = {
  unauthorized: 60_000,
  insecure: 60_000,
};

/**
 * Writes what the step found and arms the next one, in one transaction: all of it, or nothing when somebody else has
 * woken the instance meanwhile. `write` holds what belongs to it in other tables.
 */
export async function finish(
  step: Step,
  update: InstanceUpdate,
  afterMs: number,
  write?: Write,
): Promise<void> {
  const { deps, instance } = step;
  const done = {
    failing_since: null,
    phase_started_at: phaseBegan(step),
    next_step_at: new Date(step.now.getTime() + afterMs),
  };
  await deps.db.transaction().execute(async (trx) => {
    const tells = isNewsForJobs(instance, update) ? deps.queues.waking('dispatch') : null;
    const woken = await advanceOwned(trx, instance, { ...done, ...update }, tells);
    if (woken === null) return;
    const rentalStatus = (await write?.(trx)) ?? woken.rentalStatus;
    await sendStep(trx, deps.queues, { ...woken, rentalStatus }, afterMs);
  });
}

/** Whether what jobs wait for changes. */
function isNewsForJobs(instance: InstanceRow, update: InstanceUpdate): boolean {
  const answersAgain = instance.unreachable_since !== null && update.unreachable_since === null;
  return answersAgain || update.status !== undefined || update.phase !== undefined;
}

/** Looks again after a while; `message` is what the caller sees meanwhile. */
export async function lookAgain(
  step: Step,
  message: string | null,
  afterMs?: number,
  write?: Write,
): Promise<void> {
  await finish(step, { message }, afterMs ?? step.deps.config.INSTANCE_POLL_SECONDS * 1000, write);
}

/** Ends the current rental: it is destroyed, and then the instance goes on with the next offer, if it may. */
export async function failRental(
  step: RentalStep,
  reason: TerminationReason,
  evidence: string,
): Promise<void> {
  step.log.warn({ reason, evidence, rental: step.rental.number }, 'the rental failed and will be destroyed');
  await finish(
    step,
    { message: `${terminationReasons[reason]} ${evidence}`.trim(), checks_passed: 0 },
    0,
    (trx) => markDestroying(trx, step, reason, evidence),
  );
}

/** Ends the instance: its jobs go back to the queue, its rental is destroyed. */
export async function endInstance(step: Step, reason: TerminationReason, detail: string): Promise<void> {
  const { deps, instance, rental } = step;
  step.log.warn({ reason, detail }, 'the instance ends');
  const update: InstanceUpdate = {
    status: 'terminating',
    pending_reason: reason,
    pending_detail: detail,
    message: `${terminationReasons[reason]} ${detail}`.trim(),
    ...leavePhases(instance, step.now),
  };
  await finish(step, update, 0, async (trx) => {
    await closeSlots(trx, deps.queues, instance.id, terminationReasons[reason], deps.config.JOB_MAX_ATTEMPTS);
    if (rental?.status === 'active') await markDestroying(trx, { ...step, rental }, reason, detail);
  });
}

/** Notes what keeps a running machine from being used; fails the rental when it has lasted too long. */
export async function noteTrouble(
  step: RentalStep,
  trouble: Trouble,
  reason: TerminationReason,
  detail: string,
): Promise<void> {
  const { rental, now, deps } = step;
  const since = troubleSince(rental, trouble, now);
  if (now.getTime() - since.getTime() >= troubleLimitMs(trouble, deps.config)) {
    if (step.instance.status !== 'provisioning') return endInstance(step, reason, detail);
    return failRental(step, reason, detail);
  }
  await lookAgain(step, detail, undefined, async (trx) => {
    await trx
      .updateTable('rentals')
      .set({ trouble, trouble_since: since })
      .where('id', '=', rental.id)
      .where('status', '=', 'active')
      .execute();
  });
}

/** Writes that whatever trouble the rental had has not lasted; nothing where it had none. */
export function withoutTrouble({ rental }: Pick<Step, 'rental'>): Write | undefined {
  if (rental === null || rental.trouble === null) return undefined;
  return async (trx) => {
    await trx
      .updateTable('rentals')
      .set({ trouble: null, trouble_since: null })
      .where('id', '=', rental.id)
      .execute();
  };
}

/** Since when a rental has had this trouble: as noted, or from now on. */
export function troubleSince(
  rental: Pick<RentalRow, 'trouble' | 'trouble_since'>,
  trouble: Trouble,
  now: Date,
): Date {
  return begunAt(rental.trouble === trouble ? rental.trouble_since : null, now);
}

/** Takes no more jobs on a ready instance, and ends it after those that it has. */
export async function drainInstance(
  step: Step,
  reason: TerminationReason,
  detail: string,
  further: InstanceUpdate = {},
): Promise<void> {
  step.log.warn({ reason, detail }, 'the instance is drained');
  const message = `${terminationReasons[reason]} ${detail}`.trim();
  const update = { status: 'draining', pending_reason: reason, pending_detail: detail, message } as const;
  await finish(step, { ...update, ...further }, 0);
}

/** How long the current phase has lasted, in milliseconds. */
export function phaseAgeMs(step: Step): number {
  return step.now.getTime() - begunAt(step.instance.phase_started_at, step.now).getTime();
}

/** Null outside of a phase. One that began in the future, before a clock was set back, begins anew with each step. */
function phaseBegan({ instance, now }: Step): Date | null {
  return instance.phase_started_at === null ? null : begunAt(instance.phase_started_at, now);
}

/** The provider, or the error of a refused key: without any, a machine is no worse off. */
export function needProvider(step: Step): Provider {
  if (step.deps.provider === null)
    throw new ProviderError('unauthorized', 'VASTAI_API_KEY is not set, so the provider cannot be asked.');
  return step.deps.provider;
}

/** What the machine must satisfy; every instance that is rented has it. */
export function needRequirements(step: Step): Requirements {
  if (step.instance.requirements === null)
    throw new Error(`Instance ${step.instance.id} has no requirements.`);
  return step.instance.requirements;
}

/** On what terms money is asked for. */
export function termsOf(step: Step): Terms {
  const { maxPricePerHourUsd } = needRequirements(step);
  return { expiresAt: step.instance.expires_at, maxPricePerHourUsd };
}

/** The rental's id at the provider; a rental that is active always has one. */
export function needProviderId(rental: RentalRow): string {
  if (rental.provider_instance_id === null)
    throw new Error(`Rental ${rental.id} is ${rental.status} without a provider id.`);
  return rental.provider_instance_id;
}

async function markDestroying(
  trx: Transaction<Tables>,
  step: RentalStep,
  reason: TerminationReason,
  evidence: string,
): Promise<void> {
  const { numUpdatedRows } = await trx
    .updateTable('rentals')
    .set({ status: 'destroying', end_reason: reason, end_evidence: evidence, destroy_requested_at: step.now })
    .where('id', '=', step.rental.id)
    .where('status', '=', 'active')
    .executeTakeFirst();
  const mayHaveEndedItself = fatalSilenceSince(step.rental, step.deps.config, step.now) !== null;
  if (numUpdatedRows > 0n && isMachineFault(reason, evidence, step.rental, mayHaveEndedItself)) {
    await noteFailure(trx, step.rental, reason, step.now);
  }
}

function troubleLimitMs(trouble: Trouble, config: Config): number {
  switch (trouble) {
    case 'timeout':
      return config.UNREACHABLE_TIMEOUT_SECONDS * 1000;
    case 'absent':
      return config.RENT_SETTLE_SECONDS * 1000;
    default:
      return TROUBLE_LIMIT_MS[trouble];
  }
}
