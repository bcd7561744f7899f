/**
 * The sequencer's transaction in PostgreSQL: begin, lock and look for repeats in one way there and
 * back, write everything and commit in another.
 *
 * Statements are prepared once a connection. Binary data goes over as one parameter that the statement cuts up, because arrays of
 * bytea travel as text of twice the size.
 */
import assert from 'node:assert/strict';
import pg from 'pg';
import type { StoredBlock } from '../chain/block.ts';
import type { AppendStore, AppendTransaction, IdQuery, NewRows, StreamHead } from '../chain/sequencer.ts';
import { sha256Hex } from '../chain/sha256.ts';
import { EvidenceError, KeyUnavailableError, Problem } from '../errors.ts';
import { encodeBigints, encodeIdHashes } from './bigint-arrays.ts';
import { BLOCK_COLUMNS, type BlockRow, storedBlock } from './block-row.ts';
import { inOnePiece } from './bounded-client.ts';
import { type Database, withClient } from './database.ts';
import { NO_SIGNER, SIGNER_REFUSAL } from './signer.ts';
import { earlierRetention, type StoredRetention } from './streams.ts';

export function appendStore(database: Database): AppendStore {
  // A database that shows no signer, after one did, is another.
  let hasSigner = false;
  const refusalIn = (found: string): string | undefined => {
    if (found === '') hasSigner = true;
    if (found === NO_SIGNER) return hasSigner ? 'the signer has not looked at this database' : undefined;
    return found === '' ? undefined : found;
  };
  return {
    async transact(streamIds, queries, work, onWritten) {
      try {
        return await withClient(database.writer, async (client) => {
          let decided: Awaited<ReturnType<typeof work>>;
          try {
            decided = await work(await begin(client, streamIds, queries, refusalIn));
          } catch (error) {
            await client.query('ROLLBACK');
            throw error;
          }
          if (decided.rows === undefined) await client.query('ROLLBACK');
          else await writeAndCommit(client, decided.rows, onWritten);
          return decided.result;
        });
      } catch (error) {
        throw isOwn(error) ? error : refusalOf(error);
      }
    },
  };
}

/** One way there and back: the connection is a pipeline, in which each statement still begins when the one before has ended. */
async function begin(
  client: pg.PoolClient,
  streamIds: readonly number[],
  queries: readonly IdQuery[],
  refusalIn: (found: string) => string | undefined,
): Promise<AppendTransaction> {
  const [, { heads, closed, unopened }, { now, seqs, refusal }] = await inOnePiece(client, () =>
    Promise.all([client.query('BEGIN'), lockStreams(client, streamIds), findSeen(client, queries)]),
  );
  return {
    heads,
    closed,
    unopened,
    now,
    refusal: refusalIn(refusal),
    seqs,
    seen: async (again) => (await findSeen(client, again)).seqs,
    blocksFrom: (streamId, seq) => blocksFrom(client, streamId, seq),
    tileRoots: (streamId, level, from, to) => tileRoots(client, streamId, level, from, to),
    tileEdge: (streamId, index) => tileEdge(client, streamId, index),
  };
}

/** What is wrong with a stream, or with us, is no failure of the database; nothing was stored. */
function isOwn(error: unknown): boolean {
  return (
    error instanceof EvidenceError || error instanceof KeyUnavailableError || error instanceof assert.AssertionError
  );
}

/** Why nothing was stored, or why that is not known. */
function refusalOf(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (
    error instanceof pg.DatabaseError &&
    (error.code === '55P03' || error.code === '57014' || error.code === '40P01')
  ) {
    return new Problem('busy', { detail: 'the stream is locked by another transaction', cause: error });
  }
  if (error instanceof pg.DatabaseError)
    return new Problem('not_ready', { detail: 'the database refused to store', cause: error });
  return new Problem('not_ready', { detail: 'the database does not answer', cause: error });
}

/**
 * Writes and commits in one go; when the write fails, the server makes a ROLLBACK of the COMMIT that follows it. Only an answer of the
 * server settles the outcome: without one it is unknown. So it is of a commit that a synchronous standby may not have (`bounded-client.ts`).
 */
