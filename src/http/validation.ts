// Checks the parts of a request with their schemas, and says what is wrong, field by field.
import type { FastifyInstance, FastifySchemaCompiler } from 'fastify';
import { safeParse, type $ZodIssue, type $ZodType } from 'zod/v4/core';
import { ServiceError } from '../errors.ts';
import { describeIssue, fieldProblems } from '../support/issues.ts';

/** Checks a part of a request with its zod schema. A failure is a `ServiceError` of the code `invalid_request` that names every field at fault. */
export const validateRequestPart: FastifySchemaCompiler<$ZodType> =
  ({ schema, httpPart }) =>
  (data: unknown) => {
    // Fastify hands over null where there is no body.
    const parsed = safeParse(schema, data ?? undefined, { error: describeIssue });
    if (parsed.success) return { value: parsed.data };
    if (httpPart === 'body' && data === null) {
      return { error: new ServiceError('invalid_request', 'The request has no body. Send a JSON object.') };
    }
    return { error: invalidRequest(parsed.error.issues, wholes[httpPart ?? ''] ?? 'The request') };
  };

/** Turns away compressed bodies before they are read: a file would be stored as something else than it is. */
export function refuseEncodedBodies(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ method, headers }, reply) => {
    const coding = headers['content-encoding']?.toLowerCase() ?? 'identity';
    if (coding === 'identity' || method === 'GET' || method === 'HEAD') return;
    reply.header('accept-encoding', 'identity');
    throw new ServiceError(
      'unsupported_media_type',
      'The header Content-Encoding says that the body is compressed, which is not supported. Send it as it is.',
    );
  });
}

/** Turns away a NUL in a path or a query: no id or name has one, and PostgreSQL takes none in any text. */
export function refuseNulInUrls(app: FastifyInstance): void {
  app.addHook('preValidation', async ({ params, query }) => {
    const fields = Object.entries<unknown>(Object.assign({}, params, query));
    const atFault = fields.find((field) => field.flat().some((text) => String(text).includes('\0')));
    if (atFault === undefined) return;
    const field = atFault[0].replaceAll('\0', '');
    throw new ServiceError(
      'invalid_request',
      `"${field}" holds a NUL character (%00), which nothing has in its name.`,
      { field },
    );
  });
}

/** The error for what zod found. `whole` names what was checked, such as "The body". */
function invalidRequest(issues: $ZodIssue[], whole: string): ServiceError {
  const all = fieldProblems(issues, whole);
  const [first] = all;
  const others = all.length - 1;
  const more =
    others < 1
      ? ''
      : ` There ${others === 1 ? 'is 1 more problem' : `are ${others} more problems`}; see "errors".`;
  return new ServiceError('invalid_request', `${first?.detail ?? `${whole} is not valid.`}${more}`, {
    ...(first?.field === undefined ? {} : { field: first.field }),
    extra: { errors: all.slice(0, mostReported) },
  });
}

const mostReported = 20;

const wholes: Record<string, string> = {
  body: 'The body',
  querystring: 'The query',
  params: 'The path',
  headers: 'The headers',
};
