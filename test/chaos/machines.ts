// Machines come and go by the hundred while everything goes wrong that can, and the service is killed all the time.
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { seededRandom, type Random } from '../doubles/vast/random.ts';
import { clientOf, patiently, type Client } from './client.ts';
import { newDataFolder, openRecords } from './folders.ts';
import { startKilling } from './killing.ts';
import {
  allFaults,
  changeWeather,
  clearWeather,
  drawFates,
  drawOffers,
  faultKinds,
  moveMarket,
  regions,
} from './machine-faults.ts';
import { closedTooEarly, foreignState, gatherEvidence, machineViolations } from './machine-invariants.ts';
import { pick, pickWeighted, type ChaosOptions, type Outcome, type Scenario } from './scenario.ts';
import { serviceProcess } from './service-process.ts';

interface Instance {
  id: string;
  status: string;
}

const labelPrefix = 'cfy.chaos';
const CALM_MS = 8_000;
const WEATHER_MS = 500;
/** Many never get there; then they are ended on the way. */
const READY_LIMIT_MS = 20_000;
/** Fewer machines than this for each instance, and the run says nothing. */
const LEAST_SHARE_RENTED = 0.4;
const CYCLE_LIMIT_MS = 300_000;
/** The longest pause between two tries of a destroy is a minute. */
const SETTLE_LIMIT_MS = 240_000;

export const machines: Scenario = {
  name: 'machines',
  about:
    'creates and destroys instances with every fault of the provider at random and the service killed at random points',
  run,
};

async function run(options: ChaosOptions): Promise<Outcome> {
  const { random, seed, full, folder, stack, say } = options;
  const cycles = full ? 1_000 : 25;
  const vast = await startVastDouble({
    seed,
    offers: drawOffers(random),
    knobs: {
      phases: {
        scheduledMs: 50,
        createdMs: 50,
        loadingMs: 300,
        portsLateMs: 100,
        bootMs: 50,
        provisioningMs: 200,
        rebootMs: 50,
        pullErrorToStoppedMs: 1_000,
        destroyShownMs: 0,
        queuedStartMs: null,
      },
      mishapAfterMs: 1_000,
      fates: drawFates(random, cycles * 6),
      faultChances: allFaults(),
    },
    creditUsd: 1_000_000,
  });
  stack.defer(() => vast.stop());
  const dataDir = await newDataFolder(folder, stack);
  const foreignBefore = addForeignRentals(vast);
  const service = serviceProcess('service', {
    logFile: join(folder, 'machines.log'),
    env: { ...hurriedSettings, DATA_DIR: dataDir, VASTAI_API_KEY: vast.apiKey, VAST_API_URL: vast.url },
  });
  stack.defer(() => service.stop());
  const client = clientOf([service]);

  service.start();
  const killing = startKilling(service, seededRandom(random.integer(0, 2 ** 31)), CALM_MS, stack);
  const weather = setInterval(() => {
    changeWeather(vast, random);
    moveMarket(vast, random);
  }, WEATHER_MS);
  stack.defer(() => clearInterval(weather));
  await Promise.race([runCycles(client, random, cycles, full ? 30 : 12, say), killing.broken]);

  clearInterval(weather);
  clearWeather(vast);
  const { kills } = killing;
  await killing.stop();
  const settleStart = performance.now();
  const unsettled = await settle(client, vast);
  const settleSeconds = Math.round((performance.now() - settleStart) / 1000);

  const records = await openRecords(dataDir, stack);
  const evidence = await gatherEvidence(vast, records, { foreignBefore, labelPrefix });
  const ours = evidence.rentals.filter(({ isForeign }) => !isForeign);
  return {
    figures: {
      instances: evidence.instanceRows.length,
      'machines rented': ours.length,
      'instances that became ready': evidence.instanceRows.filter(({ ready_at: at }) => at !== null).length,
      'machines that were foreign': foreignBefore.size,
      kills,
      'faults played': vast.counters.faults,
      'why instances ended': reasonsOf(evidence.instanceRows.map(({ termination_reason: reason }) => reason)),
      'why machines ended': reasonsOf(evidence.rentalRows.map(({ end_reason: reason }) => reason)),
      'kinds of faults and fates': faultKinds,
      'records closed while both views denied a living machine': closedTooEarly(evidence).length,
      'seconds to settle': settleSeconds,
    },
    violations: [
      ...unsettled,
      ...service.accidents,
      ...machineViolations(evidence),
      ...misuse(vast),
      ...(ours.length < cycles * LEAST_SHARE_RENTED
        ? ['hardly any machine was rented, so nothing was tried']
        : []),
    ],
  };
}

const hurriedSettings = {
  DEPLOYMENT: 'chaos',
  VAST_PACING: 'none',
  MAX_INSTANCES: '1000',
  MAX_PRICE_PER_HOUR_USD: '5',
  MAX_TOTAL_PRICE_PER_HOUR_USD: 'none',
  MAX_SPEND_PER_DAY_USD: 'none',
  MAX_SPEND_PER_MONTH_USD: 'none',
  INSTANCE_IDLE_MINUTES: '0',
  FLEET_MAX: '0',
  ORPHAN_GRACE_SECONDS: '2',
  RECONCILE_SECONDS: '2',
  SEARCH_TIMEOUT_SECONDS: '20',
  RENT_SETTLE_SECONDS: '5',
  LOADING_TIMEOUT_SECONDS: '5',
  STARTING_TIMEOUT_SECONDS: '8',
  UNREACHABLE_TIMEOUT_SECONDS: '2',
  INSTANCE_POLL_SECONDS: '0.2',
  INSTANCE_CHECK_SECONDS: '0.5',
};

