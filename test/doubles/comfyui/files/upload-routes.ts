// POST /upload/image and /upload/mask, with the renaming rules of the real server.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import sharp from 'sharp';
import { emptyAnswer, jsonAnswer, type Answer, type Exchange } from '../http/exchange.ts';
import type { Route } from '../http/router.ts';
import { nodeError } from '../nodes/definition.ts';
import { assertDiskSpace } from '../nodes/encode.ts';
import type { ComfyProcess } from '../process.ts';
import { isObject, parsePythonJson } from '../support/python.ts';
import { parseMultipart, type Part } from './multipart.ts';
import { isFolderType, isInside } from './storage.ts';

/** Changes what is written before it is written; a failed check inside is lost, as in the real server. */
type Prepare = (bytes: Buffer) => Promise<Buffer>;

export const uploadRoutes = (server: ComfyProcess): Route[] => [
  { method: 'POST', path: '/upload/image', handle: (exchange) => upload(exchange, server) },
  { method: 'POST', path: '/upload/mask', handle: (exchange) => uploadMask(exchange, server) },
];

async function upload(exchange: Exchange, server: ComfyProcess): Promise<Answer> {
  const parts = await readParts(exchange);
  return store(parts, server, (bytes) => Promise.resolve(bytes));
}

async function uploadMask(exchange: Exchange, server: ComfyProcess): Promise<Answer> {
  const parts = await readParts(exchange);
  const reference: unknown = parsePythonJson(textOf(parts, 'original_ref') ?? '');
  return store(parts, server, (bytes) => applyMask(bytes, reference, server));
}

async function readParts(exchange: Exchange): Promise<Part[]> {
  const body = await exchange.readBody();
  return parseMultipart(exchange.request.headers['content-type'], body) ?? [];
}

async function store(parts: readonly Part[], server: ComfyProcess, prepare: Prepare): Promise<Answer> {
  const { storage, counters, knobs } = server;
  const image = parts.find(({ name }) => name === 'image');
  if (image === undefined) return emptyAnswer(400);
  if (image.filename === undefined) throw nodeError('AttributeError', "'str' object has no attribute 'file'");
  const type = textOf(parts, 'type') ?? 'input';
  if (!isFolderType(type))
    throw nodeError('TypeError', 'expected str, bytes or os.PathLike object, not NoneType');
  if (image.filename === '') return emptyAnswer(400);

  const subfolder = textOf(parts, 'subfolder') ?? '';
  const base = storage.directory(type);
  const folder = path.resolve(base, path.normalize(subfolder));
  // aiohttp takes leading slashes off the name that a client gives.
  const filename = image.filename.replace(/^\/+/u, '');
  if (!isInside(base, folder) || !isInside(base, path.resolve(folder, filename))) return emptyAnswer(400);
  await mkdir(folder, { recursive: true });

  const overwrites = ['true', '1'].includes(textOf(parts, 'overwrite') ?? '');
  const target = overwrites
    ? { name: filename, isKnown: false }
    : await freeName(folder, filename, image.bytes);
  if (!target.isKnown) {
    assertDiskSpace({ knobs }, target.name);
    await writeFile(path.join(folder, target.name), await prepare(image.bytes));
  }
  counters.uploads += 1;
  return jsonAnswer({ name: target.name, subfolder, type });
}

/** The same content under the same name is not written again; other content gets ` (1)`, ` (2)`, … */
async function freeName(
  folder: string,
  filename: string,
  bytes: Buffer,
): Promise<{ name: string; isKnown: boolean }> {
  const { name: stem, ext } = path.parse(filename);
  const directory = path.dirname(filename);
  const hash = sha256(bytes);
  for (let count = 0; ; count += 1) {
    const name = count === 0 ? filename : path.join(directory, `${stem} (${count})${ext}`);
    const file = path.join(folder, name);
    if (!existsSync(file)) return { name, isKnown: false };
    if (sha256(await readFile(file)) === hash) return { name, isKnown: true };
  }
}

async function applyMask(mask: Buffer, reference: unknown, { storage }: ComfyProcess): Promise<Buffer> {
  const { filename, subfolder = '', type = 'output' } = isObject(reference) ? reference : {};
  if (
    typeof filename !== 'string' ||
    typeof subfolder !== 'string' ||
    typeof type !== 'string' ||
    !isFolderType(type)
  ) {
    throw nodeError('KeyError', "'filename'");
  }
  const original = path.resolve(storage.directory(type), subfolder, path.basename(filename));
  if (!isInside(storage.directory(type), original) || !existsSync(original)) return mask;
  const { width, height } = await sharp(original)
    .metadata()
    .catch(() => {
      throw nodeError('PIL.UnidentifiedImageError', 'cannot identify image file');
    });
  const alpha = await sharp(mask)
    .ensureAlpha()
    .extractChannel('alpha')
    .resize({ width, height, fit: 'fill' })
    .toBuffer();
  return sharp(original).removeAlpha().joinChannel(alpha).png().toBuffer();
}

const textOf = (parts: readonly Part[], name: string): string | undefined =>
  parts.find((part) => part.name === name)?.bytes.toString('utf8');

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
