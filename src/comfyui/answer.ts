// One call to ComfyUI that is answered with a bounded amount of text.
import type { Dispatcher } from 'undici';
import type { z } from 'zod';
import { deadlineIn } from '../support/deadline.ts';
import { ComfyError } from './errors.ts';
import { parseJson } from './json.ts';
import type { Link, LinkRequest } from './link.ts';
import { LinkError, linkErrorFrom } from './link-error.ts';

export interface Answer {
  status: number;
  /** The page that the proxy of a rented machine shows while ComfyUI is not up, also with status 200. */
  isPlaceholder: boolean;
  text: string;
}

export interface AnswerLimits {
  /** How long the call may take, until the last byte of the answer. */
  deadlineMs: number;
  maxBytes: number;
}

/** Rejects with a `LinkError`, or with the signal's reason when it is aborted. */
export async function ask(link: Link, request: LinkRequest, limits: AnswerLimits): Promise<Answer> {
  const deadline = deadlineIn(limits.deadlineMs);
  const signal = request.signal === undefined ? deadline : AbortSignal.any([request.signal, deadline]);
  try {
    const response = await link.request({
      ...request,
      signal,
      timeoutMs: request.timeoutMs ?? limits.deadlineMs,
    });
    return {
      status: response.statusCode,
      isPlaceholder: isPlaceholder(response),
      text: await readText(response.body, limits.maxBytes),
    };
  } catch (error) {
    if (request.signal?.aborted === true) throw request.signal.reason;
    if (deadline.aborted)
      throw new LinkError('timeout', 'The machine did not answer in time', { cause: error });
    throw linkErrorFrom(error);
  }
}

/** Throws a `ComfyError` of kind `unavailable` where nothing usable came back. */
export async function askComfy(link: Link, request: LinkRequest, limits: AnswerLimits): Promise<Answer> {
  try {
    return await ask(link, request, limits);
  } catch (error) {
    throw error instanceof LinkError ? new ComfyError('unavailable', error.message, { cause: error }) : error;
  }
}

export function isPlaceholder(response: Dispatcher.ResponseData): boolean {
  return response.headers['x-portal-placeholder'] !== undefined;
}

/** The error behind an answer that is not a success; null for a success. */
export function errorBehind(answer: Pick<Answer, 'status' | 'isPlaceholder'>): ComfyError | null {
  const { status } = answer;
  if (answer.isPlaceholder) return new ComfyError('unavailable', 'ComfyUI is not up', { status });
  if (status >= 200 && status < 300) return null;
  return new ComfyError(kindOfStatus(status), `ComfyUI answered with status ${status}`, { status });
}

function kindOfStatus(status: number): ComfyError['kind'] {
  if (status >= 500 || status === 408 || status === 429) return 'unavailable';
  if (status === 413) return 'too_large';
  // ComfyUI has no accounts: this is the proxy before it, which may also send strangers to a login page.
  if (status === 401 || status === 403 || (status >= 300 && status < 400)) return 'unauthorized';
  // ComfyUI 0.33 answers 405 to a POST that it does not know.
  if (status === 404 || status === 405) return 'not_found';
  return 'protocol';
}

/** Reads an answer as `schema` says. Throws a `ComfyError` of kind `protocol` where it does not fit. */
export function readAnswer<S extends z.ZodType>(schema: S, answer: Answer): z.output<S> {
  const error = errorBehind(answer);
  if (error !== null) throw error;
  const parsed = tryParse(schema, answer.text);
  if (parsed === null) {
    throw new ComfyError('protocol', 'The answer is not what ComfyUI gives', { status: answer.status });
  }
  return parsed;
}

/** What `schema` makes of the text; null where the text is no JSON or does not fit. */
export function tryParse<S extends z.ZodType>(schema: S, text: string): z.output<S> | null {
  try {
    const parsed = schema.safeParse(parseJson(text));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

async function readText(body: Dispatcher.ResponseData['body'], maxBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length;
    // Leaving the loop destroys the body, and with it the connection.
    if (size > maxBytes) throw new LinkError('other', `The answer is larger than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size).toString('utf8');
}
