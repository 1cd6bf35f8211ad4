// The queue as the database has it: in lines of jobs that came with one API key and want the same.
import { sql, type Transaction } from 'kysely';
import type { Tables } from '../database/tables.ts';
import type { RequestedRequirements } from '../instances/requirements.ts';

/**
 * The order of queued jobs. A point of priority is worth a minute of waiting, so that nothing waits for ever. The wait counts from
 * the creation: a job that lost its instance does not go to the end.
 */
export const queueRank = sql<number>`(extract(epoch from created_at at time zone 'UTC') - priority * 60)`;

/** Names the line of a job. Both expressions are those of the index `jobs_in_line`. */
const lineOf = sql<string>`md5(coalesce(api_key, '') || ' ' || coalesce(wanted_instance_id::text, '') || ' ' || coalesce(requirements::text, ''))`;

/** How the fleet names jobs that want the same: by their requirements as the database writes them. */
export const wishOf = sql<string>`coalesce(jobs.requirements::text, 'null')`;

export interface QueuedJob {
  id: string;
  line: string;
  wish: string;
  requirements: RequestedRequirements | null;
  wanted_instance_id: string | null;
  instance_id: string | null;
  api_key: string | null;
  workflow_shape: string | null;
  priority: number;
  created_at: Date;
}

/** The first `length` jobs of every line, the first one first. It reads no more than these, however many are queued. */
export async function headsOfLines(trx: Transaction<Tables>, length: number): Promise<QueuedJob[]> {
  const { rows } = await sql<QueuedJob>`
    with recursive lines as (
      (select ${lineOf} as line from jobs where status = 'queued' order by 1 limit 1)
      union all
      select (select ${lineOf} from jobs where status = 'queued' and ${lineOf} > lines.line order by 1 limit 1)
      from lines where lines.line is not null
    )
    select line, head.* from lines cross join lateral (
      select id, ${wishOf} as wish, requirements, wanted_instance_id, instance_id, api_key, workflow_shape, priority, created_at,
        ${queueRank} as rank
      from jobs where status = 'queued' and ${lineOf} = lines.line order by ${queueRank}, id limit ${length}
    ) as head
    order by rank, id`.execute(trx);
  return rows;
}

/** The condition that a job is queued in one of these lines. */
export function isInLine(lines: readonly string[]) {
  return sql<boolean>`status = 'queued' and ${lineOf} = any(${lines}::text[])`;
}
