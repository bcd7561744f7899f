/**
 * Request bodies: from the socket to one Buffer for the handler, within limits.
 *
 * A body is refused as early as it can be known: by its headers before a byte of it is read (media type, charset,
 * coding, declared length, memory), else at the byte that crosses a limit. The handler gets the decoded bytes and parses
 * them itself, since what was sent must be judged as sent.
 *
 * Limits, each for one body:
 * - `limit` bytes, of what arrives and of what it decodes to;
 * - `gzipRatioMax` decoded bytes for each compressed byte, once `GZIP_FREE_BYTES` are decoded. Real audit events shrink 10
 *   to 17 times; one event sent thousands of times with a counter in it, as load tests do, up to 160; deflate can reach
 *   1032. The first bytes are free because the ratio of something small means nothing and costs nothing.
 *
 * And one for all: `BodyBudget`, the memory that bodies may hold from their first byte until their handler is done
 * with them. When it is used up, the next body is refused with 503 `busy`; what is on its way goes on. One tenant can not use
 * it up: it holds four fifths at most, and less beside others (chain/fair-share.ts), so that there is always some for who comes next.
 */

import assert from 'node:assert/strict';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createGunzip } from 'node:zlib';
import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify';
import { isWithinShare } from '../chain/fair-share.ts';
import { Problem } from '../errors.ts';

export type MediaType = 'application/json' | 'application/x-ndjson';

/** What a route takes as a body: `config.body`. */
export interface BodyRules {
  readonly types: readonly MediaType[];
  /** Bytes. */
  readonly limit: number;
}

export interface BodyOptions {
  /** For routes without rules of their own: `application/json` up to so many bytes. */
  readonly bodyBytesMax: number;
  /** For all bodies together, in bytes. */
  readonly bodyBudgetBytes: number;
  readonly gzipRatioMax: number;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    body?: BodyRules;
  }
  interface FastifyRequest {
    /** The memory that this request's body holds. */
    bodyLease: BodyLease | null;
  }
}

/** Decoded before the ratio counts. */
const GZIP_FREE_BYTES = 64 * 1024;
const GZIP_CHUNK_BYTES = 64 * 1024;
/** What one inflating stream holds beside its output: the window, a chunk out, a chunk in. */
const GZIP_STATE_BYTES = 32 * 1024 + 2 * GZIP_CHUNK_BYTES;

type Done = (error: Error | null, body?: Buffer) => void;

/** How much memory all bodies may hold, and of it those of one owner: a tenant. */
export class BodyBudget {
  readonly #limit: number;
  #used = 0;
  readonly #usedBy = new Map<string, number>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** In bytes, for metrics and tests. */
  get used(): number {
    return this.#used;
  }

