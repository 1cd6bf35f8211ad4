// The safety net of deliveries: a try that lost its message gets it again, and what ended long ago is forgotten.
import type { Config } from '../config.ts';
import type { Kysely } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import type { Clock } from '../support/clock.ts';
import { sendDelivery } from './record.ts';

export interface DeliverySweepDeps {
  db: Kysely<Tables>;
  queues: Queues;
  config: Pick<Config, 'WEBHOOK_RETENTION_DAYS'>;
  clock: Clock;
}

/** A try that is so late has lost its message, or waits behind others for the same host: then a second one does no harm. No try lasts as long. */
const LATE_MS = 120_000;
const BATCH = 500;
const DAY_MS = 86_400_000;

/** One round. Repeating it changes nothing. */
export async function sweepDeliveries(deps: DeliverySweepDeps): Promise<void> {
  await resendLate(deps);
  await forgetOld(deps);
}

async function resendLate({ db, queues, clock }: DeliverySweepDeps): Promise<void> {
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
    const woken = await trx
      .updateTable('webhook_deliveries')
      .set(({ eb }) => ({ wake: eb('wake', '+', 1), next_try_at: now }))
      .where('id', 'in', late)
      .returning(['id', 'url', 'wake'])
      .execute();
    for (const delivery of woken) await sendDelivery(trx, queues, delivery);
  });
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
