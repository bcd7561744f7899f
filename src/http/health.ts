/** `GET /healthz`: the process answers. `GET /readyz`: events would be taken, or why not. */
import type { FastifyInstance } from 'fastify';
import { Problem } from '../errors.ts';
import { shared } from './shared-answer.ts';

export interface HealthDeps {
  /** Returns why nothing can be stored now, or undefined. */
  readonly objection: () => Promise<string | undefined>;
}

export function healthRoutes(deps: HealthDeps) {
  const objection = shared(deps.objection);
  return async function health(app: FastifyInstance): Promise<void> {
    app.get('/healthz', { config: { permission: 'public' } }, async () => ({ status: 'ok' }));
    app.get('/readyz', { config: { permission: 'public' } }, async () => {
      const reason = await objection();
      if (reason !== undefined) throw new Problem('not_ready', { detail: reason });
      return { status: 'ok' };
    });
  };
}
