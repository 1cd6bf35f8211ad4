// Figures out of measurements: the middle, the spread, the tail.

/** What is told of many measurements of one thing, in their own unit. */
export interface Spread {
  count: number;
  median: number;
  /** The middle half lies between these two. */
  p25: number;
  p75: number;
  p95: number;
  p99: number;
  max: number;
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  return {
    count: sorted.length,
    median: quantile(sorted, 0.5),
    p25: quantile(sorted, 0.25),
    p75: quantile(sorted, 0.75),
    p95: quantile(sorted, 0.95),
    p99: quantile(sorted, 0.99),
    max: sorted.at(-1) ?? Number.NaN,
  };
}

export function medianOf(values: readonly number[]): number {
  return spreadOf(values).median;
}

export function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

/** Milliseconds since 1970 with their fractions, to be compared with the times of other processes. */
export function wallClock(): number {
  return performance.timeOrigin + performance.now();
}

/** Between the two nearest measurements, in proportion; NaN of none. */
function quantile(sorted: readonly number[], part: number): number {
  const at = (sorted.length - 1) * part;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
}
