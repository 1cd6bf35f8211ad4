// The HTTP server of the API: routes, keys, rate limits and faults, in that order.
import { createServer } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { Call } from './call.ts';
import { readBody } from './call.ts';
import { createInstance } from './create-instance.ts';
import type { Fault, Operation } from './faults.ts';
import { commonFaultReply, takeFault } from './faults.ts';
import {
  destroyInstance,
  manageInstance,
  rebootInstance,
  recycleInstance,
  showInstance,
} from './instances.ts';
import { listInstances } from './list-instances.ts';
import { closeServer, listen } from '../ports/listen.ts';
import { credentialTwice, logFile, requestLogs } from './logs.ts';
import { openRateLimits } from './rate-limits.ts';
import type { Reply } from './reply.ts';
import { failure, json, send } from './reply.ts';
import { searchOffers } from './search-offers.ts';
import { settleAll } from './billing.ts';
import type { World } from './world.ts';

export interface ApiServer {
  readonly url: string;
  close(): Promise<void>;
}

interface Route {
  method: string;
  path: RegExp;
  operation: Operation;
  /** Needs no key. */
  isOpen?: boolean;
  answer(call: Call): Reply | Promise<Reply>;
}

export async function openApiServer(world: World, port: number): Promise<ApiServer> {
  const limits = openRateLimits(world.clock);
  const server = createServer((request, response) => {
    answer(request)
      .then((reply) => send(response, reply))
      .catch((error: unknown) => send(response, failure(500, 'double_failed', String(error))))
      .finally(() => world.changed());
  });
  const url = `http://${world.publicHost}:${await listen(server, port, world.host)}`;
  const routes = routesOf(url);

  async function answer(request: IncomingMessage): Promise<Reply> {
    const { pathname, searchParams } = new URL(request.url ?? '/', url);
    const body = await readBody(request);
    if (world.knobs.latencyMs > 0) await delay(world.knobs.latencyMs);
    const log = /^\/instance_logs\/([\w.]+)$/.exec(pathname)?.[1];
    if (log !== undefined) return answerLogFile(world, log, hasKey(request, searchParams));
    if (request.method === 'GET' && /^\/api\/v0\/instances\/?$/.test(pathname)) return goneList(world);
    for (const route of routes) {
      const match = route.method === request.method ? route.path.exec(pathname) : null;
      if (match === null) continue;
      world.counters.calls[route.operation] += 1;
      const refusal = checkKey(world, request, searchParams, route.isOpen === true);
      if (refusal !== undefined) return refusal;
      const caller = request.headers.authorization ?? request.socket.remoteAddress ?? '';
      const limited = limits.check(route.operation, caller, world.knobs.rateLimitScale);
      if (limited !== undefined) {
        world.counters.rateLimited += 1;
        return limited;
      }
      const fault = nextFault(world, route.operation);
      const instead = fault === undefined ? undefined : commonFaultReply(fault);
      if (instead !== undefined) return instead;
      return route.answer({ world, id: Number(match[1] ?? Number.NaN), query: searchParams, body, fault });
    }
    world.counters.unknownCalls += 1;
    return failure(404, 'not_found', `${request.method ?? ''} ${pathname} does not exist.`);
  }

  return {
    url,
    async close() {
      server.closeAllConnections();
      await closeServer(server);
    },
  };
}

/** With and without the slash at the end. */
function routesOf(url: string): Route[] {
  const path = (pattern: string) => new RegExp(`^/api/${pattern}/?$`);
  return [
    { method: 'POST', path: path('v0/bundles'), operation: 'search', isOpen: true, answer: searchOffers },
    { method: 'PUT', path: path('v0/search/asks'), operation: 'search', isOpen: true, answer: searchOffers },
    { method: 'PUT', path: path('v0/asks/(\\d+)'), operation: 'create', answer: createInstance },
    { method: 'GET', path: path('v1/instances'), operation: 'list', answer: listInstances },
    { method: 'GET', path: path('v0/instances/(\\d+)'), operation: 'show', answer: showInstance },
    { method: 'PUT', path: path('v0/instances/(\\d+)'), operation: 'manage', answer: manageInstance },
    { method: 'DELETE', path: path('v0/instances/(\\d+)'), operation: 'destroy', answer: destroyInstance },
    { method: 'PUT', path: path('v0/instances/reboot/(\\d+)'), operation: 'reboot', answer: rebootInstance },
    {
      method: 'PUT',
      path: path('v0/instances/recycle/(\\d+)'),
      operation: 'recycle',
      answer: recycleInstance,
    },
    {
      method: 'PUT',
      path: path('v0/instances/request_logs/(\\d+)'),
      operation: 'logs',
      answer: (call) => requestLogs(call, url),
    },
    { method: 'GET', path: path('v0/users/current'), operation: 'user', answer: showUser },
  ];
}

/** The search works without a key, so a good search does not prove a good key; a wrong one is refused everywhere. */
function checkKey(
  world: World,
  request: IncomingMessage,
  query: URLSearchParams,
  isOpen: boolean,
): Reply | undefined {
  const inUrl = query.get('api_key');
  if (inUrl !== null) world.counters.keysInUrl += 1;
  const bearer = /^Bearer\s+(.+)$/i.exec(request.headers.authorization ?? '')?.[1];
  const key = bearer ?? inUrl ?? undefined;
  if (key === world.apiKey || (key === undefined && isOpen)) return undefined;
  world.counters.unauthorized += 1;
  return key === undefined
    ? failure(403, 'auth_error', 'This action requires login.')
    : failure(404, 'auth_error', 'Invalid user key');
}

function nextFault(world: World, operation: Operation): Fault | undefined {
  const { faults, faultChances } = world.knobs;
  const fault = takeFault(operation, faults, faultChances, world.random);
  if (fault !== undefined) world.counters.faults += 1;
  return fault;
}

function hasKey({ headers }: IncomingMessage, query: URLSearchParams): boolean {
  return headers.authorization !== undefined || query.has('api_key');
}

function answerLogFile(world: World, name: string, carriesKey: boolean): Reply {
  world.counters.calls.logFile += 1;
  if (carriesKey) {
    world.counters.keysToLogStore += 1;
    return credentialTwice();
  }
  const fault = nextFault(world, 'logFile');
  const instead = fault === undefined ? undefined : commonFaultReply(fault);
  return instead ?? logFile(world, name);
}

function goneList(world: World): Reply {
  world.counters.unknownCalls += 1;
  return failure(
    410,
    'deprecated_endpoint',
    '/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead.',
  );
}

function showUser({ world }: Call): Reply {
  settleAll(world);
  return json(200, {
    id: 271_828,
    key_id: 31_415,
    email: 'renter@example.com',
    username: 'renter',
    balance: 0,
    credit: world.account.creditUsd,
    balance_threshold: 0,
    ssh_key: null,
    sid: 'C1',
  });
}
