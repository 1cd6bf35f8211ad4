// Who closes the session with a ComfyUI when its instance ends elsewhere.
import { v7 as uuid } from 'uuid';
import { expect, it, onTestFinished } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { createSessions } from '../../src/instances/sessions.ts';
import { createLogger } from '../../src/support/log.ts';
import { startComfyDouble } from '../doubles/comfyui/index.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

const config = loadConfig({ LOG_LEVEL: 'silent' });
const patient = { interval: 10, timeout: 10_000 };

async function addReadyInstance({ database }: TestDatabase, url: string): Promise<string> {
  const id = uuid();
  await database.db
    .insertInto('instances')
    .values({ id, provider: 'static', status: 'ready', static_url: url })
    .execute();
  return id;
}

it('a session is closed when another process has ended its instance, and that of a draining one is kept', async () => {
  const made = await createTestDatabase();
  onTestFinished(made.stop);
  const { db } = made.database;
  const [ending, draining] = [await startComfyDouble(), await startComfyDouble()];
  onTestFinished(async () => void (await Promise.all([ending.stop(), draining.stop()])));
  const [endingId, drainingId] = [
    await addReadyInstance(made, ending.url),
    await addReadyInstance(made, draining.url),
  ];

  const sessions = createSessions({ db, config, log: createLogger(config), pruneEveryMs: 20 });
  onTestFinished(() => sessions.close());
  const kept = await sessions.get(drainingId);
  await sessions.get(endingId);
  await expect
    .poll(() => [ending.counters.socketsOpen, draining.counters.socketsOpen], patient)
    .toEqual([1, 1]);

  await db.updateTable('instances').set({ status: 'draining' }).where('id', '=', drainingId).execute();
  await db.updateTable('instances').set({ status: 'terminating' }).where('id', '=', endingId).execute();

  await expect.poll(() => ending.counters.socketsOpen, patient).toBe(0);

  await expect(sessions.get(endingId)).rejects.toThrow('is not ready');
  expect(await sessions.get(drainingId)).toBe(kept);
  expect(draining.counters).toMatchObject({ socketsOpen: 1, socketsOpened: 1 });
});
