// The node classes of instances, as they were when each became ready: kept once for all that have the same, and with the image that they came from.
import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { brotliCompress, brotliDecompress, constants } from 'node:zlib';
import { sql, type Kysely, type Transaction } from 'kysely';
import { z } from 'zod';
import type { NodeCatalog, NodeClass } from '../comfyui/object-info.ts';
import type { Config } from '../config.ts';
import type { Tables } from '../database/tables.ts';

export interface Catalogs {
  /** Null when it is no longer kept, or not as this version keeps it. The same object for the same id, as long as it is in use. */
  get(id: string): Promise<NodeCatalog | null>;
}

/** A catalog as it is stored. */
export interface PackedCatalog {
  id: string;
  content: Buffer;
}

/** The newest catalog of an image is kept this long after the last instance of it. */
const KEPT_DAYS = 90;
/** Those of many packs of nodes together are below a tenth of it. */
const MAX_PACKED_BYTES = 4 * 1024 * 1024;
const MAX_BYTES = 64 * 1024 * 1024;
const IN_MEMORY = 8;
const CATALOG_LOCK = 4_711_010;

const compress = promisify(brotliCompress);
const decompress = promisify(brotliDecompress);

/** What a rented machine is made from, as far as the settings say. Machines of one image have the same node classes. */
export function imageOf(
  config: Pick<Config, 'VAST_IMAGE' | 'VAST_IMAGE_TAG' | 'VAST_PROVISIONING_SCRIPT' | 'VAST_COMFYUI_ARGS'>,
): string {
  const image = `${config.VAST_IMAGE}:${config.VAST_IMAGE_TAG}`;
  const rest = [config.VAST_PROVISIONING_SCRIPT ?? '', config.VAST_COMFYUI_ARGS];
  return rest.every((part) => part === '') ? image : `${image}#${hashOf(rest.join('\n')).slice(0, 12)}`;
}

/** Rejects where the catalog is larger than anything that was ever seen. */
export async function packCatalog(image: string | null, catalog: NodeCatalog): Promise<PackedCatalog> {
  const text = JSON.stringify({
    format: FORMAT,
    comfyuiVersion: catalog.comfyuiVersion,
    replaced: [...catalog.replaced],
    classes: [...catalog.classes],
  });
  const content = await compress(text, { params: { [constants.BROTLI_PARAM_QUALITY]: 5 } });
  if (text.length > MAX_BYTES || content.length > MAX_PACKED_BYTES) {
    throw new Error(`A catalog of ${catalog.classes.size} node classes is too large to be kept.`);
  }
  return { id: hashOf(`${image ?? ''}\n${text}`), content };
}

/** Keeps a catalog for an instance that is ready, and removes those that nothing refers to any more. */
export async function keepCatalog(
  trx: Transaction<Tables>,
  {
    instanceId,
    image,
    packed,
    now,
  }: { instanceId: string; image: string | null; packed: PackedCatalog; now: Date },
): Promise<void> {
  // One at a time: none is removed that another has just begun to use.
  await sql`select pg_advisory_xact_lock(${sql.lit(CATALOG_LOCK)})`.execute(trx);
  await trx
    .insertInto('node_catalogs')
    .values({ id: packed.id, image, content: packed.content, read_at: now })
    .onConflict((conflict) => conflict.column('id').doUpdateSet({ read_at: now }))
    .execute();
  await trx
    .updateTable('instances')
    .set({ catalog_id: packed.id, catalog_read_at: now })
    .where('id', '=', instanceId)
    .where('status', 'in', ['ready', 'draining'])
    .execute();
  await removeUnused(trx, now);
}

/** The newest catalog of an image, if one was read since `notBefore`. */
export async function newestCatalog(
  db: Kysely<Tables>,
  image: string,
  notBefore: Date,
): Promise<{ id: string; readAt: Date } | null> {
  const row = await db
    .selectFrom('node_catalogs')
    .select(['id', 'read_at'])
    .where('image', '=', image)
    .where('read_at', '>=', notBefore)
    .orderBy('read_at', 'desc')
    .limit(1)
    .executeTakeFirst();
  return row === undefined ? null : { id: row.id, readAt: row.read_at };
}

export function createCatalogs(db: Kysely<Tables>): Catalogs {
  const loaded = new Map<string, Promise<NodeCatalog | null>>();
  return {
    get(id) {
      const known = loaded.get(id) ?? loadCatalog(db, id);
      // The last one used comes last, and the first one goes.
      loaded.delete(id);
      loaded.set(id, known);
      known.then(
        (catalog) => catalog === null && loaded.delete(id),
        () => loaded.delete(id),
      );
      const [oldest] = loaded.keys();
      if (loaded.size > IN_MEMORY && oldest !== undefined) loaded.delete(oldest);
      return known;
    },
  };
}

/** Another number where what is packed changes; a migration then has every catalog read again. */
const FORMAT = 1;

const packedSchema = z.object({
  format: z.literal(FORMAT),
  comfyuiVersion: z.string(),
  replaced: z.array(z.string()),
  // Written by this service from answers that were read with care.
  classes: z.array(z.tuple([z.string(), z.custom<NodeClass>((value) => typeof value === 'object')])),
});

async function loadCatalog(db: Kysely<Tables>, id: string): Promise<NodeCatalog | null> {
  const row = await db.selectFrom('node_catalogs').select('content').where('id', '=', id).executeTakeFirst();
  if (row === undefined) return null;
  const text = await decompress(row.content, { maxOutputLength: 4 * MAX_BYTES });
  const packed = packedSchema.safeParse(JSON.parse(text.toString('utf8')));
  if (!packed.success) return null;
  const { comfyuiVersion, replaced, classes } = packed.data;
  return { comfyuiVersion, replaced: new Set(replaced), classes: new Map(classes) };
}

async function removeUnused(trx: Transaction<Tables>, now: Date): Promise<void> {
  const old = new Date(now.getTime() - KEPT_DAYS * 86_400_000);
  await sql`
    delete from node_catalogs catalog
    where not exists (select from instances where catalog_id = catalog.id and status <> 'terminated')
      and (image is null or read_at < ${old} or exists (
        select from node_catalogs newer where newer.image = catalog.image and newer.read_at > catalog.read_at
      ))`.execute(trx);
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
