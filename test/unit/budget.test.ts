// The limits: what is committed, by its worst case, and what a running total calls for.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { commitmentTo } from '../../src/fleet/budget.ts';
import { judgeSpending } from '../../src/fleet/guard.ts';
import { findBreach, type Commitment, type Limits, type Position } from '../../src/fleet/limits.ts';

const HOUR_MS = 3_600_000;
const at = (day: number, hour = 0) => new Date(Date.UTC(2026, 0, day, hour));
const limits: Limits = { instances: 10, totalPricePerHourUsd: 5, perDayUsd: 20, perMonthUsd: 100 };

function commitment(from: Date, hours: number, pricePerHourUsd = 1, downloadUsd = 0): Commitment {
  return { pricePerHourUsd, until: new Date(from.getTime() + hours * HOUR_MS), downloadUsd };
}
function position(now: Date, change: Partial<Position> = {}): Position {
  return { now, instances: 0, spentTodayUsd: 0, spentThisMonthUsd: 0, commitments: [], ...change };
}

describe('a limit', () => {
  it('is passed by the price of everything rented together', () => {
    const now = at(5);
    const commitments = [commitment(now, 1, 2), commitment(now, 1, 2)];
    expect(findBreach(limits, position(now, { commitments }), commitment(now, 1, 1))).toBeNull();
    expect(findBreach(limits, position(now, { commitments }), commitment(now, 1, 1.1))).toEqual({
      limitName: 'MAX_TOTAL_PRICE_PER_HOUR_USD',
      limit: 5,
      committed: 4,
      asked: 1.1,
      period: null,
    });
  });

  it('is passed by the number of instances', () => {
    const breach = findBreach(limits, position(at(5), { instances: 10 }), commitment(at(5), 1));
    expect(breach).toMatchObject({ limitName: 'MAX_INSTANCES', limit: 10, committed: 10, asked: 1 });
  });

  it('of a day takes the part that falls into that day, and the rest counts for the next', () => {
    const evening = at(5, 18);
    expect(findBreach(limits, position(evening), commitment(evening, 24))).toBeNull();
    expect(findBreach(limits, position(evening, { spentTodayUsd: 15 }), commitment(evening, 24))).toEqual({
      limitName: 'MAX_SPEND_PER_DAY_USD',
      limit: 20,
      committed: 15,
      asked: 6,
      period: '2026-01-05',
    });
    const long = findBreach(limits, position(evening), commitment(evening, 30));
    expect(long).toMatchObject({ asked: 24, period: '2026-01-06' });
  });

  it('of a month knows where the month ends', () => {
    const last = at(31, 12);
    const spent = position(last, { spentThisMonthUsd: 90 });
    expect(findBreach(limits, spent, commitment(last, 10))).toBeNull();
    expect(findBreach(limits, spent, commitment(last, 11))).toMatchObject({
      limitName: 'MAX_SPEND_PER_MONTH_USD',
      committed: 90,
      asked: 11,
      period: '2026-01',
    });
    expect(findBreach(limits, spent, commitment(last, 28))).toMatchObject({ period: '2026-01' });
  });

  it('counts downloads once in every day that they may fall on, and once in every month', () => {
    const now = at(5, 12);
    expect(findBreach(limits, position(now), commitment(now, 4, 1, 16))).toBeNull();
    expect(findBreach(limits, position(now), commitment(now, 5, 1, 16))).toMatchObject({ asked: 21 });
    const overnight = commitment(at(5, 23), 6, 1, 16);
    expect(findBreach(limits, position(at(5, 23)), overnight)).toMatchObject({
      asked: 21,
      period: '2026-01-06',
    });
    const monthly = { ...limits, perMonthUsd: 50 };
    expect(findBreach(monthly, position(at(5)), commitment(at(5), 50, 0.1, 16))).toBeNull();
    const later = position(at(6, 1), { commitments: [commitment(at(5, 23), 6, 0, 16)] });
    expect(findBreach(limits, later, commitment(at(6, 1), 5))).toMatchObject({ committed: 16, asked: 5 });
  });

  it('that is switched off is never passed', () => {
    const { MAX_SPEND_PER_DAY_USD, MAX_SPEND_PER_MONTH_USD, INSTANCE_MAX_LIFETIME_HOURS } = loadConfig({
      MAX_SPEND_PER_DAY_USD: 'none',
      MAX_SPEND_PER_MONTH_USD: 'none',
      INSTANCE_MAX_LIFETIME_HOURS: 'none',
    });
    expect([MAX_SPEND_PER_DAY_USD, MAX_SPEND_PER_MONTH_USD, INSTANCE_MAX_LIFETIME_HOURS]).toEqual([
      Infinity,
      Infinity,
      Infinity,
    ]);
    const none = { ...limits, perDayUsd: MAX_SPEND_PER_DAY_USD, perMonthUsd: MAX_SPEND_PER_MONTH_USD };
    expect(findBreach(none, position(at(5)), commitment(at(5), 1000, 5))).toBeNull();
  });

  it('lets the defaults rent as many machines at the highest price as MAX_INSTANCES says', () => {
    const config = loadConfig({});
    const now = at(5);
    const dearest = { pricePerHourUsd: config.MAX_PRICE_PER_HOUR_USD, downloadUsd: 1 };
    const expiresAt = new Date(now.getTime() + config.INSTANCE_MAX_LIFETIME_HOURS * HOUR_MS);
    const one = commitmentTo(dearest, expiresAt, config, now);
    const rented = Array.from({ length: config.MAX_INSTANCES - 1 }, () => one);
    const defaults = {
      instances: config.MAX_INSTANCES,
      totalPricePerHourUsd: config.MAX_TOTAL_PRICE_PER_HOUR_USD,
      perDayUsd: config.MAX_SPEND_PER_DAY_USD,
      perMonthUsd: config.MAX_SPEND_PER_MONTH_USD,
    };
    const full = position(now, { instances: rented.length, commitments: rented });
    expect(findBreach(defaults, full, one)).toBeNull();
  });
});

