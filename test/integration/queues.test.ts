import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Database } from '../../src/database/database.ts';
import type { HandlerContext } from '../../src/database/queues.ts';
import { collector } from '../support/collector.ts';
import { createTestDatabase, openDatabase } from '../support/database.ts';
import { startService } from '../support/embedded.ts';

/** A database with its queues started, and a second service on it. */
async function start(atEnd = onTestFinished): Promise<{ first: Database; second: Database; url: string }> {
  const { database: first, url, stop } = await createTestDatabase();
  atEnd(stop);
  await first.queues.start();
  const second = await openDatabase(url);
  atEnd(() => second.stop());
  await second.queues.start();
  return { first, second, url };
}

const attempt = (slot = 0, instanceId = 'a') => ({ jobId: 'j', attemptId: randomUUID(), instanceId, slot });
const untilAborted = ({ signal }: HandlerContext): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

test('a message wakes a handler in another service at once', async () => {
  const { first, second } = await start();
  const { add, calls, reach } = collector<number>();
  await second.queues.work('instance', 4, async ({ wake }) => add(wake));
  const waits: number[] = [];
  for (let wake = 0; wake < 30; wake++) {
    const sent = performance.now();
    await first.queues.send(first.db, 'instance', { instanceId: 'a', wake });
    await reach(wake + 1);
    waits.push(performance.now() - sent);
  }
  expect(calls).toEqual([...calls].sort((a, b) => a - b));
  expect(waits.sort((a, b) => a - b)[15]).toBeLessThan(100);
});

test('one handler goes through a backlog without pauses, and nothing stays behind', async () => {
  const { first } = await start();
  const { add, reach } = collector<number>();
  for (let wake = 0; wake < 20; wake++) {
    await first.queues.send(first.db, 'instance', { instanceId: `i${wake % 3}`, wake });
  }
  const begun = performance.now();
  await first.queues.work('instance', 1, async ({ wake }) => add(wake));
  await reach(20);
  expect(performance.now() - begun).toBeLessThan(2_000);
  await expect.poll(() => rowsLeft(first)).toBe(0);
});

test('a message of a transaction exists only if that commits', async () => {
  const { first } = await start();
  const { add, calls, reach } = collector<number>();
  await first.queues.work('instance', 2, async ({ wake }) => add(wake));
  await first.db
    .transaction()
    .execute(async (transaction) => {
      await first.queues.send(transaction, 'instance', { instanceId: 'a', wake: 1 });
      throw new Error('rolled back');
    })
    .catch(() => undefined);
  await first.db.transaction().execute(async (transaction) => {
    await first.queues.send(transaction, 'instance', { instanceId: 'a', wake: 2 });
    await sql`select pg_sleep(0.1)`.execute(transaction);
    expect(calls).toEqual([]);
  });
  await reach(1);
  expect(calls).toEqual([2]);
  await expect.poll(() => rowsLeft(first)).toBe(0);
});

test('a call of sweep also stands for what was sent for later, so that chains of sweeps merge', async () => {
  const { first } = await start();
  const { add, calls, reach } = collector<object>();
  for (let chain = 0; chain < 5; chain++) {
    await first.queues.send(first.db, 'sweep', {}, { afterMs: 60_000 });
  }
  await first.queues.send(first.db, 'sweep', {});
  await first.queues.work('sweep', 1, async (message) => {
    add(message);
    await first.queues.send(first.db, 'sweep', {}, { afterMs: 60_000 });
  });
  await reach(1);
  await expect.poll(async () => (await first.queues.health()).depth).toEqual({ sweep: 1 });
  expect(calls).toHaveLength(1);
});

test('of one instance, only one message is worked on at a time, over all processes', async () => {
  const { first, url } = await start();
  const services = [startService('exclusive', url), startService('exclusive', url)];
  await Promise.all(services.map((service) => service.says(/works/)));
  let sent = 0;
  const send = async (count: number): Promise<void> => {
    for (const until = sent + count; sent < until; sent += 1)
      await first.queues.send(first.db, 'instance', { instanceId: `i${sent % 3}`, wake: sent });
  };
  await send(120);
  const lines = (): string[] => services.flatMap((service) => service.lines);
  // One of them may be quicker each time for a while, and then nothing was shown yet.
  await expect
    .poll(
      async () => {
        const bothWorked = services.every((service) => service.lines.some((line) => line.startsWith('done')));
        if (!bothWorked) await send(30);
        return bothWorked;
      },
      { timeout: 20_000 },
    )
    .toBe(true);
  await expect
    .poll(() => lines().filter((line) => line.startsWith('done')).length, { timeout: 20_000 })
    .toBe(sent);
  expect(lines().filter((line) => line.startsWith('overlap'))).toEqual([]);
});

describe('stop', () => {
  test('waits for handlers that end, and gives back what they did not do', async () => {
    const { first, second } = await start();
    const { add, reach } = collector<string>();
    let finished = false;
    await first.queues.work('run', 2, async ({ attemptId, slot }, context) => {
      add(attemptId);
      if (slot === 1) await untilAborted(context);
      await untilAborted(context).catch(() => undefined);
      await sql`select pg_sleep(0.1)`.execute(first.db);
      finished = true;
    });
    const [done, undone] = [attempt(0), attempt(1)];
    await first.queues.send(first.db, 'run', done);
    await first.queues.send(first.db, 'run', undone);
    await reach(2);
    await first.queues.stop(5_000);
    expect(finished).toBe(true);

    const next = collector<object>();
    const begun = performance.now();
    await second.queues.work('run', 2, async (message) => next.add(message));
    expect(await next.reach(1)).toEqual([undone]);
    expect(performance.now() - begun).toBeLessThan(900);
  });

  test('gives back what does not end in time, and the late end of its handler changes nothing', async () => {
    const { first, second } = await start();
    const gate = Promise.withResolvers<void>();
    const taken = Promise.withResolvers<void>();
    await first.queues.work('run', 1, async () => {
      taken.resolve();
      await gate.promise;
    });
    const message = attempt();
    await first.queues.send(first.db, 'run', message);
    await taken.promise;
    const next = collector<object>();
    await second.queues.work('run', 1, async (received, context) => {
      next.add(received);
      await untilAborted(context);
    });
    await first.queues.stop(50);
    expect(await next.reach(1)).toEqual([message]);
    gate.resolve();
    await expect.poll(async () => (await second.queues.health()).depth).toEqual({ run: 1 });
  });
});

