// What `/metrics` shows of the money: read from the database when somebody asks.
import type { Kysely } from 'kysely';
import { Gauge } from 'prom-client';
import type { Tables } from '../database/tables.ts';
import type { Metrics } from '../http/metrics.ts';
import type { Clock } from '../support/clock.ts';
import { limitsOf, type BudgetConfig } from './budget.ts';
import { readCredit, totalPricePerHourUsd } from './credit.ts';
import { spentSince } from './ledger.ts';
import { startOfDay, startOfMonth } from './limits.ts';

export interface MoneyGaugesDeps {
  db: Kysely<Tables>;
  config: BudgetConfig;
  clock: Clock;
}

/** A limit that is switched off is shown as +Inf; a credit that nobody knows is not shown. */
export function registerMoneyGauges({ register }: Metrics, { db, config, clock }: MoneyGaugesDeps): void {
  const gauge = (name: string, help: string, read: () => Promise<number | null>): void => {
    register.registerMetric(
      new Gauge({
        name,
        help,
        registers: [],
        async collect() {
          const value = await read();
          if (value === null) this.reset();
          else this.set(value);
        },
      }),
    );
  };
  gauge('comfyfleet_credit_usd', 'Credit of the account at the provider', async () => {
    return (await readCredit(db))?.creditUsd ?? null;
  });
  gauge('comfyfleet_price_per_hour_usd', 'Price of everything that is rented', () =>
    totalPricePerHourUsd(db),
  );
  gauge('comfyfleet_spent_today_usd', 'Spent on this day of UTC', () => {
    const now = clock.now();
    return spentSince(db, startOfDay(now), now);
  });
  gauge('comfyfleet_spent_month_usd', 'Spent in this month of UTC', () => {
    const now = clock.now();
    return spentSince(db, startOfMonth(now), now);
  });
  const limits = limitsOf(config);
  const shown: [string, number][] = [
    ['instances', limits.instances],
    ['price_per_hour', limits.totalPricePerHourUsd],
    ['spend_per_day', limits.perDayUsd],
    ['spend_per_month', limits.perMonthUsd],
  ];
  register.registerMetric(
    new Gauge({
      name: 'comfyfleet_limit',
      help: 'Limits of the settings, in US dollars where they are of money',
      labelNames: ['limit'] as const,
      registers: [],
      collect() {
        for (const [limit, value] of shown) this.set({ limit }, value);
      },
    }),
  );
}
