// One mapped port of a rented machine on which the image's proxy listens, with or without TLS.
import { createServer as createHttpServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { createServer as createTcpServer } from 'node:net';
import type { Server as TcpServer, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Certificate } from './certificate.ts';
import { closeServer, listen } from '../ports/listen.ts';
import type { Flow } from './proxy.ts';
import type { Site, SiteOptions } from './site.ts';
import { openSite, redirectToHttps } from './site.ts';

export interface EdgeOptions extends SiteOptions {
  host: string;
  port: number;
  /** Null: the port speaks plain HTTP. */
  certificate: Certificate | null;
}

export interface Edge {
  /** From now on accepts connections and never answers them. On loopback a connection cannot be swallowed before it is accepted. */
  freeze(): void;
  thaw(): void;
  /** Bytes on the wire since it was opened. */
  transferred(): { receivedBytes: number; sentBytes: number };
  close(): Promise<void>;
}

export async function openEdge(options: EdgeOptions): Promise<Edge> {
  const { certificate } = options;
  const sockets = new Set<Socket>();
  const flows = new Set<Flow>();
  const past = { receivedBytes: 0, sentBytes: 0 };
  let isFrozen = false;

  const site = openSite(options, flows);
  const plain = createHttpServer();
  serve(plain, certificate === null ? site : redirectToHttps, () => isFrozen);
  const secure = certificate === null ? null : createHttpsServer(certificate);
  if (secure !== null) serve(secure, site, () => isFrozen);

  // As Go's servers do, Caddy among them: otherwise the answer waits 40 ms for the client to confirm the handshake.
  const tcp = createTcpServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => {
      sockets.delete(socket);
      past.receivedBytes += socket.bytesRead;
      past.sentBytes += socket.bytesWritten;
    });
    if (!isFrozen) handOver(socket, plain, secure);
  });
  await listen(tcp, options.port, options.host);

  return {
    freeze() {
      isFrozen = true;
      for (const flow of flows) flow.freeze();
    },
    thaw() {
      isFrozen = false;
      for (const socket of sockets) socket.destroy();
    },
    transferred() {
      const total = { ...past };
      for (const socket of sockets) {
        total.receivedBytes += socket.bytesRead;
        total.sentBytes += socket.bytesWritten;
      }
      return total;
    },
    async close() {
      for (const flow of flows) flow.freeze();
      for (const socket of sockets) socket.resetAndDestroy();
      await closeServer(tcp);
    },
  };
}

/** What Go's servers, Caddy among them, answer to what is no HTTP, such as the hello of TLS: `conn.serve` in Go's net/http/server.go. */
const malformed =
  'HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request';

function serve(server: ReturnType<typeof createHttpServer>, site: Site, isFrozen: () => boolean): void {
  server.requestTimeout = 0;
  server.headersTimeout = 0;
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    if (!isFrozen()) void site.answer(request, response);
  });
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => socket.destroy());
    if (!isFrozen()) void site.answerUpgrade(request, socket, head);
  });
  server.on('tlsClientError', (_error: Error, socket: Duplex) => socket.destroy());
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => {
    if (isFrozen()) return;
    if (error.code?.startsWith('HPE_') === true && socket.writable) socket.end(malformed);
    else socket.destroy();
  });
}

/** A TLS record starts with 22; everything else is taken for plain HTTP. */
function handOver(socket: Socket, plain: TcpServer, secure: TcpServer | null): void {
  socket.once('data', (first: Buffer) => {
    socket.pause();
    socket.unshift(first);
    const server = secure !== null && first[0] === 22 ? secure : plain;
    server.emit('connection', socket);
    process.nextTick(() => socket.resume());
  });
}
