/**
 * `/v1/retention/runs`: what would be pruned and what stops it, what was pruned, and pruning now instead of at the next look.
 *
 * A drop month is one for all tenants: who asks for a run does so for the deployment, in the tenant `sealog`, and each tenant sees of plans and
 * runs what is its own.
 */

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { OWN_TENANT } from '../chain/category.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type { PruningPlan as PlanView, PruningRequest, PruningRun } from '../http/api-types.ts';
import { subjectOf, tenantOf } from '../http/caller.ts';
import { instantText } from '../http/instant-text.ts';
import { pageCursor, ROW_CURSOR, readPageCursor, wrongCursor } from '../http/page-cursor.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { changeWithTrace, leaveTrace } from '../http/trail.ts';
import type { ShownRun } from '../store/prunings.ts';
import type { PruningPlan } from './pruner.ts';

export interface PruneRouteDeps {
  /** Returns a tenant's id, or undefined when there is no such tenant. */
  readonly tenantId: (name: string) => Promise<number | undefined>;
  readonly readJson: ReadJson;
  readonly pruner: {
    plan(): Promise<PruningPlan>;
    confirmClock(instant: number): Promise<void>;
    request(by: string): void;
  };
  /** Of one tenant, or of all. */
  readonly list: (
    tenantId: number | undefined,
    which: { readonly below?: number | undefined; readonly id?: string | undefined; readonly limit: number },
  ) => Promise<readonly ShownRun[]>;
}

const PATH = '/v1/retention/runs';
const BODY_BYTES_MAX = 8192;

export function pruneRoutes({ tenantId, readJson, pruner, list }: PruneRouteDeps) {
  const read = { permission: 'retention:read' } as const;
  const write = {
    permission: 'retention:write',
    body: { types: ['application/json'], limit: BODY_BYTES_MAX },
  } as const;

  /** Whose runs a caller sees: undefined = all. */
  async function scopeOf(request: FastifyRequest): Promise<{ readonly id: number | undefined } | undefined> {
    const name = tenantOf(request);
    if (name === OWN_TENANT) return { id: undefined };
    const id = await tenantId(name);
    return id === undefined ? undefined : { id };
  }

  return async function prunings(app: FastifyInstance): Promise<void> {
    app.post(PATH, { config: write }, async (request, reply) => {
      const { dryRun } = validateQuery('requestPruning', request.query);
      const { reason, clock } = readAsked<PruningRequest>(readJson, request, 'PruningRequest');
      const tenant = tenantOf(request);
      const target = { type: 'pruning', id: tenant };
      if (dryRun === 'true') {
        leaveTrace(request, { action: 'log.read', target });
        return planView(await pruner.plan(), tenant, true);
      }
      if (tenant !== OWN_TENANT)
        throw new Problem('forbidden', {
          detail: 'a drop month is one for all tenants: its pruning is asked for in the tenant sealog',
        });
      const details = { clock: clock ?? null };
      const trace = { category: 'log_administration', action: 'retention.requested', target, reason, details } as const;
      await changeWithTrace(request, trace, async () => {
        if (clock !== undefined) await pruner.confirmClock(Date.parse(clock));
      });
      const plan = await pruner.plan();
      pruner.request(subjectOf(request));
      return reply.code(202).send(planView(plan, tenant, false));
    });

    app.get(PATH, { config: read }, async (request) => {
      const { limit, cursor } = validateQuery('listPrunings', request.query);
      const last = cursor === undefined ? undefined : readPageCursor(cursor, ROW_CURSOR)[1]!;
      leaveTrace(request, { action: 'log.list', target: { type: 'prunings', id: tenantOf(request) } });
      const scope = await scopeOf(request);
      if (scope === undefined) return { items: [], next: null };
      const [before] = last === undefined ? [] : await list(scope.id, { id: last, limit: 1 });
      if (last !== undefined && before === undefined) throw wrongCursor();
      const runs = await list(scope.id, { below: before?.number, limit: limit + 1 });
      const page = runs.slice(0, limit);
      return {
        items: page.map((run) => runView(run, scope.id)),
        next: runs.length > limit ? pageCursor(`v1 ${page.at(-1)!.id}`) : null,
      };
    });

    app.get(`${PATH}/:id`, { config: read }, async (request) => {
      const { id } = validatePath('readPruning', request.params);
      validateQuery('readPruning', request.query);
      leaveTrace(request, { action: 'log.read', target: { type: 'pruning', id } });
      const scope = await scopeOf(request);
      const [run] = scope === undefined ? [] : await list(scope.id, { id, limit: 1 });
      if (scope === undefined || run === undefined) throw new Problem('not_found');
      return runView(run, scope.id);
    });
  };
}

function planView({ now, stops, months, waiting }: PruningPlan, tenant: string, dryRun: boolean): PlanView {
  const seesAll = tenant === OWN_TENANT;
  const own = months.map(({ dropMonth, from, streams, stops: why, sinks }) => ({
    dropMonth,
    from: formatInstant(from),
    stops: [
      ...why,
      ...sinks.flatMap((sink) => (seesAll || sink.tenant === tenant ? [sink.detail] : [])),
      ...(!seesAll && sinks.some((sink) => sink.tenant !== tenant) ? ['a sink of another tenant is required'] : []),
    ],
    streams: streams
      .filter((stream) => seesAll || stream.tenant === tenant)
      .map(({ name, first, end, holds }) => ({ stream: name, first, end, holds: [...holds] })),
  }));
  return {
    dryRun,
    now: now === undefined ? null : formatInstant(now),
    stops: [...stops, ...(waiting === undefined ? [] : [seesAll ? waiting : 'a pruning is under way, and waits'])],
    months: own.filter(({ streams }) => seesAll || streams.length > 0),
  };
}

/** What a run waits for may name streams of any tenant. */
function runView(run: ShownRun, tenantId: number | undefined): PruningRun {
  const { id, dropMonth, state, requestedBy, waiting, outside, createdAt, droppedAt, finishedAt, streams } = run;
  return {
    ...{ id, dropMonth, state, outside },
    requestedBy: tenantId === undefined ? requestedBy : null,
    waiting: tenantId === undefined ? waiting : null,
    createdAt: instantText(createdAt),
    droppedAt: instantText(droppedAt),
    finishedAt: instantText(finishedAt),
    streams: streams.map(({ stream, first, end, held, retainUntil, entryStream, entrySeq }) => ({
      ...{ stream, first, end, held },
      retainUntil: formatInstant(retainUntil),
      certificate: entryStream === null || entrySeq === null ? null : { stream: entryStream, seq: entrySeq },
    })),
  };
}
