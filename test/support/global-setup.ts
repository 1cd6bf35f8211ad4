// Around the whole test run: a folder that its files share, and the end of the database server that they started in it.
import { chmodSync, mkdtempSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stopEmbeddedServer } from '../../src/database/embedded.ts';
import { dropTemplate } from './database.ts';

const prefix = 'comfyfleet-test-';

/** Runs once for each project of the run; the first one does the work. */
export async function setup(): Promise<(() => Promise<void>) | undefined> {
  if (process.env['TEST_RUN_FOLDER'] !== undefined) return undefined;
  const folder = mkdtempSync(join(tmpdir(), `${prefix}${process.pid}-`));
  process.env['TEST_RUN_FOLDER'] = folder;
  // Where root runs the tests, the server is somebody else, who must pass.
  chmodSync(folder, 0o711);
  await removeDeadRuns();
  return async () => {
    if (process.env['TEST_DATABASE_URL'] !== undefined) await dropTemplate();
    await remove(folder);
  };
}

/** What runs that were killed left behind. */
async function removeDeadRuns(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    if (!name.startsWith(prefix) || lives(Number.parseInt(name.slice(prefix.length), 10))) continue;
    await remove(join(tmpdir(), name));
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