async function writeAndCommit(client: pg.PoolClient, rows: NewRows, onWritten: () => void): Promise<void> {
  const sent = inOnePiece(client, () => [write(client, rows), client.query('COMMIT')] as const);
  onWritten();
  const [written, committed] = await Promise.allSettled(sent);
  if (written.status === 'rejected' && written.reason instanceof pg.DatabaseError) throw written.reason;
  if (written.status === 'rejected') throw new Problem('outcome_unknown', { cause: written.reason });
  if (committed.status === 'rejected') {
    // Class 23 and 40: the server says that it rolled back. Everything else may have struck after the commit was durable.
    const { reason } = committed;
    if (reason instanceof pg.DatabaseError && /^(23|40)/.test(reason.code ?? '')) throw reason;
    throw new Problem('outcome_unknown', { cause: reason });
  }
  if (committed.value.command !== 'COMMIT') throw new Problem('not_ready', { detail: 'the database rolled back' });
}

/** Ascending order of id: two groups that want the same streams never wait for each other in a circle. */
async function lockStreams(
  client: pg.PoolClient,
  streamIds: readonly number[],
): Promise<{ heads: StreamHead[]; closed: number[]; unopened: number[] }> {
  const { rows } = await client.query<{
    id: number;
    name: string;
    size: number;
    head: Buffer;
    frontier: Buffer;
    recorded_at: number;
    retain_until: number | null;
    retention_months: number | null;
    retention_before: StoredRetention | null;
    closed: boolean;
    epoch: number;
  }>({
    name: 'lock_streams',
    text: `SELECT id, name, size, head, frontier, recorded_at, retain_until, retention_months, retention_before, closed, epoch
           FROM sealog.stream WHERE id = ANY ($1::integer[]) ORDER BY id FOR UPDATE`,
    values: [arrayOf(streamIds)],
  });
  const heads = rows.map((row) => ({
    id: row.id,
    name: row.name,
    size: row.size,
    head: row.head,
    frontier: row.frontier,
    recordedAt: row.recorded_at,
    retainUntil: row.retain_until ?? undefined,
    retentionMonths: row.retention_months ?? undefined,
    retentionBefore: earlierRetention(row.retention_before),
  }));
  const closed = rows.filter((row) => row.closed).map((row) => row.id);
  return { heads, closed, unopened: rows.filter((row) => row.size === 0 && row.epoch > 1).map((row) => row.id) };
}

/**
 * A statement of its own, after the locks: its snapshot then shows what the transaction before us committed, and the clock is read
 * when nobody can come in between. The drop months stand in the text, because only constants let PostgreSQL leave out the other
 * partitions when it plans; there are a few different texts a month. Only the index of ids may find them: the connections of the writer read no
 * table from end to end where there is an index (`database.ts`), and that of streams is none of a sum.
 */
async function findSeen(
  client: pg.PoolClient,
  queries: readonly IdQuery[],
): Promise<{ now: number; seqs: (number | undefined)[]; refusal: string }> {
  const classes = new Map<string, { index: number; query: IdQuery }[]>();
  for (const [index, query] of queries.entries()) {
    const key = query.dropMonths.map((month) => month.toFixed(0)).join(', ');
    const members = classes.get(key);
    if (members === undefined) classes.set(key, [{ index, query }]);
    else members.push({ index, query });
  }
  const values: (string | Buffer)[] = [];
  const branches = [...classes].map(([months, members]) => {
    const { ids, rest } = encodeIdHashes(members.map(({ query }) => query.idHash));
    values.push(
      arrayOf(members.map(({ index }) => index)),
      arrayOf(members.map(({ query }) => query.streamId)),
      ...[ids, rest],
    );
    const n = values.length;
    return `SELECT w.n, e.seq FROM unnest($${n - 3}::integer[], $${n - 2}::integer[], $${n - 1}::bigint[], $${n}::bigint[]) AS w (n, stream, id, rest)
            CROSS JOIN LATERAL (SELECT e.first_seq + i.at - 1 AS seq
              FROM sealog.entry_id AS e CROSS JOIN LATERAL unnest(e.ids, e.ids_rest) WITH ORDINALITY AS i (id, rest, at)
              WHERE e.drop_month IN (${months}) AND e.ids && ARRAY[w.id] AND e.stream + 0 = w.stream AND i.id = w.id AND i.rest = w.rest
              ORDER BY 1 DESC LIMIT 1) AS e`;
  });
  const found =
    branches.length === 0
      ? `'{}'::bigint[]`
      : `ARRAY(SELECT unnest(ARRAY[f.n, f.seq]) FROM (${branches.join(' UNION ALL ')}) AS f)`;
  const text = `SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now, ${found} AS found, ${SIGNER_REFUSAL} AS refusal`;
  const { rows } = await client.query<{ now: number; found: number[]; refusal: string }>({
    // A name has at most 63 characters.
    name: `seen_${sha256Hex(text).slice(0, 32)}`,
    text,
    values,
  });
  const row = rows[0];
  assert(row !== undefined);
  const seqs: (number | undefined)[] = Array.from({ length: queries.length });
  for (let i = 0; i < row.found.length; i += 2) seqs[row.found[i]!] = row.found[i + 1]!;
  return { now: row.now, seqs, refusal: row.refusal };
}

