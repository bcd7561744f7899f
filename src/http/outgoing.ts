/**
 * Outgoing calls: HTTP requests to addresses of the operator (time-stamp authorities, witnesses, revocation lists, SIEMs, key services).
 *
 * A call goes to an address that the guard has allowed, and to no other: the name is looked up once, what the name
 * service answers is checked, and the connection is made to one of the very addresses that were checked. A redirect is
 * an answer, never followed. Every call has one time limit for everything (look-up, connection, TLS, answer) and a
 * limit for the answer. No proxy, no cookies, no cache, no connection kept: a call is a call.
 *
 * Who makes many calls to one place asks for connections that are kept (`keep`). Each new one is made as above; none
 * lives longer than some minutes, so that a name that leads elsewhere by then is followed, and looked at again. No TLS
 * session is resumed: a server proves who it is each time.
 *
 * An error names the scheme, host and port of the call and nothing else of its URL: paths and queries may carry
 * secrets, and errors end in logs and on status pages.
 */
import { lookup as lookUp } from 'node:dns/promises';
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
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
  /** Takes of a larger answer what fits, where without this there would be none: for whom the status is what counts. */
  readonly cutsAnswer?: boolean;
  /** Certificates (PEM) that the server's must lead to, in place of the public authorities. */
  readonly caPem?: string;
  /** Our own certificate and its key (PEM), where the server wants one. */
  readonly certPem?: string;
  readonly keyPem?: string;
  /** Ends the call. */
  readonly signal?: AbortSignal;
}

export interface PostRequest extends GetRequest {
  readonly body: Uint8Array;
}

/** Any status is an answer. Throws an OutgoingError where there is none. */
export type Post = (url: string, request: PostRequest) => Promise<OutgoingAnswer>;
export type Get = (url: string, request: GetRequest) => Promise<OutgoingAnswer>;

export interface Calls {
  readonly post: Post;
  readonly get: Get;
  readonly delete: Get;
  /** Ends the calls that run, and refuses later ones. */
  close(): void;
}

export interface Outgoing extends Calls {
  /**
   * Returns what makes calls over connections that are kept in between, at most so many to one place; further calls
   * wait. Where a kept connection ends before any of an answer has come, the call is made again, once, on a new one: a
   * server that closes an idle connection and a call can meet. So it is for requests that may arrive twice.
   */
  keep(options: KeepOptions): Calls;
}

