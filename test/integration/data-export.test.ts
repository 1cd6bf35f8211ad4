import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { createGunzip, gzipSync } from 'node:zlib';
import { sql } from 'kysely';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import type { Database } from '../../src/database/database.ts';
import { labelPrefix } from '../../src/instances/label.ts';
import { exportData, importData } from '../../src/database/transfer.ts';
import { bareEnvironment } from '../support/child.ts';
import { createTestDatabase, openDatabase, type TestDatabase } from '../support/database.ts';
import { newDataFolder, startEmbedded, usedDataFolder } from '../support/embedded.ts';

const log = pino({ level: 'silent' });
const move = { kind: 'move', label: null, log } as const;

/** A filled one, for the tests that only read. */
let original: TestDatabase;

beforeAll(async () => {
  original = await createTestDatabase();
  await fill(original.database);
});
afterAll(() => original.stop());

async function newDatabase(): Promise<{ database: Database; url: string }> {
  const made = await createTestDatabase();
  onTestFinished(made.stop);
  return made;
}

function run(command: string, env: Record<string, string>, ...words: string[]) {
  return promisify(execFile)(process.execPath, [`scripts/${command}.ts`, ...words], {
    env: { ...process.env, ...bareEnvironment(), ...env },
  });
}

/** One row in every kind of table: values that JSON, CSV and time zones are known to spoil. */
async function fill({ db }: Database): Promise<void> {
  const instanceId = randomUUID();
  const jobId = randomUUID();
  const asset = 'a'.repeat(64);
  await sql`insert into service_values (name, value) values ('odd', ${'a\tb\\n"c",\n\r(d) – ü 🎬'})`.execute(
    db,
  );
  await sql`insert into assets (id, size_bytes, content_type, stored_as, uploaded)
    values (${asset}, 8000000000123, 'image/png', ${asset}, true)`.execute(db);
  await sql`insert into loose_files (key, removing, due_at) values (${asset}, true, now())`.execute(db);
  await sql`insert into instances (id, provider, status, requirements, vram_gb, created_at)
    values (${instanceId}, 'static', 'ready', '{"a": [null, 1e3]}', 0.1, '2026-02-03 04:05:06.789012+00')`.execute(
    db,
  );
  await sql`insert into jobs (id, status, workflow, instance_id, wait_limit_ms, time_limit_ms, progress)
    values (${jobId}, 'running', ${JSON.stringify({ text: 'x'.repeat(3_000_000) })}, ${instanceId}, 1, 1, 'null')`.execute(
    db,
  );
  await sql`insert into slots (instance_id, slot, job_id) values (${instanceId}, 0, ${jobId})`.execute(db);
  await sql`insert into job_events (job_id, type, data)
    select ${jobId}, 'progress', jsonb_build_object('n', n) from generate_series(1, 3000) n`.execute(db);
  await sql`delete from job_events where id > 2990`.execute(db);
}

/** Every row of every table as PostgreSQL prints it, save those that a crash may empty. */
async function contents({ db }: Database): Promise<Record<string, string[]>> {
  const { rows: tables } = await sql<{ name: string }>`select relname as name from pg_class
    where relnamespace = 'public'::regnamespace and relkind = 'r' and relpersistence = 'p'
      and relname not like 'kysely%' order by 1`.execute(db);
  const found: Record<string, string[]> = {};
  for (const { name } of tables) {
    const { rows } = await sql<{
      line: string;
    }>`select t::text as line from ${sql.table(name)} t order by 1`.execute(db);
    found[name] = rows.map(({ line }) => line);
  }
  return found;
}

async function exported(url: string): Promise<string> {
  const output = new PassThrough();
  const [all] = await Promise.all([
    text(output),
    exportData({ connectionString: url }, output).finally(() => output.end()),
  ]);
  return all;
}

test('an import holds what was exported, value for value, and goes on counting where it stopped', async () => {
  const target = await newDatabase();
  const data = await exported(original.url);
  const counts = await importData({ connectionString: target.url }, Readable.from([data]), move);
  const before = await contents(original.database);
  expect(await contents(target.database)).toEqual(before);
  expect(counts).toEqual(
    Object.fromEntries(Object.entries(before).map(([name, rows]) => [name, rows.length])),
  );
  const { rows } = await sql`insert into job_events (job_id, type, data)
    select id, 'next', '{}' from jobs returning id`.execute(target.database.db);
  expect(rows).toEqual([{ id: 3001 }]);
});

