/**
 * One stream's stored bytes for verification. Each call is one statement, or a few, and bounded in what it reads.
 *
 * Nothing that is stored may end a verification: a number beyond what a double holds exactly is brought as ±(2^53−1), and a
 * row that names another tenant is brought and marked.
 *
 * Rows are looked up by subqueries, one index descent each: as a join, and with the statistics of a table that has just grown, PostgreSQL
 * once compared all rows with all rows and ran into the statement's time limit.
 */
import { type Kysely, type RawBuilder, sql } from 'kysely';
import { BLOCK_ENTRIES_MAX, BLOCK_TAGS_MAX } from '../chain/block.ts';
import { type Category, streamName } from '../chain/category.ts';
import {
  ID_BUCKET_BITS,
  type IdRow,
  INDEX_BUCKETS,
  type IndexScope,
  type IndexSlice,
  idBucket,
  isInScope,
  type KeyOwner,
  type LogSource,
  type SeqRange,
  type SourceBlock,
  type StoredRow,
  type StreamState,
  seqsOfIdBucket,
} from '../verify/log-source.ts';
import { decodeBigints, decodeIdHashes } from './bigint-arrays.ts';
import { type BlockRow, storedBlock } from './block-row.ts';
import type { Tables } from './tables.ts';

export interface SourceKeys {
  keysById(id: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }>;
}

/** Rows that one statement counts, about: well under a second, also when each has to be fetched from a disk. */
const ROWS_A_SLICE = 50_000;
const INT_MAX = 2_147_483_647;
const INT_MIN = -2_147_483_648;
/** Entries whose ids one statement brings, and rows at most: more than they have where each stands in a row of its own. */
const IDS_A_WINDOW = 4096;
const ID_ROWS_MAX = 2 * IDS_A_WINDOW;

