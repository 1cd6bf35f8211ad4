// Letting instances go, unless something has changed since it was decided.
import type { Kysely, Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { InstanceRow, Tables } from '../database/tables.ts';
import { beginEnding } from '../instances/ending.ts';
import type { TerminationReason } from '../instances/instance.ts';
import { busyJobs } from '../jobs/placement.ts';
import type { FleetInstance } from './fleet-state.ts';
import { idleSinceOf } from './state.ts';

export interface ReleaseDeps {
  db: Kysely<Tables>;
  queues: Queues;
  maxAttempts: number;
}

/** Drains an instance that has had nothing to do since `idleSince`; `detail` says why before its time. False when it got something to do, or a job that wants it. */
export async function releaseIdle(
  deps: ReleaseDeps,
  { id, idleSince }: FleetInstance,
  detail: string | null,
  now: Date,
): Promise<boolean> {
  return deps.db.transaction().execute(async (trx) => {
    // From here on the dispatch passes it over; what was dispatched before is seen by the next statement.
    const instance = await lock(trx, id);
    if (instance?.status === 'ready' && !(await isWanted(trx, id, idleSince))) {
      return end(deps, trx, instance, { reason: 'idle', detail }, now);
    }
    // For what has passed it over.
    await deps.queues.wake(trx, 'dispatch');
    return false;
  });
}

/** Ends an instance that was still without a machine when nothing waited for it any more. False when it has one now, or a job wants it. */
export async function releaseUnneeded(deps: ReleaseDeps, { id }: FleetInstance, now: Date): Promise<boolean> {
  return deps.db.transaction().execute(async (trx) => {
    const instance = await lock(trx, id);
    const isMachineless = instance?.status === 'requested' || instance?.phase === 'searching';
    return (
      isMachineless &&
      !(await isWanted(trx, id, null)) &&
      end(deps, trx, instance, { reason: 'not_needed', detail: null }, now)
    );
  });
}

/** Ends an instance whose race another has won; one that got jobs all the same ends them first. False when a job wants it. */
export async function releaseLoser(deps: ReleaseDeps, { id }: FleetInstance, now: Date): Promise<boolean> {
  return deps.db.transaction().execute(async (trx) => {
    const instance = await lock(trx, id);
    if (instance === undefined || (await readUse(trx, id)).pinnedJobs) return false;
    return end(deps, trx, instance, { reason: 'lost_race', detail: null }, now);
  });
}

async function lock(trx: Transaction<Tables>, id: string): Promise<InstanceRow | undefined> {
  return trx.selectFrom('instances').selectAll().where('id', '=', id).forUpdate().executeTakeFirst();
}

async function isWanted(trx: Transaction<Tables>, id: string, idleSince: Date | null): Promise<boolean> {
  const use = await readUse(trx, id);
  return use.busy > 0 || use.pinnedJobs || use.idleSince?.getTime() !== idleSince?.getTime();
}

/** What an instance works for, since when for nothing, and whether queued jobs want it for itself. */
async function readUse(trx: Transaction<Tables>, id: string) {
  return trx
    .selectFrom('instances')
    .select((eb) => [
      idleSinceOf(),
      busyJobs.as('busy'),
      eb
        .exists(
          eb
            .selectFrom('jobs')
            .select('jobs.id')
            .whereRef('jobs.wanted_instance_id', '=', 'instances.id')
            .where('jobs.status', '=', 'queued'),
        )
        .$castTo<boolean>()
        .as('pinnedJobs'),
    ])
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
}

function end(
  { queues, maxAttempts }: ReleaseDeps,
  trx: Transaction<Tables>,
  instance: InstanceRow,
  why: { reason: TerminationReason; detail: string | null },
  now: Date,
): Promise<boolean> {
  const jobReason = 'Its instance was let go.';
  return beginEnding(trx, queues, instance, { drain: true, ...why, jobReason, maxAttempts, now });
}
