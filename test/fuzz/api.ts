// The service's own OpenAPI document, as far as requests are made from it and answers are held to it.
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { z } from 'zod';

/** A JSON schema; read member by member, since each has its own. */
export type Schema = Readonly<Record<string, unknown>>;

export interface Parameter {
  name: string;
  in: 'path' | 'query' | 'header';
  required: boolean;
  schema: Schema;
}

export interface Operation {
  id: string;
  /** In capitals. */
  method: string;
  /** As documented, such as `/jobs/{id}`. */
  path: string;
  parameters: Parameter[];
  /** Schemas of the body, by content type. */
  bodies: Record<string, Schema>;
  statuses: Set<number>;
}

export interface Api {
  operations: Operation[];
  /** What a reference stands for. */
  resolve(schema: Schema): Schema;
  /** The operation that a request is for, by its method and the path without its query. */
  operationOf(method: string, path: string): Operation | null;
  /** What is wrong with the body of an answer; null where nothing is, or where the document says nothing. */
  complaint(operation: Operation, status: number, contentType: string, body: unknown): string | null;
}

const schemaSchema = z.record(z.string(), z.unknown());
const contentSchema = z.record(z.string(), z.object({ schema: schemaSchema.default({}) })).default({});
const operationSchema = z.object({
  operationId: z.string(),
  parameters: z
    .array(
      z.object({
        name: z.string(),
        in: z.enum(['path', 'query', 'header']),
        required: z.boolean().default(false),
        schema: schemaSchema.default({}),
      }),
    )
    .default([]),
  requestBody: z.object({ content: contentSchema }).optional(),
  responses: z.record(z.string(), z.object({ content: contentSchema })),
});
const documentSchema = z.looseObject({ paths: z.record(z.string(), z.record(z.string(), operationSchema)) });

export function readApi(document: unknown): Api {
  const { paths } = documentSchema.parse(document);
  const ajv = new Ajv2020({ strict: false, allErrors: false, validateFormats: false });
  ajv.addSchema(schemaSchema.parse(document), 'api');
  const validators = new Map<string, ValidateFunction>();
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): Operation => ({
      id: operation.operationId,
      method: method.toUpperCase(),
      path,
      parameters: operation.parameters,
      bodies: Object.fromEntries(
        Object.entries(operation.requestBody?.content ?? {}).map(([type, { schema }]) => [type, schema]),
      ),
      statuses: new Set(Object.keys(operation.responses).map(Number)),
    })),
  );
  // "/jobs/batch" is not an id.
  const byLiteralness = operations.toSorted((a, b) => countOf(a.path, '{') - countOf(b.path, '{'));

  function validatorOf(
    { path, method }: Operation,
    status: number,
    contentType: string,
  ): ValidateFunction | null {
    const response = paths[path]?.[method.toLowerCase()]?.responses[String(status)];
    if (response?.content[contentType] === undefined) return null;
    const steps = [
      'paths',
      path,
      method.toLowerCase(),
      'responses',
      String(status),
      'content',
      contentType,
      'schema',
    ];
    const reference = `api#/${steps.map(escapePointer).join('/')}`;
    const known = validators.get(reference) ?? ajv.compile({ $ref: reference });
    validators.set(reference, known);
    return known;
  }

  return {
    operations,
    resolve(schema) {
      const { $ref: reference } = schema;
      if (typeof reference !== 'string') return schema;
      const steps = reference.slice('#/'.length).split('/');
      return schemaSchema.parse(steps.reduce((part: unknown, step) => Object(part)[step], document));
    },
    operationOf: (method, path) =>
      byLiteralness.find((operation) => operation.method === method && matches(operation.path, path)) ?? null,
    complaint(operation, status, contentType, body) {
      if (!operation.statuses.has(status)) return `the status ${status} is not documented`;
      const validate = validatorOf(operation, status, contentType);
      if (validate === null || validate(body)) return null;
      return `the body is not as documented: ${ajv.errorsText(validate.errors)}`;
    },
  };
}

function matches(template: string, path: string): boolean {
  const [wanted, given] = [template.split('/'), path.split('/')];
  return (
    wanted.length === given.length &&
    wanted.every((part, index) => (part.startsWith('{') ? given[index] !== '' : part === given[index]))
  );
}

function countOf(text: string, part: string): number {
  return text.split(part).length - 1;
}

function escapePointer(step: string): string {
  return encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'));
}
