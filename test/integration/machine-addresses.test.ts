// Where a rented machine is reached: the provider may change its mind at every look, and the settings between two starts.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { createBudget } from '../../src/fleet/budget.ts';
import type { Provider } from '../../src/instances/provider.ts';
import { loadState, type InstanceState } from '../../src/instances/records.ts';
import { createInstances } from '../../src/instances/service.ts';
import { createSessions } from '../../src/instances/sessions.ts';
import { stepInstance, type InstanceDeps } from '../../src/instances/steps.ts';
import { systemClock as clock } from '../../src/support/clock.ts';
import { createLogger } from '../../src/support/log.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

const { signal } = new AbortController();

let vast: VastDouble;
let testDatabase: TestDatabase;
let deps: InstanceDeps;
let id: string;
const providers: { close(): Promise<void> }[] = [];

beforeEach(async () => {
  vast = await startVastDouble({ knobs: { phases: instantPhases } });
  testDatabase = await createTestDatabase();
});
afterEach(async () => {
  await deps.sessions.close();
  await Promise.all(providers.splice(0).map((provider) => provider.close()));
  await testDatabase.stop();
  await vast.stop();
});

function configOf(settings: Record<string, string>) {
  return loadConfig({
    INSTANCE_POLL_SECONDS: '0.05',
    VASTAI_API_KEY: vast.apiKey,
    VAST_API_URL: vast.url,
    VAST_PACING: 'none',
    ...settings,
  });
}

/** As a service with these settings that has just been started. */
async function start(settings: Record<string, string> = {}) {
  const { db, queues } = testDatabase.database;
  const config = configOf(settings);
  const log = createLogger({ ...config, LOG_LEVEL: 'silent' });
  const provider = createVastProvider({ config, log });
  providers.push(provider);
  const budget = createBudget({ db, config, clock });
  const sessions = createSessions({ db, config, log });
  deps = { db, queues, provider, sessions, budget, config, labelPrefix: 'cfy.test', log, clock };
  return { instances: createInstances({ db, queues, provider, budget, config, clock }), provider };
}

async function rent(settings: Record<string, string> = {}): Promise<Provider> {
  const { instances, provider } = await start(settings);
  const { instance } = await instances.request({ requirements: undefined, offerId: undefined, apiKey: null });
  ({ id } = instance);
  return provider;
}

async function state(): Promise<InstanceState> {
  const found = await loadState(testDatabase.database.db, id);
  if (found === null) throw new Error('The instance is gone.');
  return found;
}

async function step(): Promise<void> {
  const { instance } = await state();
  await stepInstance(deps, { instanceId: id, wake: instance.wake }, { signal });
}

/** Takes step after step, however soon they are due. */
async function stepUntil(done: (now: InstanceState) => boolean): Promise<InstanceState> {
  const steps = async () => {
    if (!done(await state())) await step();
    return done(await state());
  };
  await expect.poll(steps, { timeout: 10_000, interval: 20 }).toBe(true);
  return state();
}

/** Shows the machine on another port at every look. */
function restless(provider: Provider): Provider {
  let looks = 0;
  return {
    ...provider,
    async describe(providerInstanceId) {
      const view = await provider.describe(providerInstanceId, signal);
      if (view.kind === 'absent' || view.instance.condition.kind !== 'running') return view;
      const { address } = view.instance.condition;
      const moved = address && { ...address, port: 1 + (looks++ % 9) };
      return { ...view, instance: { ...view.instance, condition: { kind: 'running', address: moved } } };
    },
  };
}

describe('a machine whose address changes at every look', () => {
  it('is given up when it has not started in its time', async () => {
    const provider = await rent({ STARTING_TIMEOUT_SECONDS: '1' });
    deps = { ...deps, provider: restless(provider) };
    const { rental } = await stepUntil(({ rental: now }) => now?.status === 'destroying');
    expect(rental?.end_reason).toBe('starting_timeout');
  });

  it('is given up when it answers at none of them, although it was ready', async () => {
    const provider = await rent({ UNREACHABLE_TIMEOUT_SECONDS: '1' });
    await stepUntil(({ instance }) => instance.status === 'ready');
    deps = { ...deps, provider: restless(provider) };
    const { instance } = await stepUntil(({ instance: now }) => now.status === 'terminating');
    expect(instance.pending_reason).toBe('unreachable');
  });
});

describe('a machine that was rented under another VAST_HTTPS', () => {
  it.each([
    ['true', 'false'],
    ['false', 'true'],
  ])('is reached as before: %s, now %s', async (rented, since) => {
    await rent({ VAST_HTTPS: rented });
    const { rental } = await stepUntil(({ instance }) => instance.status === 'ready');
    await deps.sessions.close();
    await start({ VAST_HTTPS: since });
    for (let looks = 0; looks < 2; looks++) await step();
    const { instance, rental: after } = await state();
    expect(instance).toMatchObject({ status: 'ready', unreachable_since: null });
    expect(after?.address_url).toBe(rental?.address_url);
  });
});
