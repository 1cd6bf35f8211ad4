// The credit of the account at the provider: looked at on a schedule by whoever sweeps, kept in the database for all.
import type { Kysely } from 'kysely';
import type { Config } from '../config.ts';
import type { Executor, Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { messageOf } from '../errors.ts';
import type { Provider } from '../instances/provider.ts';
import { isFresh, type Clock } from '../support/clock.ts';
import type { Logger } from '../support/log.ts';

export interface Credit {
  /** In US dollars; null where the provider does not say. */
  creditUsd: number | null;
  checkedAt: Date;
}

export interface CreditDeps {
  db: Kysely<Tables>;
  queues: Pick<Queues, 'wake'>;
  provider: Pick<Provider, 'name' | 'account'> | null;
  config: Pick<Config, 'CREDIT_CHECK_SECONDS' | 'CREDIT_RESERVE_HOURS'>;
  clock: Clock;
  log: Logger;
}

const ASK_LIMIT_MS = 8000;

/** What was last seen; null before the first look. */
export async function readCredit(db: Executor): Promise<Credit | null> {
  const row = await db.selectFrom('provider_credit').selectAll().executeTakeFirst();
  return row === undefined ? null : { creditUsd: row.credit_usd, checkedAt: row.checked_at };
}

/** Asks the provider when it is time. One that cannot answer leaves what was known. */
export async function watchCredit({ db, queues, provider, config, clock, log }: CreditDeps): Promise<void> {
  if (provider === null) return;
  const now = clock.now();
  const known = await readCredit(db);
  if (known !== null && isFresh(known.checkedAt, config.CREDIT_CHECK_SECONDS * 1000, now)) return;
  try {
    const { creditUsd } = await provider.account(AbortSignal.timeout(ASK_LIMIT_MS));
    const hasRisen = creditUsd !== null && creditUsd > (known?.creditUsd ?? Infinity);
    const seen = { credit_usd: creditUsd, checked_at: now, ...(hasRisen && { raised_at: now }) };
    await db
      .insertInto('provider_credit')
      .values({ provider: provider.name, ...seen })
      .onConflict((conflict) => conflict.column('provider').doUpdateSet(seen))
      .execute();
    // Which may have paused for the lack of it.
    if (hasRisen) await queues.wake(db, 'fleet');
    await warn(db, creditUsd, config, log);
  } catch (error) {
    log.warn({ error: messageOf(error) }, 'the credit of the account could not be read');
  }
}

/** Whether the credit lasts for fewer hours than are to be kept, at the price of all that is rented now. */
export function isLow(creditUsd: number, pricePerHourUsd: number, reserveHours: number): boolean {
  return creditUsd <= 0 || creditUsd < pricePerHourUsd * reserveHours;
}

/** The price of all rentals that are not confirmed gone, in US dollars per hour. */
export async function totalPricePerHourUsd(db: Executor): Promise<number> {
  const { total } = await db
    .selectFrom('rentals')
    .select(({ fn }) => fn.sum<number | null>('price_per_hour_usd').as('total'))
    .where('status', 'in', ['creating', 'active', 'destroying'])
    .executeTakeFirstOrThrow();
  return total ?? 0;
}

async function warn(
  db: Executor,
  creditUsd: number | null,
  { CREDIT_RESERVE_HOURS: reserveHours }: CreditDeps['config'],
  log: Logger,
): Promise<void> {
  if (creditUsd === null) return;
  const pricePerHourUsd = await totalPricePerHourUsd(db);
  if (!isLow(creditUsd, pricePerHourUsd, reserveHours)) return;
  log.error({ creditUsd, pricePerHourUsd, reserveHours }, 'the credit of the vast.ai account is low');
}
