// The API's description: an OpenAPI document made from the routes' own schemas, and the Swagger UI that shows it.
import { STATUS_CODES } from 'node:http';
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifyInstance, FastifySchema, RouteOptions } from 'fastify';
import {
  jsonSchemaTransform,
  jsonSchemaTransformObject,
  type FastifyPluginAsyncZod,
} from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { ErrorCode } from '../errors.ts';
import { withProblems } from './problems.ts';

const title = 'Comfyfleet';

const introduction = `
Runs ComfyUI workflows as jobs on rented GPU machines.

1. \`POST /jobs\` with a workflow in ComfyUI's API format. The answer comes at once, with the job's id.
2. Follow the job with \`GET /jobs/{id}\` or as a stream of events. A cold start takes minutes; the job says what it waits for.
3. Fetch the outputs from the links of the finished job.

Errors are problem details (RFC 9457): show \`detail\` to a person, branch on \`code\`. Every answer carries an \`X-Request-Id\`.
`.trim();

declare module 'fastify' {
  interface FastifySchema {
    /** The field that holds the JSON of the body where it comes as a form. */
    formField?: string;
  }
}

/** The groups of the document, in its order. Those without a route are left out. */
const tags = [
  { name: 'jobs', description: 'Run workflows and fetch what they produce' },
  { name: 'assets', description: 'Uploaded inputs and produced outputs' },
  { name: 'instances', description: 'Machines that run ComfyUI' },
  { name: 'offers', description: 'Machines that can be rented now' },
  { name: 'fleet', description: 'Scaling, spending and limits' },
  { name: 'webhooks', description: 'Notices of finished jobs' },
  { name: 'service', description: 'Health and metrics' },
];

/** Requests that the service makes of others, by name, as OpenAPI describes them. */
export type WebhookDescriptions = Record<string, object>;

/** Begins to collect the routes; register it before them. */
export async function describeApi(
  app: FastifyInstance,
  version: string,
  webhooks: WebhookDescriptions,
): Promise<void> {
  app.addHook('onRoute', describeCommonParts);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title, version, description: introduction, license: { name: 'MIT', identifier: 'MIT' } },
      servers: [{ url: '/', description: 'This service' }],
      tags,
      components: {
        securitySchemes: {
          apiKey: { type: 'http', scheme: 'bearer', description: 'An API key of the service' },
        },
      },
      security: [{ apiKey: [] }],
    },
    convertConstToEnum: false,
    transform: describeForms,
    transformObject: (document) => tidy(jsonSchemaTransformObject(document), webhooks),
  });
}

/** `/docs` and `/openapi.json`, open to everybody: they say how to call, not what is there. */
export const documentationRoutes: FastifyPluginAsyncZod = async (app) => {
  app.addHook('onRoute', (route) => {
    route.config = { ...route.config, public: true };
    route.logLevel = 'warn';
  });
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    theme: { title: `${title} API` },
    uiConfig: {
      layout: 'BaseLayout',
      docExpansion: 'list',
      displayRequestDuration: true,
      defaultModelsExpandDepth: 0,
      tryItOutEnabled: true,
    },
    staticCSP: documentationPolicy,
  });
  app.get('/openapi.json', { schema: { hide: true } }, async (_request, reply) => {
    reply.serializer(JSON.stringify).type('application/json');
    return app.swagger();
  });
  app.get('/', { schema: { hide: true } }, (_request, reply) => reply.redirect('/docs'));
};

/** Swagger UI loads nothing from elsewhere; it sets styles on its elements. */
const documentationPolicy = {
  'default-src': "'none'",
  'script-src': "'self'",
  'style-src': "'self' 'unsafe-inline'",
  'img-src': "'self' data:",
  'font-src': "'self' data:",
  'connect-src': "'self'",
  'base-uri': "'none'",
  'form-action': "'none'",
  'frame-ancestors': "'none'",
};

/** Adds what holds for every route of its kind: the errors that it may answer, and that a public one needs no key. */
function describeCommonParts({ schema, config, method }: RouteOptions): void {
  if (schema === undefined) return;
  const isPublic = config?.public === true;
  if (isPublic) schema.security = [];
  // Without a key where the link has a signature.
  if (config?.signed === true) schema.security = [{ apiKey: [] }, {}];
  if (schema.hide === true || config?.unlimited === true) return;
  const own: object = Object(schema.response ?? {});
  // A link opens a file, which whoever has it need not fetch again.
  const cached = config?.signed === true ? { 304: notModified } : {};
  const mayHaveBody = [method].flat().some((name) => name !== 'GET' && name !== 'HEAD');
  schema.response = withProblems({ ...cached, ...own }, commonCodes(schema, { isPublic, mayHaveBody }));
}

const notModified = z.null().describe('The file is still the one that the header If-None-Match names');

