// The slots of an instance while jobs run on it: locked, freed, and handed on while outputs are fetched.
import type { Transaction } from 'kysely';
import type { QueueMessages, Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';

/** Attempts that may fetch their outputs from one instance without a slot; one more keeps its slot meanwhile. */
export const COLLECTING_PER_INSTANCE = 2;

/**
 * Slots are locked before jobs, and instances before slots. A dispatch that comes meanwhile passes over them, whatever becomes of them, so
 * it is woken again when the transaction commits.
 */
export async function lockSlots(trx: Transaction<Tables>, queues: Queues, instanceId: string): Promise<void> {
  await queues.wake(trx, 'dispatch');
  await trx
    .selectFrom('slots')
    .select('slot')
    .where('instance_id', '=', instanceId)
    .orderBy('slot')
    .forUpdate()
    .execute();
}

/** False when the slot is no longer the job's. */
export async function freeSlot(
  trx: Transaction<Tables>,
  { jobId, instanceId, slot }: Pick<QueueMessages['run'], 'jobId' | 'instanceId' | 'slot'>,
): Promise<boolean> {
  const { numUpdatedRows } = await trx
    .updateTable('slots')
    .set({ job_id: null })
    .where('instance_id', '=', instanceId)
    .where('slot', '=', slot)
    .where('job_id', '=', jobId)
    .executeTakeFirst();
  return numUpdatedRows === 1n;
}

/**
 * Gives the slots of jobs that ComfyUI is done with to others, which are staged while outputs are fetched, as far as the bound
 * allows. The caller has locked the slots.
 */
export async function handOnSlots(trx: Transaction<Tables>, instanceId: string): Promise<void> {
  const collecting = await trx
    .selectFrom('attempts')
    .leftJoin('slots', (join) =>
      join
        .onRef('slots.job_id', '=', 'attempts.job_id')
        .onRef('slots.instance_id', '=', 'attempts.instance_id'),
    )
    .select(['attempts.job_id as jobId', 'slots.slot'])
    .where('attempts.instance_id', '=', instanceId)
    .where('attempts.ended_at', 'is', null)
    .where('attempts.status', '=', 'collecting')
    .orderBy('attempts.executed_at')
    .execute();
  const places = COLLECTING_PER_INSTANCE - collecting.filter(({ slot }) => slot === null).length;
  const holding = collecting.flatMap(({ jobId, slot }) =>
    slot === null ? [] : [{ jobId, instanceId, slot }],
  );
  for (const each of holding.slice(0, Math.max(0, places))) await freeSlot(trx, each);
}
