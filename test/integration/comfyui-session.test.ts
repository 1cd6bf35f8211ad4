// The event stream against the double: what it tells, and how it is lost and found.
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { WebSocketServer } from 'ws';
import { loadConfig } from '../../src/config.ts';
import { openLink, type Link } from '../../src/comfyui/link.ts';
import { openSession, type ComfySession, type PromptEvent } from '../../src/comfyui/session.ts';
import { createLogger } from '../../src/support/log.ts';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { makeTestCertificate } from '../support/certificate.ts';
import { always, startTinyServer } from '../support/tiny-server.ts';

const log = createLogger(loadConfig({ LOG_LEVEL: 'silent' }));
const quick = { log, reconnectBaseMs: 5, reconnectCapMs: 20 };
/** For machines that are busy with other tests. */
const patient = { interval: 5, timeout: 10_000 };
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const clean of cleanups.splice(0).toReversed()) await clean();
});

function session(baseUrl: string, options = {}, certificateFingerprint: string | null = null) {
  const link: Link = openLink({ baseUrl, token: 'a-secret', certificateFingerprint });
  const opened = openSession(link, { ...quick, ...options });
  cleanups.push(
    () => link.close(),
    () => opened.close(),
  );
  return opened;
}

/** Events of one prompt, and a way to wait for one of them. */
function follow(to: ComfySession, promptId: string, clientId: string) {
  const events: PromptEvent[] = [];
  const unsubscribe = to.watch(promptId, clientId, (event) => events.push(event));
  const has = (kind: PromptEvent['kind']) =>
    expect.poll(() => events.map((event) => event.kind), patient).toContain(kind);
  return { events, has, unsubscribe };
}

function slow(steps: number, durationMs: number, previews = false) {
  return { Sampler: { durationMs, steps, previews, outputCount: 1 } };
}

function sampler(seed: number) {
  return { '1': { class_type: 'Sampler', inputs: { seed } } };
}

describe.each(['0.33.0', '0.3.64'] as const)('a session with ComfyUI %s', (version) => {
  let double: ComfyDouble;

  beforeEach(async () => {
    double = await startComfyDouble({ version, knobs: { nodes: slow(5, 50, true) } });
    cleanups.push(() => double.stop());
  });

  async function started(to: ComfySession, seed = 1) {
    const clientId = await to.clientId();
    const promptId = randomUUID();
    const followed = follow(to, promptId, clientId);
    await to.client.submit({ promptId, clientId, workflow: sampler(seed) });
    return { ...followed, promptId, clientId };
  }

  it('tells a prompt from start to end, with steps and previews', async () => {
    const to = session(double.url);
    const { events, has } = await started(to);
    await has('ended');
    const kinds = events.map(({ kind }) => kind);
    expect(kinds.slice(0, 2)).toEqual(['started', 'cached']);
    expect(events).toContainEqual({ kind: 'executing', node: '1' });
    expect(events).toContainEqual({ kind: 'steps', node: '1', value: 5, max: 5 });
    expect(events).toContainEqual({
      kind: 'progress',
      nodes: { '1': { value: 5, max: 5, state: 'finished', shownAs: '1' } },
    });
    expect(events.find(({ kind }) => kind === 'preview')).toMatchObject({ node: '1' });
    expect(kinds).not.toContain('stream_lost');
    expect(to.connected).toBe(true);
  });

  it('tells each listener its own prompt, until it has heard enough', async () => {
    const to = session(double.url);
    const first = await started(to, 1);
    const second = await started(to, 2);
    second.unsubscribe();
    await first.has('ended');
    await expect.poll(() => to.client.history(second.promptId), patient).not.toBeNull();
    expect(second.events).toEqual([]);
    expect(first.events.filter(({ kind }) => kind === 'started')).toHaveLength(1);
  });

  it('hears nothing of the prompts of others', async () => {
    const [to, other] = [session(double.url), session(double.url)];
    const { promptId, has } = await started(other);
    const bystander = follow(to, promptId, await to.clientId());
    await has('ended');
    expect(bystander.events.filter(({ kind }) => kind !== 'preview')).toEqual([]);
  });

  it('notices the loss of its stream, and goes on under another client id', async () => {
    double.knobs.nodes = slow(20, 400);
    const to = session(double.url);
    const { has, clientId, promptId } = await started(to);
    await has('executing');
    double.dropSockets();
    await has('stream_lost');
    const next = await to.clientId(AbortSignal.timeout(10_000));
    expect(next).not.toBe(clientId);
    const again = follow(to, promptId, clientId);
    await again.has('stream_lost');
    await expect.poll(() => to.client.history(promptId), patient).not.toBeNull();
    double.knobs.nodes = slow(2, 5);
    const another = await started(to, 3);
    await another.has('ended');
    expect(another.clientId).toBe(next);
  });

  it('comes back when the server does', async () => {
    const to = session(double.url);
    const before = await to.clientId();
    await double.exit();
    await expect.poll(() => to.connected, patient).toBe(false);
    await double.restart();
    expect(await to.clientId(AbortSignal.timeout(10_000))).not.toBe(before);
  });

  it.each(['dead', 'silent', 'refused'] as const)(
    'does not take a %s socket for a stream',
    async (sockets) => {
      double.knobs.sockets = sockets;
      const to = session(double.url, { openTimeoutMs: 100 });
      await expect(to.clientId(AbortSignal.timeout(60))).rejects.toMatchObject({ name: 'TimeoutError' });
      double.knobs.sockets = 'open';
      await expect(to.clientId(AbortSignal.timeout(10_000))).resolves.toEqual(expect.any(String));
    },
  );

  it('stays connected over a long silence that only pings break', async () => {
    const to = session(double.url, { pingIntervalMs: 10 });
    const id = await to.clientId();
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(await to.clientId()).toBe(id);
    expect(double.counters.socketsOpened).toBe(1);
  });

  it('gives up a stream whose other end does not even answer pings', async () => {
    const to = session(double.url, { pingIntervalMs: 10 });
    const { clientId, has } = await started(to);
    double.knobs.sockets = 'dead';
    await has('stream_lost');
    double.knobs.sockets = 'open';
    expect(await to.clientId(AbortSignal.timeout(10_000))).not.toBe(clientId);
  });

  it('takes frames of many megabytes', async () => {
    double.knobs.errorPaddingBytes = 8 * 1024 * 1024;
    double.knobs.nodes = {
      Sampler: { durationMs: 1, error: { type: 'ValueError', message: 'no' }, outputCount: 1 },
    };
    const to = session(double.url);
    const { has, clientId } = await started(to);
    await has('ended');
    expect(await to.clientId()).toBe(clientId);
  });

  it('leaves no socket behind when it is closed', async () => {
    const to = session(double.url);
    await to.clientId();
    await to.close();
    expect(to.connected).toBe(false);
    await expect(to.clientId()).rejects.toThrow('closed');
    await expect.poll(() => double.counters.socketsOpen, patient).toBe(0);
  });
});

