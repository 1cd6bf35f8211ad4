// The log of deliveries as the routes use it: look, and send again.
import type { Kysely, Transaction } from 'kysely';
import type { Queues } from '../database/queues.ts';
import type { DeliveryRow, Tables, TryRow } from '../database/tables.ts';
import { ServiceError } from '../errors.ts';
import type { Clock } from '../support/clock.ts';
import type { DeliveryStatus } from './delivery.ts';
import { sendDelivery } from './record.ts';

export interface DeliveryQuery {
  jobId: string | undefined;
  status: DeliveryStatus[];
  limit: number;
  /** The id of the last delivery of the page before. */
  cursor: string | undefined;
}

/** The columns that a summary is made of: all but the body. */
const summaryColumns = [
  'id',
  'job_id',
  'type',
  'url',
  'status',
  'tries',
  'next_try_at',
  'created_at',
  'ended_at',
] as const satisfies (keyof DeliveryRow)[];

export type DeliverySummaryRow = Pick<DeliveryRow, (typeof summaryColumns)[number]>;

export interface DeliveryDetails {
  delivery: DeliveryRow;
  /** The first one first. */
  tries: TryRow[];
}

export interface Deliveries {
  /** Newest first. */
  list(query: DeliveryQuery): Promise<{ items: DeliverySummaryRow[]; nextCursor: string | null }>;
  /** Rejects with `delivery_not_found`, as does `replay`. */
  get(id: string): Promise<DeliveryDetails>;
  /** Begins a new round of tries now, whatever came of the one before. */
  replay(id: string): Promise<DeliveryDetails>;
}

interface Deps {
  db: Kysely<Tables>;
  queues: Queues;
  clock: Clock;
}

export function createDeliveries({ db, queues, clock }: Deps): Deliveries {
  return {
    list: (query) => listDeliveries(db, query),
    get: (id) => findDelivery(db, id),
    async replay(id) {
      await db.transaction().execute(async (trx) => {
        await holdJobOf(trx, id);
        const armed = await trx
          .updateTable('webhook_deliveries')
          .set(({ eb }) => ({
            status: 'pending',
            tries_of_round: 0,
            next_try_at: clock.now(),
            ended_at: null,
            wake: eb('wake', '+', 1),
          }))
          .where('id', '=', id)
          .returning(['id', 'url', 'wake'])
          .executeTakeFirst();
        if (armed === undefined) throw deliveryNotFound(id);
        await sendDelivery(trx, queues, armed);
      });
      return findDelivery(db, id);
    },
  };
}

/** The retention leaves alone what somebody holds, and looks at what is to be delivered afterwards. */
async function holdJobOf(trx: Transaction<Tables>, id: string): Promise<void> {
  await trx
    .selectFrom('jobs')
    .select('id')
    .where('id', '=', (of) => of.selectFrom('webhook_deliveries').select('job_id').where('id', '=', id))
    .forKeyShare()
    .execute();
}

async function listDeliveries(
  db: Kysely<Tables>,
  { jobId, status, limit, cursor }: DeliveryQuery,
): Promise<{ items: DeliverySummaryRow[]; nextCursor: string | null }> {
  let query = db
    .selectFrom('webhook_deliveries')
    .select(summaryColumns)
    .orderBy('id', 'desc')
    .limit(limit + 1);
  if (jobId !== undefined) query = query.where('job_id', '=', jobId);
  if (status.length > 0) query = query.where('status', 'in', status);
  if (cursor !== undefined) query = query.where('id', '<', cursor);
  const rows = await query.execute();
  const items = rows.slice(0, limit);
  return { items, nextCursor: rows.length > limit ? (items.at(-1)?.id ?? null) : null };
}

async function findDelivery(db: Kysely<Tables>, id: string): Promise<DeliveryDetails> {
  const delivery = await db
    .selectFrom('webhook_deliveries')
    .selectAll()
    .where('id', '=', id)
    .executeTakeFirst();
  if (delivery === undefined) throw deliveryNotFound(id);
  const tries = await db
    .selectFrom('webhook_tries')
    .selectAll()
    .where('delivery_id', '=', id)
    .orderBy('number')
    .execute();
  return { delivery, tries };
}

function deliveryNotFound(id: string): ServiceError {
  return new ServiceError('delivery_not_found', `There is no delivery ${id}.`);
}
