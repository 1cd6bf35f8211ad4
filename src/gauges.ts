// What `/metrics` shows of the domain: counts read from the database when somebody asks.
import type { Kysely } from 'kysely';
import { Gauge } from 'prom-client';
import type { Queues } from './database/queues.ts';
import type { Tables } from './database/tables.ts';
import type { Metrics } from './http/metrics.ts';
import { rentalAlarms } from './instances/alarms.ts';
import { instanceStatuses } from './instances/instance.ts';
import { jobStatuses } from './jobs/job.ts';
import type { Upkeep } from './support/upkeep.ts';

/** Registers the gauges. A status that nothing has is shown as 0, so that an alert on it can work. */
export function registerGauges(
  { register }: Metrics,
  { db, queues, upkeep }: { db: Kysely<Tables>; queues: Queues; upkeep: Upkeep },
): void {
  const live = instanceStatuses.filter((status) => status !== 'terminated');
  register.registerMetric(
    statusGauge('comfyfleet_instances', 'Instances that have not ended, by status', live, () =>
      countByStatus(db, 'instances'),
    ),
  );
  register.registerMetric(
    statusGauge('comfyfleet_jobs', 'Jobs by status', jobStatuses, () => countByStatus(db, 'jobs')),
  );
  register.registerMetric(
    new Gauge({
      name: 'comfyfleet_rentals_stuck',
      help: 'Rentals that were tried to be destroyed again and again and still bill',
      registers: [],
      async collect() {
        this.set((await rentalAlarms(db)).stuck);
      },
    }),
  );
  register.registerMetric(
    new Gauge({
      name: 'comfyfleet_rentals_orphaned',
      help: 'Rentals with the label of this deployment that no record accounts for',
      registers: [],
      async collect() {
        this.set((await rentalAlarms(db)).orphans);
      },
    }),
  );
  register.registerMetric(
    new Gauge({
      name: 'comfyfleet_upkeep_failures',
      help: 'Rounds of what keeps things in order that failed since one succeeded, by part',
      labelNames: ['part'] as const,
      registers: [],
      collect() {
        for (const [part, count] of upkeep.failures()) this.set({ part }, count);
      },
    }),
  );
  register.registerMetric(
    new Gauge({
      name: 'comfyfleet_queue_messages',
      help: 'Messages that wait or are worked on, by queue',
      labelNames: ['queue'] as const,
      registers: [],
      async collect() {
        const { depth } = await queues.health();
        this.reset();
        for (const [queue, count] of Object.entries(depth)) this.set({ queue }, count);
      },
    }),
  );
}

function statusGauge(
  name: string,
  help: string,
  statuses: readonly string[],
  count: () => Promise<Map<string, number>>,
): Gauge<'status'> {
  return new Gauge({
    name,
    help,
    labelNames: ['status'] as const,
    registers: [],
    async collect() {
      const counts = await count();
      for (const status of statuses) this.set({ status }, counts.get(status) ?? 0);
    },
  });
}

async function countByStatus(db: Kysely<Tables>, table: 'instances' | 'jobs'): Promise<Map<string, number>> {
  const rows = await db
    .selectFrom(table)
    .select(['status', ({ fn }) => fn.countAll<number>().as('count')])
    .groupBy('status')
    .execute();
  return new Map(rows.map(({ status, count }) => [status, count]));
}
