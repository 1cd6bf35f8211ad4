// Renting: asks the provider once, and settles by label what became of it when the answer is lost.
import { messageOf } from '../../errors.ts';
import { isLifeOver, type TerminationReason } from '../instance.ts';
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
  termsOf,
  troubleSince,
  type RentalStep,
} from './step.ts';

/** vast.ai penalises a create that comes too soon by 12 s. */
const RATE_LIMIT_PAUSE_MS = 13_000;

/** Sends the one create call that this rental ever gets. */
export async function launch(step: RentalStep): Promise<void> {
  const { rental } = step;
  try {
    const request = {
      offer: rental.offer,
      label: rental.label,
      secret: rental.secret,
      diskGb: needRequirements(step).diskGb,
      deadMan: deadManOf(rental.dead_man_seconds, step.deps.config),
    };
    // Without the step's own signal: giving up on a create that is under way would only make it ambiguous.
    const { providerInstanceId } = await needProvider(step).launch(request, {
      beforeSending: () => claim(step),
    });
    await confirm(step, providerInstanceId);
  } catch (error) {
    if (error instanceof NotClaimed) return forgo(step, error);
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
  const since = troubleSince(rental, 'absent', now);
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

/** The create call must not be sent. */
class NotClaimed extends Error {
  /** Null where somebody else decides by now what becomes of the rental. */
  readonly reason: TerminationReason | null;

  constructor(reason: TerminationReason | null, detail: string) {
    super(detail);
    this.name = 'NotClaimed';
    this.reason = reason;
  }
}

/**
 * Takes the right to send the create call: written just before the call, won by one process only, lost when the instance is ended.
 * Days may have passed since the intention was written, so time and money are looked at again. Rejects with a `NotClaimed`.
 */
async function claim(step: RentalStep): Promise<void> {
  const { deps, rental, instance } = step;
  const now = deps.clock.now();
  if (isLifeOver(instance, now))
    throw new NotClaimed('lifetime_reached', 'Its machine had not been rented yet.');
  await deps.db.transaction().execute(async (trx) => {
    const obstacle = await deps.budget.reconsider(trx, rental, termsOf(step));
    if (obstacle !== null) throw new NotClaimed(obstacle.reason, obstacle.detail);
    const { numUpdatedRows } = await trx
      .updateTable('rentals')
      .set({ status: 'creating', create_sent_at: now })
      .where('id', '=', rental.id)
      .where('status', '=', 'intended')
      .where(stillOwned(instance))
      .executeTakeFirst();
    if (numUpdatedRows !== 1n) throw new NotClaimed(null, 'Somebody else owns the instance now.');
  });
}

/** Nothing was rented: another machine may be allowed, unless there may be no other. */
async function forgo(step: RentalStep, { reason, message }: NotClaimed): Promise<void> {
  if (reason === null) return;
  const isFinal = reason === 'lifetime_reached' || step.instance.wanted_offer_id !== null;
  await (isFinal ? refuse : discard)(step, 'intended', reason, message);
}

/** The rental exists: the instance goes on to load it, if the step still owns it. */
async function confirm(step: RentalStep, providerInstanceId: string): Promise<void> {
  const { rental, instance, deps } = step;
  await keepId(step, providerInstanceId);
  if (instance.status !== 'provisioning') return finish(step, {}, 0);
  // The call may have waited long for its turn.
  const now = deps.clock.now();
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
        return refuse(step, 'creating', 'renting_failed', detail);
      return lookAgain(step, 'The provider asks us to slow down.', RATE_LIMIT_PAUSE_MS, async (trx) => {
        await trx
          .updateTable('rentals')
          .set({ status: 'intended', create_sent_at: null })
          .where('id', '=', step.rental.id)
          .where('status', '=', 'creating')
          .execute();
      });
    case 'no_credit':
      return refuse(step, 'creating', 'insufficient_credit', detail);
    case 'unauthorized':
      return refuse(step, 'creating', 'provider_refused_key', detail);
    case 'offer_gone':
    case 'invalid':
      return discard(step, 'creating', 'renting_failed', detail);
  }
}

/** Whatever we ask for would be refused: the instance ends, nothing was rented. */
async function refuse(
  step: RentalStep,
  from: 'intended' | 'creating',
  reason: TerminationReason,
  detail: string,
): Promise<void> {
  await closeUnrented(step, from, reason, detail);
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
