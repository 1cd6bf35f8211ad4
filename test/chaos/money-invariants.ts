// What must be true of the money: looked at many times a second on the double's own bill.
import { GUARD_INTERVAL_MS } from '../../src/fleet/guard.ts';
import type { VastDouble } from '../doubles/vast/index.ts';

export interface MoneyWatch {
  readonly seen: MoneySeen;
  stop(): void;
}

/** The highest of each at any moment; prices are those of an hour. */
export interface MoneySeen {
  machines: number;
  /** Of all machines at once, as offered. */
  agreedUsd: number;
  /** Of all machines at once, with what hosts added later. */
  raisedUsd: number;
  billUsd: number;
}

export interface MoneyLimits {
  totalPricePerHourUsd: number;
  perDayUsd: number;
}

const LOOK_MS = 50;

export function watchMoney(vast: VastDouble): MoneyWatch {
  const seen: MoneySeen = { machines: 0, agreedUsd: 0, raisedUsd: 0, billUsd: 0 };
  const look = () => {
    const alive = [...vast.state.rentals.values()].filter(({ endedAtMs }) => endedAtMs === null);
    const agreed = alive.map((rental) => rental.machine.gpuPricePerHourUsd + rental.storagePricePerHourUsd);
    const raised = alive.map((rental) => rental.gpuPricePerHourUsd + rental.storagePricePerHourUsd);
    seen.machines = Math.max(seen.machines, alive.length);
    seen.agreedUsd = Math.max(seen.agreedUsd, sum(agreed));
    seen.raisedUsd = Math.max(seen.raisedUsd, sum(raised));
    seen.billUsd = sum(vast.bill().map(({ totalUsd }) => totalUsd));
  };
  const timer = setInterval(look, LOOK_MS);
  return {
    seen,
    stop() {
      clearInterval(timer);
      look();
    },
  };
}

/** What everything costs between two looks of the service's guard, at the dearest moment. */
export function intervalCostUsd({ raisedUsd }: MoneySeen): number {
  return (raisedUsd * GUARD_INTERVAL_MS) / 3_600_000;
}

export function moneyViolations(seen: MoneySeen, limits: MoneyLimits): string[] {
  const found: string[] = [];
  const most = limits.perDayUsd + intervalCostUsd(seen);
  if (seen.billUsd > most) {
    found.push(`bill: ${usd(seen.billUsd)} USD, and ${usd(most)} USD is the limit with one interval`);
  }
  if (seen.agreedUsd > limits.totalPricePerHourUsd) {
    found.push(
      `price: ${usd(seen.agreedUsd)} USD per hour at once, and the limit is ${usd(limits.totalPricePerHourUsd)}`,
    );
  }
  return found;
}

export function usd(amount: number): string {
  return amount.toFixed(3);
}

function sum(amounts: number[]): number {
  return amounts.reduce((total, amount) => total + amount, 0);
}
