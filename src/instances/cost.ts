// What a rental has cost, by part and over any stretch of time: pure, by our own clock and the provider's prices.
import type { RentalRow } from '../database/tables.ts';

/** Money in whole millionths of a US dollar, so that sums are exact. */
export type Micros = number;

/** The parts of a cost that grow with time. */
export interface Cost {
  gpuMicros: Micros;
  storageMicros: Micros;
}

/** What the bill of a rental depends on. */
export type BilledRental = Pick<
  RentalRow,
  'status' | 'offer' | 'price_per_hour_usd' | 'past_prices' | 'create_sent_at' | 'confirmed_at' | 'gone_at'
>;

export interface Period {
  from: Date;
  to: Date;
}

const HOUR_MS = 3_600_000;

export function usdOf(micros: Micros): number {
  return micros / 1e6;
}

export function microsOf(usd: number): Micros {
  return Math.round(usd * 1e6);
}

/**
 * When a rental bills: from the create call until its absence was confirmed, loading included. vast.ai bills storage in every
 * state, and users report paying the full rate while the image loads. A create whose answer is lost bills until it is settled;
 * a rental that turned out never to have been made costs nothing.
 */
export function billedPeriod(rental: BilledRental, now: Date): Period | null {
  if (rental.create_sent_at === null || (rental.status === 'gone' && rental.confirmed_at === null))
    return null;
  return { from: rental.create_sent_at, to: rental.gone_at ?? now };
}

/** Cost of a rental within a period. The costs of periods that follow each other add up to that of the whole, to the millionth. */
export function rentalCost(rental: BilledRental, { from, to }: Period): Cost {
  const billed = billedPeriod(rental, to);
  if (billed === null) return { gpuMicros: 0, storageMicros: 0 };
  const until = (moment: Date): Cost => costUntil(rental, billed, moment);
  return subtract(until(to), until(from));
}

/** What the rentals have cost in all until now. */
export function totalCost(rentals: readonly BilledRental[], now: Date): Cost {
  const ever = { from: new Date(0), to: now };
  return rentals.map((rental) => rentalCost(rental, ever)).reduce(add, { gpuMicros: 0, storageMicros: 0 });
}

export function sumOf({ gpuMicros, storageMicros }: Cost): Micros {
  return gpuMicros + storageMicros;
}

function add(a: Cost, b: Cost): Cost {
  return { gpuMicros: a.gpuMicros + b.gpuMicros, storageMicros: a.storageMicros + b.storageMicros };
}

function subtract(a: Cost, b: Cost): Cost {
  return { gpuMicros: a.gpuMicros - b.gpuMicros, storageMicros: a.storageMicros - b.storageMicros };
}

/** The columns that give a rental another price from now on; null when it has that price already. */
export function priceChange(
  rental: Pick<RentalRow, 'price_per_hour_usd' | 'past_prices'>,
  pricePerHourUsd: number,
  at: Date,
): { price_per_hour_usd: number; past_prices: string } | null {
  if (Math.abs(pricePerHourUsd - rental.price_per_hour_usd) < 1e-6) return null;
  const past = { pricePerHourUsd: rental.price_per_hour_usd, until: at.toISOString() };
  return {
    price_per_hour_usd: pricePerHourUsd,
    past_prices: JSON.stringify([...rental.past_prices, past]),
  };
}

/** Rounded only here, at the end of the whole stretch: what lies between two moments is the difference of two whole numbers. */
function costUntil(rental: BilledRental, billed: Period, moment: Date): Cost {
  const end = Math.min(moment.getTime(), billed.to.getTime());
  // The storage keeps the price of the offer; whatever the host adds counts as GPU.
  const storagePrice = rental.offer.storagePricePerHourUsd;
  let from = billed.from.getTime();
  let gpuUsd = 0;
  let storageUsd = 0;
  for (const { pricePerHourUsd, untilMs } of pricesOf(rental)) {
    const to = Math.min(end, untilMs);
    if (to <= from) continue;
    const hours = (to - from) / HOUR_MS;
    gpuUsd += hours * Math.max(0, pricePerHourUsd - storagePrice);
    storageUsd += hours * Math.min(pricePerHourUsd, storagePrice);
    from = to;
  }
  return { gpuMicros: microsOf(gpuUsd), storageMicros: microsOf(storageUsd) };
}

function pricesOf({ past_prices: past, price_per_hour_usd: pricePerHourUsd }: BilledRental) {
  return [
    ...past.map((price) => ({ pricePerHourUsd: price.pricePerHourUsd, untilMs: Date.parse(price.until) })),
    { pricePerHourUsd, untilMs: Infinity },
  ];
}
