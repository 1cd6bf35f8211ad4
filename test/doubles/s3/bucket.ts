// The bucket of the double: files on disk, what is known of them in memory.
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { escapeXml, sendError, sendXml, type Call } from './protocol.ts';

interface StoredFile {
  path: string;
  sizeBytes: number;
  etag: string;
}

export interface PendingUpload {
  key: string;
  uploadId: string;
  initiated: Date;
  parts: Map<number, StoredFile>;
}

export interface Bucket {
  answer(call: Call, request: IncomingMessage, response: ServerResponse): Promise<void>;
  keys(): string[];
  pendingUploads(): PendingUpload[];
}

export function createBucket(dir: string, name: string, minPartBytes: number): Bucket {
  const files = new Map<string, StoredFile>();
  const uploads = new Map<string, PendingUpload>();

  async function receive(request: IncomingMessage): Promise<StoredFile> {
    const path = join(dir, randomUUID());
    const hash = createHash('md5');
    request.on('data', (chunk: Buffer) => hash.update(chunk));
    await pipeline(request, createWriteStream(path));
    return { path, sizeBytes: (await stat(path)).size, etag: `"${hash.digest('hex')}"` };
  }

  async function replace(key: string, file: StoredFile): Promise<void> {
    const old = files.get(key);
    files.set(key, file);
    if (old !== undefined) await rm(old.path);
  }

  function uploadOf({ key, query }: Call): PendingUpload | undefined {
    const upload = uploads.get(query.get('uploadId') ?? '');
    return upload?.key === key ? upload : undefined;
  }

  async function complete(upload: PendingUpload, wanted: number[], response: ServerResponse): Promise<void> {
    const parts = wanted.map((number) => upload.parts.get(number));
    const found = parts.filter((part) => part !== undefined);
    if (found.length !== wanted.length) return sendError(response, 400, 'InvalidPart');
    if (found.slice(0, -1).some(({ sizeBytes }) => sizeBytes < minPartBytes)) {
      return sendError(response, 400, 'EntityTooSmall');
    }
    const path = join(dir, randomUUID());
    for (const part of found)
      await pipeline(createReadStream(part.path), createWriteStream(path, { flags: 'a' }));
    const sizeBytes = found.reduce((sum, part) => sum + part.sizeBytes, 0);
    await replace(upload.key, { path, sizeBytes, etag: `"${upload.uploadId}-${found.length}"` });
    await forget(upload);
    sendXml(
      response,
      `<CompleteMultipartUploadResult><Bucket>${name}</Bucket><Key>${escapeXml(upload.key)}</Key></CompleteMultipartUploadResult>`,
    );
  }

  async function forget(upload: PendingUpload): Promise<void> {
    uploads.delete(upload.uploadId);
    for (const { path } of upload.parts.values()) await rm(path);
  }

  return {
    keys: () => [...files.keys()],
    pendingUploads: () => [...uploads.values()],
    async answer(call, request, response) {
      const { operation, key, query } = call;
      const file = files.get(key);
      switch (operation) {
        case 'HeadBucket':
          response.writeHead(200).end();
          return;
        case 'PutObject': {
          const stored = await receive(request);
          await replace(key, stored);
          response.writeHead(200, { etag: stored.etag }).end();
          return;
        }
        case 'GetObject':
          return file === undefined
            ? sendError(response, 404, 'NoSuchKey')
            : sendFile(file, request.headers.range, response);
        case 'HeadObject':
          if (file === undefined) response.writeHead(404).end();
          else response.writeHead(200, { 'content-length': file.sizeBytes, etag: file.etag }).end();
          return;
        case 'DeleteObject':
          files.delete(key);
          if (file !== undefined) await rm(file.path);
          response.writeHead(204).end();
          return;
        case 'CreateMultipartUpload': {
          const uploadId = randomUUID();
          uploads.set(uploadId, { key, uploadId, initiated: new Date(), parts: new Map() });
          return sendXml(
            response,
            `<InitiateMultipartUploadResult><Bucket>${name}</Bucket><Key>${escapeXml(key)}</Key><UploadId>${uploadId}</UploadId></InitiateMultipartUploadResult>`,
          );
        }
        case 'ListMultipartUploads':
          return sendXml(response, pageOf([...uploads.values()], query));
        default:
          return answerUpload(call, request, response);
      }
    },
  };

  async function answerUpload(call: Call, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const upload = uploadOf(call);
    if (upload === undefined) return sendError(response, 404, 'NoSuchUpload');
    if (call.operation === 'UploadPart') {
      const part = await receive(request);
      const number = Number(call.query.get('partNumber'));
      const old = upload.parts.get(number);
      upload.parts.set(number, part);
      if (old !== undefined) await rm(old.path);
      response.writeHead(200, { etag: part.etag }).end();
      return;
    }
    if (call.operation === 'AbortMultipartUpload') {
      await forget(upload);
      response.writeHead(204).end();
      return;
    }
    const numbers = [...(await text(request)).matchAll(/<PartNumber>(\d+)<\/PartNumber>/g)];
    await complete(
      upload,
      numbers.map(([, number]) => Number(number)),
      response,
    );
  }
}

async function sendFile(
  file: StoredFile,
  range: string | undefined,
  response: ServerResponse,
): Promise<void> {
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
  const start = Number(from ?? 0);
  const end = Math.min(Number(to ?? Infinity), file.sizeBytes - 1);
  if (range !== undefined && start > end) return sendError(response, 416, 'InvalidRange');
  response.writeHead(range === undefined ? 200 : 206, {
    'content-length': end - start + 1,
    etag: file.etag,
    ...(range === undefined ? {} : { 'content-range': `bytes ${start}-${end}/${file.sizeBytes}` }),
  });
  await pipeline(createReadStream(file.path, end < start ? {} : { start, end }), response);
}

/** Two on a page, so that whoever reads the list has to turn pages. */
function pageOf(uploads: PendingUpload[], query: URLSearchParams): string {
  const after = `${query.get('key-marker') ?? ''} ${query.get('upload-id-marker') ?? ''}`;
  const places = uploads
    .filter(({ key }) => key.startsWith(query.get('prefix') ?? ''))
    .map((upload) => ({ upload, place: `${upload.key} ${upload.uploadId}` }))
    .filter(({ place }) => place > after)
    .toSorted((a, b) => (a.place < b.place ? -1 : 1));
  const page = places.slice(0, 2).map(({ upload }) => upload);
  const entries = page.map(
    ({ key, uploadId, initiated }) =>
      `<Upload><Key>${escapeXml(key)}</Key><UploadId>${uploadId}</UploadId><Initiated>${initiated.toISOString()}</Initiated></Upload>`,
  );
  const last = page.at(-1);
  const next =
    places.length <= page.length || last === undefined
      ? '<IsTruncated>false</IsTruncated>'
      : `<IsTruncated>true</IsTruncated><NextKeyMarker>${escapeXml(last.key)}</NextKeyMarker><NextUploadIdMarker>${last.uploadId}</NextUploadIdMarker>`;
  return `<ListMultipartUploadsResult>${next}${entries.join('')}</ListMultipartUploadsResult>`;
}
