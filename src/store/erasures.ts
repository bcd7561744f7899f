/**
 * Erasures: what a search found, what of it is approved, and what is gone (migrations/0013_erasures.sql).
 *
 * The database holds to it by itself: what was found does not change once the search is over, no block changes without certificates that
 * the signer signed, and nothing is erased from the log's own streams.
 */
import { type Kysely, sql } from 'kysely';
import type pg from 'pg';
import type { StoredBlock } from '../chain/block.ts';
import type { PartName } from '../chain/part.ts';
import { placedTags } from '../chain/tag.ts';
import { encodeBigints } from './bigint-arrays.ts';
import { BLOCK_COLUMNS, type BlockRow, storedBlock } from './block-row.ts';
import { withClient } from './database.ts';
import type { Tables } from './tables.ts';

/** The kind of proposals that erase. */
export const ERASURE = 'erasure';

/** Why an entry is left alone, and the hold that keeps it. */
export interface Refusal {
  readonly reason: 'legal_hold' | 'legal_duty';
  readonly hold?: string;
}

export interface StoredErasure {
  readonly id: string;
  /** `failed` also where nobody is searching any more: who searched has ended. */
  readonly state: 'searching' | 'found' | 'failed';
  readonly blocks: number;
  readonly more: boolean;
  /** Entries that were found, that are refused, and that are erased. */
  readonly entries: number;
  readonly refused: number;
  readonly erased: number;
}

export interface FoundEntry {
  readonly streamId: number;
  readonly seq: number;
  readonly eventId: string;
  readonly parts: readonly PartName[];
  readonly refused: Refusal | undefined;
}

export interface StoredErasureEntry {
  readonly stream: string;
  readonly seq: number;
  readonly id: string;
  readonly parts: readonly PartName[];
  readonly refused: Refusal['reason'] | null;
  readonly hold: string | null;
  readonly certificate: string | null;
  readonly isErased: boolean;
}

/** A search that did not write for so long has nobody who searches. */
const SILENT_SECONDS = 60;

// ---- The search ----

/** The row of a proposal that is there. */
export async function beginErasure(writer: pg.Pool, id: string, tenantId: number): Promise<void> {
  await writer.query('INSERT INTO sealog.erasure (id, tenant) VALUES ($1, $2) ON CONFLICT DO NOTHING', [id, tenantId]);
}

/** Adds what was found in some blocks, in one transaction with how far the search is. Returns whether the proposal still waits for a decision. */
export async function addFound(
  writer: pg.Pool,
  of: { readonly id: string; readonly tenantId: number },
  found: readonly FoundEntry[],
  blocks: number,
): Promise<boolean> {
  const rows = found.map(({ streamId, seq, eventId, parts, refused }) => ({
    ...{
      stream: streamId,
      seq,
      event_id: eventId,
      parts,
      refused: refused?.reason ?? null,
      hold: refused?.hold ?? null,
    },
  }));
  const { rowCount } = await writer.query(
    `WITH added AS (
       INSERT INTO sealog.erasure_entry (erasure, tenant, stream, seq, event_id, parts, refused, hold)
       SELECT $1, $2, r.stream, r.seq, r.event_id, r.parts, r.refused, r.hold
       FROM jsonb_to_recordset($3::jsonb) AS r (stream integer, seq bigint, event_id text, parts text[], refused text, hold uuid)
       ON CONFLICT DO NOTHING RETURNING 1),
     -- Behind it: each row that is added locks the erasure's, which must still be as it was.
     far AS (UPDATE sealog.erasure SET blocks = blocks + $4 WHERE id = $1 AND (SELECT count(*) FROM added) >= 0)
     SELECT FROM sealog.proposal WHERE id = $1 AND state = 'proposed' AND expires_at > clock_timestamp()`,
    [of.id, of.tenantId, JSON.stringify(rows), blocks],
  );
  return rowCount === 1;
}

export async function endSearch(writer: pg.Pool, id: string, state: 'found' | 'failed', more: boolean): Promise<void> {
  await writer.query(`UPDATE sealog.erasure SET state = $2, more = $3 WHERE id = $1 AND state = 'searching'`, [
    id,
    state,
    more,
  ]);
}

/** Returns these erasures, as far as the connection's role may see them. */
export async function erasuresById(database: Kysely<Tables>, ids: readonly string[]): Promise<StoredErasure[]> {
  if (ids.length === 0) return [];
  const { rows } = await sql<StoredErasure>`
    SELECT e.id, e.blocks, e.more,
      CASE WHEN e.state = 'searching' AND e.heartbeat < clock_timestamp() - make_interval(secs => ${SILENT_SECONDS})
           THEN 'failed' ELSE e.state END AS state,
      coalesce(n.entries, 0)::integer AS entries, coalesce(n.refused, 0)::integer AS refused, coalesce(n.erased, 0)::integer AS erased
    FROM ${sql.table('sealog.erasure')} AS e LEFT JOIN LATERAL (
      SELECT count(*) AS entries, count(f.refused) AS refused, count(g.seq) AS erased
      FROM ${sql.table('sealog.erasure_entry')} AS f LEFT JOIN ${sql.table('sealog.erased')} AS g
        ON g.stream = f.stream AND g.seq = f.seq AND g.certificate = 'erasure.' || f.erasure || '.' || f.certificate
      WHERE f.erasure = e.id
    ) AS n ON true
    WHERE e.id = ANY (${`{${ids.join(',')}}`}::uuid[])`.execute(database);
  return rows;
}

