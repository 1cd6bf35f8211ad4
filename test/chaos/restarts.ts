// Jobs on a service that is killed at random points, with the database that it runs itself.
import { join } from 'node:path';
import { seededRandom } from '../doubles/vast/random.ts';
import { clientOf } from './client.ts';
import { startDoubles } from './comfyui-doubles.ts';
import { newDataFolder, openRecords } from './folders.ts';
import { judgeJobs } from './judge-jobs.ts';
import { planJobs, submitJobs, waitForJobs } from './job-plans.ts';
import { startKilling } from './killing.ts';
import type { ChaosOptions, Outcome, Scenario } from './scenario.ts';
import { serviceProcess } from './service-process.ts';
import { watchSlots } from './slot-watch.ts';
import { receiveWebhooks } from './webhooks.ts';

const CALM_MS = 3_000;

export const restarts: Scenario = {
  name: 'restarts',
  about: 'runs jobs on one service with its own database, killed at random points',
  run,
};

async function run({ random, full, folder, stack }: ChaosOptions): Promise<Outcome> {
  const doubles = await startDoubles(2, stack);
  const webhooks = await receiveWebhooks(seededRandom(random.integer(0, 2 ** 31)), stack);
  const dataDir = await newDataFolder(folder, stack);
  const service = serviceProcess('service', {
    logFile: join(folder, 'service.log'),
    env: { DATA_DIR: dataDir, COMFYUI_URLS: doubles.map(({ url }) => url).join(','), ...webhooks.env },
  });
  stack.defer(() => service.stop());
  const client = clientOf([service]);
  const plans = planJobs(random, 'restarts', full ? 1_000 : 24);
  const slots = watchSlots(doubles, stack);

  service.start();
  const killing = startKilling(service, seededRandom(random.integer(0, 2 ** 31)), CALM_MS, stack);
  await Promise.race([submitJobs(client, random, plans, webhooks.url), killing.broken]);
  const stuck = await Promise.race([waitForJobs(client), killing.broken]);
  const { kills } = killing;
  await killing.stop();

  const seen = await slots.stop();
  // What is still under way cannot be judged.
  if (stuck.length > 0)
    return { figures: { kills }, violations: [...stuck, ...service.accidents, ...seen.violations] };
  const judged = await judgeJobs(await openRecords(dataDir, stack), client, { plans, doubles, webhooks });
  return {
    figures: {
      kills,
      ...judged.figures,
      'most prompts on one instance': `${seen.most}, in ${seen.looks} looks`,
    },
    violations: [...service.accidents, ...seen.violations, ...judged.violations],
  };
}
