/**
 * Outgoing calls: HTTP requests to addresses of the operator (time-stamp authorities, witnesses, revocation lists).
 *
 * A call goes to an address that the guard has allowed, and to no other: the name is looked up once, what the name
 * service answers is checked, and the connection is made to one of the very addresses that were checked. A redirect is
 * an answer, never followed. Every call has one time limit for everything (look-up, connection, TLS, answer) and a
 * limit for the answer. No proxy, no cookies, no cache, no connection kept: a call is a call.
 *
 * An error names the scheme, host and port of the call and nothing else of its URL: paths and queries may carry
 * secrets, and errors end in logs and on status pages.
 */
import { lookup as lookUp } from 'node:dns/promises';
import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIP, isIPv6, type LookupFunction } from 'node:net';
import { type AddressGuard, addressGuard } from './address-guard.ts';

export interface OutgoingAnswer {
  readonly status: number;
  /** Names in lower case; what came several times is joined by commas. */
  readonly headers: Record<string, string>;
  readonly body: Uint8Array;
}

export interface GetRequest {
  readonly headers?: Record<string, string>;
  /** For the whole call. */
  readonly timeoutMs: number;
  readonly answerBytesMax: number;
  /** Certificates (PEM) that the server's must lead to, in place of the public authorities. */
  readonly caPem?: string;
  /** Ends the call. */
  readonly signal?: AbortSignal;
}

export interface PostRequest extends GetRequest {
  readonly body: Uint8Array;
}

/** Any status is an answer. Throws an OutgoingError where there is none. */
export type Post = (url: string, request: PostRequest) => Promise<OutgoingAnswer>;
export type Get = (url: string, request: GetRequest) => Promise<OutgoingAnswer>;

export interface Outgoing {
  readonly post: Post;
  readonly get: Get;
  /** Ends the calls that run, and refuses later ones. */
  close(): void;
}

export interface OutgoingOptions {
  /** CIDRs of addresses that may be called though they are not public (`SEALOG_ALLOW_ADDRESSES`). */
  readonly allowAddresses: readonly string[];
  readonly log: OutgoingLog;
  /** Looks a name up: all its addresses. By default the system's way. */
  readonly resolve?: (hostname: string) => Promise<readonly { readonly address: string }[]>;
}

