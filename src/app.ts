// All wiring on one screen: what the service is made of, and the order in which its parts start and stop.
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { openStore } from './assets/open-store.ts';
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
import { createHttpServer, listen } from './http/server.ts';
import { createSignedLinks, linkSecrets, type SignedLinks } from './http/signed-links.ts';
import { accountRoutes, type AccountDeps } from './instances/account-routes.ts';
import { labelPrefix } from './instances/label.ts';
import { instanceRoutes } from './instances/routes.ts';
import { createInstances, type Instances } from './instances/service.ts';
import { createSessions } from './instances/sessions.ts';
import { syncStaticInstances } from './instances/static.ts';
import type { Notifications } from './database/notifications.ts';
import { batchRoutes } from './jobs/batch-routes.ts';
import { createBatches, type BatchService } from './jobs/batch.ts';
import { jobRoutes } from './jobs/routes.ts';
import { createKnownNodes } from './jobs/known-nodes.ts';
import { presentJob } from './jobs/presentation.ts';
import { createJobs, type JobService } from './jobs/service.ts';
import { healthProbes } from './probes.ts';
import { createLogger, type Logger } from './support/log.ts';
import { systemClock } from './support/clock.ts';
import { sleep } from './support/sleep.ts';
import { createUpkeep } from './support/upkeep.ts';
import { createVastProvider } from './vast/provider.ts';
import { webhookDescriptions } from './webhooks/openapi.ts';
import { registerWebhookMetrics } from './webhooks/metrics.ts';
import { webhookRoutes } from './webhooks/routes.ts';
import { createDeliveries, type Deliveries } from './webhooks/service.ts';
import { startWork } from './work.ts';

export interface Service {
  /** Where it listens, such as `http://127.0.0.1:8400`. */
  readonly url: string;
  readonly database: Database;
  /** Lets a balancer know, takes no more requests, hands running work back to the queues, and stops every part. Nothing is lost. */
  stop(): Promise<void>;
}

/**
 * Starts everything and listens. Rejects, with what had started stopped again, when a part cannot start, or when it is to stop
 * before it has begun to work.
 */
export async function startService(config: Config, log: Logger, stopping?: AbortSignal): Promise<Service> {
  const clock = systemClock;
  // Undone from the last to the first: by `stop`, and when a later part cannot start.
  const started = new AsyncDisposableStack();
  try {
    const database = await startDatabase({ config, log });
    started.defer(() => database.stop());
    stopping?.throwIfAborted();
    const { db, queues, notifications } = database;
    const apiKeys = createApiKeys(db);
    await apiKeys.adoptSettings(configuredApiKeys(config));
    await assertListenAllowed(config, apiKeys);

    const provider = config.VASTAI_API_KEY === undefined ? null : createVastProvider({ config, log });
    started.defer(async () => provider?.close());
    const store = await openStore(config);
    started.defer(() => store.close());
    const assets = createAssets({ db, store, config, log });
    const links = createSignedLinks({
      secrets: await linkSecrets(db, config),
      lifetimeMs: config.LINK_LIFETIME_HOURS * 3_600_000,
      apiKeys,
      clock,
    });
    const sessions = createSessions({ db, config, log });
    started.defer(() => sessions.close());

    const budget = createBudget({ db, config, clock });
    const instances = createInstances({ db, queues, provider, budget, config, clock });
    const nodes = createKnownNodes({ db, sessions, canRent: provider !== null, config, clock, log });
    const jobDeps = { db, queues, notifications, assets, nodes, config, clock, links: links.links };
    const jobs = createJobs(jobDeps);
    const batches = createBatches(jobDeps);
    const metrics = createMetrics();
    const deliveries = createDeliveries({ db, queues, clock });
    const countTry = registerWebhookMetrics(metrics, db);
    const upkeep = createUpkeep(log);
    registerGauges(metrics, { db, queues, upkeep });
    registerMoneyGauges(metrics, { db, config, clock });
    const health = createHealth(healthProbes({ database, queues, upkeep, provider, store, db, config }));
    const prefix = await labelPrefix(db, config);
    const account = { db, provider, labelPrefix: prefix, clock };
    const costs = { db, instances, nodes, budget, config, clock };
    const routes = domainRoutes({
      links,
      instances,
      account,
      jobs,
      batches,
      assets,
      notifications,
      costs,
      deliveries,
    });
    const http = await createHttpServer({
      config,
      log,
      apiKeys,
      health,
      routes,
      links,
      metrics,
      webhooks: webhookDescriptions,
    });

    const instanceDeps = { db, queues, provider, sessions, budget, config, labelPrefix: prefix, log, clock };
    const runDeps = { db, queues, notifications, assets, sessions, config, clock, log };
    const fleetDeps = { db, queues, instances, canRent: provider !== null, config, clock, log };
    const moneyDeps = { db, queues, provider, config, clock, log };
    const showJob = async (id: string) => {
      const now = clock.now();
      return presentJob(await jobs.get(id), now, await costOfJob(db, id, now), await links.links());
    };
    const webhooks = { db, queues, config, clock, log, showJob, countTry };
    await startWork({
      database,
      instances: instanceDeps,
      runs: runDeps,
      fleet: fleetDeps,
      money: moneyDeps,
      webhooks,
      upkeep,
    });
    started.defer(() => queues.stop(config.SHUTDOWN_TIMEOUT_SECONDS * 1000));

    started.defer(() => http.close());
    const url = await listen(http, config);
    // Not before: a start that fails must not end the instances of those that run.
    await syncStaticInstances(db, queues, config.COMFYUI_URLS, config.JOB_MAX_ATTEMPTS);
    health.enter('running');
    started.defer(async () => {
      health.enter('stopping');
      // Until a balancer has seen it, requests go on being answered.
      await sleep(config.DRAIN_SECONDS * 1000);
    });
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
      links: unasked,
      instances: unasked,
      account: unasked,
      jobs: unasked,
      batches: unasked,
      assets: unasked,
      notifications: unasked,
      costs: unasked,
      deliveries: unasked,
    }),
    webhooks: webhookDescriptions,
  });
  await http.ready();
  const document = http.swagger();
  await http.close();
  return document;
}

function domainRoutes(services: {
  links: SignedLinks;
  instances: Instances;
  account: AccountDeps;
  jobs: JobService;
  batches: BatchService;
  assets: Assets;
  notifications: Notifications;
  costs: EstimateDeps;
  deliveries: Deliveries;
}): FastifyPluginAsyncZod[] {
  const { links, instances, account, jobs, batches, assets, costs, deliveries } = services;
  return [
    instanceRoutes(instances, systemClock),
    accountRoutes(account),
    jobRoutes({ jobs, assets, links: links.links, costOf: (id, now) => costOfJob(costs.db, id, now) }),
    batchRoutes({ batches, assets }),
    costRoutes(costs),
    assetRoutes(assets, links),
    webhookRoutes(deliveries),
  ];
}
