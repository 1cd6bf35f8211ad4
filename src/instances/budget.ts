// The contract between renting and whoever guards the money: nothing is rented that this does not allow.
import type { Transaction } from 'kysely';
import type { Tables } from '../database/tables.ts';
import type { Offer } from './provider.ts';

/** Why nothing may be rented now. */
export interface Obstacle {
  reason: 'limit_reached' | 'insufficient_credit';
  /** For a person: which limit, and the numbers. */
  detail: string;
  /** The numbers, for a program. */
  numbers: LimitNumbers | { creditUsd: number; neededUsd: number };
}

/** A limit that would be passed. `committed` is what is taken already, in the worst case; `asked` is what would come on top. */
export interface LimitNumbers {
  limitName:
    | 'MAX_INSTANCES'
    | 'MAX_PRICE_PER_HOUR_USD'
    | 'MAX_TOTAL_PRICE_PER_HOUR_USD'
    | 'MAX_SPEND_PER_DAY_USD'
    | 'MAX_SPEND_PER_MONTH_USD';
  limit: number;
  committed: number;
  asked: number;
  /** The day or month of UTC that it is about, as `2026-01-31` or `2026-01`; null for a limit of any moment. */
  period: string | null;
}

export interface Terms {
  /** From then on the instance ends; null where it may live for ever. */
  expiresAt: Date | null;
  /** The highest price that it may have, unless the settings allow less. */
  maxPricePerHourUsd: number;
}

/** What is asked of the limits for a machine that exists already. */
export interface AdoptionTerms extends Terms {
  /** Whether it is to count towards FLEET_MAX. */
  forFleet: boolean;
}

/** A rental that `reserve` has allowed, and that is written. */
export interface ReservedRental {
  id: string;
  offer: Offer;
}

export interface Budget {
  /** When an instance that is requested now must end. */
  expiryOf(maxLifetimeHours: number | undefined, now: Date): Date | null;
  /**
   * Whether one more instance may be requested, before its price is known: those that have none yet count with their highest.
   * Locks out every other decision on money until the transaction ends.
   */
  admit(trx: Transaction<Tables>, terms: Terms): Promise<Obstacle | null>;
  /**
   * The first of the offers that one more instance, which nobody has requested yet, could take now, or why it could take none. Not a
   * promise: `admit` and `reserve` decide.
   */
  firstAffordable(offers: readonly Offer[], terms: Terms): Promise<Offer | Obstacle>;
  /**
   * The first of the offers that may be rented, by the worst case: its price until its latest end, its disk, and what may be
   * downloaded to it. To be asked in the transaction that writes the rental, before it is written: nobody else decides until that
   * ends. `order` is called when nobody else decides any more, so it sees all that was rented before.
   */
  reserve(
    trx: Transaction<Tables>,
    order: () => Promise<readonly Offer[]>,
    terms: Terms,
  ): Promise<Offer | Obstacle>;
  /**
   * Why what was reserved for a rental may not be rented any more: meanwhile limits were lowered, prices raised, a day has begun. Null
   * where it may. To be asked in the transaction that takes the right to rent it.
   */
  reconsider(trx: Transaction<Tables>, rental: ReservedRental, terms: Terms): Promise<Obstacle | null>;
  /**
   * Whether a machine that counts for nobody may become one more instance. Asked like `reserve`; those that were accepted and
   * have no machine yet come first.
   */
  mayAdopt(trx: Transaction<Tables>, offer: Offer, terms: AdoptionTerms): Promise<boolean>;
}

export function isObstacle(outcome: Offer | Obstacle): outcome is Obstacle {
  return 'reason' in outcome;
}