export interface KeepOptions {
  readonly connectionsMax: number;
  /** Of a connection that nobody uses. */
  readonly idleMs?: number;
  /** Of any connection, looked at when a call on it ends. */
  readonly ageMs?: number;
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

/** Less than most servers keep an idle connection. */
const KEPT_IDLE_MS = 20_000;
/** In which a change of the name service is followed. */
const KEPT_AGE_MS = 300_000;

/** Returns what makes calls. */
export function outgoing({ allowAddresses, log, resolve = lookUpAll }: OutgoingOptions): Outgoing {
  const guard = addressGuard(allowAddresses);
  const closed = new AbortController();

  const call = async (
    method: string,
    text: string,
    given: GetRequest,
    body?: Uint8Array,
    kept?: KeptConnections,
  ): Promise<OutgoingAnswer> => {
    const begin = performance.now();
    const url = parseUrl(text);
    const facts = { method, to: url.origin };
    const signals = [closed.signal, kept?.closed, given.signal].filter((signal) => signal !== undefined);
    try {
      checkLiteral(url, guard);
      const until = begin + given.timeoutMs;
      const once: Exchange = { url, method, given, body, lookup: guardedLookup(guard, resolve), signals, until };
      const agent = kept?.agentOf(url);
      const answer = await (agent === undefined ? exchange(once) : exchange({ ...once, agent }).catch(afresh));
      log.debug({ ...facts, status: answer.status, ms: Math.round(performance.now() - begin) }, 'outgoing call');

      function afresh(error: unknown): Promise<OutgoingAnswer> {
        if (error instanceof StaleConnection) return exchange(once);
        throw error;
      }
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
    delete: (url, request) => call('DELETE', url, request),
    keep: (options) => {
      const kept = new KeptConnections(options, closed.signal);
      return {
        post: (url, request) => call('POST', url, request, request.body, kept),
        get: (url, request) => call('GET', url, request, undefined, kept),
        delete: (url, request) => call('DELETE', url, request, undefined, kept),
        close: () => kept.close(),
      };
    },
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

/** What `net.connect` calls for a name. It connects to what this answers, and to nothing else; its errors are OutgoingErrors. */
export function guardedLookup(
  guard: AddressGuard,
  resolve: NonNullable<OutgoingOptions['resolve']> = lookUpAll,
): LookupFunction {
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

// ---- Connections that are kept ----

class KeptConnections {
  readonly #agents: { readonly 'http:': HttpAgent; readonly 'https:': HttpsAgent };
  readonly #closed = new AbortController();
  readonly #all: AbortSignal;

  constructor({ connectionsMax, idleMs = KEPT_IDLE_MS, ageMs = KEPT_AGE_MS }: KeepOptions, all: AbortSignal) {
    const options = { keepAlive: true, maxSockets: connectionsMax, maxFreeSockets: connectionsMax, timeout: idleMs };
    this.#agents = {
      'http:': youngOnly(new HttpAgent(options), ageMs),
      'https:': youngOnly(new HttpsAgent({ ...options, maxCachedSessions: 0 }), ageMs),
    };
    this.#all = all;
    all.addEventListener('abort', this.close, { once: true });
  }

  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  agentOf({ protocol }: URL): HttpAgent {
    return protocol === 'https:' ? this.#agents['https:'] : this.#agents['http:'];
  }

  readonly close = (): void => {
    this.#all.removeEventListener('abort', this.close);
    this.#closed.abort();
    for (const agent of Object.values(this.#agents)) agent.destroy();
  };
}

/** Makes an agent keep no connection for longer, however busy it is. */
function youngOnly<A extends HttpAgent>(agent: A, ageMs: number): A {
  const since = new WeakMap<object, number>();
  const keep = agent.keepSocketAlive.bind(agent);
  agent.keepSocketAlive = (socket) => {
    const first = since.get(socket) ?? performance.now();
    since.set(socket, first);
    return performance.now() - first < ageMs && keep(socket);
  };
  return agent;
}

/** A kept connection that ended before any of an answer. */
class StaleConnection extends OutgoingError {
  constructor(error: OutgoingError) {
    super(error.reason, error.message);
  }
}

// ---- The call ----

interface Exchange {
  readonly url: URL;
  readonly method: string;
  readonly given: GetRequest;
  readonly body: Uint8Array | undefined;
  readonly lookup: LookupFunction;
  readonly signals: readonly AbortSignal[];
  /** By `performance.now()`. */
  readonly until: number;
  /** Of the connections that are kept. */
  readonly agent?: HttpAgent;
}

function exchange({ url, method, given, body, lookup, signals, until, agent }: Exchange): Promise<OutgoingAnswer> {
  const { timeoutMs, answerBytesMax, cutsAnswer = false, caPem, certPem, keyPem, headers } = given;
  return new Promise((fulfill, reject) => {
    let isSettled = false;
    let response: IncomingMessage | undefined;
    const stop = AbortSignal.any([...signals]);
    // Before there is a request: one connects at once.
    if (stop.aborted) return reject(ended(url.origin));
    const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(options());
    const timer = setTimeout(() => {
      fail(new OutgoingError('timeout', `${url.origin}: no whole answer within ${timeoutMs} ms`));
    }, until - performance.now());
    const stopped = (): void => fail(ended(url.origin));
    const settle = (isDone = false): void => {
      if (isSettled) return;
      isSettled = true;
      clearTimeout(timer);
      stop.removeEventListener('abort', stopped);
      // Whatever the outcome, nothing of this call lives on. What the socket still has to say about it is no news.
      request.on('error', () => {});
      // A connection is kept after a whole request and a whole answer alone.
      if (agent === undefined || !isDone || !request.writableFinished) request.destroy();
    };
    const fail = (error: OutgoingError): void => {
      settle();
      reject(error);
    };
    const lose = (error: OutgoingError): void => {
      const isStale = request.reusedSocket && response === undefined && error.reason === 'unreachable';
      fail(isStale ? new StaleConnection(error) : error);
    };

    stop.addEventListener('abort', stopped);
    request.on('error', (error) => lose(asOutgoing(error, url.origin)));
    request.on('upgrade', () => fail(unreachable(url.origin, 'answered with another protocol')));
    request.on('close', () => {
      // Where the answer is whole this is the end of the call alone, and comes before its bytes are in our hands.
      if (response?.complete !== true)
        lose(unreachable(url.origin, 'ended the connection before its answer was whole'));
    });
    request.on('response', (answer) => {
      response = answer;
      readBody(answer, answerBytesMax, cutsAnswer, url.origin).then((bytes) => {
        settle(answer.complete);
        fulfill({ status: answer.statusCode ?? 0, headers: joined(answer), body: bytes });
      }, fail);
    });
    request.end(body);
  });

  function options(): TlsRequestOptions {
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
      // Else one of its own, which knows no proxy and keeps no connection.
      agent: agent ?? false,
      lookup,
      maxHeaderSize: HEADER_BYTES_MAX,
      insecureHTTPParser: false,
      minVersion: 'TLSv1.2',
      // Said, so that NODE_TLS_REJECT_UNAUTHORIZED can not say otherwise.
      rejectUnauthorized: true,
      ...(caPem === undefined ? {} : { ca: caPem }),
      ...(certPem === undefined ? {} : { cert: certPem }),
      ...(keyPem === undefined ? {} : { key: keyPem }),
    };
  }
}

type TlsRequestOptions = RequestOptions & {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly minVersion: 'TLSv1.2';
  readonly rejectUnauthorized: true;
};

function readBody(response: IncomingMessage, bytesMax: number, cuts: boolean, origin: string): Promise<Uint8Array> {
  const tooLarge = (): OutgoingError =>
    new OutgoingError('answer_too_large', `${origin}: the answer is larger than ${bytesMax} bytes`);
  return new Promise((fulfill, reject) => {
    if (!cuts && Number(response.headers['content-length'] ?? 0) > bytesMax) return reject(tooLarge());
    const chunks: Buffer[] = [];
    let size = 0;
    response.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= bytesMax) chunks.push(chunk);
      else if (cuts) fulfill(Buffer.concat([...chunks, chunk]).subarray(0, bytesMax));
      else reject(tooLarge());
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
  return unreachable(origin, FAILURE_WORDS[code] ?? `failed (${code})`);
}

function ended(origin: string): OutgoingError {
  return new OutgoingError('stopped', `${origin}: the call was ended`);
}

function unreachable(origin: string, what: string): OutgoingError {
  return new OutgoingError('unreachable', `${origin}: ${what}`);
}

/** Codes of errors of sockets and TLS, for people. */
export const FAILURE_WORDS: Readonly<Record<string, string>> = {
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
