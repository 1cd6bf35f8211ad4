// What the fleet needs: who made an instance and why, when it may be let go, and what jobs wait for in vain.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table instances
      add column wish text,
      add column race_id uuid,
      add column idle_minutes double precision;

    create index attempts_of_instance on attempts (instance_id, ended_at);

    create table fleet_notes (
      wish text primary key,
      note text not null
    );
  `.execute(db);
}
