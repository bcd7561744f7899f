/** Where a request came from, as the log tells it: an address in one spelling, and the network that one sender can be anywhere in. */
import { isIP, isIPv6 } from 'node:net';
import type { FastifyRequest } from 'fastify';
import { normalizeIp } from '../chain/tag.ts';

/** What stands where no address is known: a connection that is gone, or a proxy that names something else. */
export const NO_ADDRESS = 'unknown';

/** Returns the address that a request came from; a proxy's word counts where `trustProxy` says so. */
export function addressOf(request: FastifyRequest): string {
  return normalAddress(request.ip);
}

/** Returns the address in the spelling of RFC 5952, an IPv4-mapped one as IPv4, and `unknown` for what is no address. */
export function normalAddress(text: string | undefined): string {
  return text !== undefined && isIP(text) !== 0 ? normalizeIp(text) : NO_ADDRESS;
}

/** Returns what one sender has of an address that `normalAddress` gave: of IPv4 the address, of IPv6 its /64 (RFC 6177: at least). */
export function networkOf(address: string): string {
  if (!isIPv6(address)) return address;
  const [head = '', tail] = address.replace(/%.*$/s, '').split('::');
  const before = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = new Array<string>(8 - before.length - after.length).fill('0');
  const groups = [...before, ...zeros, ...after].slice(0, 4);
  return `${normalizeIp(`${groups.join(':')}::`)}/64`;
}
