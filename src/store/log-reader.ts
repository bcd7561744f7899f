/**
 * Reading stored blocks. Every function is one short statement: no snapshot is held from one to the next, because entries that are
 * committed never change, and a long snapshot would slow the heads' updates for everybody.
 */
import { type Kysely, type RawBuilder, sql } from 'kysely';
import { BLOCK_ENTRIES_MAX, type StoredBlock } from '../chain/block.ts';
import type { BlockFilter } from '../chain/entry-filter.ts';
import { KEPT_BITS } from '../chain/tag.ts';
import { BLOCK_COLUMNS, type BlockRow, storedBlock } from './block-row.ts';
import type { Tables } from './tables.ts';

export interface EntryPlace {
  readonly streamId: number;
  readonly seq: number;
  readonly dropMonth: number;
}

/**
 * Returns where an id stands in these streams of the transaction's tenant, newest first; its hash decides, so the caller compares the id itself.
 * Their rows are asked for too: they are what our own filter holds to the tenant.
 */
export async function placesOfId(
  database: Kysely<Tables>,
  streamIds: readonly number[],
  idHash: string,
): Promise<EntryPlace[]> {
  if (streamIds.length === 0) return [];
  const { rows } = await sql<EntryPlace>`
    SELECT p.stream AS "streamId", p.seq, p.drop_month AS "dropMonth"
    FROM sealog.own_places(${idHash}::uuid) AS p JOIN ${sql.table('sealog.stream')} AS s ON s.id = p.stream
    WHERE s.id = ANY (${[...streamIds]}::integer[]) ORDER BY p.seq DESC LIMIT 100`.execute(database);
  return rows;
}

/** The same for those who may see every tenant's. */
export async function placesInAll(
  verifier: Kysely<Tables>,
  streamIds: readonly number[],
  idHash: string,
): Promise<EntryPlace[]> {
  const { rows } = await sql<EntryPlace>`
    SELECT p.stream AS "streamId", p.seq, p.drop_month AS "dropMonth" FROM sealog.places(${idHash}::uuid) AS p
    WHERE p.stream = ANY (${[...streamIds]}::integer[]) ORDER BY p.seq DESC LIMIT 100`.execute(verifier);
  return rows;
}

/** Returns the block that holds `seq`, or undefined. With drop months only their partitions are looked at. */
export async function blockOf(
  database: Kysely<Tables>,
  streamId: number,
  seq: number,
  dropMonths?: readonly number[],
): Promise<StoredBlock | undefined> {
  let query = database
    .selectFrom('sealog.block')
    .select(BLOCK_COLUMNS)
    .where('stream', '=', streamId)
    .where('first_seq', '<=', seq);
  if (dropMonths !== undefined) query = query.where('drop_month', 'in', dropMonths);
  const row = await query.orderBy('first_seq', 'desc').limit(1).executeTakeFirst();
  const block = row === undefined ? undefined : storedBlock(row);
  return block !== undefined && seq < block.firstSeq + block.entries ? block : undefined;
}

/** Returns how far a stream is pruned: entries before that have expired and are gone. */
export async function prunedOf(database: Kysely<Tables>, streamId: number): Promise<number> {
  const row = await database.selectFrom('sealog.stream').select('pruned').where('id', '=', streamId).executeTakeFirst();
  return row?.pruned ?? 0;
}

/** Returns the blocks of a stream from the one that holds `seq` on, in order; at most `limit`. */
export async function blocksFrom(
  database: Kysely<Tables>,
  streamId: number,
  seq: number,
  limit: number,
): Promise<StoredBlock[]> {
  const rows = await database
    .selectFrom('sealog.block')
    .select(BLOCK_COLUMNS)
    .where('stream', '=', streamId)
    // No block is longer: only these can hold `seq`.
    .where('first_seq', '>', seq - BLOCK_ENTRIES_MAX)
    .where((where) => where(where('first_seq', '+', where.ref('entries')), '>', seq))
    .orderBy('first_seq')
    .limit(limit)
    .execute();
  return rows.map(storedBlock);
}

export interface BlockScan {
  /** The blocks that pass, in order. */
  readonly blocks: readonly StoredBlock[];
  /** Blocks that were looked at, and the first seq of the last of them; undefined when there was none. */
  readonly looked: number;
  readonly lastFirstSeq: number | undefined;
  /** There are no more. */
  readonly isLast: boolean;
}

/** One drop month of a scan, and what lets its blocks through: tags are made with the month's key. */
export interface Lane {
  readonly dropMonth: number;
  readonly filter: BlockFilter;
}

