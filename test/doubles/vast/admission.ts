// Who may pass the image's proxy, decided in the order in which its configuration decides.
import type { IncomingMessage } from 'node:http';
import type { Credentials, SitePlan } from './boot.ts';

export type Admission =
  /** `path` is what ComfyUI is asked for: the token is taken out of it. */
  | { kind: 'admitted'; path: string; setCookie?: string }
  | { kind: 'redirected'; location: string; setCookie?: string }
  | { kind: 'refused' }
  /** A page of the proxy itself, open to everyone. */
  | { kind: 'answered' };

const openPaths = new Set([
  '/.well-known/change-password',
  '/manifest.json',
  '/manifest.webmanifest',
  '/site.webmanifest',
  '/.well-known/security.txt',
  '/security.txt',
]);

/** The same for a request and for the upgrade to a WebSocket. */
export function admit(request: IncomingMessage, site: SitePlan): Admission {
  const target = request.url ?? '/';
  const path = target.split('?', 1)[0] ?? '/';
  if (site.style === 'ai-dock') return admitToAiDock(request, site.credentials, target, path);
  if (path === '/portal-resolver') return { kind: 'answered' };
  if (site.credentials === null || openPaths.has(path) || path.startsWith('/.well-known/acme-challenge/')) {
    return { kind: 'admitted', path: target };
  }
  return admitToVastImage(request, site.credentials, target);
}

function admitToVastImage(request: IncomingMessage, credentials: Credentials, target: string): Admission {
  const { tokens, cookieName, password } = credentials;
  if (tokens.includes(tokenOf(target) ?? '')) {
    const stripped = withoutToken(target);
    const setCookie = cookieOf(cookieName, tokens.at(-1) ?? password);
    const isBrowser =
      (request.headers.accept ?? '').includes('text/html') ||
      request.headers['sec-fetch-dest'] === 'document';
    return isBrowser
      ? { kind: 'redirected', location: stripped, setCookie }
      : { kind: 'admitted', path: stripped, setCookie };
  }
  if (hasCookie(request, credentials) || hasBearer(request, tokens))
    return { kind: 'admitted', path: target };
  if (hasBasic(request, credentials)) {
    return { kind: 'admitted', path: target, setCookie: cookieOf(cookieName, password) };
  }
  return { kind: 'refused' };
}

function admitToAiDock(
  request: IncomingMessage,
  credentials: Credentials | null,
  target: string,
  path: string,
): Admission {
  if (path === '/ai-dock/health-check') return { kind: 'answered' };
  if (credentials === null) return { kind: 'admitted', path: target };
  const { tokens } = credentials;
  if (tokens.includes(tokenOf(target) ?? '')) return { kind: 'admitted', path: withoutToken(target) };
  if (hasCookie(request, credentials) || hasBearer(request, tokens) || hasBasic(request, credentials)) {
    return { kind: 'admitted', path: target };
  }
  return { kind: 'redirected', location: '/ai-dock/login' };
}

function tokenOf(target: string): string | null {
  return new URLSearchParams(target.split('?', 2)[1] ?? '').get('token');
}

/** Everything else of the query stays as it was written. */
function withoutToken(target: string): string {
  const [path = '/', query = ''] = target.split('?', 2);
  const rest = query.split('&').filter((part) => part !== 'token' && !part.startsWith('token='));
  return rest.length === 0 ? path : `${path}?${rest.join('&')}`;
}

function cookieOf(name: string, value: string): string {
  return `${name}=${value}; Path=/; Max-Age=604800; HttpOnly; SameSite=lax`;
}

function hasCookie(request: IncomingMessage, { cookieName, tokens }: Credentials): boolean {
  const cookies = request.headers.cookie ?? '';
  return tokens.some((token) => cookies.includes(`${cookieName}=${token}`));
}

function hasBearer(request: IncomingMessage, tokens: string[]): boolean {
  return tokens.some((token) => request.headers.authorization === `Bearer ${token}`);
}

function hasBasic(request: IncomingMessage, { username, password }: Credentials): boolean {
  const expected = Buffer.from(`${username}:${password}`).toString('base64');
  return request.headers.authorization === `Basic ${expected}`;
}
