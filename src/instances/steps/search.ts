// Searching: finds the best offer that was not tried yet, and writes the intention to rent it.
import { randomBytes } from 'node:crypto';
import { v7 as uuid } from 'uuid';
import type { RentalRow } from '../../database/tables.ts';
import type { Offer, OfferSearch } from '../provider.ts';
import { findOffer, rankOffers } from '../ranking.ts';
import { enterPhase } from '../records.ts';
import {
  endInstance,
  finish,
  lookAgain,
  needProvider,
  needRequirements,
  phaseAgeMs,
  type Step,
} from './step.ts';

/** Offers that vanish between search and rent cost nothing, so more of them are tried than machines that were really rented. */
const OFFERS_PER_RENTAL = 4;

export async function search(step: Step): Promise<void> {
  const { deps, instance } = step;
  const earlier = await deps.db
    .selectFrom('rentals')
    .selectAll()
    .where('instance_id', '=', instance.id)
    .execute();
  const exhausted = exhaustion(
    earlier,
    deps.config.MAX_RENTALS_PER_INSTANCE,
    instance.wanted_offer_id !== null,
  );
  if (exhausted !== null) return endInstance(step, 'rental_failed', exhausted);

  const found = await needProvider(step).searchOffers(needRequirements(step), step.signal);
  const offer = choose(found, instance.wanted_offer_id, new Set(earlier.map((rental) => rental.machine_id)));
  if (offer !== undefined) return intend(step, offer);

  const detail = explainNone(found, instance.wanted_offer_id, earlier.length);
  if (phaseAgeMs(step) >= deps.config.SEARCH_TIMEOUT_SECONDS * 1000 || instance.wanted_offer_id !== null) {
    return endInstance(step, 'no_offer', detail);
  }
  await lookAgain(step, detail);
}

/** Writes the rental with its label and secret before the provider is asked for anything. */
async function intend(step: Step, offer: Offer): Promise<void> {
  const { deps, instance, now } = step;
  const number = instance.rental_count + 1;
  const id = uuid();
  const update = {
    ...enterPhase(instance, 'renting', number, now),
    rental_id: id,
    rental_count: number,
    gpu_name: offer.gpuName,
    gpu_count: offer.gpuCount,
    vram_gb: offer.vramGb,
    region: offer.region,
    message: `Renting a ${offer.gpuName} for ${offer.pricePerHourUsd.toFixed(3)} USD per hour.`,
  };
  await finish(step, update, 0, async (trx) => {
    await trx
      .insertInto('rentals')
      .values({
        id,
        instance_id: instance.id,
        number,
        status: 'intended',
        label: `${deps.labelPrefix}.${instance.id}.${number}`,
        offer: JSON.stringify(offer),
        machine_id: offer.machineId,
        price_per_hour_usd: offer.pricePerHourUsd,
        // 43 characters of base64url: vast.ai's image strips CR, LF and ";" from the password, so none of them may occur.
        secret: randomBytes(32).toString('base64url'),
      })
      .execute();
  });
}

function choose(found: OfferSearch, wanted: string | null, triedMachines: Set<string>): Offer | undefined {
  if (wanted !== null)
    return findOffer([...found.offers, ...found.rejected.map(({ offer }) => offer)], wanted);
  return rankOffers(found.offers).find(({ offer }) => !triedMachines.has(offer.machineId))?.offer;
}

/** Why no further offer may be tried, or null when one may. */
function exhaustion(earlier: RentalRow[], maxRentals: number, single: boolean): string | null {
  const rented = earlier.filter((rental) => rental.confirmed_at !== null);
  const last = earlier.toSorted((a, b) => b.number - a.number)[0];
  const lastWords = last?.end_evidence ?? '';
  if (single && earlier.length > 0) return `The machine that you chose failed: ${lastWords}`;
  if (rented.length >= maxRentals) return `${rented.length} machines were tried. The last one: ${lastWords}`;
  if (earlier.length >= maxRentals * OFFERS_PER_RENTAL) {
    return `${earlier.length} offers were tried and ${rented.length} machines rented. The last one: ${lastWords}`;
  }
  return null;
}

function explainNone({ offers, rejected }: OfferSearch, wanted: string | null, tried: number): string {
  if (wanted !== null)
    return `The offer ${wanted} is not listed any more. Take another one from GET /offers.`;
  if (offers.length > 0)
    return `The ${offers.length} fitting offers are on machines that were tried already (${tried}).`;
  const reasons = rejected
    .slice(0, 3)
    .map(({ offer, reasons: why }) => `${offer.gpuName}: ${why.join(', ')}`);
  const nearest = reasons.length === 0 ? '' : ` The nearest: ${reasons.join('; ')}.`;
  return `No offer satisfies the requirements; ${rejected.length} were looked at.${nearest}`;
}
