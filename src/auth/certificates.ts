/**
 * Client certificates: a service known by the name in the certificate that its TLS connection shows.
 *
 * The certificate counts where all of this holds, at each request, also of a connection that is kept for long:
 *
 * - OpenSSL has verified in the handshake that it leads to a root of `SEALOG_TLS_CLIENT_CA`, all of the chain in date and made for
 *   it, and the authorities are still the same (http/tls.ts);
 * - it is in date now, and its extended key usage, where it has one, names clients (RFC 5280 section 4.2.1.12);
 * - one service of the clients' file has one of its names (clients-file.ts).
 *
 * Its names are its DNS names and URIs (subjectAltName); the common name of its subject counts only where it has no subjectAltName at all
 * (RFC 9525 section 2: no longer used, but by old authorities of plants). Names of two services in one certificate are nobody's.
 *
 * A service is a caller with the role `service`. Whatever is wrong, the answer is the 401 of any bad credential.
 */
import type { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type { FastifyRequest } from 'fastify';
import { Problem } from '../errors.ts';
import type { Caller } from '../http/caller.ts';
import { type CertifiedServices, nameKind } from './clients-file.ts';
import { permissionsOf } from './roles.ts';

export interface CertificateOptions {
  /** The clients' file as it is now. */
  readonly services: () => CertifiedServices;
  /** Says whether the authorities that a connection's certificate was checked with are those of today. */
  readonly isShownToToday: (socket: Socket) => boolean;
  readonly wallClock?: () => number;
}

/** What a connection showed. */
interface Shown {
  /** Milliseconds since 1970. */
  readonly from: number;
  readonly until: number;
  /** None where it is worth nothing. */
  readonly names: readonly string[];
  /** Whose it is, and by which state of the clients' file. */
  caller: Caller | undefined;
  services: CertifiedServices | undefined;
}

const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';
const ANY_USE = '2.5.29.37.0';
const ROLES = ['service'] as const;

/** Returns what knows whom the certificate of a request's connection names: undefined where it shows none; throws where it is not good. */
export function certificateVerifier(options: CertificateOptions): (request: FastifyRequest) => Caller | undefined {
  const { services, isShownToToday, wallClock = Date.now } = options;
  const seen = new WeakMap<Socket, Shown | 'none'>();
  return ({ raw: { socket } }) => {
    if (!(socket instanceof TLSSocket)) return undefined;
    let shown = seen.get(socket);
    if (shown === undefined) {
      shown = whatIsShown(socket);
      seen.set(socket, shown);
    }
    if (shown === 'none') return undefined;
    const now = wallClock();
    if (now < shown.from || now >= shown.until || !isShownToToday(socket)) throw new Problem('unauthenticated');
    const known = services();
    if (shown.services !== known) {
      shown.services = known;
      shown.caller = callerNamed(shown.names, known);
    }
    if (shown.caller === undefined) throw new Problem('unauthenticated');
    return shown.caller;
  };
}

/** Returns the names that a certificate has: DNS names in lower case, URIs as they are; else its one common name. */
export function namesOf(certificate: X509Certificate): readonly string[] {
  const { subjectAltName } = certificate;
  const names = subjectAltName === undefined ? commonName(certificate) : alternativeNames(subjectAltName);
  return names.filter((name) => nameKind(name) !== undefined);
}

function whatIsShown(socket: TLSSocket): Shown | 'none' {
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) return 'none';
  // (Node's types know nothing of a certificate without it.)
  const uses = certificate.keyUsage as readonly string[] | undefined;
  const isOfClient = uses === undefined || uses.includes(CLIENT_AUTH) || uses.includes(ANY_USE);
  return {
    from: certificate.validFromDate.getTime(),
    until: certificate.validToDate.getTime(),
    names: socket.authorized && isOfClient ? namesOf(certificate) : [],
    caller: undefined,
    services: undefined,
  };
}

function callerNamed(names: readonly string[], services: CertifiedServices): Caller | undefined {
  const found = new Set(names.flatMap((name) => services.get(name) ?? []));
  const [service] = found;
  if (service === undefined || found.size > 1) return undefined;
  const { name, tenant, categories, sites } = service;
  return {
    tenant,
    subject: name,
    credential: 'certificate',
    roles: ROLES,
    permissions: permissionsOf(ROLES, tenant, sites),
    ...(sites === undefined ? {} : { sites }),
    ...(categories === undefined ? {} : { categories }),
  };
}

/**
 * Reads what Node makes of a subjectAltName: `DNS:a.example, URI:"http://a/\u002c"`. A value that could be taken for more than one is a JSON
 * string there (since CVE-2021-44532). What is not understood to its end has no names.
 */
function alternativeNames(text: string): readonly string[] {
  const names: string[] = [];
  const name = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/y;
  while (name.lastIndex < text.length) {
    const [, kind, value = ''] = name.exec(text) ?? [];
    if (kind === undefined) return [];
    const plain = value.startsWith('"') ? unquoted(value) : value;
    if (plain === undefined) return [];
    if (kind === 'DNS' && nameKind(plain.toLowerCase()) === 'dns') names.push(plain.toLowerCase());
    if (kind === 'URI' && nameKind(plain) === 'uri') names.push(plain);
  }
  return names;
}

function unquoted(value: string): string | undefined {
  try {
    return JSON.parse(value) as string;
  } catch {
    return undefined;
  }
}

function commonName(certificate: X509Certificate): readonly string[] {
  // An array where there are several: then none of them is the name.
  const name: unknown = certificate.toLegacyObject().subject.CN;
  if (typeof name !== 'string') return [];
  // Not as a URI: authorities let everything stand there.
  return nameKind(name.toLowerCase()) === 'dns' ? [name.toLowerCase()] : [];
}
