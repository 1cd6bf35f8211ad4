import { spawn } from 'node:child_process';
import { chmod, mkdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { sql } from 'kysely';
import { expect, onTestFinished, test } from 'vitest';
import type { Database } from '../../src/database/database.ts';
import { chooseAccount } from '../../src/database/embedded-binaries.ts';
import { serverProcess } from '../../src/database/embedded-process.ts';
import type { Child } from '../support/child.ts';
import { collector } from '../support/collector.ts';
import { newDataFolder, startEmbedded, startService, usedDataFolder } from '../support/embedded.ts';
import { fatal } from '../support/postgres-wire.ts';

const asRoot = process.getuid?.() === 0;

async function serverPid(folder: string): Promise<number> {
  return Number.parseInt(await readFile(join(folder, 'postgres', 'postmaster.pid'), 'utf8'), 10);
}

async function killServer(folder: string): Promise<void> {
  const pid = await serverPid(folder);
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  process.kill(pid, 'SIGKILL');
  for (const child of children.split(' ').filter(Boolean)) {
    try {
      process.kill(Number(child), 'SIGKILL');
    } catch {
      // A session that has ended by itself.
    }
  }
}

async function values(database: Database): Promise<string[]> {
  const rows = await database.db.selectFrom('service_values').select('name').execute();
  return rows.map(({ name }) => name);
}

function committed(service: Child): string[] {
  return service.lines.filter((line) => line.startsWith('committed ')).map((line) => line.slice(10));
}

test('a new folder becomes a private, durable database of one of two services that start at once, stops with it and keeps its data', async () => {
  const folder = await newDataFolder();
  // A draft that is listed and is not there, as when the other start has just given it its name.
  await symlink(join(folder, 'nowhere'), join(folder, 'postgres.new-other'));
  const results = await Promise.allSettled([startEmbedded(folder), startEmbedded(folder)]);
  expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  const refused = results.find((result) => result.status === 'rejected');
  expect(String(refused?.reason)).toContain('Another service');

  const first = results.find((result) => result.status === 'fulfilled')?.value;
  if (first === undefined) throw new Error('None of the two has it.');
  await first.db.insertInto('service_values').values({ name: 'kept', value: 'yes' }).execute();
  const { rows } =
    await sql`select current_setting('fsync') as fsync, current_setting('listen_addresses') as addresses,
    8000000000::bigint as big`.execute(first.db);
  expect(rows).toEqual([{ fsync: 'on', addresses: '', big: 8_000_000_000 }]);
  expect((await stat(join(folder, 'postgres'))).mode & 0o777).toBe(0o700);
  expect(await serverProcess(join(folder, 'postgres'))).toBe(await serverPid(folder));
  await first.stop();
  expect(await serverProcess(join(folder, 'postgres'))).toBe(null);

  const begun = performance.now();
  const second = await startEmbedded(folder);
  expect(performance.now() - begun).toBeLessThan(3_000);
  expect(await values(second)).toEqual(['kept']);
});

test('no committed write is lost when the server of a killed service is adopted, nor when both are killed and its number is another process', async () => {
  const folder = await usedDataFolder();
  const first = startService('write', folder);
  await first.says(/^committed \d+-99$/);
  const pid = await serverPid(folder);
  await first.kill('SIGKILL');

  const second = startService('write', folder);
  await second.says(/^committed \d+-99$/);
  expect(await serverPid(folder)).toBe(pid);
  // In this order: a service that lives would start another.
  await second.kill('SIGKILL');
  await killServer(folder);
  // The same user's, as it may be in a container where numbers are small.
  const other = spawn('sleep', ['60'], { ...(await chooseAccount(join(folder, 'postgres'))) });
  onTestFinished(() => void other.kill());
  for (const name of ['postmaster.pid', '.s.PGSQL.5432.lock']) {
    const path = join(folder, 'postgres', name);
    await writeFile(path, (await readFile(path, 'utf8')).replace(/^\d+/, String(other.pid)));
  }

  const database = await startEmbedded(folder);
  expect(await values(database)).toEqual(expect.arrayContaining([...committed(first), ...committed(second)]));
});

test('a lock file that a loss of power has left empty keeps no server from starting', async () => {
  const folder = await usedDataFolder();
  for (const name of ['postmaster.pid', '.s.PGSQL.5432.lock'])
    await writeFile(join(folder, 'postgres', name), '');
  const database = await startEmbedded(folder);
  expect(await values(database)).toEqual([]);
});

test('a second service on the folder is refused and told who has it, and gets it while that one stops', async () => {
  const folder = await usedDataFolder();
  for (let round = 0; round < 3; round++) {
    const old = await startEmbedded(folder);
    await expect(startEmbedded(folder)).rejects.toThrow(
      `Another service (comfyfleet ${process.pid}) uses the data folder`,
    );
    await old.check();
    const stopped = old.stop();
    const next = await startEmbedded(folder);
    await stopped;
    await expect.poll(() => next.check().then(() => 'up', String)).toBe('up');
    await next.stop();
  }
});

test('a server that starts or stops is waited for, although its process cannot be seen', async () => {
  const folder = await usedDataFolder();
  const { add, reach } = collector<Socket>();
  const other = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => socket.end(fatal('57P03')));
    add(socket);
  });
  other.listen(join(folder, 'postgres', '.s.PGSQL.5432'));
  const starting = startEmbedded(folder);
  await Promise.race([reach(20), starting]);
  const goneAt = new Date();
  other.close();
  const { db } = await starting;
  const { rows } = await sql<{ startedAt: Date }>`select pg_postmaster_start_time() as "startedAt"`.execute(
    db,
  );
  expect(rows[0]?.startedAt.getTime()).toBeGreaterThanOrEqual(goneAt.getTime());
});

