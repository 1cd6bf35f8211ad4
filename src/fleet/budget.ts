// The budget: what is committed, by the rows, and whether more may be. One lock makes all decisions one after the other.
import { sql, type Kysely, type Transaction } from 'kysely';
import type { Config } from '../config.ts';
import type { Executor } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import {
  isObstacle,
  type Budget,
  type LimitNumbers,
  type Obstacle,
  type Terms,
} from '../instances/budget.ts';
import { isLifeOver } from '../instances/instance.ts';
import type { Offer } from '../instances/provider.ts';
import type { Clock } from '../support/clock.ts';
import { readCredit, type Credit } from './credit.ts';
import { spentSince } from './ledger.ts';
import { lockFleet } from './lock.ts';
import {
  findBreach,
  startOfDay,
  startOfMonth,
  type Commitment,
  type Limits,
  type Position,
} from './limits.ts';

export type BudgetConfig = Pick<
  Config,
  | 'FLEET_MAX'
  | 'MAX_INSTANCES'
  | 'MAX_PRICE_PER_HOUR_USD'
  | 'MAX_TOTAL_PRICE_PER_HOUR_USD'
  | 'MAX_SPEND_PER_DAY_USD'
  | 'MAX_SPEND_PER_MONTH_USD'
  | 'INSTANCE_MAX_LIFETIME_HOURS'
  | 'DRAIN_LIMIT_MINUTES'
  | 'DESTROY_RESERVE_HOURS'
  | 'CREDIT_RESERVE_HOURS'
>;

export interface BudgetDeps {
  db: Kysely<Tables>;
  config: BudgetConfig;
  clock: Clock;
}

interface Standing {
  position: Position;
  credit: Credit | null;
}

/** For which instance money is asked for; one that has a rental asks for what that would take anew. */
type Asker = 'new' | 'requested before' | { replacing: string };

/** One lock for every decision that commits money, over all replicas. */
const MONEY_LOCK = 0x636679;
const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;
/** Hardly any machine that fits a request costs less, so a request without room for this one is refused at once. */
const LEAST_PRICE_PER_HOUR_USD = 0.05;

export function createBudget({ db, config, clock }: BudgetDeps): Budget {
  return {
    expiryOf(maxLifetimeHours, now) {
      const hours = Math.min(maxLifetimeHours ?? Infinity, config.INSTANCE_MAX_LIFETIME_HOURS);
      return hours === Infinity ? null : new Date(now.getTime() + hours * HOUR_MS);
    },

    async admit(trx, terms) {
      const pricePerHourUsd = Math.min(terms.maxPricePerHourUsd, LEAST_PRICE_PER_HOUR_USD);
      return obstacleToNew(trx, { pricePerHourUsd, downloadUsd: 0 }, terms);
    },

    firstAffordable: (offers, terms) => firstWithin(db, offers, terms, 'new'),

    async reserve(trx, order, terms) {
      await lockMoney(trx);
      return firstWithin(trx, await order(), terms, 'requested before');
    },

    async reconsider(trx, { id, offer }, terms) {
      await lockMoney(trx);
      const outcome = await firstWithin(trx, [offer], terms, { replacing: id });
      return isObstacle(outcome) ? outcome : null;
    },

    async mayAdopt(trx, offer, terms) {
      if (tooDear(config, offer, terms) !== null) return false;
      if (terms.forFleet && !(await fleetHasRoom(trx, config))) return false;
      return (await obstacleToNew(trx, costsOf(offer), terms)) === null;
    },
  };

  async function obstacleToNew(
    trx: Transaction<Tables>,
    costs: ReturnType<typeof costsOf>,
    { expiresAt }: Terms,
  ): Promise<Obstacle | null> {
    await lockMoney(trx);
    const now = clock.now();
    const standing = await readStanding(trx, config, now, 'new');
    return findObstacle(config, standing, commitmentTo(costs, expiresAt, config, now));
  }

  async function firstWithin(
    executor: Executor,
    offers: readonly Offer[],
    terms: Terms,
    asker: Asker,
  ): Promise<Offer | Obstacle> {
    const now = clock.now();
    const standing = await readStanding(executor, config, now, asker);
    const obstacles: { hopeless: Obstacle[]; passing: Obstacle[] } = { hopeless: [], passing: [] };
    for (const offer of offers) {
      const dear = tooDear(config, offer, terms);
      const ask = commitmentTo(costsOf(offer), terms.expiresAt, config, now);
      const obstacle = dear ?? findObstacle(config, standing, ask);
      if (obstacle === null) return offer;
      obstacles[dear === null ? 'passing' : 'hopeless'].push(obstacle);
    }
    // What may become possible is waited for.
    const [first] = [...obstacles.passing, ...obstacles.hopeless];
    if (first === undefined) throw new Error('No offer was given to choose from.');
    return first;
  }
}

