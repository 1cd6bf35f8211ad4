// What money needs: when an instance must end, what a rental has cost at which price and on which day, and the credit that is left.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table instances add column expires_at timestamptz;

    alter table rentals
      add column past_prices jsonb not null default '[]',
      add column recorded_at timestamptz;
    create index rentals_unrecorded on rentals (id) where recorded_at is null;

    alter table attempts
      add column rental_id uuid references rentals (id),
      add column traffic_micros bigint;
    create index attempts_of_rental on attempts (rental_id);
    create index attempts_without_traffic on attempts (id) where traffic_micros is null;

    create table rental_costs (
      rental_id uuid not null references rentals (id),
      day date not null,
      gpu_micros bigint not null,
      storage_micros bigint not null,
      traffic_micros bigint not null,
      primary key (rental_id, day)
    );
    create index rental_costs_by_day on rental_costs (day);

    alter table jobs add column workflow_shape text;
    create index jobs_by_shape on jobs (workflow_shape, finished_at) where status = 'succeeded';

    create table provider_credit (
      provider text primary key,
      credit_usd double precision,
      checked_at timestamptz not null
    );
  `.execute(db);
}
