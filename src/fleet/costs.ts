// The books, to be read: sums of the ledger by day, instance or API key.
import { sql, type Kysely } from 'kysely';
import type { Tables } from '../database/tables.ts';
import { usdOf } from '../instances/cost.ts';

export const costGroups = ['day', 'instance', 'apiKey'] as const;
export type CostGroup = (typeof costGroups)[number];

export interface CostQuery {
  /** The first and the last day of UTC, as `YYYY-MM-DD`. */
  from: string;
  to: string;
  groupBy: CostGroup;
  instanceId: string | undefined;
  apiKey: string | undefined;
  limit: number;
  /** The key of the last group of the page before. */
  cursor: string | undefined;
}

/** In US dollars. */
export interface CostSums {
  gpuUsd: number;
  storageUsd: number;
  trafficUsd: number;
  totalUsd: number;
  /** Whether every rental in it is confirmed gone. */
  final: boolean;
}

export interface CostPage {
  /** The last key first. A key is a day, the id of an instance, or the name of an API key, which is empty for what no key asked for. */
  groups: (CostSums & { key: string })[];
  total: CostSums;
  nextCursor: string | null;
}

export async function readCosts(db: Kysely<Tables>, query: CostQuery): Promise<CostPage> {
  const grouped = filtered(db, query)
    .select(keyOf[query.groupBy].as('key'))
    .select(sums)
    .groupBy('key')
    .orderBy('key', 'desc')
    .limit(query.limit + 1);
  const rows = await (
    query.cursor === undefined ? grouped : grouped.having(keyOf[query.groupBy], '<', query.cursor)
  ).execute();
  const groups = rows.slice(0, query.limit).map((row) => ({ key: row.key, ...inUsd(row) }));
  const total = inUsd(await filtered(db, query).select(sums).executeTakeFirstOrThrow());
  return { groups, total, nextCursor: rows.length > query.limit ? (groups.at(-1)?.key ?? null) : null };
}

/** Compared byte by byte, whatever the language of the database. */
const keyOf = {
  day: sql<string>`to_char(rental_costs.day, 'YYYY-MM-DD') collate "C"`,
  instance: sql<string>`instances.id::text collate "C"`,
  apiKey: sql<string>`coalesce(instances.api_key, '') collate "C"`,
} as const;

const sums = [
  sql<number>`coalesce(sum(gpu_micros), 0)::bigint`.as('gpu'),
  sql<number>`coalesce(sum(storage_micros), 0)::bigint`.as('storage'),
  sql<number>`coalesce(sum(traffic_micros), 0)::bigint`.as('traffic'),
  sql<boolean>`coalesce(bool_and(rentals.recorded_at is not null), true)`.as('final'),
] as const;

function filtered(db: Kysely<Tables>, { from, to, instanceId, apiKey }: CostQuery) {
  let query = db
    .selectFrom('rental_costs')
    .innerJoin('rentals', 'rentals.id', 'rental_costs.rental_id')
    .innerJoin('instances', 'instances.id', 'rentals.instance_id')
    .where('rental_costs.day', '>=', from)
    .where('rental_costs.day', '<=', to);
  if (instanceId !== undefined) query = query.where('instances.id', '=', instanceId);
  if (apiKey !== undefined) query = query.where(sql`coalesce(instances.api_key, '')`, '=', apiKey);
  return query;
}

function inUsd(row: { gpu: number; storage: number; traffic: number; final: boolean }): CostSums {
  return {
    gpuUsd: usdOf(row.gpu),
    storageUsd: usdOf(row.storage),
    trafficUsd: usdOf(row.traffic),
    totalUsd: usdOf(row.gpu + row.storage + row.traffic),
    final: row.final,
  };
}
