// Decisions about money on the rows of the database alone: what counts, what may be taken, and what the guard ends.
import type { Kysely } from 'kysely';
import { pino } from 'pino';
import { v7 as uuid } from 'uuid';
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import type { Database } from '../../src/database/database.ts';
import type { Tables } from '../../src/database/tables.ts';
import { createBudget } from '../../src/fleet/budget.ts';
import { readCredit, watchCredit } from '../../src/fleet/credit.ts';
import { guardMoney } from '../../src/fleet/guard.ts';
import { isObstacle } from '../../src/instances/budget.ts';
import type { Offer } from '../../src/instances/provider.ts';
import { requirementsSchema } from '../../src/instances/requirements.ts';
import { systemClock } from '../../src/support/clock.ts';
import { createTestDatabase, openDatabase, type TestDatabase } from '../support/database.ts';
import { offer } from '../support/offers.ts';
import { intendedRental } from '../support/rentals.ts';

const quiet = pino({ level: 'silent' });

let opened: TestDatabase;
let db: Kysely<Tables>;
beforeEach(async () => {
  opened = await createTestDatabase();
  ({ db } = opened.database);
});
afterEach(() => opened.stop());

it('looks at the credit again after a clock was set back', async () => {
  const now = new Date();
  await watchCredit({ ...watching(25), clock: { now: () => new Date(now.getTime() + 3_600_000) } });
  await watchCredit({ ...watching(7), clock: { now: () => now } });
  expect(await readCredit(db)).toEqual({ creditUsd: 7, checkedAt: now });
});

describe('a machine that is found again', () => {
  it('gets no money that an accepted instance may still need', async () => {
    const config = loadConfig({ MAX_TOTAL_PRICE_PER_HOUR_USD: '1' });
    const budget = createBudget({ db, config, clock: { now: () => new Date() } });
    const terms = {
      expiresAt: new Date(Date.now() + 3_600_000),
      maxPricePerHourUsd: 1,
      forFleet: false,
    };
    const found = offer({ pricePerHourUsd: 0.4 });
    const mayAdopt = () => db.transaction().execute((trx) => budget.mayAdopt(trx, found, terms));
    expect(await mayAdopt()).toBe(true);
    const requirements = JSON.stringify({ ...requirementsSchema.parse({}), maxPricePerHourUsd: 0.7 });
    await db
      .insertInto('instances')
      .values({ id: uuid(), provider: 'vast', status: 'requested', requirements })
      .execute();
    expect(await mayAdopt()).toBe(false);
  });
});

describe('an instance that was requested before the highest price was lowered', () => {
  it('takes no machine that is dearer than may be paid now', async () => {
    const reserve = (...offers: Offer[]) => reserveOne({ MAX_PRICE_PER_HOUR_USD: '0.5' }, offers);
    const [dearer, cheaper] = [offer({ pricePerHourUsd: 0.8 }), offer({ pricePerHourUsd: 0.4 })];
    expect(await reserve(dearer, cheaper)).toBe(cheaper);
    expect(await reserve(dearer)).toMatchObject({
      reason: 'limit_reached',
      numbers: { limitName: 'MAX_PRICE_PER_HOUR_USD', limit: 0.5, asked: 0.8 },
    });
    // What may become possible is waited for, and so comes before what will not.
    const heavy = offer({ pricePerHourUsd: 0.4, downloadPricePerGbUsd: 10 });
    expect(await reserve(dearer, heavy)).toMatchObject({
      numbers: { limitName: 'MAX_SPEND_PER_DAY_USD' },
    });
  });
});

describe('a machine that is gone', () => {
  it('counts with what it may have downloaded, in its day and month', async () => {
    const limits = { MAX_SPEND_PER_DAY_USD: '50', MAX_SPEND_PER_MONTH_USD: '50' };
    const noonOf = (day: number) => new Date(Date.UTC(2026, 0, day, 12));
    const chosen = offer({ diskGb: 60, downloadPricePerGbUsd: 0.5 });
    await addReady(chosen, noonOf(5));
    const gone = { status: 'gone', gone_at: noonOf(5) } as const;
    await db.updateTable('rentals').set(gone).execute();
    await db.updateTable('instances').set({ status: 'terminated' }).execute();
    const reserveOn = (now: Date) => reserveOne(limits, [chosen], now);
    expect(await reserveOn(noonOf(5))).toMatchObject({
      numbers: { limitName: 'MAX_SPEND_PER_DAY_USD', committed: 30 },
    });
    expect(await reserveOn(noonOf(6))).toMatchObject({
      numbers: { limitName: 'MAX_SPEND_PER_MONTH_USD', committed: 30 },
    });
    expect(await reserveOn(noonOf(35))).toBe(chosen);
    // One that was there at the end of a month may have downloaded in each of the two.
    const days = { create_sent_at: noonOf(31), gone_at: new Date(Date.UTC(2026, 1, 1, 0, 1)) };
    await db.updateTable('rentals').set(days).execute();
    expect(await reserveOn(noonOf(35))).toMatchObject({
      numbers: { limitName: 'MAX_SPEND_PER_MONTH_USD', committed: expect.closeTo(30, 1) },
    });
  });
});

