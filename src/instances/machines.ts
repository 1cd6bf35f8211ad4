// Host memory: how each physical machine did, so that one that failed is left alone for a while and a measured boot beats an estimate.
import { sql, type Transaction } from 'kysely';
import type { Executor } from '../database/queues.ts';
import type { MachineRow, RentalRow, Tables } from '../database/tables.ts';
import type { TerminationReason } from './instance.ts';
import type { OfferSearch } from './provider.ts';
import { IMAGE_GB } from './ranking.ts';

export interface MachineFailure {
  reason: TerminationReason;
  at: string;
}

/** By the id of the machine. */
export type HostMemory = ReadonlyMap<string, MachineRow>;

/** How long a machine is left alone after so many failures in a row; the last one holds for all further ones. */
const COOLDOWN_SECONDS = [60, 300, 900, 3600, 86_400] as const;
const KEPT_REASONS = 5;
/** A faster load means that the image was there already, which tells nothing of the network. */
const MIN_MEASURED_LOAD_SECONDS = 20;
/** How much the newest measurement counts. */
const NEWEST_SHARE = 0.5;

/**
 * The failures that count against a machine. Those of the caller, the market, the account or our own settings do not:
 * an end on request, a taken offer, a higher bid, a lack of credit, a price.
 */
const machineFaults = new Set<TerminationReason>([
  'loading_timeout',
  'starting_timeout',
  'unreachable',
  'open_without_credentials',
  'credentials_refused',
  'insecure',
  'image_pull_failed',
  'container_failed',
  'exited',
  'offline',
  'unknown_to_provider',
  'stopped_by_provider',
  'lost',
]);
/** An image that does not exist, or may not be had, fails on every machine. */
const imageFault =
  /manifest\b.*\b(unknown|not found)|pull access denied|repository does not exist|unauthorized/i;

/** Whether the end of a rental says something about its machine. `mayHaveEndedItself`: as its dead-man switch was told to. */
export function isMachineFault(
  reason: TerminationReason,
  evidence: string,
  rental: Pick<RentalRow, 'ready_at'>,
  mayHaveEndedItself: boolean,
): boolean {
  if (!machineFaults.has(reason)) return false;
  if (reason === 'lost') return !mayHaveEndedItself;
  // vast.ai stops whatever runs when the account has no credit left.
  if (reason === 'stopped_by_provider') return rental.ready_at === null;
  return reason !== 'image_pull_failed' || !imageFault.test(evidence);
}

/** After so many failures in a row the machine is not rented for this long. */
export function cooldownSeconds(failuresInRow: number): number {
  return COOLDOWN_SECONDS[Math.min(failuresInRow, COOLDOWN_SECONDS.length) - 1] ?? 0;
}

/** A rental became ready for the first time: its machine is forgiven and its times are kept. */
export async function noteReady(trx: Transaction<Tables>, rental: RentalRow, now: Date): Promise<void> {
  const readySeconds = rental.create_sent_at === null ? null : secondsBetween(rental.create_sent_at, now);
  await trx
    .insertInto('machines')
    .values({
      provider: 'vast',
      machine_id: rental.machine_id,
      successes: 1,
      ready_seconds: readySeconds,
      last_ready_at: now,
    })
    .onConflict((conflict) =>
      conflict.columns(['provider', 'machine_id']).doUpdateSet({
        successes: sql`machines.successes + 1`,
        failures_in_row: 0,
        cooldown_until: null,
        ready_seconds: blended('ready_seconds'),
        last_ready_at: now,
      }),
    )
    .execute();
}

/** A rental has its image: how fast that arrived is kept, whatever becomes of the rental. */
export async function noteLoaded(
  trx: Transaction<Tables>,
  rental: Pick<RentalRow, 'machine_id' | 'confirmed_at'>,
  now: Date,
): Promise<void> {
  const seconds = rental.confirmed_at === null ? 0 : secondsBetween(rental.confirmed_at, now);
  if (seconds < MIN_MEASURED_LOAD_SECONDS) return;
  await trx
    .insertInto('machines')
    .values({
      provider: 'vast',
      machine_id: rental.machine_id,
      // The speed at least, since loading includes unpacking.
      download_mbps: (IMAGE_GB * 8000) / seconds,
    })
    .onConflict((conflict) =>
      conflict.columns(['provider', 'machine_id']).doUpdateSet({ download_mbps: blended('download_mbps') }),
    )
    .execute();
}

