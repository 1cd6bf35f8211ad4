// The addresses of host names, found in two ways: for hosts that the settings name, and for those that callers name.
import type { LookupAddress } from 'node:dns';
import { lookup, Resolver } from 'node:dns/promises';

/** Finds the addresses of a host name; rejects where there are none. */
export type ResolveHost = (hostname: string) => Promise<LookupAddress[]>;

/** As every program of this machine does it: by its hosts file and the names of its own network too. */
export const systemResolver: ResolveHost = (hostname) => lookup(hostname, { all: true });

/** For each of the servers and tries; the second waits twice as long. */
const ANSWER_TIMEOUT_MS = 3000;
const TRIES = 2;
/** How long IPv6 addresses are waited for once there are others, as RFC 8305 has it: some name servers never answer for them. */
const IPV6_DELAY_MS = 1000;

/**
 * By asking name servers, those of this machine unless told. The system's way keeps one of two threads for as long as a name
 * server is silent, and every other look-up of the process waits for it, that of the provider too: whoever names hosts with
 * such servers would cut the service off.
 */
export function nameServers(servers?: readonly string[]): ResolveHost {
  return async (hostname) => {
    const resolver = new Resolver({ timeout: ANSWER_TIMEOUT_MS, tries: TRIES });
    if (servers !== undefined) resolver.setServers(servers);
    const asked = [resolver.resolve4(hostname), resolver.resolve6(hostname)] as const;
    let impatience: NodeJS.Timeout | undefined;
    asked[0].then(
      () => (impatience = setTimeout(() => resolver.cancel(), IPV6_DELAY_MS)),
      () => undefined,
    );
    const [v4, v6] = await Promise.allSettled(asked);
    clearTimeout(impatience);
    if (v4.status === 'rejected' && v6.status === 'rejected') throw v4.reason;
    return [
      ...(v4.status === 'fulfilled' ? v4.value.map((address) => ({ address, family: 4 })) : []),
      ...(v6.status === 'fulfilled' ? v6.value.map((address) => ({ address, family: 6 })) : []),
    ];
  };
}
