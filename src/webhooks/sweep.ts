// The safety net of deliveries: a try that lost its message gets it again, and what ended long ago is forgotten.
import type { Config } from '../config.ts';
import type { Kysely, Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import type { Clock } from '../support/clock.ts';
import { laneMessage, sendDelivery, silentMessage, type DeliveryToSend } from './record.ts';

export interface DeliverySweepDeps {
  db: Kysely<Tables>;
  queues: Queues;
  config: Pick<Config, 'WEBHOOK_RETENTION_DAYS'>;
  clock: Clock;
}

/** A try that is so late has lost its message, or waits behind others for the same host. No try lasts as long. */
const LATE_MS = 120_000;
const BATCH = 500;
const DAY_MS = 86_400_000;

/** One round. Repeating it changes nothing. */
export async function sweepDeliveries(deps: DeliverySweepDeps): Promise<void> {
  await resendLost(deps);
  await forgetOld(deps);
}

/** Those that wait keep their message: a second one for each of thousands, again and again, would be all that their host's turns are spent on. */
async function resendLost({ db, queues, clock }: DeliverySweepDeps): Promise<void> {
  const now = clock.now();
  await db.transaction().execute(async (trx) => {
    const late = trx
      .selectFrom('webhook_deliveries')
      .select('id')
      .where('status', '=', 'pending')
      .where('next_try_at', '<=', new Date(now.getTime() - LATE_MS))
      .orderBy('next_try_at')
      .limit(BATCH)
      .forUpdate()
      .skipLocked();
    // They are looked at again as late from now, so that the next round gets to those behind them.
    const looked = await trx
      .updateTable('webhook_deliveries')
      .set({ next_try_at: now })
      .where('id', 'in', late)
      .returning(['id', 'url', 'wake'])
      .execute();
    const lost = await withoutMessage(trx, queues, looked);
    if (lost.length === 0) return;
    const woken = await trx
      .updateTable('webhook_deliveries')
      .set(({ eb }) => ({ wake: eb('wake', '+', 1) }))
      .where('id', 'in', lost)
      .returning(['id', 'url', 'wake'])
      .execute();
    for (const delivery of woken) await sendDelivery(trx, queues, delivery);
  });
}

/** The ids of those whose next try no message of either queue carries. */
async function withoutMessage(
  trx: Transaction<Tables>,
  queues: Queues,
  deliveries: DeliveryToSend[],
): Promise<string[]> {
  const elsewhere = await queues.missing(trx, 'deliver', deliveries.map(laneMessage));
  const ids = new Set(elsewhere.map(({ deliveryId }) => deliveryId));
  const rest = deliveries.filter(({ id }) => ids.has(id));
  const lost = await queues.missing(trx, 'deliver_silent', rest.map(silentMessage));
  return lost.map(({ deliveryId }) => deliveryId);
}

/** Looked at again under the lock: what is replayed at this moment stays. */
async function forgetOld({ db, config, clock }: DeliverySweepDeps): Promise<void> {
  const oldest = new Date(clock.now().getTime() - config.WEBHOOK_RETENTION_DAYS * DAY_MS);
  const old = db
    .selectFrom('webhook_deliveries')
    .select('id')
    .where('status', '<>', 'pending')
    .where('ended_at', '<', oldest)
    .limit(BATCH)
    .forUpdate()
    .skipLocked();
  await db.deleteFrom('webhook_deliveries').where('id', 'in', old).execute();
}
