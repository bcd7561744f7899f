/**
 * API keys: what they may, their secrets' hashes, and who made, rotated and revoked them. Rows stay: they are the history.
 *
 * A change is one statement, and so is its outcome: it is there or not, unless its answer was lost.
 */
import { type Kysely, type Selectable, sql } from 'kysely';
import pg from 'pg';
import { Problem } from '../errors.ts';
import { withClient } from './database.ts';
import type { Tables } from './tables.ts';

/** What is shown of a key: nothing of a secret. */
export interface ApiKey {
  readonly id: string;
  readonly name: string;
  /** Null = all. */
  readonly categories: readonly string[] | null;
  readonly sites: readonly string[] | null;
  readonly createdAt: Date;
  readonly createdBy: string;
  readonly expiresAt: Date;
  readonly rotatedAt: Date | null;
  /** Until when the secret before the last rotation holds, or held. */
  readonly previousUntil: Date | null;
  readonly revokedAt: Date | null;
  readonly revokedBy: string | null;
  readonly lastUsedAt: Date | null;
}

/** What is needed to judge a secret that is presented. */
export interface ApiKeyHashes {
  readonly id: string;
  /** Its tenant's name. */
  readonly tenant: string;
  readonly hash: Buffer;
  readonly hashUsed: boolean;
  readonly previousHash: Buffer | null;
  readonly previousUntil: Date | null;
  readonly categories: readonly string[] | null;
  readonly sites: readonly string[] | null;
  readonly expiresAt: Date;
  readonly revokedAt: Date | null;
  readonly lastUsedAt: Date | null;
}

export interface NewApiKey {
  readonly id: string;
  readonly tenantId: number;
  readonly name: string;
  /** SHA-256 of the secret. */
  readonly hash: Uint8Array;
  readonly categories: readonly string[] | undefined;
  readonly sites: readonly string[] | undefined;
  readonly createdBy: string;
  readonly expiresAt: Date;
}

const SHOWN = {
  id: 'id',
  name: 'name',
  categories: 'categories',
  sites: 'sites',
  createdAt: 'created_at',
  createdBy: 'created_by',
  expiresAt: 'expires_at',
  rotatedAt: 'rotated_at',
  previousUntil: 'previous_until',
  revokedAt: 'revoked_at',
  revokedBy: 'revoked_by',
  lastUsedAt: 'last_used_at',
} as const satisfies Record<keyof ApiKey, keyof Selectable<Tables['sealog.api_key']>>;
const SHOWN_COLUMNS = Object.entries(SHOWN)
  .map(([name, column]) => `k.${column} AS "${name}"`)
  .join(', ');

/** Returns those of the keys that there are, of whatever tenant. */
export async function findApiKeys(writer: pg.Pool, ids: readonly string[]): Promise<ApiKeyHashes[]> {
  return withClient(writer, async (client) => {
    const { rows } = await client.query<ApiKeyHashes>({
      name: 'find_api_keys',
      text: `SELECT k.id, t.name AS tenant, k.hash, k.hash_used AS "hashUsed", k.previous_hash AS "previousHash",
               k.previous_until AS "previousUntil", k.categories, k.sites, k.expires_at AS "expiresAt", k.revoked_at AS "revokedAt",
               k.last_used_at AS "lastUsedAt"
             FROM sealog.api_key AS k JOIN sealog.tenant AS t ON t.id = k.tenant WHERE k.id = ANY ($1::text[])`,
      values: [ids],
    });
    return rows;
  });
}

/**
 * Notes that secrets were used: once an hour a key, and the first time of each. One that was replaced meanwhile is not taken for the one
 * that replaced it.
 */
export async function noteApiKeyUses(
  writer: pg.Pool,
  uses: readonly { readonly id: string; readonly hash: Uint8Array }[],
): Promise<void> {
  await withClient(writer, (client) =>
    client.query({
      name: 'note_api_key_uses',
      text: `UPDATE sealog.api_key AS k
             SET hash_used = k.hash_used OR k.hash = u.hash,
                 last_used_at = greatest(k.last_used_at, date_trunc('milliseconds', clock_timestamp()))
             FROM unnest($1::text[], $2::bytea[]) AS u (id, hash)
             WHERE k.id = u.id AND k.revoked_at IS NULL
               AND (k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 hour' OR (NOT k.hash_used AND k.hash = u.hash))`,
      values: [uses.map(({ id }) => id), uses.map(({ hash }) => Buffer.from(hash))],
    }),
  );
}

/**
 * Stores a key. Returns undefined where the tenant has `unrevokedMax` that are not revoked; two callers at once: one waits for the other.
 * Throws a Problem: 503 where it was not stored, `outcome_unknown` where nobody knows.
 */
export async function createApiKey(writer: pg.Pool, key: NewApiKey, unrevokedMax: number): Promise<ApiKey | undefined> {
  return change(writer, async (client) => {
    await client.query('BEGIN');
    let made: ApiKey | undefined;
    try {
      await client.query(`SELECT pg_advisory_xact_lock(hashtextextended('sealog.api_key', $1))`, [key.tenantId]);
      const { rows } = await client.query<ApiKey>({
        name: 'insert_api_key',
        text: `INSERT INTO sealog.api_key AS k (id, tenant, name, hash, categories, sites, created_by, expires_at)
         SELECT $1::text, $2::integer, $3::text, $4::bytea, $5::text[], $6::text[], $7::text, $8::timestamptz
         WHERE (SELECT count(*) FROM sealog.api_key AS other WHERE other.tenant = $2 AND other.revoked_at IS NULL) < $9
         RETURNING ${SHOWN_COLUMNS}`,
        values: [
          ...[key.id, key.tenantId, key.name, Buffer.from(key.hash), key.categories ?? null, key.sites ?? null],
          ...[key.createdBy, key.expiresAt, unrevokedMax],
        ],
      });
      made = rows[0];
    } catch (cause) {
      // Nothing was committed: whoever sees no answer knows that as well.
      await client.query('ROLLBACK').catch(() => {});
      throw refusalOf(cause, 'not_ready');
    }
    await client.query('COMMIT');
    return made;
  });
}