test('a server that dies under its service is started again, and listeners and queues go on', async () => {
  const folder = await usedDataFolder();
  const database = await startEmbedded(folder);
  const worked = Promise.withResolvers<number>();
  await database.queues.start();
  await database.queues.work('instance', 1, async ({ wake }) => worked.resolve(wake));
  await killServer(folder);

  await expect.poll(() => database.check().then(() => 'up', String), { timeout: 10_000 }).toBe('up');
  const listening = Promise.withResolvers<string>();
  database.notifications.subscribe('test', (payload) => payload !== '' && listening.resolve(payload));
  await expect
    .poll(() => database.notifications.publish(database.db, 'test', 'again').then(() => 'sent', String))
    .toBe('sent');
  const publisher = setInterval(
    () => void database.notifications.publish(database.db, 'test', 'again').catch(() => undefined),
    50,
  );
  expect(await listening.promise).toBe('again');
  clearInterval(publisher);
  await database.queues.send(database.db, 'instance', { instanceId: 'a', wake: 7 });
  expect(await worked.promise).toBe(7);
});

test('a data folder with a long path gets its socket elsewhere', async () => {
  const folder = await usedDataFolder('long-'.repeat(30));
  const database = await startEmbedded(folder);
  await database.check();
  const { rows } = await sql<{
    folder: string;
  }>`select current_setting('unix_socket_directories') as folder`.execute(database.db);
  const socketFolder = rows[0]?.folder ?? '';
  onTestFinished(() => rm(socketFolder, { recursive: true }));
  expect(socketFolder.length).toBeLessThan(80);
  expect((await stat(socketFolder)).mode & 0o777).toBe(0o700);
});

test('a folder of another major version is refused with a way out', async () => {
  const folder = await newDataFolder();
  await mkdir(join(folder, 'postgres'), { mode: 0o700 });
  await writeFile(join(folder, 'postgres', 'PG_VERSION'), '17\n');
  await expect(startEmbedded(folder)).rejects.toThrow(/made by PostgreSQL 17.*data:export.*DATABASE_URL/);
});

test('a folder that cannot be made is named with its setting', async () => {
  const file = join(await newDataFolder(), 'file');
  await writeFile(file, '');
  await expect(startEmbedded(join(file, 'data'))).rejects.toThrow(/^DATA_DIR: .*file\/data cannot be made/);
});

test.runIf(asRoot)('a folder that the unprivileged server may not pass is named', async () => {
  const folder = await newDataFolder('closed/data');
  await chmod(join(folder, '..'), 0o700);
  await expect(startEmbedded(folder)).rejects.toThrow(`chmod o+x ${join(folder, '..')}`);
});

test('a server that does not start says why, whatever its log holds from before', async () => {
  const folder = await usedDataFolder();
  await writeFile(join(folder, 'postgres', 'server.log'), 'ü'.repeat(1000));
  await writeFile(join(folder, 'postgres', 'postgresql.conf'), 'no_such_setting = 1\n');
  await expect(startEmbedded(folder)).rejects.toThrow('no_such_setting');
});

test('the log of the server stays short while the service runs', async () => {
  const folder = await usedDataFolder();
  const database = await startEmbedded(folder);
  const path = join(folder, 'postgres', 'server.log');
  const write = (text: string) => sql.raw(`do $$ begin raise log '%', ${text}; end $$`).execute(database.db);
  await write(`repeat('x', 6000000)`);
  await database.tidy();
  await write(`'and so on'`);
  expect(await readFile(path, 'utf8')).toMatch(/^20.* and so on\n[^x]*$/);
  expect((await stat(`${path}.1`)).size).toBeGreaterThan(6_000_000);
});