export function limitsOf(config: BudgetConfig): Limits {
  return {
    instances: config.MAX_INSTANCES,
    totalPricePerHourUsd: config.MAX_TOTAL_PRICE_PER_HOUR_USD,
    perDayUsd: config.MAX_SPEND_PER_DAY_USD,
    perMonthUsd: config.MAX_SPEND_PER_MONTH_USD,
  };
}

/**
 * What was spent, and what may still come of every rental; of all but one, where that is left out. Of one that is gone, what it may
 * have downloaded: nobody knows before the provider's bill.
 */
export async function readPosition(
  db: Executor,
  config: BudgetConfig,
  now: Date,
  { without = null }: { without?: string | null } = {},
): Promise<Position> {
  const rentals = await db
    .selectFrom('rentals')
    .innerJoin('instances', 'instances.id', 'rentals.instance_id')
    .select(['rentals.status', 'offer', 'price_per_hour_usd', 'gone_at'])
    .select(['instances.status as instanceStatus', 'instances.expires_at'])
    .where((eb) =>
      eb.or([
        eb('rentals.status', '<>', 'gone'),
        // A rental that was never made has no such moment.
        eb.and([eb('confirmed_at', 'is not', null), eb('gone_at', '>=', startOfMonth(now))]),
      ]),
    )
    .where('rentals.id', 'is distinct from', without)
    .execute();
  const { count } = await db
    .selectFrom('instances')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .where('provider', '=', 'vast')
    .where('status', '<>', 'terminated')
    .executeTakeFirstOrThrow();
  return {
    now,
    instances: count,
    spentTodayUsd: await spentSince(db, startOfDay(now), now),
    spentThisMonthUsd: await spentSince(db, startOfMonth(now), now),
    commitments: rentals.map((rental) => {
      const { pricePerHourUsd: agreedUsd, downloadUsd } = costsOf(rental.offer);
      if (rental.status === 'gone') return { pricePerHourUsd: 0, downloadUsd, until: rental.gone_at ?? now };
      // One that is shown cheaper may stand still just now.
      const pricePerHourUsd = Math.max(rental.price_per_hour_usd, agreedUsd);
      // One that ends has no longer than if its life were over.
      const isEnding = rental.instanceStatus === 'terminating' && !isLifeOver(rental, now);
      const expiresAt = isEnding ? now : rental.expires_at;
      return commitmentTo({ pricePerHourUsd, downloadUsd }, expiresAt, config, now);
    }),
  };
}

/** A machine taken now, by its worst case. */
export function commitmentTo(
  { pricePerHourUsd, downloadUsd }: { pricePerHourUsd: number; downloadUsd: number },
  expiresAt: Date | null,
  config: Pick<BudgetConfig, 'DRAIN_LIMIT_MINUTES' | 'DESTROY_RESERVE_HOURS'>,
  now: Date,
): Commitment {
  const reserveMs = config.DESTROY_RESERVE_HOURS * HOUR_MS;
  // Without an end it counts until the end of the next month: before that, every limit will have been looked at again.
  const endMs =
    expiresAt === null
      ? startOfMonth(now, 2).getTime()
      : expiresAt.getTime() + config.DRAIN_LIMIT_MINUTES * MINUTE_MS + reserveMs;
  return {
    pricePerHourUsd,
    downloadUsd,
    until: new Date(Math.max(endMs, now.getTime() + reserveMs)),
  };
}

/** The price, and the most that image and models can cost to download: no more fits onto the disk. */
export function costsOf(offer: Offer): { pricePerHourUsd: number; downloadUsd: number } {
  return {
    pricePerHourUsd: offer.pricePerHourUsd,
    downloadUsd: offer.downloadPricePerGbUsd * offer.diskGb,
  };
}

