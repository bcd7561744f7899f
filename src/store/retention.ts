/**
 * Policies of retention: how long each category of a tenant is kept, and what becomes of events without its evidence. A category's policy is
 * a history, of which the newest row counts; what a stream stamps by stands in its own row (migrations/0010_retention_policy.sql).
 */
import type { Kysely } from 'kysely';
import pg from 'pg';
import type { ClientCategory } from '../chain/category.ts';
import { Problem } from '../errors.ts';
import { withClient } from './database.ts';
import type { Tables } from './tables.ts';

export type EvidenceRule = 'refuse' | 'flag';

export interface PolicyRow {
  readonly category: string;
  /** From 1 on. */
  readonly number: number;
  readonly months: number;
  readonly evidence: EvidenceRule;
  readonly at: Date;
  readonly by: string;
  readonly reason: string | null;
}

export interface PolicyChange {
  readonly tenantId: number;
  readonly category: ClientCategory;
  /** The number of the policy that it follows; 0 where there is none. */
  readonly behind: number;
  readonly months: number;
  readonly evidence: EvidenceRule;
  readonly by: string;
  readonly reason: string | undefined;
}

/** Returns the policies that count in a tenant, by category; those that nobody ever changed are missing. */
export async function policiesOf(database: Kysely<Tables>): Promise<Map<string, PolicyRow>> {
  const rows = await database
    .selectFrom('sealog.retention_policy as p')
    .select(['p.category', 'p.number', 'p.months', 'p.evidence', 'p.at', 'p.by', 'p.reason'])
    .distinctOn('p.category')
    .orderBy('p.category')
    .orderBy('p.number', 'desc')
    .execute();
  return new Map(rows.map((row) => [row.category, row]));
}

/** Returns the months by which the next entry of each category of a tenant is stamped, where there is a stream. */
export async function monthsInForce(database: Kysely<Tables>): Promise<Map<string, number>> {
  const rows = await database
    .selectFrom('sealog.stream as s')
    .select(['s.category', 's.retention_months'])
    .distinctOn('s.category')
    .where('s.retention_months', 'is not', null)
    .orderBy('s.category')
    .orderBy('s.epoch', 'desc')
    .execute();
  return new Map(rows.map((row) => [row.category, row.retention_months!]));
}

/** Returns the months that streams keep their entries, or will by a policy that was made for them, of whatever tenant. */
export async function monthsInUse(writer: pg.Pool): Promise<number[]> {
  const { rows } = await writer.query<{ months: number }>(
    `SELECT retention_months AS months FROM sealog.stream WHERE retention_months IS NOT NULL AND NOT closed
     UNION SELECT months FROM (SELECT DISTINCT ON (tenant, category) months FROM sealog.retention_policy
                               ORDER BY tenant, category, number DESC) AS p`,
  );
  return rows.map(({ months }) => months);
}

/** Returns what becomes of a tenant's events without the category's evidence. Throws a Problem. */
export async function evidenceRule(writer: pg.Pool, tenant: string, category: ClientCategory): Promise<EvidenceRule> {
  try {
    const { rows } = await writer.query<{ evidence: EvidenceRule }>(
      `SELECT p.evidence FROM sealog.retention_policy AS p JOIN sealog.tenant AS t ON t.id = p.tenant
       WHERE t.name = $1 AND p.category = $2 ORDER BY p.number DESC LIMIT 1`,
      [tenant, category],
    );
    return rows[0]?.evidence ?? 'refuse';
  } catch (cause) {
    throw new Problem('not_ready', { detail: 'the database does not answer', cause });
  }
}

/**
 * Sets the policy that follows number `behind`. Longer months hold from the next entry of the stream on, whichever replica stamps it; shorter
 * ones when the signer has turned the epoch. Returns false where another policy follows by now.
 */
export async function changePolicy(writer: pg.Pool, change: PolicyChange): Promise<boolean> {
  const { tenantId, category, behind, months, evidence, by, reason } = change;
  try {
    await withClient(writer, (client) =>
      client.query('SELECT sealog.set_retention($1, $2, $3, $4, $5, $6, $7)', [
        ...[tenantId, category, behind, months, evidence, by],
        reason ?? null,
      ]),
    );
    return true;
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    if (!(cause instanceof pg.DatabaseError)) throw new Problem('outcome_unknown', { cause });
    // The number is taken.
    if (cause.code === '23505') return false;
    throw new Problem('not_ready', { detail: 'the database refused to store', cause });
  }
}
