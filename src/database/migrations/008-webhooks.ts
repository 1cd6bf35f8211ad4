// What webhooks need: where a job wants to be announced, and the log of what was sent there.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table jobs add column webhook_url text;

    create table webhook_deliveries (
      id uuid primary key,
      job_id uuid not null references jobs (id) on delete cascade,
      type text not null,
      url text not null,
      status text not null default 'pending',
      body text,
      wake integer not null default 0,
      tries integer not null default 0,
      tries_of_round integer not null default 0,
      next_try_at timestamptz,
      created_at timestamptz not null default now(),
      ended_at timestamptz,
      unique (job_id)
    );
    create index webhook_deliveries_pending on webhook_deliveries (next_try_at) where status = 'pending';
    create index webhook_deliveries_ended on webhook_deliveries (ended_at) where status <> 'pending';

    create table webhook_tries (
      delivery_id uuid not null references webhook_deliveries (id) on delete cascade,
      number integer not null,
      started_at timestamptz not null,
      ended_at timestamptz,
      status_code integer,
      error text,
      answer text,
      primary key (delivery_id, number)
    );
  `.execute(db);
}
