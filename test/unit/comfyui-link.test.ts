// The way to a machine: nothing is said before the certificate is right, and nothing that ComfyUI would refuse.
import { once } from 'node:events';
import https from 'node:https';
import net from 'node:net';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { WebSocketServer } from 'ws';
import {
  LinkError,
  openLink,
  readCertificateFingerprint,
  type Link,
  type LinkTarget,
} from '../../src/comfyui/link.ts';
import { listen } from '../doubles/ports/listen.ts';
import { makeTestCertificate, type TestCertificate } from '../support/certificate.ts';
import { always, startTinyServer, type TinyServer } from '../support/tiny-server.ts';

const token = 'the-secret-of-this-machine';
const cleanups: (() => Promise<unknown>)[] = [];
let certificate: TestCertificate;
let otherCertificate: TestCertificate;

beforeAll(async () => {
  [certificate, otherCertificate] = await Promise.all([makeTestCertificate(), makeTestCertificate()]);
});

afterEach(async () => {
  for (const clean of cleanups.splice(0).toReversed()) await clean();
});

async function server(...args: Parameters<typeof startTinyServer>): Promise<TinyServer> {
  const started = await startTinyServer(...args);
  cleanups.push(started.close);
  return started;
}

/** A server that greets every WebSocket. */
async function greeter(options: Parameters<typeof startTinyServer>[1] = {}): Promise<TinyServer> {
  const started = await server(always(200, 'hello'), options);
  const sockets = new WebSocketServer({ server: started.server });
  sockets.on('connection', (socket) => socket.send('hello'));
  return started;
}

function link(target: Partial<LinkTarget> & { baseUrl: string }): Link {
  const opened = openLink({ token, certificateFingerprint: null, ...target });
  cleanups.push(() => opened.close());
  return opened;
}

function get(to: Link, path = '/'): Promise<unknown> {
  return to.request({ method: 'GET', path }).then(async ({ statusCode, body }) => ({
    statusCode,
    text: await body.text(),
  }));
}

/** The first message, or the error, or `closed`. */
function firstMessage(from: Link, path = '/ws'): Promise<unknown> {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  from.openWebSocket(path, { message: resolve, closed: (error) => resolve(error ?? 'closed') });
  return promise;
}

async function kindOf(failing: Promise<unknown>): Promise<string> {
  const error = await failing.then(
    () => new Error('it did not fail'),
    (reason: unknown) => reason,
  );
  return error instanceof LinkError ? error.kind : String(error);
}

describe('what a link sends', () => {
  it('is the token, below the path of the base URL', async () => {
    const { url, requests } = await greeter();
    const to = link({ baseUrl: `${url}/below` });
    expect(await get(to, '/queue')).toEqual({ statusCode: 200, text: 'hello' });
    expect(await firstMessage(to, '/ws?clientId=x')).toBe('hello');
    expect(requests.map((request) => request.url)).toEqual(['/below/queue', '/below/ws?clientId=x']);
    expect(requests.map(({ headers }) => headers.authorization)).toEqual(Array(2).fill(`Bearer ${token}`));
  });

  it('is nothing that looks like a page of another site, which ComfyUI would refuse', async () => {
    const { url, requests } = await greeter();
    const to = link({ baseUrl: url });
    await get(to);
    await firstMessage(to);
    expect(requests).toHaveLength(2);
    for (const { headers } of requests) {
      expect(Object.keys(headers).filter((name) => /^(origin|sec-fetch-.*)$/.test(name))).toEqual([]);
    }
  });

  it('is no token when there is none', async () => {
    const { url, requests } = await greeter();
    const to = link({ baseUrl: url, token: null });
    await get(to);
    await firstMessage(to);
    expect(requests.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined]);
  });

  it('goes nowhere else: a redirect is an answer', async () => {
    const other = await greeter();
    const { url } = await server(always(302, 'there', { location: other.url }));
    expect(await get(link({ baseUrl: url }))).toEqual({ statusCode: 302, text: 'there' });
    expect(other.requests).toEqual([]);
  });
});

