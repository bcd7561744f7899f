/** Leaves of ticks, and what the outside said to the anchor stream's checkpoints. */
import { type Kysely, sql } from 'kysely';
import type pg from 'pg';
import type { Tables } from './tables.ts';

/** The leaf of a stream's checkpoint, as stored. */
export interface StoredLeaf {
  readonly tick: Uint8Array;
  readonly position: number;
  readonly streamId: number;
  readonly size: number;
  readonly root: Uint8Array;
  readonly blind: Uint8Array;
}

export interface NewLeaf {
  readonly hash: Uint8Array;
  readonly tenantId: number;
  readonly of:
    | { readonly streamId: number; readonly size: number; readonly root: Uint8Array; readonly blind: Uint8Array }
    | { readonly evidenceId: number };
}

export interface OutsideEvidence {
  readonly id: number;
  /** The anchor's name in the operator's file. */
  readonly anchor: string;
  readonly kind: 'rfc3161' | 'witness' | 'folder';
  readonly streamId: number;
  /** Of the anchor stream's checkpoint that it is evidence for, and that checkpoint's note. */
  readonly size: number;
  readonly note: string;
  readonly evidence: Uint8Array;
  readonly certificates: readonly Uint8Array[];
  readonly crls: readonly Uint8Array[];
  /** Milliseconds since 1970. */
  readonly evidenceTime: number;
  /** When the certificate of what signed it ends; undefined where nothing does. */
  readonly ends: number | undefined;
}

/** Stores the leaves of a tick, before its entry is appended. */
export async function saveLeaves(
  writer: pg.Pool | pg.ClientBase,
  tick: Uint8Array,
  leaves: readonly NewLeaf[],
): Promise<void> {
  const of = leaves.map((leaf) => leaf.of);
  await writer.query(
    `INSERT INTO sealog.anchor_leaf (tick, position, hash, tenant, stream, size, root, blind, evidence)
     SELECT $1, n - 1, hash, tenant, stream, size, root, blind, evidence
     FROM unnest($2::bytea[], $3::integer[], $4::integer[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bigint[])
       WITH ORDINALITY AS l (hash, tenant, stream, size, root, blind, evidence, n)`,
    [
      tick,
      leaves.map((leaf) => leaf.hash),
      leaves.map((leaf) => leaf.tenantId),
      of.map((one) => ('streamId' in one ? one.streamId : null)),
      of.map((one) => ('streamId' in one ? one.size : null)),
      of.map((one) => ('streamId' in one ? one.root : null)),
      of.map((one) => ('streamId' in one ? one.blind : null)),
      of.map((one) => ('evidenceId' in one ? one.evidenceId : null)),
    ],
  );
}

/** Returns the leaf hashes of a tick, in order. */
export async function leafHashes(database: Kysely<Tables>, tick: Uint8Array): Promise<Uint8Array[]> {
  const rows = await database
    .selectFrom('sealog.anchor_leaf')
    .select('hash')
    .where('tick', '=', Buffer.from(tick))
    .orderBy('position')
    .execute();
  return rows.map((row) => row.hash);
}

/** Returns leaves of a stream's checkpoints of at least `size`, smallest first; at most `limit`. A leaf's tick may lack its entry. */
export async function leavesFrom(
  database: Kysely<Tables>,
  streamId: number,
  size: number,
  limit: number,
): Promise<StoredLeaf[]> {
  const rows = await database
    .selectFrom('sealog.anchor_leaf')
    .select(['tick', 'position', 'size', 'root', 'blind'])
    .where('stream', '=', streamId)
    .where('size', '>=', size)
    .orderBy('size')
    .limit(limit)
    .execute();
  return rows.map((row) => storedLeaf(streamId, row));
}

/** Returns the newest leaves of a stream's checkpoints, largest first. */
export async function newestLeaves(database: Kysely<Tables>, streamId: number, limit: number): Promise<StoredLeaf[]> {
  const rows = await database
    .selectFrom('sealog.anchor_leaf')
    .select(['tick', 'position', 'size', 'root', 'blind'])
    .where('stream', '=', streamId)
    .orderBy('size', 'desc')
    .limit(limit)
    .execute();
  return rows.map((row) => storedLeaf(streamId, row));
}

