// One service and one bare client on the same ComfyUI doubles: what most scenarios measure with.
import { openBareClient, type BareClient } from './bare-client.ts';
import { startBenchService, startDoubles, type BenchService } from './processes.ts';
import type { BenchOptions } from './scenario.ts';
import { runJob, fetchOutput } from './service-client.ts';
import { knobsFor, type Work } from './workload.ts';

export interface Setting {
  doubles: string[];
  service: BenchService;
  /** One for each double. */
  bare: BareClient[];
}

export async function prepare(
  options: BenchOptions,
  {
    doubles: count = 1,
    works,
    nodeOptions = [],
  }: { doubles?: number; works: readonly Work[]; nodeOptions?: readonly string[] },
): Promise<Setting> {
  const { folder, stack } = options;
  const doubles = await startDoubles(count, knobsFor(works), stack);
  const service = await startBenchService(doubles, options, nodeOptions);
  const bare = await Promise.all(doubles.map((url) => openBareClient(url, { folder, stack })));
  return { doubles, service, bare };
}

/** Until the compilers of all processes have seen the code; the first jobs are several times slower. */
export async function warmUp({ bare, service }: Setting, work: Work, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    await Promise.all(bare.map((client) => client.run(work)));
    const jobs = await Promise.all(bare.map(() => runJob(service.url, work)));
    for (const job of jobs) await fetchOutput(job, work, null);
  }
}

/** A part of a scenario with processes of its own, which end with it, or when the scenario is broken off. */
export async function asPart<T>(
  options: BenchOptions,
  act: (options: BenchOptions) => Promise<T>,
): Promise<T> {
  const stack = options.stack.use(new AsyncDisposableStack());
  try {
    return await act({ ...options, stack });
  } finally {
    await stack.disposeAsync();
  }
}

/** Does something `count` times, by so many callers at once, each again as soon as it is through. */
export async function byCallers(
  callers: number,
  count: number,
  act: (turn: number) => Promise<unknown>,
): Promise<void> {
  let turns = 0;
  async function call(): Promise<void> {
    while (turns < count) await act(turns++);
  }
  await Promise.all(Array.from({ length: callers }, call));
}
