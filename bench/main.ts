// Measures the service against a bare ComfyUI client in the same run. Each is a process of its own: the service with the database that
// it runs itself, the ComfyUI doubles, and this one, which plays the callers. Everything listens on loopback, and ends.
//   npm run bench                          all scenarios, about eighteen minutes
//   npm run bench -- --quick               a coarse look, about a minute
//   npm run bench -- --only a,g            chosen scenarios
//   npm run bench -- --json figures.json   writes the figures too
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect, parseArgs } from 'node:util';
import { cpu } from './cpu.ts';
import { gpuIdle } from './gpu-idle.ts';
import { health } from './health.ts';
import { largeOutput } from './large-output.ts';
import { latency } from './latency.ts';
import { listeners } from './listeners.ts';
import { aimLine, tableText } from './report.ts';
import { isMet, type Aim, type Outcome, type Scenario } from './scenario.ts';
import { profile } from './profile.ts';
import { throughput } from './throughput.ts';
import { canMeasure, type Usage } from './usage.ts';
import { measureYardstick, yardstickText } from './yardstick.ts';

const scenarios: Scenario[] = [latency, gpuIdle, throughput, largeOutput, listeners, health, cpu, profile];
const memoryLimitMb = 200;
/** Whatever hangs, the run ends. */
const wholeLimitMs = 40 * 60_000;
const quietLoad = 1;

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
});
const wanted = values.only === undefined ? scenarios : values.only.split(',').map(scenarioOf);

/** A run that is told to end ends what it has started before it goes. */
const interruption = Promise.withResolvers<never>();
interruption.promise.catch(() => undefined);
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => interruption.reject(new Error(`It was told to end by ${signal}.`)));
}
setTimeout(() => interruption.reject(new Error('It took longer than it may.')), wholeLimitMs).unref();

const [load = 0] = loadavg();
const startedAt = new Date();
say(
  `bench: ${values.quick ? 'quick' : 'full'}, ${startedAt.toISOString()}, Node ${process.version}, ${cpus().length} cores, load ${load.toFixed(2)}`,
);
const yardsticks = [measureYardstick()];
if (load > quietLoad)
  say(`WARNING: other work runs on this machine (load above ${quietLoad}): times and ratios mean little.`);
if (!canMeasure)
  say(
    `CPU time and memory are read from /proc, which ${process.platform} does not have: they are not measured.`,
  );

const outcomes: { letter: string; name: string; peakMb: number | null; outcome: Outcome }[] = [];
const usages: Usage[] = [];
let failure: unknown = null;
const folder = await mkdtemp(join(tmpdir(), 'comfyfleet-bench-'));
// Where root runs this, the database server is somebody else, who must pass.
await chmod(folder, 0o711);
try {
  for (const scenario of wanted) outcomes.push(await play(scenario));
} catch (error) {
  failure = error;
}
if (failure === null) await rm(folder, { recursive: true, force: true });

const aims = [...outcomes.flatMap(({ outcome }) => outcome.aims), ...memoryAims()];
yardsticks.push(measureYardstick());
say('\nAims');
for (const aim of aims) say(`  ${aimLine(aim)}`);
say(
  `${aims.filter(isMet).length} of ${aims.length} aims met; load at the end ${(loadavg()[0] ?? 0).toFixed(2)}`,
);
say(`yardstick, from start to end: ${yardsticks.map(yardstickText).join('; ')}`);
if (values.json !== undefined) {
  const figures = {
    startedAt,
    quick: values.quick,
    node: process.version,
    cores: cpus().length,
    load,
    yardsticks,
    aims,
    outcomes,
  };
  await writeFile(values.json, `${JSON.stringify(figures, null, 2)}\n`);
}
if (failure !== null) say(`bench: FAILED: ${inspect(failure)}\nThe logs of the services are in ${folder}`);
// What a broken scenario still waits for is not waited for.
process.exit(failure === null ? 0 : 1);

async function play({ letter, name, about, run }: Scenario) {
  say(`\n(${letter}) ${name}: ${about}`);
  const started = performance.now();
  const watchedBefore = usages.length;
  await using stack = new AsyncDisposableStack();
  const outcome = await Promise.race([
    run({
      quick: values.quick,
      folder,
      stack,
      watched: (usage) => usages.push(usage),
      say: (line) => say(`  … ${line}`),
    }),
    interruption.promise,
  ]);
  for (const table of outcome.tables) say(tableText(table));
  const peakMb = peakOf(usages.slice(watchedBefore));
  const peak = peakMb === null ? '' : `; the service had at most ${peakMb.toFixed(0)} MB in memory`;
  say(`  ${((performance.now() - started) / 1000).toFixed(0)} s${peak}`);
  return { letter, name, peakMb, outcome };
}

function memoryAims(): Aim[] {
  const peakMb = peakOf(usages);
  if (peakMb === null) return [];
  return [{ name: 'memory of the service throughout, MB', value: peakMb, limit: memoryLimitMb }];
}

function peakOf(watched: readonly Usage[]): number | null {
  const peaks = watched.flatMap(({ peakEverMb }) => peakEverMb ?? []);
  return peaks.length === 0 ? null : Math.max(...peaks);
}

function scenarioOf(letter: string): Scenario {
  const found = scenarios.find((scenario) => scenario.letter === letter.trim());
  if (found !== undefined) return found;
  const known = scenarios.map((scenario) => `${scenario.letter} (${scenario.name})`).join(', ');
  process.stderr.write(`There is no scenario ${letter}: ${known}.\n`);
  return process.exit(1);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