/** More blocks than entries of a tile there can not be. */
async function blocksFrom(client: pg.PoolClient, streamId: number, seq: number): Promise<StoredBlock[]> {
  const { rows } = await client.query<BlockRow>({
    name: 'blocks_from',
    text: `SELECT ${BLOCK_COLUMNS.join()} FROM sealog.block WHERE stream = $1 AND first_seq > $2 - 1024 ORDER BY first_seq LIMIT 1280`,
    values: [streamId, seq],
  });
  return rows.map(storedBlock).filter((block) => block.firstSeq + block.entries > seq);
}

async function tileRoots(
  client: pg.PoolClient,
  streamId: number,
  level: number,
  from: number,
  to: number,
): Promise<Buffer[]> {
  const { rows } = await client.query<{ root: Buffer }>({
    name: 'tile_roots',
    text: `SELECT root FROM sealog.tile WHERE stream = $1 AND level = $2 AND tile_index >= $3 AND tile_index < $4 ORDER BY tile_index`,
    values: [streamId, level, from, to],
  });
  return rows.map((row) => row.root);
}

async function tileEdge(client: pg.PoolClient, streamId: number, index: number): Promise<Uint8Array> {
  const { rows } = await client.query<{ hashes: Buffer }>({
    name: 'tile_edge',
    text: 'SELECT hashes FROM sealog.tile_edge WHERE stream = $1 AND tile_index = $2 ORDER BY width DESC LIMIT 1',
    values: [streamId, index],
  });
  return rows[0]?.hashes ?? new Uint8Array(0);
}

const WRITE = `
WITH new_block AS (
  INSERT INTO sealog.block (tenant, stream, first_seq, entries, drop_month, recorded_from, recorded_to, occurred_from, occurred_to,
                            key_id, severity_min, severity_max, outcomes, records, parts, tags)
  SELECT b.tenant, b.stream, b.first_seq, b.entries, b.drop_month, b.recorded_from, b.recorded_to, b.occurred_from, b.occurred_to,
         b.key_id, b.severity_min, b.severity_max, b.outcomes,
         substring($1::bytea FROM b.records_from FOR b.records_length), substring($1::bytea FROM b.parts_from FOR b.parts_length),
         ($19::bigint[])[b.tags_from : b.tags_from + b.tags_length - 1]
  FROM unnest($2::integer[], $3::integer[], $4::bigint[], $5::integer[], $6::integer[], $7::bigint[], $8::bigint[], $9::bigint[],
              $10::bigint[], $11::bigint[], $12::smallint[], $13::smallint[], $14::smallint[], $15::integer[], $16::integer[],
              $17::integer[], $18::integer[], $20::integer[], $21::integer[])
       AS b (tenant, stream, first_seq, entries, drop_month, recorded_from, recorded_to, occurred_from, occurred_to, key_id,
             severity_min, severity_max, outcomes, records_from, records_length, parts_from, parts_length, tags_from, tags_length)
),
new_id AS (
  INSERT INTO sealog.entry_id (tenant, stream, first_seq, drop_month, ids, ids_rest)
  SELECT b.tenant, b.stream, b.first_seq, b.drop_month,
         ($22::bigint[])[b.ids_from : b.ids_from + b.entries - 1], ($23::bigint[])[b.ids_from : b.ids_from + b.entries - 1]
  FROM unnest($2::integer[], $3::integer[], $4::bigint[], $5::integer[], $6::integer[], $24::integer[])
       AS b (tenant, stream, first_seq, entries, drop_month, ids_from)
),
new_tile AS (
  INSERT INTO sealog.tile (tenant, stream, level, tile_index, hashes, root)
  SELECT l.tenant, l.stream, l.level, l.tile_index,
         substring($1::bytea FROM l.hashes_from FOR 8192), substring($1::bytea FROM l.hashes_from + 8192 FOR 32)
  FROM unnest($25::integer[], $26::integer[], $27::smallint[], $28::bigint[], $29::integer[]) AS l (tenant, stream, level, tile_index, hashes_from)
),
moved AS (
  UPDATE sealog.stream AS s
  SET size = h.size, recorded_at = h.recorded_at, retain_until = h.retain_until,
      head = substring($1::bytea FROM h.head_from FOR 32), frontier = substring($1::bytea FROM h.head_from + 32 FOR h.frontier_length)
  FROM unnest($30::integer[], $31::bigint[], $32::bigint[], $33::bigint[], $34::bigint[], $35::integer[], $36::integer[])
       AS h (id, size_before, size, recorded_at, retain_until, head_from, frontier_length)
  WHERE s.id = h.id AND s.size = h.size_before
  RETURNING s.id
)
-- A head that is not where it was locked is our own mistake: the division fails, and with it the transaction.
SELECT 1 / (count(*) = cardinality($30::integer[]))::integer AS all_moved FROM moved`;

