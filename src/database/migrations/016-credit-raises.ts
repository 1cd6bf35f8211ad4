// When the credit of the account was last seen to have risen.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table provider_credit add column raised_at timestamptz`.execute(db);
}
