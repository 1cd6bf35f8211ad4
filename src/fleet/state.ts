// What the fleet decides from, as the database has it.
import { sql, type Transaction } from 'kysely';
import type { Tables } from '../database/tables.ts';
import { expectedFacts, factColumns } from '../jobs/facts.ts';
import { queueRank, wishOf } from '../jobs/lines.ts';
import { busyJobs } from '../jobs/placement.ts';
import type { Demand, FleetInstance, FleetState } from './fleet-state.ts';
import { setbacksOf, type Outcome } from './setbacks.ts';

/** A server of the settings that does not answer by then is not waited for. */
const STATIC_PATIENCE_MS = 60_000;
/** Older outcomes say nothing about the next one. */
const HISTORY_HOURS = 24;
const HISTORY_ROWS = 500;

export async function loadFleet(
  trx: Transaction<Tables>,
  defaultIdleMinutes: number,
  now: Date,
): Promise<FleetState> {
  return {
    demands: await loadDemands(trx),
    instances: await loadInstances(trx, defaultIdleMinutes, now),
    setbacks: setbacksOf(await loadOutcomes(trx)),
  };
}

async function loadDemands(trx: Transaction<Tables>): Promise<Demand[]> {
  return trx
    .selectFrom('jobs')
    .select(['requirements', wishOf.as('wish')])
    .select(({ fn }) => fn.countAll<number>().as('jobs'))
    .where('status', '=', 'queued')
    .where('wanted_instance_id', 'is', null)
    .groupBy('requirements')
    .orderBy(sql`min(${queueRank})`)
    .orderBy('wish')
    .execute();
}

async function loadInstances(
  trx: Transaction<Tables>,
  defaultIdleMinutes: number,
  now: Date,
): Promise<FleetInstance[]> {
  const rows = await trx
    .selectFrom('instances')
    .select(factColumns)
    .select(['wish', 'race_id', 'ready_at', 'idle_minutes', 'unreachable_since', 'created_at'])
    .select('phase_started_at')
    .select((eb) => [
      idleSinceOf(),
      busyJobs.as('busyJobs'),
      eb
        .selectFrom('jobs')
        .select(({ fn }) => fn.countAll<number>().as('count'))
        .whereRef('jobs.wanted_instance_id', '=', 'instances.id')
        .where('jobs.status', '=', 'queued')
        .as('pinnedJobs'),
    ])
    .where('status', '<>', 'terminated')
    .orderBy('id')
    .execute();
  return rows.map((row) => {
    const idleMinutes = row.idle_minutes ?? defaultIdleMinutes;
    const isReady = row.status === 'ready';
    const isComing = row.status === 'requested' || row.status === 'provisioning';
    const silentSince = isReady ? row.unreachable_since : (row.phase_started_at ?? row.created_at);
    const silentMs = silentSince === null ? 0 : now.getTime() - silentSince.getTime();
    return {
      ...expectedFacts(row),
      state: isReady ? 'ready' : isComing ? 'coming' : 'ending',
      rented: row.provider !== 'static',
      wish: row.wish,
      raceId: row.race_id,
      readyAt: row.ready_at,
      // A rented machine that is silent is given up before long; a server of the settings never is.
      promising: row.provider !== 'static' || silentMs < STATIC_PATIENCE_MS,
      pinnedJobs: row.pinnedJobs ?? 0,
      busyJobs: row.busyJobs,
      idleSince: row.idleSince,
      idleLimitMs: idleMinutes === 0 ? null : idleMinutes * 60_000,
    };
  });
}

/** Since when an instance has had nothing to do: the end of its last attempt, or its readiness. */
export function idleSinceOf() {
  return sql<Date | null>`greatest(instances.ready_at,
    (select max(ended_at) from attempts where attempts.instance_id = instances.id))`.as('idleSince');
}

/** When an end was decided, which closed the last phase: a machine that cannot be destroyed must not put off the next try for ever. */
const decidedAt = sql<Date>`coalesce(ready_at, (phases->-1->>'endedAt')::timestamptz, terminated_at, now())`;

/** It says nothing about the next try. */
const wasForLackOfCreditThatCame = sql<boolean>`(coalesce(pending_reason, '') = 'insufficient_credit' and exists (
  select from provider_credit where raised_at > ${decidedAt}))`;

async function loadOutcomes(trx: Transaction<Tables>): Promise<Outcome[]> {
  const rows = await trx
    .selectFrom('instances')
    .select(['wish', 'race_id', 'ready_at', 'pending_reason', 'pending_detail'])
    .select(decidedAt.as('at'))
    .where('wish', 'is not', null)
    .where(sql<boolean>`created_at > now() - make_interval(hours => ${HISTORY_HOURS})`)
    .where((where) =>
      where.or([where('ready_at', 'is not', null), where('status', 'in', ['terminating', 'terminated'])]),
    )
    .where(sql<boolean>`not ${wasForLackOfCreditThatCame}`)
    .orderBy('id', 'desc')
    .limit(HISTORY_ROWS)
    .execute();
  return rows.flatMap(({ wish, race_id: raceId, ready_at: readyAt, pending_reason: reason, ...row }) =>
    wish === null
      ? []
      : [{ wish, raceId, wasReady: readyAt !== null, reason, detail: row.pending_detail, at: row.at }],
  );
}
