// What a rental costs, by our own clock.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  priceChange,
  rentalCost,
  sumOf,
  totalCost,
  usdOf,
  type BilledRental,
} from '../../src/instances/cost.ts';
import { offer } from '../support/offers.ts';

const at = (minutes: number) => new Date(Date.UTC(2026, 0, 1, 0, minutes));
const rental: BilledRental = {
  status: 'active',
  offer: offer({ storagePricePerHourUsd: 0.06 }),
  price_per_hour_usd: 0.6,
  past_prices: [],
  create_sent_at: at(0),
  confirmed_at: at(1),
  gone_at: null,
};
const usd = (billed: BilledRental, now: Date) => usdOf(sumOf(totalCost([billed], now)));

describe('the cost of a rental', () => {
  it('runs from the create call, loading included, and has a part for the disk', () => {
    expect(totalCost([rental], at(30))).toEqual({ gpuMicros: 270_000, storageMicros: 30_000 });
  });

  it('stops when the provider confirmed that it is gone', () => {
    expect(usd({ ...rental, status: 'gone', gone_at: at(10) }, at(600))).toBe(0.1);
  });

  it('counts a create whose answer is lost until it is known that nothing was made', () => {
    expect(usd({ ...rental, status: 'creating', confirmed_at: null }, at(30))).toBe(0.3);
    expect(usd({ ...rental, status: 'gone', confirmed_at: null, gone_at: at(30) }, at(60))).toBe(0);
    expect(usd({ ...rental, status: 'intended', create_sent_at: null, confirmed_at: null }, at(30))).toBe(0);
  });

  it('adds up over the rentals of an instance', () => {
    const first: BilledRental = { ...rental, status: 'gone', gone_at: at(10) };
    const cost = totalCost([first, { ...rental, create_sent_at: at(20) }], at(30));
    expect(usdOf(sumOf(cost))).toBe(0.2);
  });

  it('honours each price for as long as it held', () => {
    const change = priceChange(rental, 1.2, at(60));
    expect(change?.price_per_hour_usd).toBe(1.2);
    const raised = { ...rental, price_per_hour_usd: 1.2, past_prices: JSON.parse(change?.past_prices ?? '') };
    expect(totalCost([raised], at(120))).toEqual({ gpuMicros: 540_000 + 1_140_000, storageMicros: 120_000 });
    expect(priceChange(raised, 1.2, at(90))).toBeNull();
  });

  it('is the sum of its parts to the millionth, wherever it is cut', () => {
    const minutes = fc.array(fc.integer({ min: -600, max: 6000 }), { minLength: 2, maxLength: 12 });
    const price = fc.double({ min: 0.001, max: 1000, noNaN: true });
    fc.assert(
      fc.property(minutes, price, (cuts, pricePerHourUsd) => {
        const billed = { ...rental, price_per_hour_usd: pricePerHourUsd };
        const moments = cuts.toSorted((a, b) => a - b).map(at);
        const [first = at(0), ...rest] = moments;
        let sum = 0;
        let from = first;
        for (const to of rest) {
          sum += sumOf(rentalCost(billed, { from, to }));
          from = to;
        }
        expect(sum).toBe(sumOf(rentalCost(billed, { from: first, to: from })));
      }),
    );
  });
});