/** A rental failed through its machine's fault: the machine is left alone, longer with each failure in a row. */
export async function noteFailure(
  trx: Transaction<Tables>,
  rental: Pick<RentalRow, 'machine_id'>,
  reason: TerminationReason,
  now: Date,
): Promise<void> {
  const { machine_id: machineId } = rental;
  const failure: MachineFailure = { reason, at: now.toISOString() };
  const row = await trx
    .insertInto('machines')
    .values({
      provider: 'vast',
      machine_id: machineId,
      failures: 1,
      failures_in_row: 1,
      last_reasons: JSON.stringify([failure]),
      last_failed_at: now,
    })
    .onConflict((conflict) =>
      conflict.columns(['provider', 'machine_id']).doUpdateSet({
        failures: sql`machines.failures + 1`,
        failures_in_row: sql`machines.failures_in_row + 1`,
        last_failed_at: now,
      }),
    )
    .returning(['failures_in_row', 'last_reasons'])
    .executeTakeFirstOrThrow();
  const reasons = [failure, ...row.last_reasons.filter(({ at }) => at !== failure.at)];
  await trx
    .updateTable('machines')
    .set({
      last_reasons: JSON.stringify(reasons.slice(0, KEPT_REASONS)),
      cooldown_until: new Date(now.getTime() + cooldownSeconds(row.failures_in_row) * 1000),
    })
    .where('provider', '=', 'vast')
    .where('machine_id', '=', machineId)
    .execute();
}

/** What is remembered of the machines of a search. */
export async function recall(db: Executor, { offers, rejected }: OfferSearch): Promise<HostMemory> {
  const ids = new Set([...offers, ...rejected.map(({ offer }) => offer)].map(({ machineId }) => machineId));
  if (ids.size === 0) return new Map();
  const rows = await db
    .selectFrom('machines')
    .selectAll()
    .where('provider', '=', 'vast')
    .where('machine_id', 'in', [...ids])
    .execute();
  return new Map(rows.map((row) => [row.machine_id, row]));
}

/** The search with the offers of machines in cooldown moved to the rejected ones, with the reason and until when. */
export function withoutCooling(found: OfferSearch, memory: HostMemory, now: Date): OfferSearch {
  const reasonAgainst = (machineId: string) => coolingReason(memory.get(machineId), now);
  return {
    offers: found.offers.filter(({ machineId }) => reasonAgainst(machineId) === null),
    rejected: [
      ...found.offers.flatMap((offer) => {
        const reason = reasonAgainst(offer.machineId);
        return reason === null ? [] : [{ offer, reasons: [reason] }];
      }),
      ...found.rejected,
    ],
  };
}

function coolingReason(machine: MachineRow | undefined, now: Date): string | null {
  if (machine?.cooldown_until == null || machine.cooldown_until <= now) return null;
  const times = machine.failures_in_row === 1 ? 'once' : `${machine.failures_in_row} times in a row`;
  const last = machine.last_reasons[0]?.reason ?? 'unknown';
  return `Its machine failed ${times} (${last}) and is not rented before ${machine.cooldown_until.toISOString()}.`;
}

/** Recent rentals count more; a rental without a measurement leaves what is known. */
function blended(column: 'ready_seconds' | 'download_mbps') {
  const [old, fresh] = [sql.ref(`machines.${column}`), sql.ref(`excluded.${column}`)];
  return sql<
    number | null
  >`coalesce(${old} + (${fresh} - ${old}) * ${sql.lit(NEWEST_SHARE)}, ${fresh}, ${old})`;
}

function secondsBetween(from: Date, to: Date): number {
  return Math.max(0, (to.getTime() - from.getTime()) / 1000);
}
