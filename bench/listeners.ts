// A thousand callers who follow jobs that wait: what they cost while nothing happens, and how soon all of them hear when something does.
import { setTimeout as sleep } from 'node:timers/promises';
import { call } from './http.ts';
import { shown, type BenchOptions, type Outcome, type Scenario } from './scenario.ts';
import { eventsOf } from './service-client.ts';
import { byCallers, prepare, warmUp } from './setting.ts';
import { spreadOf } from './stats.ts';
import { perPiece, type CpuTimes, type Usage } from './usage.ts';
import { small, workflowOf } from './workload.ts';

export const listeners: Scenario = {
  letter: 'e',
  name: 'listeners',
  about: 'event streams of jobs that wait, ten of each job, and the cancel of all of them',
  run,
};

const perJob = 10;
const hearLimitMs = 60_000;

interface Listener {
  jobId: string;
  /** When the first event had come. */
  connected: Promise<void>;
  /** When the end of the job had come, by `performance.now()`. */
  heard: Promise<number>;
}

async function run(options: BenchOptions): Promise<Outcome> {
  const { stack, quick } = options;
  const setting = await prepare(options, { works: [small()] });
  const { url: base, usage } = setting.service;
  await warmUp(setting, small(), 5);
  const count = quick ? 100 : 1000;
  const idleS = quick ? 2 : 20;
  const jobIds: string[] = [];
  await byCallers(4, count / perJob, async () => void jobIds.push(await submitWaiting(base)));

  const idle = await costOfIdling(idleS, usage);
  const before = await usage.memory();
  const connectStart = performance.now();
  const all = jobIds.flatMap((jobId) => Array.from({ length: perJob }, () => listen(base, jobId)));
  const heard = Promise.all(all.map((listener) => listener.heard));
  heard.catch(() => undefined);
  await Promise.all(all.map(({ connected }) => connected));
  const connectMs = performance.now() - connectStart;
  // The garbage of the connecting is not what a listener costs.
  await sleep(2000);
  const listening = await costOfIdling(idleS, usage);
  const during = await usage.memory();

  const canceledAt = new Map<string, number>();
  stack.defer(() => cancelAll(base, jobIds).catch(() => undefined));
  const cancelStart = performance.now();
  await cancelAll(base, jobIds, (jobId) => canceledAt.set(jobId, performance.now()));
  const times = await heard;
  const delays = spreadOf(
    times.map((time, at) => time - (canceledAt.get(all[at]?.jobId ?? '') ?? Number.NaN)),
  );
  return {
    tables: [
      {
        title: `${count} event streams of ${jobIds.length} waiting jobs`,
        columns: ['what', 'value'],
        rows: [
          ['all connected within, ms', connectMs],
          [
            'memory for each listener, KB',
            before === null || during === null
              ? 'not measured'
              : ((during.residentMb - before.residentMb) * 1024) / count,
          ],
          ['service: CPU ms per s, nobody listens', shown(idle?.serviceMs)],
          ['service: CPU ms per s, all listen', shown(listening?.serviceMs)],
          ['PostgreSQL: CPU ms per s, nobody listens', shown(idle?.postgresMs)],
          ['PostgreSQL: CPU ms per s, all listen', shown(listening?.postgresMs)],
          ['cancel of all jobs until the last listener knows, ms', Math.max(...times) - cancelStart],
          ['cancel of a job until its listener knows: median ms', delays.median],
          ['cancel of a job until its listener knows: p99 ms', delays.p99],
        ],
      },
    ],
    aims: [],
  };
}

/** A job that no instance here will ever fit. */
async function submitWaiting(base: string): Promise<string> {
  const json = { workflow: workflowOf(small()).workflow, requirements: { gpuNames: ['No such GPU'] } };
  return (await call<{ id: string }>('POST', `${base}/jobs`, { json })).id;
}

function listen(base: string, jobId: string): Listener {
  const connected = Promise.withResolvers<void>();
  async function hear(): Promise<number> {
    for await (const { type, data } of eventsOf(base, jobId)) {
      connected.resolve();
      if (type === 'status' && data.status === 'canceled') return performance.now();
    }
    throw new Error('An event stream ended before its job.');
  }
  const limit = Promise.withResolvers<number>();
  const heard = Promise.race([hear(), limit.promise]);
  const timer = setTimeout(() => limit.reject(new Error('A listener heard nothing.')), hearLimitMs * 2);
  heard.then(
    () => clearTimeout(timer),
    (error: unknown) => {
      clearTimeout(timer);
      connected.reject(error);
    },
  );
  return { jobId, connected: connected.promise, heard };
}

async function cancelAll(base: string, jobIds: string[], about?: (jobId: string) => void): Promise<void> {
  await byCallers(8, jobIds.length, async (turn) => {
    const jobId = jobIds[turn] ?? '';
    about?.(jobId);
    await call('POST', `${base}/jobs/${jobId}/cancel`);
  });
}

async function costOfIdling(seconds: number, usage: Usage): Promise<CpuTimes | null> {
  const before = await usage.cpu();
  await sleep(seconds * 1000);
  return perPiece(before, await usage.cpu(), seconds);
}
