// How many jobs go through in a second when they take no time of their own.
import { shown, type BenchOptions, type Outcome, type Scenario, type Table } from './scenario.ts';
import { runJob } from './service-client.ts';
import { asPart, byCallers, prepare, warmUp } from './setting.ts';
import { medianOf, spreadOf } from './stats.ts';
import { perPiece, type CpuTimes } from './usage.ts';
import { small } from './workload.ts';

export const throughput: Scenario = {
  letter: 'c',
  name: 'throughput',
  about: 'jobs of no duration from sixteen callers at once, on one and on four instances',
  run,
};

export const callers = 16;
const work = small();

async function run(options: BenchOptions): Promise<Outcome> {
  const rows: Table['rows'] = [];
  for (const instances of [1, 4]) {
    rows.push(await asPart(options, async (part) => [instances, ...(await measure(part, instances))]));
  }
  const rates = ['bare: jobs per s', 'middle half', 'ours: jobs per s', 'middle half', 'ratio'];
  const columns = ['instances', ...rates, 'service: CPU ms per job', 'PostgreSQL: CPU ms per job'];
  return { tables: [{ title: 'Jobs per second', columns, rows }], aims: [] };
}

async function measure(options: BenchOptions, instances: number): Promise<Table['rows'][number]> {
  const setting = await prepare(options, { doubles: instances, works: [work] });
  const { bare, service } = setting;
  await warmUp(setting, work, options.quick ? 5 : 25);
  const [rounds, jobs] = options.quick ? [1, 32] : [5, 160];
  const bareRates: number[] = [];
  const ourRates: number[] = [];
  const costs: CpuTimes[] = [];
  for (let round = 0; round < rounds; round += 1) {
    bareRates.push(await rateOf(jobs, (turn) => bare[turn % bare.length]?.run(work)));
    const before = await service.usage.cpu();
    ourRates.push(await rateOf(jobs, () => runJob(service.url, work)));
    const cost = perPiece(before, await service.usage.cpu(), jobs);
    if (cost !== null) costs.push(cost);
  }
  const [theirs, ours] = [spreadOf(bareRates), spreadOf(ourRates)];
  return [
    ...[theirs, ours].flatMap(({ median, p25, p75 }) => [median, `${p25.toFixed(0)}–${p75.toFixed(0)}`]),
    ours.median / theirs.median,
    shown(costs.length === 0 ? null : medianOf(costs.map(({ serviceMs }) => serviceMs))),
    shown(costs.length === 0 ? null : medianOf(costs.map(({ postgresMs }) => postgresMs))),
  ];
}

async function rateOf(jobs: number, act: (turn: number) => Promise<unknown> | undefined): Promise<number> {
  const start = performance.now();
  await byCallers(callers, jobs, async (turn) => act(turn));
  return jobs / ((performance.now() - start) / 1000);
}
