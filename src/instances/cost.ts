// What a rental and an instance have cost so far, by our own clock and the offer's price.
import type { RentalRow } from '../database/tables.ts';

const HOUR_MS = 3_600_000;

type Billed = Pick<RentalRow, 'price_per_hour_usd' | 'create_sent_at' | 'confirmed_at' | 'gone_at'>;

/**
 * Cost in US dollars from the create call until absence was confirmed, loading included: vast.ai bills storage in every
 * state, and users report paying the full rate while the image loads. A rental that the provider never confirmed costs nothing.
 */
export function rentalCostUsd(rental: Billed, now: Date): number {
  if (rental.create_sent_at === null || rental.confirmed_at === null) return 0;
  const end = rental.gone_at ?? now;
  const billedMs = Math.max(0, end.getTime() - rental.create_sent_at.getTime());
  return (billedMs / HOUR_MS) * rental.price_per_hour_usd;
}

export function totalCostUsd(rentals: Billed[], now: Date): number {
  return rentals.reduce((sum, rental) => sum + rentalCostUsd(rental, now), 0);
}
