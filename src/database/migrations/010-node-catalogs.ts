// What is known before a job is accepted: the node classes of instances. And what a run leaves to be known: the seeds, and whether ComfyUI made anything anew.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table node_catalogs (
      id text primary key,
      image text,
      content bytea not null,
      read_at timestamptz not null
    );
    create index node_catalogs_of_image on node_catalogs (image, read_at desc) where image is not null;

    alter table instances
      add column catalog_id text references node_catalogs (id) on delete set null,
      add column catalog_read_at timestamptz;
    create index instances_with_catalog on instances (catalog_id) where catalog_id is not null;

    alter table jobs add column seeds jsonb not null default '[]';
    alter table attempts add column outputs_reused boolean;
  `.execute(db);
}
