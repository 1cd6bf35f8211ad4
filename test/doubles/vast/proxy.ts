// Passing requests and WebSockets on to ComfyUI as streams: nothing is held back, whatever its size.
import { request as httpRequest } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { constants, createGzip } from 'node:zlib';

export interface ProxyTarget {
  upstream: URL;
  path: string;
  /** The proxy rewrites Host, so that ComfyUI believes that it is called from its own machine. */
  hostHeader: string;
  setCookie?: string | undefined;
}

/** A request or WebSocket under way. */
export interface Flow {
  /** Lets go of ComfyUI and leaves the client without another byte. */
  freeze(): void;
}

/** `onUnreachable` answers when ComfyUI does not. A body that breaks off resets the client. */
export function proxyRequest(
  request: IncomingMessage,
  response: ServerResponse,
  flows: Set<Flow>,
  target: ProxyTarget,
  onUnreachable: () => void,
): void {
  let isFrozen = false;
  const outgoing = httpRequest({
    host: target.upstream.hostname,
    port: target.upstream.port,
    method: request.method ?? 'GET',
    path: target.path,
    headers: forwardedHeaders(request, target.hostHeader, hopByHop),
    setHost: false,
    agent: false,
  });
  const flow: Flow = {
    freeze() {
      isFrozen = true;
      outgoing.destroy();
    },
  };
  flows.add(flow);
  outgoing.on('response', (incoming) => {
    answerWith(incoming, request, response, target.setCookie);
    incoming.once('close', () => {
      if (!incoming.complete && !isFrozen) response.destroy();
    });
  });
  outgoing.on('error', () => {
    if (isFrozen) return;
    if (response.headersSent) response.destroy();
    else onUnreachable();
  });
  request.on('error', () => outgoing.destroy());
  response.once('close', () => {
    flows.delete(flow);
    if (!outgoing.destroyed) outgoing.destroy();
  });
  request.pipe(outgoing);
}

/** Opens the same upgrade on ComfyUI and joins the two sockets. `onUnreachable` answers when ComfyUI does not. */
export function proxyUpgrade(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  flows: Set<Flow>,
  target: ProxyTarget,
  onUnreachable: () => void,
): void {
  let isFrozen = false;
  let isJoined = false;
  const upstream = connect({ host: target.upstream.hostname, port: Number(target.upstream.port) });
  const flow: Flow = {
    freeze() {
      isFrozen = true;
      upstream.destroy();
    },
  };
  flows.add(flow);
  upstream.once('connect', () => {
    isJoined = true;
    const headers = forwardedHeaders(request, target.hostHeader, []);
    const lines: string[] = [];
    for (let at = 0; at < headers.length; at += 2) lines.push(`${headers[at]}: ${headers[at + 1]}\r\n`);
    upstream.write(`${request.method ?? 'GET'} ${target.path} HTTP/1.1\r\n${lines.join('')}\r\n`);
    upstream.write(head);
    socket.pipe(upstream);
    upstream.pipe(socket);
  });
  upstream.on('error', () => {});
  upstream.once('close', () => {
    if (isFrozen) return;
    if (isJoined) socket.destroy();
    else onUnreachable();
  });
  socket.once('close', () => {
    flows.delete(flow);
    upstream.destroy();
  });
}

const hopByHop = ['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'upgrade', 'expect'];

/** Names and values in turn, as they came, without `dropped` and with the proxy's own. */
function forwardedHeaders(request: IncomingMessage, hostHeader: string, dropped: string[]): string[] {
  const headers = ['Host', hostHeader, 'X-Forwarded-For', request.socket.remoteAddress ?? ''];
  for (let at = 0; at + 1 < request.rawHeaders.length; at += 2) {
    const name = request.rawHeaders[at] ?? '';
    if (name.toLowerCase() === 'host' || dropped.includes(name.toLowerCase())) continue;
    headers.push(name, request.rawHeaders[at + 1] ?? '');
  }
  return headers;
}

/** Passes the answer on; texts are compressed for a client that accepts it, as the image's proxy does. */
function answerWith(
  incoming: IncomingMessage,
  request: IncomingMessage,
  response: ServerResponse,
  setCookie: string | undefined,
): void {
  const compresses = isCompressible(incoming, request);
  const dropped = compresses
    ? [...hopByHop, 'content-length', 'x-portal-placeholder']
    : [...hopByHop, 'x-portal-placeholder'];
  const headers: string[] = ['Via', '1.1 Caddy'];
  for (let at = 0; at + 1 < incoming.rawHeaders.length; at += 2) {
    const name = incoming.rawHeaders[at] ?? '';
    if (!dropped.includes(name.toLowerCase())) headers.push(name, incoming.rawHeaders[at + 1] ?? '');
  }
  if (setCookie !== undefined) headers.push('Set-Cookie', setCookie);
  if (compresses) headers.push('Content-Encoding', 'gzip', 'Vary', 'Accept-Encoding');
  response.writeHead(incoming.statusCode ?? 502, incoming.statusMessage, headers);
  if (compresses) incoming.pipe(createGzip({ flush: constants.Z_SYNC_FLUSH })).pipe(response);
  else incoming.pipe(response);
}

function isCompressible(incoming: IncomingMessage, request: IncomingMessage): boolean {
  const length = incoming.headers['content-length'];
  return (
    /\bgzip\b/.test(request.headers['accept-encoding']?.toString() ?? '') &&
    request.method !== 'HEAD' &&
    incoming.statusCode === 200 &&
    incoming.headers['content-encoding'] === undefined &&
    (length === undefined || Number(length) >= 512) &&
    /^(text\/|application\/(json|javascript|xml)|image\/svg)/.test(incoming.headers['content-type'] ?? '')
  );
}