test('a database with a style of its own for times and numbers is used, exported and imported like any other', async () => {
  const [made, target] = [await newDatabase(), await newDatabase()];
  const name = new URL(made.url).pathname.slice(1);
  for (const style of [`datestyle to 'SQL, DMY'`, 'extra_float_digits to -5']) {
    await sql.raw(`alter database ${name} set ${style}`).execute(made.database.db);
  }
  const source = await openDatabase(made.url);
  onTestFinished(() => source.stop());
  await fill(source);
  await source.db.updateTable('instances').set({ vram_gb: 23.540576934814453 }).execute();
  const data = await exported(made.url);
  await importData({ connectionString: target.url }, Readable.from([data]), move);
  for (const { db } of [source, target.database]) {
    expect(await db.selectFrom('instances').select(['created_at', 'vram_gb']).execute()).toEqual([
      { created_at: new Date('2026-02-03T04:05:06.789Z'), vram_gb: 23.540576934814453 },
    ]);
  }
});

test('a database whose tables are in a schema of their own is exported and imported like any other', async () => {
  const [made, target] = [await newDatabase(), await newDatabase()];
  for (const { database, url } of [made, target]) {
    const name = new URL(url).pathname.slice(1);
    await sql`alter schema public rename to fleet`.execute(database.db);
    await sql`create schema public`.execute(database.db);
    await sql.raw(`alter database ${name} set search_path to fleet, public`).execute(database.db);
  }
  const source = await openDatabase(made.url);
  onTestFinished(() => source.stop());
  await fill(source);
  const data = await exported(made.url);
  const counts = await importData({ connectionString: target.url }, Readable.from([data]), move);
  expect(counts).toMatchObject({ jobs: 1, job_events: 2990 });
  expect(await exported(target.url)).toContain('"job_events_id_seq":3000');
});

test('an export shows one moment, whatever is written meanwhile', async () => {
  const source = await newDatabase();
  await fill(source.database);
  const output = new PassThrough({ highWaterMark: 1 });
  const exporting = exportData({ connectionString: source.url }, output).finally(() => output.end());
  // The header is out, so the transaction has begun; the rest waits for a reader.
  await new Promise((resolve) => output.once('readable', resolve));
  await sql`delete from job_events`.execute(source.database.db);
  const [all, counts] = await Promise.all([text(output), exporting]);
  expect(counts['job_events']).toBe(2990);
  expect(all.trimEnd().split('\n').at(-1)).toContain('"job_events":2990');
});

test('an export that cannot be written ends, and says why', async () => {
  const full = new Error('no space left');
  const output = new Writable({ write: (_chunk, _encoding, done) => void setImmediate(done, full) });
  output.on('error', () => undefined);
  await expect(exportData({ connectionString: original.url }, output)).rejects.toThrow('no space left');
});

