// The books: days add up to the rental, and the shares of the jobs to what the instance has cost, to the millionth of a dollar.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { daysOf } from '../../src/fleet/ledger.ts';
import { divide, shareCosts, type SharedRental, type Work } from '../../src/fleet/shares.ts';
import { sumOf, totalCost } from '../../src/instances/cost.ts';
import { workflowShape } from '../../src/jobs/shape.ts';
import { offer } from '../support/offers.ts';

const at = (minutes: number) => new Date(Date.UTC(2026, 0, 31, 22, minutes));
const rental: SharedRental = {
  status: 'gone',
  offer: offer({ storagePricePerHourUsd: 0.06 }),
  price_per_hour_usd: 0.6,
  past_prices: [],
  create_sent_at: at(0),
  confirmed_at: at(1),
  ready_at: at(10),
  gone_at: at(60),
};
const work = (jobId: string, from: number, to: number): Work => ({
  jobId,
  onGpu: { from: at(from), to: at(to) },
});

describe('the shares of jobs', () => {
  it('are the time on the GPU, and parts of boot and idle time by that', () => {
    const shares = shareCosts([rental], [work('a', 10, 20), work('b', 30, 60)], at(90));
    expect(shares.get('a')).toEqual({
      workMicros: 100_000,
      gpuMs: 600_000,
      bootMicros: 25_000,
      idleMicros: 25_000,
    });
    expect(shares.get('b')).toEqual({
      workMicros: 300_000,
      gpuMs: 1_800_000,
      bootMicros: 75_000,
      idleMicros: 75_000,
    });
  });

  it('count no minute twice where two jobs seem to have the GPU at once', () => {
    const shares = shareCosts([rental], [work('a', 10, 30), work('b', 20, 60)], at(90));
    expect(shares.get('a')?.workMicros).toBe(200_000);
    expect(shares.get('b')?.workMicros).toBe(300_000);
  });

  it('are even where no job had the GPU', () => {
    const idle = (jobId: string): Work => ({ jobId, onGpu: null });
    const shares = shareCosts([rental], [idle('a'), idle('b')], at(90));
    expect(shares.get('a')).toEqual({ workMicros: 0, gpuMs: 0, bootMicros: 50_000, idleMicros: 250_000 });
    expect(shares.get('b')).toEqual(shares.get('a'));
  });

  it('hold the cost of machines that failed before the one that worked', () => {
    const failed: SharedRental = { ...rental, ready_at: null, gone_at: at(30) };
    const second: SharedRental = { ...rental, create_sent_at: at(30), ready_at: at(40) };
    const shares = shareCosts([failed, second], [work('a', 40, 60)], at(90));
    expect(shares.get('a')).toMatchObject({ bootMicros: 400_000, workMicros: 200_000, idleMicros: 0 });
  });

  it('add up to the cost of the instance to the millionth, whatever its jobs, prices and tries', () => {
    const minute = fc.double({ min: -10, max: 200, noNaN: true });
    const works = fc.array(
      fc.record({
        jobId: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g'),
        onGpu: fc.option(
          fc.tuple(minute, minute).map(([a, b]) => ({ from: at(Math.min(a, b)), to: at(Math.max(a, b)) })),
        ),
      }),
      { minLength: 1, maxLength: 20 },
    );
    const rentals = fc.array(
      fc.record({
        price: fc.double({ min: 0.01, max: 500, noNaN: true }),
        raised: fc.double({ min: 0.01, max: 500, noNaN: true }),
        isAlive: fc.boolean(),
        isReady: fc.boolean(),
      }),
      { minLength: 1, maxLength: 4 },
    );
    fc.assert(
      fc.property(
        rentals,
        fc.array(minute, { minLength: 16, maxLength: 16 }),
        works,
        minute,
        (drawn, minutes, done, nowMinute) => {
          const now = at(Math.max(0, nowMinute));
          const moments = minutes.toSorted((x, y) => x - y);
          // Machines of an instance come one after the other; only the last may live.
          const all = drawn.map(({ price, raised, isAlive, isReady }, index): SharedRental => {
            const [a = 0, b = 0, c = 0, d = 0] = moments.slice(index * 4);
            const isGone = !isAlive || index < drawn.length - 1;
            return {
              ...rental,
              status: isGone ? 'gone' : 'active',
              price_per_hour_usd: raised,
              past_prices: [{ pricePerHourUsd: price, until: at(c).toISOString() }],
              create_sent_at: at(a),
              confirmed_at: at(a),
              ready_at: isReady ? at(b) : null,
              gone_at: isGone ? at(d) : null,
            };
          });
          const shares = [...shareCosts(all, done, now).values()];
          const sum = shares.reduce(
            (total, share) => total + share.workMicros + share.bootMicros + share.idleMicros,
            0,
          );
          expect(sum).toBe(sumOf(totalCost(all, now)));
          const parts = shares.flatMap((share) => [share.workMicros, share.bootMicros, share.idleMicros]);
          expect(Math.min(...parts)).toBeGreaterThanOrEqual(0);
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('dividing', () => {
  it('gives whole parts that add up, each within one of what is due', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 1e12 }),
        fc.array(fc.integer({ min: 0, max: 1e7 }), { minLength: 1, maxLength: 50 }),
        (amount, weights) => {
          const parts = divide(amount, weights);
          const total = weights.reduce((sum, weight) => sum + weight, 0);
          expect(parts.reduce((sum, part) => sum + part, 0)).toBe(amount);
          for (const [index, part] of parts.entries()) {
            const due = total > 0 ? (amount * (weights[index] ?? 0)) / total : amount / weights.length;
            expect(Math.abs(part - due)).toBeLessThanOrEqual(1.01);
          }
        },
      ),
    );
  });
});

describe('the days of a rental', () => {
  it('end at midnight of UTC, and months with them', () => {
    const days = daysOf({ ...rental, gone_at: at(180) }, new Map([['2026-02-01', 7]]), at(600));
    expect(days).toEqual([
      { day: '2026-01-31', gpuMicros: 1_080_000, storageMicros: 120_000, trafficMicros: 0 },
      { day: '2026-02-01', gpuMicros: 540_000, storageMicros: 60_000, trafficMicros: 7 },
    ]);
  });

  it('add up to its cost to the millionth, and to its traffic', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 20_000, noNaN: true }),
        fc.double({ min: 0.001, max: 900, noNaN: true }),
        fc.integer({ min: 0, max: 1e6 }),
        (minutes, price, traffic) => {
          const live = { ...rental, status: 'active' as const, gone_at: null, price_per_hour_usd: price };
          const days = daysOf(live, new Map([['2026-09-09', traffic]]), at(minutes));
          const sum = days.reduce((total, day) => total + sumOf(day), 0);
          expect(sum).toBe(sumOf(totalCost([live], at(minutes))));
          expect(days.reduce((total, { trafficMicros }) => total + trafficMicros, 0)).toBe(traffic);
        },
      ),
    );
  });

  it('are none for a machine that was never made', () => {
    expect(daysOf({ ...rental, confirmed_at: null }, new Map(), at(60))).toEqual([]);
  });
});

describe('the shape of a workflow', () => {
  const image = (inputs: Record<string, unknown>) => ({ '1': { class_type: 'EmptyImage', inputs } });

  it('is the same for other values, and another for other nodes or links', () => {
    expect(workflowShape(image({ width: 64, seed: 1 }))).toBe(workflowShape(image({ width: 128, seed: 2 })));
    expect(workflowShape(image({ image: ['2', 0] }))).not.toBe(workflowShape(image({ image: ['3', 0] })));
    expect(workflowShape({ '1': { class_type: 'SaveImage', inputs: {} } })).not.toBe(
      workflowShape(image({})),
    );
  });
});
