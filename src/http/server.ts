// The HTTP side of the service: one Fastify app with everything that stands around the domain's routes.
import { readFileSync } from 'node:fs';
import multipart from '@fastify/multipart';
import Fastify, {
  LogController,
  type FastifyBaseLogger,
  type FastifyInstance,
  type RawReplyDefaultExpression,
  type RawRequestDefaultExpression,
  type RawServerDefault,
} from 'fastify';
import {
  serializerCompiler,
  type FastifyPluginAsyncZod,
  type ZodTypeProvider,
} from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { Config } from '../config.ts';
import { hasErrorCode, ServiceError } from '../errors.ts';
import type { Logger } from '../support/log.ts';
import type { ApiKeys } from './api-keys.ts';
import { identifyCallers, requireAuthentication } from './authentication.ts';
import { answerClientError, answerError, answerExpectation, handleErrors } from './error-handler.ts';
import { stopGracefully } from './graceful-stop.ts';
import { healthRoutes, type Health } from './health.ts';
import { acceptIdempotencyKeys } from './idempotency.ts';
import { acceptJson } from './json-body.ts';
import { createMetrics, metricsRoutes, observeRequests, type Metrics } from './metrics.ts';
import { describeApi, documentationRoutes, type WebhookDescriptions } from './openapi.ts';
import { refuseOtherMethods } from './other-methods.ts';
import { limitRate, protectBrowsers, shedLoad } from './protection.ts';
import { MOST_FIELDS, MOST_FILES } from './receive-files.ts';
import { logRequests, requestIdOf } from './request-log.ts';
import type { SignedLinks } from './signed-links.ts';
import { refuseEncodedBodies, refuseNulInUrls, validateRequestPart } from './validation.ts';

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  ZodTypeProvider
>;

export interface HttpServerOptions {
  config: Config;
  log: Logger;
  apiKeys: ApiKeys;
  health: Health;
  /** The domain's routes. They need an API key unless marked `config: { public: true }`. */
  routes: FastifyPluginAsyncZod[];
  /** Absent: links with a signature open nothing. */
  links?: Pick<SignedLinks, 'check'>;
  metrics?: Metrics;
  /** What the service sends to others, for the OpenAPI document. */
  webhooks?: WebhookDescriptions;
}

const megabyte = 1_000_000;
const noLinks: Pick<SignedLinks, 'check'> = { check: () => 'none' };

/** Builds the app. It does not listen yet; `app.inject` works. Call `assertListenAllowed` before listening. */
export async function createHttpServer(options: HttpServerOptions): Promise<App> {
  const { config, log, apiKeys, health, routes, links = noLinks } = options;
  const { metrics = createMetrics() } = options;
  const version = readVersion();
  const stopTimeoutMs = config.SHUTDOWN_TIMEOUT_SECONDS * 1000;
  const loggerInstance: FastifyBaseLogger = log;
  const app: App = Fastify({
    loggerInstance,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    requestIdHeader: false,
    genReqId: requestIdOf,
    trustProxy: (_address, hop) => hop < config.TRUST_PROXY,
    bodyLimit: Math.floor(config.BODY_LIMIT_MB * megabyte),
    // A connection may be silent that long; a large upload may take that long in all.
    connectionTimeout: 120_000,
    requestTimeout: 3_600_000,
    // The app answers those itself, see `stopGracefully`.
    return503OnClosing: false,
    // `stopGracefully` waits in a hook, which would be given up after this.
    pluginTimeout: stopTimeoutMs + 10_000,
    routerOptions: { maxParamLength: 300 },
    frameworkErrors: answerError,
    clientErrorHandler: answerClientError,
  }).withTypeProvider<ZodTypeProvider>();
  app.server.on('checkExpectation', answerExpectation);
  app.setValidatorCompiler(validateRequestPart);
  app.setSerializerCompiler(serializerCompiler);
  app.removeContentTypeParser('text/plain');
  acceptJson(app);

  logRequests(app);
  observeRequests(app, metrics);
  await protectBrowsers(app, config);
  await shedLoad(app, config.LAG_LIMIT_MS);
  stopGracefully(app, stopTimeoutMs);
  identifyCallers(app, apiKeys);
  await limitRate(app, config.RATE_LIMIT_PER_MINUTE);
  refuseOtherMethods(app);
  handleErrors(app);
  requireAuthentication(app, config, apiKeys, links);
  refuseEncodedBodies(app);
  refuseNulInUrls(app);
  await acceptForms(app, config);
  acceptIdempotencyKeys(app);
  await describeApi(app, version, options.webhooks ?? {});

  await app.register(documentationRoutes);
  await app.register(healthRoutes({ health, version }));
  await app.register(metricsRoutes(metrics));
  for (const plugin of routes) await app.register(plugin);
  return app;
}

/** Resolves to the URL where the app listens; rejects, naming the settings and what to do, where it cannot. */
export async function listen(app: App, { HOST: host, PORT: port }: Config): Promise<string> {
  try {
    return await app.listen({ host, port });
  } catch (cause) {
    const [code, advice] = Object.entries(listenAdvice).find(([known]) => hasErrorCode(cause, known)) ?? [];
    const why = code === undefined ? '' : ` (${code}): ${advice}`;
    throw new Error(`HOST and PORT: the service cannot listen on port ${port} of ${host}${why}.`, { cause });
  }
}

const listenAdvice = {
  EADDRINUSE: 'another program has it; stop that, or set another PORT',
  EACCES: 'this user may not; set a PORT from 1024 on',
  EADDRNOTAVAIL: 'this machine has no such address; set another HOST',
  ENOTFOUND: 'there is no such host; set another HOST',
};

/** The version of the service, from package.json. */
function readVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return z.object({ version: z.string() }).parse(JSON.parse(text)).version;
}

/**
 * Forms, for routes that use `request.parts()`: they name what they take in `consumes` and describe the body with `z.unknown().meta(...)`, because
 * there is nothing to validate before it is read. Every other route takes JSON only.
 */
async function acceptForms(app: App, config: Config): Promise<void> {
  await app.register(multipart, {
    // JSON too: of a field the plugin would parse it by itself, with errors that name no field.
    isPartAFile: (_name, type = '', fileName) =>
      fileName !== undefined || /^application\/(?:json|octet-stream)/i.test(type),
    limits: {
      fileSize: Math.floor(config.UPLOAD_LIMIT_MB * megabyte),
      fieldSize: Math.floor(config.BODY_LIMIT_MB * megabyte),
      fieldNameSize: 200,
      files: MOST_FILES,
      fields: MOST_FIELDS,
      parts: MOST_FILES + MOST_FIELDS,
      headerPairs: 50,
    },
  });
  app.addHook('preValidation', async (request) => {
    const { schema } = request.routeOptions;
    const takesJson = schema?.body !== undefined && schema.consumes === undefined;
    if (takesJson && request.isMultipart()) {
      throw new ServiceError('unsupported_media_type', 'The route takes JSON. Send application/json.');
    }
  });
}
