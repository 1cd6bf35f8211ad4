// Where the CPU time of a job goes within the service: the share of each library and folder, by V8's sampling profiler.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { BenchOptions, Outcome, Scenario, Table } from './scenario.ts';
import { fetchOutput, runJob } from './service-client.ts';
import { prepare, warmUp } from './setting.ts';
import { large, small, type Work } from './workload.ts';

export const profile: Scenario = {
  letter: 'h',
  name: 'profile',
  about: 'which libraries and folders the service spends the CPU time of a job in, one job at a time',
  run,
};

/** What Node's `--cpu-prof` writes, as far as it is read here: times in microseconds of the monotonic clock. */
const profileSchema = z.object({
  startTime: z.number(),
  nodes: z.array(
    z.object({
      id: z.number(),
      callFrame: z.object({ functionName: z.string(), url: z.string() }),
      children: z.array(z.number()).optional(),
    }),
  ),
  samples: z.array(z.number()),
  timeDeltas: z.array(z.number()),
});
type Profile = z.output<typeof profileSchema>;

const idle = '(idle)';
const shownPlaces = 14;

async function run(options: BenchOptions): Promise<Outcome> {
  const { quick } = options;
  return {
    tables: [
      await profileOf(small(), quick ? 30 : 300, options),
      await profileOf(large(), quick ? 8 : 60, options),
    ],
    aims: [],
  };
}

async function profileOf(work: Work, count: number, options: BenchOptions): Promise<Table> {
  const { folder } = options;
  const name = `${work.outputBytes}.cpuprofile`;
  const nodeOptions = ['--cpu-prof', `--cpu-prof-dir=${folder}`, `--cpu-prof-name=${name}`];
  const setting = await prepare(options, { works: [work], nodeOptions });
  await warmUp(setting, work, options.quick ? 3 : 40);
  const from = monotonicUs();
  for (let turn = 0; turn < count; turn += 1) {
    await fetchOutput(await runJob(setting.service.url, work), work, null);
  }
  const to = monotonicUs();
  // It writes its profile when it ends.
  await setting.service.stop();
  const found = profileSchema.parse(JSON.parse(await readFile(join(folder, name), 'utf8')));
  return tableOf(work, count, timesOf(found, from, to));
}

/** The clock that the profiler of any process of this machine uses. */
function monotonicUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

/** The microseconds of each place, between two moments. */
function timesOf({ startTime, nodes, samples, timeDeltas }: Profile, from: number, to: number) {
  const placeOf = createPlaces(nodes);
  const times = new Map<string, number>();
  let at = startTime;
  for (const [index, id] of samples.entries()) {
    const took = timeDeltas[index] ?? 0;
    at += took;
    const place = placeOf(id);
    if (at >= from && at <= to && place !== idle) times.set(place, (times.get(place) ?? 0) + took);
  }
  return times;
}

/** The innermost library or folder of ours on the stack: what Node does for it, down to the system call, is counted as its own. */
function createPlaces(nodes: Profile['nodes']): (id: number) => string {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const parents = new Map(
    nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)),
  );
  const known = new Map<number, string>();

  function find(id: number): string {
    const frame = byId.get(id)?.callFrame;
    if (frame === undefined) return 'Node itself';
    if (frame.functionName === idle) return idle;
    if (frame.functionName === '(garbage collector)') return 'garbage collection';
    const parent = parents.get(id);
    return ownPlace(frame.url) ?? (parent === undefined ? 'Node itself' : placeOf(parent));
  }

  function placeOf(id: number): string {
    const place = known.get(id) ?? find(id);
    known.set(id, place);
    return place;
  }
  return placeOf;
}

function ownPlace(url: string): string | null {
  if (url.startsWith('wasm:')) return 'WebAssembly (BLAKE3, HTTP parser)';
  const library = /\/node_modules\/((?:@[^/]+\/)?[^/]+)\/(?!.*\/node_modules\/)/.exec(url)?.[1];
  if (library !== undefined) return library;
  const folder = /\/(src\/[^/]+)\//.exec(url)?.[1];
  return folder ?? null;
}

function tableOf({ outputBytes }: Work, count: number, times: ReadonlyMap<string, number>): Table {
  const wholeUs = [...times.values()].reduce((sum, us) => sum + us, 0);
  const sorted = [...times].toSorted(([, a], [, b]) => b - a);
  const rest = sorted.slice(shownPlaces).reduce((sum, [, us]) => sum + us, 0);
  return {
    title: `Main thread of the service, ${outputBytes / 1000} KB, ${count} jobs with a profiler`,
    columns: ['place', 'ms per job', '%'],
    rows: [['all', wholeUs], ...sorted.slice(0, shownPlaces), ['everything else', rest]].map(
      ([place, us]) => [String(place), Number(us) / 1000 / count, (Number(us) / wholeUs) * 100],
    ),
  };
}
