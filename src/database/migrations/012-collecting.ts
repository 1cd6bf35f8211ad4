// When the results of an attempt began to be fetched, which may be long after ComfyUI was done with it.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table attempts add column collecting_at timestamptz;
    update attempts set collecting_at = executed_at where status = 'collecting';
  `.execute(db);
}
