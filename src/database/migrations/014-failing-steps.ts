// Since when the steps of an instance have failed for reasons that nobody foresaw.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table instances add column failing_since timestamptz`.execute(db);
}
