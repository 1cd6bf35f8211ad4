// Rows of deliveries turned into what the API shows.
import type { z } from 'zod';
import type { TryRow } from '../database/tables.ts';
import type { deliverySchema, deliverySummarySchema } from './schemas.ts';
import type { DeliveryDetails, DeliverySummaryRow } from './service.ts';

type DeliveryView = z.output<typeof deliverySchema>;

export function presentDeliverySummary(row: DeliverySummaryRow): z.output<typeof deliverySummarySchema> {
  return {
    id: row.id,
    jobId: row.job_id,
    type: row.type,
    url: row.url,
    status: row.status,
    tryCount: row.tries,
    nextTryAt: textOf(row.next_try_at),
    createdAt: row.created_at.toISOString(),
    endedAt: textOf(row.ended_at),
  };
}

export function presentDelivery({ delivery, tries }: DeliveryDetails): DeliveryView {
  return { ...presentDeliverySummary(delivery), body: delivery.body, tries: tries.map(presentTry) };
}

function presentTry(row: TryRow): DeliveryView['tries'][number] {
  return {
    number: row.number,
    startedAt: row.started_at.toISOString(),
    endedAt: textOf(row.ended_at),
    statusCode: row.status_code,
    error: row.error,
    answer: row.answer,
  };
}

function textOf(time: Date | null): string | null {
  return time === null ? null : time.toISOString();
}
