/**
 * What those who follow sinks read and write. A sink has one follower at a time: its owner, who says each second that he lives. Whatever he writes
 * names him and the revision of the sink that he knows, so that one who was given up for dead, or whose sink was changed or moved meanwhile, changes
 * nothing any more; he then reads the sink anew.
 */
import type pg from 'pg';
import type { Category } from '../chain/category.ts';

export interface FollowedSink {
  readonly id: string;
  readonly tenant: { readonly id: number; readonly name: string };
  readonly name: string;
  readonly config: unknown;
  readonly secret: { readonly sealed: Uint8Array; readonly keyId: string } | undefined;
  readonly revision: number;
  /** Failures in a row before now. */
  readonly failures: number;
}

/** A stream of a sink, and how far the sink got in it. */
export interface FollowedStream {
  readonly id: number;
  readonly tenantId: number;
  readonly name: string;
  readonly category: Category;
  readonly size: number;
  readonly nextSeq: number;
  readonly isParked: boolean;
  /** Entries before this one have expired, and may be gone. */
  readonly pruned: number;
}

/** Who writes, and what he knows. */
export interface Hold {
  readonly sink: string;
  readonly owner: string;
  readonly revision: number;
}

/** Says whether there is a sink to follow. */
export async function isAnySinkActive(writer: pg.Pool): Promise<boolean> {
  const { rows } = await writer.query<{ found: boolean }>(
    `SELECT EXISTS (SELECT FROM sealog.sink WHERE state = 'active') AS found`,
  );
  return rows[0]?.found === true;
}

/** Takes active sinks that nobody follows, or whose follower was silent for so long; at most `max`. Two takers at once get different ones. */
export async function takeSinks(
  writer: pg.Pool,
  owner: string,
  silentMs: number,
  max: number,
): Promise<FollowedSink[]> {
  const { rows } = await writer.query<SinkRow>(
    `UPDATE sealog.sink AS s SET owner = $1, heartbeat = clock_timestamp()
     FROM (SELECT f.id FROM sealog.sink AS f
           WHERE f.state = 'active' AND (f.owner IS NULL OR f.heartbeat < clock_timestamp() - make_interval(secs => $2::double precision / 1000))
           ORDER BY f.heartbeat NULLS FIRST LIMIT $3 FOR UPDATE SKIP LOCKED) AS free
     WHERE s.id = free.id
     RETURNING s.id, s.tenant AS "tenantId", (SELECT t.name FROM sealog.tenant AS t WHERE t.id = s.tenant) AS "tenantName",
       s.name, s.config, s.secret, s.secret_key::text AS "secretKey", s.revision, s.failures`,
    [owner, silentMs, max],
  );
  return rows.map(followed);
}

/** Says that the owner lives. Returns the sinks that are still his to follow, with their revisions. */
export async function beat(writer: pg.Pool, owner: string): Promise<Map<string, number>> {
  const { rows } = await writer.query<{ id: string; revision: number }>(
    `UPDATE sealog.sink SET heartbeat = clock_timestamp() WHERE owner = $1 AND state = 'active' RETURNING id, revision`,
    [owner],
  );
  return new Map(rows.map(({ id, revision }) => [id, revision]));
}

/** Returns all sinks that name the owner, also those that nobody is to follow now. Of a deleted one nothing changes any more, the owner's name neither. */
export async function heldSinks(writer: pg.Pool, owner: string): Promise<string[]> {
  const { rows } = await writer.query<{ id: string }>(
    `SELECT id FROM sealog.sink WHERE owner = $1 AND state <> 'deleted'`,
    [owner],
  );
  return rows.map(({ id }) => id);
}

/** Lets go of a sink, or of all: whoever is free goes on at once. */
export async function releaseSinks(writer: pg.Pool, owner: string, sink?: string): Promise<void> {
  await writer.query(
    `UPDATE sealog.sink SET owner = NULL, heartbeat = NULL WHERE owner = $1 AND state <> 'deleted' AND ($2::uuid IS NULL OR id = $2)`,
    [owner, sink ?? null],
  );
}

/** Returns the streams of a tenant that have entries, of these categories, and how far the sink got. `others`: streams of other tenants, by name. */
export async function streamsOfSink(
  writer: pg.Pool,
  sink: { readonly id: string; readonly tenantId: number },
  categories: readonly Category[],
  others: readonly string[] = [],
): Promise<FollowedStream[]> {
  const { rows } = await writer.query<FollowedStream>(
    `SELECT s.id, s.tenant AS "tenantId", s.name, s.category, s.size, coalesce(c.next_seq, 0) AS "nextSeq", c.parked_at IS NOT NULL AS "isParked", s.pruned
     FROM sealog.stream AS s LEFT JOIN sealog.sink_cursor AS c ON c.stream = s.id AND c.sink = $1
     WHERE s.size > 0 AND ((s.tenant = $2 AND s.category = ANY ($3)) OR s.name = ANY ($4))
     ORDER BY s.category, s.epoch`,
    [sink.id, sink.tenantId, categories, others],
  );
  return rows;
}

