// Sends good and bad requests of every kind to the service and judges what comes back. The seed and the figures are printed,
// and every fault with a request that shows it; then the exit code is 1.
//   npm run test:fuzz                                    a short run
//   npm run test:fuzz -- --requests 20000 --seed 7       a long one, with a seed that failed before
import { parseArgs } from 'node:util';
import { messageOf } from '../../src/errors.ts';
import { setup } from '../support/global-setup.ts';
import { runCampaign } from './campaign.ts';
import { startWorld } from './world.ts';

const { values } = parseArgs({
  options: { requests: { type: 'string', default: '2000' }, seed: { type: 'string' } },
});
const requests = wholeNumber('requests', values.requests);
const seed = values.seed === undefined ? Math.floor(Math.random() * 1e9) : wholeNumber('seed', values.seed);

/** A run that is told to end ends what it has started, the service and the database server, before it goes. */
const interruption = Promise.withResolvers<never>();
interruption.promise.catch(() => undefined);
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => interruption.reject(new Error(`It was told to end by ${signal}.`)));
}

const tearDown = await setup();
try {
  say(`fuzz: ${requests} requests, seed ${seed}`);
  process.exitCode = (await run()) ? 0 : 1;
} catch (error) {
  say(`fuzz: ${messageOf(error)}`);
  process.exitCode = 1;
} finally {
  await tearDown?.();
}
// What an interrupted run still waits for is not waited for.
process.exit();

async function run(): Promise<boolean> {
  await using stack = new AsyncDisposableStack();
  const world = await startWorld(stack);
  const { violations, outcomes, ...figures } = await Promise.race([
    runCampaign({ world, requests, seed, say }),
    interruption.promise,
  ]);
  for (const [name, value] of Object.entries(figures)) say(`  ${name}: ${JSON.stringify(value)}`);
  for (const [outcome, count] of Object.entries(outcomes).toSorted(([a], [b]) => a.localeCompare(b)))
    say(`  ${outcome}: ${count}`);
  for (const violation of violations) say(`VIOLATION ${violation}`);
  say(violations.length === 0 ? 'fuzz: passed' : `fuzz: ${violations.length} faults`);
  return violations.length === 0;
}

function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    process.stderr.write(`--${name} takes a whole number, not "${text}".\n`);
    process.exit(1);
  }
  return value;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
