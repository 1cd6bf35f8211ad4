// Placing queued jobs on free slots: one transaction, one dispatch at a time.
import { sql, type Transaction } from 'kysely';
import type { Tables } from '../database/tables.ts';
import { beginAttempt } from './begin-attempt.ts';
import type { JobDeps } from './deps.ts';
import { machineColumns, machineFacts } from './facts.ts';
import { headsOfLines } from './lines.ts';
import { matchJobs, type FreeInstance, type Placement, type WaitingJob } from './matching.ts';
import type { KeyUse } from './turns.ts';
import { explainWaiting } from './waiting.ts';

export type DispatchDeps = Pick<JobDeps, 'db' | 'queues' | 'clock'>;

/** One lock for all dispatches: a second one that skipped the slots held by the first would overlook the job that it was woken for. */
const DISPATCH_LOCK = 4_711_001;

/** Places what can be placed and says of the rest what it waits for. Returns how many jobs were placed. */
export async function dispatch({ db, queues, clock }: DispatchDeps): Promise<number> {
  // What a wake-up tells of was committed before it, so this overlooks nothing; most slots come free while nobody waits.
  if (!(await isAnyQueued(db))) return 0;
  return db.transaction().execute(async (trx) => {
    await sql`select pg_advisory_xact_lock(${sql.lit(DISPATCH_LOCK)})`.execute(trx);
    const now = clock.now();
    const { placements, all } = await findPlacements(trx, now);
    let placed = 0;
    for (const placement of placements) {
      if (await beginAttempt(trx, queues, placement, now)) placed += 1;
    }
    if (!all) await explainWaiting(trx, now);
    return placed;
  });
}

async function isAnyQueued(db: DispatchDeps['db']): Promise<boolean> {
  const { rows } = await sql`select from jobs where status = 'queued' limit 1`.execute(db);
  return rows.length > 0;
}

/** Which job goes where, and whether these are all that were queued. */
async function findPlacements(
  trx: Transaction<Tables>,
  now: Date,
): Promise<{ placements: Placement[]; all: boolean }> {
  const instances = await lockFreeSlots(trx);
  const slots = instances.reduce((count, { freeSlots }) => count + freeSlots.length, 0);
  if (slots === 0) return { placements: [], all: false };
  // Of jobs that want the same, no more than that can be placed; jobs that fit nowhere hide none that would.
  const jobs = await nextJobs(trx, slots);
  const placements =
    jobs.length === 0 ? [] : matchJobs(jobs, instances, { uses: await usesOfKeys(trx, jobs), now });
  return { placements, all: jobs.length < slots && placements.length === jobs.length };
}

/**
 * The free slots of instances that can run something now. The instance is locked too, as the reference from the attempt will do:
 * one that somebody holds to end it is skipped rather than waited for, since he may wait for its slots.
 */
async function lockFreeSlots(trx: Transaction<Tables>): Promise<FreeInstance[]> {
  const rows = await trx
    .selectFrom('slots')
    .innerJoin('instances', 'instances.id', 'slots.instance_id')
    .select(['instances.id', ...machineColumns, 'slots.slot'])
    .select(
      sql<string | null>`(select workflow_shape from attempts join jobs on jobs.id = attempts.job_id
        where attempts.instance_id = instances.id order by attempts.created_at desc limit 1)`.as('lastShape'),
    )
    .where('slots.job_id', 'is', null)
    .where('instances.status', '=', 'ready')
    .where('instances.unreachable_since', 'is', null)
    .orderBy('instances.id')
    .orderBy('slots.slot')
    // By hand: Kysely would collect the two "skip locked" at the end.
    .modifyEnd(sql`for update of slots skip locked for key share of instances skip locked`)
    .execute();
  return [...Map.groupBy(rows, ({ id }) => id).values()].flatMap((slots) => {
    const [first] = slots;
    if (first === undefined) return [];
    const freeSlots = slots.map(({ slot }) => slot);
    return [{ ...machineFacts(first), lastShape: first.lastShape, freeSlots }];
  });
}

async function nextJobs(trx: Transaction<Tables>, slots: number): Promise<WaitingJob[]> {
  const rows = await headsOfLines(trx, slots);
  return rows.map((row) => ({
    id: row.id,
    requirements: row.requirements,
    wantedInstanceId: row.wanted_instance_id,
    lastInstanceId: row.instance_id,
    shape: row.workflow_shape,
    apiKey: row.api_key,
    priority: row.priority,
    createdAt: row.created_at,
  }));
}

/** What the keys of these jobs have now, and where that is nothing, when they last had something. */
async function usesOfKeys(
  trx: Transaction<Tables>,
  jobs: readonly WaitingJob[],
): Promise<Map<string | null, KeyUse>> {
  const names = [...new Set(jobs.map(({ apiKey }) => apiKey ?? ''))];
  // It competes with nobody.
  if (names.length === 1) return new Map();
  const { rows } = await sql<KeyUse & { name: string }>`
    select name, coalesce(held.slots, 0)::integer as slots, coalesce(held.since, (
      select max(finished_at) from jobs
      where coalesce(api_key, '') = name and started_at is not null and finished_at is not null
    )) as "servedAt"
    from unnest(${names}::text[]) as name left join (
      select coalesce(api_key, '') as holder, count(*) as slots, max(started_at) as since
      from slots join jobs on jobs.id = slots.job_id group by 1
    ) as held on held.holder = name`.execute(trx);
  return new Map(rows.map(({ name, slots, servedAt }) => [name === '' ? null : name, { slots, servedAt }]));
}