test('an import refuses a database that is in use, and what is not a whole export, and leaves nothing behind', async () => {
  const target = await newDatabase();
  const data = await exported(original.url);
  const into = (url: string, lines: string): Promise<unknown> =>
    importData({ connectionString: url }, Readable.from([lines]), move);

  await expect(into(original.url, data)).rejects.toThrow('The database is not empty');
  const empty = await contents(target.database);
  await expect(into(target.url, data.slice(0, data.length / 2))).rejects.toThrow('cut off');
  const packed = Readable.from([gzipSync(data).subarray(0, -20)]).pipe(createGunzip());
  await expect(importData({ connectionString: target.url }, packed, move)).rejects.toThrow('it is cut off');
  await expect(into(target.url, 'something else\n')).rejects.toThrow('not JSON');
  await expect(into(target.url, '{"format":"other"}\n')).rejects.toThrow('not an export');
  await expect(into(target.url, data.replace(/"schema":"\d+/, '"schema":"999'))).rejects.toThrow(
    'Use a newer one',
  );
  const lines = data.split('\n');
  const withoutOne = lines.filter((line) => !line.startsWith('{"table":"slots"')).join('\n');
  await expect(into(target.url, withoutOne)).rejects.toThrow('rows of slots are missing');
  expect(await contents(target.database)).toEqual(empty);
});

test('the commands move the database of a running service to another server', async () => {
  const folder = await usedDataFolder();
  const file = join(folder, 'export.gz');
  const source = await startEmbedded(folder);
  await fill(source);
  const target = await newDatabase();
  const exporting = await run('data-export', { DATABASE_URL: '', DATA_DIR: folder }, file);
  expect(exporting.stdout).toContain('2990 job_events');
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  await source.check();
  const unsure = await run('data-import', { DATABASE_URL: target.url }, file).catch(
    (error: unknown) => error,
  );
  expect(unsure).toMatchObject({ code: 2, stderr: expect.stringContaining('--move | --copy FILE') });
  const importing = await run('data-import', { DATABASE_URL: target.url }, '--move', file);
  expect(importing.stdout).toContain('2990 job_events');
  expect(importing.stdout).toContain('Do not start the old service again');
  expect(await contents(target.database)).toEqual(await contents(source));
});

test('an export that fails leaves nothing that holds keys', async () => {
  const folder = await newDataFolder();
  const place = join(folder, 'taken');
  await mkdir(place);
  const failed = await run('data-export', { DATABASE_URL: original.url }, place).catch(
    (error: unknown) => error,
  );
  expect(failed).toMatchObject({ code: 1, stderr: expect.stringContaining('EISDIR') });
  expect(await readdir(folder)).toEqual(['taken']);
});

test('a copy leaves to its original the machines, the unfinished jobs and the name', async () => {
  const [source, target] = [await newDatabase(), await newDatabase()];
  await fill(source.database);
  const { db } = source.database;
  const [instanceId, doneId] = [randomUUID(), randomUUID()];
  await sql`insert into instances (id, provider, status, phase) values (${instanceId}, 'vast', 'provisioning', 'loading')`.execute(
    db,
  );
  await sql`insert into rentals (id, instance_id, number, status, label, offer, machine_id, price_per_hour_usd, provider_instance_id, secret)
    values (${randomUUID()}, ${instanceId}, 1, 'active', ${`cfy.shop.${instanceId}.1`}, '{}', '7', 0.5, '4711', 's')`.execute(
    db,
  );
  await sql`insert into jobs (id, status, workflow, wait_limit_ms, time_limit_ms, finished_at)
    values (${doneId}, 'succeeded', '{}', 1, 1, now())`.execute(db);
  await sql`insert into service_values (name, value) values ('deployment', 'shop')`.execute(db);
  const data = await exported(source.url);
  const copy = (label: string | null): Promise<unknown> =>
    importData({ connectionString: target.url }, Readable.from([data]), { kind: 'copy', label, log });

  await expect(copy('cfy.shop')).rejects.toThrow('Give the copy another one');
  await copy('cfy.shop2');

  const read = async (query: string) =>
    (await sql.raw<Record<string, unknown>>(query).execute(target.database.db)).rows;
  expect(await read('select status, termination_reason from instances')).toEqual([
    { status: 'terminated', termination_reason: 'left_behind' },
    { status: 'terminated', termination_reason: 'left_behind' },
  ]);
  expect(await read('select status, end_reason from rentals')).toEqual([
    { status: 'gone', end_reason: 'left_behind' },
  ]);
  expect(await read('select status from jobs order by status')).toEqual([
    { status: 'canceled' },
    { status: 'succeeded' },
  ]);
  expect(await read('select * from jobs where finished_at is null')).toEqual([]);
  expect(await read('select * from slots')).toEqual([]);
  expect(await read(`select data from job_events where type = 'status'`)).toEqual([
    { data: { status: 'canceled', waitingFor: null, instanceId: null, attempt: 0, error: null } },
  ]);
  expect(await read('select name from service_values')).toEqual([{ name: 'odd' }]);
  expect(await labelPrefix(target.database.db, { LABEL_PREFIX: 'cfy', DEPLOYMENT: undefined })).not.toBe(
    'cfy.shop',
  );
  // Nothing of it has changed the original.
  expect(await exported(source.url)).toContain('4711');
});
