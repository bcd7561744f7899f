/** Who sent a request. Set by what checks credentials (src/auth); asked for by every route that is not public. */
import assert from 'node:assert/strict';
import type { FastifyRequest } from 'fastify';

export interface Caller {
  /** `sealog` = the deployment itself. */
  readonly tenant: string;
  /** The `sub` of a token, the id of an API key, or the name of a client certificate. */
  readonly subject: string;
  readonly credential: 'token' | 'api_key' | 'certificate';
  readonly roles: readonly string[];
  /** As src/auth/roles.ts names them. */
  readonly permissions: ReadonlySet<string>;
  /** Narrows to events of these sites (`source.site`); absent: all of the tenant's, and those without a site. */
  readonly sites?: readonly string[];
  /** Narrows what may be sent to these categories; absent: all. */
  readonly categories?: readonly string[];
}

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller | null;
  }
}

/** Returns who sent a request to a route that asks for a permission. */
export function callerOf(request: FastifyRequest): Caller {
  assert(request.caller !== null, 'the route is public');
  return request.caller;
}

/** Says whether whoever sent a request to a route that asks for a permission may also read what events say of people and things. */
export function mayReadEvents(request: FastifyRequest): boolean {
  return callerOf(request).permissions.has('events:read');
}

/** Returns the tenant of whoever sent a request to a route that asks for a permission. */
export function tenantOf(request: FastifyRequest): string {
  return callerOf(request).tenant;
}

/** Returns the name of whoever sent a request to a route that asks for a permission. */
export function subjectOf(request: FastifyRequest): string {
  return callerOf(request).subject;
}
