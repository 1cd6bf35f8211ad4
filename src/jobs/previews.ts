// Previews: images of unfinished results. Only the newest of a job is kept, only while somebody wants it, and none outlives the job.
import { randomUUID } from 'node:crypto';
import { sql, type Kysely } from 'kysely';
import type { Executor } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import type { AttemptRef } from './attempt.ts';
import { announcePreview } from './events.ts';

export interface Preview {
  nodeId: string;
  contentType: string;
  image: Uint8Array;
}

export interface StoredPreview extends Preview {
  /** Another one for each image. */
  id: string;
}

/** How long a wish for previews holds. Whoever goes on watching renews it well before. */
export const WISH_SECONDS = 30;

/** Wants the previews of jobs that have not ended. Times are those of the database: the clocks of replicas may differ. */
export async function wantPreviews(executor: Executor, jobIds: readonly string[]): Promise<void> {
  await sql`
    insert into job_previews (job_id, wanted_until)
    select id, now() + ${WISH_SECONDS} * interval '1 s' from jobs
    where id = any(${jobIds}::uuid[]) and finished_at is null
    order by id
    on conflict (job_id) do update set wanted_until = excluded.wanted_until`.execute(executor);
}

/** For how many milliseconds to come somebody is known to want the previews of a job; 0 when nobody does. */
export async function previewsWantedForMs(db: Kysely<Tables>, jobId: string): Promise<number> {
  const row = await db
    .selectFrom('job_previews')
    .select(sql<number>`(extract(epoch from wanted_until - now()) * 1000)::float8`.as('forMs'))
    .where('job_id', '=', jobId)
    .executeTakeFirst();
  return Math.max(0, row?.forMs ?? 0);
}

/** Whether ComfyUI is to make previews of a job: its request says so, or somebody waits for them. */
export const arePreviewsAskedFor = sql<boolean>`(jobs.previews or exists (
  select from job_previews where job_previews.job_id = jobs.id and job_previews.wanted_until > now()))`;

/** Puts a preview in the place of the one before and announces it. False when nobody wants it, or the attempt has ended. */
export async function showPreview(
  db: Kysely<Tables>,
  { jobId, attemptId }: AttemptRef,
  { nodeId, contentType, image }: Preview,
): Promise<boolean> {
  const row = await db
    .updateTable('job_previews')
    .from('jobs')
    .set({ image_id: randomUUID(), node_id: nodeId, content_type: contentType, image: Buffer.from(image) })
    .whereRef('jobs.id', '=', 'job_previews.job_id')
    .where('job_previews.job_id', '=', jobId)
    .where('jobs.attempt_id', '=', attemptId)
    .where('jobs.status', 'in', ['running', 'canceling'])
    .where('wanted_until', '>', sql<Date>`now()`)
    .returning('job_id')
    .executeTakeFirst();
  if (row === undefined) return false;
  await announcePreview(db, jobId);
  return true;
}

/** The newest preview of each job, where that is not the one that was seen. */
export async function readPreviews(
  executor: Executor,
  seen: readonly { jobId: string; id: string | null }[],
): Promise<(StoredPreview | null)[]> {
  const { rows } = await sql<StoredPreview & { place: number }>`
    select asked.place::int, image_id as id, node_id as "nodeId", content_type as "contentType", image
    from unnest(${seen.map(({ jobId }) => jobId)}::uuid[], ${seen.map(({ id }) => id)}::uuid[])
      with ordinality asked (job_id, id, place)
    join job_previews on job_previews.job_id = asked.job_id
    where image is not null and image_id is distinct from asked.id`.execute(executor);
  const byPlace = new Map(rows.map(({ place, ...preview }) => [place, preview]));
  return seen.map((_, index) => byPlace.get(index + 1) ?? null);
}

/** Forgets the preview of an attempt that ends; whoever watches the job may want those of the next. */
export async function forgetPreview(db: Kysely<Tables>, jobId: string): Promise<void> {
  await db
    .updateTable('job_previews')
    .set({ image_id: null, node_id: null, content_type: null, image: null })
    .where('job_id', '=', jobId)
    .where('image_id', 'is not', null)
    .execute();
}

/** Removes previews that nobody wants any more, and those of jobs that have ended. */
export async function sweepPreviews(db: Kysely<Tables>): Promise<void> {
  await db
    .deleteFrom('job_previews')
    .using('jobs')
    .whereRef('jobs.id', '=', 'job_previews.job_id')
    .where((where) =>
      where.or([where('wanted_until', '<=', sql<Date>`now()`), where('finished_at', 'is not', null)]),
    )
    .execute();
}
