// Who may call: the holder of an API key; without any key, only programs on this machine.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import ipaddr from 'ipaddr.js';
import { ConfigError, type Config } from '../config.ts';
import { ServiceError } from '../errors.ts';
import type { ApiKeys } from './api-keys.ts';
import type { SignedLinks } from './signed-links.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** The name of the API key that the request came with; null without a valid one. */
    apiKey: string | null;
  }
  interface FastifyContextConfig {
    /** Answers without an API key: health, documentation. */
    public?: boolean;
    /** A file: also answers without an API key where the link has a valid signature. */
    signed?: boolean;
  }
}

/** Rejects with a `ConfigError` where the settings would open the service to others without any API key. */
export async function assertListenAllowed(config: Config, apiKeys: Pick<ApiKeys, 'any'>): Promise<void> {
  if (await apiKeys.any()) return;
  if (!isLoopback(config.HOST)) {
    throw new ConfigError([
      `HOST: ${config.HOST} can be reached from other machines, but there is no API key: set API_KEYS, create a key, or listen on 127.0.0.1.`,
    ]);
  }
  if (config.TRUST_PROXY > 0) {
    throw new ConfigError([
      'TRUST_PROXY: requests come through a proxy, but there is no API key: set API_KEYS or create a key.',
    ]);
  }
}

/** Finds out who calls, for every request. Nobody is turned away here, so that the rate limit counts failures too. */
export function identifyCallers(app: FastifyInstance, apiKeys: ApiKeys): void {
  app.decorateRequest('apiKey', null);
  app.addHook('onRequest', async (request) => {
    const { config } = request.routeOptions;
    // Health must answer at once, also while the database that holds the keys does not.
    if (config.unlimited === true) return;
    const key = bearerOf(request);
    if (key === null) return;
    try {
      request.apiKey = await apiKeys.verify(key);
    } catch (error) {
      // What is open to everybody does not need to know.
      if (config.public !== true) throw error;
    }
  });
}

/** Turns away, on every route that is not marked `public`, who has no key, or, while there are no keys, who is not a program on this machine. */
export function requireAuthentication(
  app: FastifyInstance,
  config: Config,
  apiKeys: ApiKeys,
  links: Pick<SignedLinks, 'check'>,
): void {
  app.addHook('onRequest', async (request, reply) => {
    if (request.apiKey !== null || request.routeOptions.config.public === true) return;
    const link = linkOf(request, links);
    if (link === 'valid') return;
    // Keys may be revoked while the service listens to the world: no key is then no way in.
    if ((await apiKeys.any()) || !isLoopback(config.HOST)) {
      if (link !== 'none') throw refusalOf(link);
      reply.header('www-authenticate', 'Bearer realm="comfyfleet"');
      throw new ServiceError('unauthorized', unauthorizedDetail(request));
    }
    refuseStrangers(request, config);
  });
}

/** Whether a host, given as a name or an address, is this machine itself. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^\[(.*)\]$/, '$1');
  if (name === 'localhost' || name.endsWith('.localhost')) return true;
  return ipaddr.isValid(name) && ipaddr.process(name).range() === 'loopback';
}

function bearerOf(request: FastifyRequest): string | null {
  const [, key] = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '') ?? [];
  return key ?? null;
}

/** Reading only: no other method may be opened by a link. */
function linkOf(
  request: FastifyRequest,
  links: Pick<SignedLinks, 'check'>,
): ReturnType<SignedLinks['check']> {
  const isReading = request.method === 'GET' || request.method === 'HEAD';
  if (!isReading || request.routeOptions.config.signed !== true) return 'none';
  const [path = ''] = request.url.split('?', 1);
  return links.check(path, request.query);
}

function refusalOf(link: 'expired' | 'wrong'): ServiceError {
  const next = 'Look the job or the asset up again, with an API key, for a new link.';
  return link === 'expired'
    ? new ServiceError('link_expired', `The time of this link is over. ${next}`)
    : new ServiceError('forbidden', `The signature of this link is not valid. ${next}`);
}

function unauthorizedDetail(request: FastifyRequest): string {
  if (request.headers.authorization === undefined) {
    return 'Send an API key in the header "Authorization: Bearer <key>".';
  }
  if (bearerOf(request) === null) return 'The header Authorization must read "Bearer <key>".';
  return 'The API key is not known or was revoked.';
}

/**
 * Without keys, being on this machine is the only credential. A web page that the user visits is not: it reaches us by a name of its own that
 * resolves to loopback, or by the browser's ability to send requests to any site. Nor is whoever comes through a proxy on this machine.
 */
function refuseStrangers(request: FastifyRequest, config: Config): void {
  const { host = '', origin } = request.headers;
  if (proxyHeaders.some((name) => request.headers[name] !== undefined)) {
    throw new ServiceError('forbidden', 'The request came through a proxy. Create an API key to allow that.');
  }
  if (!isLoopback(hostnameOf(host))) {
    throw new ServiceError('forbidden', 'Call the service as localhost or 127.0.0.1, or create an API key.');
  }
  if (isFromAnotherSite(request) && !(origin !== undefined && config.CORS_ORIGINS.includes(origin))) {
    throw new ServiceError(
      'forbidden',
      'The request came from a web page of another site. Add its origin to CORS_ORIGINS, or create an API key.',
    );
  }
}

const proxyHeaders = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via'];

/** The name in a Host header, without its port; empty where it is malformed. */
function hostnameOf(host: string): string {
  return URL.canParse(`http://${host}`) ? new URL(`http://${host}`).hostname : '';
}

/** Pages of other sites may follow a link and show an image, which change nothing and which they cannot read. */
function isFromAnotherSite(request: FastifyRequest): boolean {
  const { host, origin } = request.headers;
  if (origin !== undefined) return origin !== `http://${host}` && origin !== `https://${host}`;
  const site = request.headers['sec-fetch-site'];
  const isReading = request.method === 'GET' || request.method === 'HEAD';
  return !isReading && (site === 'cross-site' || site === 'same-site');
}
