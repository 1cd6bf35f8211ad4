// A job sent as a form: its JSON in the field `job`, and the files that its inputs name.
import type { Multipart } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import type { Asset, Assets } from '../assets/service.ts';
import { ServiceError } from '../errors.ts';
import { guardStream, type StreamFailure } from '../support/guarded-stream.ts';
import { isPlainObject } from './json-value.ts';

const STALL_MS = 60_000;

/** The body that a JSON request would have had: every input that names a file part names the stored asset instead. */
export async function readJobForm(request: FastifyRequest, assets: Pick<Assets, 'save'>): Promise<unknown> {
  const files = new Map<string, Asset>();
  let body: unknown;
  try {
    // The store has the limit of the size; the form's own would cut a file off in silence.
    for await (const part of request.parts({ limits: { fileSize: Infinity } })) {
      if (part.type === 'file') files.set(part.fieldname, await storePart(part, files, assets));
      else if (part.fieldname === 'job' && body === undefined) body = parseJob(part);
      else
        throw invalid(`The form has a field "${part.fieldname}" that is not expected here.`, part.fieldname);
    }
  } catch (error) {
    // The client is still sending; it reads the answer only if somebody takes the rest.
    request.raw.unpipe();
    request.raw.resume();
    throw error;
  }
  if (body === undefined) throw invalid('The form needs a field "job" that holds the job as JSON.', 'job');
  return withAssets(body, files);
}

type FilePart = Extract<Multipart, { type: 'file' }>;
type FieldPart = Exclude<Multipart, FilePart>;

async function storePart(
  part: FilePart,
  files: ReadonlyMap<string, Asset>,
  assets: Pick<Assets, 'save'>,
): Promise<Asset> {
  if (files.has(part.fieldname)) throw invalid(`The form has two files "${part.fieldname}".`, part.fieldname);
  const bytes = guardStream(part.file, { stallMs: STALL_MS, failure: uploadFailure });
  const { asset } = await assets.save(bytes, { fileName: part.filename, contentType: part.mimetype });
  return asset;
}

function parseJob({ value, fieldnameTruncated, valueTruncated }: FieldPart): unknown {
  if (fieldnameTruncated || valueTruncated) {
    throw new ServiceError('payload_too_large', 'The field "job" is too large.', { field: 'job' });
  }
  try {
    return typeof value === 'string' ? JSON.parse(value) : value;
  } catch {
    throw invalid('The field "job" is not valid JSON.', 'job');
  }
}

/** Whatever else is wrong with the body is found by its schema. */
function withAssets(body: unknown, files: ReadonlyMap<string, Asset>): unknown {
  const used = new Set<string>();
  const inputs =
    isPlainObject(body) && Array.isArray(body['inputs'])
      ? body['inputs'].map((input: unknown) => {
          if (!isPlainObject(input)) return input;
          const { file, ...rest } = input;
          const asset = typeof file === 'string' ? files.get(file) : undefined;
          if (typeof file !== 'string' || asset === undefined || 'assetId' in rest) return input;
          used.add(file);
          return { ...rest, assetId: asset.id };
        })
      : undefined;
  const unused = [...files.keys()].find((name) => !used.has(name));
  if (unused !== undefined) {
    throw invalid(`No input names the file "${unused}". Give one the field "file": "${unused}".`, unused);
  }
  return inputs === undefined ? body : { ...Object(body), inputs };
}

function uploadFailure(kind: StreamFailure, cause: unknown): ServiceError {
  const detail =
    kind === 'stalled'
      ? `The upload sent nothing for ${STALL_MS / 1000} s.`
      : 'The upload broke off before it was complete.';
  return new ServiceError('invalid_request', detail, { cause });
}

function invalid(detail: string, field: string): ServiceError {
  return new ServiceError('invalid_request', detail, { field });
}