  /** Bytes that are nobody's are held to the whole alone. */
  take(bytes: number, owner?: string): boolean {
    if (this.#used + bytes > this.#limit) return false;
    if (owner !== undefined) {
      const own = this.#usedBy.get(owner) ?? 0;
      // Who holds nothing yet may be larger than his share.
      if (own > 0 && !isWithinShare(own, this.#used, bytes, this.#limit)) return false;
      this.#usedBy.set(owner, own + bytes);
    }
    this.#used += bytes;
    return true;
  }

  give(bytes: number, owner?: string): void {
    this.#used -= bytes;
    assert(this.#used >= 0, 'more memory was given back than taken');
    if (owner === undefined) return;
    const own = (this.#usedBy.get(owner) ?? 0) - bytes;
    assert(own >= 0, 'more memory was given back than its owner took');
    if (own === 0) this.#usedBy.delete(owner);
    else this.#usedBy.set(owner, own);
  }
}

/**
 * What one body holds of the budget. It ends with an error, or when the handler is done; not with the connection: a
 * client that goes away does not free what a handler still holds. (A hook between the parser and the handler MUST refuse
 * by throwing, as all of ours do, and not by answering itself.)
 */
export class BodyLease {
  readonly #budget: BodyBudget;
  readonly #owner: string | undefined;
  #bytes = 0;
  #ended = false;

  constructor(budget: BodyBudget, owner?: string) {
    this.#budget = budget;
    this.#owner = owner;
  }

  /** @throws {Problem} busy */
  grow(bytes: number): void {
    if (this.#ended || !this.#budget.take(bytes, this.#owner))
      throw new Problem('busy', { detail: 'Too many bodies at once' });
    this.#bytes += bytes;
  }

  shrink(bytes: number): void {
    if (this.#ended) return;
    this.#bytes -= bytes;
    this.#budget.give(bytes, this.#owner);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#budget.give(this.#bytes, this.#owner);
  }
}

/**
 * Makes `request.body` of every route the decoded bytes (a Buffer). To be called before any route is added. Handlers are
 * async functions: their memory is counted until their promise settles.
 */
export function registerBodies(app: FastifyInstance, options: BodyOptions): BodyBudget {
  const budget = new BodyBudget(options.bodyBudgetBytes);
  const byDefault: BodyRules = { types: ['application/json'], limit: options.bodyBytesMax };

  app.decorateRequest('bodyLease', null);
  app.removeAllContentTypeParsers();
  const ask = askLate(app);
  const parse = (request: FastifyRequest, raw: IncomingMessage, done: Done): void => {
    // Nobody will read what was sent to an address that is none.
    if (request.is404) {
      done(null);
      return;
    }
    readBody(request, raw, request.routeOptions.config.body ?? byDefault, options.gzipRatioMax, budget, done);
    if (raw.headers.expect !== undefined) ask(raw);
  };
  // The first two are found in Fastify's cache; the last refuses everything else, and a body without a type.
  app.addContentTypeParser(['application/json', 'application/x-ndjson', '*'], parse);
  app.addHook('onRoute', holdLeaseWhileHandling);
  app.addHook('onError', (request, _reply, _error, done) => {
    request.bodyLease?.end();
    done();
  });
  return budget;
}

/** Returns the bytes that a request brought. */
export function bodyOf(request: FastifyRequest): Buffer {
  assert(Buffer.isBuffer(request.body), 'the route takes no body');
  return request.body;
}

function holdLeaseWhileHandling(route: RouteOptions): void {
  const methods = [route.method].flat();
  if (methods.every((method) => method === 'GET' || method === 'HEAD')) return;
  const { handler } = route;
  // What is deleted is in the address.
  const needsBody = !methods.every((method) => method === 'DELETE');

  route.handler = function (this: FastifyInstance, request, reply) {
    const lease = request.bodyLease;
    // Without a body and a content type Fastify comes here directly.
    if (lease === null && needsBody) throw unsupported('The request has no body with a content type');
    let result: unknown;
    try {
      result = handler.call(this, request, reply);
    } catch (error) {
      lease?.end();
      throw error;
    }
    if (result instanceof Promise) return result.finally(() => lease?.end());
    lease?.end();
    return result;
  };
}

function readBody(
  request: FastifyRequest,
  raw: IncomingMessage,
  rules: BodyRules,
  gzipRatioMax: number,
  budget: BodyBudget,
  done: Done,
): void {
  const { headers } = raw;
  // It broke off while its sender was looked up: that it did is not said again, and what it would hold would be held for ever.
  if (raw.destroyed) throw incomplete();
  checkType(headers['content-type'], rules);
  const gzip = isGzip(headers['content-encoding']);
  // Node has refused what is no plain decimal number.
  const declared = headers['content-length'] === undefined ? undefined : Number(headers['content-length']);
  if (declared !== undefined && declared > rules.limit) throw tooLarge(rules.limit);

  const lease = new BodyLease(budget, request.caller?.tenant);
  request.bodyLease = lease;
  lease.grow(gzip ? GZIP_STATE_BYTES : (declared ?? 0));

  if (gzip) readGzip(raw, rules.limit, gzipRatioMax, lease, done);
  else if (declared !== undefined) readDeclared(raw, declared, done);
  else readChunked(raw, rules.limit, lease, done);
}

/** `Content-Length` bytes, which are reserved already. Most events come in one piece, which is handed on as it is. */
function readDeclared(raw: IncomingMessage, length: number, done: Done): void {
  let body: Buffer | undefined;
  let filled = 0;
  const stop = listen(raw, {
    data(chunk) {
      if (filled === 0 && chunk.length === length) {
        body = chunk;
      } else {
        // Only memory that is written to is really taken, so a declared length alone costs nothing.
        body ??= Buffer.allocUnsafeSlow(length);
        chunk.copy(body, filled);
      }
      filled += chunk.length;
    },
    end() {
      stop();
      if (filled === length) done(null, body ?? Buffer.alloc(0));
      else done(incomplete());
    },
    broken() {
      stop();
      done(incomplete());
    },
  });
}

/** `Transfer-Encoding: chunked`: nobody knows how much will come. */
function readChunked(raw: IncomingMessage, limit: number, lease: BodyLease, done: Done): void {
  const pieces = new Pieces(limit, lease);
  const stop = listen(raw, {
    data(chunk) {
      attempt(() => pieces.add(chunk), fail);
    },
    end() {
      stop();
      attempt(() => done(null, pieces.join()), done);
    },
    broken: () => fail(incomplete()),
  });
  function fail(error: Error): void {
    stop();
    done(error);
  }
}

function readGzip(raw: IncomingMessage, limit: number, ratioMax: number, lease: BodyLease, done: Done): void {
  const gunzip = createGunzip({ chunkSize: GZIP_CHUNK_BYTES });
  const pieces = new Pieces(limit, lease);
  let compressed = 0;
  let ended = false;
  let settled = false;

  const stop = listen(raw, {
    data(chunk) {
      compressed += chunk.length;
      if (compressed > limit) return settle(tooLarge(limit));
      if (!gunzip.write(chunk)) raw.pause();
    },
    end() {
      ended = true;
      gunzip.end();
    },
    // (`close` comes after `end` as well.)
    broken() {
      if (!ended) settle(incomplete());
    },
  });
  gunzip.on('drain', () => raw.resume());
  gunzip.on('data', (chunk: Buffer) => {
    attempt(() => {
      pieces.add(chunk);
      if (pieces.length > GZIP_FREE_BYTES && pieces.length > ratioMax * gunzip.bytesWritten)
        throw expandsTooMuch(ratioMax);
    }, settle);
  });
  gunzip.on('error', () => settle(invalidEncoding('The gzip data is damaged or cut short')));
  gunzip.on('end', () => {
    if (settled) return;
    // Zeros behind the last member, and everything behind them, are passed over by zlib. They are no part of what was
    // sent as an event, so they are not passed over here: bytesWritten counts what was used.
    if (!ended || gunzip.bytesWritten !== compressed) settle(invalidEncoding('Something follows the gzip data'));
    else attempt(() => settle(null, pieces.join()), settle);
  });

  function settle(error: Error | null, body?: Buffer): void {
    if (settled) return;
    settled = true;
    stop();
    gunzip.destroy();
    done(error, body);
  }
}

/** Pieces of a body of unknown length, counted against its limit and the budget. */
class Pieces {
  readonly #limit: number;
  readonly #lease: BodyLease;
  readonly #chunks: Buffer[] = [];
  length = 0;

  constructor(limit: number, lease: BodyLease) {
    this.#limit = limit;
    this.#lease = lease;
  }

  add(chunk: Buffer): void {
    this.length += chunk.length;
    if (this.length > this.#limit) throw tooLarge(this.#limit);
    this.#lease.grow(chunk.length);
    this.#chunks.push(chunk);
  }

  join(): Buffer {
    const [first] = this.#chunks;
    if (first !== undefined && this.#chunks.length === 1) return first;
    this.#lease.grow(this.length);
    const body = Buffer.concat(this.#chunks, this.length);
    this.#lease.shrink(this.length);
    this.#chunks.length = 0;
    return body;
  }
}

interface Listeners {
  readonly data: (chunk: Buffer) => void;
  readonly end: () => void;
  /** The connection ended before the body did. */
  readonly broken: () => void;
}

/** Starts reading; returns what stops it. */
function listen(raw: IncomingMessage, { data, end, broken }: Listeners): () => void {
  raw.on('data', data);
  raw.on('end', end);
  raw.on('error', broken);
  raw.on('close', broken);
  return () => {
    raw.removeListener('data', data);
    raw.removeListener('end', end);
    raw.removeListener('close', broken);
    // An error that comes later still needs somebody.
    raw.removeListener('error', broken);
    raw.on('error', () => {});
  };
}

/**
 * A client that sends `Expect: 100-continue` is asked for its body when somebody is about to read it, so that a refusal
 * comes before the body. Other expectations are passed over, as RFC 9110 section 10.1.1 allows.
 */
function askLate({ server }: FastifyInstance): (raw: IncomingMessage) => void {
  const waiting = new WeakMap<IncomingMessage, ServerResponse>();
  server.on('checkExpectation', (raw: IncomingMessage, response: ServerResponse) => {
    server.emit('request', raw, response);
  });
  server.on('checkContinue', (raw: IncomingMessage, response: ServerResponse) => {
    waiting.set(raw, response);
    server.emit('request', raw, response);
  });
  return (raw) => waiting.get(raw)?.writeContinue();
}

function attempt(action: () => void, fail: (error: Error) => void): void {
  try {
    action();
  } catch (error) {
    fail(error as Error);
  }
}

// Headers

function checkType(header: string | undefined, { types }: BodyRules): void {
  // What nearly everybody sends.
  if (types.includes(header as MediaType)) return;
  const [name = '', ...parameters] = (header ?? '').split(';').map((part) => part.trim().toLowerCase());
  if (!types.includes(name as MediaType)) throw unsupported(`The content type must be ${types.join(' or ')}`);
  // JSON is UTF-8 (RFC 8259 section 8.1). What we do not understand we do not guess.
  const plain =
    parameters.length === 0 || (parameters.length === 1 && /^charset=(?:utf-8|"utf-8")$/.test(parameters[0] ?? ''));
  if (!plain) throw unsupported('The only parameter that the content type may have is charset=utf-8');
}

function isGzip(header: string | undefined): boolean {
  if (header === undefined) return false;
  const coding = header.trim().toLowerCase();
  // RFC 9110 section 8.4.1.3: x-gzip is another name for gzip.
  if (coding === 'gzip' || coding === 'x-gzip') return true;
  if (coding === 'identity') return false;
  throw unsupported('The content encoding must be gzip, or absent');
}

function unsupported(detail: string): Problem {
  return new Problem('unsupported_media_type', { detail });
}

function tooLarge(limit: number): Problem {
  return new Problem('too_large', { detail: `At most ${limit} bytes, before and after decoding` });
}

function expandsTooMuch(ratioMax: number): Problem {
  return new Problem('too_large', { detail: `The body expands more than ${ratioMax} times` });
}

function invalidEncoding(detail: string): Problem {
  return new Problem('invalid_encoding', { detail });
}

function incomplete(): Problem {
  return new Problem('invalid_request', { detail: 'The body ended before its declared end' });
}
