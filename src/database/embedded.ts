// Supervises a PostgreSQL of the service's own: data in DATA_DIR, a private Unix socket, one service at a time.
import { createHash } from 'node:crypto';
import { access, mkdir, realpath } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Client, DatabaseError } from 'pg';
import type { Logger } from 'pino';
import { backoffMs } from '../support/backoff.ts';
import { sleep } from '../support/sleep.ts';
import { connectionSettings, type ServerAddress } from './connection.ts';
import { assertReachable, chooseAccount, findBinaries } from './embedded-binaries.ts';
import { assertVersion, createCluster } from './embedded-cluster.ts';
import {
  prepareSocketFolder,
  runServer,
  serverProcess,
  shortenLog,
  type Presence,
  type Server,
} from './embedded-process.ts';

export interface EmbeddedServer {
  address: ServerAddress;
  /** Keeps its log short. */
  tidy(): Promise<void>;
  /** Stops the server with a checkpoint; after 15 s without one, and the next start recovers. */
  stop(): Promise<void>;
}

/** A socket's path must fit into about 100 bytes (108 on Linux, 104 on macOS, the file's own name included). */
const longestSocketFolder = 80;
/** Two numbers that stand for "the one service of this folder". */
const serviceLock = [0x636f6d66, 1];
const lockLimitMs = 1_000;
const mostAttempts = 5;

/** Where the server of a data folder listens, whether it runs or not. */
export async function embeddedAddress(dataDir: string): Promise<ServerAddress> {
  const folder = await folderOf(dataDir);
  return { host: socketFolder(folder), port: 5432, user: 'comfyfleet', database: 'postgres' };
}

/**
 * Starts the server of a data folder, or adopts the one that a killed service left running, and takes the folder for
 * this service alone. A server that dies is started again. Rejects, saying what to do, when another service has the
 * folder, another PostgreSQL made it, or none runs on this platform.
 */
export async function startEmbeddedServer(dataDir: string, log: Logger): Promise<EmbeddedServer> {
  const server = await prepareServer(dataDir, log);
  return holdFolder(server, await embeddedAddress(dataDir));
}

/** The server of a data folder beside the service that has it, or else started for the caller. Rejects where there is no database. */
export async function borrowEmbeddedServer(
  dataDir: string,
  log: Logger,
): Promise<Pick<EmbeddedServer, 'address' | 'stop'>> {
  await access(join(resolve(dataDir), 'postgres', 'PG_VERSION')).catch((error: unknown) => {
    throw new Error(`There is no database in the folder ${dataDir}.`, { cause: error });
  });
  const address = await embeddedAddress(dataDir);
  if ((await presenceAt(address)) === 'up') return { address, stop: async () => undefined };
  return startEmbeddedServer(dataDir, log);
}

/**
 * Starts the server of a data folder, or finds it running, without taking the folder: whoever starts it may share it.
 * `settings` are PostgreSQL's, on top of the usual ones; tests give up durability for speed.
 */
export async function runEmbeddedServer(
  dataDir: string,
  log: Logger,
  settings: Record<string, string> = {},
): Promise<void> {
  await runServer(await prepareServer(dataDir, log, settings));
}

/** Stops the server of a data folder, if one runs, whoever started it. */
export async function stopEmbeddedServer(dataDir: string): Promise<void> {
  await stopServer(await folderOf(dataDir));
}

async function prepareServer(
  dataDir: string,
  log: Logger,
  settings: Record<string, string> = {},
): Promise<Server> {
  await makeFolder(dataDir);
  const folder = await folderOf(dataDir);
  const address = await embeddedAddress(dataDir);
  const account = await chooseAccount(folder);
  if (account !== null) await assertReachable(folder, account);
  const server: Server = {
    folder,
    socketFolder: socketFolder(folder),
    account,
    binaries: await findBinaries(account),
    presence: () => presenceAt(address),
    settings,
    log,
  };
  await createCluster(server);
  await assertVersion(server);
  await prepareSocketFolder(server);
  return server;
}

async function makeFolder(dataDir: string): Promise<void> {
  try {
    await mkdir(dataDir, { recursive: true });
  } catch (cause) {
    const path = resolve(dataDir);
    throw new Error(`DATA_DIR: the folder ${path} cannot be made. Name another, or make it yourself.`, {
      cause,
    });
  }
}

