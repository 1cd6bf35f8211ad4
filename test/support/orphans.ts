// Rentals that nobody accounts for, made from those that were rented in good order.
import type { Executor } from '../../src/database/queues.ts';

/** What the first rental of an instance is called at the provider, in the deployment `test`. */
export const labelled = (instanceId: string): string => `cfy.test.${instanceId}.1`;

/** As after the loss of the database: the machine goes on, and no record knows it. */
export async function forget(db: Executor, instanceId: string): Promise<void> {
  await db.deleteFrom('slots').where('instance_id', '=', instanceId).execute();
  const rentals = db.selectFrom('rentals').select('id').where('instance_id', '=', instanceId);
  await db.deleteFrom('rental_costs').where('rental_id', 'in', rentals).execute();
  await db.deleteFrom('rentals').where('instance_id', '=', instanceId).execute();
  await db.deleteFrom('instances').where('id', '=', instanceId).execute();
}
