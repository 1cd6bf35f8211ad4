// Which IP addresses belong to the public internet.
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/** Where global unicast addresses are assigned from (RFC 4291, IANA); anything else that calls itself unicast is a leftover. */
const globalUnicast: [ipaddr.IPv6, number] = [ipaddr.IPv6.parse('2000::'), 3];
/** Public by their range, but inside of Azure the host of a virtual machine answers there. */
const hostInternal = new Set(['168.63.129.16']);
/** IPv6 addresses of these ranges are IPv4 addresses in other clothes, the last 32 bits (RFC 4291, RFC 6052). */
const ipv4Inside: [ipaddr.IPv6, number][] = [
  [ipaddr.IPv6.parse('::ffff:0:0'), 96],
  [ipaddr.IPv6.parse('64:ff9b::'), 96],
];

/**
 * Whether an address is globally routable unicast. Private, loopback, link-local (cloud metadata with it), shared,
 * documentation, multicast, tunnel and reserved addresses are not, nor is anything that is no IP address.
 */
export function isPublicAddress(address: string): boolean {
  if (isIP(address) === 0) return false;
  const parsed = ipaddr.parse(address);
  if (parsed instanceof ipaddr.IPv4) return isPublicIpv4(parsed);
  if (ipv4Inside.some((range) => parsed.match(range))) {
    return isPublicIpv4(new ipaddr.IPv4(parsed.toByteArray().slice(12)));
  }
  return parsed.range() === 'unicast' && parsed.match(globalUnicast);
}

function isPublicIpv4(address: ipaddr.IPv4): boolean {
  return address.range() === 'unicast' && !hostInternal.has(address.toString());
}
