/**
 * The door: every request to a route that is not public is asked who it is from, and whether he may.
 *
 * A caller brings one credential: a token of the identity provider (tokens.ts), an API key (api-keys.ts), or, without either, the
 * certificate that his TLS connection shows. Whatever is wrong with a credential, the answer is the same 401: more would help only who made
 * it up. A credential that is good but does not reach is 403, one that asks too much at once 429. What is refused is told to `onRefused`.
 *
 * Nothing here waits where the credential is known already: the hot path is `POST /v1/events`.
 */
import assert from 'node:assert/strict';
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import { Problem } from '../errors.ts';
import type { Caller } from '../http/caller.ts';
import { PERMISSIONS, type Permission } from './roles.ts';

/** Returns who a credential is; at once where it is known already. Throws, or rejects with, a Problem: `unauthenticated`, or 503. */
export type Verify<Credential> = (credential: Credential) => Caller | Promise<Caller>;

export interface AccessOptions {
  /** Of the text behind `Bearer `. */
  readonly tokens: Verify<string>;
  /** Of the text behind `Bearer ` where it begins as API keys do. */
  readonly apiKeys?: Verify<string>;
  /** Returns whom the certificate of a request's connection names, or undefined where it shows none. Throws a Problem. */
  readonly certificates?: ((request: FastifyRequest) => Caller | undefined) | undefined;
  /** Asked before the body is read; throws a Problem where the caller's tenant is closed or asks too much. */
  readonly admit?: (caller: Caller, permission: Permission, request: FastifyRequest) => void | Promise<void>;
  /** Asked where a public route answers strangers out of the log; throws a Problem. */
  readonly admitStranger?: (request: FastifyRequest) => void;
  /** Called with what was refused: 401, 403 and 429, and a change that came to nothing before it left an entry: 404 and 409. */
  readonly onRefused?: (request: FastifyRequest, problem: Problem) => void;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What a caller needs; `public` needs no credential. Every route says it. */
    permission?: Permission | 'public';
    /** Whether what a request asks for is made of entries of all sites: whoever is held to some may not have it. */
    ofAllSites?: (request: FastifyRequest) => boolean;
    /** Whether a public route answers out of the log, so that strangers can make the service work. */
    isOfLog?: boolean;
  }
}

/** How API keys begin: scanners for leaked secrets find them by it. */
export const API_KEY_PREFIX = 'sealog_';
const SCHEME = 'Bearer ';
/** The statuses that say that a call was refused; and those that say it of a change. */
const REFUSED: ReadonlySet<number> = new Set([401, 403, 429]);
const REFUSED_CHANGE: ReadonlySet<number> = new Set([404, 409]);
const CREDENTIALS_LENGTH_MAX = 8192 + SCHEME.length;

/**
 * Makes every route that is added from now on ask for its permission. Must come before the first route: the server does not become ready
 * when one was missed.
 */
export function registerAccess(app: FastifyInstance, options: AccessOptions): void {
  const guarded = new Set<string>();
  app.decorateRequest('caller', null);
  app.addHook('onRoute', (route) => {
    const permission = permissionOf(route);
    const { onRefused, admitStranger } = options;
    for (const method of [route.method].flat()) guarded.add(`${method} ${route.url}`);
    if (permission === 'public') {
      if (route.config?.isOfLog === true && admitStranger !== undefined)
        route.onRequest = [strangersGuard(admitStranger), ...[route.onRequest ?? []].flat()];
      return;
    }
    // First, so that strangers learn nothing from what other hooks say.
    route.onRequest = [guardOf(permission, options, route.config?.ofAllSites), ...[route.onRequest ?? []].flat()];
    if (onRefused === undefined) return;
    // Wherever it is refused: also where a handler finds that it is too much. Events that are sent change nothing that is there.
    const changes = route.method !== 'GET' && permission !== 'events:write';
    const tell = (request: FastifyRequest, _reply: FastifyReply, error: Error, done: () => void): void => {
      const isRefused = (status: number): boolean =>
        REFUSED.has(status) || (changes && REFUSED_CHANGE.has(status) && request.trace === null);
      if (error instanceof Problem && isRefused(error.status)) onRefused(request, error);
      done();
    };
    route.onError = [tell, ...[route.onError ?? []].flat()];
  });
  app.addHook('onReady', (done) => {
    for (const { method, path } of app.registeredRoutes) {
      assert(guarded.has(`${method} ${path}`), `the route ${method} ${path} was added before registerAccess`);
    }
    done();
  });
}

type Guard = (request: FastifyRequest, reply: FastifyReply, done: (error?: Error) => void) => void;

function guardOf(
  permission: Permission,
  options: AccessOptions,
  ofAllSites: ((request: FastifyRequest) => boolean) | undefined,
): Guard {
  const { admit } = options;
  return (request, _reply, done) => {
    // Node remembers it from the first look on: so the trail names it also of who is gone before his call is done.
    void request.ip;
    const refuse = (error: unknown): void => {
      done(error as Error);
    };
    const enter = (caller: Caller): void | Promise<void> => {
      request.caller = caller;
      if (!caller.permissions.has(permission)) throw new Problem('forbidden');
      if (caller.sites !== undefined && ofAllSites?.(request) === true)
        throw new Problem('forbidden', { detail: 'entries of all sites are in it' });
      return admit?.(caller, permission, request);
    };
    let entered: void | Promise<void>;
    try {
      const caller = authenticate(request, options);
      entered = caller instanceof Promise ? caller.then(enter) : enter(caller);
    } catch (error) {
      refuse(error);
      return;
    }
    // Not in the above: what fails behind the door is not refused at it.
    if (entered instanceof Promise) entered.then(() => done(), refuse);
    else done();
  };
}

function strangersGuard(admit: (request: FastifyRequest) => void): Guard {
  return (request, _reply, done) => {
    try {
      admit(request);
    } catch (error) {
      done(error as Error);
      return;
    }
    done();
  };
}

function authenticate(request: FastifyRequest, options: AccessOptions): Caller | Promise<Caller> {
  const { authorization } = request.headers;
  if (authorization === undefined) {
    const caller = options.certificates?.(request);
    if (caller === undefined) throw new Problem('unauthenticated');
    return caller;
  }
  if (authorization.length > CREDENTIALS_LENGTH_MAX || !authorization.startsWith(SCHEME))
    throw new Problem('unauthenticated');
  const credential = authorization.slice(SCHEME.length);
  if (options.apiKeys !== undefined && credential.startsWith(API_KEY_PREFIX)) return options.apiKeys(credential);
  return options.tokens(credential);
}

function permissionOf({ method, url, config }: RouteOptions): Permission | 'public' {
  const permission = config?.permission;
  const known = permission !== undefined && (permission === 'public' || Object.hasOwn(PERMISSIONS, permission));
  assert(known, `the route ${method} ${url} declares no permission that roles.ts has`);
  return permission;
}
