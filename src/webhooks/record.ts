// Writes that events are to be delivered, as part of whatever transaction the events are written in.
import type { Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Executor, QueueMessages, Queues } from '../database/queues.ts';
import type { DeliveryRow, Tables } from '../database/tables.ts';
import { laneOf, type WebhookEvent } from './delivery.ts';

/** A delivery as its messages need it. */
export type DeliveryToSend = Pick<DeliveryRow, 'id' | 'url' | 'wake'>;

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
  delivery: DeliveryToSend,
  { afterMs = 0, isSilent = false }: { afterMs?: number; isSilent?: boolean } = {},
): Promise<void> {
  if (isSilent) await queues.send(executor, 'deliver_silent', silentMessage(delivery), { afterMs });
  else await queues.send(executor, 'deliver', laneMessage(delivery), { afterMs });
}

export function laneMessage({ id, url, wake }: DeliveryToSend): QueueMessages['deliver'] {
  return { deliveryId: id, wake, lane: laneOf({ id, url }) };
}

export function silentMessage({ id, url, wake }: DeliveryToSend): QueueMessages['deliver_silent'] {
  return { deliveryId: id, wake, host: new URL(url).host };
}
