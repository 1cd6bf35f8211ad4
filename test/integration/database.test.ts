import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { Kysely, PostgresDialect, sql } from 'kysely';
import { Pool } from 'pg';
import { pino } from 'pino';
import { describe, expect, onTestFinished, test } from 'vitest';
import { createPool } from '../../src/database/connection.ts';
import { migrate, migrations } from '../../src/database/migrate.ts';
import { prepared } from '../../src/database/prepared.ts';
import { collector } from '../support/collector.ts';
import { createTestDatabase, openDatabase, type TestDatabase } from '../support/database.ts';

const log = pino({ level: 'silent' });

async function start(): Promise<TestDatabase> {
  const made = await createTestDatabase();
  onTestFinished(made.stop);
  return made;
}

/** Ends every connection of the database except the one that asks. */
async function breakConnections({ database }: TestDatabase): Promise<void> {
  await sql`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()`.execute(database.db);
}

describe('connections', () => {
  test('broken ones are replaced, idle or in use, and the process lives on', async () => {
    const made = await start();
    const { database } = made;
    const inUse = sql`select pg_sleep(30)`.execute(database.db).then(() => 'done', String);
    await expect
      .poll(
        async () =>
          (
            await sql`select from pg_stat_activity where wait_event = 'PgSleep'
        and datname = current_database()`.execute(database.db)
          ).rows.length,
      )
      .toBe(1);
    await breakConnections(made);
    expect(await inUse).toContain('terminating connection');
    await expect.poll(() => database.check().then(() => 'up', String)).toBe('up');
  });

  test('a broken one is logged once, with what it says and nothing else', async () => {
    const made = await start();
    const said = new PassThrough();
    const address = { connectionString: made.url };
    const pool = createPool(address, { size: 1, log: pino({ base: null }, said), statementTimeoutMs: null });
    onTestFinished(() => pool.end());
    await pool.query('select');
    const broken = once(pool, 'error');
    await breakConnections(made);
    await broken;
    const lines = String(said.read()).trimEnd().split('\n');
    expect(lines.map((line) => Object.keys(JSON.parse(line) as object))).toEqual([
      ['level', 'time', 'code', 'error', 'msg'],
    ]);
  });

  test.each([
    ['answers nothing', 'select pg_sleep(60)', 'Query read timeout'],
    ['takes no writes, since it leads to a standby', 'create table written ()', 'read-only transaction'],
  ])('one that %s is not used again', async (_how, statement, failure) => {
    const made = await start();
    const pool = new Pool({ connectionString: made.url, max: 1, query_timeout: 300 });
    // The database may be dropped before a connection that is let go has ended.
    pool.on('connect', (client) => client.on('error', () => undefined));
    // What the connection has said already: a pool that nobody listens to would end the run.
    pool.on('error', () => undefined);
    const db = new Kysely({ dialect: new PostgresDialect({ pool: prepared(pool) }) });
    onTestFinished(() => db.destroy());
    await sql`set default_transaction_read_only = on`.execute(db);
    await expect(sql.raw(statement).execute(db)).rejects.toThrow(failure);
    await sql`create table written ()`.execute(db);
  });

  test('a database that is too busy to answer fails its check within its limit', async () => {
    const { database } = await start();
    const busy = Array.from({ length: 8 }, () => sql`select pg_sleep(2.3)`.execute(database.db));
    const begun = performance.now();
    await expect(database.check()).rejects.toThrow('did not answer within 2 s');
    expect(performance.now() - begun).toBeLessThan(3_000);
    await Promise.all(busy);
    await database.check();
  });
});

