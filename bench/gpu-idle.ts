// How long the GPU waits between jobs: many one-second jobs that are all there from the start.
import { setTimeout as sleep } from 'node:timers/promises';
import { openBareClient } from './bare-client.ts';
import { idleShareOf, readExecutions } from './execution-log.ts';
import { startDoubles } from './processes.ts';
import type { BenchOptions, Outcome, Scenario } from './scenario.ts';
import { runJob } from './service-client.ts';
import { asPart, byCallers, prepare, warmUp } from './setting.ts';
import { knobsFor, small } from './workload.ts';

export const gpuIdle: Scenario = {
  letter: 'b',
  name: 'gpu idle',
  about: 'one-second jobs that are all queued at once, on one and on four instances',
  run,
};

const second = small(1000);

interface Measured {
  instances: number;
  jobs: number;
  bareShare: number;
  ourShare: number;
}

async function run(options: BenchOptions): Promise<Outcome> {
  const counts = options.quick ? { 1: 4, 4: 8 } : { 1: 200, 4: 200 };
  const measured: Measured[] = [];
  for (const instances of [1, 4] as const) {
    options.say(`${counts[instances]} jobs on ${instances} instance(s)`);
    measured.push(await asPart(options, (part) => measure(part, instances, counts[instances])));
  }
  return {
    tables: [
      {
        title: 'GPU idle share between the first start and the last end',
        columns: ['instances', 'jobs', 'bare %', 'ours %'],
        rows: measured.map(({ instances, jobs, bareShare, ourShare }) => [
          instances,
          jobs,
          bareShare * 100,
          ourShare * 100,
        ]),
      },
    ],
    aims: measured.map(({ instances, ourShare }) => ({
      name: `GPU idle share on ${instances} instance(s), %`,
      value: ourShare * 100,
      limit: 1,
    })),
  };
}

/** The bare client and the service at the same time, each on doubles of its own: they mostly wait. */
async function measure(options: BenchOptions, instances: number, jobs: number): Promise<Measured> {
  const { folder, stack } = options;
  const setting = await prepare(options, { doubles: instances, works: [second, small()] });
  await warmUp(setting, small(), options.quick ? 3 : 10);
  const others = await startDoubles(instances, knobsFor([second]), stack);
  const bare = await Promise.all(others.map((url) => openBareClient(url, { folder, stack })));
  const before = await Promise.all(setting.doubles.map(executionsAt));
  await Promise.all([
    byCallers(jobs, jobs, (turn) => bare[turn % instances]?.run(second) ?? sleep(0)),
    byCallers(jobs, jobs, () => runJob(setting.service.url, second)),
  ]);
  const after = await Promise.all(setting.doubles.map(executionsAt));
  const ours = after.map((executions, at) => executions.slice(before[at]?.length ?? 0));
  return {
    instances,
    jobs,
    bareShare: idleShareOf(await Promise.all(others.map(executionsAt))),
    ourShare: idleShareOf(ours),
  };
}

/** In the order in which they ran. */
async function executionsAt(url: string) {
  return [...(await readExecutions(url)).values()].toSorted((a, b) => a.startedAt - b.startedAt);
}
