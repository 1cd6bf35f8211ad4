// When a step of an instance last failed for a reason that nobody foresaw.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table instances add column failed_at timestamptz`.execute(db);
}
