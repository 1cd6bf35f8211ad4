// URLs that a caller wrote may lead to the public internet, and not into our own network. public-connector.ts connects to them.
import { isIP } from 'node:net';
import { ServiceError } from '../errors.ts';
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

/** Whether `allowedHosts` names the host of a URL. */
export function isAllowed(url: URL, allowedHosts: readonly string[]): boolean {
  const spellings = spellingsOf(url);
  return allowedHosts.some((host) => spellings.has(host.toLowerCase()));
}

/** How the host of a URL may be written in `allowedHosts`. */
function spellingsOf(url: URL): Set<string> {
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
  return new Set([url.hostname, `${url.hostname}:${port}`]);
}
