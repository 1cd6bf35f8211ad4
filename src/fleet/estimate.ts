// What a job would cost: answered from what is ready, what is offered and what such jobs took before. Nothing is spent, nothing is kept.
import type { Kysely } from 'kysely';
import type { Config } from '../config.ts';
import type { Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import { isObstacle, type Budget } from '../instances/budget.ts';
import type { Offer } from '../instances/provider.ts';
import type { RankedOffer } from '../instances/ranking.ts';
import type { RequestedRequirements } from '../instances/requirements.ts';
import type { Instances } from '../instances/service.ts';
import { machineColumns, machineFacts } from '../jobs/facts.ts';
import type { KnownNodes } from '../jobs/known-nodes.ts';
import { fits } from '../jobs/matching.ts';
import { workflowShape } from '../jobs/shape.ts';
import { checkWorkflow } from '../jobs/workflow.ts';
import type { Clock } from '../support/clock.ts';
import { costsOf } from './budget.ts';

export interface EstimateRequest {
  workflow?: unknown;
  instanceId?: string | undefined;
  requirements?: RequestedRequirements | undefined;
  timeLimitSeconds?: number | undefined;
}

export interface Estimate {
  /** Where the job would run: on an instance that is ready, on a machine that would be rented, or nowhere. */
  place: { kind: 'instance'; instanceId: string } | { kind: 'offer'; offer: RankedOffer } | { kind: 'none' };
  pricePerHourUsd: number | null;
  bootSeconds: number | null;
  run: RunTime;
  /** In US dollars; null where nothing fits. */
  expected: { bootUsd: number; runUsd: number; downloadUsd: number; totalUsd: number } | null;
  worstCaseUsd: number | null;
  /** Why it could not run now, for a person; null when it could. */
  obstacle: string | null;
}

export interface RunTime {
  seconds: number;
  /** `same_gpu`: runs of this workflow on the same GPU; `other_gpu`: on others; `assumed`: it never ran here. */
  basis: 'same_gpu' | 'other_gpu' | 'assumed';
  /** Runs that were looked at. */
  samples: number;
}

export interface EstimateDeps {
  db: Kysely<Tables>;
  instances: Pick<Instances, 'offers'>;
  nodes: KnownNodes;
  budget: Budget;
  config: Config;
  clock: Clock;
}

/** Where it would run, with what it costs there. */
interface Place {
  place: Estimate['place'];
  gpuName: string | null;
  pricePerHourUsd: number;
  bootSeconds: number;
  expectedDownloadUsd: number;
  worstDownloadUsd: number;
  obstacle: string | null;
}

const ASSUMED_RUN_SECONDS = 300;
const SAMPLES = 20;

/** Rejects with the errors of `POST /jobs` for a workflow, and with those of `GET /offers` where an offer is needed. */
export async function estimateJob(deps: EstimateDeps, request: EstimateRequest): Promise<Estimate> {
  const { config } = deps;
  const shape = request.workflow === undefined ? null : await shapeOf(deps, request, request.workflow);
  const place = (await readyPlace(deps, request)) ?? (await offeredPlace(deps, request));
  const run = await runTimeOf(deps.db, shape, typeof place === 'string' ? null : place.gpuName);
  if (typeof place === 'string') {
    const none = { pricePerHourUsd: null, bootSeconds: null, expected: null, worstCaseUsd: null };
    return { place: { kind: 'none' }, run, ...none, obstacle: place };
  }
  const bootUsd = priceOf(place, place.bootSeconds);
  const runUsd = priceOf(place, run.seconds);
  const downloadUsd = place.expectedDownloadUsd;
  return {
    place: place.place,
    pricePerHourUsd: place.pricePerHourUsd,
    bootSeconds: place.bootSeconds,
    run,
    expected: { bootUsd, runUsd, downloadUsd, totalUsd: bootUsd + runUsd + downloadUsd },
    worstCaseUsd: worstCaseOf(place, request, config),
    obstacle: place.obstacle,
  };
}

async function shapeOf(
  { nodes, config }: EstimateDeps,
  request: EstimateRequest,
  sent: unknown,
): Promise<string> {
  const workflow = checkWorkflow(sent, config.WORKFLOW_MAX_NODES);
  const places = await nodes.placesFor(request);
  await places.check(workflow, []);
  return workflowShape(workflow);
}

/**
 * Every attempt but the last is lost at its very end, and every machine that is tried before one gets ready takes as long as it may.
 * All but the first have the highest price that is allowed.
 */
function worstCaseOf(place: Place, request: EstimateRequest, config: Config): number {
  const runSeconds = request.timeLimitSeconds ?? config.JOB_TIME_LIMIT_SECONDS;
  const dearest = { pricePerHourUsd: highestPriceOf(request, config) };
  const failed = priceOf(dearest, (config.MAX_RENTALS_PER_INSTANCE - 1) * longestBootSeconds(config));
  const first =
    place.place.kind === 'instance'
      ? priceOf(place, runSeconds)
      : priceOf(place, longestBootSeconds(config)) + failed + priceOf(dearest, runSeconds);
  const further = failed + priceOf(dearest, longestBootSeconds(config) + runSeconds);
  const isPinned = request.instanceId !== undefined;
  return first + place.worstDownloadUsd + (isPinned ? 0 : (config.JOB_MAX_ATTEMPTS - 1) * further);
}

function priceOf({ pricePerHourUsd }: Pick<Place, 'pricePerHourUsd'>, seconds: number): number {
  return (pricePerHourUsd * seconds) / 3600;
}

/** What a machine that is rented for the job must satisfy. */
function wantedOf(request: EstimateRequest, config: Config): RequestedRequirements {
  return request.requirements ?? config.FLEET_REQUIREMENTS;
}

function highestPriceOf(request: EstimateRequest, config: Config): number {
  return Math.min(wantedOf(request, config).maxPricePerHourUsd ?? Infinity, config.MAX_PRICE_PER_HOUR_USD);
}

function longestBootSeconds(config: Config): number {
  return config.LOADING_TIMEOUT_SECONDS + config.STARTING_TIMEOUT_SECONDS;
}

/** The cheapest ready instance that fits. Null when there is none, and another may be rented. */
async function readyPlace({ db }: EstimateDeps, request: EstimateRequest): Promise<Place | string | null> {
  const rows = await db
    .selectFrom('instances')
    .leftJoin('rentals', 'rentals.id', 'instances.rental_id')
    .select([
      'instances.id',
      'instances.status',
      'unreachable_since',
      ...machineColumns,
      'price_per_hour_usd',
    ])
    .where('instances.status', '<>', 'terminated')
    .execute();
  if (request.instanceId !== undefined && !rows.some(({ id }) => id === request.instanceId)) {
    throw new ServiceError('instance_not_found', `There is no live instance ${request.instanceId}.`, {
      field: 'instanceId',
    });
  }
  const wishes = {
    requirements: request.requirements ?? null,
    wantedInstanceId: request.instanceId ?? null,
  };
  const [best] = rows
    // As the dispatch has it.
    .filter(({ status, unreachable_since: silentSince }) => status === 'ready' && silentSince === null)
    .filter((row) => fits(wishes, machineFacts(row)))
    .toSorted((a, b) => (a.price_per_hour_usd ?? 0) - (b.price_per_hour_usd ?? 0));
  if (best === undefined) {
    if (request.instanceId === undefined) return null;
    return `Instance ${request.instanceId} is not ready, does not answer, or does not satisfy the requirements.`;
  }
  return {
    place: { kind: 'instance', instanceId: best.id },
    gpuName: best.gpu_name,
    pricePerHourUsd: best.price_per_hour_usd ?? 0,
    bootSeconds: 0,
    expectedDownloadUsd: 0,
    worstDownloadUsd: 0,
    obstacle: null,
  };
}

/** The machine that would be rented. Text says why there is none. */
async function offeredPlace(deps: EstimateDeps, request: EstimateRequest): Promise<Place | string> {
  const { instances, budget, config, clock } = deps;
  const { offers, rejected } = await instances.offers(wantedOf(request, config));
  const [best] = offers;
  if (best === undefined) {
    return `No instance is ready, and no offer satisfies the requirements; ${rejected.length} were looked at.`;
  }
  const terms = {
    expiresAt: budget.expiryOf(undefined, clock.now()),
    maxPricePerHourUsd: highestPriceOf(request, config),
  };
  const choice = await budget.firstAffordable(
    offers.map(({ offer }) => offer),
    terms,
  );
  const isBlocked = isObstacle(choice);
  const ranked = isBlocked ? best : rankedOf(offers, choice);
  return {
    place: { kind: 'offer', offer: ranked },
    gpuName: ranked.offer.gpuName,
    pricePerHourUsd: ranked.offer.pricePerHourUsd,
    bootSeconds: ranked.expectedBootMinutes * 60,
    expectedDownloadUsd: ranked.expectedParts.downloadUsd,
    worstDownloadUsd: costsOf(ranked.offer).downloadUsd,
    obstacle: isBlocked ? choice.detail : null,
  };
}

function rankedOf(offers: readonly RankedOffer[], chosen: Offer): RankedOffer {
  const ranked = offers.find(({ offer }) => offer === chosen);
  if (ranked === undefined) throw new Error('The budget chose an offer that it was not given.');
  return ranked;
}

/** The middle one of the recent runs of such a workflow, on the same GPU where there are any. */
async function runTimeOf(db: Kysely<Tables>, shape: string | null, gpuName: string | null): Promise<RunTime> {
  const rows =
    shape === null
      ? []
      : await db
          .selectFrom('jobs')
          .innerJoin('attempts', 'attempts.id', 'jobs.attempt_id')
          .innerJoin('instances', 'instances.id', 'attempts.instance_id')
          .select(['attempts.started_at', 'attempts.executed_at', 'gpu_name'])
          .where('workflow_shape', '=', shape)
          .where('jobs.status', '=', 'succeeded')
          .orderBy('finished_at', 'desc')
          .limit(SAMPLES)
          .execute();
  const runs = rows.flatMap(({ started_at: from, executed_at: to, gpu_name: gpu }) =>
    from === null || to === null ? [] : [{ gpu, seconds: Math.max(0, to.getTime() - from.getTime()) / 1000 }],
  );
  const same = runs.filter(({ gpu }) => gpuName !== null && gpu === gpuName);
  const used = same.length > 0 ? same : runs;
  const middle = used.map(({ seconds }) => seconds).toSorted((a, b) => a - b)[Math.floor(used.length / 2)];
  if (middle === undefined) return { seconds: ASSUMED_RUN_SECONDS, basis: 'assumed', samples: 0 };
  return { seconds: middle, basis: same.length > 0 ? 'same_gpu' : 'other_gpu', samples: used.length };
}