export interface OutgoingLog {
  debug(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

export type OutgoingReason =
  | 'invalid_url'
  | 'address_not_allowed'
  | 'unreachable'
  | 'timeout'
  | 'answer_too_large'
  | 'stopped';

/** A call without an answer. The message is for people; it holds no path, query or credentials. */
export class OutgoingError extends Error {
  override readonly name = 'OutgoingError';
  readonly reason: OutgoingReason;

  constructor(reason: OutgoingReason, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** Of an answer's headers; more is a failure. */
const HEADER_BYTES_MAX = 16 * 1024;

/** Returns what makes calls. */
export function outgoing({ allowAddresses, log, resolve = lookUpAll }: OutgoingOptions): Outgoing {
  const guard = addressGuard(allowAddresses);
  const closed = new AbortController();

  const call = async (method: string, text: string, given: GetRequest, body?: Uint8Array): Promise<OutgoingAnswer> => {
    const begin = performance.now();
    const url = parseUrl(text);
    const facts = { method, to: url.origin };
    const signals = given.signal === undefined ? [closed.signal] : [closed.signal, given.signal];
    try {
      checkLiteral(url, guard);
      const answer = await exchange({ url, method, given, body, lookup: guardedLookup(guard, resolve), signals });
      log.debug({ ...facts, status: answer.status, ms: Math.round(performance.now() - begin) }, 'outgoing call');
      return answer;
    } catch (error) {
      if (!(error instanceof OutgoingError)) throw error;
      // Somebody gave an address that he should not have, or a name leads where it should not.
      if (error.reason === 'address_not_allowed') log.warn(facts, error.message);
      throw error;
    }
  };
  return {
    post: (url, request) => call('POST', url, request, request.body),
    get: (url, request) => call('GET', url, request),
    close: () => closed.abort(),
  };
}

/** Says what is wrong with the text of a URL that calls are to go to, or returns undefined. */
export function urlProblem(text: string): string | undefined {
  const url = URL.parse(text);
  if (url === null || !/^https?:\/\//i.test(text)) return 'must be a URL that begins with http:// or https://';
  if (url.username !== '' || url.password !== '') return 'must not hold credentials';
  return undefined;
}

function parseUrl(text: string): URL {
  const problem = urlProblem(text);
  // The text itself is not shown: it may be where the credentials are.
  if (problem !== undefined) throw new OutgoingError('invalid_url', `the URL of a call ${problem}`);
  return new URL(text);
}

// ---- Where a call goes ----

/**
 * A literal address is never looked up, so it is checked here. `URL` has turned the odd spellings of IPv4 (decimal,
 * octal, hexadecimal, fewer than four numbers, a dot at the end) into the usual one.
 */
function checkLiteral(url: URL, guard: AddressGuard): void {
  const host = bareHost(url);
  if (isIP(host) !== 0 && !guard.allows(host)) throw notAllowed(url.origin, host);
}

/** What `net.connect` calls for a name. It connects to what this answers, and to nothing else. */
function guardedLookup(guard: AddressGuard, resolve: NonNullable<OutgoingOptions['resolve']>): LookupFunction {
  return (hostname, options, callback) => {
    const answer = async (): Promise<{ address: string; family: number }[]> => {
      const found = await resolve(hostname);
      const addresses = found.map(({ address }) => address).filter((address) => isIP(address) !== 0);
      if (addresses.length === 0) throw new OutgoingError('unreachable', `${hostname} has no address`);
      const allowed = addresses.filter((address) => guard.allows(address));
      if (allowed.length === 0) throw notAllowed(hostname, addresses[0]!);
      return allowed.map((address) => ({ address, family: isIPv6(address) ? 6 : 4 }));
    };
    answer().then(
      (all) => (options.all === true ? callback(null, all) : callback(null, all[0]!.address, all[0]!.family)),
      (error: NodeJS.ErrnoException) => callback(error, options.all === true ? [] : '', 0),
    );
  };
}

function lookUpAll(hostname: string): Promise<readonly { readonly address: string }[]> {
  return lookUp(hostname, { all: true });
}

function notAllowed(where: string, address: string): OutgoingError {
  return new OutgoingError(
    'address_not_allowed',
    `${where}: the address ${address} is not public, and SEALOG_ALLOW_ADDRESSES does not allow it`,
  );
}

/** The host as an address or a name: without the brackets of IPv6. */
function bareHost(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1');
}

// ---- The call ----

interface Exchange {
  readonly url: URL;
  readonly method: string;
  readonly given: GetRequest;
  readonly body: Uint8Array | undefined;
  readonly lookup: LookupFunction;
  readonly signals: readonly AbortSignal[];
}

function exchange({ url, method, given, body, lookup, signals }: Exchange): Promise<OutgoingAnswer> {
  const { timeoutMs, answerBytesMax, caPem, headers } = given;
  return new Promise((fulfill, reject) => {
    const stop = AbortSignal.any([...signals]);
    const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(options());
    const timer = setTimeout(() => {
      fail(new OutgoingError('timeout', `${url.origin}: no whole answer within ${timeoutMs} ms`));
    }, timeoutMs);
    const stopped = (): void => fail(new OutgoingError('stopped', `${url.origin}: the call was ended`));
    const settle = (): void => {
      clearTimeout(timer);
      stop.removeEventListener('abort', stopped);
      // Whatever the outcome, nothing of this call lives on. What the socket still has to say about it is no news.
      request.on('error', () => {});
      request.destroy();
    };
    const fail = (error: OutgoingError): void => {
      settle();
      reject(error);
    };

    if (stop.aborted) return stopped();
    stop.addEventListener('abort', stopped);
    request.on('error', (error) => fail(asOutgoing(error, url.origin)));
    request.on('upgrade', () => fail(unreachable(url.origin, 'answered with another protocol')));
    request.on('close', () => fail(unreachable(url.origin, 'ended the connection before its answer was whole')));
    request.on('response', (response) => {
      readBody(response, answerBytesMax, url.origin).then((bytes) => {
        settle();
        fulfill({ status: response.statusCode ?? 0, headers: joined(response), body: bytes });
      }, fail);
    });
    request.end(body);
  });

  function options(): RequestOptions & { ca?: string; minVersion: 'TLSv1.2'; rejectUnauthorized: true } {
    return {
      protocol: url.protocol,
      host: bareHost(url),
      port: url.port === '' ? undefined : Number(url.port),
      path: url.pathname + url.search,
      method,
      headers: {
        'user-agent': 'sealog',
        ...headers,
        ...(body === undefined ? {} : { 'content-length': String(body.length) }),
      },
      // One of its own, which knows no proxy and keeps no connection.
      agent: false,
      lookup,
      maxHeaderSize: HEADER_BYTES_MAX,
      insecureHTTPParser: false,
      minVersion: 'TLSv1.2',
      // Said, so that NODE_TLS_REJECT_UNAUTHORIZED can not say otherwise.
      rejectUnauthorized: true,
      ...(caPem === undefined ? {} : { ca: caPem }),
    };
  }
}

function readBody(response: IncomingMessage, bytesMax: number, origin: string): Promise<Uint8Array> {
  const tooLarge = (): OutgoingError =>
    new OutgoingError('answer_too_large', `${origin}: the answer is larger than ${bytesMax} bytes`);
  return new Promise((fulfill, reject) => {
    if (Number(response.headers['content-length'] ?? 0) > bytesMax) return reject(tooLarge());
    const chunks: Buffer[] = [];
    let size = 0;
    response.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > bytesMax) return reject(tooLarge());
      chunks.push(chunk);
    });
    response.on('error', (error) => reject(asOutgoing(error, origin)));
    response.on('end', () => {
      if (response.complete) fulfill(Buffer.concat(chunks));
      else reject(unreachable(origin, 'cut its answer'));
    });
  });
}

function joined({ headersDistinct }: IncomingMessage): Record<string, string> {
  return Object.fromEntries(Object.entries(headersDistinct).map(([name, values = []]) => [name, values.join(', ')]));
}

/**
 * Errors of sockets, TLS and the parser carry what was received, and much else that no log should hold: of them remain
 * the code and, where it helps the operator, the reason.
 */
function asOutgoing(
  error: NodeJS.ErrnoException & { errors?: readonly NodeJS.ErrnoException[] },
  origin: string,
): OutgoingError {
  if (error instanceof OutgoingError) return error;
  // Several addresses were tried: each failed in its way.
  const code = error.code ?? error.errors?.[0]?.code ?? error.name;
  return unreachable(origin, WORDS[code] ?? `failed (${code})`);
}

function unreachable(origin: string, what: string): OutgoingError {
  return new OutgoingError('unreachable', `${origin}: ${what}`);
}

const WORDS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nobody listens there (ECONNREFUSED)',
  ECONNRESET: 'ended the connection (ECONNRESET)',
  ENOTFOUND: 'the name is not known (ENOTFOUND)',
  EAI_AGAIN: 'the name service does not answer (EAI_AGAIN)',
  CERT_HAS_EXPIRED: 'its certificate has expired (CERT_HAS_EXPIRED)',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is its own, and not trusted (DEPTH_ZERO_SELF_SIGNED_CERT)',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate leads to an authority that is not trusted (SELF_SIGNED_CERT_IN_CHAIN)',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate leads to no trusted authority (UNABLE_TO_VERIFY_LEAF_SIGNATURE)',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name (ERR_TLS_CERT_ALTNAME_INVALID)',
};
