/** One stream's stored bytes for verification. Each call is one statement, bounded in what it reads. */
import { type Kysely, sql } from 'kysely';
import type { IdRow, LogSource, StreamState, TagRow } from '../verify/verify-stream.ts';
import { storedBlock } from './block-row.ts';
import { streamRow } from './streams.ts';
import type { Tables } from './tables.ts';

export interface SourceKeys {
  keysById(id: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }>;
}

/** Rows that one statement counts, about: well under a second. */
const ROWS_A_SLICE = 200_000;
/** Rows that one statement brings. */
const ROWS_A_PAGE = 20_000;
const INT_MAX = 2_147_483_647;

export function verifySource(
  database: Kysely<Tables>,
  keys: SourceKeys,
  stream: { readonly id: number; readonly name: string },
): LogSource {
  const streamId = stream.id;
  return {
    stream: stream.name,

    async state(): Promise<StreamState> {
      return streamRow(
        await database.selectFrom('sealog.stream').selectAll().where('id', '=', streamId).executeTakeFirstOrThrow(),
      );
    },

    async blocks(after, limit) {
      const from = after ?? { firstSeq: -1, dropMonth: INT_MAX };
      const rows = await database
        .selectFrom('sealog.block')
        .selectAll()
        .where('stream', '=', streamId)
        .where('first_seq', '>=', from.firstSeq)
        .where(
          sql<boolean>`(first_seq, drop_month) > (${from.firstSeq}::bigint, ${Math.min(from.dropMonth, INT_MAX)}::integer)`,
        )
        .orderBy('first_seq')
        .orderBy('drop_month')
        .limit(limit)
        .execute();
      return rows.map(storedBlock);
    },

    keys: (keyId) => keys.keysById(keyId),

    async tiles(level, fromIndex, limit) {
      const rows = await database
        .selectFrom('sealog.tile')
        .select(['tile_index', 'hashes', 'root'])
        .where('stream', '=', streamId)
        .where('level', '=', level)
        .where('tile_index', '>=', fromIndex)
        .orderBy('tile_index')
        .limit(limit)
        .execute();
      return rows.map((row) => ({ index: row.tile_index, hashes: row.hashes, root: row.root }));
    },

    async tileCounts() {
      const { rows } = await sql<{ level: number; count: number }>`
        SELECT level, count(*) AS count FROM sealog.tile WHERE stream = ${streamId} GROUP BY level`.execute(database);
      return new Map(rows.map((row) => [row.level, row.count]));
    },

    async missingTags(rows) {
      const missing: TagRow[] = [];
      for (const [dropMonth, own] of Map.groupBy(rows, (row) => row.dropMonth)) {
        const { rows: found } = await sql<{ n: number }>`
          SELECT w.n FROM unnest(${arrayOf(own.map((row) => row.tag))}::bigint[], ${arrayOf(own.map((row) => row.firstSeq))}::bigint[])
            WITH ORDINALITY AS w (tag, first_seq, n)
          WHERE NOT EXISTS (SELECT FROM sealog.tag AS t WHERE t.drop_month = ${sql.lit(dropMonth)} AND t.stream = ${streamId}
                            AND t.tag = w.tag AND t.first_seq = w.first_seq)`.execute(database);
        missing.push(...found.map(({ n }) => own[n - 1]!));
      }
      return missing;
    },

    async missingIds(rows) {
      const missing: IdRow[] = [];
      for (const [dropMonth, own] of Map.groupBy(rows, (row) => row.dropMonth)) {
        const { rows: found } = await sql<{ n: number }>`
          SELECT w.n FROM unnest(${arrayOf(own.map((row) => row.idHash))}::uuid[], ${arrayOf(own.map((row) => row.seq))}::bigint[])
            WITH ORDINALITY AS w (id, seq, n)
          WHERE NOT EXISTS (SELECT FROM sealog.entry_id AS t WHERE t.drop_month = ${sql.lit(dropMonth)} AND t.stream = ${streamId}
                            AND t.id = w.id AND t.seq = w.seq)`.execute(database);
        missing.push(...found.map(({ n }) => own[n - 1]!));
      }
      return missing;
    },

    async countTags(size, expected) {
      let count = 0;
      for (const { from, to } of tagRanges(expected, ROWS_A_SLICE)) {
        const { rows } = await sql<{ count: number }>`
          SELECT count(*) AS count FROM sealog.tag
          WHERE stream = ${streamId} AND tag BETWEEN ${from}::bigint AND ${to}::bigint AND first_seq < ${size}`.execute(
          database,
        );
        count += rows[0]!.count;
      }
      return count;
    },

    async countIds(size, expected) {
      let count = 0;
      for (const { from, to } of idRanges(expected, ROWS_A_SLICE)) {
        const { rows } = await sql<{ count: number }>`
          SELECT count(*) AS count FROM sealog.entry_id
          WHERE stream = ${streamId} AND id BETWEEN ${from}::uuid AND ${to}::uuid AND seq < ${size}`.execute(database);
        count += rows[0]!.count;
      }
      return count;
    },

    async *tagSlices(size, expected) {
      for (const { from, to } of tagRanges(expected, ROWS_A_PAGE)) {
        const { rows } = await sql<{ drop_month: number; first_seq: number; tag: string }>`
          SELECT drop_month, first_seq, tag::text AS tag FROM sealog.tag
          WHERE stream = ${streamId} AND tag BETWEEN ${from}::bigint AND ${to}::bigint AND first_seq < ${size}`.execute(
          database,
        );
        yield rows.map((row) => ({ dropMonth: row.drop_month, firstSeq: row.first_seq, tag: BigInt(row.tag) }));
      }
    },

    async *idSlices(size, expected) {
      for (const { from, to } of idRanges(expected, ROWS_A_PAGE)) {
        const { rows } = await sql<{ drop_month: number; seq: number; id: string }>`
          SELECT drop_month, seq, id::text AS id FROM sealog.entry_id
          WHERE stream = ${streamId} AND id BETWEEN ${from}::uuid AND ${to}::uuid AND seq < ${size}`.execute(database);
        yield rows.map((row) => ({ dropMonth: row.drop_month, seq: row.seq, idHash: row.id }));
      }
    },
  };
}

/** Tags and hashed ids are evenly spread, so that equal ranges of them hold about equally many rows, in the order of their index. */
function* ranges(expected: number, rows: number, bits: bigint): Iterable<{ from: bigint; to: bigint }> {
  const count = BigInt(Math.max(1, Math.ceil(expected / rows)));
  const whole = 1n << bits;
  for (let i = 0n; i < count; i++) yield { from: (whole * i) / count, to: (whole * (i + 1n)) / count - 1n };
}

function* tagRanges(expected: number, rows: number): Iterable<{ from: string; to: string }> {
  const offset = 1n << 63n;
  for (const { from, to } of ranges(expected, rows, 64n))
    yield { from: String(from - offset), to: String(to - offset) };
}

function* idRanges(expected: number, rows: number): Iterable<{ from: string; to: string }> {
  const hex = (value: bigint) => value.toString(16).padStart(32, '0');
  for (const { from, to } of ranges(expected, rows, 128n)) yield { from: hex(from), to: hex(to) };
}

function arrayOf(values: readonly (number | bigint | string)[]): string {
  return `{${values.join(',')}}`;
}
