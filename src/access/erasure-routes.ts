/**
 * `/v1/erasures`: a person's entries are looked for, shown, and on a second person's approval parts of them are destroyed (docs/retention.md).
 *
 * Who is looked for is in the request's body alone: it is neither stored nor logged, or the log would for ever name whom it was to forget.
 */

import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { PartName } from '../chain/part.ts';
import { Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type { Decision as DecisionRequest, Erasure, ErasureEntryPage, ErasureRequest } from '../http/api-types.ts';
import { tenantOf } from '../http/caller.ts';
import { instantText } from '../http/instant-text.ts';
import { pageCursor, readPageCursor } from '../http/page-cursor.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { leaveTrace } from '../http/trail.ts';
import type { AsTenant } from '../store/database.ts';
import { ERASURE, erasureEntries, erasuresById, type StoredErasure } from '../store/erasures.ts';
import { type Decision, proposalById, type StoredProposal } from '../store/proposals.ts';
import { decide, pageOfProposals, propose, readProposal, type TwoPersonsDeps } from './two-persons.ts';

export interface ErasureDeps extends TwoPersonsDeps {
  readonly readJson: ReadJson;
  /** Whether a tenant may search for more, beside what is being searched for. */
  readonly hasRoom: (tenantId: number) => boolean;
  /** Stores that a search begins, then searches in the background. */
  readonly search: (wanted: {
    readonly id: string;
    readonly tenantId: number;
    readonly ask: AsTenant;
    readonly person: ErasureRequest['person'];
    readonly parts: readonly PartName[] | undefined;
    readonly isFull: boolean;
  }) => Promise<void>;
  /** Something was approved. */
  readonly wake: () => void;
}

const PATH = '/v1/erasures';
const BODY_BYTES_MAX = 8192;
const RETRY_AFTER_SECONDS = 60;

export function erasureRoutes({ readJson, hasRoom, search, wake, ...deps }: ErasureDeps) {
  // A person is erased from all sites; whoever is held to some neither finds him in others nor decides on them.
  const ofAllSites = (): boolean => true;
  const read = { permission: 'erasures:read', ofAllSites } as const;
  const write = {
    permission: 'erasures:write',
    ofAllSites,
    body: { types: ['application/json'], limit: BODY_BYTES_MAX },
  } as const;

  async function tenantOfCaller(request: FastifyRequest): Promise<{ readonly id: number; readonly ask: AsTenant }> {
    const owner = await deps.tenant(tenantOf(request));
    if (owner === undefined) throw new Problem('not_found');
    return owner;
  }

  async function viewOf(request: FastifyRequest, proposals: readonly StoredProposal[]): Promise<Erasure[]> {
    if (proposals.length === 0) return [];
    const { ask } = await tenantOfCaller(request);
    const stored = await ask((database) =>
      erasuresById(
        database,
        proposals.map(({ id }) => id),
      ),
    );
    const byId = new Map(stored.map((one) => [one.id, one]));
    return proposals.map((proposal) => erasureView(proposal, byId.get(proposal.id)));
  }

  async function one(request: FastifyRequest, proposal: StoredProposal): Promise<Erasure> {
    return (await viewOf(request, [proposal]))[0]!;
  }

  return async function erasures(app: FastifyInstance): Promise<void> {
    app.post(PATH, { config: write }, async (request, reply) => {
      validateQuery('proposeErasure', request.query);
      const {
        person,
        parts,
        fullScan = false,
        reason,
      } = readAsked<ErasureRequest>(readJson, request, 'ErasureRequest');
      const owner = await deps.tenant(tenantOf(request));
      if (owner !== undefined && !hasRoom(owner.id))
        throw new Problem('quota', { detail: 'enough is being searched for', retryAfter: RETRY_AFTER_SECONDS });
      // What was asked for, but not of whom.
      const about = { by: Object.keys(person).sort(), fullScan, ...(parts === undefined ? {} : { parts: [...parts] }) };
      const proposal = await propose(deps, request, { kind: ERASURE, request: about, reason });
      const { id: tenantId, ask } = await tenantOfCaller(request);
      await search({ id: proposal.id, tenantId, ask, person, parts, isFull: fullScan });
      return reply
        .code(202)
        .header('location', `${PATH}/${proposal.id}`)
        .send(await one(request, proposal));
    });

    app.get(PATH, { config: read }, async (request) => {
      const { limit, cursor } = validateQuery('listErasures', request.query);
      const { page, next } = await pageOfProposals(deps, request, ERASURE, { limit, cursor });
      return { items: await viewOf(request, page), next };
    });

    app.get(`${PATH}/:id`, { config: read }, async (request) => {
      const { id } = validatePath('readErasure', request.params);
      validateQuery('readErasure', request.query);
      return one(request, await readProposal(deps, request, { kind: ERASURE, id }));
    });

    app.get(`${PATH}/:id/entries`, { config: read }, async (request): Promise<ErasureEntryPage> => {
      const { id } = validatePath('listErasureEntries', request.params);
      const { limit, cursor } = validateQuery('listErasureEntries', request.query);
      const after = cursor === undefined ? undefined : placeOf(cursor);
      leaveTrace(request, { action: 'log.read', target: { type: ERASURE, id } });
      const { ask } = await tenantOfCaller(request);
      const found = await ask(async (database) =>
        (await proposalById(database, ERASURE, id)) === undefined
          ? undefined
          : erasureEntries(database, id, after, limit + 1),
      );
      if (found === undefined) throw new Problem('not_found');
      const page = found.slice(0, limit);
      const last = page.at(-1);
      return {
        items: page.map(({ isErased, parts, ...entry }) => ({ ...entry, parts: [...parts], erased: isErased })),
        next: found.length > limit && last !== undefined ? cursorOf(last) : null,
      };
    });

    const decision = (operation: 'approveErasure' | 'rejectErasure' | 'withdrawErasure', state: Decision) => {
      return async (request: FastifyRequest): Promise<Erasure> => {
        const { id } = validatePath(operation, request.params);
        validateQuery(operation, request.query);
        const { reason } = readAsked<DecisionRequest>(readJson, request, 'Decision');
        if (state === 'approved') await mustBeFound(request, id);
        const decided = await decide(deps, request, { kind: ERASURE, id }, state, reason);
        if (state === 'approved') wake();
        return one(request, decided);
      };
    };
    app.post(`${PATH}/:id/approve`, { config: write }, decision('approveErasure', 'approved'));
    app.post(`${PATH}/:id/reject`, { config: write }, decision('rejectErasure', 'rejected'));
    app.post(`${PATH}/:id/withdraw`, { config: write }, decision('withdrawErasure', 'withdrawn'));
  };

  /** What is approved is what was shown: all of it, and nothing that is found later. Whether it is there at all is `decide`'s to say. */
  async function mustBeFound(request: FastifyRequest, id: string): Promise<void> {
    const owner = await deps.tenant(tenantOf(request));
    const { isThere, found } = (await owner?.ask(async (database) => ({
      isThere: (await proposalById(database, ERASURE, id)) !== undefined,
      found: (await erasuresById(database, [id]))[0],
    }))) ?? { isThere: false, found: undefined };
    if (found?.state === 'searching')
      throw new Problem('not_ready', { detail: 'the search is not over yet', retryAfter: 2 });
    // Without a row the process ended before the search began.
    if (isThere && found?.state !== 'found')
      throw new Problem('already_decided', { detail: 'the search failed: withdraw it, and propose it again' });
  }
}

function erasureView(proposal: StoredProposal, stored: StoredErasure | undefined): Erasure {
  const { id, state, reason, proposedBy, decidedBy, decisionReason, error } = proposal;
  const about = proposal.request as { by: Erasure['by']; fullScan: boolean; parts?: Erasure['parts'] };
  return {
    ...{ id, state, reason, proposedBy },
    proposedAt: instantText(proposal.proposedAt),
    expiresAt: instantText(proposal.expiresAt),
    decidedBy,
    decidedAt: instantText(proposal.decidedAt),
    decisionReason,
    doneAt: instantText(proposal.doneAt),
    error,
    by: about.by,
    fullScan: about.fullScan,
    parts: about.parts ?? null,
    // Without a row its search never began.
    search: stored?.state ?? 'failed',
    blocks: stored?.blocks ?? 0,
    more: stored?.more ?? false,
    entries: stored?.entries ?? 0,
    refused: stored?.refused ?? 0,
    erased: stored?.erased ?? 0,
  };
}

function cursorOf({ stream, seq }: { readonly stream: string; readonly seq: number }): string {
  return pageCursor(`v1 ${stream} ${seq}`);
}

function placeOf(cursor: string): { stream: string; seq: number } {
  const [, stream, seq] = readPageCursor(cursor, /^v1 ([a-z0-9_/-]{1,128}) ([0-9]{1,16})$/);
  return { stream: stream!, seq: Number(seq) };
}
