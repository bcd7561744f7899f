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
import { type Category, streamName } from '../chain/category.ts';
import {
  type IdRow,
  INDEX_BUCKETS,
  type IndexScope,
  type IndexSlice,
  type KeyOwner,
  type LogSource,
  type SourceBlock,
  type StoredRow,
  type StreamState,
  type TagRow,
} from '../verify/log-source.ts';
import { type BlockRow, storedBlock } from './block-row.ts';
import type { Tables } from './tables.ts';

export interface SourceKeys {
  keysById(id: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }>;
}

/** Rows that one statement counts, about: well under a second, also when each has to be fetched from a disk. */
const ROWS_A_SLICE = 50_000;
/** Rows that one statement brings. */
const ROWS_A_PAGE = 10_000;
const INT_MAX = 2_147_483_647;
const INT_MIN = -2_147_483_648;
const BIGINT_MIN = '-9223372036854775808';
const UUID_MIN = '00000000-0000-0000-0000-000000000000';

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
    const { rows } = await sql<BlockRow & { foreign: boolean }>`
      SELECT ${exact('first_seq')}, entries, drop_month, ${exact('recorded_from')}, ${exact('recorded_to')}, ${exact('occurred_from')},
             ${exact('occurred_to')}, ${exact('key_id')}, severity_min, severity_max, outcomes, records, parts,
             tenant <> ${await tenant()} AS foreign
      FROM sealog.block WHERE stream = ${streamId} ${rest}`.execute(database);
    return rows.map((row) => ({ ...storedBlock(row), foreign: row.foreign }));
  };

  return {
    stream: stream.name,

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

    tags: {
      async missing(rows) {
        const missing: TagRow[] = [];
        for (const [dropMonth, own] of Map.groupBy(rows, (row) => row.dropMonth)) {
          const { rows: found } = await sql<{ n: number }>`
          SELECT w.n FROM unnest(${arrayOf(own.map((row) => row.tag))}::bigint[], ${arrayOf(own.map((row) => row.firstSeq))}::bigint[])
            WITH ORDINALITY AS w (tag, first_seq, n)
          WHERE (SELECT true FROM sealog.tag AS t WHERE t.drop_month = ${sql.lit(dropMonth)} AND t.stream = ${streamId}
                 AND t.tag = w.tag AND t.first_seq = w.first_seq AND t.tenant = ${await tenant()} LIMIT 1) IS NULL`.execute(
            database,
          );
          missing.push(...found.map(({ n }) => own[n - 1]!));
        }
        return missing;
      },

      async *counts(scope, expected) {
        for (const { from, to } of ranges(expected)) {
          yield await slice(
            database,
            sql`SELECT (tag >> 48)::integer + ${INDEX_BUCKETS / 2}::integer AS bucket,
                     count(*) FILTER (WHERE ${inScope('first_seq', scope)}) AS rows, ${greatest('first_seq')} AS last
              FROM sealog.tag WHERE stream = ${streamId} AND tag BETWEEN ${firstTag(from)} AND ${lastTag(to)} GROUP BY 1`,
          );
        }
      },

      async *rowsIn(bucket, scope) {
        let after = { tag: BIGINT_MIN, seq: BIGINT_MIN, month: INT_MIN };
        for (;;) {
          const { rows } = await sql<IndexedRow & { tag: string }>`
          SELECT tag::text AS tag, ${exact('first_seq', 'seq')}, drop_month, count(*) AS copies, bool_or(tenant <> ${await tenant()}) AS foreign
          FROM sealog.tag
          WHERE stream = ${streamId} AND tag BETWEEN ${firstTag(bucket)} AND ${lastTag(bucket)} AND ${inScope('first_seq', scope)}
            AND (tag.tag, first_seq, drop_month) > (${after.tag}::bigint, ${after.seq}::bigint, ${after.month}::integer)
          GROUP BY tag.tag, first_seq, drop_month ORDER BY tag.tag, first_seq, drop_month LIMIT ${ROWS_A_PAGE}`.execute(
            database,
          );
          const last = rows.at(-1);
          if (last === undefined) return;
          yield rows.map(
            (row): StoredRow<TagRow> => ({
              tag: BigInt(row.tag),
              firstSeq: row.seq,
              ...common(row),
            }),
          );
          after = { tag: last.tag, seq: String(last.seq), month: last.drop_month };
        }
      },
    },

    ids: {
      async missing(rows) {
        const missing: IdRow[] = [];
        for (const [dropMonth, own] of Map.groupBy(rows, (row) => row.dropMonth)) {
          const { rows: found } = await sql<{ n: number }>`
          SELECT w.n FROM unnest(${arrayOf(own.map((row) => row.idHash))}::uuid[], ${arrayOf(own.map((row) => row.seq))}::bigint[])
            WITH ORDINALITY AS w (id, seq, n)
          WHERE (SELECT true FROM sealog.entry_id AS t WHERE t.drop_month = ${sql.lit(dropMonth)} AND t.stream = ${streamId}
                 AND t.id = w.id AND t.seq = w.seq AND t.tenant = ${await tenant()} LIMIT 1) IS NULL`.execute(database);
          missing.push(...found.map(({ n }) => own[n - 1]!));
        }
        return missing;
      },

      async *counts(scope, expected) {
        for (const { from, to } of ranges(expected)) {
          yield await slice(
            database,
            sql`SELECT get_byte(uuid_send(id), 0) * 256 + get_byte(uuid_send(id), 1) AS bucket,
                     count(*) FILTER (WHERE ${inScope('seq', scope)}) AS rows, ${greatest('seq')} AS last
              FROM sealog.entry_id WHERE stream = ${streamId} AND id BETWEEN ${firstId(from)} AND ${lastId(to)} GROUP BY 1`,
          );
        }
      },

      async *rowsIn(bucket, scope) {
        let after = { id: UUID_MIN, seq: BIGINT_MIN, month: INT_MIN };
        for (;;) {
          const { rows } = await sql<IndexedRow & { id: string }>`
          SELECT id::text AS id, ${exact('seq')}, drop_month, count(*) AS copies, bool_or(tenant <> ${await tenant()}) AS foreign
          FROM sealog.entry_id AS e
          WHERE stream = ${streamId} AND id BETWEEN ${firstId(bucket)} AND ${lastId(bucket)} AND ${inScope('seq', scope)}
            AND (e.id, seq, drop_month) > (${after.id}::uuid, ${after.seq}::bigint, ${after.month}::integer)
          GROUP BY e.id, seq, drop_month ORDER BY e.id, seq, drop_month LIMIT ${ROWS_A_PAGE}`.execute(database);
          const last = rows.at(-1);
          if (last === undefined) return;
          yield rows.map((row): StoredRow<IdRow> => ({ idHash: row.id, seq: row.seq, ...common(row) }));
          after = { id: last.id, seq: String(last.seq), month: last.drop_month };
        }
      },
    },
  };
}

