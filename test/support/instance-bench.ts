// What the steps of instances work with, without the queues that carry them: a database, a double of vast.ai, and a clock.
import { loadConfig } from '../../src/config.ts';
import { createBudget } from '../../src/fleet/budget.ts';
import type { Provider } from '../../src/instances/provider.ts';
import { createInstances, type Instances } from '../../src/instances/service.ts';
import { createSessions } from '../../src/instances/sessions.ts';
import type { InstanceDeps } from '../../src/instances/steps.ts';
import { systemClock, type Clock } from '../../src/support/clock.ts';
import { createLogger } from '../../src/support/log.ts';
import { noIntervals, type Intervals } from '../../src/vast/endpoints.ts';
import { createVastProvider } from '../../src/vast/provider.ts';
import { startVastDouble, type VastDouble, type VastDoubleOptions } from '../doubles/vast/index.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { createTestDatabase, type TestDatabase } from './database.ts';

export interface InstanceBench {
  readonly vast: VastDouble;
  readonly database: TestDatabase['database'];
  readonly instances: Instances;
  readonly provider: Provider;
  /** What the steps work with; a test may give them something else. */
  readonly replica: InstanceDeps;
  /** Every line that was logged. */
  readonly logged: string[];
  stop(): Promise<void>;
}

export interface InstanceBenchOptions {
  env?: Record<string, string>;
  /** Machines load and boot at once, unless it is said here. */
  vast?: VastDoubleOptions;
  intervals?: Intervals;
  clock?: Clock;
}

export async function createInstanceBench({
  env = {},
  vast: options = {},
  intervals = noIntervals,
  clock = systemClock,
}: InstanceBenchOptions = {}): Promise<InstanceBench> {
  const vast = await startVastDouble({ ...options, knobs: { phases: instantPhases, ...options.knobs } });
  const { database, stop: stopDatabase } = await createTestDatabase();
  const { db, queues } = database;
  const config = loadConfig({ VASTAI_API_KEY: vast.apiKey, VAST_API_URL: vast.url, ...env });
  const logged: string[] = [];
  const log = createLogger(config, { write: (line) => void logged.push(line) });
  const provider = createVastProvider({ config, log, intervals });
  const budget = createBudget({ db, config, clock });
  const instances = createInstances({ db, queues, provider, budget, config, clock });
  const sessions = createSessions({ db, config, log });
  const replica = { db, queues, provider, sessions, budget, config, labelPrefix: 'cfy.test', log, clock };
  return {
    vast,
    database,
    instances,
    provider,
    replica,
    logged,
    async stop() {
      await sessions.close();
      await provider.close();
      await stopDatabase();
      await vast.stop();
    },
  };
}
