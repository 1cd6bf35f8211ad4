// The books in the database, read while they are written.
import { sql, type Kysely, type Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Tables } from '../../src/database/tables.ts';
import { readCosts } from '../../src/fleet/costs.ts';
import { costOfJob } from '../../src/fleet/job-costs.ts';
import { recordCosts, spentSince } from '../../src/fleet/ledger.ts';
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
async function addRentalThatIsGone(instanceId: string = uuid()): Promise<string> {
  const { db } = open.database;
  const rental = intendedRental(instanceId, offer({ pricePerHourUsd: 2, storagePricePerHourUsd: 0 }));
  const times = { create_sent_at: before(2), confirmed_at: before(2), gone_at: before(1) };
  await db
    .insertInto('instances')
    .values({ id: instanceId, provider: 'vast', status: 'terminated' })
    .execute();
  await db
    .insertInto('rentals')
    .values({ ...rental, ...times, created_at: before(2), status: 'gone' })
    .execute();
  return rental.id;
}

/** A job that was sent a file of 1 GB there, for 0.002 USD. */
async function addEndedAttempt(trx: Kysely<Tables>, instanceId: string): Promise<string> {
  const [jobId, assetId] = [uuid(), 'a'.repeat(64)];
  await trx
    .insertInto('assets')
    .values({ id: assetId, stored_as: assetId, size_bytes: 1e9, content_type: 'image/png', uploaded: true })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  await trx
    .insertInto('jobs')
    .values({
      id: jobId,
      status: 'failed',
      workflow: '{}',
      inputs: JSON.stringify([{ assetId }]),
      wait_limit_ms: 1,
      time_limit_ms: 1,
    })
    .execute();
  const times = { created_at: before(1.5), submitted_at: before(1.5), ended_at: before(1.1) };
  await trx
    .insertInto('attempts')
    .values({
      id: uuid(),
      job_id: jobId,
      number: 1,
      instance_id: instanceId,
      slot: 0,
      status: 'ended',
      ...times,
    })
    .execute();
  return jobId;
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

async function isWaited(trx: Transaction<Tables>, table: string): Promise<boolean> {
  const { rows } = await sql`
    select from pg_locks
    where not granted and relation = ${table}::regclass
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
      await expect.poll(() => isWaited(trx, 'attempts')).toBe(true);
      await closeBooks(trx, id);
      return { pending };
    });
    expect(await counting.pending).toBe(2);
  } finally {
    await other.stop();
  }
});

it('holds the traffic of a job that ended, with its machine, in the middle of the writing', async () => {
  const { db } = open.database;
  const other = await openDatabase(open.url);
  try {
    const instanceId = uuid();
    const id = await addRentalThatIsGone(instanceId);
    const writing = await other.db.transaction().execute(async (trx) => {
      await trx.selectFrom('rentals').select('id').where('id', '=', id).forUpdate().execute();
      // It has counted the traffic already when it waits for the rental.
      const pending = recordCosts(db, now);
      await expect.poll(() => isAwaited(trx)).toBe(true);
      await addEndedAttempt(trx, instanceId);
      return { pending };
    });
    await writing.pending;
    await recordCosts(db, now);
    const { total } = await readCosts(db, {
      from: '2026-01-15',
      to: '2026-01-15',
      groupBy: 'day',
      instanceId,
      apiKey: undefined,
      limit: 1,
      cursor: undefined,
    });
    expect(total).toMatchObject({ trafficUsd: 0.002, totalUsd: 2.002, final: true });
  } finally {
    await other.stop();
  }
});

it('calls the cost of a job final only with the whole life of its machine', async () => {
  const { db } = open.database;
  const [first, second] = [await openDatabase(open.url), await openDatabase(open.url)];
  try {
    const instanceId = uuid();
    const id = await addRentalThatIsGone(instanceId);
    const jobId = await addEndedAttempt(db, instanceId);
    const set = async (on: Kysely<Tables>, isGone: boolean) => {
      const [rental, instance] = isGone
        ? ([{ status: 'gone', gone_at: before(0.5) }, { status: 'terminated' }] as const)
        : ([{ status: 'destroying', gone_at: null }, { status: 'terminating' }] as const);
      await on.updateTable('rentals').set(rental).where('id', '=', id).execute();
      await on.updateTable('instances').set(instance).where('id', '=', instanceId).execute();
    };
    await set(db, false);
    await recordCosts(db, now);

    const rentals = await first.db.startTransaction().execute();
    await sql`lock table rentals in access exclusive mode`.execute(rentals);
    let isRead = false;
    const reading = costOfJob(db, jobId, now).finally(() => (isRead = true));
    await expect.poll(() => isWaited(rentals, 'rentals')).toBe(true);
    const instances = await second.db.startTransaction().execute();
    await sql`lock table instances in access exclusive mode`.execute(instances);
    await rentals.commit().execute();
    await expect.poll(async () => isRead || (await isWaited(instances, 'instances'))).toBe(true);
    await set(instances, true);
    await instances.commit().execute();

    const cost = await reading;
    expect(cost?.totalUsd).toBe(cost?.final === true ? 3.002 : 4.002);
    expect(await costOfJob(db, jobId, now)).toMatchObject({ final: true, totalUsd: 3.002 });
  } finally {
    await first.stop();
    await second.stop();
  }
});

/** Whether somebody waits for the end of this transaction. */
async function isAwaited(trx: Transaction<Tables>): Promise<boolean> {
  const { rows } = await sql`
    select from pg_locks
    where not granted and locktype = 'transactionid' and transactionid = pg_current_xact_id()::xid
  `.execute(trx);
  return rows.length > 0;
}
