// Errors as RFC 9457 problem details: their shape, and how a route says in OpenAPI which ones it answers.
import { z } from 'zod';
import { errorTable, type ErrorCode } from '../errors.ts';

const fieldPath = z.string().describe('Path of the field at fault, such as `inputs[0].node`');

/** The body of every error answer. Loose, because some codes carry further facts of their own. */
const problemSchema = z
  .looseObject({
    type: z.string().describe('A URN that names the code'),
    title: z.string().describe('What the code means; the same for every occurrence'),
    status: z.int().min(400).max(599).describe('The HTTP status'),
    detail: z.string().describe('What happened here and what to do about it, for a person'),
    code: z.enum(Object.keys(errorTable)).describe('What happened, for a program'),
    requestId: z.string().describe('The id under which the service logged the request'),
    field: fieldPath.optional(),
    errors: z
      .array(z.strictObject({ field: fieldPath.optional(), detail: z.string() }))
      .optional()
      .describe('Every field at fault, when the request is not valid'),
  })
  .meta({ id: 'Problem', description: 'An error, as in RFC 9457' });

export type Problem = z.output<typeof problemSchema>;

export const problemContentType = 'application/problem+json';

type StatusOf<C extends ErrorCode> = (typeof errorTable)[C]['status'];

/** One status of a route's `response` schema. */
export interface ProblemResponse {
  description: string;
  content: { [problemContentType]: { schema: z.ZodType<Problem> } };
}

/**
 * The entries of a route's `response` schema for the codes that it may answer: `{ 200: jobSchema, ...problems('job_not_found') }`.
 * Codes that every route shares (`unauthorized`, `invalid_request`, `internal`, ...) are added by the server.
 */
export function problems<C extends ErrorCode>(...codes: C[]): Record<StatusOf<C>, ProblemResponse> {
  const byStatus = Map.groupBy(codes, (code) => errorTable[code].status);
  const responses = [...byStatus].map(([status, group]) => [status, problemResponse(group)] as const);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the types of object keys end at Object.fromEntries
  return Object.fromEntries(responses) as Record<StatusOf<C>, ProblemResponse>;
}

/** A `response` schema with further codes, which join those that it has of the same status. */
export function withProblems(response: object, codes: readonly ErrorCode[]): object {
  const own = Object.values(response).flatMap((entry: object) => codesOf.get(entry) ?? []);
  return { ...response, ...problems(...new Set([...own, ...codes])) };
}

/** The members of a problem that its code decides. */
export function problemOfCode(code: ErrorCode): Pick<Problem, 'type' | 'title' | 'status' | 'code'> {
  const { title, status } = errorTable[code];
  return { type: `urn:comfyfleet:problem:${code}`, title, status, code };
}

const responses = new Map<string, ProblemResponse>();
const codesOf = new WeakMap<object, readonly ErrorCode[]>();

/** Made once for each set of codes: most routes share theirs. */
function problemResponse(codes: ErrorCode[]): ProblemResponse {
  const key = codes.join();
  const response = responses.get(key) ?? describeProblem(codes);
  responses.set(key, response);
  codesOf.set(response, codes);
  return response;
}

function describeProblem(codes: ErrorCode[]): ProblemResponse {
  const narrowed = z.looseObject({ code: z.literal(codes) });
  const schema = z.intersection(problemSchema, narrowed).meta({ examples: codes.map(exampleOf) });
  const description = codes.map((code) => `\`${code}\`: ${errorTable[code].title}.`).join('\n\n');
  return { description, content: { [problemContentType]: { schema } } };
}

function exampleOf(code: ErrorCode): Problem {
  return {
    ...problemOfCode(code),
    detail: `${errorTable[code].title}.`,
    requestId: '0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21',
  };
}
