// One round of looking after the money: the limits first, then the books, then the credit.
import { watchCredit, type CreditDeps } from './credit.ts';
import { guardMoney, type GuardDeps } from './guard.ts';
import { recordCosts } from './ledger.ts';

export type MoneyDeps = GuardDeps & CreditDeps;

/** Waits between rounds. With the round itself it stays within what the guard reckons with. */
export const MONEY_EVERY_MS = 5000;

/** What one round does, by name. */
export function moneyUpkeep(deps: MoneyDeps): Record<string, () => Promise<unknown>> {
  return {
    'budget guard': () => guardMoney(deps),
    ledger: () => recordCosts(deps.db, deps.clock.now()),
    credit: () => watchCredit(deps),
  };
}
