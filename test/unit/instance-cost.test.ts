// What a rental costs, by our own clock.
import { describe, expect, it } from 'vitest';
import { rentalCostUsd, totalCostUsd } from '../../src/instances/cost.ts';

const at = (minutes: number) => new Date(Date.UTC(2026, 0, 1, 0, minutes));
const rental = { price_per_hour_usd: 0.6, create_sent_at: at(0), confirmed_at: at(1), gone_at: null };

describe('the cost of a rental', () => {
  it('runs from the create call, loading included', () => {
    expect(rentalCostUsd(rental, at(30))).toBeCloseTo(0.3, 9);
  });

  it('stops when the provider confirmed that it is gone', () => {
    expect(rentalCostUsd({ ...rental, gone_at: at(10) }, at(600))).toBeCloseTo(0.1, 9);
  });

  it('is nothing when the provider never made it', () => {
    expect(rentalCostUsd({ ...rental, confirmed_at: null }, at(30))).toBe(0);
    expect(rentalCostUsd({ ...rental, create_sent_at: null, confirmed_at: null }, at(30))).toBe(0);
  });

  it('adds up over the rentals of an instance', () => {
    expect(
      totalCostUsd(
        [
          { ...rental, gone_at: at(10) },
          { ...rental, create_sent_at: at(20) },
        ],
        at(30),
      ),
    ).toBeCloseTo(0.2, 9);
  });
});
