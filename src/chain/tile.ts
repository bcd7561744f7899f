/**
 * Tiles (C2SP tlog-tiles, height 8): the Merkle tree as files that never change once they are full.
 *
 * The tile `index` of `level` holds the tree's hashes at height 8·level from `index * 256` on, 256 of them, 8,192
 * bytes. At level 0 these are leaf hashes; above, each is the root of a full tile of the level below. So a full tile
 * spans 256^(level+1) entries, and the tree's inner levels follow by hashing. The last tile of a level may be partial:
 * its width is what the size leaves over, it never counts for the level above, and empty tiles do not exist.
 *
 * An entry bundle is the records whose leaf hashes stand in the tile of level 0 with the same index. The bundle's
 * encoding also serves our blocks, which hold another number of records.
 */

import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';
import { perfectRoot, type Subtree } from './merkle.ts';
import { HASH_SIZE } from './sha256.ts';

/** The height of a tile: how many levels of the tree it spans. */
export const TILE_HEIGHT = 8;
/** The hashes in a full tile, and the entries in a full bundle. */
export const TILE_WIDTH = 2 ** TILE_HEIGHT;
/** The bytes of a full tile. */
export const TILE_BYTES = TILE_WIDTH * HASH_SIZE;
/** The longest entry of a bundle: its length is a u16. */
export const ENTRY_BYTES_MAX = 0xffff;

/** Levels that C2SP gives names to. A tree of 2^53−1 entries fills none above 5 and has a partial one at 6. */
const LEVEL_MAX = 63;

/** A full tile's place. */
export interface TilePlace {
  readonly level: number;
  readonly index: number;
}

/** The last tile of a level in a tree of some size, where that is partial: 1 to 255 hashes. */
export interface EdgeTile extends TilePlace {
  readonly width: number;
}

/** What a path names: a tile or a bundle of `width` hashes or entries, 256 when full. */
export type TileResource =
  | { readonly kind: 'tile'; readonly level: number; readonly index: number; readonly width: number }
  | { readonly kind: 'entries'; readonly index: number; readonly width: number };

/** Where the hash of a perfect subtree is found: it is the root of `count` hashes of a tile, from `offset` on. */
export interface TileSlice extends TilePlace {
  readonly offset: number;
  readonly count: number;
}

// ---- Paths ----

/** Returns the path of a tile, such as `tile/0/x001/x234/067`, or `tile/0/000.p/44` where it is partial. */
export function tilePath(level: number, index: number, width: number = TILE_WIDTH): string {
  assert(Number.isSafeInteger(level) && level >= 0 && level <= LEVEL_MAX, 'no such tile level');
  return `tile/${level}/${indexPath(index)}${widthSuffix(width)}`;
}

/** Returns the path of an entry bundle, such as `tile/entries/x001/x234/067`. */
export function entryBundlePath(index: number, width: number = TILE_WIDTH): string {
  return `tile/entries/${indexPath(index)}${widthSuffix(width)}`;
}

/**
 * Reads a path as `tilePath` and `entryBundlePath` write it: each tile has one path, so that caches and write-once
 * folders hold it once. Throws an EvidenceError.
 */
export function parseTilePath(path: string): TileResource {
  const match = /^tile\/(entries|\d{1,2})\/((?:x\d{3}\/){0,5}\d{3})(?:\.p\/(\d{1,3}))?$/.exec(path);
  if (match !== null) {
    const [, kind, digits, partial] = match;
    const index = Number(digits!.replaceAll(/[x/]/g, ''));
    const width = partial === undefined ? TILE_WIDTH : Number(partial);
    const level = Number(kind);
    const inBounds =
      Number.isSafeInteger(index) && width >= 1 && width <= TILE_WIDTH && (kind === 'entries' || level <= LEVEL_MAX);
    // Writing it again shows zeros that lead nowhere, and a full tile that calls itself partial.
    if (inBounds && kind === 'entries' && entryBundlePath(index, width) === path) {
      return { kind, index, width };
    }
    if (inBounds && kind !== 'entries' && tilePath(level, index, width) === path) {
      return { kind: 'tile', level, index, width };
    }
  }
  throw new EvidenceError('not the path of a tile');
}

function indexPath(index: number): string {
  assert(Number.isSafeInteger(index) && index >= 0, 'no such tile index');
  const groups = [];
  let rest = index;
  do {
    groups.unshift(String(rest % 1000).padStart(3, '0'));
    rest = Math.floor(rest / 1000);
  } while (rest > 0);
  return groups.map((group, i) => (i < groups.length - 1 ? `x${group}` : group)).join('/');
}

function widthSuffix(width: number): string {
  assert(Number.isInteger(width) && width >= 1 && width <= TILE_WIDTH, 'no such tile width');
  return width === TILE_WIDTH ? '' : `.p/${width}`;
}

// ---- Which tiles a tree has ----

/** Returns how many full tiles of a level a tree of `size` has. */
export function fullTileCount(level: number, size: number): number {
  return Math.floor(hashCount(level, size) / TILE_WIDTH);
}

