/**
 * Hashes of a stream's tree, for proofs and roots of any size that the stream has had.
 *
 * A perfect subtree lies in one tile (`sliceOf`). Where the tree of the size that is asked for fills that tile, it is stored. Where it
 * does not, the tile's hashes are the roots of full tiles one level below or, at level 0, those of the records that fill no tile yet.
 * So a proof reads at most two tiles of each level and the roots or records of one unfinished tile of each: two statements, O(log n) rows.
 * Where these records have expired, their hashes were kept (`tile_edge`).
 *
 * What has been appended since changes nothing: the subtrees are those of the size, and blocks and tiles may hold more.
 */
import assert from 'node:assert/strict';
import { type Kysely, sql } from 'kysely';
import { BLOCK_ENTRIES_MAX, decodeRecords, unpackPayload } from '../chain/block.ts';
import { concatBytes } from '../chain/bytes.ts';
import {
  type Frontier,
  frontierNodes,
  frontierRoot,
  type GetNode,
  leafHash,
  perfectRoot,
  type Subtree,
} from '../chain/merkle.ts';
import { HASH_SIZE } from '../chain/sha256.ts';
import {
  fullTileCount,
  hashFromTile,
  sliceOf,
  TILE_HEIGHT,
  TILE_WIDTH,
  type TilePlace,
  type TileSlice,
} from '../chain/tile.ts';
import { EvidenceError } from '../errors.ts';
import type { Tables } from './tables.ts';

export interface TreeStream {
  readonly id: number;
  readonly name: string;
}

/** Tiles [first, end) of a level: their hashes, or only their roots. */
interface WantedTiles {
  readonly level: number;
  readonly first: number;
  readonly end: number;
  readonly whole: boolean;
}

interface TileRow {
  readonly level: number;
  readonly tile_index: number;
  readonly hashes: Buffer | null;
  readonly root: Buffer;
}

/**
 * Returns the hashes of perfect subtrees of the tree of `size`, which MUST NOT be more than the stream's; `nodes` MUST lie in that tree.
 * Throws an EvidenceError where rows that hold them are missing or malformed. The hashes are only as good as the rows: who
 * gives them on MUST check what follows from them against a root that was signed.
 */
export async function treeNodes(
  database: Kysely<Tables>,
  stream: TreeStream,
  size: number,
  nodes: readonly Subtree[],
): Promise<GetNode> {
  const slices = new Map<string, TileSlice>();
  for (const node of nodes) {
    assert((node.index + 1) * 2 ** node.level <= size, 'the subtree lies in the tree');
    slices.set(keyOf(node), sliceOf(node));
  }
  const inTiles: TileSlice[] = [];
  const unfinished: TileSlice[] = [];
  for (const slice of slices.values()) {
    (slice.index < fullTileCount(slice.level, size) ? inTiles : unfinished).push(slice);
  }
  const [tiles, leaves] = await Promise.all([
    readTiles(database, stream, wantedTiles(inTiles, unfinished)),
    readLeaves(database, stream, rangeOf(unfinished.filter(({ level }) => level === 0))),
  ]);

  const hashes = new Map<string, Uint8Array>();
  for (const [key, slice] of slices) {
    const { level, index, offset, count } = slice;
    if (index < fullTileCount(level, size)) {
      const tile = tileOf(tiles, stream, level, index);
      if (tile.hashes === null) throw new EvidenceError(`tile ${index} of level ${level} of ${stream.name} is empty`);
      hashes.set(key, hashFromTile(tile.hashes, slice));
      continue;
    }
    const first = index * TILE_WIDTH + offset;
    const below = Array.from({ length: count }, (_, i) =>
      level === 0 ? leaves.get(first + i)! : rootOf(tileOf(tiles, stream, level - 1, first + i)),
    );
    hashes.set(key, perfectRoot(below));
  }
  return (level, index) => {
    const hash = hashes.get(keyOf({ level, index }));
    assert(hash !== undefined, 'this subtree was not asked for');
    return hash;
  };
}

/** Returns the frontier of `size`, as `treeNodes` finds it. */
export async function frontierAt(database: Kysely<Tables>, stream: TreeStream, size: number): Promise<Frontier> {
  const nodes = frontierNodes(size);
  const getNode = await treeNodes(database, stream, size, nodes);
  return nodes.map(({ level, index }) => getNode(level, index));
}

