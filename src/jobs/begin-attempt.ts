// The beginning of an attempt: job, slot and message, written together.
import type { Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Queues } from '../database/queues.ts';
import type { InstanceRow, Tables } from '../database/tables.ts';
import { appendEvent } from './events.ts';
import { jobStatusesBefore } from './job.ts';
import type { Placement } from './matching.ts';

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
  const job = await trx
    .updateTable('jobs')
    .set((eb) => ({
      status: 'running',
      attempt: eb('attempt', '+', 1),
      attempt_id: attemptId,
      instance_id: instanceId,
      started_at: now,
      waiting_for: null,
    }))
    .where('id', '=', jobId)
    .where('status', 'in', jobStatusesBefore('running'))
    .returning('attempt')
    .executeTakeFirst();
  if (job === undefined) return false;
  const { attempt } = job;
  await trx
    .insertInto('attempts')
    .values({
      id: attemptId,
      job_id: jobId,
      number: attempt,
      instance_id: instanceId,
      slot,
      status: 'staging',
      created_at: now,
      touched_at: now,
    })
    .execute();
  const taken = await trx
    .updateTable('slots')
    .from('instances')
    .set({ job_id: jobId })
    .whereRef('instances.id', '=', 'slots.instance_id')
    .where('instance_id', '=', instanceId)
    .where('slot', '=', slot)
    .where('job_id', 'is', null)
    .returning(['gpu_name', 'gpu_count', 'region'])
    .executeTakeFirst();
  const message = `Attempt ${attempt} is placed on instance ${instanceId}${taken === undefined ? '' : factsText(taken)}.`;
  await appendEvent(
    trx,
    jobId,
    { type: 'log', data: { message, attempt } },
    { type: 'status', data: { status: 'running', waitingFor: null, instanceId, attempt, error: null } },
  );
  await queues.send(trx, 'run', { jobId, attemptId, instanceId, slot });
  return true;
}

function factsText(instance: Pick<InstanceRow, 'gpu_name' | 'gpu_count' | 'region'>): string {
  const count = instance.gpu_count === null || instance.gpu_count === 1 ? '' : `${instance.gpu_count} × `;
  const gpu = instance.gpu_name === null ? null : `${count}${instance.gpu_name}`;
  const facts = [gpu, instance.region].filter((fact) => fact !== null);
  return facts.length === 0 ? '' : ` (${facts.join(', ')})`;
}
