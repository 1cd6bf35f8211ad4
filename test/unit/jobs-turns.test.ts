import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { takeTurns, type KeyUse, type Waiting } from '../../src/jobs/turns.ts';

const MINUTE = 60_000;
const now = new Date(100 * MINUTE);
const minutesAgo = (minutes: number) => new Date(now.getTime() - minutes * MINUTE);

interface Job extends Waiting {
  name: string;
}
const job = (apiKey: string, minutesWaited: number, priority = 0, name = apiKey): Job => ({
  apiKey,
  createdAt: minutesAgo(minutesWaited),
  priority,
  name,
});
const many = (count: number, apiKey: string, minutesWaited: number, priority = 0) =>
  Array.from({ length: count }, () => job(apiKey, minutesWaited, priority));
const holds = (slots: number, servedMinutesAgo: number): KeyUse => ({
  slots,
  servedAt: minutesAgo(servedMinutesAgo),
});

/** Places the first `slots` jobs. */
function serve(jobs: Job[], uses: Record<string, KeyUse>, slots: number): string[] {
  const turns = takeTurns(jobs, new Map(Object.entries(uses)), now);
  return Array.from({ length: slots }, () => {
    const next = turns.next();
    if (next !== null) turns.serve(next.apiKey);
    return next?.name ?? '';
  });
}

describe('the turns of API keys', () => {
  it('let one job through although another key has submitted hundreds before it', () => {
    const jobs = [...many(500, 'many', 30), job('one', 1)];
    expect(serve(jobs, { many: holds(2, 1) }, 1)).toEqual(['one']);
    expect(serve(jobs, {}, 2)).toEqual(['many', 'one']);
  });

  it('share the slots evenly among keys that wait', () => {
    const jobs = [...many(50, 'a', 30), ...many(50, 'b', 20), ...many(50, 'c', 10)];
    expect(serve(jobs, {}, 7)).toEqual(['a', 'b', 'c', 'a', 'b', 'c', 'a']);
    expect(serve(jobs, { a: holds(3, 1), b: holds(1, 1) }, 5)).toEqual(['c', 'b', 'c', 'b', 'c']);
  });

  it('begin with the key that was served longest ago, where all have nothing', () => {
    const jobs = [job('a', 30), job('b', 30), job('c', 5)];
    expect(serve(jobs, { a: holds(0, 1), b: holds(0, 10) }, 3)).toEqual(['b', 'c', 'a']);
  });

  it('count a key that has a job running for an hour as being served', () => {
    expect(serve([job('a', 90), job('b', 1)], { a: holds(3, 60), b: holds(0, 2) }, 1)).toEqual(['b']);
  });

  it('heed priority before the number of slots: a point is worth a minute of waiting', () => {
    const urgent = [...many(5, 'urgent', 0, 10), ...many(5, 'calm', 5)];
    expect(serve(urgent, { urgent: holds(3, 0), calm: holds(0, 20) }, 2)).toEqual(['urgent', 'urgent']);
    const patient = [...many(5, 'urgent', 0, 10), ...many(5, 'calm', 11)];
    expect(serve(patient, { urgent: holds(3, 0), calm: holds(0, 20) }, 2)).toEqual(['calm', 'urgent']);
  });

  it('keep the order of the jobs of one key, whatever their priorities', () => {
    const aKey = fc.constantFrom('a', 'b', 'c');
    const aJob = fc.record({ apiKey: aKey, minutes: fc.nat(60), priority: fc.integer({ min: -5, max: 5 }) });
    const someUses = fc.dictionary(aKey, fc.record({ slots: fc.nat(3), minutes: fc.nat(60) }));
    fc.assert(
      fc.property(fc.array(aJob, { maxLength: 20 }), someUses, (given, used) => {
        const jobs = given.map(({ apiKey, minutes, priority }, index) =>
          job(apiKey, minutes, priority, `${apiKey}${index}`),
        );
        const uses = Object.entries(used).map(
          ([key, { slots, minutes }]) => [key, holds(slots, minutes)] as const,
        );
        const order = serve(jobs, Object.fromEntries(uses), jobs.length);
        expect(order.toSorted()).toEqual(jobs.map(({ name }) => name).toSorted());
        for (const key of ['a', 'b', 'c']) {
          const own = (name: string) => name.startsWith(key);
          expect(order.filter(own)).toEqual(jobs.map(({ name }) => name).filter(own));
        }
      }),
    );
  });

  it('leave nobody out: with equal priorities, the most slots of a key that waits are one more than the fewest', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 20, max: 40 }), { minLength: 2, maxLength: 5 }),
        fc.nat(20),
        (counts, slots) => {
          const jobs = counts.flatMap((count, index) => many(count, String(index), count));
          const served = serve(jobs, {}, slots);
          const shares = counts.map((_, index) => served.filter((name) => name === String(index)).length);
          expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(1);
        },
      ),
    );
  });
});
