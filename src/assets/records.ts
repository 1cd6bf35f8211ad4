// What the database knows of stored files. A file has a row here before it is in the store, and until it is gone from it.
import { sql, type Kysely } from 'kysely';
import type { AssetRow, Tables } from '../database/tables.ts';
import { unknownType } from './content-type.ts';

/** A file that has arrived, with what its sender says of it. */
export interface Arrival {
  id: string;
  sizeBytes: number;
  contentType: string;
  fileName: string | null;
  /** Whether a caller brought it, and not a job. */
  uploaded: boolean;
  /** What it will be called in the store, if it has to be stored. */
  key: string;
}

/** Longer than anything takes to get into the store. */
const ARRIVAL_LIMIT = sql<Date>`now() + interval '1 day'`;

/**
 * The asset of these bytes where they are known, used from now on, and under the name of this upload; else undefined, and
 * the key is noted, so that whatever becomes of this process, the file will not be forgotten. The retention removes no
 * asset that was used within the last day: one that is found here stays.
 */
export async function findOrAnnounce(db: Kysely<Tables>, arrival: Arrival): Promise<AssetRow | undefined> {
  const { rows } = await sql<AssetRow>`
    with known as (
      update assets set used_at = now(), ${newestOf(arrival)} where id = ${arrival.id} returning *
    ), announced as (
      insert into loose_files (key, removing, due_at)
      select ${arrival.key}, false, ${ARRIVAL_LIMIT} where not exists (select from known)
    )
    select * from known`.execute(db);
  return rows[0];
}

/**
 * Makes the stored file of an announced key an asset. Where somebody was faster with the same bytes, the asset is theirs,
 * and this file stays loose. Undefined when the key is no longer announced: the file took too long and may be gone.
 */
export async function admit(db: Kysely<Tables>, arrival: Arrival): Promise<AssetRow | undefined> {
  const { id, sizeBytes, contentType, fileName, uploaded, key } = arrival;
  const { rows } = await sql<AssetRow>`
    with announced as (
      select key from loose_files where key = ${key} and not removing for update
    ), entered as (
      insert into assets (id, size_bytes, content_type, file_name, stored_as, uploaded)
      select ${id}, ${sizeBytes}::bigint, ${contentType}, ${fileName}, key, ${uploaded}::boolean from announced
      on conflict (id) do update set used_at = now(), ${newestOf(arrival)}
      returning *
    ), settled as (
      delete from loose_files using entered where key = entered.stored_as
    )
    select * from entered`.execute(db);
  return rows[0];
}

/** Notes a further key for bytes that have an asset already. */
export async function announce(db: Kysely<Tables>, key: string): Promise<void> {
  await db.insertInto('loose_files').values({ key, removing: false, due_at: ARRIVAL_LIMIT }).execute();
}

/** Gives an asset another file, if it still has the old one. False when nothing was changed. */
export async function replaceFile(
  db: Kysely<Tables>,
  { id, from, to }: { id: string; from: string; to: string },
): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    const replaced = await trx
      .updateTable('assets')
      .set({ stored_as: to })
      .where('id', '=', id)
      .where('stored_as', '=', from)
      .where((eb) =>
        eb.exists(eb.selectFrom('loose_files').where('key', '=', to).where('removing', '=', false)),
      )
      .executeTakeFirst();
    if (replaced.numUpdatedRows !== 1n) return false;
    await trx.deleteFrom('loose_files').where('key', '=', to).execute();
    await trx
      .insertInto('loose_files')
      .values({ key: from, removing: true, due_at: sql<Date>`now()` })
      .execute();
    return true;
  });
}

/** Leaves an announced file to be removed at the next opportunity. */
export async function discard(db: Kysely<Tables>, key: string): Promise<void> {
  await db
    .updateTable('loose_files')
    .set({ removing: true, due_at: sql<Date>`now()` })
    .where('key', '=', key)
    .execute();
}

export async function findAsset(db: Kysely<Tables>, id: string): Promise<AssetRow | undefined> {
  return db.selectFrom('assets').selectAll().where('id', '=', id).executeTakeFirst();
}

/** The asset, used from now on. Not every use is written: within an hour it makes no difference. */
export async function findAssetToUse(db: Kysely<Tables>, id: string): Promise<AssetRow | undefined> {
  await db
    .updateTable('assets')
    .set({ used_at: sql<Date>`now()` })
    .where('id', '=', id)
    .where('used_at', '<', sql<Date>`now() - interval '1 hour'`)
    .execute();
  return findAsset(db, id);
}

/** An upload names its asset anew; what it does not say stays as it was. Results do not: their names are kept with their jobs. */
function newestOf({ uploaded, fileName, contentType }: Arrival) {
  if (!uploaded) return sql`uploaded = assets.uploaded`;
  const type = contentType === unknownType ? null : contentType;
  return sql`
    uploaded = true,
    file_name = coalesce(${fileName}::text, assets.file_name),
    content_type = coalesce(${type}::text, assets.content_type)`;
}
