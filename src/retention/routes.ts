/**
 * `/v1/retention`: how long each category is kept, and what becomes of events without its evidence (docs/retention.md).
 *
 * Each change stands in the tenant's log, as it was and as it is, before it is made. A longer time holds for new entries at once; for a shorter
 * one the signer opens a new epoch (signer/signer.ts), and until then the answer says that it waits.
 */

import type { FastifyInstance } from 'fastify';
import { CLIENT_CATEGORIES, type ClientCategory } from '../chain/category.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { type FieldError, Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type { RetentionPolicy, RetentionRequest } from '../http/api-types.ts';
import { subjectOf, tenantOf } from '../http/caller.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { changeWithTrace, leaveTrace } from '../http/trail.ts';
import type { AsTenant } from '../store/database.ts';
import { monthsInForce, type PolicyChange, policiesOf } from '../store/retention.ts';
import { floorOf, RETENTION_MONTHS } from './policy.ts';

export interface RetentionDeps {
  /** Returns a tenant's id and how to ask for it, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<{ readonly id: number; readonly ask: AsTenant } | undefined>;
  readonly readJson: ReadJson;
  readonly floors: { readonly [category in ClientCategory]?: number | undefined };
  /** Makes the partitions of entries that are kept so many months. */
  readonly makePartitions: (months: number) => Promise<void>;
  /** Sets a policy; false where somebody else was faster. Throws a Problem. */
  readonly change: (change: PolicyChange) => Promise<boolean>;
  /** Called with what was set, before the answer. */
  readonly onChanged: (tenant: string, category: ClientCategory, evidence: RetentionPolicy['evidence']) => void;
}

/** A policy, and its number in the category's history. */
interface Known {
  readonly number: number;
  readonly view: RetentionPolicy;
}

const PATH = '/v1/retention';
/** A reason of 4096 characters. */
const BODY_BYTES_MAX = 32 * 1024;

export function retentionRoutes({ tenant, readJson, floors, makePartitions, change, onChanged }: RetentionDeps) {
  const reading = { config: { permission: 'retention:read' } } as const;
  const body = { types: ['application/json'], limit: BODY_BYTES_MAX } as const;
  const writing = { config: { permission: 'retention:write', body } } as const;

  async function known(name: string): Promise<Map<ClientCategory, Known>> {
    const owner = await tenant(name);
    const found = await owner?.ask(async (database) => ({
      policies: await policiesOf(database),
      inForce: await monthsInForce(database),
    }));
    return new Map(
      CLIENT_CATEGORIES.map((category) => {
        const row = found?.policies.get(category);
        const months = row?.months ?? RETENTION_MONTHS[category];
        const floor = floorOf(category, floors);
        // A stream that is made gets no less than the floor.
        const monthsNow = found?.inForce.get(category) ?? Math.max(months, floor);
        const view: RetentionPolicy = {
          ...{ category, months, evidence: row?.evidence ?? 'refuse' },
          state: monthsNow === months ? 'in_force' : 'waiting',
          ...{ monthsNow, monthsDefault: RETENTION_MONTHS[category], floor },
          changedAt: row === undefined ? null : formatInstant(row.at.getTime()),
          ...{ changedBy: row?.by ?? null, reason: row?.reason ?? null },
        };
        return [category, { number: row?.number ?? 0, view }];
      }),
    );
  }

  return async function retention(app: FastifyInstance): Promise<void> {
    app.get(PATH, reading, async (request) => {
      validateQuery('readRetention', request.query);
      const name = tenantOf(request);
      leaveTrace(request, { action: 'log.read', target: { type: 'retention', id: name } });
      return { items: [...(await known(name)).values()].map(({ view }) => view) };
    });

    app.put(`${PATH}/:category`, writing, async (request) => {
      const { category } = validatePath('setRetention', request.params);
      validateQuery('setRetention', request.query);
      const { months, evidence, reason } = readAsked<RetentionRequest>(readJson, request, 'RetentionRequest');
      const name = tenantOf(request);
      const { number, view } = (await known(name)).get(category)!;
      const errors = shorteningErrors(view, months, reason);
      if (errors.length > 0) throw new Problem('invalid_request', { errors });

      const trace = {
        ...({ category: 'log_administration', action: 'retention.changed', reason } as const),
        target: { type: 'retention', id: category },
        changes: { before: { months: view.months, evidence: view.evidence }, after: { months, evidence } },
      };
      await changeWithTrace(request, trace, async () => {
        // The entry was the first of a tenant that was not there.
        const owner = await tenant(name);
        if (owner === undefined) throw new Problem('not_ready');
        // Before an entry needs them: no event waits for a partition.
        await makePartitions(months);
        const by = subjectOf(request);
        const one = { tenantId: owner.id, category, behind: number, months, evidence, by, reason };
        if (!(await change(one)))
          throw new Problem('busy', { detail: 'somebody else changed this policy at the same time' });
      });
      onChanged(name, category, evidence);
      return (await known(name)).get(category)!.view;
    });
  };
}

/** A shorter time needs a reason, and ends at the floor. */
function shorteningErrors({ months, monthsNow, floor }: RetentionPolicy, asked: number, reason?: string): FieldError[] {
  if (asked >= Math.max(months, monthsNow)) return [];
  const errors: FieldError[] = [];
  if (asked < floor && asked < monthsNow)
    errors.push({ field: 'months', message: `must not be below the floor of this category, ${floor} months` });
  if (reason === undefined) errors.push({ field: 'reason', message: 'is required for a shorter time' });
  return errors;
}
