// The first schema. Times are timestamptz, money is US dollars, identifiers are UUIDs made by the service.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table service_values (
      name text primary key,
      value text not null
    );

    create table api_keys (
      id uuid primary key,
      name text not null unique,
      hash text not null unique,
      origin text not null check (origin in ('settings', 'command')),
      created_at timestamptz not null default now(),
      revoked_at timestamptz
    );

    create table instances (
      id uuid primary key,
      provider text not null check (provider in ('vast', 'static')),
      status text not null check (status in ('requested', 'provisioning', 'ready', 'draining', 'terminating', 'terminated')),
      phase text check (phase in ('searching', 'renting', 'loading', 'starting')),
      phases jsonb not null default '[]',
      phase_started_at timestamptz,
      requirements jsonb,
      wanted_offer_id text,
      static_url text,
      rental_id uuid,
      rental_count integer not null default 0,
      gpu_name text,
      gpu_count integer,
      vram_gb double precision,
      region text,
      comfyui_version text,
      message text,
      unreachable_since timestamptz,
      checks_passed integer not null default 0,
      termination_reason text,
      termination_detail text,
      pending_reason text,
      pending_detail text,
      wake integer not null default 0,
      next_step_at timestamptz,
      api_key text,
      created_at timestamptz not null default now(),
      ready_at timestamptz,
      terminated_at timestamptz
    );
    create index instances_status on instances (status, id);
    create unique index instances_static_url on instances (static_url) where status <> 'terminated';

    create table rentals (
      id uuid primary key,
      instance_id uuid not null references instances (id),
      number integer not null,
      status text not null check (status in ('intended', 'creating', 'active', 'destroying', 'gone')),
      label text not null unique,
      offer jsonb not null,
      machine_id text not null,
      price_per_hour_usd double precision not null,
      provider_instance_id text unique,
      secret text not null,
      address_url text,
      certificate_fingerprint text,
      message text,
      end_reason text,
      end_evidence text,
      destroy_tries integer not null default 0,
      created_at timestamptz not null default now(),
      create_sent_at timestamptz,
      confirmed_at timestamptz,
      seen_at timestamptz,
      running_at timestamptz,
      trouble text,
      trouble_since timestamptz,
      ready_at timestamptz,
      destroy_requested_at timestamptz,
      gone_at timestamptz,
      unique (instance_id, number)
    );
    create index rentals_not_gone on rentals (instance_id) where status <> 'gone';

    create table assets (
      id text primary key check (id ~ '^[0-9a-f]{64}$'),
      size_bytes bigint not null,
      content_type text not null,
      file_name text,
      created_at timestamptz not null default now()
    );

    create table jobs (
      id uuid primary key,
      status text not null check (status in ('queued', 'running', 'canceling', 'succeeded', 'failed', 'canceled', 'expired')),
      workflow jsonb not null,
      inputs jsonb not null default '[]',
      requirements jsonb,
      wanted_instance_id uuid references instances (id),
      priority integer not null default 0,
      metadata jsonb not null default '{}',
      wait_limit_ms bigint not null,
      time_limit_ms bigint not null,
      waiting_for text,
      progress jsonb,
      error jsonb,
      attempt integer not null default 0,
      attempt_id uuid,
      instance_id uuid references instances (id),
      cancel_requested_at timestamptz,
      api_key text,
      created_at timestamptz not null default now(),
      queued_at timestamptz not null default now(),
      started_at timestamptz,
      finished_at timestamptz
    );
    create index jobs_by_status on jobs (status, id);
    create index jobs_queue on jobs (priority desc, queued_at) where status = 'queued';

    create table attempts (
      id uuid primary key,
      job_id uuid not null references jobs (id),
      number integer not null,
      instance_id uuid not null references instances (id),
      slot integer not null,
      client_id uuid,
      status text not null check (status in ('staging', 'submitted', 'collecting', 'ended')),
      outcome text check (outcome in ('succeeded', 'failed', 'canceled', 'lost')),
      reason text,
      created_at timestamptz not null default now(),
      touched_at timestamptz not null default now(),
      submitted_at timestamptz,
      started_at timestamptz,
      executed_at timestamptz,
      ended_at timestamptz,
      unique (job_id, number)
    );

    create table slots (
      instance_id uuid not null references instances (id),
      slot integer not null check (slot in (0, 1)),
      job_id uuid unique references jobs (id),
      primary key (instance_id, slot)
    );

    create table outputs (
      job_id uuid not null references jobs (id),
      name text not null,
      position integer not null,
      node_id text not null,
      kind text not null check (kind in ('image', 'video', 'audio', 'model', 'text', 'file')),
      temporary boolean not null,
      asset_id text references assets (id),
      text text,
      created_at timestamptz not null default now(),
      primary key (job_id, name),
      check ((asset_id is null) <> (text is null))
    );

    create table job_events (
      id bigint generated always as identity primary key,
      job_id uuid not null references jobs (id),
      type text not null,
      data jsonb not null,
      created_at timestamptz not null default now()
    );
    create index job_events_of_job on job_events (job_id, id);
  `.execute(db);
}
