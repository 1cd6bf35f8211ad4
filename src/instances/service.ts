// Instances as the routes use them: every request writes its intention and a wake-up in one transaction.
import type { Kysely, Transaction } from 'kysely';
import { v7 as uuid } from 'uuid';
import type { Config } from '../config.ts';
import { makeOnce, type IdempotencyKey } from '../database/once.ts';
import type { Queues } from '../database/queues.ts';
import type { InstanceRow, RentalRow, Tables } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import type { Clock } from '../support/clock.ts';
import type { Budget } from './budget.ts';
import { beginEnding } from './ending.ts';
import type { InstanceStatus } from './instance.ts';
import { ProviderError, type Provider, type RejectedOffer } from './provider.ts';
import { recall, withoutCooling } from './machines.ts';
import { rankOffers, requirementsOfOffer, type RankedOffer } from './ranking.ts';
import { wakeInstance } from './records.ts';
import {
  completeRequirements,
  requirementsSchema,
  type RequestedRequirements,
  type Requirements,
} from './requirements.ts';

export interface InstanceWithRentals {
  instance: InstanceRow;
  /** All rentals of the instance, the first one first. */
  rentals: RentalRow[];
}

export interface InstanceRequest {
  requirements: RequestedRequirements | undefined;
  /** As `GET /offers` gave it. */
  offerId: string | undefined;
  /** How long it may have nothing to do before it is let go, 0 for ever; the setting unless told. */
  idleMinutes?: number | undefined;
  /** How long it may live at most, within the limit of the settings. */
  maxLifetimeHours?: number | undefined;
  apiKey: string | null;
  /** Under which the request may be repeated. */
  idempotencyKey?: IdempotencyKey | null;
  /** Why the fleet rents it, and which others it races. */
  fleet?: { wish: string; raceId: string | null };
}

export interface InstanceQuery {
  status: InstanceStatus[];
  provider: 'vast' | 'static' | undefined;
  limit: number;
  /** The id of the last instance of the page before. */
  cursor: string | undefined;
}

export interface Instances {
  /** Offers that satisfy the requirements, the best first, and those that do not, with reasons. */
  offers(requested: RequestedRequirements): Promise<{ offers: RankedOffer[]; rejected: RejectedOffer[] }>;
  /**
   * Writes the intention to rent; nothing was rented yet when it resolves. `replayed`: an earlier request with the same key wrote it.
   * Rejects, for its key, with `idempotency_key_reused` or `idempotency_in_flight`.
   */
  request(request: InstanceRequest): Promise<InstanceWithRentals & { replayed: boolean }>;
  get(id: string): Promise<InstanceWithRentals>;
  /** Newest first; one more than `limit` is never returned. */
  list(query: InstanceQuery): Promise<{ items: InstanceWithRentals[]; nextCursor: string | null }>;
  /** Ends an instance, at once or after its jobs; repeating it changes nothing. */
  end(id: string, options: { drain: boolean }): Promise<InstanceWithRentals>;
}

interface Deps {
  db: Kysely<Tables>;
  queues: Queues;
  provider: Provider | null;
  budget: Budget;
  config: Config;
  clock: Clock;
}

export function createInstances(deps: Deps): Instances {
  return {
    offers: (requested) => searchOffers(deps, requested),
    request: (request) => requestInstance(deps, request),
    get: (id) => getInstance(deps.db, id),
    list: (query) => listInstances(deps.db, query),
    end: (id, options) => endInstance(deps, id, options),
  };
}

async function searchOffers(deps: Deps, requested: RequestedRequirements) {
  try {
    const listed = await needProvider(deps).searchOffers(limited(deps, requested), {
      signal: AbortSignal.timeout(30_000),
    });
    const memory = await recall(deps.db, listed);
    const found = withoutCooling(listed, memory, deps.clock.now());
    return { offers: rankOffers(found.offers, memory), rejected: found.rejected };
  } catch (error) {
    throw error instanceof ProviderError ? toServiceError(error) : error;
  }
}

async function requestInstance(deps: Deps, request: InstanceRequest) {
  const { id, replayed } = await makeOnce(deps, request.idempotencyKey ?? null, {
    check: async () => needProvider(deps),
    write: (trx) => insertInstance(deps, trx, request),
  });
  return { ...(await getInstance(deps.db, id)), replayed };
}

