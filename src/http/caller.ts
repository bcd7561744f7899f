import assert from 'node:assert/strict';
import type { FastifyRequest } from 'fastify';

/** Says whether whoever sent a request to a route that asks for a permission may also read what events say of people and things. */
export function mayReadEvents(request: FastifyRequest): boolean {
  assert(request.caller !== null, 'the route is public');
  return request.caller.permissions.has('events:read');
}

/** Returns the tenant of whoever sent a request to a route that asks for a permission. */
export function tenantOf(request: FastifyRequest): string {
  assert(request.caller !== null, 'the route is public');
  return request.caller.tenant;
}

/** Returns who sent a request to a route that asks for a permission: the subject of the token. */
export function subjectOf(request: FastifyRequest): string {
  assert(request.caller !== null, 'the route is public');
  return request.caller.subject;
}
