// Instances that nobody rents: one for each ComfyUI server named in the settings.
import type { Kysely, Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Queues } from '../database/queues.ts';
import type { InstanceRow, Tables } from '../database/tables.ts';
import { beginEnding } from './ending.ts';
import { wakeInstance } from './records.ts';

/** Makes an instance for each URL that has none, and ends those whose URL is no longer in the settings. */
export async function syncStaticInstances(
  db: Kysely<Tables>,
  queues: Queues,
  urls: string[],
  maxAttempts: number,
): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const known = await lockStaticInstances(trx);
    for (const url of urls) {
      if (known.some((instance) => instance.static_url === url)) continue;
      const id = uuid();
      await trx
        .insertInto('instances')
        .values({ id, provider: 'static', status: 'requested', static_url: url, requirements: null })
        // Another replica that starts at the same moment may have made it.
        .onConflict((conflict) => conflict.doNothing())
        .execute();
      await wakeInstance(trx, queues, id);
    }
    for (const instance of known) {
      if (instance.static_url !== null && urls.includes(instance.static_url)) continue;
      await beginEnding(trx, queues, instance, {
        drain: false,
        reason: 'removed_from_settings',
        detail: null,
        jobReason: 'Its ComfyUI server was removed from the settings.',
        maxAttempts,
        now: new Date(),
      });
    }
  });
}

/** Those that are not ending; in one order, so that replicas which start together wait for each other rather than for ever. */
function lockStaticInstances(trx: Transaction<Tables>): Promise<InstanceRow[]> {
  return trx
    .selectFrom('instances')
    .selectAll()
    .where('provider', '=', 'static')
    .where('status', 'not in', ['terminating', 'terminated'])
    .orderBy('id')
    .forUpdate()
    .execute();
}
