// URLs that a caller wrote may lead to the public internet, and not into our own network.
import { isIP, type LookupFunction } from 'node:net';
import { callbackify } from 'node:util';
import { buildConnector } from 'undici';
import { ServiceError } from '../errors.ts';
import { nameServers, systemResolver, type ResolveHost } from './host-names.ts';
import { isPublicAddress } from './public-address.ts';

/** What a caller is told of a host that does not exist, or exists only where callers may not look: nobody is told which. */
export const HOST_NOT_PUBLIC =
  'The host of the URL was not found on the public internet. One that is elsewhere must be named in INPUT_URL_ALLOWED_HOSTS for inputs, in WEBHOOK_ALLOWED_HOSTS for webhooks.';

export interface UrlRules {
  /** Hosts whose address may be private, as `host` or `host:port`. */
  allowedHosts: readonly string[];
  /** What the caller's field is called in errors. */
  field: string;
  /** What a relative URL is relative to. */
  base?: string | undefined;
}

/**
 * Reads a URL that a caller wrote. Throws `invalid_input` for anything but http and https, for a user name or password, and for an
 * address that is not public. Host names are looked up when connecting, not here: what counts is the address that is connected to.
 */
export function parsePublicUrl(text: string, { allowedHosts, field, base }: UrlRules): URL {
  const url = URL.parse(text, base);
  if (url === null) throw new ServiceError('invalid_input', 'This is not a URL.', { field });
  const fault = faultOf(url, allowedHosts);
  if (fault !== null) throw new ServiceError('invalid_input', fault, { field });
  return url;
}

/** Whether an entry of `allowedHosts` can be that of any URL: `host` or `host:port`, an IPv6 address in brackets, no wildcard. */
export function isHost(text: string): boolean {
  const url = URL.parse(`http://${text}`);
  return url !== null && !text.includes('*') && spellingsOf(url).has(text.toLowerCase());
}

/** Thrown by a connector for a host without an address that may be connected to. */
export class HostRefusedError extends Error {
  override readonly name = 'HostRefusedError';
}

export interface ConnectorOptions {
  /** Hosts whose address may be private, as `host` or `host:port`. */
  allowedHosts: readonly string[];
  connectTimeoutMs: number;
  /** Finds the addresses of the host; the system's way unless told where it is one of `allowedHosts`, else that of the name servers. */
  resolveHost?: ResolveHost | undefined;
}

/** Connects to addresses of the public internet only, checked at the moment of connecting, so that a change of the name's address is no way in. */
export function publicConnector(url: URL, options: ConnectorOptions): buildConnector.connector {
  const allowed = isAllowed(url, options.allowedHosts);
  const accepts = allowed ? () => true : isPublicAddress;
  const { resolveHost = allowed ? systemResolver : nameServers() } = options;
  const connect = buildConnector({
    allowH2: false,
    timeout: options.connectTimeoutMs,
    lookup: filteredLookup(resolveHost, accepts),
    // Node then asks the look-up for all addresses at once, and tries each.
    autoSelectFamily: true,
  });
  return (target, callback) => {
    // An address in place of a name is connected to without a look-up.
    if (isIP(target.hostname) !== 0 && !accepts(target.hostname))
      callback(new HostRefusedError('The address may not be used.'), null);
    else connect(target, callback);
  };
}

function faultOf(url: URL, allowedHosts: readonly string[]): string | null {
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    return 'The URL must begin with http:// or https://.';
  }
  if (url.username !== '' || url.password !== '') {
    return 'The URL must not contain a user name or password.';
  }
  return isOurs(url.hostname) && !isAllowed(url, allowedHosts) ? HOST_NOT_PUBLIC : null;
}

/** Whether a host is, without any look-up, not on the public internet. */
function isOurs(hostname: string): boolean {
  const host = hostname.replace(/^\[(.*)\]$/, '$1');
  return isIP(host) === 0 ? /(^|\.)localhost\.?$/.test(host) : !isPublicAddress(host);
}

function isAllowed(url: URL, allowedHosts: readonly string[]): boolean {
  const spellings = spellingsOf(url);
  return allowedHosts.some((host) => spellings.has(host.toLowerCase()));
}

/** How the host of a URL may be written in `allowedHosts`. */
function spellingsOf(url: URL): Set<string> {
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
  return new Set([url.hostname, `${url.hostname}:${port}`]);
}

/** A look-up that answers with acceptable addresses only: Node connects to what it answers, so nothing can change in between. */
function filteredLookup(resolveHost: ResolveHost, accepts: (address: string) => boolean): LookupFunction {
  const lookUp = callbackify(async (hostname: string) => {
    const addresses = await resolveHost(hostname).catch((cause: unknown) => {
      throw new HostRefusedError('The look-up failed.', { cause });
    });
    const usable = addresses.filter(({ address }) => accepts(address));
    if (usable.length === 0) throw new HostRefusedError('No address may be used.');
    return usable;
  });
  return (hostname, _options, callback) => lookUp(hostname, callback);
}
