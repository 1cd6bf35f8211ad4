// The events of one job as Server-Sent Events: a snapshot, then every change, until its final status.
import type { Kysely } from 'kysely';
import type { z } from 'zod';
import type { Notifications } from '../database/notifications.ts';
import type { Tables } from '../database/tables.ts';
import { plainLink, type LinkTo, type SignedLinks } from '../http/signed-links.ts';
import { isFinal } from './job.ts';
import { createNews, readStates, type Change, type JobState, type NewsEvent, type Seen } from './news.ts';
import { presentComing, presentOutput, presentSummary } from './presentation.ts';
import { createPreviewWatch, type PreviewView } from './preview-watch.ts';
import { outputsOf } from './records.ts';
import type { jobEventSchema } from './schemas.ts';
import { createWake } from '../support/wake.ts';

export interface StreamRequest {
  jobId: string;
  /** The last event that the caller has seen; null sends a snapshot first. */
  afterId: number | null;
  /** Whether the caller wants previews too. */
  previews: boolean;
  /** Aborted when the caller has gone. */
  gone: AbortSignal;
  /** Aborted when the service stops: the caller is sent to another replica. */
  stopping: AbortSignal;
}

export interface StreamsDeps {
  db: Kysely<Tables>;
  notifications: Notifications;
  /** Makes the links to outputs; plain ones unless told. */
  links?: SignedLinks['links'];
}

export interface StreamTiming {
  /** How often to look without having been told: notifications may be lost. */
  pollMs: number;
  /** How often to write something, so that proxies keep the connection; it is looked after at every poll. */
  keepAliveMs: number;
}

export interface Streams {
  /** The text of one stream, piece by piece. A caller who reads slowly gets the newest progress, and no backlog of it. */
  open(request: StreamRequest): AsyncGenerator<string>;
}

/** What is sent, whether it happens now, was missed or is part of the snapshot. */
type EventView = z.output<typeof jobEventSchema>;

/** How long a browser waits before it comes back after a lost connection, in milliseconds. */
const RETRY_MS = 2000;

/** The streams of this process. However many they are, those that have nothing to tell cost next to nothing. */
export function createStreams(
  { db, notifications, links = async () => plainLink }: StreamsDeps,
  { pollMs = 5000, keepAliveMs = 15_000 }: Partial<StreamTiming> = {},
): Streams {
  const news = createNews(db, notifications, pollMs);
  const previews = createPreviewWatch(db, notifications);

  return {
    async *open({ jobId, afterId, gone, stopping, ...request }) {
      const signal = AbortSignal.any([gone, stopping]);
      const wake = createWake();
      const unwatch = news.watch(jobId, () => wake.now());
      const view = request.previews ? previews.watch(jobId, () => wake.now()) : null;
      let sent = afterId === null ? null : { ...nothingSent, eventId: afterId };
      let wroteAt = performance.now();
      try {
        yield `retry: ${RETRY_MS}\n\n`;
        while (!signal.aborted) {
          const look: Look =
            sent === null
              ? await takeSnapshot(db, jobId, links)
              : await takeChange(sent, await news.since(jobId, sent), links);
          sent = look.sent;
          const text = look.text + (look.ended ? '' : await takePreview(view));
          const isSilent = performance.now() - wroteAt >= keepAliveMs;
          if (text !== '' || isSilent) {
            yield text === '' ? ': keep-alive\n\n' : text;
            wroteAt = performance.now();
          }
          if (look.ended) return;
          if (!look.more) await wake.wait(null, signal);
        }
      } catch (error) {
        if (!signal.aborted) throw error;
      } finally {
        unwatch();
        view?.stop();
      }
      if (!gone.aborted) yield farewell();
    },
  };
}

/** How far a stream has come, and what it said last of what has no event of its own. */
interface Sent extends Seen {
  progress: string;
  waiting: string;
}

const nothingSent: Sent = { version: null, eventId: 0, progress: 'null', waiting: 'null' };

interface Look {
  text: string;
  sent: Sent;
  ended: boolean;
  /** There is more to read at once. */
  more: boolean;
}