async function write(client: pg.PoolClient, { blocks, tiles, heads }: NewRows): Promise<void> {
  const blob = new Blobs();
  const records = blocks.map((block) => blob.add(block.records));
  const parts = blocks.map((block) => blob.add(block.parts));
  const tileAt = tiles.map((tile) => blob.add(tile.hashes, tile.root));
  const headAt = heads.map((head) => blob.add(head.head, head.frontier));
  const { ids, rest } = encodeIdHashes(blocks.flatMap((block) => block.idHashes));
  const column = <R>(rows: readonly R[], pick: (row: R) => number | bigint | string | undefined): string =>
    arrayOf(rows.map(pick));
  await client.query({
    name: 'write',
    text: WRITE,
    values: [
      blob.bytes(),
      column(blocks, (b) => b.stream.tenantId),
      column(blocks, (b) => b.stream.id),
      column(blocks, (b) => b.firstSeq),
      column(blocks, (b) => b.entries),
      column(blocks, (b) => b.dropMonth),
      column(blocks, (b) => b.recordedFrom),
      column(blocks, (b) => b.recordedTo),
      column(blocks, (b) => b.occurredFrom),
      column(blocks, (b) => b.occurredTo),
      column(blocks, (b) => b.keyId),
      column(blocks, (b) => b.severityMin),
      column(blocks, (b) => b.severityMax),
      column(blocks, (b) => b.outcomes),
      arrayOf(records),
      column(blocks, (b) => b.records.length),
      arrayOf(parts),
      column(blocks, (b) => b.parts.length),
      encodeBigints(blocks.flatMap((block) => block.tags)),
      arrayOf(placesOf(blocks, (b) => b.tags.length)),
      column(blocks, (b) => b.tags.length),
      ids,
      rest,
      arrayOf(placesOf(blocks, (b) => b.entries)),
      column(tiles, (t) => t.stream.tenantId),
      column(tiles, (t) => t.stream.id),
      column(tiles, (t) => t.level),
      column(tiles, (t) => t.index),
      arrayOf(tileAt),
      column(heads, (h) => h.id),
      column(heads, (h) => h.sizeBefore),
      column(heads, (h) => h.size),
      column(heads, (h) => h.recordedAt),
      column(heads, (h) => h.retainUntil),
      arrayOf(headAt),
      column(heads, (h) => h.frontier.length),
    ],
  });
}

/** Where the elements of each row begin, in the array of all. */
function placesOf<R>(rows: readonly R[], lengthOf: (row: R) => number): number[] {
  let at = 1;
  return rows.map((row) => {
    const place = at;
    at += lengthOf(row);
    return place;
  });
}

/** Bytes that go over as one parameter; positions count from 1, as SQL does. */
class Blobs {
  readonly #chunks: Uint8Array[] = [];
  #length = 0;

  add(...chunks: readonly Uint8Array[]): number {
    const at = this.#length + 1;
    for (const chunk of chunks) {
      this.#chunks.push(chunk);
      this.#length += chunk.length;
    }
    return at;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#chunks, this.#length);
  }
}

/** A PostgreSQL array of numbers or UUIDs as text: none of them needs quoting. */
function arrayOf(values: readonly (number | bigint | string | undefined)[]): string {
  return `{${values.map((value) => value ?? 'NULL').join(',')}}`;
}
