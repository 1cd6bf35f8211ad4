// Searching: finds the best offer that was not tried yet, and writes the intention to rent it.
import { randomBytes } from 'node:crypto';
import type { Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { RentalRow, Tables } from '../../database/tables.ts';
import { isObstacle, type Obstacle } from '../budget.ts';
import { isLifeOver, terminationReasons } from '../instance.ts';
import { deadManSeconds } from '../dead-man.ts';
import { labelOf } from '../label.ts';
import { recall, withoutCooling, type HostMemory } from '../machines.ts';
import type { Offer, OfferSearch } from '../provider.ts';
import { HIGHEST_PRICE_PER_HOUR_USD, type Requirements } from '../requirements.ts';
import { findOffer, machineOfOffer, rankOffers } from '../ranking.ts';
import { enterPhase, machineFactsOf } from '../records.ts';
import {
  endInstance,
  finish,
  lookAgain,
  needProvider,
  needRequirements,
  phaseAgeMs,
  termsOf,
  type Step,
} from './step.ts';

/** Offers that vanish between search and rent cost nothing, so more of them are tried than machines that were really rented. */
const OFFERS_PER_RENTAL = 4;

export async function search(step: Step): Promise<void> {
  const { deps, instance, now } = step;
  // Its rental failed, and the process died before it wrote that another is looked for.
  if (instance.phase !== 'searching') {
    const update = enterPhase(instance, 'searching', instance.rental_count, now);
    return finish(step, { ...update, message: 'Looking for another machine.' }, 0);
  }
  if (isLifeOver(instance, now)) {
    return endInstance(step, 'lifetime_reached', 'It was still looking for a machine.');
  }
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

  const wanted = instance.wanted_offer_id;
  const listed = await needProvider(step).searchOffers(wantedOf(step), {
    machineId: wanted === null ? undefined : machineOfOffer(wanted),
    toRent: true,
    signal: step.signal,
  });
  const memory = await recall(deps.db, listed);
  const found = withoutCooling(listed, memory, step.now);
  const tried = new Set(earlier.map((rental) => rental.machine_id));
  const taken = new Set([...tried, ...(await machinesOfRivals(step))]);
  const candidates = wanted === null ? choose(found.offers, taken, memory) : named(listed.offers, wanted);
  if (candidates.length === 0) {
    return waitFor(step, 'no_offer', explainNone(found, wanted, earlier.length));
  }
  await rentWithin(step, candidates);
}

/** Looks again after a while, until the time for searching is over. */
async function waitFor(step: Step, reason: 'no_offer' | Obstacle['reason'], detail: string): Promise<void> {
  const { deps, instance } = step;
  const isOver = phaseAgeMs(step) >= deps.config.SEARCH_TIMEOUT_SECONDS * 1000;
  // A certain offer does not come back.
  const isHopeless = reason === 'no_offer' && instance.wanted_offer_id !== null;
  if (isOver || isHopeless) return endInstance(step, reason, detail);
  await lookAgain(step, detail);
}

/** Money may come back: a day ends, another instance is gone. A price that is too high for the request stays so. */
async function waitForMoney(step: Step, { reason, detail, numbers }: Obstacle): Promise<void> {
  if ('limitName' in numbers && numbers.limitName === 'MAX_PRICE_PER_HOUR_USD') {
    return endInstance(step, reason, detail);
  }
  await waitFor(step, reason, `${terminationReasons[reason]} ${detail}`);
}

/** Writes the intention if there is money for it in that very moment. */
async function rentWithin(step: Step, candidates: Offer[]): Promise<void> {
  try {
    await intend(step, candidates);
  } catch (error) {
    if (!(error instanceof MoneyLacking)) throw error;
    await waitForMoney(step, error.obstacle);
  }
}

/** Undoes the transaction that would have written the rental. */
class MoneyLacking extends Error {
  readonly obstacle: Obstacle;

  constructor(obstacle: Obstacle) {
    super(obstacle.detail);
    this.name = 'MoneyLacking';
    this.obstacle = obstacle;
  }
}

/** Machines of the instances that this one races: the same one twice would win nothing. */
async function machinesOfRivals({ deps, instance }: Step): Promise<Set<string>> {
  if (instance.race_id === null) return new Set();
  const rivals = await deps.db
    .selectFrom('rentals')
    .innerJoin('instances', 'instances.id', 'rentals.instance_id')
    .select('machine_id')
    .where('race_id', '=', instance.race_id)
    .where('instances.id', '<>', instance.id)
    .where('rentals.status', '<>', 'gone')
    .execute();
  return new Set(rivals.map(({ machine_id: machineId }) => machineId));
}

/**
 * Behind all others the machines that are just being rented, or were since this search began: an offer of theirs is as good as taken,
 * unless they have more than one. Else all instances that search at the same time would go for the same machine.
 */
async function contestedLast(trx: Transaction<Tables>, { now }: Step, offers: Offer[]): Promise<Offer[]> {
  const rows = await trx
    .selectFrom('rentals')
    .select('machine_id')
    .where('status', '<>', 'gone')
    .where((eb) => eb.or([eb('status', 'in', ['intended', 'creating']), eb('confirmed_at', '>=', now)]))
    .execute();
  const contested = new Set(rows.map(({ machine_id: machineId }) => machineId));
  const place = ({ machineId }: Offer) => (contested.has(machineId) ? 1 : 0);
  return offers.toSorted((a, b) => place(a) - place(b));
}

/** Chooses, and writes the rental with its label and secret before the provider is asked for anything. */
async function intend(step: Step, candidates: Offer[]): Promise<void> {
  const { deps, instance, now } = step;
  const number = instance.rental_count + 1;
  const id = uuid();
  const update = {
    ...enterPhase(instance, 'renting', number, now),
    rental_id: id,
    rental_count: number,
  };
  await finish(step, update, 0, async (trx) => {
    const offer = await deps.budget.reserve(trx, () => contestedLast(trx, step, candidates), termsOf(step));
    if (isObstacle(offer)) throw new MoneyLacking(offer);
    const message = `Renting a ${offer.gpuName} for ${offer.pricePerHourUsd.toFixed(3)} USD per hour.`;
    await trx
      .updateTable('instances')
      .set({ ...machineFactsOf(offer), message })
      .where('id', '=', instance.id)
      .execute();
    await trx
      .insertInto('rentals')
      .values({
        id,
        instance_id: instance.id,
        number,
        status: 'intended',
        label: labelOf(deps.labelPrefix, instance.id, number),
        offer: JSON.stringify(offer),
        machine_id: offer.machineId,
        price_per_hour_usd: offer.pricePerHourUsd,
        // 43 characters of base64url: vast.ai's image strips CR, LF and ";" from the password, so none of them may occur.
        secret: randomBytes(32).toString('base64url'),
        dead_man_seconds: deadManSeconds(deps.config),
      })
      .execute();
    return 'intended';
  });
}

/** What may be rented, the best first. */
function choose(offers: Offer[], takenMachines: ReadonlySet<string>, memory: HostMemory): Offer[] {
  return rankOffers(offers, memory)
    .map(({ offer }) => offer)
    .filter(({ machineId }) => !takenMachines.has(machineId));
}

/** The offer that the caller chose, on a machine that failed lately too. */
function named(offers: Offer[], publicId: string): Offer[] {
  const offer = findOffer(offers, publicId);
  return offer === undefined ? [] : [offer];
}

/** What to search by. An offer that the caller chose is looked for at any price, so that its price can be said to be too high. */
function wantedOf(step: Step): Requirements {
  const requirements = needRequirements(step);
  if (step.instance.wanted_offer_id === null) return requirements;
  return { ...requirements, maxPricePerHourUsd: HIGHEST_PRICE_PER_HOUR_USD };
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
  if (wanted !== null) {
    const listed = findOffer(
      rejected.map(({ offer }) => offer),
      wanted,
    );
    const why = rejected.find(({ offer }) => offer === listed)?.reasons.join(' ');
    if (why !== undefined) return `The offer ${wanted} is listed, but: ${why}`;
    return `The offer ${wanted} is not listed any more. Take another one from GET /offers.`;
  }
  if (offers.length > 0)
    return `The ${offers.length} fitting offers are on machines that were tried already (${tried}).`;
  const reasons = rejected
    .slice(0, 3)
    .map(({ offer, reasons: why }) => `${offer.gpuName}: ${why.join(', ')}`);
  const nearest = reasons.length === 0 ? '' : ` The nearest: ${reasons.join('; ')}.`;
  return `No offer satisfies the requirements; ${rejected.length} were looked at.${nearest}`;
}
