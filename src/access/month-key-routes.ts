/**
 * `/v1/keys/months`: the generations of month keys, which wrap the keys that parts are sealed under, and a call for the next one.
 *
 * Nothing is lost by a rotation (the earlier generations stay for as long as the configuration says), so one person may call for it; the keys
 * that sign are another matter (rotation-routes.ts).
 */

import type { FastifyInstance } from 'fastify';
import { Problem } from '../errors.ts';
import { validateQuery } from '../http/api-schema.ts';
import type { MonthKeyGeneration, MonthKeys, RotationRequest } from '../http/api-types.ts';
import { callerOf } from '../http/caller.ts';
import { instantText } from '../http/instant-text.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { changeWithTrace, leaveTrace } from '../http/trail.ts';
import type { KeyGeneration } from '../store/data-keys.ts';

export interface MonthKeyDeps {
  readonly readJson: ReadJson;
  readonly settings: Omit<MonthKeys, 'generations'>;
  /** The newest first. */
  readonly generations: () => Promise<readonly (KeyGeneration & { readonly dataKeys: number })[]>;
  /** Begins the generation after `after`; returns false where somebody else did. */
  readonly begin: (after: number, by: string) => Promise<boolean>;
}

const PATH = '/v1/keys/months';
const BODY_BYTES_MAX = 8192;

export function monthKeyRoutes({ readJson, settings, generations, begin }: MonthKeyDeps) {
  const read = { permission: 'rotations:read' } as const;
  const write = {
    permission: 'rotations:write',
    body: { types: ['application/json'], limit: BODY_BYTES_MAX },
  } as const;

  return async function monthKeys(app: FastifyInstance): Promise<void> {
    app.get(PATH, { config: read }, async (request): Promise<MonthKeys> => {
      validateQuery('listMonthKeys', request.query);
      leaveTrace(request, { action: 'log.list', target: { type: 'key_generations', id: settings.service } });
      return { ...settings, generations: (await generations()).map(view) };
    });

    app.post(`${PATH}/rotations`, { config: write }, async (request, reply) => {
      validateQuery('rotateMonthKeys', request.query);
      const { reason } = readAsked<RotationRequest>(readJson, request, 'RotationRequest');
      const newest = (await generations())[0]!;
      const next = newest.generation + 1;
      const trace = {
        category: 'log_administration',
        action: 'month_key.rotated',
        reason,
        target: { type: 'key_generation', id: `${next}` },
      } as const;
      await changeWithTrace(request, trace, async () => {
        const detail = `generation ${newest.generation} is still being taken into use`;
        if (newest.generation > 1 && newest.rewrappedAt === null) throw new Problem('exists', { detail });
        const isBegun = await begin(newest.generation, callerOf(request).subject);
        if (!isBegun) throw new Problem('exists', { detail: `somebody else began generation ${next}` });
      });
      const begun = (await generations()).find(({ generation }) => generation === next);
      if (begun === undefined) throw new Problem('not_ready');
      return reply.code(201).send(view(begun));
    });
  };
}

function view(row: KeyGeneration & { readonly dataKeys: number }): MonthKeyGeneration {
  return {
    generation: row.generation,
    begunAt: instantText(row.begunAt),
    begunBy: row.begunBy,
    rewrappedAt: instantText(row.rewrappedAt),
    retiredAt: instantText(row.retiredAt),
    dataKeys: row.dataKeys,
  };
}