/** A body is read, and may be refused, also where none is needed. */
function commonCodes(
  schema: FastifySchema,
  { isPublic, mayHaveBody }: { isPublic: boolean; mayHaveBody: boolean },
): ErrorCode[] {
  const hasInput = [schema.body, schema.querystring, schema.params].some((part) => part !== undefined);
  return [
    ...(hasInput ? (['invalid_request'] as const) : []),
    ...(isPublic ? [] : (['unauthorized', 'forbidden'] as const)),
    ...(mayHaveBody ? (['payload_too_large', 'unsupported_media_type'] as const) : []),
    'rate_limited',
    'internal',
    'overloaded',
  ];
}

/**
 * A body that comes as a form too has another schema there: one field with the JSON, and files of any name. The plugins know only one
 * schema for all content types, unless the body itself says otherwise.
 */
const describeForms: typeof jsonSchemaTransform = (route) => {
  const { schema, url } = jsonSchemaTransform(route);
  const field = route.schema?.formField;
  if (field === undefined) return { schema, url };
  const { body, consumes = [] } = schema;
  const contents = consumes.map((type) => {
    const isForm = type === 'multipart/form-data';
    return [type, { schema: isForm ? formSchema(field, body) : body }];
  });
  return { schema: { ...schema, body: { content: Object.fromEntries(contents) } }, url };
};

function formSchema(field: string, body: unknown): object {
  return {
    type: 'object',
    properties: { [field]: body },
    required: [field],
    additionalProperties: {
      type: 'string',
      format: 'binary',
      description: 'A file, under the name that an input gives in its `file`',
    },
  };
}

type Document = ReturnType<typeof jsonSchemaTransformObject>;

/** The parts of the document that are read here. */
const draftSchema = z.looseObject({
  paths: z
    .record(
      z.string(),
      z.record(
        z.string(),
        z.looseObject({
          tags: z.array(z.string()).default([]),
          responses: z.record(z.string(), z.looseObject({ description: z.string() })).default({}),
        }),
      ),
    )
    .default({}),
  webhooks: z.record(z.string(), z.unknown()).default({}),
  components: z.looseObject({ schemas: z.record(z.string(), z.looseObject({})).default({}) }).prefault({}),
});

type Draft = z.output<typeof draftSchema>;

/** Leaves out what nothing refers to, and names and describes the rest as a person would. */
function tidy(document: Document, webhooks: WebhookDescriptions): Document {
  const draft = renameInputs(draftSchema.parse({ ...document, webhooks }));
  const operations = Object.values(draft.paths).flatMap((path) => Object.values(path));
  for (const { responses } of operations) {
    for (const [status, response] of Object.entries(responses)) {
      if (response.description === 'Default Response') response.description = STATUS_CODES[status] ?? status;
    }
  }
  const usedTags = new Set(operations.flatMap((operation) => operation.tags));
  const schemas = draft.components.schemas;
  const names = [...usedSchemas(draft)].toSorted();
  return {
    ...draft,
    tags: tags.filter(({ name }) => usedTags.has(name)),
    components: {
      ...draft.components,
      schemas: Object.fromEntries(names.map((name) => [name, schemas[name] ?? {}])),
    },
  };
}

/** A schema with an id is a component twice: `Job` as an answer, `JobInput` as a request. One that is only requested gets the plain name. */
function renameInputs(draft: Draft): Draft {
  const used = usedSchemas(draft);
  const text = JSON.stringify(draft).replaceAll(
    /"#\/components\/schemas\/([^"]+)Input"/g,
    (reference, name: string) => (used.has(name) ? reference : `"#/components/schemas/${name}"`),
  );
  const renamed = draftSchema.parse(JSON.parse(text, withoutBoundsOfJavaScript));
  const schemas = renamed.components.schemas;
  for (const name of used) {
    const plain = name.replace(/Input$/, '');
    if (plain !== name && !used.has(plain)) schemas[plain] = schemas[name] ?? {};
  }
  return renamed;
}

/** That a whole number is no larger than JavaScript's can be says nothing of a count, and makes examples such as -9007199254740991. */
function withoutBoundsOfJavaScript(key: string, value: unknown): unknown {
  const isBound = key === 'minimum' || key === 'maximum';
  return isBound && Math.abs(Number(value)) === Number.MAX_SAFE_INTEGER ? undefined : value;
}

/** The names of all schemas that the paths refer to, directly or through another. */
function usedSchemas(draft: Draft): Set<string> {
  const used = new Set<string>();
  const visit = (part: unknown) => {
    for (const [, name = ''] of JSON.stringify(part).matchAll(/"#\/components\/schemas\/([^"]+)"/g)) {
      if (used.has(name)) continue;
      used.add(name);
      visit(draft.components.schemas[name] ?? null);
    }
  };
  visit(draft.paths);
  visit(draft.webhooks);
  return used;
}
