// Typed calls to vast.ai: paced, authenticated by header, their answers checked, their refusals classified.
import type { BaseLogger } from 'pino';
import type { z } from 'zod';
import { ProviderError } from '../instances/provider.ts';
import { backoffMs } from '../support/backoff.ts';
import type { EndpointName, Intervals } from './endpoints.ts';
import { endpoints } from './endpoints.ts';
import { contractIn, isRateLimited, refusalError, refusalIn, saysGone } from './errors.ts';
import { fetchLog } from './logs.ts';
import type { Pacer } from './rate-limit.ts';
import type { InstanceRow } from './schemas.ts';
import {
  createAnswerSchema,
  listAnswerSchema,
  logsAnswerSchema,
  searchAnswerSchema,
  showAnswerSchema,
  userAnswerSchema,
} from './schemas.ts';
import type { Answer, Transport } from './transport.ts';
import { NoAnswerError } from './transport.ts';

interface Creation {
  offerId: string;
  body: object;
  secret: string;
  /** Awaited when its turn has come; where it rejects, nothing is sent, and the call rejects with the same. */
  beforeSending?: (() => Promise<void>) | undefined;
}

/** Every call rejects with a `ProviderError`, but where it says something else. */
export interface VastClient {
  /** Raw rows of one search, at most 64 whatever the limit. */
  search(body: object, signal?: AbortSignal): Promise<unknown[]>;
  /** Rents; the id of the new contract. Never repeated. */
  create(rental: Creation, signal?: AbortSignal): Promise<string>;
  /** One instance; null when vast.ai says that it has none of that id. */
  show(instanceId: string, signal?: AbortSignal): Promise<InstanceRow | null>;
  /** All instances that match, or a rejection. `filters` is asked when the call is about to be sent. */
  list(filters: () => object, signal?: AbortSignal): Promise<InstanceRow[]>;
  /** Asks for the end; an instance that is gone already is a success. */
  destroy(instanceId: string, signal?: AbortSignal): Promise<void>;
  /** The raw log, secrets included. */
  log(instanceId: string, lines: number, signal?: AbortSignal): Promise<string>;
  user(signal?: AbortSignal): Promise<{ credit: number | null }>;
}

export interface VastClientOptions {
  baseUrl: string;
  apiKey: string;
  transport: Transport;
  pacer: Pacer;
  intervals: Intervals;
  log: Pick<BaseLogger, 'debug' | 'warn'>;
}

interface Call {
  /** What is tried, for the error. */
  what: string;
  endpoint: EndpointName;
  id?: string;
  query?: () => Record<string, string>;
  body?: unknown;
  beforeSending?: (() => Promise<void>) | undefined;
  signal?: AbortSignal | undefined;
}

/** Sendings of one call that vast.ai answers with 429. */
const MAX_SENDINGS = 5;
/** However long vast.ai asks us to wait: an endpoint that is held is lost to all instances. */
const MAX_RETRY_AFTER_MS = 60_000;
/** vast.ai gives no more instances per page. */
const PAGE_SIZE = 25;
const MAX_PAGES = 400;

export function createVastClient(options: VastClientOptions): VastClient {
  const { apiKey } = options;
  const secrets = [apiKey];

  async function answerTo(call: Call): Promise<Answer> {
    const { rents } = endpoints[call.endpoint];
    for (let sending = 1; ; sending++) {
      const answer = await sendOnce(options, call);
      if (!isRateLimited(answer)) return answer;
      const { penaltyMs } = options.intervals.paces[call.endpoint];
      const askedMs = Math.min(answer.retryAfterMs ?? 0, MAX_RETRY_AFTER_MS);
      const holdMs = Math.max(penaltyMs, askedMs, backoffMs(sending, options.intervals.backoff));
      options.pacer.hold(call.endpoint, holdMs);
      options.log.warn({ endpoint: call.endpoint, holdMs }, 'vast.ai was asked too often');
      if (rents || sending === MAX_SENDINGS) return answer;
    }
  }

  /** The checked body of a success. */
  async function resultOf<S extends z.ZodType>(call: Call, schema: S): Promise<z.output<S>> {
    return checked(call, await answerTo(call), schema, secrets);
  }

  return {
    async search(body, signal) {
      const call = { what: 'Searching offers', endpoint: 'search', body, signal } as const;
      return (await resultOf(call, searchAnswerSchema)).offers;
    },

    async create({ offerId, body, secret, beforeSending }, signal) {
      const what = `Renting offer ${offerId}`;
      const call = { what, endpoint: 'create', id: offerId, body, beforeSending, signal } as const;
      return checked(call, await answerTo(call), createAnswerSchema, [...secrets, secret]).new_contract;
    },

    async show(instanceId, signal) {
      const what = `Reading instance ${instanceId}`;
      const call = { what, endpoint: 'show', id: instanceId, signal } as const;
      const answer = await answerTo(call);
      const refusal = refusalIn(answer);
      if (refusal !== null && saysGone(refusal)) return null;
      const { instances } = checked(call, answer, showAnswerSchema, secrets);
      const found = Array.isArray(instances) ? (instances[0] ?? null) : instances;
      if (found === null || found.id === instanceId) return found;
      throw unusable(call, `it answered with instance ${found.id}`);
    },

    list: (filters, signal) => listAll((call) => resultOf(call, listAnswerSchema), filters, signal),

    async destroy(instanceId, signal) {
      const what = `Destroying instance ${instanceId}`;
      const call = { what, endpoint: 'destroy', id: instanceId, body: {}, signal } as const;
      const refusal = refusalIn(await answerTo(call));
      if (refusal === null || saysGone(refusal)) return;
      throw refusalError(what, refusal, { rents: false, secrets });
    },

    async log(instanceId, lines, signal) {
      const what = `Reading the log of instance ${instanceId}`;
      const body = { tail: String(lines) };
      const call = { what, endpoint: 'logs', id: instanceId, body, signal } as const;
      const { result_url } = await resultOf(call, logsAnswerSchema);
      const { transport, baseUrl, intervals } = options;
      return fetchLog({ what, transport, baseUrl, pollMs: intervals.logPollMs, url: result_url }, signal);
    },

    user: (signal) => resultOf({ what: 'Reading the account', endpoint: 'user', signal }, userAnswerSchema),
  };
}

