// Waiting for the end of a job: woken by notifications, so that a thousand may wait and cost little.
import type { Kysely } from 'kysely';
import type { Tables } from '../database/tables.ts';
import { batched } from '../support/batched.ts';
import type { JobDeps } from './deps.ts';
import { watchEnd } from './events.ts';
import { isFinal, type JobStatus } from './job.ts';
import { createWake } from '../support/wake.ts';

/** Resolves when the job has reached its final status or is not there, after `limitMs`, or when the signal is aborted. */
export type WhenEnded = (jobId: string, limitMs: number, signal: AbortSignal) => Promise<void>;

/** Notifications that a lost connection may have swallowed are made up for when it is back: then everybody looks. */
export function createWhenEnded({ db, notifications }: Pick<JobDeps, 'db' | 'notifications'>): WhenEnded {
  const statusOf = batched((ids: string[]) => readStatuses(db, ids), { keyOf: (id) => id });
  return async (jobId, limitMs, signal) => {
    const deadline = performance.now() + limitMs;
    const wake = createWake();
    const unwatch = watchEnd(notifications, jobId, () => wake.now());
    try {
      for (;;) {
        const status = await statusOf(jobId);
        const leftMs = deadline - performance.now();
        if (status === null || isFinal(status) || leftMs <= 0) return;
        await wake.wait(leftMs, signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      unwatch();
    }
  };
}

async function readStatuses(db: Kysely<Tables>, ids: string[]): Promise<(JobStatus | null)[]> {
  const rows = await db.selectFrom('jobs').select(['id', 'status']).where('id', 'in', ids).execute();
  const statuses = new Map(rows.map(({ id, status }) => [id, status]));
  return ids.map((id) => statuses.get(id) ?? null);
}
