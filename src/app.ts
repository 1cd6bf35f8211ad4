// All wiring on one screen: what the service is made of, and the order in which its parts start and stop.
import { join } from 'node:path';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { createLocalDiskStore } from './assets/local-disk.ts';
import { assetRoutes } from './assets/routes.ts';
import { createAssets, type Assets } from './assets/service.ts';
import { configuredApiKeys, loadConfig, type Config } from './config.ts';
import { startDatabase, type Database } from './database/database.ts';
import { registerGauges } from './gauges.ts';
import { createBudget } from './fleet/budget.ts';
import { costRoutes } from './fleet/costs-routes.ts';
import type { EstimateDeps } from './fleet/estimate.ts';
import { costOfJob } from './fleet/job-costs.ts';
import { registerMoneyGauges } from './fleet/money-gauges.ts';
import { createApiKeys } from './http/api-keys.ts';
import { assertListenAllowed } from './http/authentication.ts';
import { createHealth } from './http/health.ts';
import { createMetrics } from './http/metrics.ts';
import { createHttpServer } from './http/server.ts';
import { accountRoutes, type AccountDeps } from './instances/account-routes.ts';
import { labelPrefix } from './instances/label.ts';
import { instanceRoutes } from './instances/routes.ts';
import { createInstances, type Instances } from './instances/service.ts';
import { createSessions } from './instances/sessions.ts';
import { syncStaticInstances } from './instances/static.ts';
import type { Notifications } from './database/notifications.ts';
import { jobRoutes } from './jobs/routes.ts';
import { createJobs, type JobService } from './jobs/service.ts';
import { healthProbes } from './probes.ts';
import { createLogger, type Logger } from './support/log.ts';
import { systemClock } from './support/clock.ts';
import { createVastProvider } from './vast/provider.ts';
import { startWork } from './work.ts';

export interface Service {
  /** Where it listens, such as `http://127.0.0.1:8400`. */
  readonly url: string;
  readonly database: Database;
  /** Takes no more requests, hands running work back to the queues, and stops every part. Nothing is lost. */
  stop(): Promise<void>;
}

/** Starts everything and listens. Rejects, with what had started stopped again, when a part cannot start. */
export async function startService(config: Config, log: Logger): Promise<Service> {
  const clock = systemClock;
  // Undone from the last to the first: by `stop`, and when a later part cannot start.
  const started = new AsyncDisposableStack();
  try {
    const database = await startDatabase({ config, log });
    started.defer(() => database.stop());
    const { db, queues, notifications } = database;
    const apiKeys = createApiKeys(db);
    await apiKeys.adoptSettings(configuredApiKeys(config));
    await assertListenAllowed(config, apiKeys);

    const provider = config.VASTAI_API_KEY === undefined ? null : createVastProvider({ config, log });
    started.defer(async () => provider?.close());
    const store = createLocalDiskStore({ dir: join(config.DATA_DIR, 'assets') });
    const assets = createAssets({ db, store, config, log });
    const sessions = createSessions({ db, config, log });
    started.defer(() => sessions.close());

    const budget = createBudget({ db, config, clock });
    const instances = createInstances({ db, queues, provider, budget, config, clock });
    const jobs = createJobs({ db, queues, notifications, assets, config, clock });
    const metrics = createMetrics();
    registerGauges(metrics, db, queues);
    registerMoneyGauges(metrics, { db, config, clock });
    const health = createHealth(healthProbes({ database, queues, provider, store, db, config }));
    const prefix = await labelPrefix(db, config);
    const account = { db, provider, labelPrefix: prefix };
    const costs = { db, instances, budget, config, clock };
    const routes = domainRoutes({ instances, account, jobs, assets, notifications, costs });
    const http = await createHttpServer({ config, log, apiKeys, health, routes, metrics });

    const instanceDeps = { db, queues, provider, sessions, budget, config, labelPrefix: prefix, log, clock };
    const runDeps = { db, queues, notifications, assets, sessions, config, clock, log };
    const fleetDeps = { db, queues, instances, canRent: provider !== null, config, clock, log };
    const moneyDeps = { db, queues, provider, config, clock, log };
    await startWork({ instances: instanceDeps, runs: runDeps, fleet: fleetDeps, money: moneyDeps });
    started.defer(() => queues.stop(config.SHUTDOWN_TIMEOUT_SECONDS * 1000));
    await syncStaticInstances(db, queues, config.COMFYUI_URLS, config.JOB_MAX_ATTEMPTS);

    started.defer(() => http.close());
    const url = await http.listen({ host: config.HOST, port: config.PORT });
    health.enter('running');
    started.defer(async () => health.enter('stopping'));
    return { url, database, stop: () => started.disposeAsync() };
  } catch (error) {
    await started.disposeAsync();
    throw error;
  }
}

/** Stands for a service that is never asked. */
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- nothing can be read from it, whatever its type
const unasked = Object.freeze(Object.create(null)) as never;

/** The OpenAPI document of all routes, made without a database: a route asks its services only when it is called. */
export async function openApiDocument(): Promise<object> {
  const config = loadConfig({});
  const http = await createHttpServer({
    config,
    log: createLogger({ ...config, LOG_LEVEL: 'silent' }),
    apiKeys: unasked,
    health: unasked,
    routes: domainRoutes({
      instances: unasked,
      account: unasked,
      jobs: unasked,
      assets: unasked,
      notifications: unasked,
      costs: unasked,
    }),
  });
  await http.ready();
  const document = http.swagger();
  await http.close();
  return document;
}

function domainRoutes(services: {
  instances: Instances;
  account: AccountDeps;
  jobs: JobService;
  assets: Assets;
  notifications: Notifications;
  costs: EstimateDeps;
}): FastifyPluginAsyncZod[] {
  const { instances, account, jobs, assets, costs } = services;
  return [
    instanceRoutes(instances, systemClock),
    accountRoutes(account),
    jobRoutes({ jobs, assets, costOf: (id, now) => costOfJob(costs.db, id, now) }),
    costRoutes(costs),
    assetRoutes(assets),
  ];
}
