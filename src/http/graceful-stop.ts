// The end of service: what was begun is answered to the last byte, what comes after is turned away, and nothing else is waited for.
import type { FastifyInstance } from 'fastify';
import { ServiceError } from '../errors.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** Aborted when the service begins to stop: a response that has no end of its own, such as a stream of events, ends itself then. */
    stopping: AbortSignal;
  }
}

/**
 * Lets the app close as soon as the answers that are under way have been sent, or after `timeoutMs` where some do not end. Node's
 * own close cuts off what of an answer still waits in memory for a slow reader, and waits for connections that never ask.
 */
export function stopGracefully(app: FastifyInstance, timeoutMs: number): void {
  const stopping = new AbortController();
  const answers = answersUnderWay(app);
  let cut: NodeJS.Timeout | undefined;
  app.decorate('stopping', stopping.signal);
  app.addHook('onRequest', async (request) => {
    if (!stopping.signal.aborted || request.routeOptions.config.unlimited === true) return;
    throw new ServiceError('overloaded', 'The service is stopping. Try again in a few seconds.', {
      extra: { retryAfterSeconds: 5 },
    });
  });
  // Kept alive after its answer, a connection could bring one request after the other.
  app.addHook('onSend', (_request, reply, _payload, done) => {
    if (stopping.signal.aborted) reply.header('connection', 'close');
    done();
  });
  app.addHook('preClose', async () => {
    stopping.abort(new Error('The service is stopping.'));
    const timeIsUp = new Promise<void>((resolve) => {
      cut = setTimeout(() => {
        app.server.closeAllConnections();
        resolve();
      }, timeoutMs);
    });
    await Promise.race([answers.ended(), timeIsUp]);
    app.server.closeAllConnections();
  });
  app.addHook('onClose', async () => clearTimeout(cut));
}

/** Follows every answer from its request until its last byte is with the system, or its connection is gone. */
function answersUnderWay(app: FastifyInstance): { ended(): Promise<void> } {
  const underWay = new Set<Promise<void>>();
  app.server.on('request', (_request, answer) => {
    const sent = new Promise<void>((resolve) => answer.once('close', resolve));
    underWay.add(sent);
    void sent.then(() => underWay.delete(sent));
  });
  return {
    async ended() {
      // Others may have come meanwhile.
      while (underWay.size > 0) await Promise.all(underWay);
    },
  };
}
