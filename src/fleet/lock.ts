// The lock of whoever changes the size of the fleet.
import { sql, type Transaction } from 'kysely';
import type { Tables } from '../database/tables.ts';

/** One lock for all replicas: two that decide at once would rent twice for one job, or pass FLEET_MAX. */
const FLEET_LOCK = 4_711_002;

/** Until the transaction ends, nobody else decides. Who needs the lock on money too takes it after this one. */
export async function lockFleet(trx: Transaction<Tables>): Promise<void> {
  await sql`select pg_advisory_xact_lock(${sql.lit(FLEET_LOCK)})`.execute(trx);
}
