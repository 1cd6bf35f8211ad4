// Metrics in Prometheus' text format. The domain adds its own to the same registry.
import type { FastifyInstance } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { collectDefaultMetrics, Histogram, Registry } from 'prom-client';
import { z } from 'zod';

export interface Metrics {
  /** Where gauges and counters are registered: `new Gauge({ ..., registers: [metrics.register] })`. */
  register: Registry;
  /** All of them and those of the process, as Prometheus reads them. */
  text(): Promise<string>;
  /** Notes one answered request. `route` is the pattern of the route, never the URL: URLs are without number. */
  observeRequest(request: { method: string; route: string; status: number; seconds: number }): void;
}

/** A registry of its own, so that two services in one process, as in tests, do not share counts. */
export function createMetrics(): Metrics {
  const register = new Registry();
  const ofProcess = metricsOfProcess();
  const duration = new Histogram({
    name: 'comfyfleet_http_request_duration_seconds',
    help: 'Time from the arrival of a request to the end of its answer',
    labelNames: ['method', 'route', 'status'] as const,
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 100],
    registers: [register],
  });
  return {
    register,
    text: () => Registry.merge([ofProcess, register]).metrics(),
    observeRequest({ method, route, status, seconds }) {
      duration.observe({ method, route, status }, seconds);
    },
  };
}

let processRegister: Registry | null = null;

/** Made once in a process: the library never stops observing what it counts there. */
function metricsOfProcess(): Registry {
  if (processRegister === null) {
    processRegister = new Registry();
    collectDefaultMetrics({ register: processRegister });
  }
  return processRegister;
}

/** The route that Prometheus reads. It needs an API key where there is one. */
export function metricsRoutes(metrics: Metrics): FastifyPluginAsyncZod {
  return async (app) => {
    app.get(
      '/metrics',
      {
        logLevel: 'warn',
        schema: {
          operationId: 'getMetrics',
          summary: 'Metrics for Prometheus',
          tags: ['service'],
          response: {
            200: {
              description: "Prometheus' text format",
              content: { 'text/plain': { schema: z.string() } },
            },
          },
        },
      },
      async (_request, reply) => {
        reply.serializer(String).type(metrics.register.contentType);
        return metrics.text();
      },
    );
  };
}

/** Counts every answered request of the app, those without a route under `none`. */
export function observeRequests(app: FastifyInstance, metrics: Metrics): void {
  app.addHook('onResponse', async (request, reply) => {
    metrics.observeRequest({
      method: request.method,
      route: request.is404 ? 'none' : (request.routeOptions.url ?? 'none'),
      status: reply.statusCode,
      seconds: reply.elapsedTime / 1000,
    });
  });
}
