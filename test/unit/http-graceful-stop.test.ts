import { once } from 'node:events';
import { Agent, get, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setImmediate } from 'node:timers/promises';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { describe, expect, it } from 'vitest';
import { createTestApp, type TestAppOptions } from '../support/http.ts';

const routes: FastifyPluginAsyncZod = async (app) => {
  app.get('/thing', async () => ({}));
  app.get('/events', (request, reply) => {
    const events = new PassThrough();
    events.write('data: hello\n\n');
    request.server.stopping.addEventListener('abort', () => events.end('data: bye\n\n'), { once: true });
    return reply.type('text/event-stream').send(events);
  });
  app.get('/endless', (_request, reply) => {
    const endless = new PassThrough();
    endless.write('and on');
    return reply.send(endless);
  });
};

const holding =
  (held: PassThrough): FastifyPluginAsyncZod =>
  async (app) => {
    app.get('/held', (_request, reply) => reply.send(held));
  };

describe('a graceful stop', () => {
  it('ends streams that have no end of their own', async () => {
    const { app, url } = await listening({ routes: [routes] });
    const received = text(await open(`${url}/events`));
    await app.close();
    expect(await received).toBe('data: hello\n\ndata: bye\n\n');
  });

  it('finishes what was begun, and turns away what comes after', async () => {
    const held = new PassThrough();
    const refused = Promise.withResolvers<void>();
    const { app, url } = await listening({
      routes: [routes, holding(held)],
      onLog: (line) => line.includes('a request was not served') && refused.resolve(),
    });
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    const received = text(socket);
    held.write('begun, ');
    socket.write('GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await once(socket, 'readable');
    const closed = app.close();
    socket.write('GET /thing HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await refused.promise;
    held.end('finished');
    expect(await received).toMatch(
      /^HTTP\/1\.1 200 OK.*begun, .*finished.*HTTP\/1\.1 503 .*"code":"overloaded"/s,
    );
    await closed;
  });

  it('lets a slow reader have the rest of what it is being sent', async () => {
    const large = Buffer.alloc(20_000_000, 'x');
    const { app, url } = await listening({
      routes: [
        async (server) => {
          server.get('/large', (_request, reply) => reply.send(large));
        },
      ],
    });
    const answer = await open(`${url}/large`);
    const closed = app.close();
    await setImmediate();
    expect(await text(answer)).toHaveLength(large.length);
    await closed;
  });

  it('waits no longer than for the last byte, when that was on its way', async () => {
    const held = new PassThrough();
    const { app, url } = await listening({ routes: [holding(held)] });
    const agent = new Agent({ keepAlive: true });
    held.write('begun, ');
    const answer = await open(`${url}/held`, agent);
    const received = text(answer);
    const closed = app.close();
    await expect.poll(() => app.stopping.aborted).toBe(true);
    held.end('finished');
    expect(await received).toBe('begun, finished');
    await closed;
    agent.destroy();
  });

  it('does not wait for who is connected and asks for nothing', async () => {
    const { app, url } = await listening();
    const silent = connect(Number(new URL(url).port), '127.0.0.1');
    await once(app.server, 'connection');
    await app.close();
    await once(silent.resume(), 'close');
    expect(silent.bytesRead).toBe(0);
  });

  it('lets nobody in meanwhile, so that a browser takes up its events again elsewhere or later', async () => {
    const held = new PassThrough();
    const { app, url } = await listening({ routes: [routes, holding(held)] });
    const agent = new Agent({ keepAlive: true });
    await text(await open(`${url}/thing`, agent));
    held.write('begun');
    const answer = await open(`${url}/held`);
    const closed = app.close();
    await expect.poll(() => Object.keys(agent.freeSockets)).toEqual([]);
    for (const by of [agent, new Agent()])
      await expect(open(`${url}/thing`, by)).rejects.toThrow('ECONNREFUSED');
    held.end();
    await text(answer);
    await closed;
  });

  it('cuts what does not end in time', async () => {
    const { app, url } = await listening({ routes: [routes], settings: { SHUTDOWN_TIMEOUT_SECONDS: '1' } });
    const endless = await open(`${url}/endless`);
    const cut = once(endless, 'error');
    await app.close();
    expect(await cut).toEqual([expect.objectContaining({ code: 'ECONNRESET' })]);
  });
});

async function listening(options: TestAppOptions = {}) {
  const { app } = await createTestApp(options);
  return { app, url: await app.listen({ host: '127.0.0.1', port: 0 }) };
}

function open(url: string, agent?: Agent): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    get(url, { agent }, resolve).on('error', reject);
  });
}
