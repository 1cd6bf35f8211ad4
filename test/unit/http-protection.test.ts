import { setImmediate } from 'node:timers/promises';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { afterEach, describe, expect, it } from 'vitest';
import type { App } from '../../src/http/server.ts';
import { createTestApp, type TestAppOptions } from '../support/http.ts';

const routes: FastifyPluginAsyncZod = async (app) => {
  app.get('/thing', async () => ({}));
};

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function appWith(options: TestAppOptions = {}): Promise<App> {
  const { app } = await createTestApp({ routes: [routes], ...options });
  closers.push(() => app.close());
  return app;
}

describe('browsers', () => {
  it('run nothing of an answer and sniff nothing from it', async () => {
    const { headers } = await (await appWith()).inject('/thing');
    expect(headers).toMatchObject({
      'content-security-policy': "default-src 'none';frame-ancestors 'none'",
      'x-content-type-options': 'nosniff',
      'cross-origin-resource-policy': 'same-origin',
    });
    expect(headers).not.toHaveProperty('strict-transport-security');
    expect(headers).not.toHaveProperty('access-control-allow-origin');
  });

  it('of the allowed origins may call, send what the API needs and read what it answers', async () => {
    const app = await appWith({
      settings: { CORS_ORIGINS: 'https://app.example' },
      keys: { alice: 'secret' },
    });
    const origin = 'https://app.example';
    const preflight = await app.inject({
      method: 'OPTIONS',
      url: '/thing',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization',
      },
    });
    expect(preflight.statusCode).toBe(204);
    expect(preflight.headers['access-control-allow-origin']).toBe(origin);
    const allowed = String(preflight.headers['access-control-allow-headers']).split(', ');
    expect(allowed).toEqual(
      expect.arrayContaining([
        'Authorization',
        'Content-Type',
        'Idempotency-Key',
        'Last-Event-ID',
        'Prefer',
        'Range',
      ]),
    );

    const refused = await app.inject({ url: '/thing', headers: { origin } });
    expect(refused.statusCode).toBe(401);
    expect(refused.headers['access-control-allow-origin']).toBe(origin);
    const exposed = String(refused.headers['access-control-expose-headers']).split(', ');
    expect(exposed).toEqual(
      expect.arrayContaining([
        'Location',
        'ETag',
        'Content-Range',
        'Accept-Ranges',
        'Retry-After',
        'X-Request-Id',
      ]),
    );
  });

  it('of other origins may not', async () => {
    const app = await appWith({ settings: { CORS_ORIGINS: 'https://app.example' } });
    const response = await app.inject({ url: '/health', headers: { origin: 'https://evil.example' } });
    expect(response.headers).not.toHaveProperty('access-control-allow-origin');
  });
});

describe('the rate limit', () => {
  const settings = { RATE_LIMIT_PER_MINUTE: '2' };

  it('counts each key by itself, and says when to come back', async () => {
    const app = await appWith({ settings, keys: { alice: 'secret-1', bob: 'secret-2' } });
    const call = (key: string) => app.inject({ url: '/thing', headers: { authorization: `Bearer ${key}` } });
    const [first, second, third] = [await call('secret-1'), await call('secret-1'), await call('secret-1')];
    expect([first, second, third].map(({ statusCode }) => statusCode)).toEqual([200, 200, 429]);
    expect(first?.headers).toMatchObject({ 'ratelimit-limit': '2', 'ratelimit-remaining': '1' });
    expect(third?.json()).toMatchObject({ code: 'rate_limited', retryAfterSeconds: 60 });
    expect(third?.headers['retry-after']).toBe('60');
    expect((await call('secret-2')).statusCode).toBe(200);
  });

  it('counts wrong keys and unknown routes by address, so that guessing is slow', async () => {
    const app = await appWith({ settings, keys: { alice: 'secret' } });
    const guess = (key: string, remoteAddress: string) =>
      app.inject({ url: '/thing', headers: { authorization: `Bearer ${key}` }, remoteAddress });
    expect((await guess('guess-1', '192.0.2.1')).statusCode).toBe(401);
    expect((await app.inject({ url: '/nope', remoteAddress: '192.0.2.1' })).statusCode).toBe(404);
    expect((await guess('guess-2', '192.0.2.1')).statusCode).toBe(429);
    expect((await guess('guess-3', '192.0.2.2')).statusCode).toBe(401);
  });

  it('never limits health', async () => {
    const app = await appWith({ settings });
    for (let count = 0; count < 5; count++) expect((await app.inject('/health')).statusCode).toBe(200);
  });

  it('takes the address from the proxy only when told to', async () => {
    const keys = { alice: 'secret' };
    const app = await appWith({ settings: { ...settings, TRUST_PROXY: 'true' }, keys });
    const guess = (client: string) => app.inject({ url: '/thing', headers: { 'x-forwarded-for': client } });
    for (const client of ['192.0.2.1', '192.0.2.1', '192.0.2.2'])
      expect((await guess(client)).statusCode).toBe(401);
    expect((await guess('192.0.2.1')).statusCode).toBe(429);
  });

  it.each([
    ['true', 'FORGED, 192.0.2.1'],
    ['2', 'FORGED, 192.0.2.1, 192.0.2.9'],
  ])('believes nothing that the caller wrote before its proxies did (%s)', async (hops, forwarded) => {
    const app = await appWith({ settings: { ...settings, TRUST_PROXY: hops }, keys: { alice: 'secret' } });
    const statuses: number[] = [];
    for (const forged of ['192.0.2.2', '192.0.2.3', '192.0.2.4']) {
      const headers = { 'x-forwarded-for': forwarded.replace('FORGED', forged) };
      statuses.push((await app.inject({ url: '/thing', headers })).statusCode);
    }
    expect(statuses).toEqual([401, 401, 429]);
  });
});

it('sheds requests while the event loop lags, but not health', async () => {
  const app = await appWith({ settings: { LAG_LIMIT_MS: '1' } });
  let response = await app.inject('/thing');
  const giveUpAt = Date.now() + 8000;
  while (response.statusCode === 200 && Date.now() < giveUpAt) {
    block(50);
    await setImmediate();
    response = await app.inject('/thing');
  }
  expect(response.json()).toMatchObject({ status: 503, code: 'overloaded' });
  expect(response.headers['retry-after']).toBe('5');
  expect((await app.inject('/health')).statusCode).toBe(200);
});

function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