async function sendOnce(
  { baseUrl, apiKey, transport, pacer, intervals, log }: VastClientOptions,
  call: Call,
): Promise<Answer> {
  const { method, path, rents } = endpoints[call.endpoint];
  try {
    await pacer.turn(call.endpoint, call.signal);
  } catch (error) {
    throw new ProviderError('unavailable', `${call.what}: given up before it was sent`, { cause: error });
  }
  await call.beforeSending?.();
  const url = new URL(path.replace('{id}', encodeURIComponent(call.id ?? '')), baseUrl);
  for (const [name, value] of Object.entries(call.query?.() ?? {})) url.searchParams.set(name, value);
  const headers = { authorization: `Bearer ${apiKey}` };
  const timeoutMs = Math.min(endpoints[call.endpoint].timeoutMs, intervals.maxCallMs);
  const startedAt = performance.now();
  try {
    const answer = await transport.exchange(
      { method, url, headers, body: call.body, timeoutMs },
      call.signal,
    );
    const tookMs = Math.round(performance.now() - startedAt);
    log.debug({ endpoint: call.endpoint, id: call.id, status: answer.status, tookMs }, 'vast.ai answered');
    return answer;
  } catch (error) {
    const isMaybe = rents && (!(error instanceof NoAnswerError) || error.sent);
    const words = error instanceof NoAnswerError ? error.message : 'the request could not be made';
    throw new ProviderError(isMaybe ? 'ambiguous' : 'unavailable', `${call.what}: ${words}`, {
      cause: error,
    });
  }
}

async function listAll(
  page: (call: Call) => Promise<z.output<typeof listAnswerSchema>>,
  filters: () => object,
  signal: AbortSignal | undefined,
): Promise<InstanceRow[]> {
  const call: Call = { what: 'Listing instances', endpoint: 'list', signal };
  const found = new Map<string, InstanceRow>();
  let selected: string | undefined;
  let token: string | null = null;
  for (let pages = 1; pages <= MAX_PAGES; pages++) {
    const after: Record<string, string> = token === null ? {} : { after_token: token };
    const query = () => ({
      limit: String(PAGE_SIZE),
      order_by: '[{"col":"id","dir":"asc"}]',
      select_filters: (selected ??= JSON.stringify(filters())),
      ...after,
    });
    const answer = await page({ ...call, query });
    const before = found.size;
    for (const row of answer.instances) found.set(row.id, row);
    token = answer.next_token;
    if (token === null) {
      if (found.size >= answer.total_instances) return [...found.values()];
      throw unusable(call, `it gave ${found.size} of ${answer.total_instances} instances`);
    }
    // A token that leads to what we have already would lead there for ever.
    if (found.size === before) throw unusable(call, 'a page of it brings nothing new');
  }
  throw unusable(call, `its list has more than ${MAX_PAGES} pages`);
}

function checked<S extends z.ZodType>(
  call: Call,
  answer: Answer,
  schema: S,
  secrets: readonly string[],
): z.output<S> {
  const { rents } = endpoints[call.endpoint];
  const refusal = refusalIn(answer);
  if (refusal !== null) throw refusalError(call.what, refusal, { rents, secrets });
  const result = schema.safeParse(answer.json);
  if (result.success) return result.data;
  const at = result.error.issues[0]?.path.join('.') ?? '';
  const words = answer.json === undefined ? 'its answer is not JSON' : `"${at}" is not what it should be`;
  throw unusable(call, words, contractIn(answer));
}

function unusable(call: Call, words: string, leftoverId: string | null = null): ProviderError {
  return new ProviderError(
    endpoints[call.endpoint].rents ? 'ambiguous' : 'unavailable',
    `${call.what}: vast.ai's answer cannot be used, ${words}`,
    leftoverId === null ? {} : { leftoverId },
  );
}
