import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { expect, onTestFinished, test } from 'vitest';
import { collector } from '../support/collector.ts';
import { createTestDatabase } from '../support/database.ts';
import { usedDataFolder, startEmbedded, startService } from '../support/embedded.ts';

const attempt = (slot: number) => ({ jobId: 'j', attemptId: randomUUID(), instanceId: 'a', slot });

test('the messages of a replica that died come back to the others when its lease ends', async () => {
  const { database, url, stop } = await createTestDatabase();
  onTestFinished(stop);
  const { db, queues } = database;
  await queues.start();
  const victim = startService('hang', url);
  await victim.says(/works/);
  const message = attempt(0);
  await queues.send(db, 'run', message);
  await victim.says(new RegExp(`took ${message.attemptId}`));
  const { add, reach } = collector<object>();
  await queues.work('run', 1, async (received) => add(received));
  const killed = performance.now();
  await victim.kill('SIGKILL');
  // A lease takes ten seconds; the test spares most of them.
  const { rows } = await sql`update pgboss.job set heartbeat_on = heartbeat_on - interval '8 s'
    returning heartbeat_seconds as lease`.execute(db);
  expect(rows).toEqual([{ lease: 10 }]);
  expect(await reach(1)).toEqual([message]);
  expect(performance.now() - killed).toBeLessThan(8_000);
});

test('the messages of the only service come back at the next start, without a wait', async () => {
  const folder = await usedDataFolder();
  const messages = [attempt(0), attempt(1)];
  const first = await startEmbedded(folder);
  await first.queues.start();
  for (const message of messages) await first.queues.send(first.db, 'run', message);
  await first.stop();
  const victim = startService('hang', folder);
  for (const { attemptId } of messages) await victim.says(new RegExp(`took ${attemptId}`));
  await victim.kill('SIGKILL');

  const last = await startEmbedded(folder);
  await last.queues.start();
  const { add, reach } = collector<object>();
  const begun = performance.now();
  await last.queues.work('run', 2, async (message) => add(message));
  expect(await reach(2)).toEqual(expect.arrayContaining(messages));
  expect(performance.now() - begun).toBeLessThan(2_000);
});
