// One line in the log for every request, and the id that ties the line to the answer.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

/** The caller's X-Request-Id where it is harmless in logs and headers, else one of our own. */
export function requestIdOf(request: IncomingMessage): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && /^[\w.:-]{8,64}$/.test(given) ? given : randomUUID();
}

/** Logs requests when they are answered, or given up by the caller. Routes with `logLevel: 'warn'` show only their failures. */
export function logRequests(app: FastifyInstance): void {
  app.addHook('onSend', async (request, reply) => {
    reply.header('x-request-id', request.id);
  });
  app.addHook('onResponse', async (request, reply) => {
    request.log.info({ ...factsOf(request, reply), status: reply.statusCode }, 'request');
  });
  app.addHook('onRequestAbort', async (request) => {
    request.log.info({ method: request.method, route: routeOf(request) }, 'request given up by the caller');
  });
}

function factsOf(request: FastifyRequest, reply: FastifyReply) {
  return {
    method: request.method,
    route: routeOf(request),
    ms: Math.round(reply.elapsedTime),
    ...(request.apiKey === null ? {} : { caller: request.apiKey }),
    ...(reply.errorCode === null ? {} : { code: reply.errorCode }),
  };
}

/** The pattern of the route; the path itself, without its query, only where there is no route. */
function routeOf(request: FastifyRequest): string {
  if (!request.is404 && request.routeOptions.url !== undefined) return request.routeOptions.url;
  return request.url.split('?', 1)[0]?.slice(0, 200) ?? '';
}