describe('the worst case of a machine', () => {
  const config = { DRAIN_LIMIT_MINUTES: 30, DESTROY_RESERVE_HOURS: 1 };
  const costs = { pricePerHourUsd: 1, downloadUsd: 0 };

  it('runs through its life, its drain, and a destruction that is refused for a while', () => {
    expect(commitmentTo(costs, at(5, 4), config, at(5)).until).toEqual(
      new Date(at(5, 5).getTime() + 1_800_000),
    );
  });

  it('goes on when all that is over and it is still there', () => {
    expect(commitmentTo(costs, at(5), config, at(6)).until).toEqual(at(6, 1));
  });

  it('runs to the end of the next month where nothing ends its life', () => {
    expect(commitmentTo(costs, null, config, at(5)).until).toEqual(new Date(Date.UTC(2026, 2, 1)));
  });
});

describe('a running total', () => {
  const times = { intervalMs: 0, drainMs: HOUR_MS, destroyMs: HOUR_MS };

  it('drains while there is money for the jobs, and ends when only the destruction can be paid', () => {
    const now = at(5, 10);
    const commitments = [commitment(now, 12)];
    const spent = (spentTodayUsd: number) => position(now, { spentTodayUsd, commitments });
    expect(judgeSpending(limits, spent(17.9), times)).toBe('none');
    expect(judgeSpending(limits, spent(18.1), times)).toBe('drain');
    expect(judgeSpending(limits, spent(19.1), times)).toBe('end');
  });

  it('counts what may have been downloaded, which is billed whatever ends', () => {
    const now = at(5, 10);
    const commitments = [commitment(now, 12, 1, 10)];
    const spent = (spentTodayUsd: number) => position(now, { spentTodayUsd, commitments });
    expect(judgeSpending(limits, spent(7.9), times)).toBe('none');
    expect(judgeSpending(limits, spent(8.1), times)).toBe('drain');
  });

  it('leaves the price of everything together to others', () => {
    const now = at(5, 10);
    const commitments = [commitment(now, 1, 4), commitment(now, 1, 4)];
    expect(judgeSpending(limits, position(now, { commitments }), times)).toBe('none');
  });

  it('does not stop what only the next day would pay', () => {
    const now = at(5, 23);
    const commitments = [commitment(now, 12)];
    expect(judgeSpending(limits, position(now, { spentTodayUsd: 18.9, commitments }), times)).toBe('none');
  });

  it('never stops what was admitted by its worst case, as long as it costs what it was to cost', () => {
    const config = { DRAIN_LIMIT_MINUTES: 60, DESTROY_RESERVE_HOURS: 1 };
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 47 }),
        fc.array(
          fc.tuple(
            fc.integer({ min: 0, max: 30 }),
            fc.double({ min: 0.05, max: 1, noNaN: true }),
            fc.integer({ min: 0, max: 5 }),
          ),
          { minLength: 1, maxLength: 12 },
        ),
        fc.integer({ min: 0, max: 40 }),
        (startHour, wishes, later) => {
          const start = at(5, startHour);
          const admitted: Commitment[] = [];
          for (const [hours, price, downloadUsd] of wishes) {
            const expiresAt = new Date(start.getTime() + hours * HOUR_MS);
            const ask = commitmentTo({ pricePerHourUsd: price, downloadUsd }, expiresAt, config, start);
            if (findBreach(limits, position(start, { commitments: admitted }), ask) === null)
              admitted.push(ask);
          }
          const now = new Date(start.getTime() + later * HOUR_MS);
          const left = admitted.map((each) => (each.until > now ? each : { ...each, pricePerHourUsd: 0 }));
          const spentSince = (from: Date) =>
            admitted.reduce((sum, { pricePerHourUsd, until }) => {
              const begin = Math.max(from.getTime(), start.getTime());
              const ms = Math.min(until.getTime(), now.getTime()) - begin;
              return sum + (Math.max(0, ms) / HOUR_MS) * pricePerHourUsd;
            }, 0);
          const dayStart = new Date(Math.floor(now.getTime() / (24 * HOUR_MS)) * 24 * HOUR_MS);
          const state = position(now, {
            commitments: left,
            spentTodayUsd: spentSince(dayStart),
            spentThisMonthUsd: spentSince(at(1)),
          });
          expect(judgeSpending(limits, state, times)).toBe('none');
        },
      ),
    );
  });
});
