// What the events of jobs need: the instance that a queued job waits for, and the newest preview of those that somebody watches.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    -- No reference: it is a hint, and must not make its writer wait for whoever holds the instance.
    alter table jobs
      add column previews boolean not null default false,
      add column waiting_instance_id uuid;

    -- Not in the write-ahead log: a crash of the database may forget it.
    create unlogged table job_previews (
      job_id uuid primary key references jobs (id) on delete cascade,
      wanted_until timestamptz not null,
      image_id uuid,
      node_id text,
      content_type text,
      image bytea
    );
    -- Images do not get smaller by compression.
    alter table job_previews alter column image set storage external;
  `.execute(db);
}
