// What is kept no longer: results, records of jobs, and with them the files that nothing refers to any more.
import { sql, type Kysely } from 'kysely';
import type { Tables } from '../database/tables.ts';
import type { JobDeps } from './deps.ts';

export type RetentionDeps = Pick<JobDeps, 'db' | 'assets' | 'config' | 'clock' | 'log'>;

const EVERY_MS = 600_000;
const BATCH = 200;
const DAY_MS = 86_400_000;

export interface Retention {
  /** Whether it is time, or the last round left some of its work. */
  isDue(): boolean;
  sweep(): Promise<void>;
}

export function createRetention(deps: RetentionDeps): Retention {
  let nextAt = 0;
  return {
    isDue: () => performance.now() >= nextAt,
    async sweep() {
      // One that fails loses nothing but time.
      nextAt = performance.now() + EVERY_MS;
      if (!(await sweepRetention(deps))) nextAt = 0;
    },
  };
}

/** One round, in batches. Any number of replicas may do it at once. False when there is more to do. */
export async function sweepRetention({ db, assets, config, clock, log }: RetentionDeps): Promise<boolean> {
  const now = clock.now();
  await keepInputs(db, now);
  const results = await expireResults(db, limitOf(config.RESULT_RETENTION_DAYS, now), now);
  const jobs = await forgetJobs(db, limitOf(config.JOB_RETENTION_DAYS, now));
  if (results + jobs > 0) log.info({ results, jobs }, 'results and jobs were removed');
  const isDone = await assets.sweep(now);
  return isDone && results < BATCH && jobs < BATCH;
}

/** Null for what is kept for ever. */
function limitOf(days: number, now: Date): Date | null {
  return days === 0 ? null : new Date(now.getTime() - days * DAY_MS);
}

/**
 * The files that live jobs will read are in use, however long the jobs wait. A file is safe for a day after its last use, so
 * that a job which is accepted just now, or fetches a file, needs no lock.
 */
async function keepInputs(db: Kysely<Tables>, now: Date): Promise<void> {
  await sql`
    update assets set used_at = ${now}
    where used_at < ${new Date(now.getTime() - DAY_MS / 24)} and id in (
      select input->>'assetId' from jobs, jsonb_array_elements(inputs) input
      where status in ('queued', 'running', 'canceling')
    )`.execute(db);
}

/** The output stays, without its content: whoever asks for it is told what became of it. */
async function expireResults(db: Kysely<Tables>, before: Date | null, now: Date): Promise<number> {
  if (before === null) return 0;
  const { numAffectedRows } = await sql`
    update outputs set asset_id = null, text = null, expired_at = ${now}
    where (job_id, name) in (
      select job_id, name from outputs join jobs on jobs.id = job_id
      where expired_at is null and outputs.created_at < ${before} and finished_at < ${before}
      order by outputs.created_at limit ${BATCH} for update of outputs skip locked
    )`.execute(db);
  return Number(numAffectedRows ?? 0n);
}

/**
 * Records of jobs that have no results left and no webhook to deliver. Jobs on a rented machine share its cost, so they go only
 * together, when the last of them is old enough and the cost is written down for good. The key that a job or batch was made under
 * goes with it: it would have nothing to answer for.
 */
async function forgetJobs(db: Kysely<Tables>, before: Date | null): Promise<number> {
  if (before === null) return 0;
  const { rows } = await sql`
    with forgotten as (delete from jobs where id in (
      select id from jobs
      where finished_at < ${before}
        and not exists (select from outputs where outputs.job_id = jobs.id and expired_at is null)
        and not exists (
          select from webhook_deliveries delivery where delivery.job_id = jobs.id and delivery.status = 'pending'
        )
        and not exists (
          select from attempts
          join instances on instances.id = attempts.instance_id and instances.provider <> 'static'
          where attempts.job_id = jobs.id and (
            instances.status <> 'terminated'
            or exists (
              select from rentals
              where rentals.instance_id = instances.id and rentals.recorded_at is null
            )
            or exists (
              select from attempts other join jobs neighbour on neighbour.id = other.job_id
              where other.instance_id = instances.id
                and (neighbour.finished_at is null or neighbour.finished_at >= ${before})
            )
          )
        )
      order by finished_at limit ${BATCH} for update skip locked
    ) returning id),
    ${withoutKeys}
    select id from forgotten`.execute(db);
  await sql`
    with forgotten as (
      delete from batches
      where created_at < ${before} and not exists (select from jobs where jobs.batch_id = batches.id)
      returning id
    ),
    ${withoutKeys}
    select id from forgotten`.execute(db);
  return rows.length;
}

const withoutKeys = sql`
  keys as (delete from idempotency_keys using forgotten where made_id = forgotten.id)`;