/** Returns what an erasure found, by stream and seq, behind a place. */
export async function erasureEntries(
  database: Kysely<Tables>,
  id: string,
  after: { readonly stream: string; readonly seq: number } | undefined,
  limit: number,
): Promise<StoredErasureEntry[]> {
  const { stream, seq } = after ?? { stream: '', seq: -1 };
  const { rows } = await sql<StoredErasureEntry>`
    SELECT s.name AS stream, f.seq, f.event_id AS id, f.parts, f.refused, f.hold, g.seq IS NOT NULL AS "isErased",
      'erasure.' || f.erasure || '.' || f.certificate AS certificate
    FROM ${sql.table('sealog.erasure_entry')} AS f JOIN ${sql.table('sealog.stream')} AS s ON s.id = f.stream
    LEFT JOIN ${sql.table('sealog.erased')} AS g
      ON g.stream = f.stream AND g.seq = f.seq AND g.certificate = 'erasure.' || f.erasure || '.' || f.certificate
    WHERE f.erasure = ${id}::uuid AND (s.name, f.seq) > (${stream}::text, ${seq}::bigint)
    ORDER BY s.name, f.seq LIMIT ${limit}`.execute(database);
  return rows;
}

// ---- Carrying out ----

export interface ApprovedErasure {
  readonly id: string;
  readonly tenantId: number;
  readonly tenant: string;
  readonly certificates: number | null;
}

/** Returns the oldest erasure that is approved and not done, of whatever tenant. */
export async function oldestErasure(writer: pg.Pool, except: readonly string[]): Promise<ApprovedErasure | undefined> {
  const { rows } = await writer.query<ApprovedErasure>(
    `SELECT e.id, e.tenant AS "tenantId", t.name AS tenant, e.certificates
     FROM sealog.proposal AS p JOIN sealog.erasure AS e ON e.id = p.id JOIN sealog.tenant AS t ON t.id = e.tenant
     WHERE p.kind = '${ERASURE}' AND p.state = 'approved' AND e.state = 'found' AND e.id <> ALL ($1::uuid[])
     ORDER BY p.number LIMIT 1`,
    [except],
  );
  return rows[0];
}

export interface EntryToErase {
  readonly streamId: number;
  readonly stream: string;
  readonly seq: number;
  readonly parts: readonly PartName[];
}

/** Returns what is to be erased: by one certificate, or before there are any. In order of stream and seq. */
export async function entriesToErase(
  writer: pg.Pool,
  id: string,
  certificate: number | undefined,
): Promise<EntryToErase[]> {
  const { rows } = await writer.query<EntryToErase>(
    `SELECT f.stream AS "streamId", s.name AS stream, f.seq, f.parts FROM sealog.erasure_entry AS f
     JOIN sealog.stream AS s ON s.id = f.stream
     WHERE f.erasure = $1 AND f.refused IS NULL AND ($2::integer IS NULL OR f.certificate = $2) ORDER BY f.stream, f.seq`,
    [id, certificate ?? null],
  );
  return rows;
}

/** Leaves out an entry that came under a hold since it was found. */
export async function refuseEntry(
  writer: pg.Pool,
  id: string,
  entry: EntryToErase,
  { reason, hold }: Refusal,
): Promise<void> {
  await writer.query(
    `UPDATE sealog.erasure_entry SET refused = $4, hold = $5 WHERE erasure = $1 AND stream = $2 AND seq = $3 AND refused IS NULL`,
    [id, entry.streamId, entry.seq, reason, hold ?? null],
  );
}

/**
 * Gives the entries to certificates, and returns how many these are: the same however often it is called. Undefined where a hold was placed
 * behind `holdsSeen`.
 */
export async function planErasure(writer: pg.Pool, id: string, holdsSeen: number): Promise<number | undefined> {
  const { rows } = await writer.query<{ certificates: number | null }>(
    'SELECT sealog.plan_erasure($1, $2) AS certificates',
    [id, holdsSeen],
  );
  return rows[0]!.certificates ?? undefined;
}

export async function isCertified(writer: pg.Pool, id: string, certificate: number): Promise<boolean> {
  const { rows } = await writer.query<{ is: boolean }>('SELECT sealog.is_erasure_certified($1, $2) AS is', [
    id,
    certificate,
  ]);
  return rows[0]!.is;
}

