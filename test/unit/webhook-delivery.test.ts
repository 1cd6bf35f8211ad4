import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { afterTry, hostOf, laneOf, type TryResult } from '../../src/webhooks/delivery.ts';

const now = new Date('2026-03-04T05:06:07Z');

function answered(statusCode: number, retryAfter: string | null = null): TryResult {
  return { kind: 'answered', statusCode, retryAfter, answer: '' };
}

const unanswered: TryResult = { kind: 'unanswered', error: 'The receiver could not be reached.' };

/** The move after a try with waits of 5 s and 30 s, and no jitter. */
function moveAfter(result: TryResult, tryOfRound = 1) {
  return afterTry(result, tryOfRound, { waitsMs: [5000, 30_000], now, random: () => 0 });
}

describe('after a try, a delivery', () => {
  it.each([200, 201, 202, 204, 299])('is delivered by a %i', (statusCode) => {
    expect(moveAfter(answered(statusCode))).toEqual({ status: 'delivered' });
  });

  it.each([
    ['no answer', unanswered],
    ['an error of the receiver', answered(500)],
    ['an error of ours', answered(404)],
    ['a redirect', answered(302)],
  ])('waits for the next try after %s', (_name, result) => {
    expect(moveAfter(result)).toEqual({ status: 'pending', afterMs: 5000 });
    expect(moveAfter(result, 2)).toEqual({ status: 'pending', afterMs: 30_000 });
  });

  it('is given up after the last wait', () => {
    expect(moveAfter(answered(500), 3)).toEqual({ status: 'failed' });
    expect(moveAfter(unanswered, 3)).toEqual({ status: 'failed' });
  });

  it('is given up at once where the receiver is gone for good', () => {
    expect(moveAfter(answered(410))).toEqual({ status: 'failed' });
  });

  it.each([
    ['seconds', '60', 60_000],
    ['a date', 'Wed, 04 Mar 2026 05:07:07 GMT', 60_000],
    ['less than the wait', '1', 5000],
    ['a date in the past', 'Wed, 04 Mar 2026 05:00:00 GMT', 5000],
    ['more than an hour', '999999', 3_600_000],
    ['a date in the far future', 'Thu, 04 Mar 2027 05:06:07 GMT', 3_600_000],
    ['nonsense', 'soon', 5000],
    ['a negative number', '-60', 5000],
  ])('heeds a Retry-After of %s', (_name, retryAfter, afterMs) => {
    expect(moveAfter(answered(503, retryAfter))).toEqual({ status: 'pending', afterMs });
    expect(moveAfter(answered(429, retryAfter))).toEqual({ status: 'pending', afterMs });
  });

  it('heeds no Retry-After of another status', () => {
    expect(moveAfter(answered(500, '60'))).toEqual({ status: 'pending', afterMs: 5000 });
  });

  it('is spread by chance, by a tenth at most', () => {
    const move = afterTry(unanswered, 1, { waitsMs: [10_000], now, random: () => 0.999 });
    expect(move).toEqual({ status: 'pending', afterMs: 10_999 });
  });

  it('is tried for about a day by default', () => {
    const waits = loadConfig({}).WEBHOOK_RETRY_SECONDS;
    const hours = waits.reduce((sum, seconds) => sum + seconds, 0) / 3600;
    expect(hours).toBeGreaterThan(22);
    expect(hours).toBeLessThan(26);
    expect(waits.slice(0, 3)).toEqual([5, 30, 120]);
  });
});

describe('the lane of a delivery', () => {
  it('is one of four for each host and port', () => {
    const ids = Array.from(
      { length: 64 },
      (_, n) => `0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e${(n + 16).toString(16)}`,
    );
    const lanes = new Set(ids.map((id) => laneOf({ id, url: 'https://a.example/one?x=1' })));
    expect([...lanes].toSorted()).toEqual([0, 1, 2, 3].map((n) => `a.example/${n}`));
    const [id = ''] = ids;
    expect(new Set([...lanes].map(hostOf))).toEqual(new Set(['a.example']));
    expect(laneOf({ id, url: 'https://a.example:444/' })).not.toBe(laneOf({ id, url: 'https://a.example/' }));
    expect(laneOf({ id, url: 'https://a.example/two' })).toBe(laneOf({ id, url: 'http://a.example/' }));
  });
});