/** Labels that come as near to ours as others' can, and enough of them that a list has several pages. */
function addForeignRentals(vast: VastDouble): Map<number, string> {
  const near = [
    'cfy',
    labelPrefix,
    `${labelPrefix}2.${randomUUID()}.1`,
    `${labelPrefix}-2.${randomUUID()}.1`,
    `cfy.other.${randomUUID()}.1`,
    `cfy2.chaos.${randomUUID()}.1`,
    `${labelPrefix.toUpperCase()}.${randomUUID()}.1`,
    `my ${labelPrefix}.${randomUUID()}.1`,
    `${labelPrefix}.notes of somebody else`,
  ];
  vast.addForeignRental();
  for (const label of near) vast.addForeignRental(label);
  for (let count = 0; count < 20; count += 1) vast.addForeignRental(`training run ${count}`);
  return foreignState(vast);
}

async function runCycles(
  client: Client,
  random: Random,
  cycles: number,
  callers: number,
  say: (line: string) => void,
): Promise<void> {
  let begun = 0;
  let done = 0;
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (begun < cycles) {
        begun += 1;
        await oneCycle(client, random);
        done += 1;
        if (done % 100 === 0) say(`${done} of ${cycles} cycles`);
      }
    }),
  );
}

/** An instance from its request to its confirmed end, as an impatient caller has it. */
async function oneCycle(client: Client, random: Random): Promise<void> {
  // A request whose answer was lost may have been accepted: that instance is ended when all has settled.
  const { id } = await patiently('an instance is accepted', CYCLE_LIMIT_MS, () =>
    client.call<Instance>('/instances', {
      method: 'POST',
      json: { requirements: { regions: [pick(random, regions)] } },
    }),
  );
  const until = pickWeighted(random, { 'at once': 1, soon: 2, 'when ready': 4 });
  if (until === 'soon') await sleep(random.fraction() * 2_500);
  if (until === 'when ready') await readyOrEnded(client, id);
  await patiently('the end is accepted', CYCLE_LIMIT_MS, () =>
    client.call(`/instances/${id}?drain=${random.fraction() < 0.3}`, { method: 'DELETE' }),
  );
  await patiently(`instance ${id} ends`, CYCLE_LIMIT_MS, () => ended(client, id));
}

async function readyOrEnded(client: Client, id: string): Promise<void> {
  const wanted = new Set(['ready', 'terminating', 'terminated']);
  await patiently(`instance ${id} is ready`, READY_LIMIT_MS, async () => {
    const { status } = await client.call<Instance>(`/instances/${id}`);
    return wanted.has(status) ? true : undefined;
  }).catch(() => undefined);
}

async function ended(client: Client, id: string): Promise<true | undefined> {
  const { status } = await client.call<Instance>(`/instances/${id}`);
  return status === 'terminated' ? true : undefined;
}

/** Ends what is left, and waits until nothing of ours lives. What does not come to pass is told by the checks of the records. */
async function settle(client: Client, vast: VastDouble): Promise<string[]> {
  try {
    await patiently('all instances have ended and no machine of ours lives', SETTLE_LIMIT_MS, async () => {
      const left = await living(client);
      for (const { id } of left) await client.call(`/instances/${id}`, { method: 'DELETE' });
      const alive = vast.liveRentals().filter(({ isForeign }) => !isForeign);
      return left.length === 0 && alive.length === 0 ? true : undefined;
    });
    return [];
  } catch (error) {
    return [`unsettled: ${error instanceof Error ? error.message : String(error)}`];
  }
}

async function living(client: Client): Promise<Instance[]> {
  const statuses = ['requested', 'provisioning', 'ready', 'draining', 'terminating'];
  const query = statuses.map((status) => `status=${status}`).join('&');
  return (await client.call<{ items: Instance[] }>(`/instances?${query}&limit=100`)).items;
}

function reasonsOf(reasons: (string | null)[]): string {
  const counts = [...Map.groupBy(reasons, (reason) => reason ?? 'none')].map(
    ([reason, all]) => [reason, all.length] as const,
  );
  return counts
    .toSorted(([, a], [, b]) => b - a)
    .map(([reason, count]) => `${count} ${reason}`)
    .join(', ');
}

/** Calls that the service never has a reason to make. */
function misuse({ counters }: VastDouble): string[] {
  const { calls, keysInUrl, unknownCalls, unauthorized } = counters;
  const found = {
    'calls that change a rental other than by its end': calls.manage + calls.reboot + calls.recycle,
    'calls with the key in the URL': keysInUrl,
    'calls to paths that do not exist': unknownCalls,
    'calls without a good key': unauthorized,
  };
  return Object.entries(found).flatMap(([what, count]) => (count === 0 ? [] : [`misuse: ${count} ${what}`]));
}
