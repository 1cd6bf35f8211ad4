// What a job has cost: its shares in the instances that its attempts ran on.
import type { Kysely } from 'kysely';
import type { AttemptRow, Tables } from '../database/tables.ts';
import { usdOf } from '../instances/cost.ts';
import type { JobCost } from '../jobs/cost.ts';
import { shareCosts, type Work } from './shares.ts';

/** The cost of a job until now; null when nothing that it ran on was rented. */
export async function costOfJob(db: Kysely<Tables>, jobId: string, now: Date): Promise<JobCost | null> {
  const attempts = await db
    .selectFrom('attempts')
    .innerJoin('instances', 'instances.id', 'attempts.instance_id')
    .select(['attempts.instance_id', 'attempts.traffic_micros', 'attempts.status'])
    .where('attempts.job_id', '=', jobId)
    .where('instances.provider', '<>', 'static')
    .execute();
  if (attempts.length === 0) return null;
  const sum = { workMicros: 0, gpuMs: 0, bootMicros: 0, idleMicros: 0 };
  let isFinal = attempts.every(({ traffic_micros: traffic }) => traffic !== null);
  for (const instanceId of new Set(attempts.map(({ instance_id: id }) => id))) {
    const { rentals, isGone } = await rentalsOf(db, instanceId);
    const share = shareCosts(rentals, await worksOf(db, instanceId, now), now).get(jobId);
    sum.workMicros += share?.workMicros ?? 0;
    sum.gpuMs += share?.gpuMs ?? 0;
    sum.bootMicros += share?.bootMicros ?? 0;
    sum.idleMicros += share?.idleMicros ?? 0;
    isFinal &&= isGone;
  }
  const trafficMicros = attempts.reduce((total, { traffic_micros: traffic }) => total + (traffic ?? 0), 0);
  return {
    workUsd: usdOf(sum.workMicros),
    gpuSeconds: sum.gpuMs / 1000,
    bootUsd: usdOf(sum.bootMicros),
    idleUsd: usdOf(sum.idleMicros),
    trafficUsd: usdOf(trafficMicros),
    totalUsd: usdOf(sum.workMicros + sum.bootMicros + sum.idleMicros + trafficMicros),
    final: isFinal,
  };
}

/** In one statement, so that an instance which is gone is never shown with a machine that still bills. */
async function rentalsOf(db: Kysely<Tables>, instanceId: string) {
  const rentals = await db
    .selectFrom('rentals')
    .innerJoin('instances', 'instances.id', 'rentals.instance_id')
    .select([
      'rentals.status',
      'offer',
      'price_per_hour_usd',
      'past_prices',
      'create_sent_at',
      'confirmed_at',
      'rentals.ready_at',
      'gone_at',
      'instances.status as instanceStatus',
    ])
    .where('instance_id', '=', instanceId)
    .orderBy('number')
    .execute();
  return { rentals, isGone: rentals.every(({ instanceStatus }) => instanceStatus === 'terminated') };
}

async function worksOf(db: Kysely<Tables>, instanceId: string, now: Date): Promise<Work[]> {
  const attempts = await db
    .selectFrom('attempts')
    .select(['job_id', 'started_at', 'executed_at', 'ended_at'])
    .where('instance_id', '=', instanceId)
    // The order decides who gets the last millionth of a dollar.
    .orderBy('id')
    .execute();
  return attempts.map((attempt) => ({ jobId: attempt.job_id, onGpu: onGpu(attempt, now) }));
}

function onGpu(
  {
    started_at: from,
    executed_at: executedAt,
    ended_at: endedAt,
  }: Pick<AttemptRow, 'started_at' | 'executed_at' | 'ended_at'>,
  now: Date,
): Work['onGpu'] {
  return from === null ? null : { from, to: executedAt ?? endedAt ?? now };
}
