// Instances that nobody rents: made for the URLs of the settings, and ended with them.
import { expect, onTestFinished, test } from 'vitest';
import { syncStaticInstances } from '../../src/instances/static.ts';
import { createTestDatabase } from '../support/database.ts';

test('an instance whose URL is no longer in the settings ends in good order, whatever it was doing', async () => {
  const { database, stop } = await createTestDatabase();
  onTestFinished(stop);
  const { db, queues } = database;
  const [kept, removed] = ['http://10.0.0.1:8188', 'http://10.0.0.2:8188'];
  await syncStaticInstances(db, queues, [kept, removed], 2);
  const startedAt = new Date().toISOString();
  const phases = JSON.stringify([{ phase: 'starting', rental: 0, startedAt, endedAt: null }]);
  await db.updateTable('instances').set({ status: 'provisioning', phase: 'starting', phases }).execute();

  await syncStaticInstances(db, queues, [kept], 2);
  const rows = await db
    .selectFrom('instances')
    .select(['static_url', 'status', 'phase', 'phases', 'pending_reason', 'message'])
    .orderBy('static_url')
    .execute();
  expect(rows).toMatchObject([
    { static_url: kept, status: 'provisioning', phases: [{ endedAt: null }], pending_reason: null },
    {
      static_url: removed,
      status: 'terminating',
      phase: null,
      phases: [{ endedAt: expect.any(String) as string }],
      pending_reason: 'removed_from_settings',
      message: 'Ends now.',
    },
  ]);
});

test('a URL that comes back while its instance still ends has another instance at once', async () => {
  const { database, stop } = await createTestDatabase();
  onTestFinished(stop);
  const { db, queues } = database;
  const url = 'http://10.0.0.1:8188';
  for (const urls of [[url], [], [url], [url]]) await syncStaticInstances(db, queues, urls, 2);
  const rows = await db.selectFrom('instances').select(['static_url', 'status']).orderBy('id').execute();
  expect(rows).toEqual([
    { static_url: url, status: 'terminating' },
    { static_url: url, status: 'requested' },
  ]);
});
