// Reconciliation: a rental that carries our label and has no record is brought back under control, by the policy of the settings.
import type { Transaction } from 'kysely';
import type { Executor } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { isOver } from '../support/clock.ts';
import { listAccount, type AccountRental } from './account.ts';
import {
  closedRecordOf,
  missedRecord,
  recordForDestroying,
  recordForUse,
  type Orphan,
} from './orphan-records.ts';
import { wakeInstance } from './records.ts';
import type { InstanceDeps } from './steps/step.ts';

export interface Reconciliation {
  ours: number;
  foreign: number;
  /** Seen without a record, those within their grace included. */
  orphans: number;
  destroyed: number;
  adopted: number;
}

/** A sighting that was not repeated for so long is forgotten. */
const FORGET_AFTER_MS = 86_400_000;

/**
 * Compares the account with the records once. Rejects with a `ProviderError` when the list failed or came short, and then
 * has changed nothing. Foreign rentals are counted and never touched.
 */
export async function reconcile(deps: InstanceDeps, signal: AbortSignal): Promise<Reconciliation | null> {
  const { db, provider, labelPrefix, clock, config, log } = deps;
  if (provider === null) return null;
  const account = await listAccount({ db, provider, clock }, labelPrefix, signal);
  const orphans = await noteSightings(db, account, clock.now());
  const result: Reconciliation = {
    ours: count(account, 'ours'),
    foreign: count(account, 'foreign'),
    orphans: orphans.length,
    destroyed: 0,
    adopted: 0,
  };
  const graceMs = config.ORPHAN_GRACE_SECONDS * 1000;
  for (const orphan of orphans) {
    if (!isOver(orphan.firstSeenAt, graceMs, clock.now())) continue;
    const done = await bringBack(deps, orphan);
    if (done !== 'left') result[done] += 1;
  }
  if (orphans.length > 0) log.warn(result, 'rentals without a record were found');
  else log.debug(result, 'the rentals of the account were compared with the records');
  return result;
}

function count(account: AccountRental[], ownership: AccountRental['ownership']): number {
  return account.filter((entry) => entry.ownership === ownership).length;
}

/** Remembers when each orphan was first seen, over restarts; a rental that turned out to be ours starts anew. */
async function noteSightings(db: Executor, account: AccountRental[], now: Date): Promise<Orphan[]> {
  const known = account.filter(({ ownership }) => ownership !== 'orphan');
  await db
    .deleteFrom('orphans')
    .where((eb) =>
      eb.or([
        eb('last_seen_at', '<', new Date(now.getTime() - FORGET_AFTER_MS)),
        ...(known.length === 0
          ? []
          : [
              eb(
                'provider_instance_id',
                'in',
                known.map(({ rental }) => rental.providerInstanceId),
              ),
            ]),
      ]),
    )
    .execute();
  const orphans: Orphan[] = [];
  for (const { rental, ownership } of account) {
    if (ownership !== 'orphan' || rental.label === null) continue;
    const row = await db
      .insertInto('orphans')
      .values({
        provider_instance_id: rental.providerInstanceId,
        label: rental.label,
        first_seen_at: now,
        last_seen_at: now,
      })
      .onConflict((conflict) =>
        conflict.column('provider_instance_id').doUpdateSet({ last_seen_at: now, label: rental.label ?? '' }),
      )
      .returning('first_seen_at')
      .executeTakeFirstOrThrow();
    orphans.push({ rental, label: rental.label, firstSeenAt: row.first_seen_at });
  }
  return orphans;
}

/** Gives the orphan a record, from which on it is a rental like any other: nothing about its end or its cost is special. */
async function bringBack(deps: InstanceDeps, orphan: Orphan): Promise<'destroyed' | 'adopted' | 'left'> {
  const { db, config, log } = deps;
  const { providerInstanceId } = orphan.rental;
  const about = { providerInstanceId, label: orphan.label };
  if (config.ORPHAN_POLICY === 'report' && !(await isRemembered(db, orphan))) {
    log.warn(about, 'an orphan bills, and ORPHAN_POLICY is report');
    return 'left';
  }
  return db.transaction().execute(async (trx) => {
    // Whoever takes the sighting away makes the record, should two be at it.
    const { numDeletedRows } = await trx
      .deleteFrom('orphans')
      .where('provider_instance_id', '=', providerInstanceId)
      .executeTakeFirst();
    if (numDeletedRows === 0n || (await hasLiveRecord(trx, providerInstanceId))) return 'left';
    const closed = await closedRecordOf(trx, orphan);
    const kept = config.ORPHAN_POLICY === 'adopt' ? await missedRecord(trx, deps, orphan, closed) : undefined;
    const instanceId = await (kept === undefined
      ? recordForDestroying(trx, deps, orphan, closed)
      : recordForUse(trx, deps, orphan, kept));
    await wakeInstance(trx, deps.queues, instanceId, 0, deps.clock.now());
    log.warn({ ...about, instanceId }, kept ? 'an orphan is used again' : 'an orphan is destroyed');
    return kept ? 'adopted' : 'destroyed';
  });
}

/** Whether a record tells that it was rented here: then nobody needs to be asked whose it is, and it is only late, or one too many. */
async function isRemembered(db: Executor, { rental, label }: Orphan): Promise<boolean> {
  const record = await db
    .selectFrom('rentals')
    .select('id')
    .where((eb) =>
      eb.or([eb('provider_instance_id', '=', rental.providerInstanceId), eb('label', '=', label)]),
    )
    .limit(1)
    .executeTakeFirst();
  return record !== undefined;
}

/** Somebody else may have brought it back since the list was read. */
async function hasLiveRecord(trx: Transaction<Tables>, providerInstanceId: string): Promise<boolean> {
  const live = await trx
    .selectFrom('rentals')
    .select('id')
    .where('provider_instance_id', '=', providerInstanceId)
    .where('status', '<>', 'gone')
    .executeTakeFirst();
  return live !== undefined;
}
