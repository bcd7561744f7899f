/**
 * Proposals: what one person proposes and another approves before it is done (docs/access.md, Two persons).
 *
 * The database holds to it by itself (migrations/0006_proposals.sql): nobody decides on what he proposed but to withdraw it, nothing that was
 * proposed or decided changes, and what has expired is decided no more. Two who decide at once: one does.
 */
import { type Kysely, sql } from 'kysely';
import pg from 'pg';
import { Problem } from '../errors.ts';
import { withClient } from './database.ts';
import type { Tables } from './tables.ts';

/** `expired`: nobody decided in time. */
export type ProposalState = 'proposed' | 'approved' | 'rejected' | 'withdrawn' | 'expired' | 'done' | 'failed';

/** `rejected` and `approved` are another person's, `withdrawn` is that of whoever proposed. */
export type Decision = 'approved' | 'rejected' | 'withdrawn';

export interface NewProposal {
  /** A UUID. */
  readonly id: string;
  readonly tenantId: number;
  /** What is proposed: `key_rotation`, … */
  readonly kind: string;
  /** What exactly; it depends on the kind. */
  readonly request: object;
  /** 1 to 1000 characters. */
  readonly reason: string;
  /** The subject of the tenant that proposes. */
  readonly proposedBy: string;
}

export interface StoredProposal {
  readonly id: string;
  readonly number: number;
  readonly request: unknown;
  readonly reason: string;
  readonly proposedBy: string;
  readonly proposedAt: Date;
  readonly expiresAt: Date;
  readonly state: ProposalState;
  readonly decidedBy: string | null;
  readonly decidedAt: Date | null;
  readonly decisionReason: string | null;
  /** What whoever does it noted before he began. */
  readonly plan: unknown;
  readonly doneAt: Date | null;
  readonly error: string | null;
}

/** The kind of proposals that a new generation of signing keys begins. Its plan: `{generation}`. */
export const ROTATION = 'key_rotation';

const COLUMNS = `p.id, p.number, p.request, p.reason, p.proposed_by AS "proposedBy", p.proposed_at AS "proposedAt",
  p.expires_at AS "expiresAt",
  CASE WHEN p.state = 'proposed' AND p.expires_at <= clock_timestamp() THEN 'expired' ELSE p.state END AS state,
  p.decided_by AS "decidedBy", p.decided_at AS "decidedAt", p.decision_reason AS "decisionReason", p.plan, p.done_at AS "doneAt", p.error`;

/**
 * Stores a proposal. Returns undefined where the tenant has `openMax` of the kind that wait for a decision. (Some who propose at the same
 * moment can be a few more: the bound is there so that the list stays one that people read.)
 */
export async function propose(
  writer: pg.Pool,
  proposal: NewProposal,
  openMax: number,
): Promise<StoredProposal | undefined> {
  const { id, tenantId, kind, request, reason, proposedBy } = proposal;
  return one(
    writer,
    `INSERT INTO sealog.proposal AS p (id, tenant, kind, request, reason, proposed_by)
     SELECT $1::uuid, $2::integer, $3::text, $4::jsonb, $5::text, $6::text
     WHERE (SELECT count(*) FROM sealog.proposal AS o WHERE o.tenant = $2 AND o.kind = $3 AND o.state = 'proposed'
            AND o.expires_at > clock_timestamp()) < $7
     RETURNING ${COLUMNS}`,
    [id, tenantId, kind, JSON.stringify(request), reason, proposedBy, openMax],
  );
}

/**
 * Decides on a proposal. Returns undefined where there is nothing to decide: it is none of this tenant and kind, it was decided on, or has
 * expired. Throws a Problem `second_person_required`.
 */
export async function decide(
  writer: pg.Pool,
  of: { readonly id: string; readonly tenantId: number; readonly kind: string },
  decision: { readonly state: Decision; readonly by: string; readonly reason: string | undefined },
): Promise<StoredProposal | undefined> {
  return one(
    writer,
    `UPDATE sealog.proposal AS p SET state = $4, decided_by = $5, decision_reason = $6
     WHERE p.id = $1 AND p.tenant = $2 AND p.kind = $3 AND p.state = 'proposed' AND p.expires_at > clock_timestamp()
     RETURNING ${COLUMNS}`,
    [of.id, of.tenantId, of.kind, decision.state, decision.by, decision.reason ?? null],
  );
}

