// Loading: waits until the provider says that the machine runs and where it is.
import type { RentalRow } from '../../database/tables.ts';
import { priceChange } from '../cost.ts';
import { fatalSilenceSince } from '../dead-man.ts';
import { noteLoaded } from '../machines.ts';
import type { ProviderInstance } from '../provider.ts';
import { enterPhase, stillOwned } from '../records.ts';
import {
  failRental,
  finish,
  lookAgain,
  needProvider,
  needProviderId,
  noteTrouble,
  phaseAgeMs,
  type RentalStep,
} from './step.ts';

/** The evidence where the provider has none. */
export const NO_WORDS = 'The provider gave no reason.';
/** The price of an offer and that of its rental may be rounded differently. */
const PRICE_TOLERANCE = 1.005;

export async function load(step: RentalStep): Promise<void> {
  const { instance, rental, deps, now } = step;
  if (instance.phase !== 'loading')
    return finish(step, enterPhase(instance, 'loading', rental.number, now), 0);

  const view = await viewRental(step);
  if (view === 'absent') return noteAbsence(step);
  if (view.condition.kind === 'failed')
    return failRental(step, view.condition.reason, view.message ?? NO_WORDS);
  const raise = raisedPrice(step, view);
  if (raise !== null) return failRental(step, 'price_raised', raise);

  const url = shownUrl(rental, view);
  if (url !== null) return begin(step, url);
  if (phaseAgeMs(step) >= deps.config.LOADING_TIMEOUT_SECONDS * 1000) {
    return failRental(step, 'loading_timeout', view.message ?? NO_WORDS);
  }
  const waitingFor =
    view.condition.kind === 'running' ? 'The machine runs; its address is not known yet.' : view.message;
  await lookAgain(step, waitingFor ?? 'The machine loads its image.');
}

/**
 * What the provider shows of the rental. Absent means that its single view and its list agree; either alone lags behind.
 * Notes the first sight, since absence means more after it.
 */
export async function viewRental(step: RentalStep): Promise<ProviderInstance | 'absent'> {
  const view = await needProvider(step).describe(needProviderId(step.rental), step.signal);
  if (view.kind === 'absent') return viewInList(step);
  await noteView(step, view.instance);
  return view.instance;
}

/** What the list of the account shows of the rental, which proves no absence by itself. */
export async function viewInList(step: RentalStep): Promise<ProviderInstance | 'absent'> {
  const instance = (await needProvider(step).listAll(step.signal)).find(
    ({ providerInstanceId }) => providerInstanceId === step.rental.provider_instance_id,
  );
  if (instance === undefined) return 'absent';
  await noteView(step, instance);
  return instance;
}

/** Notes that no view of the provider shows the machine; fatal when it lasts. */
export async function noteAbsence(step: RentalStep): Promise<void> {
  const silentSince = fatalSilenceSince(step.rental, step.deps.config, step.now);
  const hint =
    silentSince === null
      ? ''
      : ` It has had no sign of life from here since ${silentSince.toISOString()}, so it has probably destroyed itself.`;
  await noteTrouble(step, 'absent', 'lost', `The provider does not show the machine any more.${hint}`);
}

/** In words, when the host has raised the price since the machine was rented, and above what the caller accepts; otherwise null. */
export function raisedPrice({ instance, rental }: RentalStep, view: ProviderInstance): string | null {
  const price = view.pricePerHourUsd;
  const limit = instance.requirements?.maxPricePerHourUsd;
  if (price === null || limit === undefined) return null;
  const isRaised = price > Math.max(limit, rental.offer.pricePerHourUsd) * PRICE_TOLERANCE;
  return isRaised
    ? `It costs ${price.toFixed(3)} USD per hour now, and at most ${limit} may be spent.`
    : null;
}

/**
 * Where the provider shows the machine; null while it shows it nowhere. A machine that was reached before speaks as it did then,
 * although the settings may be others by now.
 */
export function shownUrl(rental: RentalRow, { condition }: ProviderInstance): string | null {
  if (condition.kind !== 'running' || condition.address === null) return null;
  const { scheme, host, port } = condition.address;
  const spoken = rental.certificate_fingerprint === null ? rental.address_url?.split(':')[0] : 'https';
  return `${spoken ?? scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Keeps what the view tells: the first sight, the provider's words, the price, the end of the contract. */
async function noteView(
  { deps, instance, rental, now, log }: RentalStep,
  view: ProviderInstance,
): Promise<void> {
  const price = view.pricePerHourUsd === null ? null : priceChange(rental, view.pricePerHourUsd, now);
  const isEndNew = view.endsAt !== null && view.endsAt.getTime() !== rental.contract_ends_at?.getTime();
  const isBack = rental.trouble === 'absent';
  if (price === null && !isEndNew && !isBack && rental.seen_at !== null && rental.message === view.message)
    return;
  if (price !== null) {
    log.warn(
      { from: rental.price_per_hour_usd, to: price.price_per_hour_usd, rental: rental.number },
      'the provider shows another price',
    );
  }
  await deps.db
    .updateTable('rentals')
    .set({
      seen_at: rental.seen_at ?? now,
      message: view.message,
      ...price,
      ...(isEndNew ? { contract_ends_at: view.endsAt } : {}),
      ...(isBack ? { trouble: null, trouble_since: null } : {}),
    })
    .where('id', '=', rental.id)
    .where(stillOwned(instance))
    // Otherwise somebody else has noted the price since.
    .where('price_per_hour_usd', '=', rental.price_per_hour_usd)
    .execute();
}

async function begin(step: RentalStep, url: string): Promise<void> {
  const { instance, rental, now } = step;
  const update = {
    ...enterPhase(instance, 'starting', rental.number, now),
    message: 'The machine runs; ComfyUI starts.',
  };
  await finish(step, update, 0, async (trx) => {
    if (rental.running_at === null) await noteLoaded(trx, rental, now);
    await trx
      .updateTable('rentals')
      .set({ running_at: now, address_url: url, trouble: null, trouble_since: null })
      .where('id', '=', rental.id)
      .where('status', '=', 'active')
      .execute();
  });
}