/** Returns the root of the tree of `size`, as `treeNodes` finds it. */
export async function rootAt(database: Kysely<Tables>, stream: TreeStream, size: number): Promise<Uint8Array> {
  return frontierRoot(size, await frontierAt(database, stream, size));
}

/**
 * Returns the tile of this place and width as the tree of `size` has it, which MUST reach so far: `width` hashes. A full tile's bytes are
 * those that are stored. Throws an EvidenceError as `treeNodes` does.
 */
export async function treeTile(
  database: Kysely<Tables>,
  stream: TreeStream,
  size: number,
  { level, index, width }: TilePlace & { readonly width: number },
): Promise<Uint8Array> {
  const first = index * TILE_WIDTH;
  const nodes = Array.from({ length: width }, (_, i) => ({ level: level * TILE_HEIGHT, index: first + i }));
  const getNode = await treeNodes(database, stream, size, nodes);
  return concatBytes(...nodes.map((node) => getNode(node.level, node.index)));
}

/** Returns the leaf hashes of [first, end), at most one tile of them, from the records. Throws an EvidenceError. */
export async function leavesOf(
  database: Kysely<Tables>,
  stream: TreeStream,
  first: number,
  end: number,
): Promise<Uint8Array[]> {
  const records = await recordsOf(database, stream, first, end);
  return records.map(leafHash);
}

/**
 * Returns the records of [first, end), at most one bundle of them. Throws an EvidenceError where blocks are missing, overlap or do not
 * hold what they say.
 */
export async function recordsOf(
  database: Kysely<Tables>,
  stream: TreeStream,
  first: number,
  end: number,
): Promise<Uint8Array[]> {
  assert(first <= end && end - first <= TILE_WIDTH, 'at most a tile of records at once');
  if (first === end) return [];
  const rows = await database
    .selectFrom('sealog.block')
    .select(['first_seq', 'entries', 'records'])
    .where('stream', '=', stream.id)
    // No block is longer: only these can hold `first`.
    .where('first_seq', '>', first - BLOCK_ENTRIES_MAX)
    .where('first_seq', '<', end)
    .where((where) => where(where('first_seq', '+', where.ref('entries')), '>', first))
    .orderBy('first_seq')
    .limit(TILE_WIDTH + 1)
    .execute();
  const records: Uint8Array[] = [];
  for (const row of rows) {
    const begin = first + records.length;
    const held = decodeRecords(unpackPayload(row.records));
    // The first block may begin earlier; each other one begins where the one before it ends.
    if (held.length !== row.entries || (begin === first ? row.first_seq > begin : row.first_seq !== begin)) break;
    records.push(...held.slice(begin - row.first_seq, end - row.first_seq));
  }
  if (records.length !== end - first)
    throw new EvidenceError(`${stream.name} has no sound block with entry ${first + records.length}`);
  return records;
}

async function readLeaves(
  database: Kysely<Tables>,
  stream: TreeStream,
  range: { first: number; end: number } | undefined,
): Promise<Map<number, Uint8Array>> {
  if (range === undefined) return new Map();
  const leaves = await knownLeaves(database, stream, range.first, range.end);
  return new Map(leaves.map((leaf, i) => [range.first + i, leaf]));
}

/**
 * Returns the leaf hashes of [first, end), which lie in one tile: from the records or, where these have been pruned, from the tile, if it is
 * full by now, or from what pruning kept of it. Throws an EvidenceError.
 */
export async function knownLeaves(
  database: Kysely<Tables>,
  stream: TreeStream,
  first: number,
  end: number,
): Promise<Uint8Array[]> {
  try {
    return await leavesOf(database, stream, first, end);
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    const index = Math.floor(first / TILE_WIDTH);
    const [pruned, kept] = await Promise.all([prunedOf(database, stream), keptHashes(database, stream, index)]);
    const known = Math.min(end, pruned, index * TILE_WIDTH + kept.length / HASH_SIZE);
    if (known <= first) throw error;
    const offset = first - index * TILE_WIDTH;
    const leaves = Array.from({ length: known - first }, (_, i) =>
      hashFromTile(kept, { level: 0, index, offset: offset + i, count: 1 }),
    );
    return [...leaves, ...(await leavesOf(database, stream, known, end))];
  }
}

