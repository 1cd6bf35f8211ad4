// Which store the settings ask for.
import { join } from 'node:path';
import type { Config } from '../config.ts';
import { createLocalDiskStore } from './local-disk.ts';
import { createS3Store } from './s3.ts';
import type { AssetStore } from './store.ts';

/** Opens the store of the settings. What is on its way is on the local disk with either. */
export async function openStore(config: Config): Promise<AssetStore> {
  const dir = join(config.DATA_DIR, 'assets');
  const { S3_BUCKET: bucket, S3_ACCESS_KEY_ID: id, S3_SECRET_ACCESS_KEY: secret } = config;
  if (config.ASSET_STORE === 'local' || bucket === undefined) return createLocalDiskStore({ dir });
  return createS3Store({
    endpoint: config.S3_ENDPOINT,
    bucket,
    region: config.S3_REGION,
    credentials:
      id === undefined || secret === undefined ? undefined : { accessKeyId: id, secretAccessKey: secret },
    forcePathStyle: config.S3_FORCE_PATH_STYLE,
    prefix: config.S3_PREFIX,
    temporaryDir: join(dir, 'tmp'),
  });
}