/** Keeps the folder's lock, and the server alive, on one connection: both end with the process. */
async function holdFolder(server: Server, address: ServerAddress): Promise<EmbeddedServer> {
  const stopping = new AbortController();
  let holder = await takeServer(server, address);
  let recovering = Promise.resolve();
  watch(holder);

  function watch(client: Client): void {
    client.on('error', () => undefined);
    client.once('end', () => {
      if (!stopping.signal.aborted) recovering = recover();
    });
  }

  async function recover(): Promise<void> {
    for (let attempt = 1; !stopping.signal.aborted; attempt++) {
      try {
        server.log.warn({ attempt }, 'The database server is gone; starting it again');
        holder = await takeServer(server, address);
        return watch(holder);
      } catch (error) {
        server.log.error({ err: error, attempt }, 'The database server could not be started again');
        await sleep(backoffMs(attempt, { baseMs: 200, capMs: 5_000 }), stopping.signal).catch(
          () => undefined,
        );
      }
    }
  }

  return {
    address,
    tidy: () => shortenLog(server),
    stop: async () => {
      stopping.abort();
      await recovering;
      // The lock is held to the end, so that a next service waits for a stopped server rather than adopts a stopping one.
      await stopServer(server.folder);
      await holder.end().catch(() => undefined);
    },
  };
}

/** Has the server run and takes the folder's lock. A service that stops may stop the server meanwhile: then once more. */
async function takeServer(server: Server, address: ServerAddress): Promise<Client> {
  for (let attempt = 1; ; attempt++) {
    await runServer(server);
    const client = new Client(connectionSettings(address));
    client.on('error', () => undefined);
    let other = '';
    try {
      await client.connect();
      if (await takeLock(client)) return client;
      other = await lockHolder(client);
    } catch (error) {
      if (attempt === mostAttempts) throw error;
    }
    await client.end().catch(() => undefined);
    if (other === '') continue;
    throw new Error(
      `Another service (${other}) uses the data folder ${server.folder}. Stop it, give this one another DATA_DIR, or let both share a PostgreSQL with DATABASE_URL.`,
    );
  }
}

/** The lock of a killed service is gone within milliseconds, with its connection; a living one's stays. */
async function takeLock(client: Client): Promise<boolean> {
  const deadline = Date.now() + lockLimitMs;
  for (;;) {
    const { rows } = await client.query<{ taken: boolean }>(
      'select pg_try_advisory_lock($1, $2) as taken',
      serviceLock,
    );
    if (rows[0]?.taken === true) return true;
    if (Date.now() > deadline) return false;
    await delay(50);
  }
}

async function lockHolder(client: Client): Promise<string> {
  const { rows } = await client.query<{ name: string }>(
    `select application_name as name from pg_stat_activity join pg_locks using (pid)
     where locktype = 'advisory' and classid = $1 and objid = $2 and granted`,
    serviceLock,
  );
  return rows[0]?.name ?? 'unknown';
}

async function stopServer(folder: string): Promise<void> {
  for (const [signal, limitMs] of [
    ['SIGINT', 15_000],
    ['SIGQUIT', 5_000],
  ] as const) {
    const pid = await serverProcess(folder);
    if (pid === null) return;
    process.kill(pid, signal);
    const deadline = Date.now() + limitMs;
    while (Date.now() < deadline) {
      if ((await serverProcess(folder)) === null) return;
      await delay(10);
    }
  }
}

async function presenceAt(address: ServerAddress): Promise<Presence> {
  const client = new Client({ ...connectionSettings(address), connectionTimeoutMillis: 5_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.end();
    return 'up';
  } catch (error) {
    // Whoever refuses in PostgreSQL's own words lives.
    return error instanceof DatabaseError ? 'refusing' : 'absent';
  }
}

/** The real path, which is what the server's process shows as its working folder. */
async function folderOf(dataDir: string): Promise<string> {
  return join(await realpath(resolve(dataDir)), 'postgres');
}

/** The data folder itself, unless its path is too long for a socket. */
function socketFolder(folder: string): string {
  if (Buffer.byteLength(folder) <= longestSocketFolder) return folder;
  const name = createHash('sha256').update(folder).digest('hex').slice(0, 16);
  return join(tmpdir(), `comfyfleet-${name}`);
}
