// What stands before every route: browser policies, cross-origin rules and limits.
import cors from '@fastify/cors';
import helmet from '@fastify/helmet';
import rateLimit, { normalizeIP } from '@fastify/rate-limit';
import underPressure from '@fastify/under-pressure';
import type { FastifyInstance } from 'fastify';
import type { Config } from '../config.ts';
import { ServiceError } from '../errors.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answers under load, while stopping and however often it is asked: health. */
    unlimited?: boolean;
  }
}

/** Headers for browsers, and which other origins may call. */
export async function protectBrowsers(app: FastifyInstance, config: Config): Promise<void> {
  const isShared = config.CORS_ORIGINS.length > 0;
  await app.register(helmet, {
    // Answers are data: nothing in them may run or load. The documentation has a policy of its own.
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { 'default-src': ["'none'"], 'frame-ancestors': ["'none'"] },
    },
    // Result links are shown by the pages of the frontend, which come from another origin.
    crossOriginResourcePolicy: { policy: isShared ? 'cross-origin' : 'same-origin' },
    referrerPolicy: { policy: 'no-referrer' },
    // Whoever adds TLS decides for how long browsers insist on it.
    strictTransportSecurity: false,
  });
  if (!isShared) return;
  await app.register(cors, {
    origin: config.CORS_ORIGINS,
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
    allowedHeaders: [
      'Authorization',
      'Content-Type',
      'Idempotency-Key',
      'Last-Event-ID',
      'Prefer',
      'Range',
      'If-None-Match',
      'X-Request-Id',
    ],
    exposedHeaders: [
      'Location',
      'ETag',
      'Content-Disposition',
      'Content-Length',
      'Content-Range',
      'Accept-Ranges',
      'Retry-After',
      'Preference-Applied',
      'Idempotency-Replayed',
      'X-Request-Id',
      'RateLimit-Limit',
      'RateLimit-Remaining',
      'RateLimit-Reset',
    ],
    strictPreflight: false,
    maxAge: 600,
  });
}

/** Sheds requests while the event loop lags, unless `maxLagMs` is 0: those that are let in are then still answered. */
export async function shedLoad(app: FastifyInstance, maxLagMs: number): Promise<void> {
  if (maxLagMs === 0) return;
  await app.register(underPressure, {
    maxEventLoopDelay: maxLagMs,
    sampleInterval: 500,
    pressureHandler: async (request) => {
      if (request.routeOptions.config.unlimited === true) return;
      throw new ServiceError('overloaded', 'The service has too much to do. Try again in a few seconds.', {
        extra: { retryAfterSeconds: 5 },
      });
    },
  });
}

/** Counts requests for each API key, else for each address; identify the caller before. */
export async function limitRate(app: FastifyInstance, requestsPerMinute: number): Promise<void> {
  await app.register(rateLimit, {
    global: false,
    max: requestsPerMinute,
    timeWindow: 60_000,
    keyGenerator: ({ apiKey, ip }: { apiKey: string | null; ip?: string }) =>
      // Whoever has hung up already has no address any more.
      apiKey === null ? `address ${normalizeIP(ip ?? '')}` : `key ${apiKey}`,
  });
  const count = app.createRateLimit();
  app.addHook('onRequest', async (request, reply) => {
    if (request.routeOptions.config.unlimited === true) return;
    const counted = await count(request);
    if (counted.isAllowed) return;
    reply.headers({
      'ratelimit-limit': counted.max,
      'ratelimit-remaining': counted.remaining,
      'ratelimit-reset': counted.ttlInSeconds,
    });
    if (!counted.isExceeded) return;
    throw new ServiceError(
      'rate_limited',
      `More than ${counted.max} requests in a minute. Try again in ${counted.ttlInSeconds} s.`,
      { extra: { retryAfterSeconds: counted.ttlInSeconds } },
    );
  });
}
