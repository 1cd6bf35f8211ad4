// A service in a process of its own that tests can kill: says what it does, one line each, until it is stopped.
import { flushCompileCache } from 'node:module';
import { sql } from 'kysely';
import { pino } from 'pino';
import { startDatabase, type Database } from '../../src/database/database.ts';

const [scenario, place = ''] = process.argv.slice(2);
const external = place.startsWith('postgres');
const database = await startDatabase({
  config: {
    DATABASE_URL: external ? place : undefined,
    DATA_DIR: external ? '' : place,
    DATABASE_POOL_SIZE: 8,
  },
  log: pino({ level: 'silent' }),
});

const scenarios: Record<string, (database: Database) => Promise<void>> = {
  /** Writes numbers, and says each once it is committed, until the server is killed under it. */
  write: async ({ db }) => {
    for (let number = 0; ; number++) {
      const name = `${process.pid}-${number}`;
      const row = db.insertInto('service_values').values({ name, value: '' }).execute();
      if ((await row.catch(() => null)) === null) return;
      say(`committed ${name}`);
    }
  },
  /** Takes messages and never ends with one. */
  hang: async ({ queues }) => {
    await queues.start();
    await queues.work('run', 10, async ({ attemptId }) => {
      say(`took ${attemptId}`);
      await new Promise(() => undefined);
    });
    say('works');
  },
  /** Works on `instance`; a row tells that nobody else works on the same one. */
  exclusive: async ({ db, queues }) => {
    await queues.start();
    await queues.work('instance', 10, async ({ instanceId, wake }) => {
      const name = `busy-${instanceId}`;
      await db
        .insertInto('service_values')
        .values({ name, value: '' })
        .execute()
        .catch(() => say(`overlap ${instanceId}`));
      await sql`select pg_sleep(0.005)`.execute(db);
      await db.deleteFrom('service_values').where('name', '=', name).execute();
      say(`done ${instanceId} ${wake}`);
    });
    say('works');
  },
};

// For the next ones: it will be killed before it would do so by itself.
flushCompileCache();
process.on('SIGTERM', () => void database.stop().then(() => process.exit(0)));
await scenarios[scenario ?? '']?.(database);

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
