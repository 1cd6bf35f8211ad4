// The process of the embedded server: started, found again, and told apart from what only looks like it.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chown,
  copyFile,
  lstat,
  mkdir,
  open,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Logger } from 'pino';
import { hasErrorCode } from '../errors.ts';
import { spawnOptions, type Account, type Binaries } from './embedded-binaries.ts';

/** `refusing`: a PostgreSQL that starts, recovers or stops. */
export type Presence = 'up' | 'refusing' | 'absent';

export interface Server {
  folder: string;
  socketFolder: string;
  account: Account | null;
  binaries: Binaries;
  /** What there is at its socket now. */
  presence: () => Promise<Presence>;
  /** PostgreSQL's settings, on top of the usual ones. */
  settings: Record<string, string>;
  log: Logger;
}

/** Enough for the largest DATABASE_POOL_SIZE, so that an adopted server always fits. */
const maxConnections = 240;
/** After a crash the server reads its log before it accepts connections. */
const startLimitMs = 180_000;
const logLimitBytes = 5_000_000;
/** A server that starts fills its lock file at once. One that is empty for longer is what a crash, or a loss of power, has left. */
const emptyLimitMs = 2_000;

/** Resolves when the server accepts connections: the one that runs already, or else a new one. */
export async function runServer(server: Server): Promise<void> {
  const deadline = Date.now() + startLimitMs;
  for (;;) {
    const presence = await server.presence();
    if (presence === 'up') return;
    if (Date.now() > deadline) {
      throw new Error(
        `The database server did not become ready in ${startLimitMs / 1000} s. See ${logPath(server)}.`,
      );
    }
    // One that starts or stops is waited for, also where its process is in another container and cannot be seen.
    const isFree = presence === 'absent' && (await serverProcess(server.folder)) === null;
    if (isFree && (await launch(server, deadline))) return;
    await delay(20);
  }
}

/** The process of the server of a data folder, or null if there is none. The number in its pid file alone proves nothing: after a crash it may be anybody's. */
export async function serverProcess(folder: string): Promise<number | null> {
  const text = await readFile(pidPath(folder), 'utf8').catch(() => '');
  const pid = Number.parseInt(text, 10);
  if (!(pid > 1)) return null;
  return (await servesFolder(pid, folder)) ? pid : null;
}

/**
 * Puts a long log of the server aside, also while it runs: it has the file open to append, and goes on at its new end. What
 * it writes at this very moment is lost. On a full disk, what cannot be kept goes: the log may be what fills it.
 */
export async function shortenLog(server: Pick<Server, 'folder'>): Promise<void> {
  const path = logPath(server);
  const found = await stat(path).catch(() => null);
  if (found === null || found.size <= logLimitBytes) return;
  await copyFile(path, `${path}.1`).catch(() => rm(`${path}.1`, { force: true }));
  await truncate(path);
}

/** Makes the folder of the socket where it is not the data folder; rejects if it is not private. */
export async function prepareSocketFolder({ folder, socketFolder, account }: Server): Promise<void> {
  if (socketFolder === folder) return;
  await mkdir(socketFolder, { mode: 0o700 }).then(
    async () => account !== null && (await chown(socketFolder, account.uid, account.gid)),
    (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    },
  );
  const found = await lstat(socketFolder);
  const owner = account?.uid ?? process.getuid?.();
  if (!found.isDirectory() || found.uid !== owner || (found.mode & 0o077) !== 0) {
    throw new Error(
      `The folder ${socketFolder}, meant for the database's socket, is not private to user ${owner}. Remove it, or choose a shorter DATA_DIR.`,
    );
  }
}

