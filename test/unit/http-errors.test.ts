import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import type { InjectOptions } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { ServiceError } from '../../src/errors.ts';
import type { App } from '../../src/http/server.ts';
import { createTestApp } from '../support/http.ts';

let thrown: unknown;

const routes: FastifyPluginAsyncZod = async (app) => {
  app.get('/throws', async (_request, reply) => {
    reply.headers({ etag: '"1"', 'content-disposition': 'attachment', location: '/elsewhere' });
    throw thrown;
  });
  app.get('/lies', { schema: { response: { 200: z.object({ count: z.number() }) } } }, async () => {
    const answer: { count: number } = JSON.parse('{"count":"not a number"}');
    return answer;
  });
  app.post('/things', { schema: { body: z.strictObject({ name: z.string() }) } }, async () => ({}));
  app.put('/things/:id', async () => ({}));
  app.post(
    '/forms',
    { schema: { consumes: ['multipart/form-data'], body: z.unknown() } },
    async (request) => {
      for await (const part of request.parts()) if (part.type === 'file') await part.toBuffer();
      return {};
    },
  );
};

describe('every error is a problem', () => {
  let app: App;
  const lines: string[] = [];

  beforeAll(async () => {
    const settings = { BODY_LIMIT_MB: '0.1', UPLOAD_LIMIT_MB: '1', LOG_LEVEL: 'info' };
    ({ app } = await createTestApp({ routes: [routes], settings, onLog: (line) => lines.push(line) }));
  });
  afterAll(() => app.close());

  /** The answer to a request; fails unless it is a complete problem. */
  async function problemOf(request: InjectOptions | string) {
    const response = await app.inject(request);
    expect(response.headers['content-type']).toBe('application/problem+json');
    expect(response.headers['cache-control']).toBe('no-store');
    const problem = response.json<Record<string, unknown>>();
    expect(problem).toMatchObject({
      type: `urn:comfyfleet:problem:${String(problem['code'])}`,
      title: expect.stringMatching(/\w/),
      status: response.statusCode,
      detail: expect.stringMatching(/\.$/),
      requestId: response.headers['x-request-id'],
    });
    return { problem, headers: response.headers };
  }

  const json = { 'content-type': 'application/json' };
  const form = { 'content-type': 'multipart/form-data; boundary=x' };
  const bigFile = `--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n${'.'.repeat(1_000_001)}\r\n--x--\r\n`;

  it.each([
    ['an unknown route', { method: 'GET', url: '/nope' }, 404, 'not_found'],
    [
      'an unknown route with a broken body',
      { method: 'POST', url: '/nope', headers: json, payload: '{' },
      404,
      'not_found',
    ],
    [
      'a known route with another method',
      { method: 'DELETE', url: '/things', headers: json, payload: '{' },
      405,
      'method_not_allowed',
    ],
    [
      'malformed JSON',
      { method: 'POST', url: '/things', headers: json, payload: '{"name":' },
      400,
      'invalid_request',
    ],
    [
      'JSON that pollutes prototypes',
      { method: 'POST', url: '/things', headers: json, payload: '{"__proto__":{}}' },
      400,
      'invalid_request',
    ],
    ['an empty body', { method: 'POST', url: '/things', headers: json, payload: '' }, 400, 'invalid_request'],
    ['no body', { method: 'POST', url: '/things' }, 400, 'invalid_request'],
    [
      'an unknown field',
      { method: 'POST', url: '/things', payload: { name: 'a', size: 1 } },
      400,
      'invalid_request',
    ],
    [
      'a body of text',
      { method: 'POST', url: '/things', headers: { 'content-type': 'text/plain' }, payload: 'hi' },
      415,
      'unsupported_media_type',
    ],
    [
      'a malformed content type',
      { method: 'POST', url: '/things', headers: { 'content-type': 'nonsense' }, payload: 'hi' },
      415,
      'unsupported_media_type',
    ],
    [
      'a form where JSON belongs',
      { method: 'POST', url: '/things', headers: form, payload: '--x--\r\n' },
      415,
      'unsupported_media_type',
    ],
    [
      'JSON where a form belongs',
      { method: 'POST', url: '/forms', payload: {} },
      415,
      'unsupported_media_type',
    ],
    [
      'a form that breaks off',
      { method: 'POST', url: '/forms', headers: form, payload: bigFile.slice(0, 200) },
      400,
      'invalid_request',
    ],
    [
      'a form without a boundary',
      { method: 'POST', url: '/forms', headers: { 'content-type': 'multipart/form-data' }, payload: 'x' },
      400,
      'invalid_request',
    ],
    [
      'a file over the limit',
      { method: 'POST', url: '/forms', headers: form, payload: bigFile },
      413,
      'payload_too_large',
    ],
    [
      'a body over the limit',
      { method: 'POST', url: '/things', payload: { name: 'a'.repeat(100_001) } },
      413,
      'payload_too_large',
    ],
    ['a malformed URL', { method: 'GET', url: '/%zz' }, 400, 'invalid_request'],
    ['an endless id', { method: 'PUT', url: `/things/${'a'.repeat(400)}` }, 404, 'not_found'],
    ['an answer that breaks its own schema', { method: 'GET', url: '/lies' }, 500, 'internal'],
  ] as const)('%s', async (_name, request, status, code) => {
    const { problem } = await problemOf(request);
    expect(problem).toMatchObject({ status, code });
  });

  it('names the methods that a path does answer', async () => {
    const { headers } = await problemOf({ method: 'DELETE', url: '/throws' });
    expect(headers.allow).toBe('GET, HEAD');
  });

  it('passes on what a ServiceError says, its field and its further facts, but lets these replace nothing', async () => {
    thrown = new ServiceError('limit_reached', 'It would cost 3 USD. Raise the limit.', {
      field: 'requirements',
      extra: { limitUsd: 2, status: 200, code: 'ok', retryAfterSeconds: 7 },
    });
    const { problem, headers } = await problemOf('/throws');
    expect(problem).toMatchObject({
      status: 402,
      code: 'limit_reached',
      detail: 'It would cost 3 USD. Raise the limit.',
      field: 'requirements',
      limitUsd: 2,
    });
    expect(headers['retry-after']).toBe('7');
  });

  it('drops the headers of the answer that failed', async () => {
    thrown = new ServiceError('conflict', 'Not now.');
    const { headers } = await problemOf('/throws');
    expect(headers).not.toHaveProperty('etag');
    expect(headers).not.toHaveProperty('content-disposition');
    expect(headers).not.toHaveProperty('location');
  });

  it.each([
    ['an error', new Error('password of db.internal is hunter2')],
    ['an error that calls itself a 404', Object.assign(new Error('hunter2'), { statusCode: 404 })],
    ['a text', 'hunter2'],
    ['nothing', undefined],
  ])('keeps what went wrong inside to the log: %s', async (_name, error) => {
    thrown = error;
    lines.length = 0;
    const { problem } = await problemOf('/throws');
    expect(problem).toMatchObject({ status: 500, code: 'internal' });
    expect(JSON.stringify(problem)).not.toContain('hunter2');
    expect(lines.join('')).toContain('a request failed');
    expect(lines.join('')).toContain(error === undefined ? 'a request failed' : 'hunter2');
  });

  it.each([
    Object.assign(new Error('terminating connection due to administrator command'), { code: '57P01' }),
    new Error('Connection terminated unexpectedly'),
    new Error('timeout exceeded when trying to connect'),
  ])('asks to come back when the database is away: $message', async (error) => {
    thrown = error;
    const { problem, headers } = await problemOf('/throws');
    expect(problem).toMatchObject({ status: 503, code: 'overloaded' });
    expect(headers['retry-after']).toBe('5');
  });

  it('ties the answer to the log by a request id, which a caller may choose if it is harmless', async () => {
    const { problem } = await problemOf({ url: '/nope', headers: { 'x-request-id': 'frontend-42' } });
    expect(problem['requestId']).toBe('frontend-42');
    const forged = await problemOf({ url: '/nope', headers: { 'x-request-id': 'a"},{"level":"fatal' } });
    expect(forged.problem['requestId']).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('logs one line for each request, with the pattern of its route and not its query', async () => {
    lines.length = 0;
    await app.inject({ method: 'PUT', url: '/things/7?token=hunter2' });
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({
      method: 'PUT',
      route: '/things/:id',
      status: 200,
      ms: expect.any(Number),
    });
    expect(lines[0]).not.toContain('hunter2');
  });

  it('answers bytes that are not HTTP, too', async () => {
    const url = new URL(await app.listen({ host: '127.0.0.1', port: 0 }));
    const socket = connect({ host: url.hostname, port: Number(url.port) });
    socket.write('what?\r\n\r\n');
    const answer = await text(socket);
    expect(answer).toMatch(/^HTTP\/1\.1 400 Bad Request\r\nContent-Type: application\/problem\+json/);
    expect(answer).toContain('"detail":"The request is not well-formed HTTP."');
  });
});
