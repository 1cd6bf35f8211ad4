// The label by which a rental is recognised as ours: `<prefix>.<deployment>.<instance id>.<number of the rental>`.
import { randomBytes } from 'node:crypto';
import type { Kysely } from 'kysely';
import type { Config } from '../config.ts';
import type { Tables } from '../database/tables.ts';

/**
 * How the labels of this deployment begin. Without a DEPLOYMENT in the settings a name is made once and kept in the
 * database, so that two deployments on one account never take each other's machines for their own.
 */
export async function labelPrefix(
  db: Kysely<Tables>,
  config: Pick<Config, 'LABEL_PREFIX' | 'DEPLOYMENT'>,
): Promise<string> {
  return `${config.LABEL_PREFIX}.${config.DEPLOYMENT ?? (await keptName(db))}`;
}

/** The label of one rental of one instance. */
export function labelOf(prefix: string, instanceId: string, number: number): string {
  return `${prefix}.${instanceId}.${number}`;
}

/** The instance that a label of this deployment names; null for every other text. */
export function instanceIdIn(prefix: string, label: string | null): string | null {
  if (label === null || !label.startsWith(`${prefix}.`)) return null;
  return (
    /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.\d+$/.exec(label.slice(prefix.length + 1))?.[1] ?? null
  );
}

async function keptName(db: Kysely<Tables>): Promise<string> {
  await db
    .insertInto('service_values')
    .values({ name: 'deployment', value: randomBytes(4).toString('hex') })
    // Whoever of several replicas comes first decides.
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const row = await db
    .selectFrom('service_values')
    .select('value')
    .where('name', '=', 'deployment')
    .executeTakeFirstOrThrow();
  return row.value;
}