// They mostly wait.
describe.concurrent('in time', () => {
  test('a delayed message comes after its delay, within a second and a half', async ({
    onTestFinished: atEnd,
  }) => {
    const { first } = await start(atEnd);
    const called = Promise.withResolvers<number>();
    await first.queues.work('instance', 1, async () => called.resolve(performance.now()));
    const sent = performance.now();
    await first.queues.send(first.db, 'instance', { instanceId: 'a', wake: 0 }, { afterMs: 700 });
    const waited = (await called.promise) - sent;
    expect(waited).toBeGreaterThan(700);
    expect(waited).toBeLessThan(700 + 1_500);
  });

  test('a handler that throws is called again with the same message', async ({ onTestFinished: atEnd }) => {
    const { first } = await start(atEnd);
    const { add, calls, reach } = collector<object>();
    await first.queues.work('run', 1, async (message) => {
      add(message);
      if (calls.length === 1) throw new Error('not now');
    });
    const message = attempt();
    await first.queues.send(first.db, 'run', message);
    expect(await reach(2)).toEqual([message, message]);
  });

  test('calls of the sweep stand for every message before them, and none is lost', async ({
    onTestFinished: atEnd,
  }) => {
    const { first, second } = await start(atEnd);
    const { add, calls, reach } = collector<object>();
    const gate = Promise.withResolvers<void>();
    await first.queues.work('sweep', 1, async (message) => {
      add(message);
      await gate.promise;
    });
    await first.queues.send(first.db, 'sweep', {});
    await reach(1);
    await Promise.all(Array.from({ length: 30 }, () => second.queues.send(second.db, 'sweep', {})));
    await first.queues.send(first.db, 'sweep', {}, { afterMs: 1_000 });
    gate.resolve();
    await reach(2);
    await vi.waitFor(async () => expect((await first.queues.health()).depth).toEqual({}));
    expect(calls).toHaveLength(2);
  });

  test('a loop begins by itself, and again for the wake-ups of every replica, however many at once', async ({
    onTestFinished: atEnd,
  }) => {
    const { first, second } = await start(atEnd);
    const { add, calls, reach } = collector<number>();
    const gate = Promise.withResolvers<void>();
    first.queues.loop('dispatch', async () => {
      add(performance.now());
      await gate.promise;
    });
    await reach(1);
    await Promise.all(Array.from({ length: 30 }, () => second.queues.wake(second.db, 'dispatch')));
    gate.resolve();
    await reach(2);
    first.queues.wakeHere('dispatch');
    await reach(3);
    expect(calls.length).toBeLessThan(10);
  });

  test('a loop that fails acts again, and is named until then', async ({ onTestFinished: atEnd }) => {
    const { first } = await start(atEnd);
    const { add, calls, reach } = collector<object>();
    const health = async () => {
      const { ok, failing } = await first.queues.health();
      return { ok, failing };
    };
    first.queues.loop('dispatch', async () => {
      add(await health());
      if (calls.length === 1) throw new Error('not now');
    });
    const well = { ok: true, failing: [] };
    expect(await reach(2)).toEqual([well, { ok: true, failing: ['dispatch'] }]);
    await vi.waitFor(async () => expect(await health()).toEqual(well));
  });

  test('a wake-up in a transaction leaves with its commit', async ({ onTestFinished: atEnd }) => {
    const { first, second } = await start(atEnd);
    const { add, calls, reach } = collector<void>();
    first.queues.loop('dispatch', async () => add());
    await reach(1);
    await second.db.transaction().execute(async (trx) => {
      await second.queues.wake(trx, 'dispatch');
      // What another connection says meanwhile arrives, and this does not.
      await second.queues.send(second.db, 'instance', { instanceId: 'a', wake: 0 });
      const other = collector<void>();
      await first.queues.work('instance', 1, async () => other.add());
      await other.reach(1);
      expect(calls).toHaveLength(1);
    });
    await reach(2);
  });

  test('a handler whose message was given to somebody else is told', async ({ onTestFinished: atEnd }) => {
    const { first } = await start(atEnd);
    const { add, reach } = collector<HandlerContext>();
    await first.queues.work('run', 2, async (_, context) => {
      add(context);
      await untilAborted(context);
    });
    await first.queues.send(first.db, 'run', attempt());
    const [context] = await reach(1);
    await sql`update pgboss.job set state = 'retry', start_after = now()`.execute(first.db);
    const [, again] = await reach(2);
    await vi.waitFor(() => expect(context?.signal.aborted).toBe(true), { timeout: 10_000 });
    expect(again?.signal.aborted).toBe(false);
  });
});

async function rowsLeft({ db }: Database): Promise<number | undefined> {
  const { rows } = await sql<{ count: number }>`select count(*) from pgboss.job`.execute(db);
  return rows[0]?.count;
}
