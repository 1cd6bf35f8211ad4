import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { createPool } from '../../src/database/connection.ts';
import { migrate } from '../../src/database/migrate.ts';
import { startNotifications } from '../../src/database/notifications.ts';
import { reach } from '../../src/database/reach.ts';
import { bareEnvironment } from '../support/child.ts';
import { createTestDatabase, openDatabase } from '../support/database.ts';
import { fatal, welcome } from '../support/postgres-wire.ts';

const log = pino({ level: 'silent' });

/** Why a service cannot use the database of a URL. */
async function refusalOf(url: string): Promise<string> {
  const failure = await openDatabase(url).then(
    async (database) => {
      await database.stop();
      return null;
    },
    (error: unknown) => error,
  );
  if (!(failure instanceof Error)) throw new Error('The database was accepted.');
  return failure.message;
}

/** The URL of something that answers the first packet of every connection in its own way. */
async function pretendPostgres(answer: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  // It does not hang up because the client has.
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('data', () => answer(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => void server.close(resolve));
  });
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a server on TCP has a port
  const { port } = server.address() as AddressInfo;
  return `postgresql://alice:hunter2@127.0.0.1:${port}/fleet`;
}

describe('a database that cannot be used', () => {
  it('is called out of reach when nothing listens', async () => {
    const url = new URL(await pretendPostgres(() => undefined));
    // Nobody may bind it meanwhile, because the kernel keeps it for a connection of its own.
    url.port = '1';
    expect(await refusalOf(url.href)).toBe(
      'The database cannot be reached (ECONNREFUSED). Check DATABASE_URL.',
    );
  });

  it.each([
    ['28P01', 'The database refuses the user or the password (28P01). Check DATABASE_URL.'],
    ['28000', 'The database refuses the user or the kind of connection (28000). Check DATABASE_URL.'],
    ['3D000', 'There is no such database on the server; create it first (3D000). Check DATABASE_URL.'],
    ['53300', 'The database has no connection left (53300). Check DATABASE_URL.'],
    ['57P03', 'The database is starting or stopping; try again in a moment (57P03). Check DATABASE_URL.'],
    ['XX000', 'The database cannot be reached (XX000). Check DATABASE_URL.'],
  ])('that refuses with %s is quoted in plain words, without the URL', async (code, message) => {
    const url = await pretendPostgres((socket) => socket.end(fatal(code)));
    expect(await refusalOf(url)).toBe(message);
  });

  it('may be something else that hangs up', async () => {
    const url = await pretendPostgres((socket) => socket.end());
    expect(await refusalOf(url)).toBe('The database closed the connection at once. Check DATABASE_URL.');
  });

  it('may let the service in and then answer nothing', async () => {
    const connectionString = await pretendPostgres((socket) => socket.write(welcome()));
    await expect(reach({ connectionString }, 100)).rejects.toThrow(
      'The database did not answer within 0.1 s',
    );
  });

  it('may not exist on a server that does', async () => {
    const { url, stop } = await createTestDatabase();
    onTestFinished(stop);
    const missing = new URL(url);
    missing.pathname = '/no_such_database';
    expect(await refusalOf(missing.href)).toContain('There is no such database on the server');
  });

  it('may not let its user create what the service needs', async () => {
    const { database, url, stop } = await createTestDatabase();
    onTestFinished(stop);
    const { db } = database;
    const user = `user_${randomUUID()}`;
    await sql`drop schema pgboss cascade; drop schema public cascade; create schema public`.execute(db);
    await sql`create role ${sql.id(user)} login password 'x'`.execute(db);
    onTestFinished(async () => {
      await sql`drop owned by ${sql.id(user)} cascade; drop role ${sql.id(user)}`.execute(db);
    });
    const asUser = Object.assign(new URL(url), { username: user, password: 'x' }).href;
    await sql`grant usage on schema public to ${sql.id(user)}`.execute(db);
    expect(await refusalOf(asUser)).toContain('Make it the owner of the database');
    await sql`grant create on schema public to ${sql.id(user)}`.execute(db);
    const opened = await openDatabase(asUser);
    onTestFinished(() => opened.stop());
    await expect(opened.queues.start()).rejects.toThrow('Make it the owner of the database');
  });

  it('is named on standard error with what it said itself', async () => {
    const DATABASE_URL = await pretendPostgres((socket) => socket.end(fatal('3D000')));
    const env = {
      ...bareEnvironment(),
      DATABASE_URL,
      COMFYUI_URLS: 'http://127.0.0.1:1',
      LOG_LEVEL: 'silent',
    };
    const ended = promisify(execFile)(process.execPath, ['src/server.ts'], { env });
    await expect(ended).rejects.toMatchObject({
      stderr: expect.stringMatching(/There is no such database .*\nno, says/) as string,
    });
  });

  it('may be too old', async () => {
    const { database, url, stop } = await createTestDatabase();
    onTestFinished(stop);
    // What a session of this database finds under the name of PostgreSQL's own function.
    await sql`create schema old`.execute(database.db);
    await sql`create function old.current_setting(name text) returns text language sql
      as $$ select case name when 'server_version_num' then '140012' else '14.12' end $$`.execute(
      database.db,
    );
    const name = sql.id(new URL(url).pathname.slice(1));
    await sql`alter database ${name} set search_path to old, pg_catalog, public`.execute(database.db);
    const message = 'The database is PostgreSQL 14.12; the service needs 15 or newer.';
    expect(await refusalOf(url)).toBe(message);
    await expect(migrate({ connectionString: url }, log)).rejects.toThrow(message);
  });
});

it('does not keep the service from stopping when it goes out of reach without a word', async () => {
  const url = await pretendPostgres((socket) => void socket.write(welcome()));
  const notifications = await startNotifications({ connectionString: url }, log);
  await expect(notifications.stop()).resolves.toBeUndefined();
});

it('is no trouble when it ends connections that the service is closing', async () => {
  // As a PostgreSQL that is stopped before it has read that the client leaves.
  const connectionString = await pretendPostgres((socket) => {
    socket.write(welcome());
    socket.on('data', (message: Buffer) => {
      const isLeaving = message.toString('latin1').startsWith('X');
      socket.write(isLeaving ? fatal('57P01') : welcome());
    });
  });
  const lines: string[] = [];
  const watched = pino({ level: 'warn' }, { write: (line: string) => lines.push(line) });
  const pool = createPool({ connectionString }, { size: 1, log: watched, statementTimeoutMs: null });
  const client = await pool.connect();
  const broken = once(client, 'error');
  client.release();
  await pool.end();
  await broken;
  expect(lines).toEqual([]);
});
