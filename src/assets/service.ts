// Assets: their bytes in a store, what is known of them in the database.
import type { Readable } from 'node:stream';
import type { Kysely } from 'kysely';
import type { Config } from '../config.ts';
import type { AssetRow, Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import type { Logger } from '../support/log.ts';
import { fetchPublic } from '../support/safe-fetch.ts';
import { isAssetId, type Asset } from './asset.ts';
import { detectContentType, unknownType } from './content-type.ts';
import { exactLength } from './exact-length.ts';
import { newFileKey } from './file-key.ts';
import { plainFileName } from './file-name.ts';
import {
  admit,
  announce,
  discard,
  findAsset,
  findAssetToUse,
  findOrAnnounce,
  replaceFile,
  type Arrival,
} from './records.ts';
import { sweepAssets } from './retention.ts';
import { lengthOf, type AssetStore, type ByteRange, type ReceivedFile } from './store.ts';

export type { Asset } from './asset.ts';

export interface SaveOptions {
  fileName: string | null;
  /** As claimed by the sender; the bytes are believed first. */
  contentType: string | null;
  /** A result of a job: it is kept as long as an output refers to it, and an asset that is there keeps its name. */
  isResult?: boolean;
  /** `Assets.maxBytes` unless told. */
  maxBytes?: number;
  signal?: AbortSignal | undefined;
}

export interface Assets {
  /** The largest file that is accepted when the caller names no limit. */
  readonly maxBytes: number;
  /** Stores a file. The same bytes are one asset; name and type in the answer are those of this file. Rejects like `AssetStore.receive`. */
  save(stream: Readable, options: SaveOptions): Promise<{ asset: Asset; createdNew: boolean }>;
  /** Fetches a public URL and stores what it holds. Rejects with `invalid_input` naming `field` (`url` unless told). */
  saveFromUrl(
    url: string,
    options: { signal?: AbortSignal | undefined; fileName?: string | null; field?: string },
  ): Promise<Asset>;
  get(id: string): Promise<Asset | null>;
  /** As `get`, for a job that is about to be accepted: the file stays for a day at least, and then for as long as the job lives. */
  use(id: string): Promise<Asset | null>;
  /** Rejects with `asset_not_found` before any byte when the bytes are not there. The stream fails where they are not as many as they should be. */
  read(id: string, range?: ByteRange): Promise<Readable>;
  /** Removes what is kept no longer, in bounded batches. Resolves to false when there is more to do. */
  sweep(now: Date): Promise<boolean>;
}

export interface AssetsDependencies {
  db: Kysely<Tables>;
  store: AssetStore;
  config: Config;
  log: Logger;
}

export function createAssets({ db, store, config, log }: AssetsDependencies): Assets {
  const maxBytes = Math.floor(config.UPLOAD_LIMIT_MB * 1_000_000);

  const save: Assets['save'] = (stream, options) =>
    store.receive(stream, { maxBytes, ...options }, async (file) => {
      const { id, sizeBytes, head } = file;
      const fileName = plainFileName(options.fileName);
      const contentType = await detectContentType(head, { claimed: options.contentType, fileName });
      const uploaded = options.isResult !== true;
      const arrival = { id, sizeBytes, contentType, fileName, uploaded, key: newFileKey(id) };
      const { row, createdNew } = await enter(db, store, file, arrival);
      log.debug({ assetId: id, sizeBytes, contentType, createdNew }, 'asset stored');
      return { asset: namedBy(arrival, toAsset(row)), createdNew };
    });

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
      const row = isAssetId(id) ? await findAsset(db, id) : undefined;
      return row === undefined ? null : toAsset(row);
    },

    async use(id) {
      const row = isAssetId(id) ? await findAssetToUse(db, id) : undefined;
      return row === undefined ? null : toAsset(row);
    },

    async read(id, range) {
      const row = isAssetId(id) ? await findAsset(db, id) : undefined;
      if (row === undefined) throw new ServiceError('asset_not_found', `There is no asset ${id}.`);
      const bytes = await store.read(row.stored_as, range).catch((error: unknown) => {
        if (!(error instanceof ServiceError) || error.code !== 'asset_not_found') throw error;
        log.error({ assetId: id, storedAs: row.stored_as }, 'the storage has lost the bytes of an asset');
        const detail = `The storage has lost the bytes of asset ${id}. Upload the file again, or run the job again that made it.`;
        throw new ServiceError('asset_not_found', detail, { cause: error });
      });
      return exactLength(bytes, range === undefined ? row.size_bytes : lengthOf(range));
    },

    sweep: (now) => sweepAssets({ db, store, config, log }, now),
  };
}

/**
 * A file is written down before it is put into the store, so that a process which dies in between leaves nothing that is
 * forgotten, and is an asset only once it is there.
 */
async function enter(
  db: Kysely<Tables>,
  store: AssetStore,
  file: ReceivedFile,
  arrival: Arrival,
): Promise<{ row: AssetRow; createdNew: boolean }> {
  const known = await findOrAnnounce(db, arrival);
  if (known !== undefined) {
    await repair(db, store, file, { known, key: arrival.key });
    return { row: known, createdNew: false };
  }
  await file.publish(arrival.key);
  const row = await admit(db, arrival);
  if (row === undefined) {
    throw new ServiceError('storage_unavailable', 'The file took too long to store. Send it again.');
  }
  const createdNew = row.stored_as === arrival.key;
  if (!createdNew) await discard(db, arrival.key);
  return { row, createdNew };
}

/** Stores the bytes of a known asset again where the store has lost them, or part of them. */
async function repair(
  db: Kysely<Tables>,
  store: AssetStore,
  file: ReceivedFile,
  { known, key }: { known: AssetRow; key: string },
): Promise<void> {
  if ((await store.sizeOf(known.stored_as)) === file.sizeBytes) return;
  await announce(db, key);
  await file.publish(key);
  const replaced = await replaceFile(db, { id: known.id, from: known.stored_as, to: key });
  if (!replaced) await discard(db, key);
}

/** The asset as this very file was called, whatever others call the same bytes. */
function namedBy({ fileName, contentType }: Arrival, asset: Asset): Asset {
  return {
    ...asset,
    fileName: fileName ?? asset.fileName,
    contentType: contentType === unknownType ? asset.contentType : contentType,
  };
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
