// Which queue is worked by what, and with how many hands.
import { runFleet, type FleetDeps } from './fleet/fleet.ts';
import { MONEY_EVERY_MS, moneyUpkeep, type MoneyDeps } from './fleet/money.ts';
import type { Database } from './database/database.ts';
import { forgetKeys } from './database/once.ts';
import { reconcile } from './instances/reconcile.ts';
import { stepQueues, type StepQueue } from './instances/records.ts';
import type { InstanceDeps } from './instances/steps.ts';
import { stepInstance } from './instances/steps.ts';
import { sweepInstances } from './instances/sweep.ts';
import type { RunDeps } from './jobs/deps.ts';
import { dispatch } from './jobs/dispatch.ts';
import { createRetention } from './jobs/retention.ts';
import { runAttempt } from './jobs/run.ts';
import { sweepJobs } from './jobs/sweep.ts';
import type { Upkeep } from './support/upkeep.ts';
import { deliver, deliverNow, type DeliveryDeps } from './webhooks/deliver.ts';
import { createSilentHosts } from './webhooks/silent-hosts.ts';
import { sweepDeliveries } from './webhooks/sweep.ts';

const STEP_HANDS: Record<StepQueue, number> = {
  instance: 8,
  // They wait for their turn at the provider most of the time, and those that ask alike wait for the same answer.
  search: 32,
  // They wait for their turn and their answer, which may take a minute each.
  rent: 16,
};
/**
 * More than there can be jobs on slots, which are what bounds them: a job that was placed and waited for a hand would do so at the cost
 * of its time limit, on an instance that waits for it. Each takes little, as it waits for ComfyUI most of the time.
 */
const RUN_HANDS = 10_000;
/** They wait for receivers most of the time. */
const DELIVER_HANDS = 64;
/** As many wait for receivers that did not answer before, and keep nobody else waiting. */
const SILENT_HANDS = 64;
const SWEEP_EVERY_MS = 10_000;

/** Begins to work on every queue; `queues.stop` ends it. */
export async function startWork({
  database,
  instances,
  runs,
  fleet,
  money,
  webhooks,
  upkeep,
}: {
  database: Pick<Database, 'tidy'>;
  instances: InstanceDeps;
  runs: RunDeps;
  fleet: FleetDeps;
  money: MoneyDeps;
  webhooks: DeliveryDeps;
  upkeep: Upkeep;
}): Promise<void> {
  const { db, queues, config } = instances;
  await queues.start();
  for (const queue of stepQueues) {
    await queues.work(queue, STEP_HANDS[queue], (message, context) =>
      stepInstance(instances, message, context),
    );
  }
  queues.loop('dispatch', async () => {
    await dispatch(runs);
    // Whatever changes what jobs wait for wakes the dispatch of every replica, and after it its fleet.
    queues.wakeHere('fleet');
  });
  queues.loop('fleet', () => runFleet(fleet));
  await queues.work('run', RUN_HANDS, (message, context) => runAttempt(runs, message, context));
  const deliveries = { ...webhooks, silentHosts: createSilentHosts() };
  await queues.work('deliver', DELIVER_HANDS, (message, context) => deliver(deliveries, message, context));
  await queues.work('deliver_silent', SILENT_HANDS, (message, context) =>
    deliverNow(deliveries, message, context),
  );
  const retention = createRetention(runs);
  const rounds: Round[] = [
    { queue: 'money', everyMs: MONEY_EVERY_MS, parts: () => moneyUpkeep(money) },
    {
      queue: 'sweep',
      everyMs: SWEEP_EVERY_MS,
      parts: () => ({
        'sweep of instances': () => sweepInstances(db, queues),
        'sweep of jobs': () => sweepJobs(runs),
        'sweep of idempotency keys': () => forgetKeys(db, runs.clock.now()),
        'sweep of webhooks': () => sweepDeliveries(webhooks),
        'log of the database': () => database.tidy(),
        ...(retention.isDue() && { retention: () => retention.sweep() }),
      }),
    },
    {
      queue: 'reconcile',
      everyMs: config.RECONCILE_SECONDS * 1000,
      parts: (signal) => ({ reconciliation: () => reconcile(instances, signal) }),
    },
  ];
  for (const { queue, everyMs, parts } of rounds) {
    await queues.work(queue, 1, async (_message, { signal }) => {
      try {
        await upkeep.round(parts(signal), signal);
      } finally {
        await queues.send(db, queue, {}, { afterMs: everyMs });
      }
    });
  }
  for (const { queue } of rounds) await queues.send(db, queue, {});
}

/** What is done again and again, by one replica at a time. */
interface Round {
  queue: 'money' | 'sweep' | 'reconcile';
  everyMs: number;
  parts: (signal: AbortSignal) => Record<string, () => Promise<unknown>>;
}