async function insertInstance(
  deps: Deps,
  trx: Transaction<Tables>,
  request: InstanceRequest,
): Promise<string> {
  const id = uuid();
  const requirements = limited(deps, requestedOf(request));
  const expiresAt = deps.budget.expiryOf(request.maxLifetimeHours, deps.clock.now());
  const { maxPricePerHourUsd } = requirements;
  const obstacle = await deps.budget.admit(trx, { expiresAt, maxPricePerHourUsd });
  if (obstacle !== null) {
    throw new ServiceError(obstacle.reason, obstacle.detail, { extra: { ...obstacle.numbers } });
  }
  await trx
    .insertInto('instances')
    .values({
      id,
      provider: 'vast',
      status: 'requested',
      requirements: JSON.stringify(requirements),
      wanted_offer_id: request.offerId ?? null,
      api_key: request.apiKey,
      idle_minutes: request.idleMinutes ?? null,
      expires_at: expiresAt,
      wish: request.fleet?.wish ?? null,
      race_id: request.fleet?.raceId ?? null,
    })
    .execute();
  await wakeInstance(trx, deps.queues, id, 0, deps.clock.now());
  return id;
}

async function getInstance(db: Kysely<Tables>, id: string): Promise<InstanceWithRentals> {
  const instance = await db.selectFrom('instances').selectAll().where('id', '=', id).executeTakeFirst();
  if (instance === undefined) throw new ServiceError('instance_not_found', `There is no instance ${id}.`);
  const rentals = await db
    .selectFrom('rentals')
    .selectAll()
    .where('instance_id', '=', id)
    .orderBy('number')
    .execute();
  return { instance, rentals };
}

async function listInstances(db: Kysely<Tables>, { status, provider, limit, cursor }: InstanceQuery) {
  let query = db
    .selectFrom('instances')
    .selectAll()
    .orderBy('id', 'desc')
    .limit(limit + 1);
  if (status.length > 0) query = query.where('status', 'in', status);
  if (provider !== undefined) query = query.where('provider', '=', provider);
  if (cursor !== undefined) query = query.where('id', '<', cursor);
  const rows = await query.execute();
  const page = rows.slice(0, limit);
  const ids = page.map(({ id }) => id);
  const rentals =
    ids.length === 0
      ? []
      : await db
          .selectFrom('rentals')
          .selectAll()
          .where('instance_id', 'in', ids)
          .orderBy('number')
          .execute();
  return {
    items: page.map((instance) => ({
      instance,
      rentals: rentals.filter((rental) => rental.instance_id === instance.id),
    })),
    nextCursor: rows.length > limit ? (page.at(-1)?.id ?? null) : null,
  };
}

async function endInstance(
  deps: Deps,
  id: string,
  { drain }: { drain: boolean },
): Promise<InstanceWithRentals> {
  await deps.db.transaction().execute(async (trx) => {
    const found = trx.selectFrom('instances').selectAll().where('id', '=', id);
    // Looked at without a lock first: a dispatch would pass over one that is refused.
    if ((await found.executeTakeFirst())?.provider === 'static') {
      throw new ServiceError(
        'conflict',
        'This ComfyUI server was not rented. Remove its URL from COMFYUI_URLS to let it go.',
      );
    }
    const instance = await found.forUpdate().executeTakeFirst();
    if (instance === undefined) throw new ServiceError('instance_not_found', `There is no instance ${id}.`);
    await beginEnding(trx, deps.queues, instance, {
      drain,
      reason: 'requested',
      detail: null,
      jobReason: 'Its instance was ended on request.',
      maxAttempts: deps.config.JOB_MAX_ATTEMPTS,
      now: deps.clock.now(),
    });
  });
  return getInstance(deps.db, id);
}

function requestedOf({ requirements, offerId }: InstanceRequest): RequestedRequirements {
  if (requirements !== undefined) return requirements;
  return offerId === undefined ? requirementsSchema.parse({}) : requirementsOfOffer(offerId);
}

function limited({ config }: Deps, requested: RequestedRequirements): Requirements {
  return completeRequirements(requested, {
    diskGb: config.VAST_DISK_GB,
    maxPricePerHourUsd: config.MAX_PRICE_PER_HOUR_USD,
  });
}

/** The provider, or the error that says what is missing. */
export function needProvider({ provider }: Pick<Deps, 'provider'>): Provider {
  if (provider !== null) return provider;
  throw new ServiceError(
    'provider_not_configured',
    'This service has no provider to rent from. Set VASTAI_API_KEY and start it again.',
  );
}

/** What a caller is told of a provider that could not be used. */
export function toServiceError(error: ProviderError): ServiceError {
  const options = { cause: error };
  switch (error.kind) {
    case 'unauthorized':
      return new ServiceError(
        'provider_unavailable',
        'vast.ai does not accept VASTAI_API_KEY. Check the key.',
        options,
      );
    case 'rate_limited':
      return new ServiceError(
        'provider_unavailable',
        'vast.ai asks us to slow down. Try again in some seconds.',
        options,
      );
    case 'no_credit':
      return new ServiceError('insufficient_credit', 'The vast.ai account lacks credit.', options);
    case 'invalid':
      return new ServiceError(
        'provider_unavailable',
        `vast.ai refuses the question, so repeating it does not help. ${error.message}`,
        options,
      );
    default:
      return new ServiceError(
        'provider_unavailable',
        'vast.ai gave no usable answer. Try again later.',
        options,
      );
  }
}
