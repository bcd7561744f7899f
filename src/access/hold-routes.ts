/**
 * `/v1/holds`: what must outlive its time, and the end of that, which two persons agree on (docs/retention.md, Holds).
 *
 * A hold counts from its row on, and the log tells of it right behind: all it can do before is keep too much. A release is told first. Each step
 * has a fixed id in the log, so that whoever finds it unfinished (hold-keeper.ts) takes it up again, and it stands there once.
 */

import { randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { JsonObject } from '../chain/canonical.ts';
import { compareInstants, instantOf } from '../chain/instant.ts';
import { type FieldError, Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type {
  Decision as DecisionRequest,
  Hold,
  HoldRelease,
  HoldReleaseRequest,
  HoldRequest,
} from '../http/api-types.ts';
import { subjectOf, tenantOf } from '../http/caller.ts';
import { instantText } from '../http/instant-text.ts';
import { pageCursor, ROW_CURSOR, readPageCursor, wrongCursor } from '../http/page-cursor.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { leaveTrace } from '../http/trail.ts';
import type { AsTenant } from '../store/database.ts';
import { HOLD_RELEASE, listHolds, type NewHold, releasesOf, type StoredHold } from '../store/holds.ts';
import type { Decision, StoredProposal } from '../store/proposals.ts';
import { decide, propose, type TwoPersonsDeps } from './two-persons.ts';

export interface HoldDeps extends TwoPersonsDeps {
  readonly readJson: ReadJson;
  /** Returns a tenant's id; makes the tenant where that is allowed. */
  readonly openTenant: (name: string) => Promise<number>;
  /** Stores a hold; false where the tenant has as many as it may. */
  readonly place: (hold: NewHold) => Promise<boolean>;
  readonly activate: (tenantId: number, id: string) => Promise<void>;
  /** Ends the hold that an approved proposal is about. */
  readonly release: (tenantId: number, proposal: string) => Promise<void>;
  /** For tests that end the process between two steps. */
  readonly onStep?: ((step: HoldStep) => void) | undefined;
}

export type HoldStep = 'hold-stored' | 'hold-told' | 'hold-active' | 'release-approved' | 'release-told' | 'released';

/** Ids of entries that are told once. */
export const placedId = (hold: string): string => `hold.placed:${hold}`;
export const releasedId = (proposal: string): string => `hold.released:${proposal}`;

const PATH = '/v1/holds';
const BODY_BYTES_MAX = 32 * 1024;
const RETRY_AFTER_SECONDS = 3600;

/** What the entry of a hold says of it. */
export function placedDetails({
  category,
  epoch,
  criteria,
}: Pick<NewHold, 'category' | 'epoch' | 'criteria'>): JsonObject {
  return { category, epoch, criteria: { ...criteria } };
}

export function holdRoutes({ readJson, openTenant, place, activate, release, onStep, ...deps }: HoldDeps) {
  // A hold is about all sites.
  const ofAllSites = (): boolean => true;
  const read = { permission: 'holds:read', ofAllSites } as const;
  const body = { types: ['application/json'], limit: BODY_BYTES_MAX } as const;
  const write = { permission: 'holds:write', ofAllSites, body } as const;

  async function ownerOf(request: FastifyRequest): Promise<{ readonly id: number; readonly ask: AsTenant }> {
    const owner = await deps.tenant(tenantOf(request));
    if (owner === undefined) throw new Problem('not_found');
    return owner;
  }

  /** A hold of the caller's tenant, with the newest proposal to release it. */
  async function known(request: FastifyRequest, id: string) {
    const { id: tenantId, ask } = await ownerOf(request);
    const found = await ask(async (database) => {
      const [hold] = await listHolds(database, { id, limit: 1 });
      return { hold, release: (await releasesOf(database, [id])).get(id) };
    });
    if (found.hold === undefined) throw new Problem('not_found');
    return { tenantId, hold: found.hold, release: found.release };
  }

  async function viewOf(request: FastifyRequest, id: string): Promise<Hold> {
    const { hold, release: proposed } = await known(request, id);
    return holdView(hold, proposed);
  }

  return async function holds(app: FastifyInstance): Promise<void> {
    app.post(PATH, { config: write }, async (request, reply) => {
      validateQuery('placeHold', request.query);
      const {
        reason,
        category = null,
        epoch = null,
        ...criteria
      } = readAsked<HoldRequest>(readJson, request, 'HoldRequest', requestErrors);
      const id = randomUUID();
      const tenantId = await openTenant(tenantOf(request));
      const hold: NewHold = { id, tenantId, category, epoch, criteria, reason, placedBy: subjectOf(request) };
      if (!(await place(hold)))
        throw new Problem('quota', {
          detail: 'as many holds count as a tenant may have: release some',
          retryAfter: RETRY_AFTER_SECONDS,
        });
      onStep?.('hold-stored');
      await leaveTrace(request, {
        ...({ id: placedId(id), category: 'log_administration', action: 'hold.placed', reason } as const),
        ...{ target: { type: 'hold', id }, details: placedDetails(hold) },
      });
      onStep?.('hold-told');
      await activate(tenantId, id);
      onStep?.('hold-active');
      return reply
        .code(201)
        .header('location', `${PATH}/${id}`)
        .send(await viewOf(request, id));
    });

    app.get(PATH, { config: read }, async (request) => {
      const { limit, cursor } = validateQuery('listHolds', request.query);
      const last = cursor === undefined ? undefined : readPageCursor(cursor, ROW_CURSOR)[1]!;
      leaveTrace(request, { action: 'log.list', target: { type: 'holds', id: tenantOf(request) } });
      const owner = await deps.tenant(tenantOf(request));
      if (owner === undefined) return { items: [], next: null };
      return owner.ask(async (database) => {
        const [before] = last === undefined ? [] : await listHolds(database, { id: last, limit: 1 });
        if (last !== undefined && before === undefined) throw wrongCursor();
        const found = await listHolds(database, { below: before?.number, limit: limit + 1 });
        const page = found.slice(0, limit);
        const releases = await releasesOf(
          database,
          page.map(({ id }) => id),
        );
        const items = page.map((hold) => holdView(hold, releases.get(hold.id)));
        return { items, next: found.length > limit ? pageCursor(`v1 ${page.at(-1)!.id}`) : null };
      });
    });

    app.get(`${PATH}/:id`, { config: read }, async (request) => {
      const { id } = validatePath('readHold', request.params);
      validateQuery('readHold', request.query);
      leaveTrace(request, { action: 'log.read', target: { type: 'hold', id } });
      return viewOf(request, id);
    });

    app.post(`${PATH}/:id/release`, { config: write }, async (request, reply) => {
      const { id } = validatePath('proposeHoldRelease', request.params);
      validateQuery('proposeHoldRelease', request.query);
      const { reason } = readAsked<HoldReleaseRequest>(readJson, request, 'HoldReleaseRequest');
      const { hold, release: before } = await known(request, id);
      if (hold.state === 'released') throw new Problem('already_decided', { detail: 'it is released' });
      if (before?.state === 'proposed' || before?.state === 'approved')
        throw new Problem('already_decided', { detail: 'a release is proposed already' });
      await propose(deps, request, { kind: HOLD_RELEASE, request: { hold: id }, reason });
      return reply.code(202).send(await viewOf(request, id));
    });

    const decision = (
      operation: 'approveHoldRelease' | 'rejectHoldRelease' | 'withdrawHoldRelease',
      state: Decision,
    ) => {
      return async (request: FastifyRequest): Promise<Hold> => {
        const { id } = validatePath(operation, request.params);
        validateQuery(operation, request.query);
        const { reason } = readAsked<DecisionRequest>(readJson, request, 'Decision');
        const { tenantId, release: proposed } = await known(request, id);
        if (proposed === undefined) throw new Problem('not_found');
        await decide(deps, request, { kind: HOLD_RELEASE, id: proposed.id }, state, reason);
        if (state === 'approved') {
          onStep?.('release-approved');
          await leaveTrace(request, {
            ...({ id: releasedId(proposed.id), category: 'log_administration', action: 'hold.released' } as const),
            ...{ reason: proposed.reason, target: { type: 'hold', id }, details: { release: proposed.id } },
          });
          onStep?.('release-told');
          await release(tenantId, proposed.id);
          onStep?.('released');
        }
        return viewOf(request, id);
      };
    };
    app.post(`${PATH}/:id/release/approve`, { config: write }, decision('approveHoldRelease', 'approved'));
    app.post(`${PATH}/:id/release/reject`, { config: write }, decision('rejectHoldRelease', 'rejected'));
    app.post(`${PATH}/:id/release/withdraw`, { config: write }, decision('withdrawHoldRelease', 'withdrawn'));
  };
}

/** What no schema says. */
function requestErrors(asked: HoldRequest): FieldError[] {
  const errors: FieldError[] = [];
  if (asked.epoch !== undefined && asked.category === undefined)
    errors.push({ field: 'epoch', message: 'needs a category' });
  for (const [from, to] of [['from', 'to'] as const, ['occurredFrom', 'occurredTo'] as const]) {
    const [first, end] = [asked[from], asked[to]];
    if (first !== undefined && end !== undefined && compareInstants(instantOf(first), instantOf(end)) >= 0)
      errors.push({ field: to, message: `must be behind \`${from}\`` });
  }
  return errors;
}

function holdView(hold: StoredHold, release: StoredProposal | undefined): Hold {
  const { id, state, category, epoch, criteria, reason, placedBy, placedAt, releasedAt } = hold;
  return {
    ...{ id, state, category: category as Hold['category'], epoch, criteria, reason, placedBy },
    placedAt: instantText(placedAt),
    release: release === undefined ? null : releaseView(release),
    releasedAt: instantText(releasedAt),
  };
}

function releaseView(proposal: StoredProposal): HoldRelease {
  const { id, state, reason, proposedBy, decidedBy, decisionReason } = proposal;
  return {
    ...{ id, state, reason, proposedBy },
    proposedAt: instantText(proposal.proposedAt),
    expiresAt: instantText(proposal.expiresAt),
    decidedBy,
    decidedAt: instantText(proposal.decidedAt),
    decisionReason,
  };
}
