/**
 * Which addresses the service may call, of those that a name or a URL leads to.
 *
 * An address that somebody else chose (a URL in a setting, an answer of the name service) must not lead into the
 * network that the service stands in: to a database, to the metadata of a cloud, to the service itself. So every
 * address is refused that is not globally reachable (the IANA special-purpose registries of RFC 6890 and its
 * successors), unless the operator allows it by a CIDR.
 */
import assert from 'node:assert/strict';
import { BlockList, isIPv4, isIPv6 } from 'node:net';

export interface AddressGuard {
  /** Says whether an IP address (no name, no brackets) may be called. What is no address may not. */
  allows(address: string): boolean;
}

/** IPv4 that is not globally reachable, or reaches many. */
const REFUSED_IPV4 = [
  '0.0.0.0/8', // this network; 0.0.0.0 is this host
  '10.0.0.0/8', // private
  '100.64.0.0/10', // carrier-grade NAT
  '127.0.0.0/8', // loopback
  '169.254.0.0/16', // link-local; clouds' metadata
  '172.16.0.0/12', // private
  '192.0.0.0/24', // protocol assignments
  '192.0.2.0/24', // documentation
  '192.88.99.0/24', // 6to4 relays
  '192.168.0.0/16', // private
  '198.18.0.0/15', // benchmarks
  '198.51.100.0/24', // documentation
  '203.0.113.0/24', // documentation
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, and broadcast
];

/**
 * Of IPv6 only this is global unicast. Outside are loopback, unspecified, unique local, link-local, site-local,
 * multicast, discard, local NAT64 (64:ff9b:1::/48), IPv4-compatible addresses, segment routing, and the rest.
 */
const GLOBAL_IPV6 = '2000::/3';
/** Inside it, but not globally reachable, or a way to IPv4 that nobody can judge. */
const REFUSED_IPV6 = [
  '2001::/23', // protocol assignments: Teredo, benchmarks, ORCHID
  '2001:db8::/32', // documentation
  '2002::/16', // 6to4
  '3fff::/20', // documentation
];

const REFUSED = blockList(REFUSED_IPV4.concat(REFUSED_IPV6));
const GLOBAL = blockList([GLOBAL_IPV6]);

/**
 * Returns the guard that allows public addresses, and those in these CIDRs.
 *
 * An IPv6 address that is just another spelling of an IPv4 one (IPv4-mapped, or in the well-known prefix of NAT64, RFC
 * 6052) is judged as that one: it leads there. It is allowed by a CIDR of either family.
 */
export function addressGuard(allowAddresses: readonly string[]): AddressGuard {
  const isAllowed = addressesIn(allowAddresses);
  return {
    allows(given) {
      // A zone names an interface, not another address.
      const address = given.replace(/%.*$/s, '');
      if (isIPv4(address)) return isAllowed(address) || !REFUSED.check(address, 'ipv4');
      if (!isIPv6(address)) return false;
      if (isAllowed(address)) return true;
      const embedded = embeddedIpv4(address);
      if (embedded !== undefined) return isAllowed(embedded) || !REFUSED.check(embedded, 'ipv4');
      return GLOBAL.check(address, 'ipv6') && !REFUSED.check(address, 'ipv6');
    },
  };
}

/** Returns what says whether an IP address is in one of these CIDRs. */
export function addressesIn(cidrs: readonly string[]): (address: string) => boolean {
  // A list a family: in one list ::/0 would hold all of IPv4 too, since a BlockList sees it as part of IPv6.
  const ipv4 = blockList(cidrs.filter((cidr) => !cidr.includes(':')));
  const ipv6 = blockList(cidrs.filter((cidr) => cidr.includes(':')));
  return (address) => (isIPv4(address) ? ipv4.check(address, 'ipv4') : ipv6.check(address, 'ipv6'));
}

/** Says what is wrong with the text of a CIDR, or returns undefined. */
export function cidrProblem(cidr: string): string | undefined {
  const [, address = '', digits] = /^([0-9a-fA-F:.]+)\/(0|[1-9][0-9]{0,2})$/.exec(cidr) ?? [];
  const bits = isIPv4(address) ? 32 : isIPv6(address) ? 128 : 0;
  const prefix = Number(digits);
  if (bits === 0 || prefix > bits) return 'is no CIDR such as 10.1.0.0/16, 192.0.2.7/32 or fd00:1::/64';
  // Such a range is a mistake as often as not, and allows more than its reader thinks: 10.1.2.3/8 is all of 10.
  const number = bits === 32 ? ipv4Number(address) : ipv6Number(address);
  if (number % (1n << BigInt(bits - prefix)) !== 0n) return 'has bits set behind its prefix';
  return undefined;
}

function blockList(cidrs: readonly string[]): BlockList {
  const list = new BlockList();
  for (const cidr of cidrs) {
    assert(cidrProblem(cidr) === undefined, 'a CIDR is checked when it is read');
    const [address = '', prefix] = cidr.split('/');
    list.addSubnet(address, Number(prefix), isIPv4(address) ? 'ipv4' : 'ipv6');
  }
  return list;
}

const MAPPED = 0xffffn; // ::ffff:0:0/96
const NAT64 = 0x64ff9bn << 64n; // 64:ff9b::/96

/** Returns the IPv4 address that an IPv6 address spells. */
function embeddedIpv4(address: string): string | undefined {
  const number = ipv6Number(address);
  const prefix = number >> 32n;
  if (prefix !== MAPPED && prefix !== NAT64) return undefined;
  return [24n, 16n, 8n, 0n].map((shift) => (number >> shift) & 255n).join('.');
}

function ipv4Number(address: string): bigint {
  return address.split('.').reduce((number, byte) => number * 256n + BigInt(byte), 0n);
}

/** Reads what `isIPv6` has taken. */
function ipv6Number(address: string): bigint {
  const [left = '', right] = address.split('::');
  const before = groups(left);
  const after = groups(right ?? '');
  const zeros = new Array<bigint>(8 - before.length - after.length).fill(0n);
  return [...before, ...zeros, ...after].reduce((number, group) => number * 65_536n + group, 0n);
}

/** Groups of 16 bits; the last may be written as an IPv4 address. */
function groups(text: string): bigint[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    if (!group.includes('.')) return [BigInt(`0x${group}`)];
    const number = ipv4Number(group);
    return [number >> 16n, number & 65_535n];
  });
}
