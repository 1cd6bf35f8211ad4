// The routes of assets: upload a file, look it up, read its bytes.
import { Readable } from 'node:stream';
import type { Multipart, MultipartFile } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { ServiceError } from '../errors.ts';
import { problems } from '../http/problems.ts';
import { guardUpload, receiveFiles } from '../http/receive-files.ts';
import type { SignedLinks } from '../http/signed-links.ts';
import { assetIdSchema, assetSchema, contentUrl, presentAsset, type Asset } from './asset.ts';
import { bytesResponse, fileQuerySchema, sendAsset } from './send.ts';
import type { Assets } from './service.ts';

const uploadSchema = {
  operationId: 'uploadAsset',
  tags: ['assets'],
  summary: 'Upload a file',
  description:
    'Send a form with one file field `file`, or the bytes alone as the body with any other content type. ' +
    'The same bytes are stored once: 201 when they are new, 200 when they are known.',
  consumes: ['multipart/form-data'],
  querystring: z.strictObject({
    fileName: z.string().min(1).max(1000).optional().describe('Name of the file, for a body that has none'),
  }),
  // Read as a stream by the handler; this is for the documentation.
  body: z.unknown().meta({
    type: 'object',
    properties: { file: { type: 'string', format: 'binary' } },
    required: ['file'],
  }),
  response: {
    200: assetSchema,
    201: assetSchema,
    ...problems('payload_too_large', 'storage_full', 'storage_unavailable'),
  },
};

const paramsSchema = z.strictObject({ id: assetIdSchema });

const linkSchema = {
  operationId: 'createAssetLink',
  tags: ['assets'],
  summary: 'Make a link that opens a file without an API key',
  description:
    'For whoever has no key. It opens this one file, to be read only. It cannot be taken back before its time is over.',
  params: paramsSchema,
  body: z
    .strictObject({
      expiresInSeconds: z.int().min(1).max(604_800).default(86_400).describe('How long the link works'),
    })
    .prefault({}),
  response: {
    201: z.object({
      url: z.string().describe('Below the address of this service'),
      expiresAt: z.iso
        .datetime()
        .nullable()
        .describe('ISO 8601, UTC; null while the service has no API keys, and nobody needs a signature'),
    }),
    ...problems('asset_not_found'),
  },
};

/** Needs @fastify/multipart. */
export function assetRoutes(
  assets: Assets,
  links: Pick<SignedLinks, 'links' | 'link'>,
): FastifyPluginAsyncZod {
  return async (app) => {
    await app.register(uploadRoute(assets, links));

    app.get(
      '/assets/:id',
      {
        schema: {
          operationId: 'getAsset',
          tags: ['assets'],
          summary: 'Look up a file',
          params: paramsSchema,
          response: { 200: assetSchema, ...problems('asset_not_found') },
        },
      },
      async (request) => presentAsset(await find(assets, request.params.id), await links.links()),
    );

    app.post('/assets/:id/links', { schema: linkSchema }, async (request, reply) => {
      const { id } = await find(assets, request.params.id);
      const { url, expiresAt } = await links.link(contentUrl(id), request.body.expiresInSeconds * 1000);
      return reply.code(201).send({ url, expiresAt: expiresAt?.toISOString() ?? null });
    });

    app.get(
      '/assets/:id/content',
      {
        config: { signed: true },
        schema: {
          operationId: 'getAssetContent',
          tags: ['assets'],
          summary: 'Read the bytes of a file, whole or a range',
          params: paramsSchema,
          querystring: fileQuerySchema,
          response: {
            200: bytesResponse('The whole file'),
            206: bytesResponse('The part that the Range header names'),
            ...problems('asset_not_found', 'range_not_satisfiable', 'link_expired', 'storage_unavailable'),
          },
        },
      },
      async (request, reply) => {
        const asset = await find(assets, request.params.id);
        const disposition = request.query.download ? 'attachment' : 'inline';
        return sendAsset(request, reply, assets, asset, { fileName: asset.fileName, disposition });
      },
    );
  };
}

/** By itself, because here a JSON or text file is bytes like any other. */
function uploadRoute(assets: Assets, links: Pick<SignedLinks, 'links'>): FastifyPluginAsyncZod {
  return async (app) => {
    app.removeContentTypeParser(['application/json', 'text/plain']);
    app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));

    app.post('/assets', { schema: uploadSchema }, async (request, reply) => {
      const { asset, createdNew } = await receive(request, assets, request.query.fileName ?? null);
      return reply
        .code(createdNew ? 201 : 200)
        .header('location', `/assets/${asset.id}`)
        .send(presentAsset(asset, await links.links()));
    });
  };
}

async function find(assets: Assets, id: string): Promise<Asset> {
  const asset = await assets.get(id);
  if (asset === null) throw new ServiceError('asset_not_found', `There is no asset ${id}.`);
  return asset;
}

type Saved = Awaited<ReturnType<Assets['save']>>;

function receive(request: FastifyRequest, assets: Assets, fileName: string | null): Promise<Saved> {
  return receiveFiles(request, () =>
    request.isMultipart() ? saveFormFile(request, assets, fileName) : saveBody(request, assets, fileName),
  );
}

async function saveFormFile(
  request: FastifyRequest,
  assets: Assets,
  fileName: string | null,
): Promise<Saved> {
  let saved: Saved | null = null;
  // The store has the limit of the size; the form's own would cut the file off in silence.
  for await (const part of request.parts({ limits: { fileSize: Infinity } })) {
    if (!isExpectedFile(part) || saved !== null) {
      throw new ServiceError('invalid_request', 'The form must hold one file, in a field "file", only.', {
        field: part.fieldname,
      });
    }
    saved = await assets.save(guardUpload(part.file), {
      fileName: fileName ?? part.filename ?? null,
      contentType: part.mimetype,
    });
  }
  if (saved === null) throw missing();
  return saved;
}

function isExpectedFile(part: Multipart): part is MultipartFile {
  return part.type === 'file' && part.fieldname === 'file';
}

async function saveBody(request: FastifyRequest, assets: Assets, fileName: string | null): Promise<Saved> {
  const { body } = request;
  if (!(body instanceof Readable)) throw missing();
  if (Number(request.headers['content-length'] ?? 0) > assets.maxBytes) {
    throw new ServiceError('payload_too_large', `The file is larger than ${assets.maxBytes} bytes.`);
  }
  return assets.save(guardUpload(body), {
    fileName,
    contentType: request.headers['content-type'] ?? null,
  });
}

function missing(): ServiceError {
  return new ServiceError(
    'invalid_request',
    'Send a file: a form with a field "file", or the bytes as body.',
    {
      field: 'file',
    },
  );
}
