// The end of service: what was begun is answered to the last byte, and nothing else is waited for.
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { Server, type Socket } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { ServiceError } from '../errors.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** Aborted when the service begins to stop: a response that has no end of its own, such as a stream of events, ends itself then. */
    stopping: AbortSignal;
  }
}

/**
 * Has the app turn requests away while it closes, and close as soon as the answers that are under way have been sent, or after
 * `timeoutMs` where some do not end. Node's own close cuts off what of an answer still waits in memory for a slow reader, and waits
 * for connections that never ask.
 */
export function stopGracefully(app: FastifyInstance, timeoutMs: number): void {
  const stopping = new AbortController();
  app.decorate('stopping', stopping.signal);
  app.addHook('onRequest', async (request) => {
    if (!stopping.signal.aborted || request.routeOptions.config.unlimited === true) return;
    throw new ServiceError('overloaded', 'The service is stopping. Try again in a few seconds.', {
      extra: { retryAfterSeconds: 5 },
    });
  });
  // Its connection ends after the answer, so nothing more is to be sent on it.
  app.addHook('onSend', (_request, reply, _payload, done) => {
    if (stopping.signal.aborted) reply.header('connection', 'close');
    done();
  });

  /** Every connection, with its answers that are under way. */
  const connections = new Map<Socket, Set<ServerResponse>>();
  app.server.on('connection', (socket) => {
    connections.set(socket, new Set());
    socket.once('close', () => connections.delete(socket));
  });
  app.server.on('request', ({ socket }, answer) => {
    const answers = connections.get(socket);
    answers?.add(answer);
    // Its last byte is with the system, or its connection is gone.
    answer.once('close', () => {
      answers?.delete(answer);
      if (answers?.size === 0 && stopping.signal.aborted) socket.destroySoon();
    });
  });
  app.addHook('preClose', async () => {
    stopping.abort(new Error('The service is stopping.'));
    const closed = once(app.server, 'close');
    // Only this much of an HTTP server's close: nobody new is let in.
    Server.prototype.close.call(app.server);
    for (const [socket, answers] of connections) if (answers.size === 0) socket.destroy();
    const cut = setTimeout(() => {
      for (const socket of connections.keys()) socket.destroy();
    }, timeoutMs);
    await closed;
    clearTimeout(cut);
  });
}
