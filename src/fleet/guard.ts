// The guard: ends what has outlived its time, and everything that bills before a limit is passed.
import type { Kysely, Transaction } from 'kysely';
import type { Config } from '../config.ts';
import type { Queues } from '../database/queues.ts';
import type { InstanceRow, Tables } from '../database/tables.ts';
import { beginEnding } from '../instances/ending.ts';
import {
  isLifeOver,
  terminationReasons,
  wantedReasons,
  type TerminationReason,
} from '../instances/instance.ts';
import type { Clock } from '../support/clock.ts';
import type { Logger } from '../support/log.ts';
import { explainBreach, limitsOf, readPosition, type BudgetConfig } from './budget.ts';
import { findBreach, type Commitment, type Limits, type Position } from './limits.ts';

export interface GuardDeps {
  db: Kysely<Tables>;
  queues: Queues;
  config: BudgetConfig & Pick<Config, 'JOB_MAX_ATTEMPTS'>;
  clock: Clock;
  log: Logger;
}

/** How long until the guard looks again, at the latest that is reckoned with. */
export const GUARD_INTERVAL_MS = 15_000;
const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;

/** One look. Returns how many instances it began to end, or to end for good. */
export async function guardMoney(deps: GuardDeps): Promise<number> {
  return (await endExpired(deps)) + (await endBeforeLimit(deps));
}

/** `drain`: jobs may still end within the limits. `end`: the money is needed for the destruction. */
export type Verdict = 'none' | 'drain' | 'end';

/** What a running total calls for, from what will be spent before the next look, in a drain, and in a destruction that is refused for a while. */
export function judgeSpending(
  { perDayUsd, perMonthUsd }: Pick<Limits, 'perDayUsd' | 'perMonthUsd'>,
  position: Position,
  times: { intervalMs: number; drainMs: number; destroyMs: number },
): Verdict {
  const passedAfter = (ms: number): boolean =>
    findBreach({ ...anything, perDayUsd, perMonthUsd }, within(position, ms), null) !== null;
  if (passedAfter(times.intervalMs + times.destroyMs)) return 'end';
  return passedAfter(times.intervalMs + times.drainMs + times.destroyMs) ? 'drain' : 'none';
}

/** Limits that are no running totals. */
const anything = { instances: Infinity, totalPricePerHourUsd: Infinity };

/** The commitments as they will be if everything is ended in a while. What was downloaded is billed all the same. */
function within(position: Position, ms: number): Position {
  const latest = position.now.getTime() + ms;
  const commitments = position.commitments.map((commitment): Commitment => {
    return {
      ...commitment,
      until: new Date(Math.min(commitment.until.getTime(), latest)),
    };
  });
  return { ...position, commitments };
}

async function endExpired(deps: GuardDeps): Promise<number> {
  const now = deps.clock.now();
  const expired = await deps.db
    .selectFrom('instances')
    .select(['id', 'expires_at', 'pending_reason as reason', 'pending_detail as detail'])
    .where('status', 'in', ['requested', 'provisioning', 'ready', 'draining'])
    .where('expires_at', '<=', now)
    .execute();
  let ended = 0;
  for (const { id, expires_at: expiresAt, reason, detail } of expired) {
    const overMs = now.getTime() - (expiresAt ?? now).getTime();
    const drain = overMs < deps.config.DRAIN_LIMIT_MINUTES * MINUTE_MS;
    const isLifeTheReason = reason === null || wantedReasons.has(reason);
    const why = isLifeTheReason ? { reason: 'lifetime_reached' as const, detail: null } : { reason, detail };
    if (await end(deps, id, { drain, ...why })) ended += 1;
  }
  return ended;
}

async function endBeforeLimit(deps: GuardDeps): Promise<number> {
  const { db, config, clock } = deps;
  const limits = limitsOf(config);
  const position = await readPosition(db, config, clock.now());
  if (position.commitments.length === 0) return 0;
  const verdict = judgeSpending(limits, position, {
    intervalMs: GUARD_INTERVAL_MS,
    drainMs: config.DRAIN_LIMIT_MINUTES * MINUTE_MS,
    destroyMs: config.DESTROY_RESERVE_HOURS * HOUR_MS,
  });
  if (verdict === 'none') return endDearest(deps, limits.totalPricePerHourUsd);
  const detail = `${position.spentTodayUsd.toFixed(3)} USD were spent today and ${position.spentThisMonthUsd.toFixed(3)} this month; MAX_SPEND_PER_DAY_USD is ${settingOf(limits.perDayUsd)} and MAX_SPEND_PER_MONTH_USD ${settingOf(limits.perMonthUsd)}.`;
  let ended = 0;
  for (const { id } of await billing(db)) {
    if (await end(deps, id, { drain: verdict === 'drain', reason: 'limit_reached', detail })) ended += 1;
  }
  return ended;
}

