// Every error that a caller can see: its code, HTTP status and title, in one table.

/** The table behind `code` in every problem+json answer. `title` never changes for a code; `detail` is written for the case at hand. */
export const errorTable = {
  invalid_request: { status: 400, title: 'The request is not valid' },
  invalid_workflow: { status: 422, title: 'The workflow cannot run' },
  workflow_format_ui: { status: 422, title: 'The workflow is a UI export, not the API format' },
  invalid_input: { status: 422, title: 'An input of the job is not valid' },
  unauthorized: { status: 401, title: 'An API key is needed' },
  forbidden: { status: 403, title: 'The request is not allowed' },
  not_found: { status: 404, title: 'There is no such thing' },
  instance_not_found: { status: 404, title: 'There is no such instance' },
  batch_not_found: { status: 404, title: 'There is no such batch' },
  job_not_found: { status: 404, title: 'There is no such job' },
  output_not_found: { status: 404, title: 'The job has no such output' },
  output_expired: { status: 410, title: 'The result is no longer kept' },
  link_expired: { status: 410, title: 'The link has run out' },
  delivery_not_found: { status: 404, title: 'There is no such delivery' },
  asset_not_found: { status: 404, title: 'There is no such asset' },
  method_not_allowed: { status: 405, title: 'The route does not answer this method' },
  idempotency_in_flight: { status: 409, title: 'The first request with this key is still under way' },
  idempotency_key_reused: { status: 422, title: 'The key came before with another request' },
  conflict: { status: 409, title: 'The request does not fit the current state' },
  limit_reached: { status: 402, title: 'A spending limit forbids this' },
  insufficient_credit: { status: 402, title: 'The account at the provider lacks credit' },
  payload_too_large: { status: 413, title: 'The body is too large' },
  unsupported_media_type: { status: 415, title: 'The content type is not supported' },
  range_not_satisfiable: { status: 416, title: 'The byte range does not exist' },
  rate_limited: { status: 429, title: 'Too many requests' },
  webhooks_not_configured: { status: 409, title: 'Webhooks are not set up' },
  provider_not_configured: { status: 409, title: 'No provider is set up for this' },
  provider_unavailable: { status: 502, title: 'The provider did not answer as it should' },
  overloaded: { status: 503, title: 'The service is overloaded or stopping' },
  storage_unavailable: { status: 503, title: 'The storage for files does not answer' },
  storage_full: { status: 507, title: 'There is no room left for files' },
  internal: { status: 500, title: 'Something went wrong inside the service' },
} as const satisfies Record<string, { status: number; title: string }>;

export type ErrorCode = keyof typeof errorTable;

export interface ErrorOptionsForCaller {
  /** Which field of the request is at fault, as a path such as `inputs[0].node`. */
  field?: string;
  /** Further facts for a program, never a secret: node errors, numbers of a limit. */
  extra?: Record<string, unknown>;
  cause?: unknown;
}

/** An error meant for the caller. `detail` says what happened and what to do, in one or two sentences. */
export class ServiceError extends Error {
  readonly code: ErrorCode;
  readonly field: string | undefined;
  readonly extra: Record<string, unknown> | undefined;

  constructor(code: ErrorCode, detail: string, options: ErrorOptionsForCaller = {}) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ServiceError';
    this.code = code;
    this.field = options.field;
    this.extra = options.extra;
  }

  get status(): number {
    return errorTable[this.code].status;
  }
}

/** The text of anything thrown, for logs and for evidence. */
export function messageOf(error: unknown): string {
  if (error instanceof Error) return error.message;
  return typeof error === 'string' ? error : JSON.stringify(error);
}

/** The messages of an error and of its causes, one a line, for a person. */
export function reasonsOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  return cause === undefined ? messageOf(error) : `${messageOf(error)}\n${reasonsOf(cause)}`;
}

/** Whether an error of the system, or of PostgreSQL, has this code. */
export function hasErrorCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
