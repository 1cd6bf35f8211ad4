// What lasting results need: names of their own for stored files, outputs that keep their facts when their file goes, and what is older than how long it is kept.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    -- Files from before are called by their hash alone.
    alter table assets
      add column stored_as text,
      add column used_at timestamptz not null default now(),
      add column uploaded boolean not null default true;
    update assets set
      stored_as = id,
      uploaded = not exists (select from outputs where outputs.asset_id = assets.id)
        or id in (select input->>'assetId' from jobs, jsonb_array_elements(inputs) input);
    alter table assets
      alter column stored_as set not null,
      alter column uploaded drop default,
      add unique (stored_as);
    create index assets_by_use on assets (used_at);

    create table loose_files (
      key text primary key,
      removing boolean not null,
      due_at timestamptz not null
    );
    create index loose_files_due on loose_files (due_at);

    alter table outputs
      add column content_type text,
      add column size_bytes bigint,
      add column expired_at timestamptz;
    update outputs set content_type = 'text/plain', size_bytes = octet_length(text) where text is not null;
    update outputs set content_type = assets.content_type, size_bytes = assets.size_bytes
      from assets where assets.id = outputs.asset_id;
    alter table outputs
      alter column content_type set not null,
      alter column size_bytes set not null,
      drop constraint outputs_check,
      add constraint outputs_content check (
        num_nonnulls(asset_id, text) = case when expired_at is null then 1 else 0 end
      );
    create index outputs_of_asset on outputs (asset_id) where asset_id is not null;
    create index outputs_kept on outputs (created_at) where expired_at is null;

    create index jobs_ended on jobs (finished_at) where finished_at is not null;

    -- A job goes with all that belongs to it.
    alter table attempts
      drop constraint attempts_job_id_fkey,
      add foreign key (job_id) references jobs (id) on delete cascade;
    alter table outputs
      drop constraint outputs_job_id_fkey,
      add foreign key (job_id) references jobs (id) on delete cascade;
    alter table job_events
      drop constraint job_events_job_id_fkey,
      add foreign key (job_id) references jobs (id) on delete cascade;
  `.execute(db);
}
