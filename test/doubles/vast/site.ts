// What one site of the image's proxy answers: ComfyUI to those who may pass, and else a refusal or a page of its own.
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import type { Admission } from './admission.ts';
import { admit } from './admission.ts';
import type { SitePlan } from './boot.ts';
import type { Flow } from './proxy.ts';
import { proxyRequest, proxyUpgrade } from './proxy.ts';

export interface SiteOptions {
  site: SitePlan;
  /** Where ComfyUI answers; null while it does not. */
  upstream: () => URL | null;
  /** How long a wrong credential is thought about, in milliseconds. */
  refusalMs: () => number;
  /** Whether the page of a service that is not ready comes as 200. */
  placeholderAs200: () => boolean;
  onRefused: () => void;
}

export interface Site {
  answer(request: IncomingMessage, response: ServerResponse): Promise<void>;
  answerUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>;
}

/** What passes is kept in `flows` while it lasts. */
export function openSite(options: SiteOptions, flows: Set<Flow>): Site {
  const { site } = options;
  const hostHeader = `localhost:${site.internalPort}`;

  async function refuse(): Promise<void> {
    options.onRefused();
    const ms = options.refusalMs();
    if (ms > 0) await delay(ms);
  }

  return {
    async answer(request, response) {
      response.setHeader('server', 'Caddy');
      const admission = admit(request, site);
      if (admission.kind !== 'admitted') {
        if (admission.kind === 'refused') await refuse();
        response.writeHead(statusOf(admission), headersOf(admission)).end();
        return;
      }
      // 200 for a request that came through Cloudflare, which would replace a 502.
      const isOk = request.headers['cf-ray'] !== undefined || options.placeholderAs200();
      const showPlaceholder = () => sendPlaceholder(response, isOk ? 200 : 502);
      const upstream = options.upstream();
      if (upstream === null) return showPlaceholder();
      const { path, setCookie } = admission;
      proxyRequest(request, response, flows, { upstream, path, hostHeader, setCookie }, showPlaceholder);
    },

    async answerUpgrade(request, socket, head) {
      const admission = admit(request, site);
      if (admission.kind !== 'admitted') {
        if (admission.kind === 'refused') await refuse();
        return endUpgrade(socket, statusOf(admission), headersOf(admission));
      }
      const upstream = options.upstream();
      const refuseUpgrade = () => endUpgrade(socket, 502, { 'X-Portal-Placeholder': 'true' });
      if (upstream === null) return refuseUpgrade();
      proxyUpgrade(
        request,
        socket,
        head,
        flows,
        { upstream, path: admission.path, hostHeader },
        refuseUpgrade,
      );
    },
  };
}

/** As Caddy answers plain HTTP on a port that speaks TLS: it never reaches a site. */
export const redirectToHttps: Site = {
  async answer(request, response) {
    response.writeHead(308, { location: httpsLocation(request), connection: 'close' }).end();
  },
  async answerUpgrade(request, socket) {
    endUpgrade(socket, 308, { location: httpsLocation(request) });
  },
};

function httpsLocation(request: IncomingMessage): string {
  return `https://${request.headers.host ?? ''}${request.url ?? '/'}`;
}

/** The page of the image while the service behind it does not answer. */
function sendPlaceholder(response: ServerResponse, status: 200 | 502): void {
  response.writeHead(status, {
    'content-type': 'text/html; charset=utf-8',
    'cache-control': 'no-store',
    'x-portal-placeholder': 'true',
  });
  response.end('<!doctype html><title>Starting</title><p>Your application is starting up.');
}

function endUpgrade(socket: Duplex, status: number, headers: Record<string, string>): void {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} \r\n${lines.join('')}Content-Length: 0\r\nConnection: close\r\n\r\n`);
}

function statusOf(admission: Exclude<Admission, { kind: 'admitted' }>): number {
  if (admission.kind === 'refused') return 401;
  return admission.kind === 'redirected' ? 302 : 200;
}

function headersOf(admission: Exclude<Admission, { kind: 'admitted' }>): Record<string, string> {
  if (admission.kind === 'refused') return { 'WWW-Authenticate': 'Basic realm="restricted"' };
  if (admission.kind === 'answered') return { 'Access-Control-Allow-Origin': '*' };
  const { location, setCookie } = admission;
  return { Location: location, ...(setCookie === undefined ? {} : { 'Set-Cookie': setCookie }) };
}
