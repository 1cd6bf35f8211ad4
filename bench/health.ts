// How soon /health answers, at rest and while jobs go through as fast as they can.
import { setTimeout as sleep } from 'node:timers/promises';
import { getJson } from './http.ts';
import type { BenchOptions, Outcome, Scenario } from './scenario.ts';
import { runJob } from './service-client.ts';
import { byCallers, prepare, warmUp } from './setting.ts';
import { spreadOf } from './stats.ts';
import { callers } from './throughput.ts';
import { small } from './workload.ts';

export const health: Scenario = {
  letter: 'f',
  name: 'health',
  about: 'GET /health every 25 ms, at rest and under the load of throughput',
  run,
};

const everyMs = 25;

async function run(options: BenchOptions): Promise<Outcome> {
  const setting = await prepare(options, { doubles: 4, works: [small()] });
  const { url: base } = setting.service;
  await warmUp(setting, small(), options.quick ? 5 : 25);
  const restMs = options.quick ? 1000 : 5000;
  const atRest = await probeWhile(base, sleep(restMs));
  const loaded = await probeWhile(
    base,
    byCallers(callers, options.quick ? 48 : 1200, () => runJob(base, small())),
  );
  return {
    tables: [
      {
        title: 'GET /health, the time until its answer has been read',
        columns: ['when', 'probes', 'p50 ms', 'p95', 'p99', 'max'],
        rows: [
          ['at rest', atRest],
          ['under load', loaded],
        ].map(([when, times]) => {
          const { count, median, p95, p99, max } = spreadOf(times as number[]);
          return [when as string, count, median, p95, p99, max];
        }),
      },
    ],
    aims: [],
  };
}

/** Asks at fixed moments, whether the last answer has come or not: one that is late must not hide the next ones. */
async function probeWhile(base: string, work: Promise<unknown>): Promise<number[]> {
  const times: number[] = [];
  const probes: Promise<void>[] = [];
  const timer = setInterval(() => probes.push(probe()), everyMs);
  await work.finally(() => clearInterval(timer));
  await Promise.all(probes);
  return times;

  async function probe(): Promise<void> {
    const start = performance.now();
    await getJson(`${base}/health`);
    times.push(performance.now() - start);
  }
}