describe('notifications', () => {
  test('reach every service when their transaction commits, and only then', async () => {
    const { database, url } = await start();
    const other = await openDatabase(url);
    onTestFinished(() => other.stop());
    const { add, calls, reach } = collector<string>();
    other.notifications.subscribe('jobs', add);
    expect(await reach(1)).toEqual(['']);
    const { db, notifications } = database;
    await db
      .transaction()
      .execute(async (transaction) => {
        await notifications.publish(transaction, 'jobs', 'rolled back');
        throw new Error('no');
      })
      .catch(() => undefined);
    await db.transaction().execute(async (transaction) => {
      await notifications.publish(transaction, 'jobs', 'one');
      await notifications.publish(db, 'jobs', 'zero');
      await reach(2);
      expect(calls).toEqual(['', 'zero']);
    });
    await reach(3);
    expect(calls).toEqual(['', 'zero', 'one']);
  });

  test('a lost connection comes back, and listeners are told to look for themselves', async () => {
    const made = await start();
    const { db, notifications } = made.database;
    const { add, calls, reach } = collector<string>();
    notifications.subscribe('jobs', add);
    await reach(1);
    await breakConnections(made);
    await reach(2);
    await notifications.publish(db, 'jobs', 'after');
    await reach(3);
    expect(calls).toEqual(['', '', 'after']);
  });

  test('a listener that left hears nothing, and one that fails does not disturb the others', async () => {
    const { database } = await start();
    const { db, notifications } = database;
    const left = collector<string>();
    const stays = collector<string>();
    const leave = notifications.subscribe('jobs', left.add);
    notifications.subscribe('jobs', () => {
      throw new Error('a bad listener');
    });
    notifications.subscribe('jobs', stays.add);
    await stays.reach(1);
    leave();
    await notifications.publish(db, 'jobs', 'news');
    await stays.reach(2);
    expect(stays.calls).toEqual(['', 'news']);
    expect(left.calls).toEqual(['']);
  });

  test('a listener for one payload is called for no other, and again when it may have missed some', async () => {
    const made = await start();
    const { db, notifications } = made.database;
    const mine = collector<string>();
    const all = collector<string>();
    notifications.subscribe('jobs', mine.add, 'mine');
    notifications.subscribe('jobs', all.add);
    await all.reach(1);
    for (const payload of ['other', 'mine', 'others']) await notifications.publish(db, 'jobs', payload);
    await all.reach(4);
    expect(all.calls).toEqual(['', 'other', 'mine', 'others']);
    expect(mine.calls).toEqual(['', 'mine']);
    await breakConnections(made);
    await mine.reach(3);
    expect(mine.calls).toEqual(['', 'mine', '']);
  });

  test('channels that are joined all at once are listened to one after the other', async () => {
    const warnings: Error[] = [];
    const note = (warning: Error): void => void warnings.push(warning);
    process.on('warning', note);
    onTestFinished(() => void process.off('warning', note));
    const made = await start();
    const { db, notifications } = made.database;
    const { add, reach } = collector<string>();
    const leave = ['a', 'b', 'c'].map((channel) => notifications.subscribe(channel, () => undefined));
    notifications.subscribe('d', add);
    for (const leaveOne of leave) leaveOne();
    notifications.subscribe('a', add);
    await reach(2);
    await breakConnections(made);
    await reach(4);
    await notifications.publish(db, 'a', 'one');
    await notifications.publish(db, 'd', 'two');
    expect((await reach(6)).slice(4)).toEqual(['one', 'two']);
    expect(warnings.map(({ message }) => message)).toEqual([]);
  });
});

describe('statements', () => {
  test('that come again are prepared, and those of one occasion are not', async () => {
    const { db } = (await start()).database;
    await db.connection().execute(async (one) => {
      for (let turn = 1; turn <= 4; turn += 1) await sql`select ${turn}::int as again`.execute(one);
      await sql`select ${1}::int as once`.execute(one);
      const { rows } = await sql<{ text: string }>`
        select statement as text from pg_prepared_statements where statement like '%as again' or statement like '%as once'`.execute(
        one,
      );
      expect(rows.map(({ text }) => text)).toEqual(['select $1::int as again']);
    });
  });

  test('are prepared anew when a migration has changed what they return', async () => {
    const { db } = (await start()).database;
    await sql`create table growing (a int)`.execute(db);
    await sql`insert into growing values (1)`.execute(db);
    const read = async () => (await sql`select * from growing`.execute(db)).rows;
    for (let turn = 1; turn <= 5; turn += 1) expect(await read()).toEqual([{ a: 1 }]);
    await sql`alter table growing add column b int`.execute(db);
    // The one that meets the change fails, and comes again by its caller.
    await read().catch(() => undefined);
    expect(await read()).toEqual([{ a: 1, b: null }]);
  });
});

describe('migrations', () => {
  test('several services that start at once on a new database bring it up to date together', async () => {
    const { database, url } = await start();
    await sql`drop schema pgboss cascade; drop schema public cascade; create schema public`.execute(
      database.db,
    );
    const services = await Promise.all([openDatabase(url), openDatabase(url), openDatabase(url)]);
    onTestFinished(async () => void (await Promise.all(services.map((service) => service.stop()))));
    await Promise.all(services.map(({ queues }) => queues.start()));
    const { rows } = await sql<{ name: string }>`select name from kysely_migration`.execute(database.db);
    expect(rows.map(({ name }) => name)).toEqual(Object.keys(migrations));
    for (const { queues } of services) expect((await queues.health()).ok).toBe(true);
  });

  test('a service waits for another one that migrates, says so, and gives up in the end', async () => {
    const { database, url } = await start();
    await sql`delete from kysely_migration where name = (select max(name) from kysely_migration)`.execute(
      database.db,
    );
    const said = new PassThrough();
    const waiting = () =>
      migrate({ connectionString: url }, pino(said), { quietMs: 100, limitMs: 600 }).catch(String);
    await database.db.connection().execute(async (other) => {
      await sql`select pg_advisory_lock(${0x636f6d66}, 2)`.execute(other);
      expect(await waiting()).toContain('Another service has not ended');
    });
    expect(String(said.read())).toContain('waiting for it');
  });

  test('a database of a newer version is left alone', async () => {
    const { database, url } = await start();
    await sql`insert into kysely_migration (name, timestamp) values ('999-future', '')`.execute(database.db);
    await expect(migrate({ connectionString: url }, log)).rejects.toThrow('newer version of the service');
  });
});
