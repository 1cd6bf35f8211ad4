// What an instance's machine has beside its GPU, for jobs that ask for it.
import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table instances
      add column ram_gb double precision,
      add column disk_gb double precision,
      add column cuda_version double precision;
    update instances set
      ram_gb = (offer->>'ramGb')::double precision,
      disk_gb = (offer->>'diskGb')::double precision,
      cuda_version = (offer->>'cudaVersion')::double precision
    from rentals where rentals.id = instances.rental_id;
  `.execute(db);
}