/** A limit as the settings name it. */
function settingOf(limit: number): string {
  return limit === Infinity ? 'none' : String(limit);
}

/**
 * A host may raise its price: then some are let go until the rest is within the limit. First those that drain already, for as long as
 * their jobs take, then the dearest.
 */
async function endDearest(deps: GuardDeps, limit: number): Promise<number> {
  const now = deps.clock.now();
  const staying = (await billing(deps.db))
    .filter((instance) => !isEnding(instance, now))
    .toSorted((a, b) => Number(isDraining(b)) - Number(isDraining(a)));
  let total = staying.reduce((sum, { pricePerHourUsd }) => sum + pricePerHourUsd, 0);
  let ended = 0;
  for (const { id, pricePerHourUsd } of staying) {
    if (total <= limit + 1e-9) break;
    const detail = explainBreach({
      limitName: 'MAX_TOTAL_PRICE_PER_HOUR_USD',
      limit,
      committed: total - pricePerHourUsd,
      asked: pricePerHourUsd,
      period: null,
    });
    if (await end(deps, id, { drain: true, reason: 'limit_reached', detail })) ended += 1;
    total -= pricePerHourUsd;
  }
  return ended;
}

type Billing = Pick<InstanceRow, 'id' | 'status' | 'expires_at'> & { pricePerHourUsd: number };

function isDraining({ status }: Billing): boolean {
  return status === 'draining';
}

/** Whether it ends in the time that a limit leaves: one that drains before its life is over may bill until then. */
function isEnding(instance: Billing, now: Date): boolean {
  return instance.status === 'terminating' || (isDraining(instance) && isLifeOver(instance, now));
}

/** Instances whose machine bills or is about to, the dearest first. */
function billing(db: Kysely<Tables>): Promise<Billing[]> {
  return db
    .selectFrom('instances')
    .innerJoin('rentals', 'rentals.id', 'instances.rental_id')
    .select(['instances.id', 'instances.status', 'expires_at', 'price_per_hour_usd as pricePerHourUsd'])
    .where('rentals.status', '<>', 'gone')
    .where('instances.status', '<>', 'terminated')
    .orderBy('price_per_hour_usd', 'desc')
    .orderBy('instances.id')
    .execute();
}

async function end(
  { db, queues, config, clock, log }: GuardDeps,
  id: string,
  { drain, reason, detail }: { drain: boolean; reason: TerminationReason; detail: string | null },
): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    const instance: InstanceRow | undefined = await trx
      .selectFrom('instances')
      .selectAll()
      .where('id', '=', id)
      .forUpdate()
      .executeTakeFirst();
    if (instance === undefined) return false;
    const now = clock.now();
    const began =
      drain && instance.status === 'draining'
        ? !isLifeOver(instance, now)
        : await beginEnding(trx, queues, instance, {
            drain,
            reason,
            detail,
            jobReason: terminationReasons[reason],
            maxAttempts: config.JOB_MAX_ATTEMPTS,
            now,
          });
    if (began && drain) await endLife(trx, instance, { reason, detail }, now);
    if (began) log.warn({ instanceId: id, reason, detail, drain }, 'an instance is ended by the guard');
    return began;
  });
}

/** Its jobs have no longer than those of one whose life is over, also where it drained before for as long as they take. */
async function endLife(
  trx: Transaction<Tables>,
  instance: InstanceRow,
  { reason, detail }: { reason: TerminationReason; detail: string | null },
  now: Date,
): Promise<void> {
  if (isLifeOver(instance, now)) return;
  await trx
    .updateTable('instances')
    .set({ expires_at: now, pending_reason: reason, pending_detail: detail })
    .where('id', '=', instance.id)
    .execute();
}