export function verifySource(
  database: Kysely<Tables>,
  keys: SourceKeys,
  stream: { readonly id: number; readonly name: string },
): LogSource {
  const streamId = stream.id;
  const owners = new Map<string, Promise<KeyOwner | undefined>>();
  let owned: Promise<number> | undefined;

  /** The stream's tenant by its name, which stands in every record; by its row where there is no tenant of that name. */
  const tenant = (): Promise<number> => {
    owned ??= sql<{ id: number }>`
      SELECT coalesce((SELECT min(id) FROM sealog.tenant WHERE name = split_part(${stream.name}, '/', 1)), tenant) AS id
      FROM sealog.stream WHERE id = ${streamId}`
      .execute(database)
      .then(({ rows }) => rows[0]!.id);
    return owned;
  };

  const blockRows = async (rest: RawBuilder<unknown>): Promise<SourceBlock[]> => {
    const { rows } = await sql<BlockRow & { tags: Buffer | null; foreign: boolean }>`
      SELECT ${exact('first_seq')}, entries, drop_month, ${exact('recorded_from')}, ${exact('recorded_to')}, ${exact('occurred_from')},
             ${exact('occurred_to')}, ${exact('key_id')}, severity_min, severity_max, outcomes, records, parts,
             CASE WHEN cardinality(tags) <= ${sql.lit(BLOCK_TAGS_MAX)} THEN array_send(tags) END AS tags, tenant <> ${await tenant()} AS foreign
      FROM sealog.block WHERE stream = ${streamId} ${rest}`.execute(database);
    return rows.map((row) => ({
      ...storedBlock(row),
      tags: row.tags === null ? undefined : decodeBigints(row.tags),
      foreign: row.foreign,
    }));
  };

  /** The ids that are stored of some entries; bounded where one stored more rows than entries can have. */
  const idRows = async ({ from, to }: SeqRange, month?: number): Promise<(IdRow & { foreign: boolean })[]> => {
    const { rows } = await sql<{ first_seq: number; drop_month: number; ids: Buffer; rest: Buffer; foreign: boolean }>`
      SELECT ${exact('first_seq')}, drop_month, array_send(ids) AS ids, array_send(ids_rest) AS rest, tenant <> ${await tenant()} AS foreign
      FROM sealog.entry_id WHERE stream = ${streamId} AND first_seq >= ${from - BLOCK_ENTRIES_MAX}::bigint AND first_seq < ${to}::bigint
        ${month === undefined ? sql`` : sql`AND drop_month = ${sql.lit(month)}`}
      ORDER BY entry_id.first_seq LIMIT ${ID_ROWS_MAX}`.execute(database);
    return rows.flatMap(({ first_seq: first, drop_month: dropMonth, ids, rest, foreign }) =>
      decodeIdHashes(ids, rest).flatMap((idHash, i) => {
        const seq = Math.min(first + Math.min(i, BLOCK_ENTRIES_MAX), Number.MAX_SAFE_INTEGER);
        return idHash === undefined || seq < from || seq >= to ? [] : { seq, idHash, dropMonth, foreign };
      }),
    );
  };

  /** Where the next row of ids begins: a size may be stated that no entries come to. */
  const firstIdsFrom = async (seq: number): Promise<number | undefined> => {
    const { rows } = await sql<{ first_seq: number }>`
      SELECT ${exact('first_seq')} FROM sealog.entry_id WHERE stream = ${streamId} AND first_seq >= ${seq}::bigint
      ORDER BY entry_id.first_seq LIMIT 1`.execute(database);
    return rows[0]?.first_seq;
  };

  return {
    stream: stream.name,
    streamId,

    async state(): Promise<StreamState> {
      const { rows } = await sql<
        Tables['sealog.stream'] & { tenant_name: string | null; retain_until: number | null }
      >`SELECT ${exact('size')}, head, frontier, ${exact('recorded_at')}, ${exact('retain_until')}, category, epoch,
               (SELECT min(t.name) FROM sealog.tenant AS t WHERE t.id = s.tenant) AS tenant_name
        FROM sealog.stream AS s WHERE s.id = ${streamId}`.execute(database);
      const row = rows[0];
      // The list of streams named it a moment ago.
      if (row === undefined) throw new Error(`the row of the stream ${stream.name} is gone`);
      return {
        size: row.size,
        head: row.head,
        frontier: row.frontier,
        recordedAt: row.recorded_at,
        retainUntil: row.retain_until ?? undefined,
        describes: streamName(row.tenant_name ?? '(no tenant)', row.category as Category, row.epoch),
      };
    },

    async blocks(after, limit) {
      // From the position on, not behind it: without its primary key the table could hold two blocks there. The first condition is for
      // the index, which can not use the second.
      const from =
        after === undefined
          ? sql``
          : sql`AND first_seq >= ${after.firstSeq}::bigint
                AND (first_seq, drop_month) >= (${after.firstSeq}::bigint, ${Math.min(after.dropMonth, INT_MAX)}::integer)`;
      return blockRows(sql`${from} ORDER BY block.first_seq, drop_month LIMIT ${limit + 1}`);
    },

    async lastBlock(seq) {
      const upTo = seq === undefined ? sql`` : sql`AND first_seq <= ${seq}`;
      const [block] = await blockRows(sql`${upTo} ORDER BY block.first_seq DESC, drop_month DESC LIMIT 1`);
      return block;
    },

    async keyOwner(keyId) {
      const find = async (): Promise<KeyOwner | undefined> => {
        const { rows } = await sql<{ stream: string; drop_month: number; foreign: boolean }>`
          SELECT s.name AS stream, k.drop_month, k.tenant <> ${await tenant()} AS foreign
          FROM sealog.data_key AS k JOIN sealog.stream AS s ON s.id = k.stream WHERE k.id = ${keyId}::bigint`.execute(
          database,
        );
        const row = rows[0];
        return row === undefined ? undefined : { stream: row.stream, dropMonth: row.drop_month, foreign: row.foreign };
      };
      const known = owners.get(keyId) ?? find();
      owners.set(keyId, known);
      return known;
    },

    keys: (keyId) => keys.keysById(keyId),

    async tiles(level, fromIndex, limit) {
      const { rows } = await sql<{ tile_index: number; hashes: Buffer; root: Buffer; foreign: boolean }>`
        SELECT ${exact('tile_index')}, hashes, root, tenant <> ${await tenant()} AS foreign FROM sealog.tile
        WHERE stream = ${streamId} AND level = ${level} AND tile_index >= ${fromIndex}
        ORDER BY tile.tile_index LIMIT ${limit}`.execute(database);
      return rows.map(({ tile_index: index, hashes, root, foreign }) => ({ index, hashes, root, foreign }));
    },

    async tileEdge(index) {
      const { rows } = await sql<{ hashes: Buffer }>`
        SELECT hashes FROM sealog.tile_edge WHERE stream = ${streamId} AND tile_index = ${index}
        ORDER BY width DESC LIMIT 1`.execute(database);
      return rows[0]?.hashes;
    },

    async lastTiles() {
      const { rows } = await sql<{ level: number; last: number }>`
        SELECT level, ${greatest('tile_index')} AS last FROM sealog.tile WHERE stream = ${streamId} GROUP BY level`.execute(
        database,
      );
      return new Map(rows.map((row) => [row.level, row.last]));
    },

    ids: {
      async missing(rows) {
        const missing: IdRow[] = [];
        for (const [dropMonth, own] of Map.groupBy(rows, (row) => row.dropMonth)) {
          const wanted = new Map(own.map((row) => [row.seq, row]));
          for (const window of windows([...wanted.keys()]))
            for (const row of await idRows(window, dropMonth))
              if (!row.foreign && wanted.get(row.seq)?.idHash === row.idHash) wanted.delete(row.seq);
          missing.push(...wanted.values());
        }
        return missing;
      },

      async *counts(scope) {
        let from: number | undefined = 0;
        for (let isFirst = true; from !== undefined; isFirst = false) {
          const to: number = from + ROWS_A_SLICE;
          const isLast = to >= scope.size;
          yield await slice(
            database,
            sql`SELECT ((i.seq >> ${sql.lit(ID_BUCKET_BITS)}) & ${sql.lit(INDEX_BUCKETS - 1)})::integer AS bucket,
                     count(*) FILTER (WHERE ${inScope('i.seq', scope)}) AS rows, ${greatest('i.seq')} AS last
              FROM sealog.entry_id AS e CROSS JOIN LATERAL (${IDS_OF_ROW}) AS i
              WHERE e.stream = ${streamId} ${isFirst ? sql`` : sql`AND e.first_seq >= ${from}::bigint`}
                ${isLast ? sql`` : sql`AND e.first_seq < ${to}::bigint`} GROUP BY 1`,
          );
          from = isLast ? undefined : await firstIdsFrom(to);
        }
      },

      async *rowsIn(bucket, scope) {
        const found = new Map<string, StoredRow<IdRow>>();
        // Nobody's are those before the first entry.
        for (const window of [{ from: -Number.MAX_SAFE_INTEGER, to: 0 }, ...seqsOfIdBucket(bucket, scope.size)]) {
          for (const row of await idRows(window)) {
            if (idBucket(row.seq) !== bucket || !isInScope(row.seq, scope)) continue;
            const key = `${row.seq} ${row.dropMonth} ${row.idHash}`;
            const known = found.get(key);
            const copies = 1 + (known?.copies ?? 0);
            found.set(key, { ...row, copies, foreign: row.foreign || known?.foreign === true });
          }
        }
        if (found.size > 0) yield [...found.values()];
      },
    },
  };
}

