import assert from 'node:assert/strict';
import type { FastifyRequest } from 'fastify';

/** Returns the tenant of whoever sent a request to a route that asks for a permission. */
export function tenantOf(request: FastifyRequest): string {
  assert(request.caller !== null, 'the route is public');
  return request.caller.tenant;
}
