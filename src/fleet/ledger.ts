// The ledger: what every rental has cost on every day. The rows of rentals and attempts are its source, so it can be made anew at any time.
import { sql, type Kysely, type Transaction } from 'kysely';
import type { Executor } from '../database/queues.ts';
import type { RentalRow, Tables } from '../database/tables.ts';
import {
  billedPeriod,
  microsOf,
  rentalCost,
  sumOf,
  usdOf,
  type BilledRental,
  type Micros,
} from '../instances/cost.ts';
import { dayName, startOfDay, startOfNextDay } from './limits.ts';

/** What a rental has cost on one day of UTC. */
export interface DayCost {
  day: string;
  gpuMicros: Micros;
  storageMicros: Micros;
  trafficMicros: Micros;
}

const BATCH = 200;

/** The days of a rental until now; their sums are those of the rental, to the millionth. */
export function daysOf(
  rental: BilledRental,
  trafficByDay: ReadonlyMap<string, Micros>,
  now: Date,
): DayCost[] {
  const billed = billedPeriod(rental, now);
  if (billed === null) return [];
  const days: DayCost[] = [];
  let from = startOfDay(billed.from);
  do {
    const next = startOfNextDay(from);
    const to = new Date(Math.min(next.getTime(), billed.to.getTime()));
    days.push({ day: dayName(from), ...rentalCost(rental, { from, to }), trafficMicros: 0 });
    from = next;
  } while (from < billed.to);
  for (const [day, micros] of trafficByDay) {
    // What was counted after the end belongs to the last day.
    const target = days.find((candidate) => candidate.day === day) ?? days.at(-1);
    if (target !== undefined) target.trafficMicros += micros;
  }
  return days;
}

/** Brings the ledger up to now. A rental's rows are final once it is confirmed gone. Returns how many rentals were written. */
export async function recordCosts(db: Kysely<Tables>, now: Date): Promise<number> {
  await countTraffic(db);
  let written = 0;
  let after: string | null = null;
  for (;;) {
    const last: string | null = after;
    const batch: RentalRow[] = await db.transaction().execute(async (trx) => {
      const rentals = await unrecordedRentals(trx, last);
      for (const rental of rentals) await record(trx, rental, now);
      return rentals;
    });
    written += batch.length;
    after = batch.at(-1)?.id ?? null;
    if (batch.length < BATCH) return written;
  }
}

/**
 * What was spent from a moment at midnight of UTC until now, in US dollars: the ledger, with what is not in it for good counted anew.
 * All from one statement, so that a rental whose books are closed at this moment is in one of the two.
 */
export async function spentSince(db: Executor, midnight: Date, now: Date): Promise<number> {
  const rows = await db
    .with('closed', (cte) =>
      cte
        .selectFrom('rental_costs')
        .innerJoin('rentals', 'rentals.id', 'rental_costs.rental_id')
        .select(sql<number | null>`sum(gpu_micros + storage_micros + traffic_micros)::bigint`.as('micros'))
        .where('rentals.recorded_at', 'is not', null)
        .where('day', '>=', dayName(midnight)),
    )
    .selectFrom('closed')
    .leftJoin('rentals', (join) => join.on('rentals.recorded_at', 'is', null))
    .select([
      'closed.micros as closedMicros',
      'status',
      'offer',
      'price_per_hour_usd',
      'past_prices',
      'create_sent_at',
      'confirmed_at',
      'gone_at',
    ])
    .select((eb) =>
      eb
        .selectFrom('attempts')
        .select(sql<number>`coalesce(sum(traffic_micros), 0)::bigint`.as('micros'))
        .whereRef('attempts.rental_id', '=', 'rentals.id')
        .where('attempts.ended_at', '>=', midnight)
        .as('trafficMicros'),
    )
    .execute();
  const openMicros = rows
    .filter(isBilled)
    .reduce(
      (sum, rental) =>
        sum + sumOf(rentalCost(rental, { from: midnight, to: now })) + (rental.trafficMicros ?? 0),
      0,
    );
  return usdOf((rows[0]?.closedMicros ?? 0) + openMicros);
}

/** Not the row that stands there when no rental is open. */
function isBilled<R extends { status: string | null }>(row: R): row is R & BilledRental {
  return row.status !== null;
}

/**
 * Counts what the files of ended attempts cost to move: inputs for every attempt that came to submit them, outputs where they were
 * fetched. The image is not billed, and what a machine downloads by itself is not known here.
 */
