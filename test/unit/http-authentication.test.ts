import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { afterEach, describe, expect, it } from 'vitest';
import { ConfigError, loadConfig } from '../../src/config.ts';
import { assertListenAllowed, isLoopback } from '../../src/http/authentication.ts';
import { createTestApp, type TestAppOptions } from '../support/http.ts';

const routes: FastifyPluginAsyncZod = async (app) => {
  app.get('/me', async (request) => ({ apiKey: request.apiKey }));
  app.post('/me', async (request) => ({ apiKey: request.apiKey }));
  app.get('/signed', { config: { public: true } }, async () => ({}));
};

const key = 'a-key-that-is-long-enough-to-be-one';

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function appWith(options: TestAppOptions) {
  const made = await createTestApp({ routes: [routes], ...options });
  closers.push(() => made.app.close());
  return made;
}

describe('while there are API keys', () => {
  it('tells a route whose key it was', async () => {
    const { app } = await appWith({ keys: { alice: key, bob: `${key}-2` } });
    const response = await app.inject({ url: '/me', headers: { authorization: `Bearer ${key}-2` } });
    expect(response.json()).toEqual({ apiKey: 'bob' });
  });

  it.each([
    ['no key', {}, 'Send an API key'],
    ['an unknown key', { authorization: 'Bearer wrong' }, 'not known or was revoked'],
    ['the start of a key', { authorization: `Bearer ${key.slice(0, -1)}` }, 'not known or was revoked'],
    ['another scheme', { authorization: `Basic ${key}` }, 'must read "Bearer <key>"'],
    ['an empty key', { authorization: 'Bearer ' }, 'must read "Bearer <key>"'],
  ])('turns away %s', async (_name, headers, detail) => {
    const { app } = await appWith({ keys: { alice: key } });
    const response = await app.inject({ url: '/me', headers });
    expect(response.statusCode).toBe(401);
    expect(response.headers['www-authenticate']).toBe('Bearer realm="comfyfleet"');
    expect(response.json()).toMatchObject({ code: 'unauthorized', detail: expect.stringContaining(detail) });
  });

  it('heeds a key that is added or revoked', async () => {
    const { app, keys } = await appWith({ keys: { alice: key } });
    const statusOf = async (bearer: string) =>
      (await app.inject({ url: '/me', headers: { authorization: `Bearer ${bearer}` } })).statusCode;
    keys['bob'] = 'another';
    expect(await statusOf('another')).toBe(200);
    delete keys['bob'];
    expect(await statusOf('another')).toBe(401);
  });

  it.each(['/health', '/health/live', '/health/ready', '/docs', '/openapi.json', '/signed'])(
    'leaves %s open',
    async (url) => {
      const { app } = await appWith({ keys: { alice: key } });
      expect((await app.inject({ url })).statusCode).toBe(200);
    },
  );

  it('leaves open what is public, and nothing else, while nobody can look keys up', async () => {
    const verify = () => Promise.reject(new Error('Connection terminated before it began'));
    const { app } = await appWith({ keys: { alice: key }, apiKeys: { verify } });
    const headers = { authorization: `Bearer ${key}` };
    expect((await app.inject({ url: '/openapi.json', headers })).statusCode).toBe(200);
    const response = await app.inject({ url: '/me', headers });
    expect(response.statusCode).toBe(503);
    expect(response.headers['retry-after']).toBe('5');
  });

  it('closes the metrics', async () => {
    const { app } = await appWith({ keys: { alice: key } });
    expect((await app.inject('/metrics')).statusCode).toBe(401);
    const response = await app.inject({ url: '/metrics', headers: { authorization: `Bearer ${key}` } });
    expect(response.body).toContain('comfyfleet_http_request_duration_seconds');
  });

  it('turns away a caller before reading what it sends', async () => {
    const { app } = await appWith({ keys: { alice: key } });
    const headers = { 'content-type': 'application/json' };
    expect((await app.inject({ method: 'POST', url: '/me', headers, payload: '{' })).statusCode).toBe(401);
  });

  it('stays closed when the last key is revoked while the service listens to the world', async () => {
    const { app, keys } = await appWith({ keys: { alice: key }, settings: { HOST: '0.0.0.0' } });
    delete keys['alice'];
    expect((await app.inject('/me')).statusCode).toBe(401);
  });
});

describe('while there is no API key', () => {
  it.each(['localhost:8400', '127.0.0.1:8400', '[::1]:8400', 'app.localhost'])(
    'lets in a program that calls it %s',
    async (host) => {
      const { app } = await appWith({});
      const response = await app.inject({ url: '/me', headers: { host } });
      expect(response.json()).toEqual({ apiKey: null });
    },
  );

  it.each([
    ['a name that resolves to loopback', { host: 'evil.example:8400' }],
    ['a malformed host', { host: 'local host' }],
    ['a request from a proxy', { 'x-forwarded-for': '203.0.113.9' }],
    ['a page of another site', { origin: 'https://evil.example' }],
    ['a page of another port', { origin: 'http://localhost:3000', host: 'localhost:8400' }],
    ['a sandboxed page', { origin: 'null' }],
    ['a page of another site whose browser names no origin', { 'sec-fetch-site': 'cross-site' }],
  ])('turns away %s', async (_name, headers) => {
    const { app } = await appWith({});
    const response = await app.inject({ method: 'POST', url: '/me', headers });
    expect(response.statusCode).toBe(403);
    expect(response.json()).toMatchObject({ code: 'forbidden' });
  });

  it('lets in its own documentation, and pages that the settings allow by name', async () => {
    const { app } = await appWith({ settings: { CORS_ORIGINS: 'http://localhost:3000,*' } });
    const statusOf = async (origin: string) =>
      (await app.inject({ method: 'POST', url: '/me', headers: { host: 'localhost:8400', origin } }))
        .statusCode;
    expect(await statusOf('http://localhost:8400')).toBe(200);
    expect(await statusOf('http://localhost:3000')).toBe(200);
    expect(await statusOf('https://evil.example')).toBe(403);
  });

  it('lets a page link to a result', async () => {
    const { app } = await appWith({});
    const headers = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' };
    expect((await app.inject({ url: '/me', headers })).statusCode).toBe(200);
  });
});

describe('before the service listens', () => {
  const check = (settings: Record<string, string>, hasKeys: boolean) =>
    assertListenAllowed(loadConfig(settings), { any: async () => hasKeys });

  it.each(['127.0.0.1', '127.8.9.10', '::1', 'localhost'])('allows %s without a key', async (host) => {
    await expect(check({ HOST: host }, false)).resolves.toBeUndefined();
  });

  it.each(['0.0.0.0', '::', '192.168.1.5', 'example.com'])('refuses %s without a key', async (host) => {
    await expect(check({ HOST: host }, false)).rejects.toThrow(ConfigError);
    await expect(check({ HOST: host }, false)).rejects.toThrow(/^HOST: .* there is no API key/);
    await expect(check({ HOST: host }, true)).resolves.toBeUndefined();
  });

  it('refuses a proxy without a key', async () => {
    await expect(check({ TRUST_PROXY: 'true' }, false)).rejects.toThrow(/^TRUST_PROXY/);
  });
});

it.each([
  ['127.0.0.1', true],
  ['[::1]', true],
  ['::ffff:127.0.0.1', true],
  ['LOCALHOST', true],
  ['localhost.evil.example', false],
  ['127.0.0.1.evil.example', false],
  ['10.0.0.1', false],
  ['', false],
])('takes %j for loopback: %s', (host, expected) => {
  expect(isLoopback(host)).toBe(expected);
});
