// Jobs sent as a form: their JSON in one field, and the files that their inputs name.
import type { Multipart } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import type { Asset, Assets } from '../assets/service.ts';
import { ServiceError } from '../errors.ts';
import { parseJson } from '../http/json-body.ts';
import { guardUpload, receiveFiles } from '../http/receive-files.ts';
import type { FormField } from './inputs.ts';
import { isPlainObject } from './json-value.ts';

/** The `preValidation` of a route that takes its body as a form too, with the JSON in `field`: what it makes is checked like JSON. */
export function formAsBody(
  assets: Pick<Assets, 'save'>,
  field: FormField,
): (request: FastifyRequest) => Promise<void> {
  return async (request) => {
    if (!request.isMultipart()) return;
    request.body = await receiveFiles(request, () => readForm(request, assets, field));
    // Storing the files may have outlasted the client's patience. Only with a key can it still find out what became of its request.
    if (request.socket.destroyed && request.headers['idempotency-key'] === undefined) {
      throw new ServiceError('invalid_request', 'The connection was closed before the request was accepted.');
    }
  };
}

/** The body that a JSON request would have had: every input that names a file part names the stored asset instead. */
async function readForm(
  request: FastifyRequest,
  assets: Pick<Assets, 'save'>,
  field: string,
): Promise<unknown> {
  const files = new Map<string, Asset>();
  let body: unknown;
  // The store has the limit of the size; the form's own would cut a file off in silence.
  for await (const part of request.parts({ limits: { fileSize: Infinity } })) {
    if (part.fieldname === field && body === undefined) {
      body = parseJson(await textOf(part, request.routeOptions.bodyLimit), `The field "${field}"`, field);
    } else if (part.type === 'file') files.set(part.fieldname, await storePart(part, files, assets));
    else throw invalid(`The form has a field "${part.fieldname}" that is not expected here.`, part.fieldname);
  }
  if (body === undefined) {
    throw invalid(`The form needs a field "${field}" that holds the ${field} as JSON.`, field);
  }
  return withAssets(body, files);
}

type FilePart = Extract<Multipart, { type: 'file' }>;

async function storePart(
  part: FilePart,
  files: ReadonlyMap<string, Asset>,
  assets: Pick<Assets, 'save'>,
): Promise<Asset> {
  if (files.has(part.fieldname)) throw invalid(`The form has two files "${part.fieldname}".`, part.fieldname);
  const bytes = guardUpload(part.file);
  try {
    const { asset } = await assets.save(bytes, { fileName: part.filename, contentType: part.mimetype });
    return asset;
  } catch (error) {
    if (!(error instanceof ServiceError) || error.code !== 'payload_too_large') throw error;
    // Of many files, the store cannot tell which.
    throw new ServiceError(error.code, error.message, { field: part.fieldname, cause: error });
  }
}

/** Of a field, or of a file with the JSON, as browsers and curl send it when they are given its type. */
async function textOf(part: Multipart, maxBytes: number): Promise<string> {
  if (part.type === 'file') return readText(part, maxBytes);
  const { value, fieldname, fieldnameTruncated, valueTruncated } = part;
  if (fieldnameTruncated || valueTruncated) throw tooLarge(fieldname);
  return String(value);
}

async function readText({ file, fieldname }: FilePart, maxBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of guardUpload(file)) {
    const bytes = Buffer.from(chunk);
    size += bytes.length;
    if (size > maxBytes) throw tooLarge(fieldname);
    chunks.push(bytes);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Whatever else is wrong with the body is found by its schema. */
function withAssets(body: unknown, files: ReadonlyMap<string, Asset>): unknown {
  const used = new Set<string>();
  const replaced = replaceFiles(body);
  const unused = [...files.keys()].find((name) => !used.has(name));
  if (unused !== undefined) {
    throw invalid(`No input names the file "${unused}". Give one the field "file": "${unused}".`, unused);
  }
  return replaced;

  /** In the inputs of a job, and in those of every item of a batch. */
  function replaceFiles(job: unknown): unknown {
    if (!isPlainObject(job)) return job;
    const { inputs, items } = job;
    return {
      ...job,
      ...(Array.isArray(inputs) ? { inputs: inputs.map(replaceFile) } : {}),
      ...(Array.isArray(items) ? { items: items.map(replaceFiles) } : {}),
    };
  }

  function replaceFile(input: unknown): unknown {
    if (!isPlainObject(input)) return input;
    const { file, ...rest } = input;
    const asset = typeof file === 'string' ? files.get(file) : undefined;
    if (typeof file !== 'string' || asset === undefined || 'assetId' in rest) return input;
    used.add(file);
    return { ...rest, assetId: asset.id };
  }
}

function tooLarge(field: string): ServiceError {
  return new ServiceError('payload_too_large', `The field "${field}" is too large.`, { field });
}

function invalid(detail: string, field: string): ServiceError {
  return new ServiceError('invalid_request', detail, { field });
}