async function one(writer: pg.Pool, text: string, values: unknown[]): Promise<StoredProposal | undefined> {
  try {
    return await withClient(writer, async (client) => (await client.query<StoredProposal>(text, values)).rows[0]);
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    if (cause instanceof pg.DatabaseError && cause.constraint === 'proposal_second_person')
      throw new Problem('second_person_required', { cause });
    // What the server answered was not stored. Without an answer nobody knows.
    if (cause instanceof pg.DatabaseError)
      throw new Problem('not_ready', { detail: 'the database does not take it now', cause });
    throw new Problem('outcome_unknown', { cause });
  }
}

/** Returns a proposal of a kind, where the connection's role may see it. */
export async function proposalById(
  database: Kysely<Tables>,
  kind: string,
  id: string,
): Promise<StoredProposal | undefined> {
  const { rows } = await sql<StoredProposal>`
    SELECT ${sql.raw(COLUMNS)} FROM ${sql.table('sealog.proposal')} AS p
    WHERE p.kind = ${kind} AND p.id = ${id}::uuid`.execute(database);
  return rows[0];
}

/** Returns the newest proposal of a kind that asks for this, where the connection's role may see it. */
export async function newestAbout(
  database: Kysely<Tables>,
  kind: string,
  request: object,
): Promise<StoredProposal | undefined> {
  const { rows } = await sql<StoredProposal>`
    SELECT ${sql.raw(COLUMNS)} FROM ${sql.table('sealog.proposal')} AS p
    WHERE p.kind = ${kind} AND p.request = ${JSON.stringify(request)}::jsonb ORDER BY p.number DESC LIMIT 1`.execute(
    database,
  );
  return rows[0];
}

/** Returns the proposals of a kind that the connection's role may see, newest first, from below a number. */
export async function listProposals(
  database: Kysely<Tables>,
  kind: string,
  below: number | undefined,
  limit: number,
): Promise<StoredProposal[]> {
  const { rows } = await sql<StoredProposal>`
    SELECT ${sql.raw(COLUMNS)} FROM ${sql.table('sealog.proposal')} AS p
    WHERE p.kind = ${kind} AND p.number < ${below ?? Number.MAX_SAFE_INTEGER}
    ORDER BY p.number DESC LIMIT ${limit}`.execute(database);
  return rows;
}

// ---- For whoever carries them out ----

/** Returns the oldest proposal of a kind that was approved and is not done yet, of whatever tenant. */
export async function oldestApproved(
  client: pg.ClientBase,
  kind: string,
): Promise<{ readonly id: string; readonly plan: unknown } | undefined> {
  const { rows } = await client.query<{ id: string; plan: unknown }>({
    name: 'oldest_approved',
    text: `SELECT id, plan FROM sealog.proposal WHERE kind = $1 AND state = 'approved' ORDER BY number LIMIT 1`,
    values: [kind],
  });
  return rows[0];
}

/** Returns the generation that the plan of a rotation notes, or undefined where there is none that could be meant. */
export function generationOf(plan: unknown): number | undefined {
  const { generation } = (plan ?? {}) as { readonly generation?: unknown };
  return Number.isSafeInteger(generation) && (generation as number) >= 2 ? (generation as number) : undefined;
}

/** Notes what is about to be done, and returns whether it was: the proposal is still approved. Another plan than the first is refused. */
export async function savePlan(client: pg.ClientBase, id: string, plan: object): Promise<boolean> {
  const { rowCount } = await client.query(
    `UPDATE sealog.proposal SET plan = $2::jsonb WHERE id = $1 AND state = 'approved'`,
    [id, JSON.stringify(plan)],
  );
  return rowCount === 1;
}

/** Ends a proposal: it is done, or it failed for good. It may have been ended before. */
export async function finishProposal(client: pg.ClientBase, id: string, error?: string): Promise<void> {
  await client.query(`UPDATE sealog.proposal SET state = $2, error = $3 WHERE id = $1 AND state = 'approved'`, [
    id,
    error === undefined ? 'done' : 'failed',
    error?.slice(0, 1000) ?? null,
  ]);
}
