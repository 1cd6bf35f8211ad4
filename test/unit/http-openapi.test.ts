import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { problems } from '../../src/http/problems.ts';
import { idParamsSchema, pageOf, pageQuerySchema } from '../../src/http/schemas.ts';
import type { App } from '../../src/http/server.ts';
import { createTestApp } from '../support/http.ts';

const thing = z.object({ id: z.uuid(), size: z.int(), rank: z.int().min(1) }).meta({ id: 'TestThing' });
const wish = z.strictObject({ size: z.number().default(1) }).meta({ id: 'TestWish' });
z.object({}).meta({ id: 'TestUnused' });

const routes: FastifyPluginAsyncZod = async (app) => {
  app.get(
    '/things',
    {
      schema: {
        operationId: 'listThings',
        tags: ['jobs'],
        querystring: pageQuerySchema,
        response: { 200: pageOf(thing).describe('One page') },
      },
    },
    async () => ({ items: [], nextCursor: null }),
  );
  app.post(
    '/things/:id',
    {
      schema: {
        operationId: 'makeThing',
        tags: ['jobs'],
        params: idParamsSchema,
        body: wish,
        response: {
          201: thing,
          ...problems('job_not_found', 'output_not_found', 'conflict', 'storage_unavailable'),
        },
      },
    },
    async (request) => ({ id: request.params.id, size: request.body.size, rank: 1 }),
  );
  app.delete(
    '/things/:id',
    { schema: { operationId: 'endThing', params: idParamsSchema } },
    async () => ({}),
  );
  app.get(
    '/file',
    { config: { signed: true }, schema: { operationId: 'getFile', response: { 200: thing } } },
    async () => ({ id: '', size: 0, rank: 1 }),
  );
  app.get('/open', { config: { public: true }, schema: { operationId: 'getOpen' } }, async () => ({}));
};

interface Operation {
  operationId: string;
  security?: unknown[];
  parameters?: { name: string }[];
  responses: Record<string, { description: string; content: Record<string, { schema: unknown }> }>;
}

interface Document {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  tags: { name: string }[];
  components: { schemas: Record<string, unknown> };
}

describe('the OpenAPI document', () => {
  let app: App;
  let document: Document;

  beforeAll(async () => {
    ({ app } = await createTestApp({ routes: [routes], keys: { alice: 'secret' } }));
    document = (await app.inject('/openapi.json')).json<Document>();
  });
  afterAll(() => app.close());

  const operation = (path: string, method: string): Operation => {
    const found = document.paths[path]?.[method];
    if (found === undefined) throw new Error(`There is no ${method} ${path}.`);
    return found;
  };

  it('is OpenAPI 3.1, and names what has a route', () => {
    expect(document.openapi).toBe('3.1.0');
    expect(Object.keys(document.paths)).toEqual(
      expect.arrayContaining(['/things', '/things/{id}', '/health', '/health/ready', '/metrics']),
    );
    expect(Object.keys(document.paths).join()).not.toMatch(/docs|openapi/);
    expect(document.tags.map(({ name }) => name)).toEqual(['jobs', 'service']);
  });

  it('has no operation twice, neither for HEAD nor for methods that are refused', () => {
    const ids = Object.values(document.paths).flatMap((path) =>
      Object.values(path).map((each) => each.operationId),
    );
    expect(new Set(ids).size).toBe(ids.length);
    expect(Object.keys(document.paths['/things'] ?? {})).toEqual(['get']);
  });

  it('says of every route which errors it answers', () => {
    const { responses } = operation('/things/{id}', 'post');
    expect(Object.keys(responses)).toEqual([
      '201',
      '400',
      '401',
      '403',
      '404',
      '409',
      '413',
      '415',
      '429',
      '500',
      '503',
    ]);
    expect(responses['404']?.description).toMatch(/`job_not_found`.*`output_not_found`/s);
    expect(responses['404']?.content['application/problem+json']?.schema).toMatchObject({
      allOf: [
        { $ref: '#/components/schemas/Problem' },
        { properties: { code: { enum: ['job_not_found', 'output_not_found'] } } },
      ],
      examples: [
        { code: 'job_not_found', status: 404 },
        { code: 'output_not_found', status: 404 },
      ],
    });
    expect(responses['503']?.description).toMatch(/`storage_unavailable`.*`overloaded`/s);
    expect(operation('/things', 'get').responses['503']?.description).toMatch(/^`overloaded`[^`]*$/);
    expect(Object.keys(operation('/things', 'get').responses)).not.toContain('413');
  });

  it('says that a body may be refused where none is needed', () => {
    const { responses } = operation('/things/{id}', 'delete');
    expect(Object.keys(responses)).toEqual(expect.arrayContaining(['413', '415']));
  });

  it('says that a file need not be sent again', () => {
    const { responses } = operation('/file', 'get');
    expect(responses['304']?.description).toMatch(/If-None-Match/);
    expect(responses['304']).not.toHaveProperty('content');
  });

  it('asks for a key, except of public routes', () => {
    expect(document).toMatchObject({ security: [{ apiKey: [] }] });
    expect(operation('/things', 'get').security).toBeUndefined();
    expect(operation('/open', 'get').security).toEqual([]);
    expect(Object.keys(operation('/open', 'get').responses)).not.toContain('401');
  });

  it('describes every answer', () => {
    expect(operation('/things', 'get').responses['200']?.description).toBe('One page');
    expect(operation('/things/{id}', 'post').responses['201']?.description).toBe('Created');
  });

  it('holds the schemas that are used, under the names that they were given', () => {
    expect(Object.keys(document.components.schemas)).toEqual(['Health', 'Problem', 'TestThing', 'TestWish']);
    expect(document.components.schemas['TestWish']).not.toHaveProperty('required');
  });

  it('bounds whole numbers as their schemas do, and not as JavaScript does', () => {
    expect(document.components.schemas['TestThing']).toMatchObject({
      properties: { size: { type: 'integer' }, rank: { type: 'integer', minimum: 1 } },
    });
    expect(JSON.stringify(document)).not.toContain(String(Number.MAX_SAFE_INTEGER));
  });

  it('refers to nothing that is not there', () => {
    for (const [, name = ''] of JSON.stringify(document).matchAll(/"#\/components\/schemas\/([^"]+)"/g)) {
      expect(document.components.schemas).toHaveProperty(name);
    }
  });

  it('is the same every time', async () => {
    const { app: other } = await createTestApp({ routes: [routes] });
    expect((await other.inject('/openapi.json')).body).toBe((await app.inject('/openapi.json')).body);
    await other.close();
  });

  it('is shown by a page that loads nothing from elsewhere', async () => {
    const { body, headers } = await app.inject('/docs');
    expect(body).not.toMatch(/(?:src|href)="(?:https?:)?\/\//);
    expect(headers['content-security-policy']).toContain("default-src 'none'; script-src 'self'");
    expect((await app.inject('/')).headers.location).toBe('/docs');
  });
});