/** Returns the block that holds an entry; undefined where it was pruned. */
export async function blockHolding(
  database: Kysely<Tables>,
  streamId: number,
  seq: number,
): Promise<StoredBlock | undefined> {
  const { rows } = await sql<BlockRow>`
    SELECT ${sql.raw(BLOCK_COLUMNS.join())} FROM sealog.block WHERE stream = ${streamId} AND first_seq <= ${seq} ORDER BY first_seq DESC LIMIT 1`.execute(
    database,
  );
  const block = rows[0] === undefined ? undefined : storedBlock(rows[0]);
  return block !== undefined && seq < block.firstSeq + block.entries ? block : undefined;
}

/** What is put in place of a block's sealed parts. */
export interface ResealedParts {
  /** SHA-256 of the sealed parts that it was made from. */
  readonly oldHash: Uint8Array;
  readonly parts: Uint8Array;
  /** Tags that no entry of the block has any more. */
  readonly goneTags: readonly bigint[];
}

type BlockPlace = Pick<StoredBlock, 'firstSeq' | 'dropMonth'> & { readonly streamId: number };

/** Erases in a block what is certified. Returns false where the block is another by now. */
export async function eraseParts(
  writer: pg.Pool,
  id: string,
  { streamId, firstSeq, dropMonth }: BlockPlace,
  { oldHash, parts, goneTags }: ResealedParts,
): Promise<boolean> {
  return withClient(writer, async (client) => {
    const { rows } = await client.query<{ done: boolean }>(
      'SELECT sealog.erase_parts($1, $2, $3, $4, $5, $6, $7::bigint[]) AS done',
      [id, streamId, firstSeq, dropMonth, oldHash, parts, goneFrom(streamId, firstSeq, goneTags)],
    );
    return rows[0]!.done;
  });
}

/** Tags that a block loses, as a parameter of a statement. */
function goneFrom(streamId: number, firstSeq: number, tags: readonly bigint[]): Buffer {
  return encodeBigints([...placedTags(tags, streamId, firstSeq)]);
}

/** The same for the signer, before it lets a database in. */
export async function eraseAgain(
  client: pg.ClientBase,
  certificate: string,
  entries: readonly { readonly seq: number; readonly parts: readonly PartName[] }[],
  { streamId, firstSeq, dropMonth }: BlockPlace,
  { oldHash, parts, goneTags }: ResealedParts,
): Promise<boolean> {
  const { rows } = await client.query<{ done: boolean }>(
    'SELECT sealog.erase_again($1, $2::bigint[], $3, $4, $5, $6, $7, $8::bigint[], $9::text[]) AS done',
    [
      ...[certificate, entries.map(({ seq }) => seq), streamId, firstSeq, dropMonth, oldHash, parts],
      ...[goneFrom(streamId, firstSeq, goneTags), entries.map((one) => one.parts.join(','))],
    ],
  );
  return rows[0]!.done;
}

export async function finishErasure(writer: pg.Pool, id: string): Promise<void> {
  await writer.query('SELECT sealog.finish_erasure($1)', [id]);
}

// ---- What is gone ----

/** Which certificate, by its event's id, took which parts of entries of a stream. */
export async function erasedOf(
  database: Kysely<Tables>,
  streamId: number,
  seqs: readonly number[],
): Promise<{ readonly seq: number; readonly certificate: string; readonly parts: readonly PartName[] }[]> {
  if (seqs.length === 0) return [];
  const rows = await database
    .selectFrom('sealog.erased')
    .select(['seq', 'certificate', 'parts'])
    .where('stream', '=', streamId)
    .where('seq', 'in', seqs)
    .orderBy('seq')
    .orderBy('certificate')
    .execute();
  return rows.map((row) => ({ ...row, parts: row.parts as PartName[] }));
}

/** Returns the ids of a tenant's streams by name. */
export async function streamIds(
  database: Kysely<Tables>,
  names: readonly string[],
): Promise<ReadonlyMap<string, { readonly id: number; readonly tenant: number }>> {
  if (names.length === 0) return new Map();
  const rows = await database
    .selectFrom('sealog.stream')
    .select(['id', 'name', 'tenant'])
    .where('name', 'in', names)
    .execute();
  return new Map(rows.map(({ name, id, tenant }) => [name, { id, tenant }]));
}

/** Says whether an event with this hashed id stands in a tenant's `log_administration`. */
export async function isInAdministration(database: Kysely<Tables>, tenant: string, idHash: string): Promise<boolean> {
  const { rows } = await sql<{ is: boolean }>`
    SELECT EXISTS (SELECT FROM sealog.tenant AS t JOIN sealog.stream AS s ON s.tenant = t.id AND s.category = 'log_administration'
      JOIN sealog.kept_places(${idHash}::uuid) AS p ON p.stream = s.id WHERE t.name = ${tenant}) AS is`.execute(
    database,
  );
  return rows[0]!.is;
}