/** Everything that a caller needs who has seen nothing; carries the id of the last event that it includes. */
async function takeSnapshot(db: Kysely<Tables>, jobId: string, links: SignedLinks['links']): Promise<Look> {
  const [found] = await readStates(db, [{ jobId, version: null, eventId: 0 }]);
  if (found === undefined || found.state === null) {
    return { text: '', sent: nothingSent, ended: true, more: false };
  }
  const { state: job, lastId } = found;
  const ended = isFinal(job.status);
  // They are written with the end.
  const outputs = ended ? await outputsOf(db, jobId).orderBy('position').execute() : [];
  const linkTo = outputs.length === 0 ? plainLink : await links();
  const { progress } = presentSummary(job);
  const text = [
    ...outputs.map((output) => frame({ event: 'output', data: presentOutput(jobId, output, linkTo) })),
    progress === null ? '' : frame({ event: 'progress', data: progress }),
    frame({ event: 'status', data: statusOf(job) }, lastId),
  ].join('');
  return { text, sent: sentOf(job, lastId), ended, more: false };
}

/** Events first; what has none of its own is shown when they have all been sent, so that it is never older than they are. */
async function takeChange(
  sent: Sent,
  { state, events, gone }: Change,
  links: SignedLinks['links'],
): Promise<Look> {
  const last = events.at(-1);
  if (last !== undefined) {
    const linkTo = events.some(({ type }) => type === 'output') ? await links() : plainLink;
    const text = events.map((event) => frameOf(event, linkTo)).join('');
    // A status says nothing of what the job waits for, which may be the same as before.
    const waiting = events.some(({ type }) => type === 'status') ? nothingSent.waiting : sent.waiting;
    return { text, sent: { ...sent, eventId: last.id, waiting }, ended: events.some(isEnd), more: true };
  }
  if (state === null) return { text: '', sent, ended: gone, more: false };
  const next = sentOf(state, sent.eventId);
  const { progress } = presentSummary(state);
  const parts = [
    next.waiting !== sent.waiting && state.status === 'queued'
      ? frame({ event: 'status', data: statusOf(state) })
      : '',
    next.progress !== sent.progress && progress !== null ? frame({ event: 'progress', data: progress }) : '',
  ];
  return { text: parts.join(''), sent: next, ended: isFinal(state.status), more: false };
}

function frameOf(event: NewsEvent, linkTo: LinkTo): string {
  return frame(viewOf(event, linkTo), event.id);
}

function viewOf(event: NewsEvent, linkTo: LinkTo): EventView {
  if (event.type === 'output') {
    return { event: 'output', data: presentOutput(event.output.job_id, event.output, linkTo) };
  }
  if (event.type === 'log') return { event: 'log', data: event.data };
  // Where one is on its way, the state that follows the events says so.
  return { event: 'status', data: { ...event.data, comingInstance: null } };
}

function isEnd(event: NewsEvent): boolean {
  return event.type === 'status' && isFinal(event.data.status);
}

function statusOf(job: JobState): Extract<EventView, { event: 'status' }>['data'] {
  const { status, waitingFor, instanceId, attempt } = presentSummary(job);
  return { status, waitingFor, comingInstance: presentComing(job), instanceId, attempt, error: job.error };
}

function sentOf(job: JobState, eventId: number): Sent {
  const { progress, waitingFor } = presentSummary(job);
  return {
    version: job.version,
    eventId,
    progress: JSON.stringify(progress),
    waiting: JSON.stringify([waitingFor, presentComing(job)]),
  };
}

async function takePreview(view: PreviewView | null): Promise<string> {
  const preview = (await view?.take()) ?? null;
  return preview === null ? '' : frame({ event: 'preview', data: preview });
}

/** Sends a browser to another replica soon, and not all browsers at the same moment. */
function farewell(): string {
  return `retry: ${Math.round(100 + Math.random() * 900)}\n: the service stops\n\n`;
}

function frame({ event, data }: EventView, id?: number): string {
  return `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}
