// vast.ai's rate limits: a least interval for each endpoint and caller, with answers in all the forms that were seen.
import type { DoubleClock } from './clock.ts';
import type { Operation } from './faults.ts';
import type { Reply } from './reply.ts';
import { failure, json, text } from './reply.ts';

export interface RateLimits {
  /** The refusal, or undefined when the call may pass. `scale` 1 is the real interval, 0 none. */
  check(operation: Operation, caller: string, scale: number): Reply | undefined;
}

/** Seconds between two calls, from vast.ai's pages. Operations that are not named have no stated limit. */
const intervalSeconds: Partial<Record<Operation, number>> = {
  create: 4.5,
  show: 2,
  list: 1,
  manage: 1,
  destroy: 3,
  reboot: 1,
  recycle: 1,
};

/** A create that came too early closes the endpoint for longer. */
const createPenaltySeconds = 12;

/** The search counts calls in a minute instead. */
const searchesPerMinute = 10;

export function openRateLimits(clock: DoubleClock): RateLimits {
  const openFromMs = new Map<string, number>();
  const searches = new Map<string, number[]>();
  let refusals = 0;

  function checkSearch(caller: string, scale: number): Reply | undefined {
    const nowMs = clock.now();
    const recent = (searches.get(caller) ?? []).filter((atMs) => atMs > nowMs - 60_000 * scale);
    if (recent.length >= searchesPerMinute) return refusal('search', 6, refusals++);
    searches.set(caller, [...recent, nowMs]);
    return undefined;
  }

  return {
    check(operation, caller, scale) {
      if (scale <= 0) return undefined;
      if (operation === 'search') return checkSearch(caller, scale);
      const seconds = intervalSeconds[operation];
      if (seconds === undefined) return undefined;
      const key = `${operation} ${caller}`;
      const nowMs = clock.now();
      if (nowMs < (openFromMs.get(key) ?? 0)) {
        if (operation === 'create') openFromMs.set(key, nowMs + createPenaltySeconds * 1000 * scale);
        return refusal(operation, seconds, refusals++);
      }
      openFromMs.set(key, nowMs + seconds * 1000 * scale);
      return undefined;
    },
  };
}

/** No header says when to come back, and the body has four forms. */
function refusal(operation: Operation, seconds: number, count: number): Reply {
  const threshold = seconds.toFixed(1);
  if (operation === 'destroy') {
    return failure(429, 'rate_limit_exceeded', `API requests too frequent endpoint threshold=${threshold}`);
  }
  const forms = [
    json(429, { detail: `API requests too frequent endpoint threshold=${threshold}` }),
    text(429, 'API requests too frequent'),
    text(429, `API requests too frequent: endpoint threshold=${threshold}`),
  ];
  return forms[count % forms.length] ?? text(429, 'API requests too frequent');
}
