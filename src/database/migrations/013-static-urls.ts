// A ComfyUI server that is put back into the settings need not wait until its earlier instance has ended.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    drop index instances_static_url;
    create unique index instances_static_url on instances (static_url)
      where status not in ('terminating', 'terminated');
  `.execute(db);
}
