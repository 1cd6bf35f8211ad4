// What a machine's answers say about it.
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocketServer } from 'ws';
import { openLink, type Link } from '../../src/comfyui/link.ts';
import { probe, probeWebSocket, probeWithoutCredentials } from '../../src/comfyui/probe.ts';
import { makeTestCertificate } from '../support/certificate.ts';
import { always, startTinyServer, type TinyServer } from '../support/tiny-server.ts';

const token = 'the-secret-of-this-machine';
const stats = {
  system: { comfyui_version: '0.33.0', argv: ['main.py'] },
  devices: [{ name: 'cuda:0 NVIDIA GeForce RTX 4090', type: 'cuda', index: 0, vram_total: 25_000_000_000 }],
};
const placeholder = { 'x-portal-placeholder': 'true' };
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const clean of cleanups.splice(0).toReversed()) await clean();
});

async function server(...args: Parameters<typeof startTinyServer>): Promise<TinyServer> {
  const started = await startTinyServer(...args);
  cleanups.push(started.close);
  return started;
}

function link(baseUrl: string, certificateFingerprint: string | null = null): Link {
  const opened = openLink({ baseUrl, token, certificateFingerprint });
  cleanups.push(() => opened.close());
  return opened;
}

async function probed(...answer: Parameters<typeof always>) {
  const { url } = await server(always(...answer));
  return probe(link(url));
}

describe('probe', () => {
  it('finds a ComfyUI ready, with its version and devices', async () => {
    expect(await probed(200, stats)).toEqual({
      kind: 'ready',
      version: '0.33.0',
      devices: [{ name: 'cuda:0 NVIDIA GeForce RTX 4090', type: 'cuda', vramTotalBytes: 25_000_000_000 }],
    });
  });

  it('takes a version or memory that is not given for unknown', async () => {
    const devices = [{ name: 'cpu', type: 'cpu', index: null }];
    expect(await probed(200, { system: {}, devices })).toEqual({
      kind: 'ready',
      version: 'unknown',
      devices: [{ name: 'cpu', type: 'cpu', vramTotalBytes: 0 }],
    });
  });

  it.each([
    ['starting', 502, 'Provisioning', placeholder],
    ['starting', 503, '', {}],
    ['starting', 504, '', {}],
    // As a tunnel passes the placeholder on.
    ['starting', 200, '<html>', placeholder],
    ['starting', 200, stats, placeholder],
    ['unauthorized', 401, '', { 'www-authenticate': 'Basic realm="x"' }],
    ['unauthorized', 403, '', {}],
    ['unauthorized', 302, '', { location: '/login' }],
    ['unexpected', 200, '<html>a log viewer</html>', {}],
    ['unexpected', 200, { system: {} }, {}],
    ['unexpected', 404, '', {}],
    ['unexpected', 500, 'Server got itself in trouble', {}],
  ])('says %s for status %i with %o', async (kind, status, body, headers) => {
    expect(await probed(status, body, headers)).toMatchObject({ kind });
  });

  it('says refused when nothing listens, and when the connection is dropped', async () => {
    const gone = await server(always(200, stats));
    await gone.close();
    expect(await probe(link(gone.url))).toEqual({ kind: 'refused' });
    const { url } = await server((request) => request.socket.destroy());
    expect(await probe(link(url))).toEqual({ kind: 'refused' });
  });

  it('says insecure when the certificate is another one, is not trusted, or is none at all', async () => {
    const [certificate, other] = await Promise.all([makeTestCertificate(), makeTestCertificate()]);
    const secure = await server(always(200, stats), { certificate });
    const plain = await server(always(200, stats));
    expect(await probe(link(secure.url, other.fingerprint))).toMatchObject({ kind: 'insecure' });
    expect(await probe(link(secure.url))).toMatchObject({ kind: 'insecure' });
    const asked = plain.url.replace('http:', 'https:');
    expect(await probe(link(asked, other.fingerprint))).toMatchObject({ kind: 'insecure' });
    expect(await probe(link(secure.url, certificate.fingerprint))).toMatchObject({ kind: 'ready' });
  });

  it('does not read an answer without end', async () => {
    const { url } = await server((_, response) => {
      const chunk = Buffer.alloc(64 * 1024, ' ');
      const more = () => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on('drain', more);
      more();
    });
    expect(await probe(link(url))).toMatchObject({ kind: 'unexpected', detail: /larger than/ });
  });

  it('stops with the reason of its signal', async () => {
    const { url } = await server(() => undefined);
    await expect(probe(link(url), AbortSignal.timeout(30))).rejects.toMatchObject({ name: 'TimeoutError' });
  });
});

describe('probeWithoutCredentials', () => {
  async function seen(...answer: Parameters<typeof always>) {
    const { url, requests } = await server(always(...answer));
    const verdict = await probeWithoutCredentials({ baseUrl: url, token, certificateFingerprint: null });
    expect(requests[0]?.headers.authorization).toBeUndefined();
    return verdict;
  }

  it.each([
    ['closed', 401, '', {}],
    ['closed', 403, '', {}],
    ['closed', 302, '', { location: '/login' }],
    ['open', 200, stats, {}],
    ['open', 200, '<html>something else</html>', {}],
    ['unclear', 200, '<html>', placeholder],
    ['unclear', 502, '', placeholder],
    ['unclear', 404, '', {}],
  ])('says %s for status %i with %o', async (verdict, status, body, headers) => {
    expect(await seen(status, body, headers)).toBe(verdict);
  });

  it('says unclear when nobody answers, or somebody else does', async () => {
    const [certificate, other] = await Promise.all([makeTestCertificate(), makeTestCertificate()]);
    const { url } = await server(always(401, ''), { certificate });
    const target = { baseUrl: url, token, certificateFingerprint: other.fingerprint };
    expect(await probeWithoutCredentials(target)).toBe('unclear');
    expect(await probeWithoutCredentials({ ...target, baseUrl: 'https://127.0.0.1:1' })).toBe('unclear');
  });
});

describe('probeWebSocket', () => {
  async function socketServer(greeting: string | null): Promise<string> {
    const { url, server: listening } = await server(always(404, ''));
    const sockets = new WebSocketServer({ server: listening, path: '/ws' });
    sockets.on('connection', (socket) => {
      if (greeting !== null) socket.send(greeting);
    });
    return url;
  }

  it('is true once the first status has come', async () => {
    const url = await socketServer('{"type":"status","data":{"status":{},"sid":"x"}}');
    expect(await probeWebSocket(link(url))).toBe(true);
  });

  it('is false where there is no WebSocket', async () => {
    const { url } = await server(always(200, stats));
    expect(await probeWebSocket(link(url))).toBe(false);
  });

  it('waits for the first status until its signal is aborted', async () => {
    const url = await socketServer(null);
    await expect(probeWebSocket(link(url), AbortSignal.timeout(50))).rejects.toMatchObject({
      name: 'TimeoutError',
    });
  });
});
