// The records that bring an orphan back under control: one to destroy its machine, or one to use it again.
import type { Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { InstanceRow, RentalRow, Tables } from '../database/tables.ts';
import { isLifeOver, wantedReasons, type PhaseTime } from './instance.ts';
import { instanceIdIn } from './label.ts';
import type { Offer, ProviderInstance } from './provider.ts';
import { publicOfferId } from './ranking.ts';
import { machineFactsOf } from './records.ts';
import type { InstanceDeps } from './steps/step.ts';

export interface Orphan {
  rental: ProviderInstance;
  label: string;
  firstSeenAt: Date;
}

/** What is known of an orphan from a record that was closed. */
export type ClosedRecord = RentalRow | undefined;

/** An orphan that can be used again: its closed record, and the instance that it was rented for. */
export interface Missed {
  closed: RentalRow;
  earlier: InstanceRow;
}

/** The record that was closed although its rental lives: by the provider's id, or by the label of a create that came late. */
export async function closedRecordOf(
  trx: Transaction<Tables>,
  { rental, label }: Orphan,
): Promise<ClosedRecord> {
  return trx
    .selectFrom('rentals')
    .selectAll()
    .where('status', '=', 'gone')
    .where((eb) =>
      eb.or([
        eb('provider_instance_id', '=', rental.providerInstanceId),
        eb.and([eb('label', '=', label), eb('provider_instance_id', 'is', null)]),
      ]),
    )
    .orderBy('gone_at', 'desc')
    .limit(1)
    .executeTakeFirst();
}

/** What is needed to use the machine again: nobody meant it to end, its secret is known, its life is not over, and the limits leave room. */
export async function missedRecord(
  trx: Transaction<Tables>,
  { budget, clock }: InstanceDeps,
  { rental }: Orphan,
  closed: ClosedRecord,
): Promise<Missed | undefined> {
  if (closed === undefined || closed.secret === '' || !wasMissed(closed)) return undefined;
  const earlier = await trx
    .selectFrom('instances')
    .selectAll()
    .where('id', '=', closed.instance_id)
    .executeTakeFirstOrThrow();
  const { expires_at: expiresAt, pending_reason: endReason, requirements, wish } = earlier;
  if (endReason !== null && wantedReasons.has(endReason)) return undefined;
  if (isLifeOver(earlier, clock.now())) return undefined;
  // The host may have raised the price since.
  const offer = { ...closed.offer, pricePerHourUsd: priceOf(rental, closed) };
  // The earlier instance may live on with another machine, so that this one is counted nowhere.
  const isAllowed = await budget.mayAdopt(trx, offer, {
    expiresAt,
    maxPricePerHourUsd: requirements?.maxPricePerHourUsd ?? Infinity,
    forFleet: wish !== null,
  });
  return isAllowed ? { closed, earlier } : undefined;
}

/** Its record was closed only because the provider did not show it; every other end was meant. */
function wasMissed({ end_reason: reason }: RentalRow): boolean {
  return reason === 'renting_timeout' || reason === 'lost';
}

export async function recordForDestroying(
  trx: Transaction<Tables>,
  deps: InstanceDeps,
  orphan: Orphan,
  closed: ClosedRecord,
): Promise<string> {
  const now = deps.clock.now();
  const evidence = evidenceOf(orphan);
  const id = await freeInstanceId(trx, deps.labelPrefix, orphan.label);
  const rentalId = uuid();
  const offer = closed?.offer ?? offerOf(orphan.rental);
  await trx
    .insertInto('instances')
    .values({
      id,
      provider: 'vast',
      status: 'terminating',
      rental_id: rentalId,
      rental_count: 1,
      ...machineFactsOf(offer),
      pending_reason: 'orphaned',
      pending_detail: evidence,
      message: evidence,
    })
    .execute();
  await trx
    .insertInto('rentals')
    .values({
      ...commonFacts(orphan, closed, now),
      id: rentalId,
      instance_id: id,
      status: 'destroying',
      offer: JSON.stringify(offer),
      secret: closed?.secret ?? '',
      end_reason: 'orphaned',
      end_evidence: evidence,
      destroy_requested_at: now,
    })
    .execute();
  return id;
}

/** Makes an instance of it that goes on with loading, on the terms of the earlier one. No other machine is rented in its place when it fails. */
export async function recordForUse(
  trx: Transaction<Tables>,
  deps: InstanceDeps,
  orphan: Orphan,
  { closed, earlier }: Missed,
): Promise<string> {
  const now = deps.clock.now();
  const id = await freeInstanceId(trx, deps.labelPrefix, orphan.label);
  const rentalId = uuid();
  const { offer } = closed;
  const loading: PhaseTime = { phase: 'loading', rental: 1, startedAt: now.toISOString(), endedAt: null };
  await trx
    .insertInto('instances')
    .values({
      id,
      provider: 'vast',
      status: 'provisioning',
      phase: 'loading',
      phases: JSON.stringify([loading]),
      phase_started_at: now,
      requirements: earlier.requirements ? JSON.stringify(earlier.requirements) : null,
      // As if the caller had chosen this machine, for which no other stands in.
      wanted_offer_id: publicOfferId(offer),
      rental_id: rentalId,
      rental_count: 1,
      ...machineFactsOf(offer),
      api_key: earlier.api_key,
      idle_minutes: earlier.idle_minutes,
      expires_at: earlier.expires_at,
      wish: earlier.wish,
      race_id: earlier.race_id,
      message: evidenceOf(orphan),
    })
    .execute();
  await trx
    .insertInto('rentals')
    .values({
      ...commonFacts(orphan, closed, now),
      id: rentalId,
      instance_id: id,
      status: 'active',
      offer: JSON.stringify(offer),
      secret: closed.secret,
      certificate_fingerprint: closed.certificate_fingerprint,
      dead_man_seconds: closed.dead_man_seconds,
    })
    .execute();
  return id;
}

function commonFacts({ rental, label, firstSeenAt }: Orphan, closed: ClosedRecord, now: Date) {
  // What its closed record has paid for is not paid for twice.
  const billedUntil =
    closed?.provider_instance_id === rental.providerInstanceId ? closed.gone_at : closed?.create_sent_at;
  return {
    number: 1,
    label,
    machine_id: rental.machineId ?? closed?.machine_id ?? 'unknown',
    price_per_hour_usd: priceOf(rental, closed),
    provider_instance_id: rental.providerInstanceId,
    message: rental.message,
    create_sent_at: billedUntil ?? rental.createdAt ?? firstSeenAt,
    confirmed_at: now,
    seen_at: now,
    contract_ends_at: rental.endsAt,
  };
}

function priceOf({ pricePerHourUsd }: ProviderInstance, closed: ClosedRecord): number {
  return pricePerHourUsd ?? closed?.price_per_hour_usd ?? 0;
}

/** The id in the label, so that who knows the label finds the instance; another one when a record has it already. */
async function freeInstanceId(trx: Transaction<Tables>, labelPrefix: string, label: string): Promise<string> {
  const named = instanceIdIn(labelPrefix, label);
  if (named === null) return uuid();
  const known = await trx.selectFrom('instances').select('id').where('id', '=', named).executeTakeFirst();
  return known === undefined ? named : uuid();
}

function evidenceOf({ label, firstSeenAt }: Orphan): string {
  return `The provider has shown ${label} since ${firstSeenAt.toISOString()}, and no record accounts for it.`;
}

/** What can be said of an offer that nobody remembers: the machine and its price. */
function offerOf({ machineId, pricePerHourUsd }: ProviderInstance): Offer {
  return {
    offerId: 'unknown',
    machineId: machineId ?? 'unknown',
    gpuName: 'unknown',
    gpuCount: 1,
    vramGb: 0,
    ramGb: null,
    cpuCores: null,
    diskGb: 0,
    region: null,
    reliability: null,
    downloadMbps: null,
    uploadMbps: null,
    cudaVersion: null,
    verified: false,
    pricePerHourUsd: pricePerHourUsd ?? 0,
    storagePricePerHourUsd: 0,
    downloadPricePerGbUsd: 0,
    uploadPricePerGbUsd: 0,
    remainingSeconds: null,
  };
}