/**
 * Looks at up to `limit` blocks of one stream and some drop months whose first seq is below `seq`, newest first (`desc`), or not below it,
 * oldest first (`asc`), and returns those that the filters let through. The candidates come in order out of one index a month. Without a tag the work
 * is bounded by `limit`; a tag is looked for in one stretch of 8192 entries after the other until there are so
 * many, or until 1024 have been looked at: then the scan ends there, and is not the last.
 */
export async function scanBlocks(
  database: Kysely<Tables>,
  streamId: number,
  lanes: readonly Lane[],
  order: 'asc' | 'desc',
  seq: number,
  limit: number,
): Promise<BlockScan> {
  const direction = sql.raw(order);
  const scans = lanes.map((lane) => sql`(${laneScan(streamId, lane, order, seq, limit)})`);
  const all = scans.length === 1 ? scans[0]! : sql`(${sql.join(scans, sql` UNION ALL `)})`;
  const { rows: found } = await sql<
    { candidate: number; is_edge: boolean } & { [column in keyof BlockRow]: BlockRow[column] | null }
  >`SELECT s.* FROM ${all} AS s ORDER BY s.candidate ${direction}, s.is_edge LIMIT ${limit}`.execute(database);
  // What lies behind one lane's edge may not be the next.
  const edge = found.findIndex((row) => row.is_edge);
  const rows = edge === -1 ? found : found.slice(0, edge + 1);
  return {
    blocks: rows.filter((row) => row.first_seq !== null).map((row) => storedBlock(row as BlockRow)),
    looked: rows.length,
    lastFirstSeq: rows.at(-1)?.candidate,
    isLast: edge === -1 && rows.length < limit,
  };
}

function laneScan(
  streamId: number,
  { dropMonth, filter }: Lane,
  order: 'asc' | 'desc',
  seq: number,
  limit: number,
): RawBuilder<unknown> {
  const block = sql.table('sealog.block');
  const month = sql.lit(dropMonth);
  const direction = sql.raw(order);
  const within = order === 'desc' ? sql`c.first_seq < ${seq}` : sql`c.first_seq >= ${seq}`;
  const [first, ...others] = filter.tags;
  // Of a block that is known its place is, too.
  const hasTag = (tags: readonly bigint[]) => sql`EXISTS (
    SELECT FROM unnest(b.tags) AS t WHERE (t & ${sql.lit(LAST_BYTES)}) = ANY (${arrayOf(tags.map((tag) => BigInt.asUintN(KEPT_BITS, tag)))}::bigint[]))`;
  const candidates =
    first === undefined
      ? sql`SELECT c.first_seq, false AS is_edge FROM ${block} AS c
            WHERE c.drop_month = ${month} AND c.stream = ${streamId} AND ${within}
            ORDER BY c.first_seq ${direction} LIMIT ${limit}`
      : sql`SELECT u.first_seq, u.is_edge
            FROM sealog.own_tagged_blocks(${streamId}, ${month}, ${arrayOf(first)}, ${order === 'desc'}, ${seq}, ${limit}) AS u`;
  const conditions = [
    filter.recordedFrom === undefined ? undefined : sql`b.recorded_to >= ${filter.recordedFrom}`,
    filter.recordedTo === undefined ? undefined : sql`b.recorded_from <= ${filter.recordedTo}`,
    filter.occurredFrom === undefined ? undefined : sql`b.occurred_to >= ${filter.occurredFrom}`,
    filter.occurredTo === undefined ? undefined : sql`b.occurred_from <= ${filter.occurredTo}`,
    filter.severityMin === undefined ? undefined : sql`b.severity_max >= ${filter.severityMin}`,
    filter.outcome === undefined ? undefined : sql`(b.outcomes & ${filter.outcome}) <> 0`,
    ...others.map((tags) => hasTag(tags)),
  ].filter((condition) => condition !== undefined);
  return sql`
    SELECT k.first_seq AS candidate, k.is_edge, p.* FROM (${candidates}) AS k
    LEFT JOIN LATERAL (
      SELECT ${BLOCK_COLUMNS_OF_B} FROM ${block} AS b WHERE b.drop_month = ${month} AND b.stream = ${streamId} AND b.first_seq = k.first_seq AND NOT k.is_edge
      ${conditions.length === 0 ? sql`` : sql`AND ${sql.join(conditions, sql` AND `)}`}
    ) AS p ON true
    ORDER BY k.first_seq ${direction}`;
}

/** All but the bytes of a placed tag that say where its block is (docs/format.md section 14). */
const LAST_BYTES = 2 ** KEPT_BITS - 1;
const BLOCK_COLUMNS_OF_B = sql.join(BLOCK_COLUMNS.map((name) => sql.ref(`b.${name}`)));

