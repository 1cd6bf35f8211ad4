// Shows the progress of one attempt, not more often than anybody wants to see it.
import { sql, type Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { PromptEvent } from '../comfyui/session.ts';
import type { Tables } from '../database/tables.ts';
import { createThrottle } from '../support/throttle.ts';
import type { AttemptRef } from './attempt.ts';
import { announcement, logAttempt } from './events.ts';
import type { JobProgress, Workflow } from './job.ts';
import { createPreviewWriter, type PreviewLimits } from './preview-writer.ts';
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
  previews: PreviewLimits;
  log: Logger;
}

/** What has changed again by then need not be written: a short job shows its end alone. */
const LEAD_MS = 100;
/** Of an attempt; a workflow of a thousand nodes may have as many to tell. */
const MAX_WARNINGS = 20;

export function createProgressWriter(options: Options): ProgressWriter {
  const { db, ref, workflow, log } = options;
  let state = noProgress;
  let phase: JobProgress['phase'] | null = null;
  let shown = options.before;
  let stopped = false;
  const throttle = createThrottle(options.intervalMs, show, LEAD_MS);
  const previews = createPreviewWriter({ db, ref, limits: options.previews, log });
  const warnings = new Set<string>();
  let warning = Promise.resolve();

  /** A snapshot that does not get written is written later, or one that replaces it: a node may tell nothing more for long. */
  async function show(): Promise<void> {
    if (phase === null) return;
    const next = progressOf(state, workflow, phase, shown);
    if (JSON.stringify(next) === JSON.stringify(shown)) return;
    try {
      await writeProgress(db, ref, next);
      shown = next;
    } catch (error) {
      log.debug({ err: error }, 'a snapshot of the progress was not written; trying again');
      throttle.ask();
    }
  }

  function warn(message: string): void {
    if (stopped || warnings.has(message) || warnings.size >= MAX_WARNINGS) return;
    warnings.add(message);
    warning = warning
      .then(() => logAttempt(db, ref, message))
      .catch((error: unknown) => log.debug({ err: error }, 'a warning was not written'));
  }

  return {
    enter(next) {
      if (phase === next) return;
      phase = next;
      throttle.ask();
    },
    note(event) {
      if (event.kind === 'preview') {
        return previews.offer({ nodeId: event.node, contentType: event.contentType, image: event.image });
      }
      if (event.kind === 'warning') return warn(event.message);
      const next = withEvent(state, event, workflow);
      if (event.kind === 'started' || event.kind === 'executing') phase = 'executing';
      else if (next === state) return;
      state = next;
      throttle.ask();
    },
    async stop() {
      stopped = true;
      await Promise.all([throttle.stop(), previews.stop(), warning]);
    },
  };
}

async function writeProgress(
  db: Kysely<Tables>,
  { jobId, attemptId }: AttemptRef,
  progress: JobProgress,
): Promise<void> {
  await db
    .updateTable('jobs')
    .set({ progress: JSON.stringify(progress) })
    .where('id', '=', jobId)
    .where('attempt_id', '=', attemptId)
    .where('status', 'in', ['running', 'canceling'])
    .returning(announcement(sql.ref('id')).as('announced'))
    .execute();
}