/**
 * Returns the width of a level's partial tile in a tree of `size`, 0 where there is none: floor(size / 256^level) mod
 * 256.
 */
export function partialWidth(level: number, size: number): number {
  return hashCount(level, size) % TILE_WIDTH;
}

/** Returns the partial tiles of a tree of `size`, lowest level first. */
export function edgeTiles(size: number): EdgeTile[] {
  const edge: EdgeTile[] = [];
  for (let level = 0; hashCount(level, size) > 0; level++) {
    const width = partialWidth(level, size);
    if (width > 0) {
      edge.push({ level, index: fullTileCount(level, size), width });
    }
  }
  return edge;
}

/**
 * Returns the tiles that become full when a tree grows: by level, lowest first, then by index, so each after what it is
 * made of.
 */
export function fullTilesBetween(oldSize: number, newSize: number): TilePlace[] {
  assert(oldSize <= newSize, 'a tree does not shrink');
  const tiles: TilePlace[] = [];
  for (let level = 0; fullTileCount(level, newSize) > 0; level++) {
    for (let index = fullTileCount(level, oldSize); index < fullTileCount(level, newSize); index++) {
      tiles.push({ level, index });
    }
  }
  return tiles;
}

/** How many hashes a level has in a tree of `size`. */
function hashCount(level: number, size: number): number {
  assert(Number.isSafeInteger(size) && size >= 0, 'a size is a whole number up to 2^53−1');
  assert(Number.isSafeInteger(level) && level >= 0 && level <= LEVEL_MAX, 'no such tile level');
  return Math.floor(size / TILE_WIDTH ** level);
}

// ---- Hashes in tiles ----

/** Returns the hashes of a tile of `width`. Throws an EvidenceError where it has another length. */
export function decodeTile(tile: Uint8Array, width: number = TILE_WIDTH): Uint8Array[] {
  if (tile.length !== width * HASH_SIZE) {
    throw new EvidenceError(`a tile of width ${width} has ${width * HASH_SIZE} bytes, not ${tile.length}`);
  }
  return Array.from({ length: width }, (_, i) => tile.subarray(i * HASH_SIZE, (i + 1) * HASH_SIZE));
}

/** Returns the root of a full tile: one hash of the tile above. Throws an EvidenceError where the tile is not full. */
export function tileRoot(tile: Uint8Array): Uint8Array {
  return perfectRoot(decodeTile(tile));
}

/** Returns where the hash of a perfect subtree is found, for `inclusionPath` and `consistencyPath` over tiles. */
export function sliceOf({ level, index }: Subtree): TileSlice {
  const height = level % TILE_HEIGHT;
  const count = 2 ** height;
  const first = index * count;
  return {
    level: (level - height) / TILE_HEIGHT,
    index: Math.floor(first / TILE_WIDTH),
    offset: first % TILE_WIDTH,
    count,
  };
}

/**
 * Returns the hash of the perfect subtree that `slice` names, from its tile, full or partial. Throws an EvidenceError.
 */
export function hashFromTile(tile: Uint8Array, { offset, count }: TileSlice): Uint8Array {
  const width = Math.floor(tile.length / HASH_SIZE);
  if (tile.length !== width * HASH_SIZE || offset + count > width) {
    throw new EvidenceError(`a tile of ${tile.length} bytes lacks hash ${offset + count - 1}`);
  }
  return perfectRoot(decodeTile(tile.subarray(offset * HASH_SIZE, (offset + count) * HASH_SIZE), count));
}

// ---- Entry bundles ----

/** Returns records one after the other, each behind its length as u16 big-endian. */
export function encodeEntryBundle(records: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(records.reduce((sum, record) => sum + 2 + record.length, 0));
  let at = 0;
  for (const record of records) {
    assert(record.length <= ENTRY_BYTES_MAX, 'a record has at most 65,535 bytes');
    bytes[at] = record.length >>> 8;
    bytes[at + 1] = record.length & 0xff;
    bytes.set(record, at + 2);
    at += 2 + record.length;
  }
  return bytes;
}

/**
 * Returns the records of a bundle, as views of its bytes. Throws an EvidenceError where the last one is cut, or where
 * they are not `width` many; a bundle does not tell how many it holds, so who knows it MUST say it.
 */
export function decodeEntryBundle(bytes: Uint8Array, width?: number): Uint8Array[] {
  const records: Uint8Array[] = [];
  let at = 0;
  while (at < bytes.length) {
    const start = at + 2;
    const end = start + (bytes[at]! << 8) + (bytes[at + 1] ?? 0);
    if (end > bytes.length) {
      throw new EvidenceError(`entry ${records.length} of the bundle is cut`);
    }
    records.push(bytes.subarray(start, end));
    at = end;
  }
  if (width !== undefined && records.length !== width) {
    throw new EvidenceError(`a bundle of width ${width} holds ${records.length} entries`);
  }
  return records;
}