async function prunedOf(database: Kysely<Tables>, stream: TreeStream): Promise<number> {
  const row = await database
    .selectFrom('sealog.stream')
    .select('pruned')
    .where('id', '=', stream.id)
    .executeTakeFirst();
  return row?.pruned ?? 0;
}

/** The hashes of a tile of level 0 that are stored: all of them, or the first ones. */
async function keptHashes(database: Kysely<Tables>, stream: TreeStream, index: number): Promise<Uint8Array> {
  const tile = await database
    .selectFrom('sealog.tile')
    .select('hashes')
    .where('stream', '=', stream.id)
    .where('level', '=', 0)
    .where('tile_index', '=', index)
    .executeTakeFirst();
  if (tile !== undefined) return tile.hashes;
  const edge = await database
    .selectFrom('sealog.tile_edge')
    .select('hashes')
    .where('stream', '=', stream.id)
    .where('tile_index', '=', index)
    .orderBy('width', 'desc')
    .limit(1)
    .executeTakeFirst();
  return edge?.hashes ?? new Uint8Array(0);
}

/** The hashes from the first to the last that slices of one unfinished tile need: of a level there is only one such tile. */
function rangeOf(slices: readonly TileSlice[]): { first: number; end: number } | undefined {
  const [one] = slices;
  if (one === undefined) return undefined;
  assert(slices.every(({ level, index }) => level === one.level && index === one.index));
  const begin = one.index * TILE_WIDTH;
  return {
    first: begin + Math.min(...slices.map(({ offset }) => offset)),
    end: begin + Math.max(...slices.map(({ offset, count }) => offset + count)),
  };
}

function wantedTiles(inTiles: readonly TileSlice[], unfinished: readonly TileSlice[]): WantedTiles[] {
  const whole = new Map(inTiles.map(({ level, index }) => [keyOf({ level, index }), { level, index }]));
  const wanted: WantedTiles[] = [...whole.values()].map(({ level, index }) => ({
    level,
    first: index,
    end: index + 1,
    whole: true,
  }));
  for (const [level, own] of Map.groupBy(unfinished, (slice) => slice.level)) {
    if (level > 0) wanted.push({ level: level - 1, ...rangeOf(own)!, whole: false });
  }
  return wanted;
}

/** One statement for all of them. Each range is an index scan of its own: LIMIT keeps PostgreSQL from planning it as a join. */
async function readTiles(
  database: Kysely<Tables>,
  stream: TreeStream,
  wanted: readonly WantedTiles[],
): Promise<Map<string, TileRow>> {
  if (wanted.length === 0) return new Map();
  const { rows } = await sql<TileRow>`
    SELECT t.level, t.tile_index, t.root, CASE WHEN w.whole THEN t.hashes END AS hashes
    FROM unnest(${wanted.map(({ level }) => level)}::smallint[], ${wanted.map(({ first }) => first)}::bigint[],
                ${wanted.map(({ end }) => end)}::bigint[], ${wanted.map(({ whole }) => whole)}::boolean[])
         AS w (level, first, past, whole)
    CROSS JOIN LATERAL (
      SELECT o.level, o.tile_index, o.hashes, o.root FROM ${sql.table('sealog.tile')} AS o
      WHERE o.stream = ${stream.id} AND o.level = w.level AND o.tile_index >= w.first AND o.tile_index < w.past
      ORDER BY o.tile_index LIMIT w.past - w.first
    ) AS t`.execute(database);
  const tiles = new Map<string, TileRow>();
  for (const row of rows) {
    const key = keyOf({ level: row.level, index: row.tile_index });
    // A tile whose root is wanted for one subtree and whose hashes for another comes twice.
    if (tiles.get(key)?.hashes == null) tiles.set(key, row);
  }
  return tiles;
}

function tileOf(tiles: ReadonlyMap<string, TileRow>, stream: TreeStream, level: number, index: number): TileRow {
  const tile = tiles.get(keyOf({ level, index }));
  if (tile === undefined) throw new EvidenceError(`${stream.name} has no tile ${index} of level ${level}`);
  return tile;
}

function rootOf({ root, level, tile_index }: TileRow): Uint8Array {
  if (root.length !== HASH_SIZE)
    throw new EvidenceError(`the root of tile ${tile_index} of level ${level} has ${root.length} bytes`);
  return root;
}

function keyOf({ level, index }: Subtree): string {
  return `${level}/${index}`;
}