/** Records what an anchor said. Returns its id. */
export async function recordEvidence(writer: pg.Pool, evidence: Omit<OutsideEvidence, 'id'>): Promise<number> {
  const { rows } = await writer.query<{ id: number }>(
    `INSERT INTO sealog.outside_evidence (anchor, kind, stream, size, note, evidence, certificates, crls, evidence_time, ends)
     VALUES ($1, $2, $3, $4, $5, $6, $7::bytea[], $8::bytea[], $9, $10) RETURNING id`,
    [
      evidence.anchor,
      evidence.kind,
      evidence.streamId,
      evidence.size,
      evidence.note,
      evidence.evidence,
      evidence.certificates,
      evidence.crls,
      Math.floor(evidence.evidenceTime),
      evidence.ends === undefined ? null : Math.floor(evidence.ends),
    ],
  );
  return rows[0]!.id;
}

/** Returns the evidence for checkpoints of the anchor stream of at least `size`, oldest first; at most `limit`. */
export async function evidenceFrom(
  database: Kysely<Tables>,
  streamId: number,
  size: number,
  limit: number,
): Promise<OutsideEvidence[]> {
  const rows = await database
    .selectFrom('sealog.outside_evidence')
    .selectAll()
    .where('stream', '=', streamId)
    .where('size', '>=', size)
    .orderBy('size')
    .orderBy('id')
    .limit(limit)
    .execute();
  return rows.map(storedEvidence);
}

/** Returns what was recorded last of an anchor, and when (milliseconds since 1970). */
export async function lastEvidence(
  database: Kysely<Tables>,
  anchor: string,
): Promise<{ stream: string; size: number; recordedAt: number } | undefined> {
  const row = await database
    .selectFrom('sealog.outside_evidence as e')
    .innerJoin('sealog.stream as s', 's.id', 'e.stream')
    .select(['s.name', 'e.size', 'e.recorded_at'])
    .where('e.anchor', '=', anchor)
    .orderBy('e.id', 'desc')
    .limit(1)
    .executeTakeFirst();
  return row === undefined ? undefined : { stream: row.name, size: row.size, recordedAt: row.recorded_at.getTime() };
}

/** Returns the newest checkpoint of the anchor stream: of its last epoch, or of the one that is named. */
export async function newestAnchorCheckpoint(
  database: Kysely<Tables>,
  stream?: string,
): Promise<{ streamId: number; stream: string; size: number; note: string } | undefined> {
  let query = database
    .selectFrom('sealog.checkpoint as c')
    .innerJoin('sealog.stream as s', 's.id', 'c.stream')
    .select(['s.id as streamId', 's.name as stream', 'c.size', 'c.note'])
    .where('s.category', '=', 'anchor');
  if (stream !== undefined) query = query.where('s.name', '=', stream);
  return query.orderBy('s.epoch', 'desc').limit(1).executeTakeFirst();
}

/** Returns time-stamp tokens that no tick with an entry has a leaf of yet, oldest first; at most `limit`. */
export async function evidenceWithoutLeaf(
  database: Kysely<Tables>,
  limit: number,
): Promise<{ id: number; evidence: Uint8Array; ends: number | null }[]> {
  return database
    .selectFrom('sealog.outside_evidence as e')
    .select(['e.id', 'e.evidence', 'e.ends'])
    .where('e.kind', '=', 'rfc3161')
    .where(({ not, exists, selectFrom }) =>
      not(
        exists(
          selectFrom('sealog.anchor_leaf as l')
            .select('l.tick')
            .whereRef('l.evidence', '=', 'e.id')
            .where(sql<boolean>`sealog.is_tick(l.tick)`),
        ),
      ),
    )
    .orderBy('e.id')
    .limit(limit)
    .execute();
}

function storedLeaf(
  streamId: number,
  row: { tick: Buffer; position: number; size: number | null; root: Buffer | null; blind: Buffer | null },
): StoredLeaf {
  return { tick: row.tick, position: row.position, streamId, size: row.size!, root: row.root!, blind: row.blind! };
}

function storedEvidence(row: {
  id: number;
  anchor: string;
  kind: OutsideEvidence['kind'];
  stream: number;
  size: number;
  note: string;
  evidence: Buffer;
  certificates: Buffer[];
  crls: Buffer[];
  evidence_time: number;
  ends: number | null;
}): OutsideEvidence {
  const { stream: streamId, evidence_time: evidenceTime, ends, ...rest } = row;
  return { ...rest, streamId, evidenceTime, ends: ends ?? undefined };
}