describe('a machine that is being destroyed', () => {
  it('counts for as long as that may take, however long it might have lived', async () => {
    const morning = new Date(Date.UTC(2026, 0, 5, 6));
    await addReady(offer({ pricePerHourUsd: 1 }), morning);
    const cheap = offer({ pricePerHourUsd: 0.4 });
    const limits = { MAX_SPEND_PER_DAY_USD: '3', DESTROY_RESERVE_HOURS: '1', DRAIN_LIMIT_MINUTES: '30' };
    expect(await reserveOne(limits, [cheap], morning)).toMatchObject({ reason: 'limit_reached' });
    await db.updateTable('instances').set({ status: 'terminating' }).execute();
    await db.updateTable('rentals').set({ status: 'destroying' }).execute();
    expect(await reserveOne(limits, [cheap], morning)).toBe(cheap);
    expect(await reserveOne({ ...limits, MAX_SPEND_PER_DAY_USD: '2' }, [cheap], morning)).toMatchObject({
      reason: 'limit_reached',
    });
  });
});

describe('a machine that the provider shows cheaper than it was rented', () => {
  it('makes no room for another: it may stand still, and cost its price again when it runs', async () => {
    await addReady(offer({ pricePerHourUsd: 0.8 }));
    await db.updateTable('rentals').set({ price_per_hour_usd: 0.1 }).execute();
    const limits = { MAX_TOTAL_PRICE_PER_HOUR_USD: '1' };
    expect(await reserveOne(limits, [offer({ pricePerHourUsd: 0.5 })])).toMatchObject({
      numbers: { limitName: 'MAX_TOTAL_PRICE_PER_HOUR_USD', committed: 0.8 },
    });
  });
});

describe('a machine that was rented in a future that only a clock knew that was set back since', () => {
  it('counts from now on', async () => {
    const evening = new Date(Date.UTC(2026, 0, 5, 20));
    await addReady(offer({ pricePerHourUsd: 2.5 }), new Date(Date.UTC(2026, 0, 6, 2)));
    const limits = { MAX_SPEND_PER_DAY_USD: '10', MAX_SPEND_PER_MONTH_USD: 'none' };
    expect(await reserveOne(limits, [offer({ pricePerHourUsd: 0.4 })], evening)).toMatchObject({
      numbers: { limitName: 'MAX_SPEND_PER_DAY_USD', period: '2026-01-05', committed: expect.closeTo(10, 0) },
    });
  });
});

