// The data folder of the embedded server: made whole or not at all, and checked before it is used.
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { access, chmod, chown, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { hasErrorCode } from '../errors.ts';
import { spawnOptions } from './embedded-binaries.ts';
import type { Server } from './embedded-process.ts';

/** Creating takes about a second; a draft older than this is nobody's. */
const draftLimitMs = 600_000;

/** Creates the data folder if there is none. It gets its name only when it is complete, so a kill leaves no half of one. */
export async function createCluster({ folder, account, binaries, log }: Server): Promise<void> {
  if (await exists(join(folder, 'PG_VERSION'))) return;
  await removeOldDrafts(folder);
  const draft = `${folder}.new-${randomUUID()}`;
  try {
    await mkdir(draft, { mode: 0o700 });
    if (account !== null) await chown(draft, account.uid, account.gid);
    await promisify(execFile)(
      binaries.initdb,
      [
        `--pgdata=${draft}`,
        '--username=comfyfleet',
        // Whoever reaches the socket is let in: its folder is closed to everybody else. Nothing listens on a network.
        '--auth-local=trust',
        '--auth-host=reject',
        '--encoding=UTF8',
        '--locale=C',
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--no-instructions',
      ],
      { ...spawnOptions(account), cwd: draft },
    );
    await rename(draft, folder);
    log.info({ folder }, 'Created the database');
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    // Another start was faster.
    if (await exists(join(folder, 'PG_VERSION'))) return;
    throw new Error(`The database could not be created in ${folder}.`, { cause: error });
  }
}

/** Rejects when the data folder was made by another major version, whose files this one cannot read. */
export async function assertVersion({ folder, binaries }: Server): Promise<void> {
  const version = (await readFile(join(folder, 'PG_VERSION'), 'utf8')).trim();
  if (version !== binaries.major) {
    throw new Error(
      `The database in ${folder} was made by PostgreSQL ${version}, and the one that comes with this service is ${binaries.major}. Export it with the version of the service that made it (npm run data:export), move the folder away, and import it with this one (npm run data:import); or serve it with a PostgreSQL ${version} of your own and set DATABASE_URL.`,
    );
  }
  // PostgreSQL refuses a folder that others can read, as a restored copy may be.
  await chmod(folder, 0o700);
}

/** What a start that was killed in the middle left behind. */
async function removeOldDrafts(folder: string): Promise<void> {
  const parent = dirname(folder);
  const prefix = `${basename(folder)}.new-`;
  for (const name of await readdir(parent)) {
    if (!name.startsWith(prefix)) continue;
    const path = join(parent, name);
    if ((await ageMs(path)) > draftLimitMs) await rm(path, { recursive: true, force: true });
  }
}

/** 0 for a draft that another start has finished or removed meanwhile. */
async function ageMs(draft: string): Promise<number> {
  try {
    return Date.now() - (await stat(draft)).mtimeMs;
  } catch (error) {
    if (hasErrorCode(error, 'ENOENT')) return 0;
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if (hasErrorCode(error, 'ENOENT')) return false;
    throw error;
  }
}
