// Around the whole test run: a folder that its files share, and the end of the database server that they started in it.
import { accessSync, chmodSync, constants, mkdtempSync, statfsSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { stopEmbeddedServer } from '../../src/database/embedded.ts';
import { dropTemplate } from './database.ts';

const prefix = 'comfyfleet-test-';
const memoryFolder = '/dev/shm';
/** Several times what the databases of a run take at once. */
const enoughBytes = 2e9;

/** Runs once for each project of the run; the first one does the work. */
export async function setup(): Promise<(() => Promise<void>) | undefined> {
  if (process.env['TEST_RUN_FOLDER'] !== undefined) return undefined;
  const folder = mkdtempSync(join(parentFolder(), `${prefix}${process.pid}-`));
  process.env['TEST_RUN_FOLDER'] = folder;
  // Whatever else a test puts into a temporary folder lies there too, and goes with it.
  process.env['TMPDIR'] = folder;
  process.env['TEST_COMPILE_CACHE'] = join(folder, 'compiled');
  // Where root runs the tests, the server is somebody else, who must pass.
  chmodSync(folder, 0o711);
  await removeDeadRuns(dirname(folder));
  return async () => {
    if (process.env['TEST_DATABASE_URL'] !== undefined) await dropTemplate();
    await remove(folder);
  };
}

/** In memory where there is room: on a disk, each new database takes a quarter of a second, and all tests wait for its writes. */
function parentFolder(): string {
  try {
    accessSync(memoryFolder, constants.W_OK);
    const { bavail, bsize } = statfsSync(memoryFolder);
    return bavail * bsize >= enoughBytes ? memoryFolder : tmpdir();
  } catch {
    return tmpdir();
  }
}

/** What runs that were killed left behind. */
async function removeDeadRuns(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!name.startsWith(prefix) || lives(Number.parseInt(name.slice(prefix.length), 10))) continue;
    await remove(join(parent, name));
  }
}

async function remove(folder: string): Promise<void> {
  await stopEmbeddedServer(folder);
  await rm(folder, { recursive: true, force: true });
}

function lives(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
