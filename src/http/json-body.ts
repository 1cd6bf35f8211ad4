// JSON as it is accepted, as a body or within one, and what is said of JSON that is not.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ServiceError, type ErrorCode } from '../errors.ts';
import { formatPath } from '../support/issues.ts';

/** Deeper than any workflow, and shallow enough for whatever walks a body by calling itself. */
const MAX_DEPTH = 100;
/**
 * Fields and entries in all: more than any request has, such as a workflow of a thousand nodes for a batch of a thousand items.
 * Ten megabytes may hold millions, and whatever checks them would keep the process from everything else for seconds.
 */
const MAX_VALUES = 200_000;

/** Reads bodies of JSON, in place of Fastify's own parser. */
export function acceptJson(app: FastifyInstance): void {
  app.removeContentTypeParser('application/json');
  app.addContentTypeParser<string>('application/json', { parseAs: 'string' }, readBody);
}

async function readBody(request: FastifyRequest, text: string): Promise<unknown> {
  if (text !== '') return parseJson(text, 'The body');
  // Many clients name JSON in every request, also where nothing is to be sent.
  if (request.routeOptions.schema?.body === undefined) return undefined;
  throw new ServiceError('invalid_request', 'The body is empty, although its content type is JSON.');
}

/**
 * The value of a text. Throws a `ServiceError` for what is not JSON, is nested too deep, holds too much, or holds a name that
 * would change the prototype of an object it is copied into. `whole` names the text, such as "The body"; `field` is where it
 * came, if it is not all.
 */
export function parseJson(text: string, whole: string, field?: string): unknown {
  const path = field === undefined ? [] : [field];
  const value = valueOf(text, whole, path);
  check(value, path, whole);
  return value;
}

function valueOf(text: string, whole: string, path: PropertyKey[]): unknown {
  try {
    return JSON.parse(text.startsWith(byteOrderMark) ? text.slice(1) : text);
  } catch {
    throw refusal(`${whole} is not valid JSON.`, path);
  }
}

const byteOrderMark = '\u{feff}';

function check(value: unknown, path: PropertyKey[], whole: string): void {
  const start = [...path];
  let values = 0;
  walk(value);

  function walk(part: unknown): void {
    if (typeof part !== 'object' || part === null) return;
    if (path.length >= MAX_DEPTH) {
      throw refusal(`${whole} is nested deeper than ${MAX_DEPTH} levels.`, path.slice(0, 1));
    }
    // Before they are all held a second time.
    values += Array.isArray(part) ? part.length : Object.keys(part).length;
    if (values > MAX_VALUES) {
      throw refusal(`${whole} has more than ${MAX_VALUES} fields and entries.`, start, 'payload_too_large');
    }
    for (const [name, member] of Array.isArray(part) ? part.entries() : Object.entries(part)) {
      path.push(name);
      if (name === '__proto__' || (name === 'prototype' && path.at(-2) === 'constructor')) {
        throw refusal(`${whole} must not have a field named "${name}" here.`, path);
      }
      walk(member);
      path.pop();
    }
  }
}

function refusal(detail: string, path: PropertyKey[], code: ErrorCode = 'invalid_request'): ServiceError {
  return new ServiceError(code, detail, path.length === 0 ? {} : { field: formatPath(path) });
}
