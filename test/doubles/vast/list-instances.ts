// `GET /api/v1/instances/`: the list, in pages.
import type { Call } from './call.ts';
import { isObject, parseObject } from './call.ts';
import type { Row } from './filters.ts';
import { compareRows, isOperator, passes, sortRows } from './filters.ts';
import { instanceRow } from './instance-row.ts';
import { isVisible } from './instances.ts';
import type { Reply } from './reply.ts';
import { failure, json } from './reply.ts';

const largestPage = 25;

/** Columns that are stored with a contract; all others are computed, and no filter or order may name them. */
const storedColumns = new Set([
  'id',
  'label',
  'actual_status',
  'intended_status',
  'cur_state',
  'next_state',
  'gpu_name',
  'verification',
  'machine_id',
  'host_id',
  'image_uuid',
  'start_date',
  'end_date',
]);

export function listInstances(call: Call): Reply {
  const { world, query, fault } = call;
  const filters = readFilters(query.get('select_filters'));
  if (typeof filters === 'string') return invalid(`${filters} is not a valid search key`);
  const order = readOrder(query.get('order_by'));
  if (typeof order === 'string') return invalid(`${order} is not a valid search key`);
  const wholeOrder: [string, string][] = [...order, ['id', 'asc']];
  const after = readToken(query.get('after_token'));
  if (after === null) return failure(400, 'invalid_token', 'after_token is not valid');

  const all = [...world.rentals.values()]
    .filter((rental) => isVisible(world, rental, 'list'))
    .map((rental) => instanceRow(world, rental, 'list'))
    .filter((row) => filters.every(([column, condition]) => passes(row[column], condition)));
  const rows = sortRows(all, wholeOrder);
  const start =
    after === undefined ? 0 : rows.filter((row) => compareRows(row, after, wholeOrder) <= 0).length;
  const page = rows.slice(start, start + readLimit(query.get('limit')));
  const hasMore = start + page.length < rows.length;
  const answer = {
    success: true,
    instances_found: page.length,
    total_instances: rows.length,
    label_counts: countLabels(rows),
    next_token: hasMore ? tokenAfter(page.at(-1), wholeOrder) : null,
    instances: page.map((row) => selectColumns(row, query.get('select_cols'))) as Row[] | null,
  };
  switch (fault) {
    case 'null-list':
      return json(200, { ...answer, instances: null });
    case 'empty-list':
      return json(200, {
        ...answer,
        instances_found: 0,
        total_instances: 0,
        label_counts: {},
        next_token: null,
        instances: [],
      });
    case 'token-loop':
      return json(200, { ...answer, total_instances: 1000, next_token: tokenAfter(rows[0], wholeOrder) });
    case 'lost-pages':
      return json(200, { ...answer, total_instances: rows.length + 1, next_token: null });
    default:
      return json(200, answer);
  }
}

/** The filters as pairs, or what may not be filtered by. */
function readFilters(text: string | null): [string, Row][] | string {
  const value = text === null ? {} : parseObject(text);
  if (value === null) return 'select_filters';
  const filters: [string, Row][] = [];
  for (const [column, condition] of Object.entries(value)) {
    if (!storedColumns.has(column) || !isObject(condition)) return column;
    const unknownOperator = Object.keys(condition).find((name) => !isOperator(name));
    if (unknownOperator !== undefined) return unknownOperator;
    filters.push([column, condition]);
  }
  return filters;
}

/** The order as pairs, or the column that may not be ordered by. */
function readOrder(text: string | null): [string, string][] | string {
  if (text === null) return [];
  const value = parseObject(`{"order":${text}}`)?.['order'];
  if (!Array.isArray(value)) return 'order_by';
  const pairs: [string, string][] = [];
  for (const entry of value as unknown[]) {
    const column = isObject(entry) ? String(entry['col']) : 'order_by';
    if (!storedColumns.has(column)) return column;
    pairs.push([column, isObject(entry) && entry['dir'] === 'desc' ? 'desc' : 'asc']);
  }
  return pairs;
}

function readLimit(text: string | null): number {
  const limit = text === null ? largestPage : Number(text);
  if (!(limit > 0)) return 5;
  return Math.min(largestPage, Math.trunc(limit));
}

/** What the last row of the page before was sorted by, whether it still exists or not; undefined without a token, null for one that is not ours. */
function readToken(token: string | null): Row | undefined | null {
  if (token === null || token === '') return undefined;
  const values = parseObject(Buffer.from(token, 'base64').toString('utf8'))?.['values'];
  return isObject(values) && typeof values['id'] === 'number' ? values : null;
}

function tokenAfter(row: Row | undefined, order: [string, string][]): string {
  const values = Object.fromEntries(order.map(([column]) => [column, row?.[column] ?? null]));
  return Buffer.from(JSON.stringify({ values: { ...values, id: row?.['id'] ?? 0 } })).toString('base64');
}

function countLabels(rows: Row[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const row of rows) {
    const label = typeof row['label'] === 'string' ? row['label'] : '';
    counts[label] = (counts[label] ?? 0) + 1;
  }
  return counts;
}

function selectColumns(row: Row, text: string | null): Row {
  const columns = text === null ? ['*'] : parseObject(`{"columns":${text}}`)?.['columns'];
  if (!Array.isArray(columns) || columns.includes('*')) return row;
  return Object.fromEntries(columns.map((column) => [String(column), row[String(column)] ?? null]));
}

function invalid(message: string): Reply {
  return failure(400, 'invalid_request', `Error in query parameters: ${message}`);
}
