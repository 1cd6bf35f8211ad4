// What reconciliation, host memory and the dead-man switch need to remember.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    -- A provider may show again what it had confirmed gone: the id and the label then return in a new row.
    alter table rentals drop constraint rentals_provider_instance_id_key;
    alter table rentals drop constraint rentals_label_key;
    create unique index rentals_live_provider_instance on rentals (provider_instance_id) where status <> 'gone';
    create index rentals_provider_instance on rentals (provider_instance_id);
    create index rentals_label on rentals (label);

    alter table rentals
      add column contract_ends_at timestamptz,
      add column dead_man_seconds double precision,
      add column heartbeat_at timestamptz;

    create table orphans (
      provider_instance_id text primary key,
      label text not null,
      first_seen_at timestamptz not null,
      last_seen_at timestamptz not null
    );

    create table machines (
      provider text not null,
      machine_id text not null,
      successes integer not null default 0,
      failures integer not null default 0,
      failures_in_row integer not null default 0,
      last_reasons jsonb not null default '[]',
      cooldown_until timestamptz,
      ready_seconds double precision,
      download_mbps double precision,
      last_ready_at timestamptz,
      last_failed_at timestamptz,
      primary key (provider, machine_id)
    );
  `.execute(db);
}
