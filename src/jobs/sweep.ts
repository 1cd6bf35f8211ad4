// The safety net of jobs: what waited too long expires, what lost its message gets it again, what nobody can end is ended.
import { sql, type Kysely } from 'kysely';
import type { Tables } from '../database/tables.ts';
import { endAttempt } from './attempt.ts';
import type { JobDeps } from './deps.ts';
import { endJobs } from './ending.ts';
import type { JobError } from './job.ts';
import { sweepPreviews } from './previews.ts';
import type { Verdict } from './verdict.ts';

export type SweepDeps = Pick<JobDeps, 'db' | 'queues' | 'config' | 'clock'>;

/** A run that is worked on shows it more often than this. */
const SILENT_MS = 60_000;
/** Beyond every limit of a job, its attempt has this long to end by itself. */
const GRACE_MS = 3_600_000;
const BATCH = 500;

/** One round. Every part stands by itself, and repeating one changes nothing. */
export async function sweepJobs(deps: SweepDeps): Promise<void> {
  await expireJobs(deps);
  await failPinnedJobs(deps);
  await endStrandedAttempts(deps);
  await endOverdueAttempts(deps);
  await resendRuns(deps);
  await sweepPreviews(deps.db);
}

/** Queued jobs beyond their wait limit. */
async function expireJobs({ db, queues, clock }: SweepDeps): Promise<void> {
  const now = clock.now();
  await db.transaction().execute(async (trx) => {
    const late = await trx
      .selectFrom('jobs')
      .select(['id', 'wait_limit_ms', 'waiting_for'])
      .where('status', '=', 'queued')
      .where(sql<boolean>`queued_at + wait_limit_ms * interval '1 ms' <= ${now}`)
      .limit(BATCH)
      .forUpdate()
      .skipLocked()
      .execute();
    for (const job of late) {
      const detail =
        `No instance was free for it within its limit of ${job.wait_limit_ms / 1000} s. ${job.waiting_for ?? ''}`.trim();
      const error: JobError = { code: 'wait_limit', detail };
      await endJobs(trx, queues, [job.id], { status: 'expired', error, instanceId: null, now });
    }
  });
}

/** Queued jobs that want an instance which will take no more. */
async function failPinnedJobs({ db, queues, clock }: SweepDeps): Promise<void> {
  const now = clock.now();
  await db.transaction().execute(async (trx) => {
    const pinned = await trx
      .selectFrom('jobs')
      .innerJoin('instances', 'instances.id', 'jobs.wanted_instance_id')
      .select(['jobs.id', 'jobs.wanted_instance_id', 'instances.status as instanceStatus'])
      .where('jobs.status', '=', 'queued')
      .where('instances.status', 'in', ['draining', 'terminating', 'terminated'])
      .limit(BATCH)
      .forUpdate('jobs')
      .skipLocked()
      .execute();
    for (const job of pinned) {
      const detail = `Instance ${job.wanted_instance_id}, which the job asked for, is ${job.instanceStatus}. Submit it again without instanceId.`;
      const error: JobError = { code: 'instance_lost', detail };
      await endJobs(trx, queues, [job.id], { status: 'failed', error, instanceId: null, now });
    }
  });
}

/** Attempts on an instance that has ended, or without a slot although they need it. */
async function endStrandedAttempts(deps: SweepDeps): Promise<void> {
  const stranded = await currentAttempts(deps.db)
    .leftJoin('slots', (join) =>
      join
        .onRef('slots.job_id', '=', 'jobs.id')
        .onRef('slots.instance_id', '=', 'attempts.instance_id')
        .onRef('slots.slot', '=', 'attempts.slot'),
    )
    .innerJoin('instances', 'instances.id', 'attempts.instance_id')
    .where((where) =>
      where.or([
        where.and([where('slots.job_id', 'is', null), where('attempts.status', '<>', 'collecting')]),
        where('instances.status', 'in', ['terminating', 'terminated']),
      ]),
    )
    .execute();
  for (const attempt of stranded) {
    await end(deps, attempt, { kind: 'lost', code: 'instance_lost', reason: 'Its instance has ended.' });
  }
}

/**
 * Attempts far beyond what their job allows, whatever keeps them from ending. One that has executed has as long again for its results,
 * and one that nobody worked on is looked at first: the service may have stood still, and ComfyUI have its result.
 */
async function endOverdueAttempts(deps: SweepDeps): Promise<void> {
  const now = deps.clock.now();
  const overdue = await currentAttempts(deps.db)
    .select('jobs.status as jobStatus')
    .where('attempts.touched_at', '>', new Date(now.getTime() - SILENT_MS))
    .where(
      sql<boolean>`coalesce(
          attempts.collecting_at, attempts.started_at, attempts.created_at + jobs.wait_limit_ms * interval '1 ms'
        ) + (jobs.time_limit_ms + ${GRACE_MS}) * interval '1 ms' <= ${now}`,
    )
    .execute();
  for (const { jobStatus, ...attempt } of overdue) {
    const detail = 'The job did not end although all its limits had passed, and was given up.';
    const verdict: Verdict =
      jobStatus === 'canceling'
        ? { kind: 'canceled', reason: detail }
        : { kind: 'failed', error: { code: 'time_limit', detail } };
    await end(deps, attempt, verdict);
  }
}

/** Attempts that nobody seems to work on. A second message does no harm: the slot lets only one run at a time. */
async function resendRuns({ db, queues, clock }: SweepDeps): Promise<void> {
  const now = clock.now();
  const silent = await currentAttempts(db)
    .where('attempts.touched_at', '<=', new Date(now.getTime() - SILENT_MS))
    .execute();
  for (const { touchedAt, ...ref } of silent) {
    await db.transaction().execute(async (trx) => {
      const touched = await trx
        .updateTable('attempts')
        .set({ touched_at: now })
        .where('id', '=', ref.attemptId)
        .where('touched_at', '=', touchedAt)
        .where('status', '<>', 'ended')
        .executeTakeFirst();
      if (touched.numUpdatedRows === 1n) await queues.send(trx, 'run', ref);
    });
  }
}

function currentAttempts(db: Kysely<Tables>) {
  return db
    .selectFrom('jobs')
    .innerJoin('attempts', 'attempts.id', 'jobs.attempt_id')
    .select([
      'jobs.id as jobId',
      'attempts.id as attemptId',
      'attempts.instance_id as instanceId',
      'attempts.slot',
      'attempts.touched_at as touchedAt',
    ])
    .where('jobs.status', 'in', ['running', 'canceling']);
}

async function end(
  { db, queues, config, clock }: SweepDeps,
  {
    jobId,
    attemptId,
    instanceId,
    slot,
  }: { jobId: string; attemptId: string; instanceId: string; slot: number },
  verdict: Verdict,
): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const options = { maxAttempts: config.JOB_MAX_ATTEMPTS, now: clock.now() };
    await endAttempt(trx, queues, { jobId, attemptId, instanceId, slot }, verdict, options);
  });
}
