// Destroying: asks until the provider's single view and its list both show that the rental is gone, without end.
import { busyJobs, closeSlots } from '../../jobs/placement.ts';
import { backoffMs } from '../../support/backoff.ts';
import { ProviderError } from '../provider.ts';
import type { RentalStep, Step } from './step.ts';
import { enterPhase, stillOwned, type InstanceUpdate } from '../records.ts';
import { check } from './check.ts';
import { viewInList, viewRental } from './load.ts';
import { finish, lookAgain, needProvider, needProviderId, troubleSince } from './step.ts';

/** After so many tries a person should know; the tries go on. */
export const ALARM_AFTER_TRIES = 5;
/** The provider's views follow a destroy within moments. */
const CONFIRM_MS = 2000;
const HOUR_MS = 3_600_000;

/** Ends a draining instance once its jobs have ended, their outputs fetched. */
export async function drain(step: Step): Promise<void> {
  const { deps, instance } = step;
  const { busy } = await deps.db
    .selectFrom('instances')
    .select(busyJobs.as('busy'))
    .where('id', '=', instance.id)
    .executeTakeFirstOrThrow();
  if (busy > 0) {
    const message = `Waiting for ${busy === 1 ? '1 job' : `${busy} jobs`} to end.`;
    return check(step, { message, everyMs: deps.config.INSTANCE_POLL_SECONDS * 1000 });
  }
  await finish(step, { status: 'terminating', message: 'Its jobs have ended.' }, 0, async (trx) => {
    // A job may have been placed since the count.
    await closeSlots(trx, deps.queues, instance.id, 'Its instance was ended.', deps.config.JOB_MAX_ATTEMPTS);
  });
}

/** One try to destroy the rental, or one look at whether the last try worked. */
export async function destroy(step: RentalStep): Promise<void> {
  const { rental, deps } = step;
  if (rental.status === 'active') return markDestroying(step);
  if (rental.destroy_tries > 0 && (await isGone(step))) return close(step);

  const tries = rental.destroy_tries + 1;
  await deps.db
    .updateTable('rentals')
    .set({ destroy_tries: tries })
    .where('id', '=', rental.id)
    .where(stillOwned(step.instance))
    .execute();
  if (tries % ALARM_AFTER_TRIES === 0) {
    step.log.error(
      { tries, providerInstanceId: rental.provider_instance_id },
      'a rental cannot be destroyed and still bills',
    );
  }
  await needProvider(step).terminate(needProviderId(rental), step.signal);
  const waitMs = tries === 1 ? CONFIRM_MS : backoffMs(tries, { baseMs: CONFIRM_MS, capMs: 60_000 });
  const text =
    tries === 1 ? 'The machine is being destroyed.' : `The machine is being destroyed; try ${tries}.`;
  await lookAgain(step, text, Math.min(waitMs, deps.config.INSTANCE_POLL_SECONDS * 1000 * tries));
}

/** Writes the end of an instance that has no rental left. */
export async function terminate(step: Step): Promise<void> {
  const { instance, now, deps } = step;
  step.log.info({ reason: instance.pending_reason }, 'the instance is terminated');
  await finish(
    step,
    {
      status: 'terminated',
      phase: null,
      termination_reason: instance.pending_reason ?? 'requested',
      termination_detail: instance.pending_detail,
      terminated_at: now,
      message: null,
      next_step_at: null,
    },
    0,
  );
  await deps.sessions.drop(instance.id);
}

async function markDestroying(step: RentalStep): Promise<void> {
  const { instance, rental, now } = step;
  await finish(step, {}, 0, async (trx) => {
    await trx
      .updateTable('rentals')
      .set({
        status: 'destroying',
        destroy_requested_at: now,
        end_reason: instance.pending_reason,
        end_evidence: instance.pending_detail,
      })
      .where('id', '=', rental.id)
      .where('status', '=', 'active')
      .execute();
  });
}

/**
 * Gone only when both views agree. A rental that no view has ever shown may still be hidden by read lag,
 * so its absence proves nothing before the settling window has passed. One that is still there bills, at a price that may rise.
 * Views that fail never hold up the next try to destroy it.
 */
async function isGone(step: RentalStep): Promise<boolean> {
  try {
    return await isAbsent(step);
  } catch (error) {
    if (!(error instanceof ProviderError)) throw error;
    if (error.unlisted && (await isLongUnlisted(step))) return true;
    step.log.warn(
      { error: error.message },
      'whether the rental is gone cannot be seen, so it is destroyed once more',
    );
    return false;
  }
}

/**
 * A single view that fails for ever must not keep the record open, and in the limits, for ever: the list is believed alone when it has
 * not shown the rental for as long as a destruction may take. Should it show it again after all, that is an orphan, and is destroyed.
 */
async function isLongUnlisted(step: RentalStep): Promise<boolean> {
  const { rental, deps, now } = step;
  try {
    if ((await viewInList(step)) !== 'absent') return false;
  } catch (error) {
    if (!(error instanceof ProviderError)) throw error;
    return false;
  }
  const since = troubleSince(rental, 'absent', now);
  await deps.db
    .updateTable('rentals')
    .set({ trouble: 'absent', trouble_since: since })
    .where('id', '=', rental.id)
    .where(stillOwned(step.instance))
    .execute();
  const { DESTROY_RESERVE_HOURS: hours, RENT_SETTLE_SECONDS: seconds } = deps.config;
  return now.getTime() - since.getTime() >= Math.max(hours * HOUR_MS, seconds * 1000);
}

async function isAbsent(step: RentalStep): Promise<boolean> {
  const { rental, deps, now } = step;
  if ((await viewRental(step)) !== 'absent') return false;
  // Not from the call: it may have waited for its turn, or for its answer, longer than the whole window.
  const knownMs = now.getTime() - (rental.confirmed_at ?? rental.created_at).getTime();
  return rental.seen_at !== null || knownMs >= deps.config.RENT_SETTLE_SECONDS * 1000;
}

/** Absence is confirmed: the rental costs nothing from now on. */
async function close(step: RentalStep): Promise<void> {
  const { instance, rental, deps } = step;
  // The views may have taken long, and it was billed meanwhile.
  const now = deps.clock.now();
  const update: InstanceUpdate =
    instance.status === 'provisioning'
      ? { ...enterPhase(instance, 'searching', rental.number, now), message: 'Looking for another machine.' }
      : { message: 'The machine is gone.' };
  step.log.info({ rental: rental.number, reason: rental.end_reason }, 'the rental is confirmed gone');
  await finish(step, update, 0, async (trx) => {
    await trx
      .updateTable('rentals')
      .set({ status: 'gone', gone_at: now, trouble: null, trouble_since: null })
      .where('id', '=', rental.id)
      .where('status', '=', 'destroying')
      .execute();
  });
}
