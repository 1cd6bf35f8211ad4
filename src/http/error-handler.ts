// What the caller is told about anything that was thrown. Nothing internal leaves here.
import { STATUS_CODES, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { ServiceError, type ErrorCode } from '../errors.ts';
import { MOST_FIELDS, MOST_FILES } from './receive-files.ts';
import { problemContentType, problemOfCode, type Problem } from './problems.ts';

declare module 'fastify' {
  interface FastifyReply {
    /** The code of the error that is answered, for the log. */
    errorCode: ErrorCode | null;
  }
}

/** Answers everything that goes wrong in the app, unknown routes included, with problem details. */
export function handleErrors(app: FastifyInstance): void {
  app.decorateReply('errorCode', null);
  app.setErrorHandler(answerError);
  app.setNotFoundHandler((request) => {
    throw unknownRoute(request);
  });
  // Before the body is read: it does not matter.
  app.addHook('onRequest', async (request) => {
    if (request.is404) throw unknownRoute(request);
  });
}

/** Also for what fails before there is a route, such as a malformed URL. */
export function answerError(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const answer = errorForCaller(error, request);
  const problem = problemFor(answer, request.id);
  logError(error, answer, request);
  reply.errorCode = answer.code;
  for (const header of headersOfSuccess) reply.removeHeader(header);
  const retryAfterSeconds = answer.extra?.['retryAfterSeconds'];
  if (typeof retryAfterSeconds === 'number') reply.header('retry-after', retryAfterSeconds);
  reply
    .code(problem.status)
    .header('cache-control', 'no-store')
    .header('x-request-id', request.id)
    .type(problemContentType)
    // The route's own schemas do not apply: a problem must get through whatever they say.
    .serializer(JSON.stringify)
    .send(problem);
}

/** For bytes that are not HTTP at all, or not in time: there is no request yet, so the answer is written by hand. */
export function answerClientError(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return;
  const { status, detail } = clientErrors[error.code ?? ''] ?? malformedRequest;
  if (socket.writable) {
    const body = JSON.stringify({ ...problemOfCode('invalid_request'), status, detail });
    const head = [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      `Content-Type: ${problemContentType}`,
      `Content-Length: ${Buffer.byteLength(body)}`,
      'Connection: close',
    ];
    socket.write(`${head.join('\r\n')}\r\n\r\n${body}`);
  }
  socket.destroy();
}

/** For a header `Expect` of anything but `100-continue`, which Node does not hand to the app. */
export function answerExpectation(_request: IncomingMessage, response: ServerResponse): void {
  const detail = 'The header Expect may hold 100-continue only.';
  const body = JSON.stringify({ ...problemOfCode('invalid_request'), status: 417, detail });
  response.writeHead(417, {
    'content-type': problemContentType,
    'content-length': Buffer.byteLength(body),
    // What would follow is the body that was held back for it, or not.
    connection: 'close',
  });
  response.end(body);
}

const malformedRequest = { status: 400, detail: 'The request is not well-formed HTTP.' };
const clientErrors: Record<string, { status: number; detail: string }> = {
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, detail: 'The request did not arrive in time.' },
  HPE_HEADER_OVERFLOW: { status: 431, detail: 'The headers of the request are too large.' },
};

/** Headers that a handler may have set for the answer it did not get to give. */
const headersOfSuccess = ['etag', 'content-disposition', 'accept-ranges', 'last-modified', 'location'];

function problemFor(error: ServiceError, requestId: string): Problem {
  const problem = {
    ...problemOfCode(error.code),
    detail: error.message,
    ...(error.field === undefined ? {} : { field: error.field }),
    requestId,
  };
  // Further facts come last, and replace none of the above.
  return { ...problem, ...error.extra, ...problem };
}

function logError(error: unknown, answer: ServiceError, request: FastifyRequest): void {
  if (answer.status === 500) request.log.error({ err: error }, 'a request failed');
  else if (answer.status > 500) request.log.warn({ err: error }, 'a request was not served');
}

function unknownRoute(request: FastifyRequest): ServiceError {
  const [path] = request.url.split('?', 1);
  return new ServiceError('not_found', `There is no route ${request.method} ${path}. See /docs.`);
}

