// Which queue is worked by what, and with how many hands.
import type { InstanceDeps } from './instances/steps.ts';
import { stepInstance } from './instances/steps.ts';
import { sweepInstances } from './instances/sweep.ts';
import type { RunDeps } from './jobs/deps.ts';
import { dispatch } from './jobs/dispatch.ts';
import { SLOTS_PER_INSTANCE } from './jobs/placement.ts';
import { runAttempt } from './jobs/run.ts';
import { sweepJobs } from './jobs/sweep.ts';

const INSTANCE_HANDS = 8;
/** However many instances there may be, one process follows no more jobs than this; another replica takes the rest. */
const MAX_RUN_HANDS = 64;
const SWEEP_EVERY_MS = 10_000;

/** Begins to work on every queue; `queues.stop` ends it. */
export async function startWork({
  instances,
  runs,
}: {
  instances: InstanceDeps;
  runs: RunDeps;
}): Promise<void> {
  const { db, queues, config } = instances;
  await queues.start();
  await queues.work('instance', INSTANCE_HANDS, (message, context) =>
    stepInstance(instances, message, context),
  );
  await queues.work('dispatch', 1, async () => {
    await dispatch(runs);
  });
  const slots = SLOTS_PER_INSTANCE * (config.MAX_INSTANCES + config.COMFYUI_URLS.length);
  await queues.work('run', Math.min(MAX_RUN_HANDS, Math.max(SLOTS_PER_INSTANCE, slots)), (message, context) =>
    runAttempt(runs, message, context),
  );
  await queues.work('sweep', 1, async () => {
    try {
      await sweepInstances(db, queues);
      await sweepJobs(runs);
    } finally {
      await queues.send(db, 'sweep', {}, { afterMs: SWEEP_EVERY_MS });
    }
  });
  await queues.send(db, 'sweep', {});
}