describe('a pinned certificate', () => {
  it('lets HTTP and WebSocket through, on every connection, whatever names it has', async () => {
    const { url, requests, connections } = await greeter({ certificate });
    const to = link({ baseUrl: url, certificateFingerprint: certificate.fingerprint.toLowerCase() });
    expect(await get(to)).toMatchObject({ statusCode: 200 });
    expect(await firstMessage(to)).toBe('hello');
    expect(await firstMessage(to)).toBe('hello');
    expect(requests).toHaveLength(3);
    expect(connections()).toBe(3);
  });

  it('keeps the secret from a server with another one', async () => {
    const { url, requests, connections } = await greeter({ certificate: otherCertificate });
    const to = link({ baseUrl: url, certificateFingerprint: certificate.fingerprint });
    expect(await kindOf(get(to))).toBe('certificate_changed');
    expect(await firstMessage(to)).toMatchObject({ kind: 'certificate_changed', beforeRequest: true });
    expect(connections()).toBe(2);
    expect(requests).toEqual([]);
  });

  it('is checked again when the connection is a new one', async () => {
    const { url, requests, server: machine } = await greeter({ certificate });
    const to = link({ baseUrl: url, certificateFingerprint: certificate.fingerprint });
    await get(to);
    if (!(machine instanceof https.Server)) throw new Error('not https');
    machine.setSecureContext(otherCertificate);
    machine.closeAllConnections();
    await expect.poll(() => kindOf(get(to)), { timeout: 5000 }).toBe('certificate_changed');
    expect(requests).toHaveLength(1);
  });

  it('never goes with plain http', async () => {
    const { url, requests } = await greeter();
    const target = { baseUrl: url, token, certificateFingerprint: certificate.fingerprint };
    expect(() => openLink(target)).toThrow(LinkError);
    const to = link({ ...target, baseUrl: url.replace('http:', 'https:') });
    expect(await kindOf(get(to))).toBe('plain_http');
    expect(await firstMessage(to)).toMatchObject({ kind: 'plain_http' });
    expect(requests).toEqual([]);
  });
});

describe('https without a pin', () => {
  it('needs a certificate that is trusted', async () => {
    const { url, requests } = await greeter({ certificate });
    const to = link({ baseUrl: url });
    expect(await kindOf(get(to))).toBe('tls');
    expect(await firstMessage(to)).toMatchObject({ kind: 'tls', beforeRequest: true });
    expect(requests).toEqual([]);
  });
});

describe('a link error', () => {
  it('says that nothing listens', async () => {
    const gone = await greeter();
    await gone.close();
    const to = link({ baseUrl: gone.url });
    await expect(get(to)).rejects.toMatchObject({ kind: 'refused', beforeRequest: true });
    expect(await firstMessage(to)).toMatchObject({ kind: 'refused' });
  });

  it('says that no answer came in time, when the request had been sent', async () => {
    const { url } = await server(() => undefined);
    const asked = link({ baseUrl: url }).request({ method: 'GET', path: '/', timeoutMs: 50 });
    await expect(asked).rejects.toMatchObject({ kind: 'timeout', beforeRequest: false });
  });

  it('says that the connection broke', async () => {
    const { url } = await server((request) => request.socket.destroy());
    await expect(get(link({ baseUrl: url }))).rejects.toMatchObject({ kind: 'reset', beforeRequest: false });
  });

  it('says that the caller gave up, and why', async () => {
    const { url, requests } = await server(() => undefined);
    const abort = new AbortController();
    const asked = link({ baseUrl: url }).request({ method: 'GET', path: '/', signal: abort.signal });
    await expect.poll(() => requests.length, { timeout: 5000 }).toBe(1);
    abort.abort(new Error('enough'));
    await expect(asked).rejects.toMatchObject({ kind: 'aborted', cause: { message: 'enough' } });
  });

  it('never holds the token', async () => {
    const { url } = await server((request) => request.socket.destroy());
    const error = await get(link({ baseUrl: url })).catch((reason: unknown) => reason);
    expect(JSON.stringify(error, Object.getOwnPropertyNames(error))).not.toContain(token);
  });
});

describe('closing a link', () => {
  it('ends its requests and its WebSockets', async () => {
    const { url, server: machine } = await server(() => undefined);
    new WebSocketServer({ server: machine }).on('connection', (socket) => socket.send('hello'));
    const to = openLink({ baseUrl: url, token, certificateFingerprint: null });
    const asked = kindOf(get(to));
    const { promise: greeted, resolve: greet } = Promise.withResolvers<unknown>();
    const { promise: closed, resolve: close } = Promise.withResolvers<unknown>();
    to.openWebSocket('/ws', { message: greet, closed: close });
    await greeted;
    await to.close();
    expect(await asked).toBe('other');
    expect(await closed).toBeNull();
  });
});

describe('readCertificateFingerprint', () => {
  it('reads it by a handshake alone', async () => {
    const { url, requests, connections } = await greeter({ certificate });
    expect(await readCertificateFingerprint(url)).toBe(certificate.fingerprint);
    expect(connections()).toBe(1);
    expect(requests).toEqual([]);
  });

  it('refuses plain http, asked for or met', async () => {
    const { url } = await greeter();
    expect(await kindOf(readCertificateFingerprint(url))).toBe('plain_http');
    expect(await kindOf(readCertificateFingerprint(url.replace('http:', 'https:')))).toBe('plain_http');
  });

  it('gives up when it is told to', async () => {
    const silent = net.createServer();
    const port = await listen(silent, 0, '127.0.0.1');
    const sockets: net.Socket[] = [];
    silent.on('connection', (socket) => sockets.push(socket));
    cleanups.push(async () => {
      for (const socket of sockets) socket.destroy();
      silent.close();
    });
    const abort = new AbortController();
    const reading = readCertificateFingerprint(`https://127.0.0.1:${port}`, abort.signal);
    await once(silent, 'connection');
    abort.abort();
    expect(await kindOf(reading)).toBe('aborted');
  });
});
