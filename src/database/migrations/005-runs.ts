// What runs need: the line of waiting jobs in its order, attempts that are repeated once, and prompts that ComfyUI does not end.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table instances add column stuck_prompt_id uuid;

    alter table attempts add column retried_for text check (retried_for in ('out_of_memory', 'output_unavailable'));
    create index attempts_by_placement on attempts (instance_id, created_at);

    -- The expressions are those of the queries, or the index is not used.
    drop index jobs_queue;
    create index jobs_in_line on jobs (
      md5(coalesce(api_key, '') || ' ' || coalesce(wanted_instance_id::text, '') || ' ' || coalesce(requirements::text, '')),
      (extract(epoch from created_at at time zone 'UTC') - priority * 60),
      id
    ) where status = 'queued';
    create index jobs_served on jobs (coalesce(api_key, ''), finished_at)
      where started_at is not null and finished_at is not null;
  `.execute(db);
}
