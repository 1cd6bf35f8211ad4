// Connections to what callers name, at addresses of the public internet only.
import { isIP, type LookupFunction } from 'node:net';
import { callbackify } from 'node:util';
import { buildConnector } from 'undici';
import { nameServers, systemResolver, type ResolveHost } from './host-names.ts';
import { isPublicAddress } from './public-address.ts';
import { isAllowed } from './public-url.ts';

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