/**
 * Gives a key another secret, by its hash, and lets the one before hold for so long. Returns undefined where the key is revoked or expired.
 *
 * A secret that nobody has used is not what services have: then it is the one before it that goes on, for as long as it was to. So
 * whoever did not get the answer to a rotation repeats it, and nobody is shut out.
 */
export async function rotateApiKey(
  writer: pg.Pool,
  key: { readonly id: string; readonly tenantId: number; readonly hash: Uint8Array; readonly overlapSeconds: number },
): Promise<ApiKey | undefined> {
  return change(writer, async (client) => {
    const { rows } = await client.query<ApiKey>({
      name: 'rotate_api_key',
      text: `UPDATE sealog.api_key AS k
       SET hash = $3, hash_used = false, rotated_at = greatest(k.rotated_at, t.now),
           previous_hash = CASE WHEN $4::integer = 0 THEN NULL WHEN NOT k.hash_used AND k.previous_until > t.now THEN k.previous_hash ELSE k.hash END,
           previous_until = CASE WHEN $4 = 0 THEN NULL
             WHEN NOT k.hash_used AND k.previous_until > t.now THEN least(k.previous_until, t.now + make_interval(secs => $4))
             ELSE t.now + make_interval(secs => $4) END
       FROM (SELECT date_trunc('milliseconds', clock_timestamp()) AS now) AS t
       WHERE k.id = $1 AND k.tenant = $2 AND k.revoked_at IS NULL AND k.expires_at > t.now
       RETURNING ${SHOWN_COLUMNS}`,
      values: [key.id, key.tenantId, Buffer.from(key.hash), key.overlapSeconds],
    });
    return rows[0];
  });
}

/** Revokes a key, for good. Returns undefined where it was revoked before: two at once, the first stands. */
export async function revokeApiKey(
  writer: pg.Pool,
  key: { readonly id: string; readonly tenantId: number; readonly revokedBy: string },
): Promise<ApiKey | undefined> {
  return change(writer, async (client) => {
    const { rows } = await client.query<ApiKey>({
      name: 'revoke_api_key',
      text: `UPDATE sealog.api_key AS k SET revoked_at = date_trunc('milliseconds', clock_timestamp()), revoked_by = $3
       WHERE k.id = $1 AND k.tenant = $2 AND k.revoked_at IS NULL RETURNING ${SHOWN_COLUMNS}`,
      values: [key.id, key.tenantId, key.revokedBy],
    });
    return rows[0];
  });
}

/** Returns a key that the connection's role may see; where `sites` are given, only one that is held to some of them. */
export async function apiKeyById(
  database: Kysely<Tables>,
  id: string,
  sites: readonly string[] | undefined,
): Promise<ApiKey | undefined> {
  const { rows } = await sql<ApiKey>`
    SELECT ${sql.raw(SHOWN_COLUMNS)} FROM ${sql.table('sealog.api_key')} AS k
    WHERE k.id = ${id} AND ${heldTo(sites)}`.execute(database);
  return rows[0];
}

/** Returns keys that the connection's role may see, newest first, from behind a place in that order; where `sites` are given, only those held to some of them. */
export async function listApiKeys(
  database: Kysely<Tables>,
  behind: { readonly createdAt: Date; readonly id: string } | undefined,
  sites: readonly string[] | undefined,
  limit: number,
): Promise<ApiKey[]> {
  const within =
    behind === undefined ? sql`true` : sql`(k.created_at, k.id) < (${behind.createdAt}::timestamptz, ${behind.id})`;
  const { rows } = await sql<ApiKey>`
    SELECT ${sql.raw(SHOWN_COLUMNS)} FROM ${sql.table('sealog.api_key')} AS k
    WHERE ${within} AND ${heldTo(sites)} ORDER BY k.created_at DESC, k.id DESC LIMIT ${limit}`.execute(database);
  return rows;
}

/** A key of all sites is held to none, and not within any. */
function heldTo(sites: readonly string[] | undefined) {
  return sites === undefined ? sql`true` : sql`(k.sites IS NOT NULL AND k.sites <@ ${[...sites]}::text[])`;
}

async function change<T>(writer: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  try {
    return await withClient(writer, work);
  } catch (cause) {
    throw refusalOf(cause, 'outcome_unknown');
  }
}

/** What the server refuses was not done. Its words stay here: they can hold the row. */
function refusalOf(cause: unknown, withoutAnswer: 'not_ready' | 'outcome_unknown'): unknown {
  if (cause instanceof Problem) return cause;
  if (cause instanceof pg.DatabaseError) {
    // Class 23 and 42: a statement that can not be right.
    if (/^(23|42)/.test(cause.code ?? ''))
      return new Error(`an API key was not stored: ${cause.code} ${cause.constraint ?? ''}`);
    return new Problem('not_ready', { detail: 'the database refused to store', cause });
  }
  return new Problem(withoutAnswer, { detail: 'the database does not answer', cause });
}
