// GET /view: files as they are, with ranges and validators, or re-encoded as a preview.
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { lookup } from 'mime-types';
import sharp from 'sharp';
import { emptyAnswer, textAnswer, type Answer, type Exchange } from '../http/exchange.ts';
import type { Route } from '../http/router.ts';
import type { ComfyKnobs } from '../knobs.ts';
import { nodeError } from '../nodes/definition.ts';
import type { ComfyProcess } from '../process.ts';
import { conditionOf, rangeOf, type FileFacts } from './conditions.ts';
import { isFolderType, isInside, splitAnnotation, type Storage } from './storage.ts';

const ACTIVE_CONTENT = new Set([
  'text/html',
  'text/html-sandboxed',
  'application/xhtml+xml',
  'text/javascript',
  'application/javascript',
  'text/css',
  'image/svg+xml',
  'text/xml',
  'application/xml',
]);

export const viewRoutes = (server: ComfyProcess): Route[] => [
  { method: 'GET', path: '/view', handle: (exchange) => view(exchange, server) },
];

async function view({ query, request }: Exchange, { storage, knobs, traits }: ComfyProcess): Promise<Answer> {
  const located = locate(query, storage);
  if (typeof located === 'number') return emptyAnswer(located);
  const details = await stat(located).catch(() => undefined);
  if (details?.isFile() !== true) return emptyAnswer(404);

  const preview = query.get('preview');
  const channel = query.get('channel') ?? 'rgba';
  if (preview !== null || channel !== 'rgba') return reencode(located, preview, channel);
  const name = path.basename(located);
  const facts: FileFacts = { size: details.size, modifiedMs: details.mtimeMs };
  return sendFile(located, facts, contentHeaders(name, traits.hardenedView), request.headers, knobs);
}

/** The path of the file, or the status that says why there is none. */
function locate(query: URLSearchParams, storage: Storage): string | number {
  const given = query.get('filename');
  if (given === null) return 404;
  const { name, type } = splitAnnotation(given, 'output');
  if (name === '' || name.startsWith('/') || name.includes('..')) return 400;
  const folder = name === given ? (query.get('type') ?? 'output') : type;
  if (!isFolderType(folder)) return 400;
  const base = storage.directory(folder);
  const directory = path.resolve(base, query.get('subfolder') ?? '');
  if (!isInside(base, directory)) return 403;
  return path.join(directory, path.basename(name));
}

function contentHeaders(name: string, hardened: boolean): Record<string, string> {
  const type = lookup(name) || 'application/octet-stream';
  if (!hardened) return { 'Content-Type': type, 'Content-Disposition': `filename="${name}"` };
  if (ACTIVE_CONTENT.has(type)) {
    return {
      'Content-Type': 'application/octet-stream',
      'Content-Disposition': `attachment; filename="${name}"`,
      'X-Content-Type-Options': 'nosniff',
      'Cache-Control': 'no-store',
      Vary: 'Sec-Fetch-Dest',
    };
  }
  return {
    'Content-Type': type,
    'Content-Disposition': `filename="${name}"`,
    'X-Content-Type-Options': 'nosniff',
  };
}

function sendFile(
  file: string,
  facts: FileFacts,
  content: Record<string, string>,
  requestHeaders: Exchange['request']['headers'],
  knobs: ComfyKnobs,
): Answer {
  const condition = conditionOf(requestHeaders, facts);
  const validators = { ETag: condition.etag, 'Last-Modified': condition.lastModified };
  if (condition.status === 412) return textAnswer(412, '412: Precondition Failed');
  if (condition.status === 304) return { status: 304, headers: validators };

  const range = rangeOf(requestHeaders, facts);
  if (range === 'unsatisfiable') {
    return { status: 416, headers: { ...content, 'Content-Range': `bytes */${facts.size}` } };
  }
  const { start, end } = range ?? { start: 0, end: facts.size - 1 };
  return {
    status: range === undefined ? 200 : 206,
    headers: {
      ...content,
      ...validators,
      'Accept-Ranges': 'bytes',
      'Content-Length': end - start + 1,
      ...(range === undefined ? {} : { 'Content-Range': `bytes ${start}-${end}/${facts.size}` }),
    },
    body: facts.size === 0 ? '' : paced(createReadStream(file, { start, end }), knobs),
  };
}

/** Slows the body down, as long as the knob says so, or cuts it off. */
function paced(source: Readable, knobs: ComfyKnobs): Readable {
  const { cutDownloadAfterBytes } = knobs;
  if (knobs.downloadBytesPerSecond === null && cutDownloadAfterBytes === null) return source;
  return Readable.from(
    (async function* () {
      let sent = 0;
      for await (const chunk of source as AsyncIterable<Buffer>) {
        const rest = cutDownloadAfterBytes === null ? chunk.length : cutDownloadAfterBytes - sent;
        if (rest < chunk.length) {
          yield chunk.subarray(0, Math.max(0, rest));
          throw new Error('The connection was cut.');
        }
        yield chunk;
        sent += chunk.length;
        const { downloadBytesPerSecond: speed } = knobs;
        if (speed !== null) await delay((chunk.length / speed) * 1000);
      }
    })(),
  );
}

/** Opened by an image library: anything that is no picture raises, and so answers 500. */
async function reencode(file: string, preview: string | null, channel: string): Promise<Answer> {
  const image = sharp(file);
  await image.metadata().catch(() => {
    throw nodeError('PIL.UnidentifiedImageError', 'cannot identify image file');
  });
  if (preview !== null) {
    const [wanted = '', quality = '90'] = preview.split(';');
    const format = wanted === 'jpeg' ? 'jpeg' : 'webp';
    const body = await image.toFormat(format, { quality: Number(quality) }).toBuffer();
    return picture(body, `image/${format}`, file);
  }
  const body =
    channel === 'a'
      ? await image.ensureAlpha().extractChannel('alpha').png().toBuffer()
      : await image.removeAlpha().png().toBuffer();
  return picture(body, 'image/png', file);
}

const picture = (body: Buffer, type: string, file: string): Answer => ({
  status: 200,
  headers: { 'Content-Type': type, 'Content-Disposition': `filename="${path.basename(file)}"` },
  body,
});
