// Writes that events are to be delivered, as part of whatever transaction the events are written in.
import type { Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Executor, Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { laneOf, type WebhookEvent } from './delivery.ts';

/** Writes the delivery of the one event of each job that names a webhook, with its first try. Rejects where a job has one: it ends once. */
export async function recordDeliveries(
  trx: Transaction<Tables>,
  queues: Queues,
  jobs: readonly { id: string; webhookUrl: string | null }[],
  type: WebhookEvent,
  now: Date,
): Promise<void> {
  const rows = jobs.flatMap(({ id: jobId, webhookUrl: url }) =>
    url === null ? [] : [{ id: uuid(), job_id: jobId, type, url, next_try_at: now, created_at: now }],
  );
  if (rows.length === 0) return;
  await trx.insertInto('webhook_deliveries').values(rows).execute();
  for (const { id, url } of rows) await sendDelivery(trx, queues, { id, url, wake: 0 });
}

/**
 * Sends the message of the next try, among those to silent hosts where its host is one. It is dropped when `wake` has gone on by the time
 * that it arrives.
 */
export async function sendDelivery(
  executor: Executor,
  queues: Queues,
  { id, url, wake }: { id: string; url: string; wake: number },
  { afterMs = 0, isSilent = false }: { afterMs?: number; isSilent?: boolean } = {},
): Promise<void> {
  const message = { deliveryId: id, wake };
  if (isSilent) {
    await queues.send(executor, 'deliver_silent', { ...message, host: new URL(url).host }, { afterMs });
  } else await queues.send(executor, 'deliver', { ...message, lane: laneOf({ id, url }) }, { afterMs });
}
