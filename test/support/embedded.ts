// Services with an embedded database in a folder of their own, for tests of what becomes of it.
import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { onTestFinished } from 'vitest';
import { startDatabase, type Database } from '../../src/database/database.ts';
import { stopEmbeddedServer } from '../../src/database/embedded.ts';
import { startChild, type Child } from './child.ts';
import { onceInRun, runFolder } from './run-folder.ts';

const log = pino({ level: 'silent' });

/** A new folder, gone with its server when the test ends. `name` is a path inside of it, for the data. */
export async function newDataFolder(name = ''): Promise<string> {
  const base = await passableFolder();
  const folder = join(base, name);
  await mkdir(folder, { recursive: true });
  onTestFinished(async () => {
    await stopEmbeddedServer(folder);
    await rm(base, { recursive: true });
  });
  return folder;
}

/** As `newDataFolder` makes it, with a database that a service has used before: making one takes longer than most tests. */
export async function usedDataFolder(name = ''): Promise<string> {
  const folder = await newDataFolder(name);
  await copyUsedDatabase(folder);
  return folder;
}

/** Puts a database that a service has used before into a data folder. */
export async function copyUsedDatabase(folder: string): Promise<void> {
  const used = join(runFolder(), 'used');
  await onceInRun('used-database', async () => {
    await mkdir(used);
    await chmod(used, 0o711);
    const database = await openEmbedded(used);
    await database.queues.start();
    await database.stop();
  });
  await promisify(execFile)('cp', ['-a', join(used, 'postgres'), folder]);
}

/** Where root runs the tests, the server is somebody else, who must pass. */
async function passableFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'comfyfleet-embedded-'));
  await chmod(folder, 0o711);
  return folder;
}

/** A service in this process, stopped when the test ends. */
export async function startEmbedded(folder: string): Promise<Database> {
  const database = await openEmbedded(folder);
  onTestFinished(() => database.stop());
  return database;
}

/** A service in this process that the caller stops. */
function openEmbedded(folder: string): Promise<Database> {
  return startDatabase({ config: { DATABASE_URL: undefined, DATA_DIR: folder, DATABASE_POOL_SIZE: 4 }, log });
}

/** A service in a process of its own, which the test may kill. `place` is a data folder or a URL. */
export function startService(scenario: 'write' | 'hang' | 'exclusive', place: string): Child {
  const service = startChild(new URL('database-child.ts', import.meta.url), scenario, place);
  onTestFinished(() => service.kill());
  return service;
}
