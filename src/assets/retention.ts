// Removing files that are kept no longer. What is used stays: see `findOrAnnounce` and `findAssetToUse`, which a removal can never overtake.
import { sql, type Kysely } from 'kysely';
import type { Config } from '../config.ts';
import type { Tables } from '../database/tables.ts';
import { reasonsOf } from '../errors.ts';
import type { Logger } from '../support/log.ts';
import type { AssetStore } from './store.ts';

export interface AssetRetentionDeps {
  db: Kysely<Tables>;
  store: AssetStore;
  config: Pick<Config, 'ASSET_RETENTION_DAYS'>;
  log: Logger;
}

const BATCH = 200;
const REMOVED_AT_ONCE = 4;
/** No removal begins later in a round: a store that is slow, or silent, keeps the rest of the upkeep waiting. */
const ROUND_MS = 10_000;
/** A file that could not be removed is left alone for so long, so that it keeps none of the others. */
const RETRY_MS = 3_600_000;
const DAY_MS = 86_400_000;

/**
 * One round. Assets lose their rows first and their files afterwards, so that a process which dies in between leaves work
 * for the next round and never a row without its file. False when there is more to do. Rejects when all is done where files
 * could not be removed.
 */
export async function sweepAssets(deps: AssetRetentionDeps, now: Date): Promise<boolean> {
  const forgotten = await forgetAssets(deps, now);
  const { due, removed, failures } = await removeLooseFiles(deps, now);
  if (forgotten + removed > 0) deps.log.info({ assets: forgotten, files: removed }, 'files were removed');
  await deps.store.tidy().catch((error: unknown) => {
    // Some stores let nobody list what has come in part. Nothing else depends on it.
    deps.log.warn({ err: error }, 'what broken uploads left could not be removed');
  });
  const [failure, ...more] = failures;
  if (failure !== undefined) {
    const count = `${1 + more.length} of ${due} stored files could not be removed, and are tried again in an hour.`;
    throw new Error(`${count} ${reasonsOf(failure)}`, { cause: failure });
  }
  return forgotten < BATCH && removed === due && due < BATCH;
}

/**
 * Assets that no output refers to: those that were uploaded after the days of the setting, mere results after a day, which
 * is longer than it takes from storing a result to writing the output. Both conditions are checked again under the row's
 * lock, and rows that somebody else holds are left alone.
 */
async function forgetAssets({ db, config }: AssetRetentionDeps, now: Date): Promise<number> {
  const resultsBefore = new Date(now.getTime() - DAY_MS);
  const days = config.ASSET_RETENTION_DAYS;
  const uploadsBefore = days === 0 ? null : new Date(now.getTime() - days * DAY_MS);
  const { rows } = await sql`
    with unused as (
      select id from assets
      where used_at < case when uploaded then ${uploadsBefore}::timestamptz else ${resultsBefore}::timestamptz end
        and used_at < ${resultsBefore}::timestamptz
        and not exists (select from outputs where outputs.asset_id = assets.id)
      order by used_at limit ${BATCH} for update skip locked
    ), forgotten as (
      delete from assets using unused where assets.id = unused.id returning stored_as
    )
    insert into loose_files (key, removing, due_at)
    select stored_as, true, ${now}::timestamptz from forgotten
    returning key`.execute(db);
  return rows.length;
}

interface Removals {
  due: number;
  removed: number;
  failures: Error[];
}

/** Files that never became an asset, and those of forgotten ones. Marked before they are removed: from then on nobody can make an asset of them. */
async function removeLooseFiles(deps: AssetRetentionDeps, now: Date): Promise<Removals> {
  const until = performance.now() + ROUND_MS;
  const due = await deps.db
    .updateTable('loose_files')
    .set({ removing: true })
    .where('key', 'in', (eb) =>
      eb
        .selectFrom('loose_files')
        .select('key')
        .where('due_at', '<=', now)
        .orderBy('due_at')
        .limit(BATCH)
        .forUpdate()
        .skipLocked(),
    )
    .returning('key')
    .execute();
  const removals: Removals = { due: due.length, removed: 0, failures: [] };
  const waiting = due.values();
  const removeSome = async (): Promise<void> => {
    for (const { key } of waiting) {
      if (performance.now() >= until) return;
      await removeFile(deps, key, now).then(
        () => (removals.removed += 1),
        (error: Error) => removals.failures.push(error),
      );
    }
  };
  await Promise.all(Array.from({ length: REMOVED_AT_ONCE }, removeSome));
  return removals;
}

async function removeFile({ db, store }: AssetRetentionDeps, key: string, now: Date): Promise<void> {
  try {
    await store.remove(key);
  } catch (error) {
    const later = new Date(now.getTime() + RETRY_MS);
    await db.updateTable('loose_files').set({ due_at: later }).where('key', '=', key).execute();
    throw error;
  }
  await db.deleteFrom('loose_files').where('key', '=', key).execute();
}
