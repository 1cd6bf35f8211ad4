// vast.ai's own OpenAPI pages (test/golden/vast-openapi) as checks of what goes over the wire.
import { readdirSync, readFileSync } from 'node:fs';
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';
import { parse } from 'yaml';

/** What went over the wire in one call; a body that is not JSON is text. */
export interface Exchange {
  method: string;
  path: string;
  /** Undefined when nothing was sent. */
  request: unknown;
  status: number;
  answer: unknown;
}

/** Where a page is wrong, or says less than is known. */
export interface Correction {
  page: string;
  /** From the root of the page; the part that is changed, or that is new. */
  at: readonly string[];
  becomes: (part: Json, page: Json) => Json;
  reason: string;
}

export interface Pages {
  /** What the pages say against it; empty when it is as they say. Of a request, only when the answer accepts it. */
  problemsOf(exchange: Exchange): string[];
  /** The answer of a page that an exchange plays: "show_instance 200". */
  nameOf(exchange: Exchange): string;
  /** Every answer that the pages describe, in the same form. */
  answers(): string[];
  /** A part of a page, for the figures in it. Throws when there is none. */
  part(page: string, ...at: string[]): unknown;
}

export type Json = Record<string, unknown>;

interface Operation {
  page: string;
  root: Json;
  path: RegExp;
  method: string;
  details: Json;
}

const folder = new URL('../golden/vast-openapi/', import.meta.url);
const sources = readdirSync(folder).map((file): [page: string, root: unknown] => [
  file.replace('.yaml', ''),
  parse(readFileSync(new URL(file, folder), 'utf8')),
]);
// The pages use words that JSON Schema does not know, such as `example` and `float`.
const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });
/** By schema, because most are the same with one correction more or less, and compiling takes longest. */
const compiled = new Map<string, ValidateFunction>();

export function openPages(corrections: readonly Correction[]): Pages {
  const roots = new Map<string, Json>();
  for (const [page, source] of sources) {
    let root = source;
    for (const { at, becomes } of corrections.filter((correction) => correction.page === page))
      root = changed(root, at, (part) => becomes(part, object(root, page)));
    roots.set(page, object(root, page));
  }
  const operations = [...roots].flatMap(([page, root]) => operationsOf(page, root));
  function operationOf({ method, path }: Exchange): Operation {
    const found = operations.find((known) => known.method === method && known.path.test(path));
    if (found === undefined) throw new Error(`No page has ${method} ${path}.`);
    return found;
  }

  return {
    problemsOf(exchange) {
      const { request, status, answer } = exchange;
      const { page, root, details } = operationOf(exchange);
      const isAccepted = status < 400 && !(isObject(answer) && answer['success'] === false);
      const asked = isAccepted && request !== undefined ? contentOf(details['requestBody']) : undefined;
      const ofRequest =
        asked === undefined ? [] : check(`${page} request`, closed(asked, root, false), request);
      const response = child(details['responses'], String(status));
      if (response === undefined) return [...ofRequest, `${page} has no answer ${status}`];
      const schema = closed(contentOf(response), root, status === 200);
      return [...ofRequest, ...check(`${page} ${status}`, schema, answer)];
    },
    nameOf: (exchange) => `${operationOf(exchange).page} ${exchange.status}`,
    answers: () =>
      operations.flatMap(({ page, details }) =>
        Object.keys(object(details['responses'], page)).map((status) => `${page} ${status}`),
      ),
    part(page, ...at) {
      const found = at.reduce<unknown>(child, roots.get(page));
      if (found === undefined) throw new Error(`${page} has no ${at.join('.')}`);
      return found;
    },
  };
}

function check(what: string, schema: unknown, value: unknown): string[] {
  const key = JSON.stringify(schema);
  const validate = compiled.get(key) ?? ajv.compile(object(schema, what));
  compiled.set(key, validate);
  if (validate(value)) return [];
  return (validate.errors ?? []).map((error) => `${what}: ${describe(error)}`);
}

function operationsOf(page: string, root: Json): Operation[] {
  return Object.entries(object(root['paths'], page)).flatMap(([template, methods]) =>
    Object.entries(object(methods, template)).map(([method, details]) => ({
      page,
      root,
      // With and without the slash at the end: the pages do not agree on it.
      path: new RegExp(`^${template.replace(/\/$/, '').replaceAll(/\{\w+\}/g, '\\d+')}/?$`),
      method: method.toUpperCase(),
      details: object(details, template),
    })),
  );
}

/**
 * A schema without references that knows all of its fields: nothing else may come, and all must where `isComplete`. Where a page
 * describes an object by an example only, its fields are those of the example.
 */
function closed(schema: unknown, root: Json, isComplete: boolean): unknown {
  if (Array.isArray(schema)) return schema.map((part: unknown) => closed(part, root, isComplete));
  if (!isObject(schema)) return schema;
  const reference = schema['$ref'];
  if (typeof reference === 'string')
    return closed(reference.split('/').slice(1).reduce<unknown>(child, root), root, isComplete);
  const { properties, items, example, ...rest } = schema;
  if (schema['type'] === 'array') return { ...rest, items: closed(items ?? {}, root, isComplete) };
  const known = properties ?? (isObject(example) ? fieldsOf(example) : undefined);
  if (!isObject(known) || schema['additionalProperties'] !== undefined) return schema;
  const fields = Object.entries(known).map(([name, part]) => [name, closed(part, root, isComplete)]);
  return {
    ...rest,
    properties: Object.fromEntries(fields) as Json,
    additionalProperties: false,
    ...(isComplete ? { required: Object.keys(known) } : {}),
  };
}

/** The schemas of the fields of an example; null says nothing about the type. */
export function fieldsOf(example: Json): Json {
  return Object.fromEntries(
    Object.entries(example).map(([name, value]) => {
      if (value === null) return [name, {}];
      if (Array.isArray(value)) return [name, { type: 'array' }];
      if (isObject(value)) return [name, { type: 'object', properties: fieldsOf(value) }];
      return [name, { type: typeof value }];
    }),
  );
}

function contentOf(part: unknown): unknown {
  return child(child(child(part, 'content'), 'application/json'), 'schema');
}

/** A part that is new starts as an empty object. */
function changed(part: unknown, at: readonly string[], becomes: (part: Json) => Json): Json {
  const [name, ...rest] = at;
  const parent = isObject(part) ? part : {};
  return name === undefined ? becomes(parent) : { ...parent, [name]: changed(parent[name], rest, becomes) };
}

function describe({ instancePath, message, params }: ErrorObject): string {
  const named: unknown = params['additionalProperty'] ?? params['allowedValues'];
  return `${instancePath} ${message}${named === undefined ? '' : ` (${JSON.stringify(named)})`}`;
}

function child(part: unknown, name: string): unknown {
  return isObject(part) ? part[name] : undefined;
}

function object(value: unknown, what: string): Json {
  if (!isObject(value)) throw new Error(`${what} is no object.`);
  return value;
}

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
