// A service in a process of its own that does nothing but deliver webhooks, until a test kills it.
import { pino } from 'pino';
import { loadConfig } from '../../src/config.ts';
import { startDatabase } from '../../src/database/database.ts';
import { findJob } from '../../src/jobs/records.ts';
import { presentJob } from '../../src/jobs/presentation.ts';
import { deliver } from '../../src/webhooks/deliver.ts';

const [url = '', secret = '', host = ''] = process.argv.slice(2);
const config = loadConfig({ DATABASE_URL: url, WEBHOOK_SECRET: secret, WEBHOOK_ALLOWED_HOSTS: host });
const log = pino({ level: 'silent' });
const { db, queues } = await startDatabase({ config, log });
const deps = {
  db,
  queues,
  config,
  log,
  clock: { now: () => new Date() },
  showJob: async (id: string) => presentJob(await findJob(db, id), new Date()),
  countTry: () => undefined,
};
await queues.start();
await queues.work('deliver', 1, (message, context) => deliver(deps, message, context));
process.stdout.write('works\n');
