// The sweep of instances: it wakes what has lost its wake-up, and nothing that is under way.
import { sql } from 'kysely';
import { v7 as uuid } from 'uuid';
import { expect, onTestFinished, test } from 'vitest';
import type { HandlerContext } from '../../src/database/queues.ts';
import { wakeInstance } from '../../src/instances/records.ts';
import { sweepInstances } from '../../src/instances/sweep.ts';
import { collector } from '../support/collector.ts';
import { createTestDatabase } from '../support/database.ts';
import { offer } from '../support/offers.ts';
import { intendedRental } from '../support/rentals.ts';

const HOUR_MS = 3_600_000;

test.each([
  ['search', 'searching'],
  ['rent', 'renting'],
  ['instance', 'loading'],
] as const)(
  'a late step of the queue %s is left alone while its message waits or is worked on, and woken when it got lost',
  async (queue, phase) => {
    const { database, stop } = await createTestDatabase();
    onTestFinished(stop);
    const { db, queues } = database;
    await queues.start();
    const id = uuid();
    const rental = intendedRental(id, offer());
    await db
      .insertInto('instances')
      .values({ id, provider: 'vast', status: 'provisioning', phase, rental_id: rental.id })
      .execute();
    if (phase === 'renting') await db.insertInto('rentals').values(rental).execute();
    await db.transaction().execute((trx) => wakeInstance(trx, queues, id));
    await db
      .updateTable('instances')
      .set({ next_step_at: new Date(Date.now() - HOUR_MS) })
      .execute();

    expect(await sweepInstances(db, queues)).toBe(0);
    const { add, reach, calls } = collector<number>();
    await queues.work(queue, 2, async ({ wake }, { signal }: HandlerContext) => {
      add(wake);
      if (wake === 1) await new Promise((resolve) => signal.addEventListener('abort', resolve));
    });
    await reach(1);
    expect(await sweepInstances(db, queues)).toBe(0);

    await sql`delete from pgboss.job where name = ${queue}`.execute(db);
    expect(await sweepInstances(db, queues)).toBe(1);
    await reach(2);
    expect(calls).toEqual([1, 2]);
  },
);
