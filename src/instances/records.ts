// Reading and writing the rows of instances and rentals: every write of a step is guarded, every change re-arms the next step.
import { sql, type ExpressionBuilder, type RawBuilder, type Transaction, type UpdateObject } from 'kysely';
import type { Executor, QueueName, Queues } from '../database/queues.ts';
import type { InstanceRow, RentalRow, Tables } from '../database/tables.ts';
import type { InstancePhase, PhaseTime } from './instance.ts';
import type { Offer } from './provider.ts';

export type InstanceUpdate = UpdateObject<Tables, 'instances'>;

/** An instance with its current rental, as one step sees them. */
export interface InstanceState {
  instance: InstanceRow;
  rental: RentalRow | null;
}

export async function loadState(db: Executor, instanceId: string): Promise<InstanceState | null> {
  const instance = await db
    .selectFrom('instances')
    .selectAll()
    .where('id', '=', instanceId)
    .executeTakeFirst();
  if (instance === undefined) return null;
  const rental =
    instance.rental_id === null
      ? undefined
      : await db.selectFrom('rentals').selectAll().where('id', '=', instance.rental_id).executeTakeFirst();
  return { instance, rental: rental ?? null };
}

/**
 * Wakes an instance after `afterMs`, in the caller's transaction. Every wake-up has a number, and only the newest counts:
 * an earlier one that is still under way is dropped when it arrives, and a step that it had started can write nothing more.
 */
export async function wakeInstance(
  trx: Transaction<Tables>,
  queues: Queues,
  instanceId: string,
  afterMs = 0,
  now = new Date(),
): Promise<void> {
  const woken = await trx
    .updateTable('instances')
    .set((eb) => ({ wake: eb('wake', '+', 1), next_step_at: new Date(now.getTime() + afterMs) }))
    .where('id', '=', instanceId)
    .where('status', '<>', 'terminated')
    .returning(wokenColumns)
    .executeTakeFirst();
  if (woken !== undefined) await sendStep(trx, queues, woken, afterMs);
}

/** Sends the wake-up that an instance has been given the number of. */
export async function sendStep(
  trx: Transaction<Tables>,
  queues: Queues,
  woken: Woken,
  afterMs: number,
): Promise<void> {
  if (woken.status === 'terminated') return;
  const options = afterMs > 0 ? { afterMs } : {};
  await queues.send(trx, queueFor(woken), { instanceId: woken.id, wake: woken.wake }, options);
}

/** The queues that carry steps of instances. */
export const stepQueues = ['instance', 'search', 'rent'] as const satisfies QueueName[];
export type StepQueue = (typeof stepQueues)[number];

/**
 * Steps that may wait long for the provider keep no others waiting, least of all those that destroy. Who ends an instance that is just
 * being rented waits for that in the same queue, where its steps are one at a time.
 */
function queueFor({ status, phase, rentalStatus }: Woken): StepQueue {
  if (rentalStatus === 'intended' || rentalStatus === 'creating') return 'rent';
  return status === 'provisioning' && phase === 'searching' ? 'search' : 'instance';
}

/** What decides where the next step goes. */
export interface Woken extends Pick<InstanceRow, 'id' | 'wake' | 'status' | 'phase'> {
  rentalStatus: RentalRow['status'] | null;
}

function wokenColumns(eb: ExpressionBuilder<Tables, 'instances'>) {
  return [
    'id',
    'wake',
    'status',
    'phase',
    eb
      .selectFrom('rentals')
      .select('rentals.status')
      .whereRef('rentals.id', '=', 'instances.rental_id')
      .as('rentalStatus'),
  ] as const;
}

/** What an instance shows of the machine that was rented for it. */
export function machineFactsOf(offer: Offer) {
  return {
    gpu_name: offer.gpuName,
    gpu_count: offer.gpuCount,
    vram_gb: offer.vramGb,
    ram_gb: offer.ramGb,
    disk_gb: offer.diskGb,
    cuda_version: offer.cudaVersion,
    region: offer.region,
  };
}

/** Writes what a step found, if the step still owns the instance. False means that somebody woke it since: drop the result. */
export async function updateOwned(
  trx: Executor,
  instance: InstanceRow,
  update: InstanceUpdate,
): Promise<boolean> {
  const result = await trx.updateTable('instances').set(update).where(ownedBy(instance)).executeTakeFirst();
  return result.numUpdatedRows === 1n;
}

/**
 * The same for what needs another step: the next wake-up, which `sendStep` sends, gets its number with it. Null means that somebody woke
 * the instance since. `tells` is selected along with it, and may be a wake-up.
 */
export async function advanceOwned(
  trx: Transaction<Tables>,
  instance: InstanceRow,
  update: InstanceUpdate,
  tells: RawBuilder<unknown> | null,
): Promise<Woken | null> {
  const query = trx
    .updateTable('instances')
    .set({ ...update, wake: instance.wake + 1 })
    .where(ownedBy(instance))
    .returning(wokenColumns);
  const woken = await (tells === null ? query : query.returning(tells.as('told'))).executeTakeFirst();
  return woken ?? null;
}

function ownedBy({ id, status, wake }: InstanceRow) {
  return (eb: ExpressionBuilder<Tables, 'instances'>) => eb.and({ id, status, wake });
}

/** The condition under which a step may write to other rows of its instance on the way, outside of its last transaction. */
export function stillOwned({ id, wake }: Pick<InstanceRow, 'id' | 'wake'>) {
  return sql<boolean>`exists (select from instances where id = ${id} and wake = ${wake})`;
}

/** The columns that move an instance into a phase, with the time of the one before closed. */
export function enterPhase(
  instance: InstanceRow,
  phase: InstancePhase,
  rental: number,
  now: Date,
): InstanceUpdate {
  const phases = closePhases(instance.phases, now);
  phases.push({ phase, rental, startedAt: now.toISOString(), endedAt: null });
  return { phase, phase_started_at: now, phases: JSON.stringify(phases), checks_passed: 0 };
}

/** The columns that end the last phase. */
export function leavePhases(instance: InstanceRow, now: Date): InstanceUpdate {
  return { phase: null, phase_started_at: null, phases: JSON.stringify(closePhases(instance.phases, now)) };
}

function closePhases(phases: PhaseTime[], now: Date): PhaseTime[] {
  return phases.map((time) => (time.endedAt === null ? { ...time, endedAt: now.toISOString() } : time));
}
