// One round of looking after the money: the limits first, then the books, then the credit.
import { messageOf } from '../errors.ts';
import { watchCredit, type CreditDeps } from './credit.ts';
import { guardMoney, type GuardDeps } from './guard.ts';
import { recordCosts } from './ledger.ts';

export type MoneyDeps = GuardDeps & CreditDeps;

/** Waits between rounds. With the round itself it stays within what the guard reckons with. */
export const MONEY_EVERY_MS = 5000;

/** Every part stands by itself: one that fails is logged, and the others are done. */
export async function keepMoney(deps: MoneyDeps): Promise<void> {
  const parts: [string, () => Promise<unknown>][] = [
    ['guard', () => guardMoney(deps)],
    ['ledger', () => recordCosts(deps.db, deps.clock.now())],
    ['credit', () => watchCredit(deps)],
  ];
  for (const [part, keep] of parts) {
    try {
      await keep();
    } catch (error) {
      deps.log.error({ part, error: messageOf(error) }, 'the money could not be looked after');
    }
  }
}
