/**
 * Two persons: what one proposes is done once another has approved it (docs/access.md). What is proposed, and who carries it out, is the
 * business of each kind; this is what all kinds have in common, between a request and the table of proposals.
 *
 * A person is the subject of a token, in its tenant, compared to the letter: another role or another token make nobody a second person. API
 * keys and certificates are no persons: an administrator could make himself one.
 *
 * Each step stands in the log before it is taken, and so does the attempt to decide on what one proposed oneself.
 */

import { randomUUID } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import type { JsonObject } from '../chain/canonical.ts';
import { Problem } from '../errors.ts';
import { callerOf, tenantOf } from '../http/caller.ts';
import { pageCursor, ROW_CURSOR, readPageCursor, wrongCursor } from '../http/page-cursor.ts';
import { changeWithTrace, leaveTrace, type Trace } from '../http/trail.ts';
import type { AsTenant } from '../store/database.ts';
import {
  type Decision,
  listProposals,
  type NewProposal,
  proposalById,
  type StoredProposal,
} from '../store/proposals.ts';

export interface TwoPersonsDeps {
  /** Returns a tenant's id and how to ask for it, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<{ readonly id: number; readonly ask: AsTenant } | undefined>;
  /** Stores a proposal; undefined where the tenant has `openMax` of its kind. */
  readonly propose: (proposal: NewProposal, openMax: number) => Promise<StoredProposal | undefined>;
  /** Decides on a proposal; undefined where there is nothing to decide. Throws a Problem. */
  readonly decide: (
    of: { readonly id: string; readonly tenantId: number; readonly kind: string },
    decision: { readonly state: Decision; readonly by: string; readonly reason: string | undefined },
  ) => Promise<StoredProposal | undefined>;
}

/** Of a tenant and kind: as many as somebody can still look through. */
const OPEN_MAX = 20;
const RETRY_AFTER_SECONDS = 3600;
/** Of entries about an attempt that was refused. */
const REFUSED_SEVERITY = 6;

/** Proposes something for the caller's tenant. `kind` also begins the action of its entries: `key_rotation.proposed`. */
export async function propose(
  deps: TwoPersonsDeps,
  request: FastifyRequest,
  proposal: { readonly kind: string; readonly request: JsonObject; readonly reason: string },
): Promise<StoredProposal> {
  const { kind, reason } = proposal;
  const proposedBy = personOf(request);
  // Ours, so that the entry names it before it is there.
  const id = randomUUID();
  const trace = traceOf(kind, id, 'proposed', reason, { request: proposal.request });
  return changeWithTrace(request, trace, async () => {
    // The entry was the first of a tenant that was not there.
    const owner = await deps.tenant(tenantOf(request));
    if (owner === undefined) throw new Problem('not_ready');
    const stored = await deps.propose({ ...proposal, id, tenantId: owner.id, proposedBy }, OPEN_MAX);
    if (stored !== undefined) return stored;
    const detail = `${OPEN_MAX} proposals wait for a decision: decide on some`;
    throw new Problem('quota', { detail, retryAfter: RETRY_AFTER_SECONDS });
  });
}

/** Decides on a proposal of the caller's tenant. Throws a Problem: `not_found`, `already_decided`, `second_person_required`, `forbidden`. */
export async function decide(
  deps: TwoPersonsDeps,
  request: FastifyRequest,
  { kind, id }: { readonly kind: string; readonly id: string },
  state: Decision,
  reason: string | undefined,
): Promise<StoredProposal> {
  const by = personOf(request);
  const owner = await deps.tenant(tenantOf(request));
  const found = await owner?.ask((database) => proposalById(database, kind, id));
  if (owner === undefined || found === undefined) throw new Problem('not_found');

  const { proposedBy } = found;
  const trace = traceOf(kind, id, state, reason, { proposedBy, proposed: found.reason });
  const isLate = found.state !== 'proposed';
  const refusal = isLate
    ? new Problem('already_decided', { detail: `it is ${found.state}` })
    : refusalOf(state, by === proposedBy);
  if (refusal !== undefined) {
    const details = { ...trace.details, problem: refusal.code };
    const severity = isLate ? {} : { severity: REFUSED_SEVERITY };
    await leaveTrace(request, { ...trace, outcome: 'failure', ...severity, details });
    throw refusal;
  }
  return changeWithTrace(request, trace, async () => {
    const decided = await deps.decide({ id, tenantId: owner.id, kind }, { state, by, reason });
    // Somebody else was faster, or its time is over now.
    if (decided === undefined) throw new Problem('already_decided');
    return decided;
  });
}

/** Returns a proposal of the caller's tenant. Throws a Problem `not_found`. */
export async function readProposal(
  { tenant }: Pick<TwoPersonsDeps, 'tenant'>,
  request: FastifyRequest,
  { kind, id }: { readonly kind: string; readonly id: string },
): Promise<StoredProposal> {
  leaveTrace(request, { action: 'log.read', target: { type: kind, id } });
  const owner = await tenant(tenantOf(request));
  const found = await owner?.ask((database) => proposalById(database, kind, id));
  if (found === undefined) throw new Problem('not_found');
  return found;
}

/** Returns a page of the proposals of the caller's tenant, newest first, and the cursor of the next one. Throws a Problem. */
export async function pageOfProposals(
  { tenant }: Pick<TwoPersonsDeps, 'tenant'>,
  request: FastifyRequest,
  kind: string,
  { limit, cursor }: { readonly limit: number; readonly cursor: string | undefined },
): Promise<{ page: StoredProposal[]; next: string | null }> {
  const last = cursor === undefined ? undefined : readPageCursor(cursor, ROW_CURSOR)[1]!;
  leaveTrace(request, { action: 'log.list', target: { type: `${kind}s`, id: tenantOf(request) } });
  const owner = await tenant(tenantOf(request));
  const found = await owner?.ask(async (database) => {
    if (last === undefined) return listProposals(database, kind, undefined, limit + 1);
    const below = await proposalById(database, kind, last);
    return below === undefined ? undefined : listProposals(database, kind, below.number, limit + 1);
  });
  if (found === undefined && last !== undefined) throw wrongCursor();
  const page = (found ?? []).slice(0, limit);
  return { page, next: (found ?? []).length > limit ? pageCursor(`v1 ${page.at(-1)!.id}`) : null };
}

/** Returns the subject of a request that a person sent. Throws a Problem `forbidden`. */
function personOf(request: FastifyRequest): string {
  const { credential, subject } = callerOf(request);
  if (credential !== 'token')
    throw new Problem('forbidden', { detail: 'a person decides on this, with a token: no API key and no certificate' });
  return subject;
}

function refusalOf(state: Decision, isOwn: boolean): Problem | undefined {
  if (state === 'withdrawn')
    return isOwn ? undefined : new Problem('forbidden', { detail: 'only who proposed it withdraws it' });
  return isOwn ? new Problem('second_person_required') : undefined;
}

function traceOf(
  kind: string,
  id: string,
  step: 'proposed' | Decision,
  reason: string | undefined,
  details: JsonObject,
): Trace {
  return { category: 'log_administration', action: `${kind}.${step}`, target: { type: kind, id }, reason, details };
}
