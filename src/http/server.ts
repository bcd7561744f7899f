/**
 * The shell that routes plug into: one Fastify instance, hardened.
 *
 * - Slow clients are cut: each thing that one can take his time with has a time (`ServerLimits`). Node holds those of headers and bodies
 *   only when `headersTimeout` is below `requestTimeout`, and looks every 30 s unless told otherwise; with the settings here a slow body
 *   ends after `requestTimeoutMs` and at most a second more. What Node leaves open, connection-watch.ts cuts.
 * - TLS where a certificate is given (tls.ts), with the same times, and one more for the handshake.
 * - Every answer that is no success is a problem (problem.ts), also where Node or Fastify would have their own words.
 * - Bodies come to handlers as bytes (body.ts), query strings as text (`validateQuery`).
 * - Every route says who may call it (`config.permission`), or the service does not start.
 * - Nothing is logged for a request; what goes wrong on our side is.
 *
 * The hot path is `POST /v1/events`, so there is no logger in Fastify (it would make one for each request; `app.log`
 * is silent, use the one that was passed in) and no hook that is not needed.
 */

import assert from 'node:assert/strict';
import http from 'node:http';
import https from 'node:https';
import type { Socket } from 'node:net';
import Fastify, { type FastifyBaseLogger, type FastifyInstance, type FastifyRequest, LogController } from 'fastify';
import { Problem } from '../errors.ts';
import { addressesIn } from './address-guard.ts';
import { type BodyBudget, type BodyOptions, type BodyRules, registerBodies } from './body.ts';
import { ConnectionWatch } from './connection-watch.ts';
import { sendProblem, sendProblemOnSocket, setProtectingHeaders, toProblem } from './problem.ts';
import type { ServerTls } from './tls.ts';
import { clientBehind } from './trusted-proxies.ts';

export interface ServerLimits extends BodyOptions {
  /** From connecting to the end of the TLS handshake, which is then the time of connecting. */
  readonly handshakeTimeoutMs: number;
  /** From the first byte, or from connecting, to the end of the headers. */
  readonly headersTimeoutMs: number;
  /** From the first byte to the end of the body. More than `headersTimeoutMs`. */
  readonly requestTimeoutMs: number;
  /** Between two requests of one connection. Node waits a second longer than it announces, for a request that is on its way. */
  readonly keepAliveTimeoutMs: number;
  /** An answer may wait so long for its reader, and for what takes its bytes at the speed below. */
  readonly answerGraceMs: number;
  readonly answerBytesPerSecondMin: number;
  /** How often the times above are looked at: each can last so much longer. */
  readonly checkIntervalMs: number;
  /** Open at once; more are closed when they come. */
  readonly connectionsMax: number;
  /** Of these, from one network (`networkOf`), but for proxies that are trusted. */
  readonly networkConnectionsMax: number;
}

/** 256 KiB are an event's limit; the budget holds a dozen of the largest batches. */
export const DEFAULT_LIMITS: ServerLimits = {
  bodyBytesMax: 256 * 1024,
  bodyBudgetBytes: 192 * 1024 * 1024,
  gzipRatioMax: 200,
  handshakeTimeoutMs: 5000,
  headersTimeoutMs: 5000,
  requestTimeoutMs: 15_000,
  keepAliveTimeoutMs: 30_000,
  answerGraceMs: 30_000,
  // What a line of half a megabit a second takes: a bundle of 1 GiB may take four and a half hours.
  answerBytesPerSecondMin: 64 * 1024,
  checkIntervalMs: 1000,
  connectionsMax: 10_000,
  // A plant behind one address has some hundred services.
  networkConnectionsMax: 2500,
};

type Log = Pick<FastifyBaseLogger, 'warn' | 'error'>;

export interface ServerOptions {
  readonly log: Log;
  readonly limits?: Partial<ServerLimits>;
  /** Undefined: plain HTTP. */
  readonly tls?: ServerTls | undefined;
  /** Whether clients are asked for a certificate, where there are authorities for it; yes unless said otherwise. */
  readonly asksCertificates?: boolean;
  /** CIDRs of proxies whose `X-Forwarded-For` is believed; none by default. */
  readonly trustProxy?: readonly string[];
}

