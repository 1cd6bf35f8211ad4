// Tries to deliver one event, writes down what came of it, and arms the next try.
import type { Kysely } from 'kysely';
import type { Config } from '../config.ts';
import type { HandlerContext, QueueMessages, Queues } from '../database/queues.ts';
import type { DeliveryRow, Tables } from '../database/tables.ts';
import type { JobView } from '../jobs/presentation.ts';
import type { Clock } from '../support/clock.ts';
import type { Logger } from '../support/log.ts';
import type { ResolveHost } from '../support/host-names.ts';
import { afterTry, hostOf, isSuccess, type TryResult } from './delivery.ts';
import { eventBody } from './event.ts';
import { post } from './post.ts';
import { sendDelivery } from './record.ts';
import type { SilentHosts } from './silent-hosts.ts';
import { signatureHeaders } from './signature.ts';

export interface DeliveryDeps {
  db: Kysely<Tables>;
  queues: Queues;
  config: Config;
  clock: Clock;
  log: Logger;
  /** The job as the API shows it. */
  showJob: (jobId: string) => Promise<JobView>;
  /** None are remembered without it. */
  silentHosts?: SilentHosts;
  /** Counts a try. */
  countTry: (delivered: boolean) => void;
  /** Finds the addresses of a host name; as `publicConnector` does unless told. */
  resolveHost?: ResolveHost;
}

/** The part of the time limit from which on a receiver counts as silent, whatever it has answered. */
const HELD_TOO_LONG = 0.9;

/** What the messages of both queues have in common. */
type DeliveryMessage = Pick<QueueMessages['deliver'], 'deliveryId' | 'wake'>;

/** A delivery as a try needs it, with the number of the try. */
type Begun = Pick<DeliveryRow, 'id' | 'url' | 'wake' | 'tries' | 'tries_of_round'> & { body: string };

/** Works on a `deliver` message. What is for a host that did not answer the last try is left to the hands that wait for such. */
export async function deliver(
  deps: DeliveryDeps,
  { lane, ...message }: QueueMessages['deliver'],
  context: HandlerContext,
): Promise<void> {
  const host = hostOf(lane);
  if (deps.silentHosts?.has(host) === true) {
    return deps.queues.send(deps.db, 'deliver_silent', { ...message, host });
  }
  await deliverNow(deps, message, context);
}

/**
 * Makes the try of a message: at most one POST. A receiver that fails is no failure of the message. Cut off in the middle, the
 * message comes back and the POST is made again, with the same id: receivers see every event at least once.
 */
export async function deliverNow(
  deps: DeliveryDeps,
  message: DeliveryMessage,
  { signal }: HandlerContext,
): Promise<void> {
  const delivery = await begin(deps, message);
  if (delivery === null) return;
  const began = performance.now();
  const result = await attempt(deps, delivery, signal);
  const heldSeconds = (performance.now() - began) / 1000;
  // One that never ends its answer holds a hand for as long as one that does not answer.
  const isSilent =
    result.kind === 'unanswered' || heldSeconds >= deps.config.WEBHOOK_TIMEOUT_SECONDS * HELD_TOO_LONG;
  deps.silentHosts?.note(new URL(delivery.url).host, isSilent);
  await finish(deps, delivery, result, isSilent);
  deps.countTry(isSuccess(result));
}

/** Writes that a try begins. Null when the message was overtaken. */
async function begin(
  { db, config, clock, showJob }: DeliveryDeps,
  { deliveryId, wake }: DeliveryMessage,
): Promise<Begun | null> {
  const found = await db
    .selectFrom('webhook_deliveries')
    .select(['job_id', 'type', 'created_at', 'body'])
    .where('id', '=', deliveryId)
    .where('wake', '=', wake)
    .where('status', '=', 'pending')
    .executeTakeFirst();
  if (found === undefined) return null;
  const { type, created_at: at, job_id: jobId } = found;
  // Kept from the first try on: what is signed under one id must not change.
  const body = found.body ?? eventBody(type, at, await showJob(jobId), config.PUBLIC_URL);
  const now = clock.now();
  return db.transaction().execute(async (trx) => {
    const begun = await trx
      .updateTable('webhook_deliveries')
      .set((row) => ({
        tries: row('tries', '+', 1),
        tries_of_round: row('tries_of_round', '+', 1),
        body: row.fn.coalesce('body', row.val(body)),
        // Where the sweep reckons from.
        next_try_at: now,
      }))
      .where('id', '=', deliveryId)
      .where('wake', '=', wake)
      .where('status', '=', 'pending')
      .returning(['id', 'url', 'wake', 'tries', 'tries_of_round', 'body'])
      .executeTakeFirst();
    if (begun === undefined) return null;
    const row = { delivery_id: deliveryId, number: begun.tries, started_at: now };
    await trx.insertInto('webhook_tries').values(row).execute();
    return { ...begun, body: begun.body ?? body };
  });
}

async function attempt(
  { config, clock, resolveHost }: DeliveryDeps,
  { id, url, body }: Begun,
  signal: AbortSignal,
): Promise<TryResult> {
  if (config.WEBHOOK_SECRET.length === 0) {
    return { kind: 'unanswered', error: 'Nothing was sent: WEBHOOK_SECRET is not set.' };
  }
  return post(url, {
    headers: signatureHeaders(config.WEBHOOK_SECRET, { id, at: clock.now(), body }),
    body,
    timeoutMs: config.WEBHOOK_TIMEOUT_SECONDS * 1000,
    allowedHosts: config.WEBHOOK_ALLOWED_HOSTS,
    signal,
    ...(resolveHost === undefined ? {} : { resolveHost }),
  });
}

/** Writes how the try ended, and what follows unless somebody asked for a replay meanwhile. */
async function finish(
  { db, queues, config, clock, log }: DeliveryDeps,
  { id, url, wake, tries, tries_of_round: tryOfRound }: Begun,
  result: TryResult,
  isSilent: boolean,
): Promise<void> {
  const now = clock.now();
  const waitsMs = config.WEBHOOK_RETRY_SECONDS.map((seconds) => seconds * 1000);
  const next = afterTry(result, tryOfRound, { waitsMs, now });
  await db.transaction().execute(async (trx) => {
    await trx
      .updateTable('webhook_tries')
      .set({ ended_at: now, ...outcomeOf(result) })
      .where('delivery_id', '=', id)
      .where('number', '=', tries)
      .execute();
    const nextTryAt = next.status === 'pending' ? new Date(now.getTime() + next.afterMs) : null;
    const written = await trx
      .updateTable('webhook_deliveries')
      .set(({ eb }) => ({
        status: next.status,
        next_try_at: nextTryAt,
        ended_at: nextTryAt === null ? now : null,
        wake: eb('wake', '+', 1),
      }))
      .where('id', '=', id)
      .where('wake', '=', wake)
      .returning('wake')
      .executeTakeFirst();
    if (written !== undefined && next.status === 'pending') {
      await sendDelivery(trx, queues, { id, url, wake: written.wake }, { afterMs: next.afterMs, isSilent });
    }
  });
  const { host } = new URL(url);
  log.info({ deliveryId: id, host, tries, status: next.status, ...factOf(result) }, 'a webhook was tried');
}

function outcomeOf(result: TryResult) {
  return result.kind === 'answered'
    ? { status_code: result.statusCode, answer: result.answer }
    : { error: result.error };
}

function factOf(result: TryResult) {
  return result.kind === 'answered' ? { statusCode: result.statusCode } : { error: result.error };
}
