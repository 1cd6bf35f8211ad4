// The fleet at work: one pass rents what waiting jobs need, lets go what is not needed, and says why it does no more.
import type { Kysely, Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import type { Queues } from '../database/queues.ts';
import type { Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import type { Instances } from '../instances/service.ts';
import type { Clock } from '../support/clock.ts';
import { releaseIdle, releaseLoser, releaseUnneeded } from './release.ts';
import type { FleetPlan, FleetSettings, Rent } from './fleet-state.ts';
import { lockFleet } from './lock.ts';
import { planFleet } from './scaling.ts';
import { loadFleet } from './state.ts';

export interface FleetDeps {
  db: Kysely<Tables>;
  queues: Queues;
  instances: Pick<Instances, 'request'>;
  /** False where there is no provider to rent from. */
  canRent: boolean;
  config: Config;
  clock: Clock;
  log: Logger;
}

const SOONEST_MS = 20;
/** Said of an instance that goes before its idle time is over. */
const GIVES_WAY = 'Other jobs need another machine, and FLEET_MAX has no room for both.';

/** One pass. Repeating it changes nothing. Resolves with the milliseconds until the next is due, when nothing happens before. */
export async function runFleet(deps: FleetDeps): Promise<number | undefined> {
  const nextLookAt = await tendFleet(deps);
  if (nextLookAt === null) return undefined;
  return Math.max(SOONEST_MS, nextLookAt.getTime() - deps.clock.now().getTime());
}

/** Looks, decides and acts, one replica at a time. Returns when the next look is due. */
export async function tendFleet(deps: FleetDeps): Promise<Date | null> {
  const { db, config, clock } = deps;
  // The lock is held until what was decided is written, each part in a transaction of its own.
  return db.transaction().execute(async (trx) => {
    await lockFleet(trx);
    const now = clock.now();
    const state = await loadFleet(trx, config.INSTANCE_IDLE_MINUTES, now);
    const plan = planFleet(state, settingsOf(deps), now);
    const refusals = await rentAll(deps, plan);
    await release(deps, plan, now);
    await writeNotes(deps, trx, new Map([...plan.notes, ...refusals]));
    return plan.nextLookAt;
  });
}

function settingsOf({ config, canRent }: FleetDeps): FleetSettings {
  return {
    minInstances: config.FLEET_MIN,
    maxInstances: config.FLEET_MAX,
    jobsPerInstance: config.FLEET_JOBS_PER_INSTANCE,
    race: config.FLEET_RACE,
    retryMs: config.FLEET_RETRY_SECONDS * 1000,
    requirements: config.FLEET_REQUIREMENTS,
    diskGb: config.VAST_DISK_GB,
    obstacle: canRent ? null : 'Nothing can be rented without VASTAI_API_KEY.',
  };
}

/** Returns why what was not rented was not, for each demand. */
async function rentAll(deps: FleetDeps, { rent }: FleetPlan): Promise<Map<string, string>> {
  const refusals = new Map<string, string>();
  for (const wanted of rent) {
    if (refusals.has(wanted.wish)) continue;
    const refusal = await rentOne(deps, wanted);
    if (refusal !== null) refusals.set(wanted.wish, refusal);
  }
  return refusals;
}

async function rentOne(
  { instances, config, log }: FleetDeps,
  { wish, requirements, machines }: Rent,
): Promise<string | null> {
  const raceId = machines > 1 ? uuid() : null;
  for (let made = 0; made < machines; made += 1) {
    try {
      const { instance } = await instances.request({
        requirements: requirements ?? config.FLEET_REQUIREMENTS,
        offerId: undefined,
        apiKey: null,
        fleet: { wish, raceId },
      });
      log.info({ instanceId: instance.id, wish, raceId }, 'the fleet rents an instance');
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      log.info({ code: error.code, wish, made }, 'the fleet may not rent another instance');
      // One machine of a race is as good as any other.
      return made > 0 ? null : error.message;
    }
  }
  return null;
}

async function release({ db, queues, config, log }: FleetDeps, plan: FleetPlan, now: Date): Promise<void> {
  const deps = { db, queues, maxAttempts: config.JOB_MAX_ATTEMPTS };
  for (const instance of plan.drain) {
    if (await releaseIdle(deps, instance, null, now))
      log.info({ instanceId: instance.id }, 'an idle instance drains');
  }
  for (const instance of plan.giveWay) {
    if (await releaseIdle(deps, instance, GIVES_WAY, now))
      log.info({ instanceId: instance.id }, 'an idle instance gives way to what other jobs need');
  }
  for (const instance of plan.unneeded) {
    if (await releaseUnneeded(deps, instance, now))
      log.info({ instanceId: instance.id }, 'an instance is not needed any more');
  }
  for (const instance of plan.lostRaces) {
    if (await releaseLoser(deps, instance, now))
      log.info({ instanceId: instance.id }, 'an instance lost its race');
  }
}

/** Keeps why the fleet rents no more; the dispatch tells the jobs that it concerns. */
async function writeNotes(
  { queues }: FleetDeps,
  trx: Transaction<Tables>,
  notes: ReadonlyMap<string, string>,
): Promise<void> {
  const known = new Map(
    (await trx.selectFrom('fleet_notes').selectAll().execute()).map(({ wish, note }) => [wish, note]),
  );
  const changed = [...notes].filter(([wish, note]) => known.get(wish) !== note);
  const over = [...known.keys()].filter((wish) => !notes.has(wish));
  if (over.length > 0) await trx.deleteFrom('fleet_notes').where('wish', 'in', over).execute();
  for (const [wish, note] of changed) {
    await trx
      .insertInto('fleet_notes')
      .values({ wish, note })
      .onConflict((conflict) => conflict.column('wish').doUpdateSet({ note }))
      .execute();
  }
  if (changed.length + over.length > 0) await queues.wake(trx, 'dispatch');
}
