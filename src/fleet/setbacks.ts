// Instances of the fleet that never got ready: how often in a row, and when the fleet may try again.
import { terminationReasons, wantedReasons, type TerminationReason } from '../instances/instance.ts';
import { isOver } from '../support/clock.ts';

/** An instance of the fleet that got ready or ended. */
export interface Outcome {
  wish: string;
  /** Shared by those of which only the first to be ready is kept. */
  raceId: string | null;
  wasReady: boolean;
  reason: TerminationReason | null;
  detail: string | null;
  at: Date;
}

/** Instances for one demand that ended without ever being ready, one after the other. */
export interface Setback {
  /** Null when the account was the reason, so that no other demand would fare better. */
  wish: string | null;
  /** A race is one. */
  tries: number;
  lastAt: Date;
  /** What happened, for a person. */
  text: string;
}

const RETRY_CAP_MS = 3_600_000;
const MAX_DETAIL = 300;
const accountReasons: ReadonlySet<TerminationReason> = new Set([
  'insufficient_credit',
  'provider_refused_key',
]);

/** The failures since the last success, for each demand and for the account. `outcomes` in any order. */
export function setbacksOf(outcomes: readonly Outcome[]): Setback[] {
  const won = new Set(outcomes.filter(({ wasReady }) => wasReady).map(({ raceId }) => raceId));
  const telling = outcomes
    .filter(({ wasReady, reason }) => wasReady || (reason !== null && !wantedReasons.has(reason)))
    .filter(({ wasReady, raceId }) => wasReady || raceId === null || !won.has(raceId))
    .toSorted((a, b) => b.at.getTime() - a.at.getTime());
  // A demand that fails by itself in between says nothing about the account.
  const ofAccount = telling.filter((outcome) => outcome.wasReady || isOfAccount(outcome));
  const byWish = Map.groupBy(
    telling.filter((outcome) => !isOfAccount(outcome)),
    ({ wish }) => wish,
  );
  return [
    ...setback(null, sinceSuccess(ofAccount)),
    ...[...byWish].flatMap(([wish, all]) => setback(wish, sinceSuccess(all))),
  ];
}

/** When the fleet may try again; null when it may now. The first wait is `retryMs`, and doubles with each further setback. */
export function retryAt({ lastAt, tries }: Setback, retryMs: number, now: Date): Date | null {
  const waitMs = Math.min(RETRY_CAP_MS, retryMs * 2 ** Math.min(30, tries - 1));
  return isOver(lastAt, waitMs, now) ? null : new Date(lastAt.getTime() + waitMs);
}

function isOfAccount({ wasReady, reason }: Outcome): boolean {
  return !wasReady && reason !== null && accountReasons.has(reason);
}

function sinceSuccess(outcomes: readonly Outcome[]): Outcome[] {
  const end = outcomes.findIndex(({ wasReady }) => wasReady);
  return outcomes.slice(0, end === -1 ? outcomes.length : end);
}

function setback(wish: string | null, failures: readonly Outcome[]): Setback[] {
  const [last] = failures;
  if (last === undefined || last.reason === null) return [];
  const text = `${terminationReasons[last.reason]} ${(last.detail ?? '').slice(0, MAX_DETAIL)}`.trim();
  const tries = new Set(failures.map(({ raceId }, index) => raceId ?? index)).size;
  return [{ wish, tries, lastAt: last.at, text }];
}
