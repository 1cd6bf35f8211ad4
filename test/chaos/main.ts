// Runs the chaos scenarios: the real service as processes that get killed, the doubles in this one. Seeds and figures are
// printed, and every violation of what must never break; then the exit code is 1.
//   npm run test:chaos                         shortened, as in CI
//   npm run test:chaos -- --full               at full length
//   npm run test:chaos -- --seed 7 machines    one scenario, with a seed that failed before
import { mkdir, mkdtemp, chmod, rm } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { seededRandom } from '../doubles/vast/random.ts';
import { setup } from '../support/global-setup.ts';
import { checks } from './checks.ts';
import { machines } from './machines.ts';
import { money } from './money.ts';
import { replicas } from './replicas.ts';
import { restarts } from './restarts.ts';
import type { Outcome, Scenario } from './scenario.ts';

/** Violations of one scenario that are printed; one cause may have hundreds. */
const MOST_SHOWN = 30;
const scenarios: Scenario[] = [checks, machines, money, replicas, restarts];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { full: { type: 'boolean', default: false }, seed: { type: 'string' } },
});
const wanted = positionals.length === 0 ? scenarios : positionals.map(scenarioNamed);
const seed = values.seed === undefined ? Math.floor(Math.random() * 1e9) : Number(values.seed);
if (!Number.isSafeInteger(seed) || seed < 0) fail(`--seed takes a whole number, not "${values.seed}".`);

/** A run that is told to end ends what it has started, the services and their database servers, before it goes. */
const interruption = Promise.withResolvers<never>();
interruption.promise.catch(() => undefined);
let isInterrupted = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    isInterrupted = true;
    interruption.reject(new Error(`It was told to end by ${signal}.`));
  });
}

const folder = await mkdtemp(join(tmpdir(), 'comfyfleet-chaos-'));
await chmod(folder, 0o711);
const tearDown = await setup();
say(
  `chaos: ${values.full ? 'full length' : 'shortened'}, ${cpus().length} cores, ${new Date().toISOString()}`,
);
let broken = 0;
try {
  for (const scenario of wanted) if (!isInterrupted && !(await passes(scenario))) broken += 1;
} finally {
  await tearDown?.();
}
if (broken === 0) await rm(folder, { recursive: true, force: true });
else say(`chaos: ${broken} of ${wanted.length} scenarios FAILED; the logs of the services are in ${folder}`);
// What a broken scenario still waits for is not waited for.
process.exit(broken === 0 ? 0 : 1);

async function passes({ name, about, run }: Scenario): Promise<boolean> {
  say(`\n${name} (seed ${seed}): ${about}`);
  const started = performance.now();
  const own = join(folder, name);
  await mkdir(own, { mode: 0o711 });
  const outcome = await outcomeOf(run, own).catch(brokenOff);
  for (const [figure, value] of Object.entries(outcome.figures)) say(`  ${figure}: ${value}`);
  for (const violation of outcome.violations.slice(0, MOST_SHOWN)) say(`  VIOLATION ${violation}`);
  if (outcome.violations.length > MOST_SHOWN) say(`  ${outcome.violations.length} violations in all`);
  const isGood = outcome.violations.length === 0;
  say(`  ${isGood ? 'passed' : 'FAILED'} in ${Math.round((performance.now() - started) / 1000)} s`);
  return isGood;
}

async function outcomeOf(run: Scenario['run'], own: string): Promise<Outcome> {
  await using stack = new AsyncDisposableStack();
  const options = { seed, random: seededRandom(seed), full: values.full, folder: own, stack };
  const outcome = run({ ...options, say: (line) => say(`  … ${line}`) });
  return await Promise.race([outcome, interruption.promise]);
}

function brokenOff(error: unknown): Outcome {
  const causes: string[] = [];
  for (let at = error; at instanceof Error; at = at.cause) causes.push(at.message);
  return { figures: {}, violations: [`the scenario broke off: ${causes.join(' Because: ')}`] };
}

function scenarioNamed(name: string): Scenario {
  const found = scenarios.find((scenario) => scenario.name === name);
  return found ?? fail(`There is no scenario ${name}: ${scenarios.map((known) => known.name).join(', ')}.`);
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
