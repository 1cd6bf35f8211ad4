// What can go wrong between us and a machine, before ComfyUI has said anything.

export type LinkErrorKind =
  /** Nothing listens there. */
  | 'refused'
  /** No answer in time, or no way to the host. */
  | 'timeout'
  /** The connection broke. */
  | 'reset'
  /** The certificate is not trusted, or TLS failed otherwise. */
  | 'tls'
  /** Another certificate than the pinned one. */
  | 'certificate_changed'
  /** Plain HTTP where HTTPS was asked for. */
  | 'plain_http'
  | 'aborted'
  | 'other';

export class LinkError extends Error {
  readonly kind: LinkErrorKind;
  /** True when the connection failed before a byte of the request was written: the server cannot have acted on it. */
  readonly beforeRequest: boolean;

  constructor(
    kind: LinkErrorKind,
    message: string,
    options: { cause?: unknown; beforeRequest?: boolean } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'LinkError';
    this.kind = kind;
    this.beforeRequest = options.beforeRequest ?? false;
  }
}

/** The `LinkError` behind anything that a connection, request or body may fail with. */
export function linkErrorFrom(
  error: unknown,
  options: { signal?: AbortSignal | undefined; beforeRequest?: boolean } = {},
): LinkError {
  if (options.signal?.aborted === true) {
    return new LinkError('aborted', 'The request was aborted', { cause: options.signal.reason });
  }
  const known = causesOf(error).find((cause) => cause instanceof LinkError);
  if (known !== undefined) return known;
  const kind = kindOf(error);
  return new LinkError(kind, `${wordsFor[kind]} (${codeOf(error) ?? 'no code'})`, {
    cause: error,
    beforeRequest: options.beforeRequest ?? false,
  });
}

const wordsFor: Record<LinkErrorKind, string> = {
  refused: 'The machine refused the connection',
  timeout: 'The machine did not answer in time',
  reset: 'The connection broke',
  tls: 'The TLS handshake failed',
  certificate_changed: 'The certificate is not the pinned one',
  plain_http: 'The machine speaks plain HTTP where HTTPS was asked for',
  aborted: 'The request was aborted',
  other: 'The request failed',
};

const kindByCode: Record<string, LinkErrorKind> = {
  ECONNREFUSED: 'refused',
  ETIMEDOUT: 'timeout',
  EHOSTUNREACH: 'timeout',
  ENETUNREACH: 'timeout',
  EHOSTDOWN: 'timeout',
  UND_ERR_CONNECT_TIMEOUT: 'timeout',
  UND_ERR_HEADERS_TIMEOUT: 'timeout',
  UND_ERR_BODY_TIMEOUT: 'timeout',
  ECONNRESET: 'reset',
  EPIPE: 'reset',
  UND_ERR_SOCKET: 'reset',
  ERR_SSL_WRONG_VERSION_NUMBER: 'plain_http',
  ERR_SSL_PACKET_LENGTH_TOO_LONG: 'plain_http',
  ERR_SSL_HTTP_REQUEST: 'plain_http',
  UND_ERR_ABORTED: 'aborted',
  ABORT_ERR: 'aborted',
  EPROTO: 'tls',
  CERT_HAS_EXPIRED: 'tls',
  CERT_NOT_YET_VALID: 'tls',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'tls',
  SELF_SIGNED_CERT_IN_CHAIN: 'tls',
  UNABLE_TO_GET_ISSUER_CERT: 'tls',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'tls',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'tls',
};

function kindOf(error: unknown): LinkErrorKind {
  const code = codeOf(error);
  if (code === undefined) return 'other';
  return kindByCode[code] ?? (/^ERR_(SSL|TLS)_/.test(code) ? 'tls' : 'other');
}

/** The first code that says more than "connecting failed"; several addresses fail with one error for each. */
function codeOf(error: unknown): string | undefined {
  const codes = causesOf(error).flatMap((cause) =>
    'code' in cause && typeof cause.code === 'string' ? [cause.code] : [],
  );
  return codes.find((code) => code in kindByCode) ?? codes[0];
}

function causesOf(error: unknown, depth = 0): Error[] {
  if (!(error instanceof Error) || depth > 5) return [];
  const parts: unknown[] = error instanceof AggregateError ? error.errors : [];
  return [error, ...[error.cause, ...parts].flatMap((cause) => causesOf(cause, depth + 1))];
}
