// What `/metrics` shows of webhooks: how often this process has tried, and how many deliveries stand how.
import type { Kysely } from 'kysely';
import { Counter, Gauge } from 'prom-client';
import type { Tables } from '../database/tables.ts';
import type { Metrics } from '../http/metrics.ts';
import { deliveryStatuses } from './delivery.ts';

/** Registers the metrics; what is returned counts a try. */
export function registerWebhookMetrics(
  { register }: Metrics,
  db: Kysely<Tables>,
): (delivered: boolean) => void {
  const tries = new Counter({
    name: 'comfyfleet_webhook_tries_total',
    help: 'Tries to deliver a webhook, by whether the receiver took it',
    labelNames: ['outcome'] as const,
    registers: [register],
  });
  tries.inc({ outcome: 'delivered' }, 0);
  tries.inc({ outcome: 'failed' }, 0);
  register.registerMetric(
    new Gauge({
      name: 'comfyfleet_webhook_deliveries',
      help: 'Deliveries of webhooks that are kept, by status',
      labelNames: ['status'] as const,
      registers: [],
      async collect() {
        const rows = await db
          .selectFrom('webhook_deliveries')
          .select(['status', ({ fn }) => fn.countAll<number>().as('count')])
          .groupBy('status')
          .execute();
        const counts = new Map(rows.map(({ status, count }) => [status, count]));
        for (const status of deliveryStatuses) this.set({ status }, counts.get(status) ?? 0);
      },
    }),
  );
  return (delivered) => tries.inc({ outcome: delivered ? 'delivered' : 'failed' });
}
