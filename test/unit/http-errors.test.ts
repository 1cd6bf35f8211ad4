import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import type { InjectOptions } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { loadConfig } from '../../src/config.ts';
import { createKysely, createPool } from '../../src/database/connection.ts';
import { ServiceError } from '../../src/errors.ts';
import type { App } from '../../src/http/server.ts';
import { createLogger } from '../../src/support/log.ts';
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
    '/both',
    { schema: { consumes: ['application/json', 'multipart/form-data'], body: z.unknown() } },
    async () => ({}),
  );
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
      'a form with an endless boundary',
      {
        method: 'POST',
        url: '/forms',
        headers: { 'content-type': `multipart/form-data; boundary=${'b'.repeat(300)}` },
        payload: 'x',
      },
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
    ['a NUL in a URL', { method: 'PUT', url: '/things/a%00b' }, 400, 'invalid_request'],
    ['a NUL in a query', { method: 'PUT', url: '/things/a?b=%00' }, 400, 'invalid_request'],
    ['an endless id', { method: 'PUT', url: `/things/${'a'.repeat(400)}` }, 404, 'not_found'],
    ['an answer that breaks its own schema', { method: 'GET', url: '/lies' }, 500, 'internal'],
  ] as const)('%s', async (_name, request, status, code) => {
    const { problem } = await problemOf(request);
    expect(problem).toMatchObject({ status, code });
  });

  it('a form whose header was written by hand, and who should write it', async () => {
    const { problem } = await problemOf({
      method: 'POST',
      url: '/forms',
      headers: { 'content-type': 'multipart/form-data' },
      payload: bigFile,
    });
    expect(problem).toMatchObject({
      detail:
        'The header Content-Type does not name the boundary of the form. Do not set it: whatever makes the form does.',
    });
  });

  it.each([
    ['/things', 'text/plain', 'The content type of the body is not supported here. Send application/json.'],
    ['/both', 'text/plain; charset=utf-8', /Send application\/json or multipart\/form-data\.$/],
    ['/things', 'garbage', 'The header Content-Type must name a type, such as application/json.'],
    ['/forms', 'garbage', 'The header Content-Type must name a type, such as multipart/form-data.'],
  ])('says at %s what it takes instead of %s', async (url, type, detail) => {
    const headers = { 'content-type': type };
    const { problem } = await problemOf({ method: 'POST', url, headers, payload: 'hi' });
    expect(problem).toMatchObject({ status: 415, detail: expect.stringMatching(detail) });
  });

  it.each(['/things', '/forms'])('takes no compressed body at %s for what it was made of', async (url) => {
    const headers = { ...json, 'content-encoding': 'gzip' };
    const packed = await problemOf({ method: 'POST', url, headers, payload: 'x' });
    expect(packed.problem).toMatchObject({
      status: 415,
      detail: expect.stringContaining('Content-Encoding'),
    });
    expect(packed.headers['accept-encoding']).toBe('identity');
    headers['content-encoding'] = 'Identity';
    const plain = await problemOf({ method: 'POST', url: '/things', headers, payload: '{}' });
    expect(plain.problem).toMatchObject({ status: 400, field: 'name' });
  });

  it('says how many parts a form may have, and what to do with more', async () => {
    const part = '--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n.\r\n';
    const payload = `${part.repeat(21)}--x--\r\n`;
    const { problem } = await problemOf({ method: 'POST', url: '/forms', headers: form, payload });
    expect(problem).toMatchObject({
      status: 413,
      detail: expect.stringMatching(/20 files and 50 fields.*POST \/assets/),
    });
  });

  it('names the methods that a path does answer', async () => {
    const { headers } = await problemOf({ method: 'DELETE', url: '/throws' });
    expect(headers.allow).toBe('GET, HEAD, OPTIONS');
  });

  it.each(['TRACE', 'PROPFIND', 'QUERY', 'PURGE'] as const)(
    'refuses the unusual method %s on a path that exists, and knows no other path for it',
    async (method) => {
      const known = await problemOf({ method: method as 'GET', url: '/throws' });
      expect(known.problem).toMatchObject({ status: 405, code: 'method_not_allowed' });
      const unknown = await problemOf({ method: method as 'GET', url: '/nope' });
      expect(unknown.problem).toMatchObject({ status: 404, code: 'not_found' });
    },
  );

  it('tells whoever asks by OPTIONS which methods a path answers', async () => {
    const answer = await app.inject({ method: 'OPTIONS', url: '/things/7' });
    expect(answer.statusCode).toBe(204);
    expect(answer.headers.allow).toBe('OPTIONS, PUT');
    expect(answer.body).toBe('');
  });

  it.each([
    ['{"name":{"__proto__":{"admin":true}}}', 'name.__proto__'],
    ['[{"\\u005f_proto__":1}]', '[0].__proto__'],
    ['{"constructor":{"prototype":{}}}', 'constructor.prototype'],
  ])('calls a body that would change prototypes by its name, not malformed: %s', async (payload, field) => {
    const { problem } = await problemOf({ method: 'POST', url: '/things', headers: json, payload });
    expect(problem).toMatchObject({ status: 400, code: 'invalid_request', field });
    expect(problem['detail']).toMatch(/must not have a field named "(?:__proto__|prototype)"/);
  });

  it('accepts the word constructor where it changes nothing', async () => {
    const payload = '{"constructor":1}';
    const { problem } = await problemOf({ method: 'POST', url: '/things', headers: json, payload });
    expect(problem['errors']).toContainEqual({
      field: 'constructor',
      detail: '"constructor" is not valid: there is no such field.',
    });
  });

  it.each(['[', '{"a":'])('does not follow a body made of %s without end', async (start) => {
    const payload = start.repeat(10_000);
    const { problem } = await problemOf({ method: 'POST', url: '/things', headers: json, payload });
    expect(problem).toMatchObject({ status: 400, detail: 'The body is not valid JSON.' });
    const closed = `${start.repeat(5_000)}1${(start === '[' ? ']' : '}').repeat(5_000)}`;
    const deep = await problemOf({ method: 'POST', url: '/things', headers: json, payload: closed });
    expect(deep.problem).toMatchObject({
      status: 400,
      detail: 'The body is nested deeper than 100 levels.',
    });
  });

  it.each([
    ['entries', `{"name":[${'1,'.repeat(200_000)}1]}`],
    ['fields', `{${Array.from({ length: 200_001 }, (_, n) => `"${n}":1`).join()}}`],
    ['lists in lists', `[${'[1,[1]],'.repeat(50_000)}1]`],
  ])('looks at no body of more %s than any request has', async (_name, payload) => {
    const { app: roomy } = await createTestApp({ routes: [routes] });
    const answer = await roomy.inject({ method: 'POST', url: '/things', headers: json, payload });
    await roomy.close();
    const problem = answer.json<Record<string, unknown>>();
    expect(problem).toMatchObject({ status: 413, code: 'payload_too_large' });
    expect(problem['detail']).toBe('The body has more than 200000 fields and entries.');
  });

  it('takes an empty body of JSON for none where the route takes none', async () => {
    const answer = await app.inject({ method: 'PUT', url: '/things/7', headers: json, payload: '' });
    expect(answer.statusCode).toBe(200);
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
    Object.assign(new Error('canceling statement due to statement timeout'), { code: '57014' }),
    new Error('Connection terminated unexpectedly'),
    new Error('Query read timeout'),
  ])('asks to come back when the database is away: $message', async (error) => {
    thrown = error;
    const { problem, headers } = await problemOf('/throws');
    expect(problem).toMatchObject({ status: 503, code: 'overloaded' });
    expect(headers['retry-after']).toBe('5');
  });

  it.each([
    ['53100', 'has no room left', '60'],
    ['25006', 'takes no changes', '5'],
    ['53200', 'does not answer', '5'],
    ['58030', 'does not answer', '5'],
  ])('asks to come back when the database cannot do its work: %s', async (code, detail, retryAfter) => {
    thrown = Object.assign(new Error('could not extend file "base/5/16499"'), { code });
    const { problem, headers } = await problemOf('/throws');
    expect(problem).toMatchObject({
      status: 503,
      code: 'overloaded',
      detail: expect.stringContaining(`The database ${detail}`),
    });
    expect(headers['retry-after']).toBe(retryAfter);
  });

  it.each([
    ['nobody listens', '127.0.0.1', 'ECONNREFUSED'],
    ['its socket is gone', '/nowhere', 'ENOENT'],
  ])('asks to come back when the database is not there: %s', async (_name, host, code) => {
    const server = { host, port: 1, user: 'alice', database: 'fleet' };
    const log = createLogger(loadConfig({ LOG_LEVEL: 'silent' }));
    const db = createKysely(createPool(server, { size: 1, log, statementTimeoutMs: null }));
    thrown = await sql`select 1`.execute(db).catch((error: unknown) => error);
    await db.destroy();
    lines.length = 0;
    const { problem, headers } = await problemOf('/throws');
    expect(problem).toMatchObject({ status: 503, code: 'overloaded' });
    expect(headers['retry-after']).toBe('5');
    expect(lines.join('')).toContain(code);
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

  it.each([
    ['bytes that are not HTTP', 'what?\r\n\r\n', '400 Bad Request', 'The request is not well-formed HTTP.'],
    [
      'an expectation that it does not know',
      'GET /throws HTTP/1.1\r\nhost: 127.0.0.1\r\nexpect: much\r\n\r\n',
      '417 Expectation Failed',
      'The header Expect may hold 100-continue only.',
    ],
  ])('answers %s, too', async (_name, sent, status, detail) => {
    if (!app.server.listening) await app.listen({ host: '127.0.0.1', port: 0 });
    const { port }: { port?: number } = Object(app.server.address());
    const socket = connect({ host: '127.0.0.1', port: Number(port) });
    socket.write(sent);
    const answer = await text(socket);
    expect(answer.startsWith(`HTTP/1.1 ${status}\r\n`)).toBe(true);
    expect(answer.toLowerCase()).toContain('\r\ncontent-type: application/problem+json\r\n');
    expect(JSON.parse(answer.slice(answer.indexOf('{')))).toMatchObject({ code: 'invalid_request', detail });
  });
});