/** A route as it was added, to compare with openapi.yaml. */
export interface RegisteredRoute {
  readonly method: string;
  readonly path: string;
  readonly permission: string;
  readonly bodyTypes: BodyRules['types'];
}

declare module 'fastify' {
  interface FastifyInstance {
    /** All routes, in the order in which they were added. */
    readonly registeredRoutes: RegisteredRoute[];
    readonly bodyBudget: BodyBudget;
    readonly connectionWatch: ConnectionWatch;
  }
}

/** In ids of events, percent-encoded; longer names nothing. */
const PARAMETER_LENGTH_MAX = 512;
const HEADER_BYTES_MAX = 16 * 1024;
/** A peer that is gone without a word is asked for, so that nobody works for it: the operating system's keep-alive. */
const PROBE_AFTER_MS = 30_000;
/** How often connections that became idle are closed while the server ends. */
const SWEEP_MS = 25;
const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const;

/** Returns the shell, without routes; not listening yet. */
export function createServer(options: ServerOptions): FastifyInstance {
  const { log, tls, trustProxy = [] } = options;
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  assert(limits.headersTimeoutMs < limits.requestTimeoutMs, 'Node would swap the two times');

  const isProxy = addressesIn(trustProxy);
  let watch: ConnectionWatch | undefined;
  const app = Fastify({
    serverFactory: (handler) => {
      const server = makeServer(handler as http.RequestListener, limits, options);
      watch = new ConnectionWatch(server, limits, isProxy);
      return server;
    },
    routerOptions: { maxParamLength: PARAMETER_LENGTH_MAX, querystringParser: unparsed },
    exposeHeadRoutes: false,
    // Fastify's own 503 is no problem+json; the onRequest hook below has one.
    return503OnClosing: false,
    logController: new ShellLog(log),
    frameworkErrors: (error, _request, reply) => sendProblem(reply, toProblem(error)),
    clientErrorHandler: refuseSocket,
  });
  app.decorate('connectionWatch', watch as ConnectionWatch);

  app.decorate('registeredRoutes', []);
  app.addHook('onRoute', (route) => {
    const permission = (route.config as { permission?: unknown } | undefined)?.permission;
    for (const method of [route.method].flat()) {
      assert(typeof permission === 'string', `the route ${method} ${route.url} declares no permission`);
      const bodyTypes =
        route.config?.body?.types ?? (method === 'GET' || method === 'DELETE' ? [] : ['application/json']);
      app.registeredRoutes.push({ method, path: route.url, permission, bodyTypes });
    }
  });
  app.decorate('bodyBudget', registerBodies(app, limits));

  const clientOf = trustProxy.length === 0 ? undefined : clientBehind(trustProxy);
  let closing = false;
  app.addHook('preClose', (done) => {
    closing = true;
    done();
  });
  app.addHook('onRequest', (request, reply, done) => {
    setProtectingHeaders(reply);
    if (clientOf !== undefined) Object.defineProperty(request, 'ip', { value: clientOf(request.raw) });
    if (tls?.mustShowAgain(request.raw.socket)) reply.header('connection', 'close');
    if (closing) done(new Problem('not_ready', { detail: 'The service is stopping' }));
    else if (!namesOneHost(request)) done(new Problem('invalid_request', { detail: 'A request names one host' }));
    else done();
  });

  app.setErrorHandler((error, request, reply) => {
    const problem = toProblem(error);
    if (problem.code === 'internal') log.error({ err: error, ...facts(request) }, 'request failed');
    sendProblem(reply, problem);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] as string;
    const allowed = METHODS.filter((method) => app.findRoute({ method, url: path }) !== null);
    if (allowed.length === 0) return sendProblem(reply, new Problem('not_found'));
    reply.header('allow', allowed.join(', '));
    return sendProblem(reply, new Problem('method_not_allowed'));
  });
  return app;
}

