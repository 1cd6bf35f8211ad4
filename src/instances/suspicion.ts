// What a run tells of the instance it runs on; the check of the instance decides what becomes of it.
import type { Kysely, Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { wakeInstance } from './records.ts';

/** An instance does not answer: it is checked now. The caller has locked no slot and no job yet, here and below. */
export async function checkSoon(trx: Transaction<Tables>, queues: Queues, instanceId: string): Promise<void> {
  if (await isChecked(trx, instanceId)) await wakeInstance(trx, queues, instanceId);
}

/**
 * ComfyUI neither runs nor ends a prompt, which stays in its queue: the instance takes no more jobs, and is checked now. It works
 * again once the prompt is gone, or waits behind one that runs.
 */
export async function suspect(
  trx: Transaction<Tables>,
  queues: Queues,
  instanceId: string,
  promptId: string,
): Promise<void> {
  if (!(await isChecked(trx, instanceId))) return;
  const now = new Date();
  await trx
    .updateTable('instances')
    .set((eb) => ({
      stuck_prompt_id: promptId,
      unreachable_since: eb.fn.coalesce('unreachable_since', eb.val(now)),
    }))
    .where('id', '=', instanceId)
    .where('stuck_prompt_id', 'is', null)
    .execute();
  await wakeInstance(trx, queues, instanceId);
}

/**
 * Whether the check of a rented instance finds it silent too: then it will hear of it again, or end it with all its attempts. It
 * asks the provider as well, so it knows better than a run whether the machine is to blame.
 */
export async function isVerdictDue(db: Kysely<Tables>, instanceId: string): Promise<boolean> {
  const instance = await db
    .selectFrom('instances')
    .select('id')
    .where('id', '=', instanceId)
    .where('provider', '<>', 'static')
    .where('unreachable_since', 'is not', null)
    .executeTakeFirst();
  return instance !== undefined;
}

/** Locks the instance. False for one that is ending, whose next step is no check. */
async function isChecked(trx: Transaction<Tables>, instanceId: string): Promise<boolean> {
  const instance = await trx
    .selectFrom('instances')
    .select('status')
    .where('id', '=', instanceId)
    .forNoKeyUpdate()
    .executeTakeFirst();
  return instance?.status === 'ready' || instance?.status === 'draining';
}
