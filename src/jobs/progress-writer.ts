// Shows the progress of one attempt, not more often than anybody wants to see it.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { PromptEvent } from '../comfyui/session.ts';
import type { Tables } from '../database/tables.ts';
import type { AttemptRef } from './attempt.ts';
import { announceJob } from './events.ts';
import type { JobProgress, Workflow } from './job.ts';
import { noProgress, progressOf, withEvent } from './progress.ts';

export interface ProgressWriter {
  enter(phase: JobProgress['phase']): void;
  note(event: PromptEvent): void;
  /** Writes no more; resolves when nothing is being written. */
  stop(): Promise<void>;
}

interface Options {
  db: Kysely<Tables>;
  ref: AttemptRef;
  workflow: Workflow;
  /** What was shown last, by whoever ran the attempt before. */
  before: JobProgress | null;
  /** Between two writes, in milliseconds. */
  intervalMs: number;
  log: Logger;
}

export function createProgressWriter({
  db,
  ref,
  workflow,
  before,
  intervalMs,
  log,
}: Options): ProgressWriter {
  let state = noProgress;
  let phase: JobProgress['phase'] | null = null;
  let shown = before;
  let timer: NodeJS.Timeout | null = null;
  let lastWriteAt = -Infinity;
  let writing = Promise.resolve();
  let stopped = false;

  function schedule(): void {
    if (stopped || phase === null || timer !== null) return;
    const waitMs = Math.max(0, lastWriteAt + intervalMs - performance.now());
    timer = setTimeout(() => {
      timer = null;
      lastWriteAt = performance.now();
      writing = writing.then(show);
    }, waitMs);
  }

  /** A snapshot that does not get written is no loss: the next one replaces it. */
  async function show(): Promise<void> {
    if (phase === null) return;
    const next = progressOf(state, workflow, phase, shown);
    if (JSON.stringify(next) === JSON.stringify(shown)) return;
    try {
      await writeProgress(db, ref, next);
      shown = next;
    } catch (error) {
      log.debug({ err: error }, 'a snapshot of the progress was not written');
    }
  }

  return {
    enter(next) {
      if (phase === next) return;
      phase = next;
      schedule();
    },
    note(event) {
      const next = withEvent(state, event);
      if (event.kind === 'started' || event.kind === 'executing') phase = 'executing';
      else if (next === state) return;
      state = next;
      schedule();
    },
    async stop() {
      stopped = true;
      if (timer !== null) clearTimeout(timer);
      await writing;
    },
  };
}

async function writeProgress(
  db: Kysely<Tables>,
  { jobId, attemptId }: AttemptRef,
  progress: JobProgress,
): Promise<void> {
  const row = await db
    .updateTable('jobs')
    .set({ progress: JSON.stringify(progress) })
    .where('id', '=', jobId)
    .where('attempt_id', '=', attemptId)
    .where('status', 'in', ['running', 'canceling'])
    .returning('id')
    .executeTakeFirst();
  if (row !== undefined) await announceJob(db, jobId);
}
