// The way to one ComfyUI server: TLS pin, secret, HTTP and WebSocket.
import type { Readable } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { Agent, buildConnector, type Dispatcher } from 'undici';
import { orAborted } from './abortable.ts';
import { LinkError, linkErrorFrom } from './link-error.ts';
import { openLinkSocket, type LinkSocket, type SocketHandlers } from './link-socket.ts';

export { LinkError } from './link-error.ts';

export interface LinkTarget {
  /** Scheme, host, port and perhaps a path, without a trailing slash. */
  baseUrl: string;
  /** Sent as a bearer token with every HTTP request and WebSocket upgrade; null for an open server. */
  token: string | null;
  /** SHA-256 of the only certificate that is accepted, as `AA:BB:…`; null for http and for https with a publicly trusted certificate. */
  certificateFingerprint: string | null;
}

export interface LinkRequest {
  method: 'GET' | 'POST';
  /** Below the base URL, with a leading slash. */
  path: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: string | Readable;
  signal?: AbortSignal | undefined;
  /** How long the head of the answer may take once the request is on its way. */
  timeoutMs?: number;
  /** How long the body of the answer may pause. */
  idleTimeoutMs?: number;
}

export interface Link {
  readonly target: LinkTarget;
  /** Sends one request, once; redirects are answers like any other. Rejects with a `LinkError`. */
  request(options: LinkRequest): Promise<Dispatcher.ResponseData>;
  /** Opens a WebSocket; `path` is below the base URL, with a leading slash. */
  openWebSocket(path: string, handlers: SocketHandlers): LinkSocket;
  /** Ends every request and WebSocket of this link. */
  close(): Promise<void>;
}

const connectTimeoutMs = 10_000;
const defaultTimeoutMs = 30_000;

/** Opens nothing yet. Throws a `LinkError` when a certificate is pinned for a plain http address. */
export function openLink(target: LinkTarget): Link {
  const base = new URL(target.baseUrl);
  if (target.certificateFingerprint !== null && base.protocol !== 'https:') {
    throw new LinkError('plain_http', 'A certificate is pinned, but the address is plain http', {
      beforeRequest: true,
    });
  }
  const prefix = base.pathname.replace(/\/$/, '');
  const headers: Record<string, string> =
    target.token === null ? {} : { authorization: `Bearer ${target.token}` };
  const connect = connectorTo(target);
  const agent = new Agent({ connect, allowH2: false });
  const sockets = new Set<LinkSocket>();

  return {
    target,
    async request({ signal, timeoutMs, idleTimeoutMs, path, ...options }) {
      try {
        return await agent.request({
          ...options,
          origin: base.origin,
          path: prefix + path,
          headers: { ...options.headers, ...headers },
          signal: signal ?? null,
          headersTimeout: timeoutMs ?? defaultTimeoutMs,
          bodyTimeout: idleTimeoutMs ?? defaultTimeoutMs,
        });
      } catch (error) {
        throw linkErrorFrom(error, { signal });
      }
    },
    openWebSocket(path, handlers) {
      const url = new URL(prefix + path, base.origin);
      const socket = openLinkSocket(
        { url, headers, connect, openTimeoutMs: defaultTimeoutMs },
        {
          ...handlers,
          closed(error) {
            sockets.delete(socket);
            handlers.closed(error);
          },
        },
      );
      sockets.add(socket);
      return socket;
    },
    async close() {
      for (const socket of sockets) socket.terminate();
      await agent.destroy();
    },
  };
}

/**
 * Reads the SHA-256 fingerprint of the server's certificate by a TLS handshake alone: nothing is sent, no secret, no
 * request. Trust on first use: the caller keeps it and pins it. Rejects with a `LinkError`.
 */
export async function readCertificateFingerprint(baseUrl: string, signal?: AbortSignal): Promise<string> {
  const { protocol, hostname, port } = new URL(baseUrl);
  if (protocol !== 'https:') {
    throw new LinkError('plain_http', 'A plain http address has no certificate', { beforeRequest: true });
  }
  const connect = buildConnector({ ...connectOptions, rejectUnauthorized: false });
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  connect({ protocol, hostname: hostname.replace(/^\[|\]$/g, ''), host: hostname, port }, (error, socket) => {
    const fingerprint = fingerprintOf(socket);
    socket?.destroy();
    if (fingerprint !== undefined) resolve(fingerprint);
    else reject(linkErrorFrom(error ?? new Error('No certificate'), { beforeRequest: true }));
  });
  try {
    return await orAborted(promise, signal);
  } catch (error) {
    throw linkErrorFrom(error, { signal });
  }
}

// HTTP/2 brings nothing for so few requests, and WebSockets over it are experimental in undici 8. A resumed TLS session
// shows no certificate, so none is kept.
const connectOptions = { allowH2: false, maxCachedSessions: 0, timeout: connectTimeoutMs };

/** Connects, and lets a request onto the connection only after the certificate has been checked. */
function connectorTo({ certificateFingerprint: pinned }: LinkTarget): buildConnector.connector {
  const connect = buildConnector({ ...connectOptions, rejectUnauthorized: pinned === null });
  return (options, callback) =>
    connect(options, (error, socket) => {
      if (error !== null) {
        callback(linkErrorFrom(error, { beforeRequest: true }), null);
      } else if (pinned !== null && fingerprintOf(socket) !== pinned.toUpperCase()) {
        socket.destroy();
        callback(
          new LinkError('certificate_changed', 'The certificate is not the pinned one', {
            beforeRequest: true,
          }),
          null,
        );
      } else {
        callback(null, socket);
      }
    });
}

function fingerprintOf(socket: unknown): string | undefined {
  return socket instanceof TLSSocket ? socket.getPeerX509Certificate()?.fingerprint256 : undefined;
}
