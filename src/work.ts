// Which queue is worked by what, and with how many hands.
import { runFleet, type FleetDeps } from './fleet/fleet.ts';
import { MONEY_EVERY_MS, moneyUpkeep, type MoneyDeps } from './fleet/money.ts';
import { forgetKeys } from './database/once.ts';
import { reconcile } from './instances/reconcile.ts';
import type { InstanceDeps } from './instances/steps.ts';
import { stepInstance } from './instances/steps.ts';
import { sweepInstances } from './instances/sweep.ts';
import type { RunDeps } from './jobs/deps.ts';
import { dispatch } from './jobs/dispatch.ts';
import { SLOTS_PER_INSTANCE } from './jobs/placement.ts';
import { createRetention } from './jobs/retention.ts';
import { runAttempt } from './jobs/run.ts';
import { COLLECTING_PER_INSTANCE } from './jobs/slots.ts';
import { sweepJobs } from './jobs/sweep.ts';
import type { Upkeep } from './support/upkeep.ts';
import { deliver, type DeliveryDeps } from './webhooks/deliver.ts';
import { sweepDeliveries } from './webhooks/sweep.ts';

const INSTANCE_HANDS = 8;
/** They wait for their turn at the provider most of the time, and those that ask alike wait for the same answer. */
const SEARCH_HANDS = 32;
/** However many instances there may be, one process follows no more jobs than this; another replica takes the rest. */
const MAX_RUN_HANDS = 64;
/** They wait for receivers most of the time, and some never answer. */
const DELIVER_HANDS = 64;
const SWEEP_EVERY_MS = 10_000;

/** Begins to work on every queue; `queues.stop` ends it. */
export async function startWork({
  instances,
  runs,
  fleet,
  money,
  webhooks,
  upkeep,
}: {
  instances: InstanceDeps;
  runs: RunDeps;
  fleet: FleetDeps;
  money: MoneyDeps;
  webhooks: DeliveryDeps;
  upkeep: Upkeep;
}): Promise<void> {
  const { db, queues, config } = instances;
  await queues.start();
  await queues.work('instance', INSTANCE_HANDS, (message, context) =>
    stepInstance(instances, message, context),
  );
  await queues.work('search', SEARCH_HANDS, (message, context) => stepInstance(instances, message, context));
  queues.loop('dispatch', async () => {
    await dispatch(runs);
    // Whatever changes what jobs wait for wakes the dispatch of every replica, and after it its fleet.
    queues.wakeHere('fleet');
  });
  queues.loop('fleet', () => runFleet(fleet));
  const runsPerInstance = SLOTS_PER_INSTANCE + COLLECTING_PER_INSTANCE;
  const mostRuns = runsPerInstance * (config.MAX_INSTANCES + config.COMFYUI_URLS.length);
  await queues.work('run', Math.min(MAX_RUN_HANDS, Math.max(runsPerInstance, mostRuns)), (message, context) =>
    runAttempt(runs, message, context),
  );
  const deliveries = { ...webhooks, silentLanes: new Set<string>() };
  await queues.work('deliver', DELIVER_HANDS, (message, context) => deliver(deliveries, message, context));
  await queues.work('money', 1, async (_message, { signal }) => {
    try {
      await upkeep.round(moneyUpkeep(money), signal);
    } finally {
      await queues.send(db, 'money', {}, { afterMs: MONEY_EVERY_MS });
    }
  });
  const retention = createRetention(runs);
  await queues.work('sweep', 1, async (_message, { signal }) => {
    const parts = {
      'sweep of instances': () => sweepInstances(db, queues),
      'sweep of jobs': () => sweepJobs(runs),
      'sweep of idempotency keys': () => forgetKeys(db, runs.clock.now()),
      'sweep of webhooks': () => sweepDeliveries(webhooks),
      ...(retention.isDue() && { retention: () => retention.sweep() }),
    };
    try {
      await upkeep.round(parts, signal);
    } finally {
      await queues.send(db, 'sweep', {}, { afterMs: SWEEP_EVERY_MS });
    }
  });
  await queues.work('reconcile', 1, async (_message, { signal }) => {
    try {
      await upkeep.round({ reconciliation: () => reconcile(instances, signal) }, signal);
    } finally {
      await queues.send(db, 'reconcile', {}, { afterMs: config.RECONCILE_SECONDS * 1000 });
    }
  });
  await queues.send(db, 'money', {});
  await queues.send(db, 'sweep', {});
  await queues.send(db, 'reconcile', {});
}