describe('machines that together cost more than they may', () => {
  it('are let go, the dearest first, until the others may stay', async () => {
    const config = loadConfig({ MAX_TOTAL_PRICE_PER_HOUR_USD: '1' });
    for (const pricePerHourUsd of [0.4, 0.8, 0.5]) await addReady(offer({ pricePerHourUsd }));
    const deps = { db, queues: opened.database.queues, config, clock: systemClock, log: quiet };
    expect(await guardMoney(deps)).toBe(1);
    expect(await guardMoney(deps)).toBe(0);
    const all = await db
      .selectFrom('instances')
      .innerJoin('rentals', 'rentals.id', 'instances.rental_id')
      .select(['price_per_hour_usd', 'instances.status', 'pending_reason', 'pending_detail'])
      .orderBy('price_per_hour_usd')
      .execute();
    expect(all).toMatchObject([
      { price_per_hour_usd: 0.4, status: 'ready' },
      { price_per_hour_usd: 0.5, status: 'ready' },
      {
        price_per_hour_usd: 0.8,
        status: 'draining',
        pending_reason: 'limit_reached',
        pending_detail: expect.stringMatching(/MAX_TOTAL_PRICE_PER_HOUR_USD/),
      },
    ]);
  });

  it('leave no longer than a limit does to one that drains on request, before another is let go', async () => {
    const config = loadConfig({ MAX_TOTAL_PRICE_PER_HOUR_USD: '1' });
    for (const pricePerHourUsd of [0.8, 0.5]) await addReady(offer({ pricePerHourUsd }));
    const inOrder = () =>
      db
        .selectFrom('instances')
        .innerJoin('rentals', 'rentals.id', 'instances.rental_id')
        .select(['instances.id', 'instances.status', 'expires_at', 'pending_reason'])
        .orderBy('price_per_hour_usd')
        .execute();
    const [asked] = await inOrder();
    const draining = { status: 'draining', pending_reason: 'requested' } as const;
    await db
      .updateTable('instances')
      .set(draining)
      .where('id', '=', asked?.id ?? '')
      .execute();
    const deps = { db, queues: opened.database.queues, config, clock: systemClock, log: quiet };
    expect(await guardMoney(deps)).toBe(1);
    expect(await guardMoney(deps)).toBe(0);
    expect(await inOrder()).toMatchObject([
      { status: 'draining', pending_reason: 'limit_reached', expires_at: expect.any(Date) },
      { status: 'ready', expires_at: null },
    ]);
  });

  it('are ended where their jobs take longer than they may, and keep their reason', async () => {
    const config = loadConfig({ MAX_TOTAL_PRICE_PER_HOUR_USD: '1', DRAIN_LIMIT_MINUTES: '10' });
    await addReady(offer({ pricePerHourUsd: 1.5 }));
    const startMs = Date.now();
    const guardAfter = async (minutes: number) => {
      const clock = { now: () => new Date(startMs + minutes * 60_000) };
      await guardMoney({ db, queues: opened.database.queues, config, clock, log: quiet });
      return db.selectFrom('instances').selectAll().executeTakeFirstOrThrow();
    };
    const drained = await guardAfter(0);
    expect(drained).toMatchObject({ status: 'draining', pending_reason: 'limit_reached' });
    expect(await guardAfter(9)).toMatchObject({ status: 'draining' });
    expect(await guardAfter(11)).toMatchObject({
      status: 'terminating',
      pending_reason: 'limit_reached',
      pending_detail: drained.pending_detail,
    });
  });
});

describe('two replicas', () => {
  it('cannot commit the same money twice', async () => {
    const other = await openDatabase(opened.url);
    onTestFinished(() => other.stop());
    const config = loadConfig({ MAX_TOTAL_PRICE_PER_HOUR_USD: '1' });
    const clock = { now: () => new Date() };
    const tries = Array.from({ length: 10 }, (_, index) =>
      reserveOn(index % 2 === 0 ? opened.database : other),
    );
    const outcomes = await Promise.all(tries);
    expect(outcomes.filter((outcome) => outcome === 'rented')).toHaveLength(2);

    async function reserveOn(replica: Database): Promise<'rented' | 'refused'> {
      const budget = createBudget({ db: replica.db, config, clock });
      const instanceId = uuid();
      return replica.db.transaction().execute(async (trx) => {
        await trx
          .insertInto('instances')
          .values({ id: instanceId, provider: 'vast', status: 'provisioning' })
          .execute();
        const terms = { expiresAt: new Date(Date.now() + 3_600_000), maxPricePerHourUsd: 1 };
        const chosen = offer({ pricePerHourUsd: 0.4 });
        if (isObstacle(await budget.reserve(trx, async () => [chosen], terms))) return 'refused';
        await trx.insertInto('rentals').values(intendedRental(instanceId, chosen)).execute();
        return 'rented';
      });
    }
  });
});

function watching(creditUsd: number) {
  return {
    db,
    queues: opened.database.queues,
    provider: { name: 'vast' as const, account: async () => ({ creditUsd }) },
    config: loadConfig({}),
    log: quiet,
  };
}

/** Asks for the money of one of the offers, for an instance that lives for another hour. */
function reserveOne(limits: Record<string, string>, offers: Offer[], now = new Date()) {
  const budget = createBudget({ db, config: loadConfig(limits), clock: { now: () => now } });
  const terms = { expiresAt: new Date(now.getTime() + 3_600_000), maxPricePerHourUsd: 1 };
  return db.transaction().execute((trx) => budget.reserve(trx, async () => offers, terms));
}

async function addReady(chosen: Offer, now = new Date()): Promise<void> {
  const id = uuid();
  const rental = intendedRental(id, chosen);
  await db
    .insertInto('instances')
    .values({ id, provider: 'vast', status: 'ready', rental_id: rental.id })
    .execute();
  await db
    .insertInto('rentals')
    .values({ ...rental, status: 'active', create_sent_at: now, confirmed_at: now })
    .execute();
}