export function explainBreach({ limitName, limit, committed, asked, period }: LimitNumbers): string {
  if (limitName === 'MAX_INSTANCES') {
    return `${committed} instances are rented or being rented, and MAX_INSTANCES is ${limit}. End one, or raise the limit.`;
  }
  const when = period === null ? '' : ` for ${period}`;
  const unit = period === null ? 'USD per hour' : 'USD';
  return `${limitName} is ${limit} ${unit}. At worst ${committed.toFixed(3)} are taken${when}, and this would add up to ${asked.toFixed(3)}. End an instance, ask for a shorter life or a lower price, or raise the limit.`;
}

/** An offer that the caller chose may cost more than the request, or the service, allows; and the service may allow less by now. */
function tooDear(config: BudgetConfig, offer: Offer, terms: Terms): Obstacle | null {
  const limit = Math.min(terms.maxPricePerHourUsd, config.MAX_PRICE_PER_HOUR_USD);
  if (offer.pricePerHourUsd <= limit) return null;
  return {
    reason: 'limit_reached',
    detail: `The offer costs ${offer.pricePerHourUsd.toFixed(3)} USD per hour, and at most ${limit} may be paid. Take a cheaper one, or raise MAX_PRICE_PER_HOUR_USD.`,
    numbers: {
      limitName: 'MAX_PRICE_PER_HOUR_USD',
      limit,
      committed: 0,
      asked: offer.pricePerHourUsd,
      period: null,
    },
  };
}

/** Where the money stands. An instance that was requested before was counted then, and not again; a new one comes after all those. */
async function readStanding(db: Executor, config: BudgetConfig, now: Date, asker: Asker): Promise<Standing> {
  const without = typeof asker === 'object' ? asker.replacing : null;
  const position = await readPosition(db, config, now, { without });
  const credit = await readCredit(db);
  if (asker !== 'new') return { position: { ...position, instances: 0 }, credit };
  const waiting = await instancesWithoutRental(db, config, now);
  return { position: { ...position, commitments: [...position.commitments, ...waiting] }, credit };
}

/** Why an ask can not be paid: a limit first, then the credit that must be left. */
function findObstacle(
  config: BudgetConfig,
  { position, credit }: Standing,
  ask: Commitment,
): Obstacle | null {
  const numbers = findBreach(limitsOf(config), position, ask);
  if (numbers !== null) return { reason: 'limit_reached', detail: explainBreach(numbers), numbers };
  if (credit?.creditUsd == null) return null;
  const price = position.commitments.reduce((sum, { pricePerHourUsd }) => sum + pricePerHourUsd, 0);
  const neededUsd = (price + ask.pricePerHourUsd) * config.CREDIT_RESERVE_HOURS;
  if (credit.creditUsd > 0 && credit.creditUsd >= neededUsd) return null;
  return {
    reason: 'insufficient_credit',
    detail: `The vast.ai account has ${credit.creditUsd.toFixed(2)} USD of credit; ${neededUsd.toFixed(2)} are needed to rent, for ${config.CREDIT_RESERVE_HOURS} hours of everything rented. Add credit.`,
    numbers: { creditUsd: credit.creditUsd, neededUsd },
  };
}

/** Instances that were accepted and have no machine: each may take the highest price that it accepts. */
async function instancesWithoutRental(db: Executor, config: BudgetConfig, now: Date): Promise<Commitment[]> {
  const rows = await db
    .selectFrom('instances')
    .leftJoin('rentals', 'rentals.id', 'instances.rental_id')
    .select(['requirements', 'expires_at'])
    .where('provider', '=', 'vast')
    .where('instances.status', 'in', ['requested', 'provisioning'])
    .where((eb) => eb.or([eb('rentals.id', 'is', null), eb('rentals.status', '=', 'gone')]))
    .execute();
  return rows.map(({ requirements, expires_at: expiresAt }) => {
    const pricePerHourUsd = requirements?.maxPricePerHourUsd ?? 0;
    return commitmentTo({ pricePerHourUsd, downloadUsd: 0 }, expiresAt, config, now);
  });
}

/** Nobody else changes the size of the fleet until the transaction ends. */
async function fleetHasRoom(trx: Transaction<Tables>, { FLEET_MAX }: BudgetConfig): Promise<boolean> {
  await lockFleet(trx);
  const { count } = await trx
    .selectFrom('instances')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .where('wish', 'is not', null)
    .where('status', '<>', 'terminated')
    .executeTakeFirstOrThrow();
  return count < FLEET_MAX;
}

async function lockMoney(trx: Transaction<Tables>): Promise<void> {
  await sql`select pg_advisory_xact_lock(${sql.lit(MONEY_LOCK)})`.execute(trx);
}
