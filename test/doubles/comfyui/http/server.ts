// The listening server: middleware, faults of requests, routing, and the upgrade to a WebSocket.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { uploadRoutes } from '../files/upload-routes.ts';
import { viewRoutes } from '../files/view-routes.ts';
import { NodeError } from '../nodes/definition.ts';
import type { ComfyProcess } from '../process.ts';
import type { RequestFault } from '../knobs.ts';
import {
  BodyTooLarge,
  emptyAnswer,
  notFound,
  readBody,
  sendAnswer,
  serverError,
  textAnswer,
  type Answer,
  type Exchange,
} from './exchange.ts';
import { introspectionRoutes } from './introspection-routes.ts';
import { jobRoutes } from './job-routes.ts';
import { isForeignOrigin } from './origin.ts';
import { promptRoutes } from './prompt-routes.ts';
import { queueRoutes } from './queue-routes.ts';
import { allowedMethods, findRoute, type Route, type RouteMatch } from './router.ts';

// aiohttp: keep-alive of 3630 s.
const KEEP_ALIVE_MS = 3_630_000;

/** Does not listen yet. */
export function createHttpServer(process: ComfyProcess): Server {
  const routes = allRoutes(process);
  const server = createServer(
    // To aiohttp an upgrade is a request like any other until the handler of the path takes it up.
    {
      shouldUpgradeCallback: (request) =>
        isSocketPath(urlOf(request).pathname) && !isForeignOrigin(request, process),
    },
    (request, response) => void answerRequest(request, response, routes, process),
  );
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  server.requestTimeout = 0;
  server.on('upgrade', (request, socket, head) => {
    if (process.knobs.sockets === 'refused') {
      socket.end('HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
      return;
    }
    process.hub.accept(request, socket, head, urlOf(request).searchParams.get('clientId') ?? '');
  });
  return server;
}

const allRoutes = (process: ComfyProcess): Route[] => [
  ...promptRoutes(process),
  ...queueRoutes(process),
  ...(process.traits.jobsApi ? jobRoutes(process) : []),
  ...viewRoutes(process),
  ...uploadRoutes(process),
  ...introspectionRoutes(process),
  {
    method: 'GET',
    path: '/ws',
    handle: () => textAnswer(400, 'No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".'),
  },
];

async function answerRequest(
  request: IncomingMessage,
  response: ServerResponse,
  routes: readonly Route[],
  process: ComfyProcess,
): Promise<void> {
  const { knobs } = process;
  const method = request.method ?? 'GET';
  const { pathname, searchParams } = urlOf(request);
  const match = findRoute(routes, method, pathname);
  const name = `${method} ${match?.route.path ?? pathname}`;
  process.counters.requests[name] = (process.counters.requests[name] ?? 0) + 1;
  if (knobs.latencyMs > 0) await delay(knobs.latencyMs);

  const fault = takeFault(knobs.requestFaults, name);
  if (fault?.how === 'hang') return;
  if (fault?.how === 'drop-before') return void request.socket.destroy();
  if (fault?.how === 'status') return sendAnswer(request, response, faultAnswer(fault));

  const exchange: Exchange = {
    request,
    params: match?.params ?? {},
    query: searchParams,
    readBody: () =>
      readBody(request, { maxBytes: knobs.maxUploadBytes, bytesPerSecond: uploadSpeed(pathname, process) }),
  };
  const answer = await handle(exchange, match, routes, process);
  if (fault?.how === 'drop-after') return void request.socket.destroy();
  if (!response.destroyed) await sendAnswer(request, response, answer);
}

async function handle(
  exchange: Exchange,
  match: RouteMatch | undefined,
  routes: readonly Route[],
  process: ComfyProcess,
): Promise<Answer> {
  const { method = 'GET' } = exchange.request;
  try {
    if (method === 'OPTIONS') return emptyAnswer();
    if (isForeignOrigin(exchange.request, process)) return emptyAnswer(403);
    if (match !== undefined) return await match.route.handle(exchange);
    return notFound(method, allowedMethods(routes, urlOf(exchange.request).pathname));
  } catch (error) {
    if (error instanceof BodyTooLarge) {
      // The rest of the body is read and thrown away, so that the client gets to see the answer.
      exchange.request.resume();
      return textAnswer(413, `Maximum request body size ${process.knobs.maxUploadBytes} exceeded.`);
    }
    if (!isRaisedInPython(error)) process.onUnexpected(error);
    return serverError();
  }
}

/** What raises in the real server too, failing system calls included; anything else is a fault of the double. */
const isRaisedInPython = (error: unknown): boolean =>
  error instanceof NodeError ||
  error instanceof SyntaxError ||
  (error instanceof Error && 'syscall' in error) ||
  (error instanceof Error && 'code' in error && error.code === 'ECONNRESET');

const faultAnswer = ({ status = 500 }: RequestFault): Answer =>
  status === 500 ? serverError() : textAnswer(status, `${status}: fault of the double`);

function takeFault(faults: readonly RequestFault[], route: string): RequestFault | undefined {
  const fault = faults.find(({ route: wanted, times = Infinity }) => wanted === route && times > 0);
  if (fault?.times !== undefined) fault.times -= 1;
  return fault;
}

const uploadSpeed = (pathname: string, { knobs }: ComfyProcess): number | null =>
  pathname.includes('/upload/') ? knobs.uploadBytesPerSecond : null;

const isSocketPath = (pathname: string): boolean => pathname === '/ws' || pathname === '/api/ws';

const urlOf = ({ url }: IncomingMessage): URL => new URL(url ?? '/', 'http://comfyui');
