// The slots of an instance while jobs run on it: locked, and handed on while outputs are fetched.
import { sql, type Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';

/** Attempts that may fetch their outputs from one instance without a slot; one more keeps its slot meanwhile. */
export const COLLECTING_PER_INSTANCE = 2;

/**
 * Slots are locked before jobs, and instances before slots. A dispatch that comes meanwhile passes over them, whatever becomes of them, so
 * it is woken again when the transaction commits.
 */
export async function lockSlots(trx: Transaction<Tables>, queues: Queues, instanceId: string): Promise<void> {
  await sql`select array(select slot from slots where instance_id = ${instanceId} order by slot for update),
    ${queues.waking('dispatch')}`.execute(trx);
}

/**
 * Gives the slots of jobs that ComfyUI is done with to others, which are staged while outputs are fetched, as far as the bound
 * allows. The caller has locked the slots.
 */
export async function handOnSlots(trx: Transaction<Tables>, instanceId: string): Promise<void> {
  await sql`
    with collecting as (
      select attempts.job_id, attempts.executed_at, slots.slot
      from attempts left join slots on slots.job_id = attempts.job_id and slots.instance_id = attempts.instance_id
      where attempts.instance_id = ${instanceId} and attempts.ended_at is null and attempts.status = 'collecting'
    )
    update slots set job_id = null where instance_id = ${instanceId} and job_id in (
      select job_id from collecting where slot is not null order by executed_at
      limit greatest(0, ${sql.lit(COLLECTING_PER_INSTANCE)} - (select count(*) from collecting where slot is null)))`.execute(
    trx,
  );
}
