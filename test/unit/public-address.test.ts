import { describe, expect, it } from 'vitest';
import { isPublicAddress } from '../../src/support/public-address.ts';

describe('a public address', () => {
  it.each([
    '1.1.1.1',
    '93.184.215.14',
    '172.15.255.255',
    '172.32.0.1',
    '100.63.255.255',
    '223.255.255.255',
    '168.63.129.17',
    '2606:4700:4700::1111',
    '2a00:1450:4001:82a::200e',
    '::ffff:1.1.1.1',
    '64:ff9b::1.1.1.1',
  ])('%s may be connected to', (address) => {
    expect(isPublicAddress(address)).toBe(true);
  });

  it.each([
    ['this host', '0.0.0.0'],
    ['this network', '0.1.2.3'],
    ['loopback', '127.0.0.1'],
    ['loopback, far end', '127.255.255.254'],
    ['private', '10.0.0.1'],
    ['private', '172.16.0.1'],
    ['private', '172.31.255.255'],
    ['private', '192.168.1.1'],
    ['shared with the carrier', '100.64.0.1'],
    ['link-local, cloud metadata', '169.254.169.254'],
    ['protocol assignments', '192.0.0.8'],
    ["Azure's host", '168.63.129.16'],
    ["Azure's host as IPv6", '::ffff:168.63.129.16'],
    ['documentation', '192.0.2.1'],
    ['documentation', '198.51.100.1'],
    ['documentation', '203.0.113.1'],
    ['benchmarking', '198.18.0.1'],
    ['6to4 relay', '192.88.99.1'],
    ['multicast', '224.0.0.1'],
    ['reserved', '240.0.0.1'],
    ['broadcast', '255.255.255.255'],
    ['unspecified', '::'],
    ['loopback', '::1'],
    ['link-local', 'fe80::1'],
    ['link-local with its zone', 'fe80::1%eth0'],
    ['site-local', 'fec0::1'],
    ['unique local, cloud metadata', 'fd00:ec2::254'],
    ['multicast', 'ff02::1'],
    ['documentation', '2001:db8::1'],
    ['documentation', '3fff::1'],
    ['discard', '100::1'],
    ['teredo', '2001:0:4136:e378::1'],
    ['loopback as mapped IPv4', '::ffff:127.0.0.1'],
    ['loopback as mapped IPv4, in hexadecimal', '::ffff:7f00:1'],
    ['private as mapped IPv4', '::ffff:10.0.0.1'],
    ['loopback as compatible IPv4', '::127.0.0.1'],
    ['loopback as translated IPv4', '::ffff:0:127.0.0.1'],
    ['loopback through NAT64', '64:ff9b::7f00:1'],
    ['cloud metadata through NAT64', '64:ff9b::169.254.169.254'],
    ['local NAT64', '64:ff9b:1::1.1.1.1'],
    ['loopback through 6to4', '2002:7f00:1::'],
    ['outside of global unicast', '4000::1'],
    ['a name', 'localhost'],
    ['a number', '2130706433'],
    ['octal', '0177.0.0.1'],
    ['nothing', ''],
  ])('%s (%s) may not', (_kind, address) => {
    expect(isPublicAddress(address)).toBe(false);
  });
});