/** Resolves true when the new server accepts connections, false when it ended because an old one is still in the way. */
async function launch(server: Server, deadline: number): Promise<boolean> {
  await clearStaleLocks(server);
  const output = await openLog(server);
  const { size: logStart } = await output.stat();
  const child = spawn(server.binaries.postgres, commandLine(server), {
    ...spawnOptions(server.account),
    cwd: server.folder,
    stdio: ['ignore', output.fd, output.fd],
    // A Ctrl-C in the terminal is for the service, which stops the server when it is done with it.
    detached: true,
  });
  child.unref();
  const ended = once(child, 'exit');
  ended.catch(() => undefined);
  await output.close();
  while (child.exitCode === null && child.signalCode === null) {
    if ((await server.presence()) === 'up') return true;
    if (Date.now() > deadline) return false;
    await delay(10);
  }
  await ended;
  const said = (await readFile(logPath(server))).subarray(logStart).toString('utf8');
  // Another start was faster, or sessions of a killed server have not ended yet.
  if (/lock file .* (already exists|is empty)|pre-existing shared memory/.test(said)) {
    await delay(100);
    return false;
  }
  throw new Error(
    `The database server did not start. It says:\n${said.trim().split('\n').slice(-8).join('\n')}`,
  );
}

function commandLine({ folder, socketFolder, settings }: Server): string[] {
  return Object.entries({
    listen_addresses: '',
    unix_socket_directories: socketFolder,
    unix_socket_permissions: '0700',
    max_connections: String(maxConnections),
    // Sessions of a killed service end even in the middle of a long query.
    client_connection_check_interval: '1s',
    timezone: 'UTC',
    log_timezone: 'UTC',
    log_checkpoints: 'off',
    ...settings,
  })
    .flatMap(([name, value]) => ['-c', `${name}=${value}`])
    .concat('-D', folder);
}

/**
 * PostgreSQL takes the pid file of a killed server for a living one's when its number belongs to another process by
 * now. Only the number is replaced, by that of the new server's parent, which PostgreSQL knows not to be a server: the
 * rest of the file tells it of sessions of the old server that still live.
 */
async function clearStaleLocks({ folder, socketFolder }: Server): Promise<void> {
  const path = pidPath(folder);
  const socketLock = join(socketFolder, '.s.PGSQL.5432.lock');
  await Promise.all([path, socketLock].map(removeRemnant));
  const found = await mistakenOwner(path, folder);
  if (found !== null) await writeFile(path, found.replace(/^\d+/, String(process.pid)));
  if ((await mistakenOwner(socketLock, folder)) !== null) await rm(socketLock, { force: true });
}

/** PostgreSQL starts beside no empty lock file, since it may be that of a server that starts at this moment. */
async function removeRemnant(path: string): Promise<void> {
  const found = await stat(path).catch(() => null);
  if (found?.size !== 0) return;
  await delay(emptyLimitMs);
  const later = await stat(path).catch(() => null);
  if (later?.size === 0 && later.ino === found.ino && later.ctimeMs === found.ctimeMs) {
    await rm(path, { force: true });
  }
}

/** The text of a lock file whose number belongs to a living process that is not the folder's server. */
async function mistakenOwner(path: string, folder: string): Promise<string | null> {
  const text = await readFile(path, 'utf8').catch(() => '');
  const pid = Number.parseInt(text, 10);
  if (!(pid > 0) || !lives(pid) || (await servesFolder(pid, folder))) return null;
  return text;
}

function lives(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // It lives, and belongs to somebody else.
    return hasErrorCode(error, 'EPERM');
  }
}

/** Whether a process is a PostgreSQL that was started for `folder`. Linux tells in /proc, other systems through ps. */
async function servesFolder(pid: number, folder: string): Promise<boolean> {
  if (process.platform === 'linux') {
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    return basename(words[0] ?? '') === 'postgres' && words.includes(folder);
  }
  const { stdout } = await promisify(execFile)('ps', ['-p', String(pid), '-o', 'command=']).catch(() => ({
    stdout: '',
  }));
  return /^\S*postgres /.test(stdout) && stdout.includes(` ${folder}`);
}

/** Opens the server's log to append. */
async function openLog(server: Server): Promise<Awaited<ReturnType<typeof open>>> {
  await shortenLog(server);
  return open(logPath(server), 'a', 0o600);
}

function logPath({ folder }: Pick<Server, 'folder'>): string {
  return join(folder, 'server.log');
}

function pidPath(folder: string): string {
  return join(folder, 'postmaster.pid');
}
