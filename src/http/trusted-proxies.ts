/**
 * Whom a proxy says that it speaks for (`X-Forwarded-For`), believed of the proxies that the operator names (`SEALOG_TRUST_PROXY`) and of
 * nobody else.
 *
 * Each proxy adds the address that it got the request from at the end of the list; what stands before the first that is no trusted
 * proxy's was written by somebody who can write what he likes. So the list is read from its end, as far as addresses are those of trusted
 * proxies, and what is no address ends it.
 *
 * `X-Forwarded-Host` and `-Proto`, and `Forwarded`, have no effect at all: nothing here depends on what the service is called, and
 * Fastify's own `trustProxy`, which believes them, is not used.
 */
import type { IncomingMessage } from 'node:http';
import { isIP, isIPv6 } from 'node:net';
import { addressesIn, cidrProblem } from './address-guard.ts';

/** Returns the address that a request came from, behind trusted proxies. */
export type ClientOf = (request: IncomingMessage) => string | undefined;

/** Longer chains are somebody's play. */
const PROXIES_MAX = 20;

export function clientBehind(proxies: readonly string[]): ClientOf {
  const isTrusted = addressesIn(proxies);
  return ({ socket, headers }) => {
    const peer = plain(socket.remoteAddress);
    if (peer === undefined || !isTrusted(peer)) return peer;
    // (Node joins what is sent several times.)
    const said = [headers['x-forwarded-for'] ?? []].flat().join(',').split(',').slice(-PROXIES_MAX);
    let client = peer;
    while (isTrusted(client)) {
      const before = plain(said.pop());
      if (before === undefined) break;
      client = before;
    }
    return client;
  };
}

/** Says what is wrong with a proxy's CIDR, or returns undefined. */
export function proxyProblem(cidr: string): string | undefined {
  const problem = cidrProblem(cidr);
  if (problem !== undefined) return problem;
  // Then whoever reaches the service writes what the log says of him.
  return cidr.endsWith('/0') ? 'would believe everybody: name the proxies' : undefined;
}

/** Returns an address without what stands around it (a port, brackets, a zone), an IPv4-mapped one as IPv4; undefined for what is none. */
function plain(text: string | undefined): string | undefined {
  const trimmed = text?.trim() ?? '';
  const [, bracketed] = /^\[([^\]]*)\](?::\d{1,5})?$/.exec(trimmed) ?? [];
  const [, beforePort] = /^([0-9.]+):\d{1,5}$/.exec(trimmed) ?? [];
  const address = (bracketed ?? beforePort ?? trimmed).replace(/%.*$/s, '');
  const [, mapped] = /^::ffff:([0-9.]+)$/i.exec(address) ?? [];
  const found = mapped ?? address;
  if (bracketed !== undefined && !isIPv6(address)) return undefined;
  return isIP(found) === 0 ? undefined : found;
}
