// A delivery: one event of one job on its way to one URL. Its statuses, and what follows a try.

/** What is announced: that a job has reached this final status. */
export const webhookEvents = ['job.succeeded', 'job.failed', 'job.canceled', 'job.expired'] as const;
export type WebhookEvent = (typeof webhookEvents)[number];

/** `failed`: nothing further is tried unless somebody asks for a replay. */
export const deliveryStatuses = ['pending', 'delivered', 'failed'] as const;
export type DeliveryStatus = (typeof deliveryStatuses)[number];

/** What came of one POST. */
export type TryResult =
  | { kind: 'answered'; statusCode: number; retryAfter: string | null; answer: string }
  | { kind: 'unanswered'; error: string };

/** What becomes of a delivery after a try; `afterMs` is the wait before the next. */
export type NextMove = { status: 'delivered' | 'failed' } | { status: 'pending'; afterMs: number };

const GONE = 410;
/** A receiver that says when to come back is believed so far. */
const MOST_RETRY_AFTER_MS = 3_600_000;
/** Part of a wait that chance adds, so that what failed together does not come back together. */
const JITTER = 0.1;

/**
 * Decides what follows a try. `tryOfRound` counts from 1 since the event or the last replay; `waitsMs` are the waits between the
 * tries of a round. Any 2xx is success, 410 says that nobody wants it any more, and 429 and 503 may ask for a longer wait.
 */
export function afterTry(
  result: TryResult,
  tryOfRound: number,
  { waitsMs, now, random = Math.random }: { waitsMs: readonly number[]; now: Date; random?: () => number },
): NextMove {
  if (isSuccess(result)) return { status: 'delivered' };
  const waitMs = waitsMs[tryOfRound - 1];
  if (waitMs === undefined || (result.kind === 'answered' && result.statusCode === GONE)) {
    return { status: 'failed' };
  }
  const jittered = Math.round(waitMs * (1 + JITTER * random()));
  return { status: 'pending', afterMs: Math.max(jittered, askedWaitMs(result, now)) };
}

export function isSuccess(result: TryResult): boolean {
  return result.kind === 'answered' && result.statusCode >= 200 && result.statusCode < 300;
}

/** What the receiver asks for in seconds or as a date (RFC 9110), within bounds; 0 where it asks for nothing. */
function askedWaitMs(result: TryResult, now: Date): number {
  if (result.kind !== 'answered' || ![429, 503].includes(result.statusCode)) return 0;
  const text = result.retryAfter ?? '';
  const askedMs = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now.getTime();
  return Number.isNaN(askedMs) ? 0 : Math.min(Math.max(0, askedMs), MOST_RETRY_AFTER_MS);
}

/** Tries to one host that may be under way at once, over all replicas. */
const LANES_PER_HOST = 4;

/** The lane in which a delivery travels: one try at a time in each, so that many to one host leave hands for others. */
export function laneOf({ id, url }: { id: string; url: string }): string {
  return `${new URL(url).host}/${Number.parseInt(id.slice(-2), 16) % LANES_PER_HOST}`;
}

export function hostOf(lane: string): string {
  return lane.replace(/\/\d+$/, '');
}
