// Assets: their bytes in a store, what is known of them in the database.
import type { Readable } from 'node:stream';
import type { Kysely } from 'kysely';
import type { Config } from '../config.ts';
import type { AssetRow, Tables } from '../database/tables.ts';
import type { Logger } from '../support/log.ts';
import { fetchPublic } from '../support/safe-fetch.ts';
import { isAssetId, type Asset } from './asset.ts';
import { detectContentType } from './content-type.ts';
import { plainFileName } from './file-name.ts';
import type { AssetStore, ByteRange } from './store.ts';

export type { Asset } from './asset.ts';

export interface SaveOptions {
  fileName: string | null;
  /** As claimed by the sender; the bytes are believed first. */
  contentType: string | null;
  /** `Assets.maxBytes` unless told. */
  maxBytes?: number;
  signal?: AbortSignal | undefined;
}

export interface Assets {
  /** The largest file that is accepted when the caller names no limit. */
  readonly maxBytes: number;
  /**
   * Stores a file. The same bytes are one asset, with the name and type they first came with. Rejects like `AssetStore.put`.
   */
  save(stream: Readable, options: SaveOptions): Promise<{ asset: Asset; createdNew: boolean }>;
  /** Fetches a public URL and stores what it holds. Rejects with `invalid_input` naming `field` (`url` unless told). */
  saveFromUrl(
    url: string,
    options: { signal?: AbortSignal | undefined; fileName?: string | null; field?: string },
  ): Promise<Asset>;
  get(id: string): Promise<Asset | null>;
  /** Rejects with `asset_not_found` before any byte when the bytes are not there. */
  read(id: string, range?: ByteRange): Promise<Readable>;
}

export interface AssetsDependencies {
  db: Kysely<Tables>;
  store: AssetStore;
  config: Config;
  log: Logger;
}

export function createAssets({ db, store, config, log }: AssetsDependencies): Assets {
  const maxBytes = Math.floor(config.UPLOAD_LIMIT_MB * 1_000_000);

  const save: Assets['save'] = async (stream, options) => {
    const { id, sizeBytes, head } = await store.put(stream, { maxBytes, ...options });
    const fileName = plainFileName(options.fileName);
    const contentType = await detectContentType(head, { claimed: options.contentType, fileName });
    // After the bytes, so that a row always has them. Dying before this line leaves a file without a row: nobody can see it, and
    // the next upload of the same bytes takes it over.
    const created = await db
      .insertInto('assets')
      .values({ id, size_bytes: sizeBytes, content_type: contentType, file_name: fileName })
      .onConflict((conflict) => conflict.column('id').doNothing())
      .returningAll()
      .executeTakeFirst();
    log.debug({ assetId: id, sizeBytes, contentType, createdNew: created !== undefined }, 'asset stored');
    const row = created ?? (await findRow(db, id).executeTakeFirstOrThrow());
    return { asset: toAsset(row), createdNew: created !== undefined };
  };

  return {
    maxBytes,
    save,

    async saveFromUrl(url, { signal, fileName, field = 'url' }) {
      const file = await fetchPublic(url, {
        maxBytes,
        timeoutMs: config.INPUT_URL_TIMEOUT_SECONDS * 1000,
        allowedHosts: config.INPUT_URL_ALLOWED_HOSTS,
        field,
        signal,
      });
      const { asset } = await save(file.stream, {
        fileName: fileName ?? file.fileName,
        contentType: file.contentType,
        signal,
      });
      return asset;
    },

    async get(id) {
      if (!isAssetId(id)) return null;
      const row = await findRow(db, id).executeTakeFirst();
      return row === undefined ? null : toAsset(row);
    },

    read: (id, range) => store.read(id, range),
  };
}

function findRow(db: Kysely<Tables>, id: string) {
  return db.selectFrom('assets').selectAll().where('id', '=', id);
}

function toAsset(row: AssetRow): Asset {
  return {
    id: row.id,
    sizeBytes: row.size_bytes,
    contentType: row.content_type,
    fileName: row.file_name,
    createdAt: row.created_at,
  };
}
