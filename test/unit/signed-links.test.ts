import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { afterEach, describe, expect, it } from 'vitest';
import { createSignedLinks, plainLink, type SignedLinks } from '../../src/http/signed-links.ts';
import { createTestApp } from '../support/http.ts';

const hourMs = 3_600_000;
const start = Date.parse('2026-03-01T12:20:00Z');
const path = '/jobs/0192f0a4/outputs/gr%C3%BC%C3%9Fe%20(1).png';
const secret = 'a secret that is long enough to sign';

let now = start;
afterEach(() => {
  now = start;
});

function linksOf({ secrets = [secret], hasKeys = true } = {}): SignedLinks {
  return createSignedLinks({
    secrets,
    lifetimeMs: 24 * hourMs,
    apiKeys: { any: async () => hasKeys },
    clock: { now: () => new Date(now) },
  });
}

function check(links: SignedLinks, link: string) {
  const url = new URL(link, 'http://host');
  return links.check(url.pathname, Object.fromEntries(url.searchParams));
}

describe('a signed link', () => {
  it('is the path with its end and a signature', async () => {
    const link = (await linksOf().links())(path);
    expect(link).toMatch(/^\/jobs\/[^?]+\?expires=\d{10}&signature=[\w-]{43}$/);
    expect(link.startsWith(`${path}?`)).toBe(true);
    expect(check(linksOf(), link)).toBe('valid');
  });

  it('works for its lifetime, and not much longer', async () => {
    const links = linksOf();
    const link = (await links.links())(path);
    now = start + 24 * hourMs;
    expect(check(links, link)).toBe('valid');
    now = start + 25 * hourMs + 1000;
    expect(check(links, link)).toBe('expired');
  });

  it('stays the same for a while, so that browsers need not fetch the file again', async () => {
    const links = linksOf();
    const first = (await links.links())(path);
    now = start + hourMs / 2;
    expect((await links.links())(path)).toBe(first);
    now = start + hourMs;
    expect((await links.links())(path)).not.toBe(first);
  });

  it('may have a lifetime of its own', async () => {
    const links = linksOf();
    const { url, expiresAt } = await links.link(path, 60_000);
    expect(expiresAt).toEqual(new Date(start + 60_000));
    expect(check(links, url)).toBe('valid');
    now = start + 61_000;
    expect(check(links, url)).toBe('expired');
  });

  it('is the same link however its path is encoded on the way', async () => {
    const links = linksOf();
    const link = (await links.links())(path);
    expect(check(links, link.replace('(1)', '%281%29').replace('%C3%BC', '%c3%bc'))).toBe('valid');
  });

  it.each([
    ['another file', (link: string) => link.replace('(1)', '(2)')],
    ['a path below it', (link: string) => link.replace('?', '/x?')],
    ['a slash that is part of the name', (link: string) => link.replace('/outputs/', '%2Foutputs/')],
    ['a later end', (link: string) => link.replace(/expires=(\d)/, 'expires=9$1')],
    ['an end that is no number', (link: string) => link.replace(/expires=\d+/, 'expires=1e99')],
    ['no end', (link: string) => link.replace(/expires=\d+&/, '')],
    ['no signature', (link: string) => link.replace(/&signature=.*/, '')],
    ['an empty signature', (link: string) => link.replace(/signature=.*/, 'signature=')],
    ['a part of the signature', (link: string) => link.slice(0, -2)],
    ['another signature', (link: string) => link.replace(/signature=./, 'signature=_')],
  ])('does not work for %s', async (_what, change) => {
    const links = linksOf();
    const link = (await links.links())(path);
    expect(check(links, link)).toBe('valid');
    expect(check(links, change(link))).toBe('wrong');
  });

  it('that is wrong is not told that it has run out', async () => {
    const links = linksOf();
    const link = (await links.links())(path).replace('(1)', '(2)');
    now = start + 100 * hourMs;
    expect(check(links, link)).toBe('wrong');
  });

  it('goes on working while its secret is one of the settings, and ends with it', async () => {
    const link = (await linksOf().links())(path);
    const newer = 'the secret that has come after it';
    expect(check(linksOf({ secrets: [newer, secret] }), link)).toBe('valid');
    expect(check(linksOf({ secrets: [newer] }), link)).toBe('wrong');
    const next = (await linksOf({ secrets: [newer, secret] }).links())(path);
    expect(check(linksOf({ secrets: [newer] }), next)).toBe('valid');
  });

  it('is plain while there are no API keys', async () => {
    const links = linksOf({ hasKeys: false });
    expect(await links.links()).toBe(plainLink);
    expect(await links.link(path, 1000)).toEqual({ url: path, expiresAt: null });
  });
});

describe('a request with a link', () => {
  const key = 'a-key-that-is-long-enough-to-be-one';
  const routes: FastifyPluginAsyncZod = async (app) => {
    app.get('/files/:name', { config: { signed: true } }, async () => 'the file');
    app.post('/files/:name', { config: { signed: true } }, async () => 'changed');
    app.get('/secrets/:name', async () => 'a secret');
  };

  async function appWith(onLog?: (line: string) => void) {
    const links = linksOf();
    const options = onLog === undefined ? {} : { onLog };
    const { app, keys } = await createTestApp({ keys: { alice: key }, routes: [routes], links, ...options });
    return { app, keys, linkTo: await links.links() };
  }

  it('is answered without an API key, for GET and HEAD', async () => {
    const { app, linkTo } = await appWith();
    const url = linkTo('/files/a.png');
    const answer = await app.inject(url);
    expect([answer.statusCode, answer.body]).toEqual([200, 'the file']);
    expect(answer.headers['referrer-policy']).toBe('no-referrer');
    expect((await app.inject({ method: 'HEAD', url })).statusCode).toBe(200);
    await app.close();
  });

  it('is refused for other methods, and on routes that open to no link', async () => {
    const { app, linkTo } = await appWith();
    const post = await app.inject({ method: 'POST', url: linkTo('/files/a.png') });
    expect(post.statusCode).toBe(401);
    expect((await app.inject(linkTo('/secrets/a'))).statusCode).toBe(401);
    await app.close();
  });

  it('is told what to do when the link is wrong, or has run out', async () => {
    const { app, linkTo } = await appWith();
    const url = linkTo('/files/a.png');
    const wrong = await app.inject(url.replace('a.png', 'b.png'));
    expect(wrong.json()).toMatchObject({
      status: 403,
      code: 'forbidden',
      detail: expect.stringContaining('new link'),
    });
    now = start + 100 * hourMs;
    const late = await app.inject(url);
    expect(late.json()).toMatchObject({
      status: 410,
      code: 'link_expired',
      detail: expect.stringContaining('new link'),
    });
    expect(late.headers['cache-control']).toBe('no-store');
    const withKey = await app.inject({ url, headers: { authorization: `Bearer ${key}` } });
    expect(withKey.statusCode).toBe(200);
    await app.close();
  });

  it('leaves no signature in the log', async () => {
    const lines: string[] = [];
    const { app, linkTo } = await appWith((line) => lines.push(line));
    const url = linkTo('/files/a.png');
    await app.inject(url);
    await app.inject(`${url}x`);
    await app.inject(url.replace('/files/', '/nothing/'));
    app.log.warn({ url }, `somebody logs ${url}`);
    await app.close();
    const [, signature = ''] = /signature=([^&]+)/.exec(url) ?? [];
    expect(lines.length).toBeGreaterThan(3);
    expect(lines.join('')).not.toContain(signature);
  });
});
