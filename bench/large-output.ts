// One very large output: how fast it is stored and handed out, and whether it ever lies in memory.
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { openBareClient } from './bare-client.ts';
import { readExecutions } from './execution-log.ts';
import type { BenchOptions, Outcome, Scenario } from './scenario.ts';
import { fetchOutput, runJob } from './service-client.ts';
import { prepare, warmUp } from './setting.ts';
import { medianOf } from './stats.ts';
import { MB, small, type Work } from './workload.ts';

export const largeOutput: Scenario = {
  letter: 'd',
  name: 'large output',
  about: 'an output of 500 MB (100 MB in a quick run), stored and fetched',
  run,
};

/** In seconds after ComfyUI had written its file. */
interface Round {
  bareS: number;
  flushedS: number;
  storedS: number;
  fetchedS: number;
}

async function run(options: BenchOptions): Promise<Outcome> {
  const { folder, stack, quick } = options;
  const work: Work = { durationMs: 0, outputBytes: (quick ? 100 : 500) * MB };
  const setting = await prepare(options, { works: [work, small()] });
  const { url: base, usage } = setting.service;
  const [double = ''] = setting.doubles;
  const sinkPath = join(folder, 'large');
  const bareFolders = { folder, stack };
  const plain = await openBareClient(double, bareFolders);
  const flushing = await openBareClient(double, { ...bareFolders, flush: true });
  await warmUp(setting, small(), 5);

  await usage.resetPeak();
  const before = await usage.memory();
  const rounds: Round[] = [];
  for (let round = 0; round < (quick ? 1 : 3); round += 1) {
    const [bare, flushed] = [await plain.run(work), await flushing.run(work)];
    const job = await runJob(base, work);
    const endedAt = (await readExecutions(double)).get(job.seed)?.endedAt ?? Number.NaN;
    const fetchMs = await fetchOutput(job, work, { path: sinkPath, flush: false });
    await rm(sinkPath);
    rounds.push({
      bareS: (bare.totalMs - bare.executedMs) / 1000,
      flushedS: (flushed.totalMs - flushed.executedMs) / 1000,
      storedS: (job.submittedAt + job.knownMs - endedAt) / 1000,
      fetchedS: fetchMs / 1000,
    });
  }
  const after = await usage.memory();
  const megabytes = work.outputBytes / MB;
  const [bareS, storedS] = [medianOf(rounds.map((r) => r.bareS)), medianOf(rounds.map((r) => r.storedS))];
  const speeds = (name: string, pick: (round: Round) => number): (string | number)[] => {
    const seconds = rounds.map(pick);
    return [name, megabytes / medianOf(seconds), medianOf(seconds), medianOf(seconds) / bareS];
  };
  return {
    tables: [
      {
        title: `An output of ${megabytes} MB, counted from the end of its execution (${rounds.length} rounds)`,
        columns: ['what', 'MB per s', 'median s', 'ratio to bare'],
        rows: [
          speeds('bare client saves it', (r) => r.bareS),
          speeds('bare client saves and flushes it', (r) => r.flushedS),
          speeds('the service stores it, and the caller knows', (r) => r.storedS),
          speeds('the caller fetches it from the service', (r) => r.fetchedS),
        ],
      },
      {
        title: 'Memory of the service meanwhile',
        columns: ['before MB', 'peak MB', 'rise MB'],
        rows: [
          before === null || after === null
            ? ['not measured', 'not measured', 'not measured']
            : [before.residentMb, after.peakMb, after.peakMb - before.residentMb],
        ],
      },
    ],
    aims: [{ name: `time to store ${megabytes} MB, as a ratio to bare`, value: storedS / bareS, limit: 1.2 }],
  };
}