function errorForCaller(error: unknown, request: FastifyRequest): ServiceError {
  if (error instanceof ServiceError) return error;
  if (request.raw.destroyed && !request.raw.complete) {
    return new ServiceError('invalid_request', 'The connection was closed before the request was complete.');
  }
  const { code, statusCode, message } = factsOf(error);
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
    return new ServiceError('unsupported_media_type', mediaTypeFault(request));
  }
  const known = frameworkErrors[code] ?? brokenForms.find(({ sign }) => sign.test(message));
  if (known !== undefined) return new ServiceError(known.code, known.detail);
  const trouble = databaseTroubles.find(({ sign }) => sign.test(code) || sign.test(message));
  if (trouble !== undefined) {
    const { detail, retryAfterSeconds } = trouble;
    return new ServiceError('overloaded', detail, { extra: { retryAfterSeconds } });
  }
  // What Fastify and its plugins say about a bad request is written for the caller.
  if (code.startsWith('FST_') && statusCode >= 400 && statusCode < 500) {
    return new ServiceError(codesOfStatus[statusCode] ?? 'invalid_request', `${message}.`);
  }
  return new ServiceError(
    'internal',
    'Something went wrong inside the service. Report it with the requestId.',
  );
}

/** A route that takes bytes of any type still needs a type. */
function mediaTypeFault({ headers, routeOptions: { schema } }: FastifyRequest): string {
  const taken = (schema?.consumes ?? ['application/json']).join(' or ');
  return /^[^\s/;]+\/[^\s/;]+\s*(?:;|$)/.test(headers['content-type'] ?? '')
    ? `The content type of the body is not supported here. Send ${taken}.`
    : `The header Content-Type must name a type, such as ${taken}.`;
}

function factsOf(error: unknown): { code: string; statusCode: number; message: string } {
  const { code, statusCode }: { code?: unknown; statusCode?: unknown } = Object(error);
  return {
    code: typeof code === 'string' ? code : '',
    statusCode: typeof statusCode === 'number' ? statusCode : 500,
    message: error instanceof Error ? error.message : '',
  };
}

/**
 * What keeps the database from its work for a while, and is no fault of the request: PostgreSQL's codes 53100 (disk full) and 25006
 * (read-only, as a standby is), its classes 08 (connection), 53 (resources), 57P (shutting down) and 58 (system) and 57014 (a statement
 * took too long), and what `pg` and `prepared` say of a connection that was lost, never made, or silent.
 */
const databaseTroubles = [
  {
    sign: /^53100$/,
    detail: 'The database has no room left on its disk, so nothing was changed. Try again in a minute.',
    retryAfterSeconds: 60,
  },
  {
    sign: /^25006$/,
    detail: 'The database takes no changes at the moment. Try again in a few seconds.',
    retryAfterSeconds: 5,
  },
  {
    sign: /^(?:08\w{3}|53\w{3}|57P0\d|58\w{3}|57014)$|^Connection terminated|^Query read timeout|^Client has encountered a connection error/,
    detail: 'The database does not answer. Try again in a few seconds.',
    retryAfterSeconds: 5,
  },
];

const codesOfStatus: Record<number, ErrorCode> = {
  406: 'unsupported_media_type',
  413: 'payload_too_large',
  414: 'not_found',
  415: 'unsupported_media_type',
};

interface KnownError {
  code: ErrorCode;
  detail: string;
}

const tooManyParts: KnownError = {
  code: 'payload_too_large',
  detail: `A form may have ${MOST_FILES} files and ${MOST_FIELDS} fields at most. Upload further files with POST /assets, and name them by their ids.`,
};
const incompleteForm: KnownError = {
  code: 'invalid_request',
  detail: 'The form is malformed or incomplete.',
};

/** What the parser of forms says, in errors without a code. */
const brokenForms: (KnownError & { sign: RegExp })[] = [
  {
    sign: /^Multipart: Boundary not found/,
    code: 'invalid_request',
    detail:
      'The header Content-Type does not name the boundary of the form. Do not set it: whatever makes the form does.',
  },
  { sign: /unexpected end of multipart data|^Malformed part header|^The needle cannot/i, ...incompleteForm },
];

/** Errors of Fastify and its plugins, by their code. */
const frameworkErrors: Record<string, KnownError> = {
  FST_ERR_CTP_BODY_TOO_LARGE: {
    code: 'payload_too_large',
    detail: 'The body is larger than BODY_LIMIT_MB allows.',
  },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: {
    code: 'invalid_request',
    detail: 'The body is not as long as Content-Length says.',
  },
  FST_ERR_BAD_URL: { code: 'invalid_request', detail: 'The path has a malformed percent-encoding.' },
  FST_ERR_MAX_PARAM_LENGTH: { code: 'not_found', detail: 'A part of the path is too long to exist.' },
  FST_REQ_FILE_TOO_LARGE: {
    code: 'payload_too_large',
    detail: 'The file is larger than UPLOAD_LIMIT_MB allows.',
  },
  FST_PARTS_LIMIT: tooManyParts,
  FST_FILES_LIMIT: tooManyParts,
  FST_FIELDS_LIMIT: tooManyParts,
  FST_INVALID_MULTIPART_CONTENT_TYPE: {
    code: 'unsupported_media_type',
    detail: 'Send a form, with the content type multipart/form-data.',
  },
  FST_MP_PREMATURE_CLOSE: incompleteForm,
};
