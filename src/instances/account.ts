// The rentals of the provider's account beside our records: which are ours, which nobody accounts for, which are somebody else's.
import type { Kysely } from 'kysely';
import type { Tables } from '../database/tables.ts';
import type { Clock } from '../support/clock.ts';
import { instanceIdIn } from './label.ts';
import type { Provider, ProviderInstance } from './provider.ts';

/** `orphan`: it carries a label of this deployment, and no live record accounts for it. */
export type Ownership = 'ours' | 'orphan' | 'foreign';

export interface AccountRental {
  rental: ProviderInstance;
  ownership: Ownership;
  /** The instance that its record belongs to; null without a live record. */
  instanceId: string | null;
}

export interface LiveRecord {
  instance_id: string;
  label: string;
  status: 'intended' | 'creating' | 'active' | 'destroying';
  provider_instance_id: string | null;
}

/** All rentals of the account. Rejects with a `ProviderError` when the list failed or came short. */
export async function listAccount(
  { db, provider, clock }: { db: Kysely<Tables>; provider: Provider; clock: Clock },
  labelPrefix: string,
  signal?: AbortSignal,
): Promise<AccountRental[]> {
  const askedAt = clock.now();
  const listed = await provider.listAll(signal);
  // After the list: whatever it shows had its record before it was made.
  const records = await db
    .selectFrom('rentals')
    .select(['instance_id', 'label', 'status', 'provider_instance_id', 'gone_at'])
    .where((eb) => eb.or([eb('status', '<>', 'gone'), eb('gone_at', '>=', askedAt)]))
    .execute();
  // What was confirmed gone while the list was on its way was live when the provider wrote it.
  const live = records.map((row) => ({ ...row, status: row.status === 'gone' ? 'destroying' : row.status }));
  return listed.map((rental) => ({ rental, ...ownerOf(rental, live, labelPrefix) }));
}

/**
 * Whose a rental is. The provider's id decides; while ours is not known yet, the label does. Without a record only a label
 * made up exactly as ours are is an orphan, so that nothing of anybody else is ever touched.
 */
export function ownerOf(
  rental: Pick<ProviderInstance, 'providerInstanceId' | 'label'>,
  live: LiveRecord[],
  labelPrefix: string,
): Omit<AccountRental, 'rental'> {
  const record = live.find(
    ({ provider_instance_id: id, label }) =>
      id === rental.providerInstanceId || (id === null && label === rental.label),
  );
  if (record !== undefined) return { ownership: 'ours', instanceId: record.instance_id };
  const isLabelled = instanceIdIn(labelPrefix, rental.label) !== null;
  return { ownership: isLabelled ? 'orphan' : 'foreign', instanceId: null };
}
