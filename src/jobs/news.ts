// What is new about jobs, for everybody in this process who follows some: they share one look at the database, and its rhythm.
import { sql, type Kysely } from 'kysely';
import type { Notifications } from '../database/notifications.ts';
import type { Executor } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { batched } from '../support/batched.ts';
import { watchJob, type StoredEvent } from './events.ts';
import { summaryColumns, type ComingColumns, type JobSummaryRow, type StoredOutput } from './records.ts';

/** How far somebody has followed a job. */
export interface Seen {
  /** Of the state that he saw last; null for none. */
  version: string | null;
  /** Of the last event that he saw; 0 for none. */
  eventId: number;
}

export interface JobState extends JobSummaryRow, ComingColumns {
  /** Another one after each change of what is in here. */
  version: string;
}

/** An event with what it names. */
export type NewsEvent =
  Exclude<StoredEvent, { type: 'output' }> | { id: number; type: 'output'; output: StoredOutput };

export interface Change {
  /** Null when nothing has changed since. Never newer than the events. */
  state: JobState | null;
  /** After those that he saw, the oldest first. There may be more. */
  events: NewsEvent[];
  /** The job was deleted. */
  gone: boolean;
}

export interface News {
  /** What somebody has not seen of a job. */
  since(jobId: string, seen: Seen): Promise<Change>;
  /** Calls `listener` when there may be something new about the job, and every few seconds, until the returned function is called. */
  watch(jobId: string, listener: () => void): () => void;
}

type Question = { jobId: string } & Seen;

const EVENTS_A_LOOK = 200;

/** `tickMs`: how often everybody looks without having been told, since notifications may be lost. */
export function createNews(db: Kysely<Tables>, notifications: Notifications, tickMs = 5000): News {
  const listeners = new Set<() => void>();
  let ticking: NodeJS.Timeout | undefined;
  const look = batched((questions: Question[]) => readChanges(db, questions), { keyOf });

  function tick(): void {
    for (const listener of listeners) listener();
  }

  return {
    since: (jobId, seen) => look({ jobId, ...seen }),
    watch(jobId, listener) {
      // The same listener may watch several jobs.
      const own = () => listener();
      const unwatch = watchJob(notifications, jobId, own);
      listeners.add(own);
      ticking ??= setInterval(tick, tickMs).unref();
      return () => {
        unwatch();
        listeners.delete(own);
        if (listeners.size > 0) return;
        clearInterval(ticking);
        ticking = undefined;
      };
    },
  };
}

export interface Look extends Pick<Change, 'state' | 'gone'> {
  /** Of the last event of the job, where anything has changed; 0 for none. */
  lastId: number;
}

/** The state of each job, where it has another version than the one that was seen, or newer events. */
export async function readStates(executor: Executor, seen: readonly Question[]): Promise<Look[]> {
  const columns = sql.join(summaryColumns.map((column) => sql.ref(`jobs.${column}`)));
  // A row's xmin is the transaction that wrote it last, so it changes with every update, whoever makes it.
  const version = sql<string>`jobs.xmin::text || ' ' || coalesce(coming.xmin::text, '')`;
  const { rows } = await sql<JobState & { place: number; gone: boolean; last_event_id: number }>`
    select asked.place::int, jobs.id is null as gone, coalesce(last.id, 0) as last_event_id,
      ${columns}, ${version} as version, coming.id as coming_id,
      coming.phase as coming_phase, coming.phase_started_at as coming_since, coming.message as coming_message
    from unnest(${seen.map(({ jobId }) => jobId)}::uuid[], ${seen.map((one) => one.version)}::text[],
      ${seen.map(({ eventId }) => eventId)}::bigint[]) with ordinality asked (id, version, event_id, place)
    left join jobs on jobs.id = asked.id
    left join lateral (select max(id) as id from job_events where job_id = asked.id) last on true
    left join instances coming on coming.id = jobs.waiting_instance_id
      and jobs.status = 'queued' and coming.status in ('requested', 'provisioning')
    where jobs.id is null or last.id > asked.event_id or ${version} is distinct from asked.version`.execute(
    executor,
  );
  const byPlace = new Map(
    rows.map(({ place, gone, last_event_id: lastId, ...state }) => [
      place,
      { state: gone ? null : state, gone, lastId },
    ]),
  );
  return seen.map((_, index) => byPlace.get(index + 1) ?? { state: null, gone: false, lastId: 0 });
}

/** The state is read before the events: everything that led to it is then among them. */
async function readChanges(db: Kysely<Tables>, questions: Question[]): Promise<Change[]> {
  const looks = await readStates(db, questions);
  const behind = questions.filter(({ eventId }, index) => (looks[index]?.lastId ?? 0) > eventId);
  const events = behind.length === 0 ? new Map<string, NewsEvent[]>() : await readEvents(db, behind);
  return questions.map((question, index) => {
    const { state = null, gone = false } = looks[index] ?? {};
    return { state, gone, events: events.get(keyOf(question)) ?? [] };
  });
}

/** By what was asked, in their order. The row of an output lasts as long as the events of its job. */
async function readEvents(db: Kysely<Tables>, questions: Question[]): Promise<Map<string, NewsEvent[]>> {
  const { rows } = await sql<StoredEvent & StoredOutput & { place: number }>`
    select asked.place::int, event.id, event.type, event.data, outputs.*
    from unnest(${questions.map(({ jobId }) => jobId)}::uuid[], ${questions.map((one) => one.eventId)}::bigint[])
      with ordinality asked (job_id, event_id, place)
    cross join lateral (
      select id, type, data from job_events
      where job_events.job_id = asked.job_id and job_events.id > asked.event_id
      order by id limit ${sql.lit(EVENTS_A_LOOK)}
    ) event
    left join outputs on event.type = 'output'
      and outputs.job_id = asked.job_id and outputs.name = event.data->>'name'
    order by asked.place, event.id`.execute(db);
  const byPlace = Map.groupBy(rows, ({ place }) => place);
  return new Map(
    questions.map((question, index) => [keyOf(question), (byPlace.get(index + 1) ?? []).map(eventOf)]),
  );
}

function eventOf(row: StoredEvent & StoredOutput): NewsEvent {
  return row.type === 'output' ? { id: row.id, type: row.type, output: row } : row;
}

function keyOf({ jobId, version, eventId }: Question): string {
  return `${jobId} ${version} ${eventId}`;
}
