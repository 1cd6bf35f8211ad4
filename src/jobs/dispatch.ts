// Placing queued jobs on free slots: one transaction, one dispatch at a time.
import { sql, type Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Tables } from '../database/tables.ts';
import type { JobDeps } from './deps.ts';
import { appendEvent } from './events.ts';
import { jobStatusesBefore } from './job.ts';
import { matchJobs, type FreeInstance, type Placement, type WaitingJob } from './matching.ts';
import { explainWaiting } from './waiting.ts';

export type DispatchDeps = Pick<JobDeps, 'db' | 'queues' | 'clock'>;

/** One lock for all dispatches: a second one that skipped the slots held by the first would overlook the job that it was woken for. */
const DISPATCH_LOCK = 4_711_001;

/** Places what can be placed and says of the rest what it waits for. Returns how many jobs were placed. */
export async function dispatch({ db, queues, clock }: DispatchDeps): Promise<number> {
  return db.transaction().execute(async (trx) => {
    await sql`select pg_advisory_xact_lock(${sql.lit(DISPATCH_LOCK)})`.execute(trx);
    const instances = await lockFreeSlots(trx);
    const slots = instances.reduce((count, { freeSlots }) => count + freeSlots.length, 0);
    const jobs = slots === 0 ? [] : await nextJobs(trx, slots);
    let placed = 0;
    for (const placement of matchJobs(jobs, instances)) {
      if (await place(trx, queues, placement, clock.now())) placed += 1;
    }
    await explainWaiting(trx, clock.now());
    return placed;
  });
}

/**
 * The free slots of instances that can run something now. The instance is locked too, as the reference from the attempt will do:
 * one that somebody holds to end it is skipped rather than waited for, since he may wait for its slots.
 */
async function lockFreeSlots(trx: Transaction<Tables>): Promise<FreeInstance[]> {
  const rows = await trx
    .selectFrom('slots')
    .innerJoin('instances', 'instances.id', 'slots.instance_id')
    .select(['instances.id', 'slots.slot', 'gpu_name', 'gpu_count', 'vram_gb', 'region'])
    .where('slots.job_id', 'is', null)
    .where('instances.status', '=', 'ready')
    .where('instances.unreachable_since', 'is', null)
    .orderBy('instances.id')
    .orderBy('slots.slot')
    // By hand: Kysely would collect the two "skip locked" at the end.
    .modifyEnd(sql`for update of slots skip locked for key share of instances skip locked`)
    .execute();
  return [...Map.groupBy(rows, ({ id }) => id).values()].flatMap((slots) => {
    const [first] = slots;
    if (first === undefined) return [];
    const { id, gpu_name: gpuName, gpu_count: gpuCount, vram_gb: vramGb, region } = first;
    return [{ id, gpuName, gpuCount, vramGb, region, freeSlots: slots.map(({ slot }) => slot) }];
  });
}

/**
 * The order of queued jobs. A point of priority is worth a minute of waiting, so that nothing waits for ever. The wait counts from
 * the creation: a job that lost its instance does not go to the end.
 */
export const queueRank = sql<number>`extract(epoch from created_at) - priority * 60`;

/**
 * The jobs that may be next, the first one first. Of jobs that want the same, no more
 * than `slots` can be placed, so no more are read; jobs that fit nowhere hide none that would.
 */
async function nextJobs(trx: Transaction<Tables>, slots: number): Promise<WaitingJob[]> {
  const rows = await trx
    .selectFrom((from) =>
      from
        .selectFrom('jobs')
        .select(['id', 'requirements', 'wanted_instance_id', 'instance_id', queueRank.as('rank')])
        .select(
          sql<number>`row_number() over (partition by requirements, wanted_instance_id order by ${queueRank}, id)`.as(
            'place',
          ),
        )
        .where('status', '=', 'queued')
        .as('waiting'),
    )
    .select(['id', 'requirements', 'wanted_instance_id', 'instance_id'])
    .where('place', '<=', slots)
    .orderBy('rank')
    .orderBy('id')
    .execute();
  return rows.map((row) => ({
    id: row.id,
    requirements: row.requirements,
    wantedInstanceId: row.wanted_instance_id,
    lastInstanceId: row.instance_id,
  }));
}

/** Writes the attempt, takes the slot and sends the run. False when the job was canceled or expired meanwhile. */
async function place(
  trx: Transaction<Tables>,
  queues: DispatchDeps['queues'],
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
  await trx
    .insertInto('attempts')
    .values({
      id: attemptId,
      job_id: jobId,
      number: job.attempt,
      instance_id: instanceId,
      slot,
      status: 'staging',
      created_at: now,
      touched_at: now,
    })
    .execute();
  await trx
    .updateTable('slots')
    .set({ job_id: jobId })
    .where('instance_id', '=', instanceId)
    .where('slot', '=', slot)
    .where('job_id', 'is', null)
    .execute();
  await appendEvent(trx, jobId, {
    type: 'status',
    data: { status: 'running', waitingFor: null, instanceId, attempt: job.attempt, error: null },
  });
  await queues.send(trx, 'run', { jobId, attemptId, instanceId, slot });
  return true;
}
