// The CPU time of one job, of the service and of its PostgreSQL, next to that of the bare client.
import { setTimeout as sleep } from 'node:timers/promises';
import { shown, type Aim, type BenchOptions, type Outcome, type Scenario, type Table } from './scenario.ts';
import { fetchOutput, runJob, type JobTimes } from './service-client.ts';
import { prepare, warmUp } from './setting.ts';
import { perPiece } from './usage.ts';
import { large, small } from './workload.ts';

export const cpu: Scenario = {
  letter: 'g',
  name: 'cpu',
  about: 'the CPU time of a job from its submit until its output is fetched, one job at a time',
  run,
};

const limitsMs = { '100 KB': 8, '8 MB': 20 };

async function run(options: BenchOptions): Promise<Outcome> {
  const { quick } = options;
  const setting = await prepare(options, { works: [small(), large()] });
  const { url: base, usage } = setting.service;
  const [bare] = setting.bare;
  const rows: Table['rows'] = [];
  const aims: Aim[] = [];
  for (const [size, work, count] of [
    ['100 KB', small(), quick ? 30 : 400],
    ['8 MB', large(), quick ? 8 : 100],
  ] as const) {
    await warmUp(setting, work, quick ? 3 : 30);
    const bareStart = process.cpuUsage();
    for (let turn = 0; turn < count; turn += 1) await bare?.run(work);
    const { user, system } = process.cpuUsage(bareStart);
    const start = await usage.cpu();
    const jobs: JobTimes[] = [];
    for (let turn = 0; turn < count; turn += 1) jobs.push(await runJob(base, work));
    const stored = await usage.cpu();
    for (const job of jobs) await fetchOutput(job, work, null);
    const fetched = await usage.cpu();
    const bareMs = (user + system) / 1000 / count;
    const whole = perPiece(start, fetched, count);
    const tillStored = perPiece(start, stored, count);
    rows.push([
      size,
      count,
      bareMs,
      shown(tillStored?.serviceMs),
      shown(perPiece(stored, fetched, count)?.serviceMs),
      shown(whole?.serviceMs),
      whole === null ? 'not measured' : whole.serviceMs / bareMs,
      shown(whole?.postgresMs),
    ]);
    if (whole !== null)
      aims.push({ name: `CPU of a job at ${size}, ms`, value: whole.serviceMs, limit: limitsMs[size] });
  }
  const restS = quick ? 2 : 10;
  const before = await usage.cpu();
  await sleep(restS * 1000);
  const rest = perPiece(before, await usage.cpu(), restS);
  const memory = await usage.memory();
  return {
    tables: [
      {
        title: 'CPU time of one job, ms',
        columns: [
          'output',
          'jobs',
          'bare client',
          'until stored',
          'fetching',
          'whole',
          'ratio',
          'PostgreSQL',
        ],
        rows,
      },
      {
        title: 'At rest',
        columns: ['service: CPU ms per s', 'PostgreSQL: CPU ms per s', 'service: MB', 'PostgreSQL: MB'],
        rows: [
          [
            shown(rest?.serviceMs),
            shown(rest?.postgresMs),
            shown(memory?.residentMb),
            shown(memory?.postgresMb),
          ],
        ],
      },
    ],
    aims,
  };
}
