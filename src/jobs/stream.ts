// The events of one job as Server-Sent Events: a snapshot, then every change, until its final status.
import type { Kysely } from 'kysely';
import type { Notifications } from '../database/notifications.ts';
import type { Tables } from '../database/tables.ts';
import { eventsAfter, watchJob, type StatusData, type StoredEvent } from './events.ts';
import { isFinal } from './job.ts';
import { presentOutput, presentSummary } from './presentation.ts';
import { outputsOf, summaryColumns, type JobSummaryRow } from './records.ts';
import { createWake } from './wake.ts';

export interface StreamOptions {
  db: Kysely<Tables>;
  notifications: Notifications;
  jobId: string;
  /** The last event that the caller has seen; null sends a snapshot first. */
  afterId: number | null;
  /** Ends the stream: the caller is gone, or the service stops. */
  signal: AbortSignal;
  /** How often to look without being told; notifications may be lost. */
  pollMs?: number;
  /** How often to write something, so that proxies keep the connection. */
  keepAliveMs?: number;
}

/** What was sent last of what has no event of its own. */
interface Sent {
  afterId: number;
  progress: string;
  waitingFor: string | null;
}

/** The text of the stream, piece by piece; ends quietly when the signal is aborted. */
export async function* streamEvents(options: StreamOptions): AsyncGenerator<string> {
  const { db, notifications, jobId, signal, pollMs = 5000, keepAliveMs = 15_000 } = options;
  const wake = createWake();
  const unwatch = watchJob(notifications, jobId, () => wake.now());
  let sent: Sent = { afterId: options.afterId ?? 0, progress: 'null', waitingFor: null };
  let lastWriteAt = performance.now();
  try {
    let fresh = options.afterId === null;
    while (!signal.aborted) {
      const look = fresh ? await takeSnapshot(db, jobId) : await takeChanges(db, jobId, sent);
      fresh = false;
      sent = look.sent;
      if (look.text !== '') {
        lastWriteAt = performance.now();
        yield look.text;
      } else if (performance.now() - lastWriteAt >= keepAliveMs) {
        lastWriteAt = performance.now();
        yield ': keep-alive\n\n';
      }
      if (look.ended) return;
      if (!look.more) await wake.wait(Math.min(pollMs, keepAliveMs), signal);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    unwatch();
  }
}

interface Look {
  text: string;
  sent: Sent;
  ended: boolean;
  /** There is more to read at once. */
  more: boolean;
}

/** Everything that a caller needs who has seen nothing; carries the id of the last event that it includes. */
async function takeSnapshot(db: Kysely<Tables>, jobId: string): Promise<Look> {
  return db
    .transaction()
    .setIsolationLevel('repeatable read')
    .execute(async (trx) => {
      const job = await findSummary(trx, jobId);
      const { lastId } = await trx
        .selectFrom('job_events')
        .select(({ fn }) => fn.max('id').as('lastId'))
        .where('job_id', '=', jobId)
        .executeTakeFirstOrThrow();
      const outputs = await outputsOf(trx, jobId).orderBy('position').execute();
      const afterId = lastId ?? 0;
      const shown = presentSummary(job);
      const text = [
        ...outputs.map((output) => frame('output', presentOutput(jobId, output))),
        shown.progress === null ? '' : frame('progress', shown.progress),
        frame('status', statusOf(job), afterId),
      ].join('');
      const sent = { afterId, progress: JSON.stringify(shown.progress), waitingFor: shown.waitingFor };
      return { text, sent, ended: isFinal(job.status), more: false };
    });
}

/** Events first; what has none of its own is shown when they have all been sent, so that it is never older than they are. */
async function takeChanges(db: Kysely<Tables>, jobId: string, sent: Sent): Promise<Look> {
  const job = await findSummary(db, jobId);
  const events = await eventsAfter(db, jobId, sent.afterId);
  const shown = presentSummary(job);
  const progress = JSON.stringify(shown.progress);
  const last = events.at(-1);
  if (last !== undefined) {
    const text = events.map(({ id, type, data }) => frame(type, data, id)).join('');
    return { text, sent: { ...sent, afterId: last.id }, ended: events.some(isEnd), more: true };
  }
  const parts = [
    shown.waitingFor !== sent.waitingFor && shown.waitingFor !== null ? frame('status', statusOf(job)) : '',
    progress !== sent.progress && shown.progress !== null ? frame('progress', shown.progress) : '',
  ];
  return {
    text: parts.join(''),
    sent: { ...sent, progress, waitingFor: shown.waitingFor },
    ended: isFinal(job.status),
    more: false,
  };
}

function isEnd(event: StoredEvent): boolean {
  return event.type === 'status' && isFinal(event.data.status);
}

async function findSummary(db: Kysely<Tables>, jobId: string): Promise<JobSummaryRow> {
  return db.selectFrom('jobs').select(summaryColumns).where('id', '=', jobId).executeTakeFirstOrThrow();
}

function statusOf(job: JobSummaryRow): StatusData {
  const { status, waitingFor, instanceId, attempt } = presentSummary(job);
  return { status, waitingFor, instanceId, attempt, error: job.error };
}

function frame(type: string, data: unknown, id?: number): string {
  return `${id === undefined ? '' : `id: ${id}\n`}event: ${type}\ndata: ${JSON.stringify(data)}\n\n`;
}
