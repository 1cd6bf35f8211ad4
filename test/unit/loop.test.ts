// A loop: when it acts, and that no wake-up is lost while others are gathered.
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { startLoop } from '../../src/database/loop.ts';
import type { Worker } from '../../src/database/worker.ts';
import { collector } from '../support/collector.ts';

/** Looking by itself comes too late for any of these tests. */
const NEVER_MS = 600_000;
const GATHER_MS = 150;

let loop: Worker;

function start(act: () => Promise<number | void>): void {
  loop = startLoop({
    name: 'test',
    act,
    everyMs: NEVER_MS,
    gatherMs: GATHER_MS,
    retryMs: GATHER_MS,
    log: pino({ level: 'silent' }),
  });
}

afterEach(() => loop.stop(1_000));

describe('a loop', () => {
  it('acts at once when it starts, and for wake-ups when it has let them gather', async () => {
    const { add, reach } = collector<number>();
    start(async () => add(performance.now()));
    await reach(1);
    const woken = performance.now();
    loop.wake();
    const [, second = 0] = await reach(2);
    // Timers of Node may be early by less than a millisecond.
    expect(second - woken).toBeGreaterThan(GATHER_MS - 2);
  });

  it('acts once for all that gathered, and once more for one that comes while it acts', async () => {
    const { add, calls, reach } = collector<void>();
    const gate = Promise.withResolvers<void>();
    start(async () => {
      add();
      if (calls.length === 2) await gate.promise;
    });
    await reach(1);
    for (let count = 0; count < 3; count += 1) {
      loop.wake();
      await new Promise((resolve) => void setImmediate(resolve));
    }
    await reach(2);
    loop.wake();
    gate.resolve();
    await reach(3);
    await new Promise((resolve) => setTimeout(resolve, 2 * GATHER_MS));
    expect(calls).toHaveLength(3);
  });

  it('looks again when it wanted to', async () => {
    const { add, calls, reach } = collector<number>();
    start(async () => {
      add(performance.now());
      return calls.length === 1 ? 2 * GATHER_MS : NEVER_MS;
    });
    const [first = 0, second = 0] = await reach(2);
    expect(second - first).toBeGreaterThan(2 * GATHER_MS - 4);
  });

  it('acts again after a failure, woken or not', async () => {
    const { add, calls, reach } = collector<void>();
    start(async () => {
      add();
      if (calls.length === 1) throw new Error('not now');
    });
    await reach(1);
    await expect.poll(() => loop.healthy()).toBe(false);
    await reach(2);
    await expect.poll(() => loop.healthy()).toBe(true);
  });
});
