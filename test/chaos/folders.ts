// Data folders of the services of a scenario, and a look into their databases.
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Kysely } from 'kysely';
import { pino } from 'pino';
import { createKysely, createPool } from '../../src/database/connection.ts';
import { embeddedAddress, stopEmbeddedServer } from '../../src/database/embedded.ts';
import type { Tables } from '../../src/database/tables.ts';

/** A new data folder below `folder`; it is gone, and its database server too, when the scenario ends. */
export async function newDataFolder(folder: string, stack: AsyncDisposableStack): Promise<string> {
  const dataDir = await mkdtemp(join(folder, 'data-'));
  // Where root runs this, the database server is somebody else, who must pass.
  await chmod(dataDir, 0o711);
  stack.defer(async () => {
    await stopEmbeddedServer(dataDir);
    await rm(dataDir, { recursive: true, force: true });
  });
  return dataDir;
}

/** The records of a service that has its database in its data folder, and runs. */
export async function openRecords(dataDir: string, stack: AsyncDisposableStack): Promise<Kysely<Tables>> {
  const pool = createPool(await embeddedAddress(dataDir), {
    size: 2,
    log: pino({ level: 'silent' }),
    statementTimeoutMs: 30_000,
  });
  stack.defer(() => pool.end());
  return createKysely(pool);
}