function arrayOf(tags: readonly bigint[]): string {
  return `{${tags.join(',')}}`;
}

/**
 * Returns where in a stream and these drop months the entries recorded up to `to` end (the first seq of a later block), or those recorded
 * from `from` on begin; undefined when no block bounds them. recordedAt never decreases within a stream.
 */
export async function seqAtInstant(
  database: Kysely<Tables>,
  streamId: number,
  dropMonths: readonly number[],
  instant: { readonly after: number } | { readonly before: number },
): Promise<number | undefined> {
  const query = database
    .selectFrom('sealog.block')
    .select('first_seq')
    .where('drop_month', 'in', dropMonths)
    .where('stream', '=', streamId);
  const row =
    'after' in instant
      ? await query
          .where('recorded_from', '>', instant.after)
          .orderBy('recorded_from')
          .orderBy('first_seq')
          .limit(1)
          .executeTakeFirst()
      : await query
          .where('recorded_from', '<', instant.before)
          .orderBy('recorded_from', 'desc')
          .orderBy('first_seq', 'desc')
          .limit(1)
          .executeTakeFirst();
  return row?.first_seq;
}

export interface StreamMonth {
  readonly streamId: number;
  readonly dropMonth: number;
  readonly keyId: string;
}

/** Returns the keys of streams, one a drop month: in which partitions they have ever stored, and what opens them there. */
export async function monthsOf(database: Kysely<Tables>, streamIds: readonly number[]): Promise<StreamMonth[]> {
  if (streamIds.length === 0) return [];
  const rows = await database
    .selectFrom('sealog.data_key')
    .select(['stream', 'drop_month', 'id'])
    .where('stream', 'in', streamIds)
    .orderBy('drop_month')
    .execute();
  return rows.map((row) => ({ streamId: row.stream, dropMonth: row.drop_month, keyId: String(row.id) }));
}

/**
 * Returns the drop months of streams, those together whose entries lie between each other, and these groups in the order of the entries. Months
 * rise with seq, but for what a hold keeps, which stands under a later one.
 */
export async function monthGroupsOf(
  database: Kysely<Tables>,
  streams: readonly { readonly id: number; readonly moved: number }[],
): Promise<ReadonlyMap<number, readonly (readonly StreamMonth[])[]>> {
  const months = Map.groupBy(
    await monthsOf(
      database,
      streams.map(({ id }) => id),
    ),
    ({ streamId }) => streamId,
  );
  const groups = new Map<number, readonly (readonly StreamMonth[])[]>();
  for (const { id, moved } of streams) {
    const own = months.get(id) ?? [];
    groups.set(id, moved > 0 ? overlapping(own, await boundsOf(database, id, own)) : own.map((month) => [month]));
  }
  return groups;
}

/** The first seqs of the first and the last block of each of these months that has any. */
async function boundsOf(
  database: Kysely<Tables>,
  streamId: number,
  months: readonly StreamMonth[],
): Promise<ReadonlyMap<number, { readonly first: number; readonly last: number }>> {
  const block = sql.table('sealog.block');
  const bound = (month: number, order: string) => sql`(SELECT b.first_seq FROM ${block} AS b
    WHERE b.drop_month = ${sql.lit(month)} AND b.stream = ${streamId} ORDER BY b.first_seq ${sql.raw(order)} LIMIT 1)`;
  const each = months.map(
    ({ dropMonth: month }) =>
      sql`SELECT ${sql.lit(month)}::integer AS month, ${bound(month, 'ASC')} AS first, ${bound(month, 'DESC')} AS last`,
  );
  if (each.length === 0) return new Map();
  const { rows } = await sql<{ month: number; first: number | null; last: number | null }>`
    ${sql.join(each, sql` UNION ALL `)}`.execute(database);
  return new Map(
    rows.flatMap(({ month, first, last }) => (first === null || last === null ? [] : [[month, { first, last }]])),
  );
}

function overlapping(
  months: readonly StreamMonth[],
  bounds: ReadonlyMap<number, { readonly first: number; readonly last: number }>,
): StreamMonth[][] {
  const filled = months
    .flatMap((month) => {
      const own = bounds.get(month.dropMonth);
      return own === undefined ? [] : [{ month, ...own }];
    })
    .sort((a, b) => a.first - b.first);
  const groups: StreamMonth[][] = [];
  let end = -1;
  for (const { month, first, last } of filled) {
    if (first > end) groups.push([]);
    groups.at(-1)!.push(month);
    end = Math.max(end, last);
  }
  return groups;
}
