// A server on loopback that answers as one test wants it to, over http or https.
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import type { Socket } from 'node:net';
import { listen } from '../doubles/ports/listen.ts';

export interface TinyServer {
  url: string;
  /** Every request and upgrade that has arrived. */
  requests: http.IncomingMessage[];
  /** Connections that were accepted, also those over which no request came. */
  connections: () => number;
  server: http.Server;
  close: () => Promise<void>;
}

export async function startTinyServer(
  answer: http.RequestListener,
  options: { certificate?: { key: string; cert: string }; port?: number } = {},
): Promise<TinyServer> {
  const requests: http.IncomingMessage[] = [];
  const sockets = new Set<Socket>();
  let connections = 0;
  const listener: http.RequestListener = (request, response) => {
    requests.push(request);
    answer(request, response);
  };
  const server =
    options.certificate === undefined
      ? http.createServer(listener)
      : https.createServer(options.certificate, listener);
  server.on('upgrade', (request, socket) => {
    requests.push(request);
    if (server.listenerCount('upgrade') === 1) socket.end('HTTP/1.1 404 Not Found\r\n\r\n');
  });
  server.on('connection', (socket: Socket) => {
    connections += 1;
    sockets.add(socket.on('error', () => undefined).on('close', () => sockets.delete(socket)));
  });
  const port = await listen(server, options.port ?? 0, '127.0.0.1');
  return {
    url: `${options.certificate === undefined ? 'http' : 'https'}://127.0.0.1:${port}`,
    requests,
    connections: () => connections,
    server,
    async close() {
      if (!server.listening) return;
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, 'close');
    },
  };
}

/** Answers everything with this. */
export function always(
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): http.RequestListener {
  return (request, response) => {
    request.resume();
    response.writeHead(status, headers);
    response.end(typeof body === 'string' ? body : JSON.stringify(body));
  };
}