/** Tables whose rows belong to a stream; each has an index that begins with it. */
const TABLES_OF_STREAMS = ['data_key', 'block', 'tag', 'entry_id', 'tile', 'checkpoint'];
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

interface IndexedRow {
  readonly seq: number;
  readonly drop_month: number;
  readonly copies: number;
  readonly foreign: boolean;
}

function common(row: IndexedRow): { dropMonth: number; copies: number; foreign: boolean } {
  return { dropMonth: row.drop_month, copies: row.copies, foreign: row.foreign };
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

/** Cuts the buckets into ranges of about equally many rows, in the order of the index: tags and hashed ids are evenly spread. */
function* ranges(expected: number): Iterable<{ from: number; to: number }> {
  const count = Math.min(Math.max(1, Math.ceil(expected / ROWS_A_SLICE)), INDEX_BUCKETS);
  const bound = (i: number) => Math.floor((i * INDEX_BUCKETS) / count);
  for (let i = 0; i < count; i++) yield { from: bound(i), to: bound(i + 1) - 1 };
}

function firstTag(bucket: number): RawBuilder<unknown> {
  return sql`${String(BigInt(bucket - INDEX_BUCKETS / 2) << 48n)}::bigint`;
}

function lastTag(bucket: number): RawBuilder<unknown> {
  return sql`${String((BigInt(bucket + 1 - INDEX_BUCKETS / 2) << 48n) - 1n)}::bigint`;
}

function firstId(bucket: number): RawBuilder<unknown> {
  return sql`${bucket.toString(16).padStart(4, '0').padEnd(32, '0')}::uuid`;
}

function lastId(bucket: number): RawBuilder<unknown> {
  return sql`${bucket.toString(16).padStart(4, '0').padEnd(32, 'f')}::uuid`;
}

function arrayOf(values: readonly (number | bigint | string)[]): string {
  return `{${values.join(',')}}`;
}
