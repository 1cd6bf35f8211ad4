// What the service adds to the time of one job, for small and large outputs and short and long nodes.
import { join } from 'node:path';
import { openBareClient } from './bare-client.ts';
import { readExecutions, type Execution } from './execution-log.ts';
import type { Aim, BenchOptions, Outcome, Scenario, Table } from './scenario.ts';
import { fetchOutput, runJob, runJobWaiting } from './service-client.ts';
import { prepare, warmUp } from './setting.ts';
import { medianOf, spreadOf } from './stats.ts';
import { large, small, type Work } from './workload.ts';

export const latency: Scenario = {
  letter: 'a',
  name: 'latency',
  about: 'one job at a time, from the submit until its output is saved',
  run,
};

/** One job of each kind, in milliseconds. */
interface Round {
  bareMs: number;
  bareFlushedMs: number;
  knownMs: number;
  fetchedMs: number;
  /** With a request that waits; null where there is none. */
  waitedMs: number | null;
  bareWays: Ways;
  ourWays: Ways;
}

/** Where the time beside the execution itself goes. */
interface Ways {
  /** From the submit until ComfyUI starts. */
  inMs: number;
  /** From ComfyUI's end until the output is saved and the caller knows. */
  outMs: number;
}

interface Measured {
  work: Work;
  rounds: Round[];
}

const shortMs = 50;
const longMs = 1000;

async function run(options: BenchOptions): Promise<Outcome> {
  const plans = [small, large].flatMap((size) => [
    { work: size(), count: options.quick ? 4 : 30 },
    { work: size(shortMs), count: options.quick ? 3 : 24 },
    { work: size(longMs), count: options.quick ? 1 : 6 },
  ]);
  const works = plans.map(({ work }) => work);
  const setting = await prepare(options, { works });
  const { folder, stack } = options;
  const [double = ''] = setting.doubles;
  const [bare] = setting.bare;
  if (bare === undefined) throw new Error('There is no bare client.');
  const flushing = await openBareClient(double, { folder, stack, flush: true });
  const base = setting.service.url;
  for (const size of [small, large]) await warmUp(setting, size(), options.quick ? 3 : 25);

  /** One after the other on the same machine, in turns, so that whatever else happens on it meets all of them. */
  async function playRound(work: Work) {
    const plain = await bare?.run(work);
    const flushed = await flushing.run(work);
    const job = await runJob(base, work);
    const fetchMs = await fetchOutput(job, work, { path: join(folder, `ours-${job.seed}`), flush: false });
    const waited = await runJobWaiting(base, work);
    if (plain === undefined) throw new Error('There is no bare client.');
    return { plain, flushed, job, fetchMs, waited };
  }

  const measured: Measured[] = [];
  for (const { work, count } of plans) {
    const played = [];
    for (let round = 0; round < count; round += 1) played.push(await playRound(work));
    const executions = await readExecutions(double);
    measured.push({
      work,
      rounds: played.map(({ plain, flushed, job, fetchMs, waited }) => ({
        bareMs: plain.totalMs,
        bareFlushedMs: flushed.totalMs,
        knownMs: job.knownMs,
        fetchedMs: job.knownMs + fetchMs,
        waitedMs: waited?.knownMs ?? null,
        bareWays: waysOf(plain, plain.totalMs, executions),
        ourWays: waysOf(job, job.knownMs, executions),
      })),
    });
  }
  return {
    tables: [timesTable(measured), addedTable(measured)],
    aims: aimsOf(measured),
  };
}

function waysOf(
  { seed, submittedAt }: { seed: number; submittedAt: number },
  totalMs: number,
  executions: Map<number, Execution>,
): Ways {
  const { startedAt = Number.NaN, endedAt = Number.NaN } = executions.get(seed) ?? {};
  return { inMs: startedAt - submittedAt, outMs: submittedAt + totalMs - endedAt };
}

function timesTable(measured: readonly Measured[]): Table {
  const columns = ['output', 'node ms', 'rounds'];
  for (const who of ['bare', 'ours, known', 'ours, fetched']) {
    columns.push(`${who}: median ms`, 'middle half', 'p95');
  }
  return {
    title: 'Times of one job',
    columns,
    rows: measured.map(({ work, rounds }) => [
      sizeOf(work),
      work.durationMs,
      rounds.length,
      ...[rounds.map((r) => r.bareMs), rounds.map((r) => r.knownMs), rounds.map((r) => r.fetchedMs)].flatMap(
        (values) => {
          const { median, p25, p75, p95 } = spreadOf(values);
          return [median, `${p25.toFixed(1)}–${p75.toFixed(1)}`, p95];
        },
      ),
    ]),
  };
}

function addedTable(measured: readonly Measured[]): Table {
  return {
    title: 'Added to the bare client, of medians',
    columns: [
      'output',
      'node ms',
      'added, known ms',
      'ratio',
      'ratio, fetched',
      'by a waiting request ms',
      'bare, flushed ms',
      'ratio to flushed',
      'bare in ms',
      'bare out ms',
      'our way in ms',
      'our way out ms',
    ],
    rows: measured.map(({ work, rounds }) => {
      const m = mediansOf(rounds);
      return [
        sizeOf(work),
        work.durationMs,
        m.known - m.bare,
        m.known / m.bare,
        m.fetched / m.bare,
        Number.isNaN(m.waited) ? 'not offered' : m.waited - m.bare,
        m.flushed,
        m.known / m.flushed,
        medianOf(rounds.map((r) => r.bareWays.inMs)),
        medianOf(rounds.map((r) => r.bareWays.outMs)),
        medianOf(rounds.map((r) => r.ourWays.inMs)),
        medianOf(rounds.map((r) => r.ourWays.outMs)),
      ];
    }),
  };
}

function mediansOf(rounds: readonly Round[]) {
  return {
    bare: medianOf(rounds.map((r) => r.bareMs)),
    flushed: medianOf(rounds.map((r) => r.bareFlushedMs)),
    known: medianOf(rounds.map((r) => r.knownMs)),
    fetched: medianOf(rounds.map((r) => r.fetchedMs)),
    waited: medianOf(rounds.flatMap((r) => (r.waitedMs === null ? [] : [r.waitedMs]))),
  };
}

function aimsOf(measured: readonly Measured[]): Aim[] {
  return measured.map(({ work, rounds }) => {
    const { known, bare } = mediansOf(rounds);
    const what = `${sizeOf(work)}, node ${work.durationMs} ms`;
    return work.outputBytes === small().outputBytes
      ? { name: `added latency at ${what}, ms`, value: known - bare, limit: 10 }
      : { name: `time at ${what}, as a ratio to bare`, value: known / bare, limit: 1.2 };
  });
}

function sizeOf({ outputBytes }: Work): string {
  return outputBytes >= 1e6 ? `${outputBytes / 1e6} MB` : `${outputBytes / 1e3} KB`;
}