/**
 * Notes that everything before `nextSeq` was delivered, or is not for this sink; and, where `isWell`, that what failed before is over. Returns false where
 * the sink is not held any more.
 */
export async function advance(
  writer: pg.Pool,
  hold: Hold,
  to: {
    readonly tenantId: number;
    readonly streamId: number;
    readonly nextSeq: number;
    readonly delivered: number;
    readonly isWell: boolean;
  },
): Promise<boolean> {
  const { rowCount } = await writer.query(
    `WITH held AS (
       UPDATE sealog.sink SET heartbeat = clock_timestamp(),
         delivered_at = CASE WHEN $7 > 0 THEN clock_timestamp() ELSE delivered_at END,
         failures = CASE WHEN $8 THEN 0 ELSE failures END, error = CASE WHEN $8 THEN NULL ELSE error END,
         error_at = CASE WHEN $8 THEN NULL ELSE error_at END, retry_at = CASE WHEN $8 THEN NULL ELSE retry_at END
       WHERE id = $1 AND owner = $2 AND revision = $3 AND state = 'active' RETURNING id)
     INSERT INTO sealog.sink_cursor AS c (sink, tenant, stream, next_seq) SELECT id, $4, $5, $6 FROM held
     ON CONFLICT (sink, stream) DO UPDATE SET next_seq = excluded.next_seq`,
    [hold.sink, hold.owner, hold.revision, to.tenantId, to.streamId, to.nextSeq, to.delivered, to.isWell],
  );
  return rowCount === 1;
}

/** Parks a stream of a sink at an entry that can not be delivered. Returns false where the sink is not held any more. */
export async function park(
  writer: pg.Pool,
  hold: Hold,
  at: { readonly tenantId: number; readonly streamId: number; readonly seq: number; readonly reason: string },
): Promise<boolean> {
  const { rowCount } = await writer.query(
    `WITH held AS (SELECT id FROM sealog.sink WHERE id = $1 AND owner = $2 AND revision = $3 AND state = 'active' FOR UPDATE)
     INSERT INTO sealog.sink_cursor AS c (sink, tenant, stream, next_seq, parked_at, parked_reason)
     SELECT id, $4, $5, $6, clock_timestamp(), $7 FROM held
     ON CONFLICT (sink, stream) DO UPDATE
       SET next_seq = excluded.next_seq, parked_at = excluded.parked_at, parked_reason = excluded.parked_reason`,
    [hold.sink, hold.owner, hold.revision, at.tenantId, at.streamId, at.seq, at.reason.slice(0, 500)],
  );
  return rowCount === 1;
}

/** Notes that nothing could be delivered, and when it is tried again. Returns false where the sink is not held any more. */
export async function fail(
  writer: pg.Pool,
  hold: Hold,
  what: { readonly failures: number; readonly error: string; readonly retryInMs: number },
): Promise<boolean> {
  const { rowCount } = await writer.query(
    `UPDATE sealog.sink SET failures = $4, error = $5, error_at = clock_timestamp(), heartbeat = clock_timestamp(),
       retry_at = clock_timestamp() + make_interval(secs => $6::double precision / 1000)
     WHERE id = $1 AND owner = $2 AND revision = $3 AND state = 'active'`,
    [hold.sink, hold.owner, hold.revision, what.failures, what.error.slice(0, 500), what.retryInMs],
  );
  return rowCount === 1;
}

/** Notes that what failed before is over. Returns false where the sink is not held any more. */
export async function recover(writer: pg.Pool, hold: Hold): Promise<boolean> {
  const { rowCount } = await writer.query(
    `UPDATE sealog.sink SET failures = 0, error = NULL, error_at = NULL, retry_at = NULL, heartbeat = clock_timestamp()
     WHERE id = $1 AND owner = $2 AND revision = $3 AND state = 'active'`,
    [hold.sink, hold.owner, hold.revision],
  );
  return rowCount === 1;
}

interface SinkRow {
  readonly id: string;
  readonly tenantId: number;
  readonly tenantName: string;
  readonly name: string;
  readonly config: unknown;
  readonly secret: Buffer | null;
  readonly secretKey: string | null;
  readonly revision: number;
  readonly failures: number;
}

function followed({ tenantId, tenantName, secret, secretKey, ...row }: SinkRow): FollowedSink {
  return {
    ...row,
    tenant: { id: tenantId, name: tenantName },
    secret: secret === null || secretKey === null ? undefined : { sealed: secret, keyId: secretKey },
  };
}
