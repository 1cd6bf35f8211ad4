// vast.ai's filters (`{field: {op: value}}`) on flat rows, for the search and for the list.

export type Row = Record<string, unknown>;

const operators: Record<string, (actual: unknown, wanted: unknown) => boolean> = {
  eq: (actual, wanted) => same(actual, wanted),
  neq: (actual, wanted) => !same(actual, wanted),
  gt: (actual, wanted) => compare(actual, wanted, (difference) => difference > 0),
  gte: (actual, wanted) => compare(actual, wanted, (difference) => difference >= 0),
  lt: (actual, wanted) => compare(actual, wanted, (difference) => difference < 0),
  lte: (actual, wanted) => compare(actual, wanted, (difference) => difference <= 0),
  in: (actual, wanted) => Array.isArray(wanted) && wanted.some((item) => same(actual, item)),
  notin: (actual, wanted) => Array.isArray(wanted) && !wanted.some((item) => same(actual, item)),
};

export function isOperator(name: string): boolean {
  return Object.hasOwn(operators, name);
}

/** Whether `actual` passes every operator of the condition; unknown operators are ignored. */
export function passes(actual: unknown, condition: Record<string, unknown>): boolean {
  return Object.entries(condition).every(([name, wanted]) => operators[name]?.(actual, wanted) ?? true);
}

/** Sorts by pairs of a field and "asc" or "desc"; rows without the field come last. */
export function sortRows<R extends Row>(rows: R[], order: [string, string][]): R[] {
  return [...rows].sort((a, b) => compareRows(a, b, order));
}

/** Negative: `a` comes first. */
export function compareRows(a: Row, b: Row, order: [string, string][]): number {
  for (const [field, direction] of order) {
    const difference = rank(a[field], b[field]);
    if (difference !== 0) return direction === 'desc' ? -difference : difference;
  }
  return 0;
}

function same(actual: unknown, wanted: unknown): boolean {
  if (typeof wanted === 'boolean') return Boolean(actual) === wanted;
  if (typeof actual === 'number' || typeof wanted === 'number') return Number(actual) === Number(wanted);
  return actual === wanted;
}

function compare(actual: unknown, wanted: unknown, accept: (difference: number) => boolean): boolean {
  if (typeof actual === 'string' && typeof wanted === 'string')
    return accept(actual < wanted ? -1 : Number(actual > wanted));
  return typeof actual === 'number' && accept(actual - Number(wanted));
}

function rank(a: unknown, b: unknown): number {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  if (a == null || b == null) return Number(a == null) - Number(b == null);
  return textOf(a) < textOf(b) ? -1 : Number(textOf(a) > textOf(b));
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
