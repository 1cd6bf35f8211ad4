// The beginning of an attempt: job, slot and message, written together.
import { sql, type Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { announcement, type StatusData } from './events.ts';
import { jobStatusesBefore } from './job.ts';
import type { Placement } from './matching.ts';

/** What an instance is, for people, such as ` (2 × RTX 4090, Iceland)`. */
const machineText = sql<string>`coalesce(' (' || nullif(concat_ws(', ',
  coalesce(nullif(instances.gpu_count, 1) || ' × ', '') || instances.gpu_name, instances.region), '') || ')', '')`;

/**
 * Writes the attempt, takes the slot, which the transaction has locked and found free, and sends the run. False when the job was
 * canceled or expired meanwhile.
 */
export async function beginAttempt(
  trx: Transaction<Tables>,
  queues: Queues,
  { jobId, instanceId, slot }: Placement,
  now: Date,
): Promise<boolean> {
  const attemptId = uuid();
  const event: Omit<StatusData, 'attempt'> = {
    status: 'running',
    waitingFor: null,
    instanceId,
    error: null,
  };
  const { rows } = await sql`
    with placed as (
      update jobs set status = 'running', attempt = attempt + 1, attempt_id = ${attemptId}, instance_id = ${instanceId},
        started_at = ${now}, waiting_for = null
      where id = ${jobId} and status = any(${jobStatusesBefore('running')}::text[])
      returning id, attempt
    ), begun as (
      insert into attempts (id, job_id, number, instance_id, slot, status, created_at, touched_at)
      select ${attemptId}::uuid, id, attempt, ${instanceId}::uuid, ${slot}::integer, 'staging', ${now}::timestamptz, ${now}::timestamptz
      from placed
    ), taken as (
      update slots set job_id = placed.id from placed
      where slots.instance_id = ${instanceId} and slots.slot = ${slot} and slots.job_id is null
    ), written as (
      insert into job_events (job_id, type, data)
      select placed.id, event.type, event.data || jsonb_build_object('attempt', attempt)
      from placed join instances on instances.id = ${instanceId} cross join lateral (values
        (1, 'log', jsonb_build_object('message',
          'Attempt ' || attempt || ' is placed on instance ' || instances.id || ${machineText} || '.')),
        (2, 'status', ${JSON.stringify(event)}::jsonb)
      ) as event (place, type, data)
      order by event.place
    )
    select ${announcement(sql`id`)} from placed`.execute(trx);
  if (rows.length === 0) return false;
  await queues.send(trx, 'run', { jobId, attemptId, instanceId, slot });
  return true;
}
