// Sends the bytes of an asset: whole or a part, cached for good, and never as something that a browser runs.
import { Readable } from 'node:stream';
import { create as createDisposition } from 'content-disposition';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { parse as parseRange } from 'range-parser';
import { z } from 'zod';
import { ServiceError } from '../errors.ts';
import { flagOfQuery } from '../http/schemas.ts';
import type { Asset } from './asset.ts';
import { isSafeToShow } from './content-type.ts';
import type { Assets } from './service.ts';
import { lengthOf, type ByteRange } from './store.ts';

export interface SendOptions {
  /** What a browser saves it as. */
  fileName: string | null;
  /** `inline` shows it in the browser where its type is harmless; everything else is sent as an attachment all the same. */
  disposition: 'inline' | 'attachment';
}

/** The query of a route that sends a file. What belongs to a signed link was checked before. */
export const fileQuerySchema = z.strictObject({
  download: flagOfQuery(z.boolean().default(false).describe('Save it instead of showing it')),
  expires: z.string().max(20).optional().describe('Of a link with a signature'),
  signature: z.string().max(100).optional().describe('Of a link with a signature'),
});

/** How OpenAPI shows an answer of bytes; Fastify sends streams without looking at it. */
export function bytesResponse(description: string) {
  const schema = z.unknown().meta({ type: 'string', format: 'binary' });
  return { description, content: { 'application/octet-stream': { schema } } };
}

/** Answers GET and HEAD. Rejects with `range_not_satisfiable` or `asset_not_found` before the first byte. */
export async function sendAsset(
  request: FastifyRequest,
  reply: FastifyReply,
  assets: Pick<Assets, 'read'>,
  asset: Pick<Asset, 'id' | 'sizeBytes' | 'contentType'>,
  options: SendOptions,
): Promise<FastifyReply> {
  const etag = `"${asset.id}"`;
  if (matches(request.headers['if-none-match'], etag)) {
    return reply.code(304).headers(cachingHeaders(etag)).send(nothing());
  }
  const range = request.method === 'HEAD' ? null : wantedRange(request, reply, asset.sizeBytes, etag);
  // Opened first: an answer that has begun cannot become an error.
  const bytes = request.method === 'HEAD' ? nothing() : await assets.read(asset.id, range ?? undefined);
  reply.headers({ ...cachingHeaders(etag), ...contentHeaders(asset.contentType, options) });
  if (range === null) return reply.code(200).header('content-length', asset.sizeBytes).send(bytes);
  return reply
    .code(206)
    .header('content-length', lengthOf(range))
    .header('content-range', `bytes ${range.start}-${range.end}/${asset.sizeBytes}`)
    .send(bytes);
}

function matches(ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  const candidates = ifNoneMatch.split(',').map((candidate) => candidate.trim().replace(/^W\//, ''));
  return candidates.some((candidate) => candidate === '*' || candidate === etag);
}

/** The one part that was asked for; null for the whole, which also answers what we do not understand or several parts (RFC 9110). */
function wantedRange(
  request: FastifyRequest,
  reply: FastifyReply,
  sizeBytes: number,
  etag: string,
): ByteRange | null {
  const { range: header, 'if-range': ifRange } = request.headers;
  if (header === undefined || (ifRange !== undefined && ifRange !== etag)) return null;
  const parsed = parseRange(sizeBytes, header);
  if (parsed.type !== 'bytes') return null;
  if (parsed.code === unsatisfiable && parsed.ranges.length === 0) {
    reply.header('content-range', `bytes */${sizeBytes}`);
    throw new ServiceError('range_not_satisfiable', `The file has ${sizeBytes} bytes.`);
  }
  const [range, another] = parsed.ranges;
  return parsed.code !== 0 || range === undefined || another !== undefined ? null : range;
}

/** Chromium shows a video that is opened by itself in a page of its own, which has to load the video once more. */
const policyToShow = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'";
const policyToKeepInert = "default-src 'none'; sandbox";

/** Of `range-parser` 2: a part lies beyond the end. Those that do not are in `ranges`. */
const unsatisfiable = 2;

function cachingHeaders(etag: string): Record<string, string> {
  // The bytes under one id never change, but not everybody may see them.
  return { etag, 'cache-control': 'private, max-age=31536000, immutable', 'accept-ranges': 'bytes' };
}

function contentHeaders(contentType: string, { fileName, disposition }: SendOptions): Record<string, string> {
  const safe = isSafeToShow(contentType);
  return {
    'content-type': contentType.startsWith('text/') ? `${contentType}; charset=utf-8` : contentType,
    'content-disposition': createDisposition(fileName ?? undefined, {
      type: safe ? disposition : 'attachment',
    }),
    'x-content-type-options': 'nosniff',
    'content-security-policy': safe ? policyToShow : policyToKeepInert,
    // A frontend of another origin may show it; whether it gets it at all is decided before.
    'cross-origin-resource-policy': 'cross-origin',
  };
}

/** An empty stream rather than no payload: Fastify then leaves the length alone that HEAD has to tell. */
function nothing(): Readable {
  return Readable.from([]);
}