describe('a session with a stranger', () => {
  it('survives a listener that throws, garbage, and a binary frame without sense', async () => {
    const server = await startTinyServer(always(404, ''));
    cleanups.push(server.close);
    const status = '{"type":"status","data":{"status":{},"sid":"x"}}';
    const frame = (type: string) => JSON.stringify({ type, data: { prompt_id: 'p', node: '1' } });
    const sockets = new WebSocketServer({ server: server.server });
    sockets.on('connection', (socket) => {
      for (const data of ['garbage', Buffer.from([1, 2]), '[]', status]) socket.send(data);
      socket.on('message', () => {
        for (const data of [frame('execution_start'), 'garbage', frame('executing')]) socket.send(data);
      });
    });
    const to = session(server.url);
    const clientId = await to.clientId();
    to.watch('p', clientId, () => {
      throw new Error('a listener of no use');
    });
    const { has } = follow(to, 'p', clientId);
    for (const socket of sockets.clients) socket.emit('message');
    await has('executing');
    expect(to.connected).toBe(true);
  });

  it('takes no message of any size, however small it is on its way, and connects anew', async () => {
    const server = await startTinyServer(always(404, ''));
    cleanups.push(server.close);
    // Quickly made: it is small in any case.
    const perMessageDeflate = { zlibDeflateOptions: { level: 1 } };
    const sockets = new WebSocketServer({ server: server.server, perMessageDeflate });
    sockets.on('connection', (socket) => {
      socket.send('{"type":"status","data":{}}');
      socket.on('message', () => socket.send(Buffer.alloc(65 * 1024 * 1024)));
    });
    const to = session(server.url);
    const clientId = await to.clientId();
    const { has } = follow(to, 'p', clientId);
    await has('stream_lost');
    expect(await to.clientId()).not.toBe(clientId);
  });

  it('that ends each stream at once is called less and less often', async () => {
    const server = await startTinyServer(always(404, ''));
    cleanups.push(server.close);
    const sockets = new WebSocketServer({ server: server.server });
    sockets.on('connection', (socket) => {
      socket.send('{"type":"status","data":{}}');
      socket.close();
    });
    const begun = performance.now();
    session(server.url, { reconnectBaseMs: 200, reconnectCapMs: 10_000 });
    await expect.poll(() => server.requests.length, patient).toBeGreaterThanOrEqual(4);
    // Half of 200 + 400 + 800 ms, at the least.
    expect(performance.now() - begun).toBeGreaterThan(600);
  });

  it('keeps its secret from a machine with another certificate, and pings through TLS', async () => {
    const [certificate, other] = await Promise.all([makeTestCertificate(), makeTestCertificate()]);
    const server = await startTinyServer(always(404, ''), { certificate });
    cleanups.push(server.close);
    const sockets = new WebSocketServer({ server: server.server });
    sockets.on('connection', (socket) => socket.send('{"type":"status","data":{}}'));
    const wrong = session(server.url, {}, other.fingerprint);
    await expect.poll(() => server.connections(), patient).toBeGreaterThan(1);
    expect(wrong.connected).toBe(false);
    expect(server.requests).toEqual([]);
    await wrong.close();
    const right = session(server.url, { pingIntervalMs: 10 }, certificate.fingerprint);
    const id = await right.clientId();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await right.clientId()).toBe(id);
    expect(server.requests[0]?.headers.authorization).toBe('Bearer a-secret');
  });
});
