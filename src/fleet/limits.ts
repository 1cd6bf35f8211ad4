// Whether money is enough: pure. What was spent and the worst case of all that is rented must stay within every limit.
import type { LimitNumbers } from '../instances/budget.ts';

/** Something that bills, or is about to: with a price, until an end that it can not outlive. */
export interface Commitment {
  pricePerHourUsd: number;
  /** When it has ended at the latest. */
  until: Date;
  /** What downloads to it may cost at most, all of it on any day until then. */
  downloadUsd: number;
}

export interface Limits {
  instances: number;
  totalPricePerHourUsd: number;
  perDayUsd: number;
  perMonthUsd: number;
}

/** Where the money stands. Days and months are those of UTC. */
export interface Position {
  now: Date;
  /** Instances that have not ended, with or without a machine. */
  instances: number;
  spentTodayUsd: number;
  spentThisMonthUsd: number;
  commitments: readonly Commitment[];
}

interface Span {
  name: string;
  from: Date;
  to: Date;
}

const HOUR_MS = 3_600_000;
/** Sums of prices are not exact; nobody is refused for a billionth of a dollar. */
const TOLERANCE_USD = 1e-9;

/** The first limit that `ask` would pass on top of everything else, or that is passed already when nothing is asked. */
export function findBreach(limits: Limits, position: Position, ask: Commitment | null): LimitNumbers | null {
  const asked = ask === null ? [] : [ask];
  const price = (all: readonly Commitment[]) =>
    all.reduce((sum, { pricePerHourUsd }) => sum + pricePerHourUsd, 0);
  const breaches = [
    ask === null ? null : breach('MAX_INSTANCES', limits.instances, position.instances, asked.length),
    breach(
      'MAX_TOTAL_PRICE_PER_HOUR_USD',
      limits.totalPricePerHourUsd,
      price(position.commitments),
      price(asked),
    ),
    ...spans('day', position, ask).map((day, index) => {
      const spent = index === 0 ? position.spentTodayUsd : 0;
      return breachIn('MAX_SPEND_PER_DAY_USD', limits.perDayUsd, day, spent, position, asked);
    }),
    ...spans('month', position, ask).map((month, index) => {
      const spent = index === 0 ? position.spentThisMonthUsd : 0;
      return breachIn('MAX_SPEND_PER_MONTH_USD', limits.perMonthUsd, month, spent, position, asked);
    }),
  ];
  return breaches.find((found) => found !== null) ?? null;
}

export function startOfDay(moment: Date): Date {
  return new Date(Date.UTC(moment.getUTCFullYear(), moment.getUTCMonth(), moment.getUTCDate()));
}

/** The first moment of the month, or of one that is `later` months away. */
export function startOfMonth(moment: Date, later = 0): Date {
  return new Date(Date.UTC(moment.getUTCFullYear(), moment.getUTCMonth() + later));
}

export function startOfNextDay(moment: Date): Date {
  return new Date(startOfDay(moment).getTime() + 24 * HOUR_MS);
}

/** The name of a day of UTC, as `2026-01-31`. */
export function dayName(moment: Date): string {
  return moment.toISOString().slice(0, 10);
}

function breachIn(
  limitName: LimitNumbers['limitName'],
  limit: number,
  span: Span,
  spentUsd: number,
  { commitments, now }: Position,
  asked: readonly Commitment[],
): LimitNumbers | null {
  const committed = spentUsd + costWithin(commitments, span, now);
  return breach(limitName, limit, committed, costWithin(asked, span, now), span.name);
}

function breach(
  limitName: LimitNumbers['limitName'],
  limit: number,
  committed: number,
  asked: number,
  period: string | null = null,
): LimitNumbers | null {
  if (committed + asked <= limit + TOLERANCE_USD) return null;
  return { limitName, limit, committed, asked, period };
}

/** What the commitments still cost within a span that is not over, at most. */
function costWithin(commitments: readonly Commitment[], span: Span, now: Date): number {
  const begin = Math.max(now.getTime(), span.from.getTime());
  return commitments.reduce((sum, { pricePerHourUsd, until, downloadUsd }) => {
    const hours = Math.max(0, Math.min(until.getTime(), span.to.getTime()) - begin) / HOUR_MS;
    return sum + hours * pricePerHourUsd + (until > span.from ? downloadUsd : 0);
  }, 0);
}

/** The days, or months, from now until the last end that is of interest. */
function spans(kind: 'day' | 'month', { now, commitments }: Position, ask: Commitment | null): Span[] {
  const until = Math.max(
    now.getTime() + 1,
    // Without a question, what is to come may still be stopped: only the present counts.
    ...(ask === null ? [] : [ask, ...commitments].map((commitment) => commitment.until.getTime())),
  );
  const found: Span[] = [];
  let from = kind === 'day' ? startOfDay(now) : startOfMonth(now);
  while (from.getTime() < until) {
    const to = kind === 'day' ? startOfNextDay(from) : startOfMonth(from, 1);
    found.push({ name: from.toISOString().slice(0, kind === 'day' ? 10 : 7), from, to });
    from = to;
  }
  return found;
}
