// What callers need: requests that may be repeated, many jobs of one workflow under one id, and lists by label.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table idempotency_keys (
      api_key text not null,
      route text not null,
      key text not null,
      fingerprint text not null,
      made_id uuid not null,
      created_at timestamptz not null,
      expires_at timestamptz not null,
      primary key (api_key, route, key)
    );
    create index idempotency_keys_by_expiry on idempotency_keys (expires_at);

    create table batches (
      id uuid primary key,
      workflow jsonb not null,
      job_count integer not null,
      api_key text,
      created_at timestamptz not null
    );

    alter table jobs
      add column batch_id uuid references batches (id),
      alter column workflow drop not null,
      add constraint jobs_workflow_somewhere check (workflow is not null or batch_id is not null);
    create index jobs_of_batch on jobs (batch_id, id) where batch_id is not null;
    create index jobs_of_instance on jobs (instance_id, id) where instance_id is not null;
    create index jobs_by_creation on jobs (created_at);
    create index jobs_by_metadata on jobs using gin (metadata jsonb_path_ops);
  `.execute(db);
}
