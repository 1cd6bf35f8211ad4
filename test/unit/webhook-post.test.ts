import type { RequestListener } from 'node:http';
import { describe, expect, it, onTestFinished } from 'vitest';
import { post, type PostOptions } from '../../src/webhooks/post.ts';
import { always, startTinyServer, type TinyServer } from '../support/tiny-server.ts';

async function serve(answer: RequestListener): Promise<TinyServer> {
  const server = await startTinyServer(answer);
  onTestFinished(server.close);
  return server;
}

function send(url: string, options: Partial<PostOptions> = {}) {
  return post(url, {
    headers: { 'webhook-id': 'one' },
    body: '{"type":"job.failed"}',
    timeoutMs: 5000,
    allowedHosts: [new URL(url).host],
    signal: new AbortController().signal,
    ...options,
  });
}

describe('a POST to a receiver', () => {
  it('brings the body as JSON with its headers, and the answer back', async () => {
    const seen: string[] = [];
    const server = await serve((request, response) => {
      seen.push(request.method ?? '', request.url ?? '');
      request.setEncoding('utf8').on('data', (chunk: string) => seen.push(chunk));
      request.on('end', () => response.writeHead(202).end('Thanks'));
    });
    const result = await send(`${server.url}/hook?a=1`);
    expect(result).toEqual({ kind: 'answered', statusCode: 202, retryAfter: null, answer: 'Thanks' });
    expect(seen).toEqual(['POST', '/hook?a=1', '{"type":"job.failed"}']);
    expect(server.requests[0]?.headers).toMatchObject({
      'content-type': 'application/json',
      'content-length': '21',
      'webhook-id': 'one',
      'user-agent': 'comfyfleet',
    });
  });

  it('follows no redirect', async () => {
    const server = await serve(always(307, '', { location: '/elsewhere' }));
    expect(await send(server.url)).toMatchObject({ kind: 'answered', statusCode: 307 });
    expect(server.requests).toHaveLength(1);
  });

  it('keeps the first 500 characters of an answer, as a database can hold them', async () => {
    const server = await serve(always(500, `\0ü\u001b${'x'.repeat(1000)}`));
    const result = await send(server.url);
    expect(result).toMatchObject({ answer: `ü\u001b${'x'.repeat(497)}` });
  });

  it('reads no more of an endless answer', async () => {
    const server = await serve((_request, response) => {
      const more = (): void => {
        while (!response.destroyed && response.write('y'.repeat(10_000)));
      };
      response.on('drain', more).writeHead(200);
      more();
    });
    expect(await send(server.url)).toMatchObject({ statusCode: 200, answer: 'y'.repeat(500) });
  });

  it('goes by the status when the answer breaks off', async () => {
    const server = await serve((_request, response) => {
      response.writeHead(200, { 'content-length': 100 }).write('ok so far');
      setTimeout(() => response.destroy(), 20);
    });
    expect(await send(server.url)).toMatchObject({ statusCode: 200, answer: 'ok so far' });
  });

  it('goes by the status when the answer does not end', async () => {
    const server = await serve((_request, response) => void response.writeHead(200).write('slow'));
    expect(await send(server.url, { timeoutMs: 100 })).toMatchObject({ statusCode: 200, answer: 'slow' });
  });

  it('passes on what the receiver asks for', async () => {
    const server = await serve(always(503, '', { 'retry-after': '30' }));
    expect(await send(server.url)).toMatchObject({ statusCode: 503, retryAfter: '30' });
  });

  it('ends when nobody answers in time', async () => {
    const server = await serve(() => undefined);
    expect(await send(server.url, { timeoutMs: 50 })).toEqual({
      kind: 'unanswered',
      error: 'The receiver did not answer within 0.05 s.',
    });
  });

  it('takes a limit that is no whole number of milliseconds', async () => {
    const server = await serve(always(204, ''));
    expect(await send(server.url, { timeoutMs: 8.05 * 1000 })).toMatchObject({ statusCode: 204 });
  });

  it('says that nobody listens', async () => {
    const server = await startTinyServer(always(200, ''));
    await server.close();
    expect(await send(server.url)).toEqual({
      kind: 'unanswered',
      error: 'The receiver could not be reached or broke off (ECONNREFUSED).',
    });
  });

  it('rejects when it is called off', async () => {
    const calling = new AbortController();
    const server = await serve(() => calling.abort(new Error('The service stops')));
    await expect(send(server.url, { signal: calling.signal })).rejects.toThrow('The service stops');
  });

  it.each([
    ['by its address', 'http://127.0.0.1'],
    ['by a name that leads there', 'http://hook.example'],
  ])('never reaches a private host %s', async (_name, base) => {
    const server = await serve(always(200, ''));
    const { port } = new URL(server.url);
    const resolveHost = async () => [{ address: '127.0.0.1', family: 4 }];
    expect(await send(`${base}:${port}/`, { allowedHosts: [], resolveHost })).toEqual({
      kind: 'unanswered',
      error:
        'The host of the URL was not found on the public internet. One that is elsewhere must be named in INPUT_URL_ALLOWED_HOSTS for inputs, in WEBHOOK_ALLOWED_HOSTS for webhooks.',
    });
    expect(server.connections()).toBe(0);
  });
});
