// The books in the database, read while they are written.
import { sql, type Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Tables } from '../../src/database/tables.ts';
import { spentSince } from '../../src/fleet/ledger.ts';
import { startOfDay } from '../../src/fleet/limits.ts';
import { createTestDatabase, openDatabase, type TestDatabase } from '../support/database.ts';
import { offer } from '../support/offers.ts';
import { intendedRental } from '../support/rentals.ts';

const HOUR_MS = 3_600_000;
const now = new Date(Date.UTC(2026, 0, 15, 13));
const before = (hours: number) => new Date(now.getTime() - hours * HOUR_MS);

let open: TestDatabase;

beforeAll(async () => {
  open = await createTestDatabase();
});
afterAll(() => open.stop());

/** One that cost 2 USD, an hour long, until an hour ago; nothing of it is in the ledger yet. */
async function addRentalThatIsGone(): Promise<string> {
  const { db } = open.database;
  const instanceId = uuid();
  const rental = intendedRental(instanceId, offer({ pricePerHourUsd: 2, storagePricePerHourUsd: 0 }));
  const times = { create_sent_at: before(2), confirmed_at: before(2), gone_at: before(1) };
  await db
    .insertInto('instances')
    .values({ id: instanceId, provider: 'vast', status: 'terminated' })
    .execute();
  await db
    .insertInto('rentals')
    .values({ ...rental, ...times, status: 'gone' })
    .execute();
  return rental.id;
}

/** As the ledger does it for a rental that is gone. */
async function closeBooks(trx: Transaction<Tables>, id: string): Promise<void> {
  const costs = { gpu_micros: 2e6, storage_micros: 0, traffic_micros: 0 };
  await trx
    .insertInto('rental_costs')
    .values({ rental_id: id, day: '2026-01-15', ...costs })
    .execute();
  await trx.updateTable('rentals').set({ recorded_at: now }).where('id', '=', id).execute();
}

async function isWaited(trx: Transaction<Tables>): Promise<boolean> {
  const { rows } = await sql`
    select from pg_locks
    where not granted and relation = 'attempts'::regclass
      and database = (select oid from pg_database where datname = current_database())
  `.execute(trx);
  return rows.length > 0;
}

it('counts a rental once whose books are closed in the middle of the counting', async () => {
  const { db } = open.database;
  const other = await openDatabase(open.url);
  try {
    expect(await spentSince(db, startOfDay(now), now)).toBe(0);
    const id = await addRentalThatIsGone();
    expect(await spentSince(db, startOfDay(now), now)).toBe(2);

    const counting = await other.db.transaction().execute(async (trx) => {
      // The rows of the books can be read meanwhile, those of open rentals only after this.
      await sql`lock table attempts in access exclusive mode`.execute(trx);
      const pending = spentSince(db, startOfDay(now), now);
      await expect.poll(() => isWaited(trx)).toBe(true);
      await closeBooks(trx, id);
      return { pending };
    });
    expect(await counting.pending).toBe(2);
  } finally {
    await other.stop();
  }
});
