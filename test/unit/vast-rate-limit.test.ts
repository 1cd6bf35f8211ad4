// Calls wait their turn, endpoint by endpoint.
import { describe, expect, it } from 'vitest';
import type { EndpointName, Pace } from '../../src/vast/endpoints.ts';
import { documentedIntervals, noIntervals } from '../../src/vast/endpoints.ts';
import { createPacer } from '../../src/vast/rate-limit.ts';
import { manualClock } from '../doubles/vast/clock.ts';
import { openRateLimits } from '../doubles/vast/rate-limits.ts';

const showing = (pace: Partial<Pace>): Record<EndpointName, Pace> => ({
  ...noIntervals.paces,
  show: { calls: 1, perMs: 0, penaltyMs: 0, ...pace },
});

/** When each of the turns came, in milliseconds from now, in the order in which they came. */
async function timesOf(turns: Promise<void>[]): Promise<number[]> {
  const startedAt = performance.now();
  const times: number[] = [];
  await Promise.all(turns.map((turn) => turn.then(() => times.push(performance.now() - startedAt))));
  return times;
}

function gapsOf(times: number[]): number[] {
  return times.slice(1).map((time, index) => time - (times[index] ?? 0));
}

describe('turns of one endpoint', () => {
  it('come with the interval between them, whoever asks', async () => {
    const pacer = createPacer(showing({ perMs: 40 }));
    const gaps = gapsOf(await timesOf([1, 2, 3].map(() => pacer.turn('show'))));
    for (const gap of gaps) expect(gap).toBeGreaterThan(37);
  });

  it('may come at once up to the number of calls in a period', async () => {
    const pacer = createPacer(showing({ calls: 3, perMs: 200 }));
    const times = await timesOf([1, 2, 3, 4].map(() => pacer.turn('show')));
    expect(times[2]).toBeLessThan(150);
    expect(times[3]).toBeGreaterThan(195);
  });

  it('come in the order of asking', async () => {
    const pacer = createPacer(showing({ perMs: 2 }));
    const order: number[] = [];
    await Promise.all([1, 2, 3, 4].map((n) => pacer.turn('show').then(() => order.push(n))));
    expect(order).toEqual([1, 2, 3, 4]);
  });

  it('do not wait for another endpoint', async () => {
    const pacer = createPacer(showing({ perMs: 60_000 }));
    await pacer.turn('show');
    expect(pacer.isFree('show')).toBe(false);
    expect(pacer.isFree('list')).toBe(true);
    await pacer.turn('list');
  });

  it('are put off by a hold, also for those who wait already', async () => {
    const pacer = createPacer(showing({ perMs: 20 }));
    await pacer.turn('show');
    const waiting = pacer.turn('show');
    pacer.hold('show', 80);
    const [time] = await timesOf([waiting]);
    expect(time).toBeGreaterThan(75);
  });
});

describe('a caller who gives up', () => {
  it('is let go at once and delays nobody', async () => {
    const pacer = createPacer(showing({ perMs: 60_000 }));
    await pacer.turn('show');
    const first = new AbortController();
    const other = new AbortController();
    const turns = [pacer.turn('show', first.signal), pacer.turn('show', other.signal)];
    const reasons = Promise.allSettled(turns);
    other.abort('second');
    first.abort('first');
    expect(await reasons).toEqual([
      { status: 'rejected', reason: 'first' },
      { status: 'rejected', reason: 'second' },
    ]);
  });

  it('uses up no turn', async () => {
    const pacer = createPacer(showing({ calls: 1, perMs: 200 }));
    await pacer.turn('show');
    const gone = pacer.turn('show', AbortSignal.abort('gone'));
    const next = pacer.turn('show');
    await expect(gone).rejects.toBe('gone');
    const [time] = await timesOf([next]);
    expect(time).toBeLessThan(350);
  });
});

it('the documented intervals are never shorter than what vast.ai asks for', () => {
  const documented: [EndpointName, number][] = [
    ['create', 4.5],
    ['show', 2],
    ['list', 1],
    ['destroy', 3],
    ['search', 6],
  ];
  for (const [name, seconds] of documented) {
    const { calls, perMs, penaltyMs } = documentedIntervals.paces[name];
    expect(perMs / calls).toBeGreaterThan(seconds * 1000);
    expect(penaltyMs).toBeGreaterThanOrEqual(seconds * 1000);
  }
  expect(documentedIntervals.paces.create.penaltyMs).toBeGreaterThanOrEqual(12_000);
});

describe('the documented intervals', () => {
  /** Up to so much later than it left does a call arrive. */
  const JITTER_MS = 150;

  /** Asks for many turns at once, and lets the double count each call as it arrives. Time passes only while the pacer waits. */
  async function refusals(endpoint: EndpointName, paces: Record<EndpointName, Pace>): Promise<number> {
    let nowMs = 0;
    let lateMs = 0;
    const wait = async (ms: number) => void (nowMs += ms);
    const pacer = createPacer(paces, { now: () => nowMs, wait });
    const limits = openRateLimits({ ...manualClock(), now: () => nowMs + lateMs });
    let refused = 0;
    const calls = Array.from({ length: 25 }, async (_, index) => {
      await pacer.turn(endpoint);
      lateMs = index % 2 === 0 ? JITTER_MS : 0;
      if (limits.check(endpoint, 'caller', 1) !== undefined) refused += 1;
    });
    await Promise.all(calls);
    return refused;
  }

  it.each(['create', 'show', 'list', 'destroy', 'search'] as const)(
    'keep clear of the rate limit of %s, however many ask at once',
    async (endpoint) => {
      expect(await refusals(endpoint, documentedIntervals.paces)).toBe(0);
      expect(await refusals(endpoint, noIntervals.paces)).toBeGreaterThan(0);
    },
  );
});