async function countTraffic(db: Kysely<Tables>): Promise<void> {
  const attempts = await uncountedAttempts(db);
  for (const { id, rentalId, offer, sentBytes, receivedBytes } of attempts) {
    // What we send, the machine downloads.
    const usd =
      offer === null
        ? 0
        : (sentBytes * offer.downloadPricePerGbUsd + receivedBytes * offer.uploadPricePerGbUsd) / 1e9;
    await db
      .updateTable('attempts')
      .set({ rental_id: rentalId, traffic_micros: microsOf(usd) })
      .where('id', '=', id)
      .where('traffic_micros', 'is', null)
      .execute();
  }
  if (attempts.length === BATCH) await countTraffic(db);
}

/** Ended attempts whose traffic is not counted yet, with the rental that they ran on and the bytes that went there and back. */
function uncountedAttempts(db: Kysely<Tables>) {
  return db
    .selectFrom('attempts')
    .innerJoin('jobs', 'jobs.id', 'attempts.job_id')
    .leftJoinLateral(
      (eb) =>
        eb
          .selectFrom('rentals')
          .select(['rentals.id as rentalId', 'rentals.offer'])
          .whereRef('rentals.instance_id', '=', 'attempts.instance_id')
          .whereRef('rentals.created_at', '<=', 'attempts.created_at')
          .orderBy('rentals.number', 'desc')
          .limit(1)
          .as('rental'),
      (join) => join.onTrue(),
    )
    .select(['attempts.id', 'rental.rentalId', 'rental.offer'])
    .select([
      sql<number>`case when attempts.submitted_at is null then 0 else (
        select coalesce(sum(size_bytes), 0) from assets where id in (
          select input->>'assetId' from jsonb_array_elements(jobs.inputs) input
        )) end::bigint`.as('sentBytes'),
      sql<number>`(
        select coalesce(sum(size_bytes), 0) from assets where attempts.outcome = 'succeeded' and id in (
          select asset_id from outputs where outputs.job_id = jobs.id
        ))::bigint`.as('receivedBytes'),
    ])
    .where('attempts.status', '=', 'ended')
    .where('attempts.traffic_micros', 'is', null)
    .orderBy('attempts.id')
    .limit(BATCH)
    .execute();
}

/** Locked, so that two replicas write one after the other, and nobody closes a rental meanwhile. */
async function unrecordedRentals(trx: Transaction<Tables>, after: string | null): Promise<RentalRow[]> {
  let query = trx
    .selectFrom('rentals')
    .selectAll()
    .where((eb) => eb.or([eb('recorded_at', 'is', null), eb('status', '<>', 'gone')]))
    .orderBy('id')
    .limit(BATCH)
    .forUpdate();
  if (after !== null) query = query.where('id', '>', after);
  return query.execute();
}

async function record(trx: Transaction<Tables>, rental: RentalRow, now: Date): Promise<void> {
  const days = daysOf(rental, await readTraffic(trx, rental.id), now);
  await trx.deleteFrom('rental_costs').where('rental_id', '=', rental.id).execute();
  if (days.length > 0) {
    await trx
      .insertInto('rental_costs')
      .values(
        days.map(({ day, gpuMicros, storageMicros, trafficMicros }) => ({
          rental_id: rental.id,
          day,
          gpu_micros: gpuMicros,
          storage_micros: storageMicros,
          traffic_micros: trafficMicros,
        })),
      )
      .execute();
  }
  // One that was thought to be gone and came back is open again.
  const recordedAt = rental.status === 'gone' && !(await hasUncountedTraffic(trx, rental)) ? now : null;
  if (recordedAt === null && rental.recorded_at === null) return;
  await trx.updateTable('rentals').set({ recorded_at: recordedAt }).where('id', '=', rental.id).execute();
}

/** An attempt may have ended, and then its machine been seen gone, since the traffic was counted. */
async function hasUncountedTraffic(
  trx: Transaction<Tables>,
  { instance_id: instanceId }: RentalRow,
): Promise<boolean> {
  const uncounted = await trx
    .selectFrom('attempts')
    .select('id')
    .where('instance_id', '=', instanceId)
    .where('status', '=', 'ended')
    .where('traffic_micros', 'is', null)
    .limit(1)
    .executeTakeFirst();
  return uncounted !== undefined;
}

async function readTraffic(trx: Transaction<Tables>, rentalId: string): Promise<Map<string, Micros>> {
  const rows = await trx
    .selectFrom('attempts')
    .select([
      sql<string>`to_char(ended_at at time zone 'UTC', 'YYYY-MM-DD')`.as('day'),
      sql<number>`sum(traffic_micros)::bigint`.as('micros'),
    ])
    .where('rental_id', '=', rentalId)
    .groupBy('day')
    .execute();
  return new Map(rows.map(({ day, micros }) => [day, micros]));
}