function makeServer(handler: http.RequestListener, limits: ServerLimits, options: ServerOptions): http.Server {
  const settings: http.ServerOptions = {
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionsCheckingInterval: limits.checkIntervalMs,
    maxHeaderSize: HEADER_BYTES_MAX,
    // A second Authorization or Content-Type then shows, and is refused, instead of being passed over.
    joinDuplicateHeaders: true,
    // Node's own refusal is no problem+json; namesOneHost has one.
    requireHostHeader: false,
    keepAlive: true,
    keepAliveInitialDelay: PROBE_AFTER_MS,
  };
  const { tls, asksCertificates = true } = options;
  let server: http.Server;
  if (tls === undefined) {
    server = http.createServer(settings, handler);
  } else {
    const secure = { ...tls.options(asksCertificates), handshakeTimeout: limits.handshakeTimeoutMs };
    const secured = https.createServer({ ...settings, ...secure }, handler);
    // Before Node asks refuseSocket: words would wait for the end of the handshake, and the connection with them.
    secured.prependListener('tlsClientError', (_error, socket) => socket.destroy());
    tls.serve(secured);
    server = secured;
  }
  server.maxConnections = limits.connectionsMax;
  return server;
}

/**
 * Stops: takes no new connection, ends idle ones at once, gives requests under way `graceMs` to finish, cuts the rest,
 * and runs what was registered with `onClose`.
 */
export async function closeServer(app: FastifyInstance, graceMs: number): Promise<void> {
  const { server } = app;
  app.connectionWatch.endHandshakes();
  // Node ends only what is idle at the moment of closing; a connection whose last answer goes out later would stay for
  // its keep-alive time.
  const sweep = setInterval(() => server.closeIdleConnections(), SWEEP_MS);
  const cut = setTimeout(() => server.closeAllConnections(), graceMs);
  server.once('close', () => {
    clearInterval(sweep);
    clearTimeout(cut);
  });
  try {
    await app.close();
  } finally {
    clearInterval(sweep);
    clearTimeout(cut);
  }
}

/** RFC 9112 section 3.2: HTTP/1.1 without a Host, or with two, is refused. */
function namesOneHost({ raw }: FastifyRequest): boolean {
  const { host } = raw.headers;
  return host === undefined ? raw.httpVersion === '1.0' : !host.includes(',');
}

/** The query string stays text: what was sent twice, or wrongly encoded, must still be seen by `validateQuery`. */
const unparsed = ((text: string) => text) as unknown as (text: string) => Record<string, unknown>;

/** What Fastify itself has to say, without a line for each request. */
class ShellLog extends LogController {
  readonly #log: Log;

  constructor(log: Log) {
    super({ disableRequestLogging: true });
    this.#log = log;
  }

  override streamError(error: Error, request: FastifyRequest): void {
    this.#log.warn({ err: error, ...facts(request) }, 'answer broke off');
  }

  override writeHeadError(error: Error, request: FastifyRequest): void {
    this.#log.error({ err: error, ...facts(request) }, 'answer could not be written');
  }

  override serializerError(error: Error, request: FastifyRequest): void {
    this.#log.error({ err: error, ...facts(request) }, 'answer could not be written');
  }
}

/** The route, not the address: addresses hold ids. */
function facts(request: FastifyRequest): { method: string; route: string | undefined } {
  return { method: request.method, route: request.routeOptions.url };
}

function refuseSocket(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  sendProblemOnSocket(socket, socketProblem(error.code));
}

function socketProblem(code: string | undefined): Problem {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new Problem('request_timeout');
    case 'HPE_HEADER_OVERFLOW':
      return new Problem('headers_too_large');
    case 'HPE_CHUNK_EXTENSIONS_OVERFLOW':
      return new Problem('too_large');
    default:
      return new Problem('invalid_request', { detail: 'This is no HTTP/1.1 request' });
  }
}
