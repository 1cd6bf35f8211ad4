// The steps of one instance, taken one by one by hand: no queue carries them, so a test may do anything between two.
import { loadConfig, type Config } from '../../src/config.ts';
import { createBudget } from '../../src/fleet/budget.ts';
import type { Provider } from '../../src/instances/provider.ts';
import { loadState, type InstanceState } from '../../src/instances/records.ts';
import { createInstances, type Instances } from '../../src/instances/service.ts';
import { createSessions } from '../../src/instances/sessions.ts';
import { nextStep, stepInstance, type InstanceDeps, type StepName } from '../../src/instances/steps.ts';
import { systemClock } from '../../src/support/clock.ts';
import { createLogger } from '../../src/support/log.ts';
import { noIntervals, type Intervals } from '../../src/vast/endpoints.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { startVastDouble, type VastDouble } from '../doubles/vast/index.ts';
import { instantPhases, type PartialKnobs } from '../doubles/vast/knobs.ts';
import { expect } from 'vitest';
import { createTestDatabase, type TestDatabase } from './database.ts';

export interface StepBench {
  readonly vast: VastDouble;
  readonly database: TestDatabase['database'];
  readonly instances: Instances;
  readonly provider: Provider;
  /** What the steps work with; a test may give them something else. */
  readonly replica: InstanceDeps;
  /** The first instance, which was requested. */
  readonly id: string;
  /** Every line that was logged. */
  readonly logged: string[];
  request(): Promise<string>;
  state(id?: string): Promise<InstanceState>;
  /** The step of the wake-up with this number; the newest unless given. */
  step(deps?: InstanceDeps, wake?: number, id?: string): Promise<void>;
  /** Takes step after step until that one is next. */
  stepUntil(name: StepName, id?: string): Promise<void>;
  stop(): Promise<void>;
}

export interface StepBenchOptions {
  env?: Record<string, string>;
  knobs?: PartialKnobs;
  intervals?: Intervals;
}

export async function createStepBench({
  env = {},
  knobs = {},
  intervals = noIntervals,
}: StepBenchOptions = {}): Promise<StepBench> {
  const vast = await startVastDouble({ knobs: { phases: instantPhases, ...knobs } });
  const { database, stop: stopDatabase } = await createTestDatabase();
  const { db, queues } = database;
  const config: Config = loadConfig({
    INSTANCE_POLL_SECONDS: '0.05',
    RENT_SETTLE_SECONDS: '1',
    VASTAI_API_KEY: vast.apiKey,
    VAST_API_URL: vast.url,
    ...env,
  });
  const logged: string[] = [];
  const log = createLogger(config, { write: (line) => void logged.push(line) });
  const provider = createVastProvider({ config, log, intervals });
  const clock = systemClock;
  const budget = createBudget({ db, config, clock });
  const instances = createInstances({ db, queues, provider, budget, config, clock });
  const sessions = createSessions({ db, config, log });
  const replica = { db, queues, provider, sessions, budget, config, labelPrefix: 'cfy.test', log, clock };

  async function request(): Promise<string> {
    const asked = { requirements: undefined, offerId: undefined, apiKey: null };
    return (await instances.request(asked)).instance.id;
  }
  const first = await request();
  const { signal } = new AbortController();

  async function state(id = first): Promise<InstanceState> {
    const found = await loadState(db, id);
    if (found === null) throw new Error('The instance is gone.');
    return found;
  }
  async function step(deps: InstanceDeps = replica, wake?: number, id = first): Promise<void> {
    const newest = wake ?? (await state(id)).instance.wake;
    await stepInstance(deps, { instanceId: id, wake: newest }, { signal });
  }
  async function stepUntil(name: StepName, id = first): Promise<void> {
    await expect
      .poll(
        async () => {
          const { instance, rental } = await state(id);
          const next = nextStep(instance, rental);
          if (next !== name) await step(replica, instance.wake, id);
          return next;
        },
        { timeout: 15_000, interval: 10 },
      )
      .toBe(name);
  }

  return {
    vast,
    database,
    instances,
    provider,
    replica,
    id: first,
    logged,
    request,
    state,
    step,
    stepUntil,
    async stop() {
      await sessions.close();
      await provider.close();
      await stopDatabase();
      await vast.stop();
    },
  };
}
