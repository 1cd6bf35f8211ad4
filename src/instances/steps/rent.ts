// Renting: asks the provider once, and settles by label what became of it when the answer is lost.
import { messageOf } from '../../errors.ts';
import type { TerminationReason } from '../instance.ts';
import { deadManOf } from '../dead-man.ts';
import { ProviderError } from '../provider.ts';
import { enterPhase, stillOwned } from '../records.ts';
import {
  endInstance,
  failRental,
  finish,
  lookAgain,
  needProvider,
  needRequirements,
  phaseAgeMs,
  type RentalStep,
} from './step.ts';

/** vast.ai penalises a create that comes too soon by 12 s. */
const RATE_LIMIT_PAUSE_MS = 13_000;

/** Sends the one create call that this rental ever gets. */
export async function launch(step: RentalStep): Promise<void> {
  const provider = needProvider(step);
  const { rental } = step;
  if (!(await claim(step))) return;
  try {
    // Not the step's own signal: giving up on a create that is under way would only make it ambiguous.
    const { providerInstanceId } = await provider.launch({
      offer: rental.offer,
      label: rental.label,
      secret: rental.secret,
      diskGb: needRequirements(step).diskGb,
      deadMan: deadManOf(rental.dead_man_seconds, step.deps.config),
    });
    await confirm(step, providerInstanceId);
  } catch (error) {
    if (!(error instanceof ProviderError)) throw error;
    await handleRefusal(step, error);
  }
}

/** Looks for a rental that may or may not exist, until it is found or its window has passed. */
export async function settle(step: RentalStep): Promise<void> {
  const { rental, deps, now } = step;
  const found = await needProvider(step).listByLabel(rental.label, step.signal);
  const match = found.find((candidate) => candidate.label === rental.label);
  if (match !== undefined) return confirm(step, match.providerInstanceId);

  // From the first look on, not from the call: the call may have waited for its turn before it left.
  const since = rental.trouble === 'absent' && rental.trouble_since !== null ? rental.trouble_since : now;
  if (now.getTime() - since.getTime() < deps.config.RENT_SETTLE_SECONDS * 1000) {
    return lookAgain(
      step,
      'The answer to the rental was lost. Looking for the machine by its label.',
      undefined,
      async (trx) => {
        await trx
          .updateTable('rentals')
          .set({ trouble: 'absent', trouble_since: since })
          .where('id', '=', rental.id)
          .where('status', '=', 'creating')
          .execute();
      },
    );
  }
  await discard(
    step,
    'creating',
    'renting_timeout',
    'No machine with its label appeared, so it was not rented.',
  );
}

/** Closes a rental that the provider was never asked for. */
export async function discardIntention(step: RentalStep): Promise<void> {
  await discard(step, 'intended', step.instance.pending_reason ?? 'requested', 'It had not been rented yet.');
}

/** Takes the right to send the create call: written before the call, won by one process only, lost when the instance is ended. */
async function claim({ deps, rental, instance, now }: RentalStep): Promise<boolean> {
  const result = await deps.db
    .updateTable('rentals')
    .set({ status: 'creating', create_sent_at: now })
    .where('id', '=', rental.id)
    .where('status', '=', 'intended')
    .where(stillOwned(instance))
    .executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

/** The rental exists: the instance goes on to load it, if the step still owns it. */
async function confirm(step: RentalStep, providerInstanceId: string): Promise<void> {
  const { rental, instance, now } = step;
  await keepId(step, providerInstanceId);
  if (instance.status !== 'provisioning') return finish(step, {}, 0);
  await finish(
    step,
    { ...enterPhase(instance, 'loading', rental.number, now), message: 'The machine is being made.' },
    0,
  );
}

/** Keeps the id of a rental that exists, whoever owns the instance by now: losing the id would lose the machine. */
async function keepId({ deps, rental, log }: RentalStep, providerInstanceId: string): Promise<void> {
  const { numUpdatedRows } = await deps.db
    .updateTable('rentals')
    .set({
      status: 'active',
      provider_instance_id: providerInstanceId,
      confirmed_at: deps.clock.now(),
      trouble: null,
      trouble_since: null,
    })
    .where('id', '=', rental.id)
    .where('status', '=', 'creating')
    .executeTakeFirst();
  const facts = { providerInstanceId, rental: rental.number, label: rental.label };
  if (numUpdatedRows === 1n) return log.info(facts, 'the rental is confirmed');
  const settled = await deps.db
    .selectFrom('rentals')
    .select('provider_instance_id')
    .where('id', '=', rental.id)
    .executeTakeFirst();
  if (settled?.provider_instance_id === providerInstanceId) {
    return log.info(facts, 'the rental was confirmed by somebody else already');
  }
  log.warn(facts, 'the rental was written off before its answer came; it is found as an orphan');
}

async function handleRefusal(step: RentalStep, error: ProviderError): Promise<void> {
  const detail = messageOf(error);
  if (error.leftoverId !== undefined) {
    await keepId(step, error.leftoverId);
    return failRental(step, 'renting_failed', detail);
  }
  switch (error.kind) {
    case 'ambiguous':
    case 'unavailable':
      return lookAgain(step, `${detail} Looking for the machine by its label.`);
    case 'rate_limited':
      if (phaseAgeMs(step) >= step.deps.config.SEARCH_TIMEOUT_SECONDS * 1000)
        return refuse(step, 'renting_failed', detail);
      return lookAgain(step, 'The provider asks us to slow down.', RATE_LIMIT_PAUSE_MS, async (trx) => {
        await trx
          .updateTable('rentals')
          .set({ status: 'intended', create_sent_at: null })
          .where('id', '=', step.rental.id)
          .where('status', '=', 'creating')
          .execute();
      });
    case 'no_credit':
      return refuse(step, 'insufficient_credit', detail);
    case 'unauthorized':
      return refuse(step, 'provider_refused_key', detail);
    case 'offer_gone':
    case 'invalid':
      return discard(step, 'creating', 'renting_failed', detail);
  }
}

/** The provider refuses whatever we ask for: the instance ends, nothing was rented. */
async function refuse(step: RentalStep, reason: TerminationReason, detail: string): Promise<void> {
  await closeUnrented(step, 'creating', reason, detail);
  await endInstance({ ...step, rental: { ...step.rental, status: 'gone' } }, reason, detail);
}

/** Closes a rental that never existed; the instance searches on, or ends if it was ending. */
async function discard(
  step: RentalStep,
  from: 'intended' | 'creating',
  reason: TerminationReason,
  evidence: string,
): Promise<void> {
  await closeUnrented(step, from, reason, evidence);
  if (step.instance.status !== 'provisioning') return finish(step, {}, 0);
  await finish(
    step,
    { ...enterPhase(step.instance, 'searching', step.rental.number, step.now), message: evidence },
    0,
  );
}

async function closeUnrented(
  { deps, rental, now }: RentalStep,
  from: 'intended' | 'creating',
  reason: TerminationReason,
  evidence: string,
): Promise<void> {
  await deps.db
    .updateTable('rentals')
    .set({ status: 'gone', gone_at: now, end_reason: reason, end_evidence: evidence })
    .where('id', '=', rental.id)
    .where('status', '=', from)
    .execute();
}