/** The entries of a row of ids, as SQL. A row that names places which no number does is at the last that one names; so is what no block has room for. */
const IDS_OF_ROW = sql`
  SELECT least(greatest(least(e.first_seq, 9007199254740991), -9007199254740991) + least(u.at, ${sql.lit(BLOCK_ENTRIES_MAX + 1)}) - 1, 9007199254740991) AS seq
  FROM unnest(e.ids, e.ids_rest) WITH ORDINALITY AS u (id, rest, at) WHERE u.id IS NOT NULL AND u.rest IS NOT NULL`;

/** Groups of seqs that one statement brings the ids of. */
function windows(seqs: readonly number[]): SeqRange[] {
  const found: { from: number; to: number }[] = [];
  for (const seq of seqs.toSorted((a, b) => a - b)) {
    const last = found.at(-1);
    if (last !== undefined && seq < last.from + IDS_A_WINDOW) last.to = seq + 1;
    else found.push({ from: seq, to: seq + 1 });
  }
  return found;
}

/** Tables whose rows belong to a stream; each has an index that begins with it. */
const TABLES_OF_STREAMS = ['data_key', 'block', 'entry_id', 'tile', 'checkpoint'];
const STREAMS_A_STEP = 500;

/** Returns the ids of streams that have rows in these tables and no row of their own: somebody removed it, and the list of streams says nothing of them. */
export async function orphanedStreams(
  database: Kysely<Tables>,
  tables: readonly string[] = TABLES_OF_STREAMS,
): Promise<number[]> {
  const orphans = new Set<number>();
  for (const name of tables) {
    const table = sql.id('sealog', name);
    let after: number | null = INT_MIN;
    while (after !== null) {
      // From one stream to the next in the index: its rows are not read.
      const { rows }: { rows: { id: number | null; known: boolean }[] } = await sql<{
        id: number | null;
        known: boolean;
      }>`
        WITH RECURSIVE step (n, id) AS (
          SELECT 1, (SELECT min(stream) FROM ${table} WHERE stream > ${after}::integer)
          UNION ALL
          SELECT n + 1, (SELECT min(stream) FROM ${table} WHERE stream > step.id) FROM step
          WHERE step.id IS NOT NULL AND n < ${STREAMS_A_STEP}::integer)
        SELECT id, EXISTS (SELECT FROM sealog.stream AS s WHERE s.id = step.id) AS known FROM step ORDER BY n`.execute(
        database,
      );
      for (const { id, known } of rows) if (id !== null && !known) orphans.add(id);
      after = rows.at(-1)?.id ?? null;
    }
  }
  return [...orphans].sort((a, b) => a - b);
}

async function slice(database: Kysely<Tables>, query: RawBuilder<unknown>): Promise<IndexSlice> {
  const { rows } = await sql<{ bucket: number; rows: number; last: number }>`${query}`.execute(database);
  return {
    counts: rows,
    last: rows.length === 0 ? undefined : rows.reduce((last, row) => Math.max(last, row.last), -1),
  };
}

/** A bigint column as a number that a double holds exactly. NULL stays NULL, which least and greatest would pass over. */
function exact(column: string, as = column): RawBuilder<number> {
  const value = sql.ref(column);
  return sql`CASE WHEN ${value} IS NOT NULL THEN greatest(least(${value}, 9007199254740991), -9007199254740991) END AS ${sql.ref(as)}`;
}

function greatest(column: string): RawBuilder<number> {
  return sql`greatest(least(max(${sql.ref(column)}), 9007199254740991), -9007199254740991)`;
}

function inScope(column: string, { size, except }: IndexScope): RawBuilder<boolean> {
  const seq = sql.ref(column);
  const holes = except.map(({ from, to }) => sql` AND NOT (${seq} >= ${from}::bigint AND ${seq} < ${to}::bigint)`);
  return sql`${seq} < ${size}::bigint${sql.join(holes, sql``)}`;
}
