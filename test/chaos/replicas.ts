// Jobs on two services that share one PostgreSQL, one of them killed again and again, and frozen while it owns work.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { seededRandom, type Random } from '../doubles/vast/random.ts';
import { createTestDatabase } from '../support/database.ts';
import { clientOf } from './client.ts';
import { startDoubles } from './comfyui-doubles.ts';
import { newDataFolder } from './folders.ts';
import { judgeJobs } from './judge-jobs.ts';
import { planJobs, submitJobs, waitForJobs, type JobPlan } from './job-plans.ts';
import { startKilling } from './killing.ts';
import type { ChaosOptions, Outcome, Scenario } from './scenario.ts';
import { serviceProcess, type ServiceProcess } from './service-process.ts';
import { watchSlots } from './slot-watch.ts';
import { receiveWebhooks } from './webhooks.ts';

const CALM_MS = 2_000;
/** Longer than a replica may be silent before its work is given to another (10 s, and a second or two to notice). */
const FREEZE_MS = 14_000;
/** Until the jobs that were just submitted are in somebody's hands. */
const GRIP_MS = 700;

export const replicas: Scenario = {
  name: 'replicas',
  about: 'runs jobs on two services with one database, one of them killed and frozen again and again',
  run,
};

async function run({ random, full, folder, say, stack }: ChaosOptions): Promise<Outcome> {
  const rounds = full ? 20 : 1;
  const jobsPerRound = full ? 50 : 24;
  const doubles = await startDoubles(3, stack);
  const { database, url, stop } = await createTestDatabase();
  stack.defer(stop);
  const webhooks = await receiveWebhooks(seededRandom(random.integer(0, 2 ** 31)), stack);
  const dataDir = await newDataFolder(folder, stack);
  const services = ['victim', 'survivor'].map((name) =>
    serviceProcess(name, {
      logFile: join(folder, `${name}.log`),
      env: {
        DATABASE_URL: url,
        DATABASE_POOL_SIZE: '8',
        DATA_DIR: dataDir,
        COMFYUI_URLS: doubles.map((double) => double.url).join(','),
        ...webhooks.env,
      },
    }),
  );
  for (const service of services) stack.defer(() => service.stop());
  const [victim] = services;
  if (victim === undefined) throw new Error('There is no victim.');
  const client = clientOf(services);
  const plans: JobPlan[] = [];
  const stuck: string[] = [];
  let kills = 0;

  for (const service of services) service.start();
  await Promise.all(services.map((service) => service.up()));
  const slots = watchSlots(doubles, stack);
  for (let round = 1; round <= rounds; round += 1) {
    const jobs = planJobs(random, `replicas-${round}`, jobsPerRound);
    plans.push(...jobs);
    kills += await killWhile(victim, random, stack, async () => {
      await submitJobs(client, random, jobs.slice(0, jobsPerRound / 2), webhooks.url);
      stuck.push(...(await waitForJobs(client)));
    });
    await freezeWhileBusy(victim, () =>
      submitJobs(client, random, jobs.slice(jobsPerRound / 2), webhooks.url),
    );
    stuck.push(...(await waitForJobs(client)));
    if (rounds > 1) say(`round ${round} of ${rounds}`);
  }

  const seen = await slots.stop();
  const accidents = services.flatMap((service) => [...service.accidents]);
  // What is still under way cannot be judged.
  if (stuck.length > 0)
    return { figures: { kills }, violations: [...stuck, ...accidents, ...seen.violations] };
  const judged = await judgeJobs(database.db, client, { plans, doubles, webhooks });
  return {
    figures: {
      kills,
      'freezes of 14 s': rounds,
      ...judged.figures,
      'most prompts on one instance': `${seen.most}, in ${seen.looks} looks`,
    },
    violations: [...accidents, ...seen.violations, ...judged.violations],
  };
}

async function killWhile(
  victim: ServiceProcess,
  random: Random,
  stack: AsyncDisposableStack,
  work: () => Promise<void>,
): Promise<number> {
  const killing = startKilling(victim, seededRandom(random.integer(0, 2 ** 31)), CALM_MS, stack);
  await Promise.race([work(), killing.broken]);
  const { kills } = killing;
  await killing.stop();
  return kills;
}

/** The frozen one wakes up in the belief that its work is still its own. */
async function freezeWhileBusy(victim: ServiceProcess, submit: () => Promise<void>): Promise<void> {
  const submitted = submit();
  await sleep(GRIP_MS);
  victim.pause();
  await sleep(FREEZE_MS);
  victim.resume();
  await submitted;
}
