import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { concatBytes, toHex, utf8 } from '../src/chain/bytes.ts';
import {
  appendLeaves,
  checkConsistency,
  checkInclusion,
  consistencyPath,
  frontierNodes,
  frontierRoot,
  type GetNode,
  inclusionPath,
  leafHash,
  nodeHash,
} from '../src/chain/merkle.ts';
import {
  decodeEntryBundle,
  decodeTile,
  edgeTiles,
  encodeEntryBundle,
  entryBundlePath,
  fullTileCount,
  fullTilesBetween,
  hashFromTile,
  parseTilePath,
  partialWidth,
  sliceOf,
  TILE_BYTES,
  TILE_WIDTH,
  tilePath,
  tileRoot,
} from '../src/chain/tile.ts';
import { EvidenceError } from '../src/errors.ts';

const DATA = process.env.SEALOG_TEST_DATA;
const LEAVES = Array.from({ length: 66_000 }, (_, i) => leafHash(utf8(`entry ${i}`)));
const sizes = fc.oneof(
  fc.maxSafeNat(),
  fc.nat(200_000),
  fc.constantFrom(2 ** 31, 2 ** 32 - 1, 2 ** 32 + 1, 2 ** 53 - 1),
);

/** All tiles of a tree of `size`, full and partial, by path. */
function tilesOf(size: number): Map<string, Uint8Array> {
  const tiles = new Map<string, Uint8Array>();
  let hashes = LEAVES.slice(0, size);
  for (let level = 0; hashes.length > 0; level++) {
    const above: Uint8Array[] = [];
    for (let index = 0; index * TILE_WIDTH < hashes.length; index++) {
      const inside = hashes.slice(index * TILE_WIDTH, (index + 1) * TILE_WIDTH);
      tiles.set(tilePath(level, index, inside.length), concatBytes(...inside));
      if (inside.length === TILE_WIDTH) above.push(frontierRoot(TILE_WIDTH, appendLeaves(0, [], inside)));
    }
    hashes = above;
  }
  return tiles;
}

describe('tile paths', () => {
  test.each([
    ['tile/0/000', { kind: 'tile', level: 0, index: 0, width: 256 }],
    ['tile/0/x001/x234/067', { kind: 'tile', level: 0, index: 1_234_067, width: 256 }],
    ['tile/0/000.p/44', { kind: 'tile', level: 0, index: 0, width: 44 }],
    ['tile/63/999.p/255', { kind: 'tile', level: 63, index: 999, width: 255 }],
    ['tile/5/x001/000.p/1', { kind: 'tile', level: 5, index: 1000, width: 1 }],
    ['tile/entries/x004/x294/x967/296', { kind: 'entries', index: 2 ** 32, width: 256 }],
    ['tile/entries/x009/x007/x199/x254/x740/991.p/7', { kind: 'entries', index: 2 ** 53 - 1, width: 7 }],
  ] as const)('%s is written and read', (path, resource) => {
    expect(parseTilePath(path)).toEqual(resource);
    expect(
      resource.kind === 'tile'
        ? tilePath(resource.level, resource.index, resource.width)
        : entryBundlePath(resource.index, resource.width),
    ).toBe(path);
  });

  test('what is written is read back', () => {
    fc.assert(
      fc.property(fc.nat(63), fc.maxSafeNat(), fc.integer({ min: 1, max: 256 }), (level, index, width) => {
        expect(parseTilePath(tilePath(level, index, width))).toEqual({ kind: 'tile', level, index, width });
        expect(parseTilePath(entryBundlePath(index, width))).toEqual({ kind: 'entries', index, width });
      }),
    );
  });

  test.each([
    '',
    'tile',
    'tile/0',
    'tile/0/',
    '/tile/0/000',
    'tile/0/000/',
    ' tile/0/000',
    'tile/0/000\n',
    'tile/0/0',
    'tile/0/0000',
    'tile/0/x000',
    'tile/0/x000/000',
    'tile/0/x000/x001/000',
    'tile/0/001/000',
    'tile/0/x001/x000',
    'tile/0/X001/000',
    'tile/0/-01',
    'tile/0/٠٠٠',
    'tile/00/000',
    'tile/01/000',
    'tile/64/000',
    'tile/100/000',
    'tile/-1/000',
    'tile/+1/000',
    'tile/1.0/000',
    'tile/0/000.p',
    'tile/0/000.p/',
    'tile/0/000.p/0',
    'tile/0/000.p/00',
    'tile/0/000.p/044',
    'tile/0/000.p/256',
    'tile/0/000.p/257',
    'tile/0/000.p/999',
    'tile/0/000.p/-1',
    'tile/0/000.p/44/',
    'tile/0/000.p/44.p/44',
    'tile/0/000.P/44',
    'tile/data/000',
    'tile/Entries/000',
    'tile/entries/0/000',
    'tile/entries/x000/000',
    'tile/entries/000.p/256',
    'tile/0/x009/x007/x199/x254/x740/992',
    'tile/0/x999/x999/x999/x999/x999/999',
    'tile/0/x001/x000/x000/x000/x000/x000/000',
    'tile/8/0/000',
    'entries/000',
    '../tile/0/000',
    'tile/0/%30%30%30',
  ])('refuses %j', (path) => {
    expect(() => parseTilePath(path)).toThrow(EvidenceError);
  });

  test('who writes a path for a tile that can not be made a mistake', () => {
    expect(() => tilePath(-1, 0)).toThrow('level');
    expect(() => tilePath(64, 0)).toThrow('level');
    expect(() => tilePath(0, -1)).toThrow('index');
    expect(() => tilePath(0, 2 ** 53)).toThrow('index');
    expect(() => tilePath(0, 0, 0)).toThrow('width');
    expect(() => entryBundlePath(0, 257)).toThrow('width');
  });
});

describe('which tiles a tree has', () => {
  test('a tree of 70,000 has those of the specification’s example', () => {
    expect(fullTileCount(0, 70_000)).toBe(273);
    expect(fullTileCount(1, 70_000)).toBe(1);
    expect(fullTileCount(2, 70_000)).toBe(0);
    expect(edgeTiles(70_000)).toEqual([
      { level: 0, index: 273, width: 112 },
      { level: 1, index: 1, width: 17 },
      { level: 2, index: 0, width: 1 },
    ]);
  });

  test('small and full trees', () => {
    expect(edgeTiles(0)).toEqual([]);
    expect(edgeTiles(1)).toEqual([{ level: 0, index: 0, width: 1 }]);
    expect(edgeTiles(255)).toEqual([{ level: 0, index: 0, width: 255 }]);
    expect(edgeTiles(256)).toEqual([{ level: 1, index: 0, width: 1 }]);
    expect(edgeTiles(65_536)).toEqual([{ level: 2, index: 0, width: 1 }]);
    expect(edgeTiles(2 ** 53 - 1).at(-1)).toEqual({ level: 6, index: 0, width: 31 });
  });

  test('widths and counts are those of exact whole-number arithmetic, for any size', () => {
    fc.assert(
      fc.property(sizes, fc.nat(63), (size, level) => {
        const hashes = BigInt(size) / 256n ** BigInt(level);
        expect(partialWidth(level, size)).toBe(Number(hashes % 256n));
        expect(fullTileCount(level, size)).toBe(Number(hashes / 256n));
      }),
    );
  });

  test('tiles that become full come lowest level first, each once, and none twice when growth goes in steps', () => {
    expect(fullTilesBetween(0, 255)).toEqual([]);
    expect(fullTilesBetween(255, 256)).toEqual([{ level: 0, index: 0 }]);
    expect(fullTilesBetween(256, 511)).toEqual([]);
    expect(fullTilesBetween(65_535, 65_536)).toEqual([
      { level: 0, index: 255 },
      { level: 1, index: 0 },
    ]);
    expect(fullTilesBetween(2 ** 32 - 1, 2 ** 32).map(({ level }) => level)).toEqual([0, 1, 2, 3]);
    expect(fullTilesBetween(2 ** 48 - 1, 2 ** 48)).toHaveLength(6);
    expect(fullTilesBetween(2 ** 53 - 2, 2 ** 53 - 1)).toEqual([]);
    expect(() => fullTilesBetween(2, 1)).toThrow('shrink');
    expect(() => fullTilesBetween(0, 2 ** 53)).toThrow('2^53');
    const key = ({ level, index }: { level: number; index: number }) => `${level}/${index}`;
    fc.assert(
      fc.property(sizes, fc.nat(3000), fc.nat(3000), (base, a, b) => {
        const start = Math.min(base, Number.MAX_SAFE_INTEGER - 6000);
        const steps = [...fullTilesBetween(start, start + a), ...fullTilesBetween(start + a, start + a + b)];
        const once = fullTilesBetween(start, start + a + b);
        expect(new Set(steps.map(key))).toEqual(new Set(once.map(key)));
        expect(steps).toHaveLength(once.length);
        expect(once.map(({ level }) => level)).toEqual(once.map(({ level }) => level).sort((x, y) => x - y));
        for (const { level, index } of once) {
          const end = BigInt(index + 1) * 256n ** BigInt(level + 1);
          expect(end > BigInt(start) && end <= BigInt(start + a + b)).toBe(true);
        }
      }),
    );
  });
});

describe('hashes in tiles', () => {
  test('the root of a tile is the root of its hashes, and a tile that is not full has none', () => {
    const tile = concatBytes(...LEAVES.slice(0, TILE_WIDTH));
    expect(tile).toHaveLength(TILE_BYTES);
    expect(toHex(tileRoot(tile))).toBe(
      toHex(frontierRoot(TILE_WIDTH, appendLeaves(0, [], LEAVES.slice(0, TILE_WIDTH)))),
    );
    const swapped = concatBytes(LEAVES[1]!, LEAVES[0]!, ...LEAVES.slice(2, TILE_WIDTH));
    expect(toHex(tileRoot(swapped))).not.toBe(toHex(tileRoot(tile)));
    for (const damaged of [
      tile.subarray(32),
      tile.subarray(0, -1),
      concatBytes(tile, Buffer.alloc(32)),
      Buffer.alloc(0),
    ]) {
      expect(() => tileRoot(damaged)).toThrow(EvidenceError);
    }
  });

  test('every flipped bit of a tile changes its root', () => {
    const tile = new Uint8Array(concatBytes(...LEAVES.slice(0, TILE_WIDTH)));
    const root = toHex(tileRoot(tile));
    for (let byte = 0; byte < TILE_BYTES; byte += 31) {
      tile[byte]! ^= 1 << (byte % 8);
      expect(toHex(tileRoot(tile)), `byte ${byte}`).not.toBe(root);
      tile[byte]! ^= 1 << (byte % 8);
    }
    expect(toHex(tileRoot(tile))).toBe(root);
  });

  test('decodeTile takes exactly the width that it was told', () => {
    const tile = concatBytes(...LEAVES.slice(0, 3));
    expect(decodeTile(tile, 3).map(toHex)).toEqual(LEAVES.slice(0, 3).map(toHex));
    for (const [bytes, width] of [
      [tile, 2],
      [tile, 4],
      [tile.subarray(1), 3],
      [tile, 256],
    ] as const) {
      expect(() => decodeTile(bytes, width)).toThrow(EvidenceError);
    }
  });

  test('roots and proofs follow from tiles alone', () => {
    for (const size of [1, 255, 256, 257, 511, 512, 700, 65_535, 65_536, 65_537, 65_900]) {
      const tiles = tilesOf(size);
      const getNode: GetNode = (level, index) => {
        const slice = sliceOf({ level, index });
        const full = slice.index < fullTileCount(slice.level, size);
        const tile = tiles.get(tilePath(slice.level, slice.index, full ? TILE_WIDTH : partialWidth(slice.level, size)));
        return hashFromTile(tile!, slice);
      };
      const root = frontierRoot(
        size,
        frontierNodes(size).map(({ level, index }) => getNode(level, index)),
      );
      expect(toHex(root)).toBe(toHex(frontierRoot(size, appendLeaves(0, [], LEAVES.slice(0, size)))));
      for (const seq of [0, 1, 254, 255, 256, 300, 65_535, size - 2, size - 1]) {
        if (seq < 0 || seq >= size) continue;
        checkInclusion(seq, size, LEAVES[seq]!, inclusionPath(seq, size, getNode), root);
      }
      for (const from of [1, 3, 255, 256, 257, 65_536, size - 1]) {
        if (from < 1 || from > size) continue;
        const old = frontierRoot(from, appendLeaves(0, [], LEAVES.slice(0, from)));
        checkConsistency(from, size, old, root, consistencyPath(from, size, getNode));
      }
    }
  });

  test('a perfect subtree lies in one tile, at any place', () => {
    expect(sliceOf({ level: 0, index: 300 })).toEqual({ level: 0, index: 1, offset: 44, count: 1 });
    expect(sliceOf({ level: 7, index: 3 })).toEqual({ level: 0, index: 1, offset: 128, count: 128 });
    expect(sliceOf({ level: 8, index: 3 })).toEqual({ level: 1, index: 0, offset: 3, count: 1 });
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.nat(52), (seq, level) => {
        const slice = sliceOf({ level, index: Math.floor(seq / 2 ** level) });
        const start = (BigInt(slice.index) * 256n + BigInt(slice.offset)) * 256n ** BigInt(slice.level);
        expect(start).toBe((BigInt(seq) >> BigInt(level)) << BigInt(level));
        expect(BigInt(slice.count) * 256n ** BigInt(slice.level)).toBe(1n << BigInt(level));
        expect(slice.offset + slice.count).toBeLessThanOrEqual(TILE_WIDTH);
      }),
    );
  });

  test('a partial tile lacks what it does not hold', () => {
    const tile = concatBytes(...LEAVES.slice(0, 6));
    const slice = (level: number, index: number) => sliceOf({ level, index });
    expect(toHex(hashFromTile(tile, slice(0, 5)))).toBe(toHex(LEAVES[5]!));
    expect(toHex(hashFromTile(tile, slice(1, 2)))).toBe(toHex(nodeHash(LEAVES[4]!, LEAVES[5]!)));
    expect(() => hashFromTile(tile, slice(0, 6))).toThrow(EvidenceError);
    expect(() => hashFromTile(tile, slice(2, 1))).toThrow(EvidenceError);
    expect(() => hashFromTile(tile.subarray(1), slice(0, 0))).toThrow(EvidenceError);
  });
});

describe('entry bundles', () => {
  test('the bytes are a big-endian u16 and the entry, again and again', () => {
    expect(toHex(encodeEntryBundle([utf8('ab'), utf8(''), utf8('c')]))).toBe('000261620000000163');
    expect(encodeEntryBundle([])).toHaveLength(0);
    const long = new Uint8Array(65_535).fill(7);
    expect(toHex(encodeEntryBundle([long]).subarray(0, 3))).toBe('ffff07');
    expect(toHex(decodeEntryBundle(encodeEntryBundle([long]), 1)[0]!)).toBe(toHex(long));
    expect(() => encodeEntryBundle([new Uint8Array(65_536)])).toThrow('65,535');
  });

  const records = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 40 });

  test('there and back', () => {
    fc.assert(
      fc.property(records, (entries) => {
        const bundle = new Uint8Array(encodeEntryBundle(entries));
        expect(decodeEntryBundle(bundle, entries.length).map(toHex)).toEqual(entries.map(toHex));
        expect(decodeEntryBundle(bundle).map(toHex)).toEqual(entries.map(toHex));
      }),
    );
  });

  test('a bundle that is cut anywhere, goes on, or holds another number is refused', () => {
    fc.assert(
      fc.property(records, fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 5 }), (entries, random, more) => {
        const bundle = encodeEntryBundle(entries);
        if (bundle.length > 0) {
          expect(() => decodeEntryBundle(bundle.subarray(0, random % bundle.length), entries.length)).toThrow(
            EvidenceError,
          );
        }
        expect(() => decodeEntryBundle(concatBytes(bundle, more), entries.length)).toThrow(EvidenceError);
        expect(() => decodeEntryBundle(bundle, entries.length + 1)).toThrow(EvidenceError);
      }),
    );
    expect(() => decodeEntryBundle(encodeEntryBundle([utf8('a'), utf8('b')]), 1)).toThrow(EvidenceError);
    for (const cut of ['00', '0001', '000261', '00016100', 'ffff']) {
      expect(() => decodeEntryBundle(Buffer.from(cut, 'hex')), cut).toThrow(EvidenceError);
    }
  });

  test('whatever bytes are decoded encode to the same bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 20 }), (bytes) => {
        try {
          expect(toHex(encodeEntryBundle(decodeEntryBundle(bytes)))).toBe(toHex(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(EvidenceError);
        }
      }),
      { numRuns: 500 },
    );
  });
});

interface PathVectors {
  c2sp_path_examples: { level: number; index: number; width?: number; path: string }[];
  size_70000: Record<string, number>;
  size_256: Record<string, number>;
  go_sumdb_paths: { path: string; H: number; L: number; N: number; W: number }[];
  go_sumdb_paths_invalid: string[];
}

describe.skipIf(DATA === undefined)('shared vectors (SEALOG_TEST_DATA)', () => {
  test('tile-paths.json', () => {
    const vectors = JSON.parse(readFileSync(join(DATA!, 'vectors/tiles/tile-paths.json'), 'utf8')) as PathVectors;
    for (const { level, index, width = TILE_WIDTH, path } of vectors.c2sp_path_examples) {
      expect(tilePath(level, index, width)).toBe(path);
      expect(parseTilePath(path)).toEqual({ kind: 'tile', level, index, width });
    }
    for (const [size, facts] of [
      [70_000, vectors.size_70000],
      [256, vectors.size_256],
    ] as const) {
      for (const [name, value] of Object.entries(facts)) {
        const [, level, what] = /^level(\d)_(full|partial_width)$/.exec(name)!;
        expect(what === 'full' ? fullTileCount(Number(level), size) : partialWidth(Number(level), size), name).toBe(
          value,
        );
      }
    }
    // Go's older paths carry the tile's height before the level; without it, and with our height, they are the same.
    for (const { path, H, L, N, W } of vectors.go_sumdb_paths) {
      if (L < 0) continue;
      const width = W === 2 ** H ? TILE_WIDTH : W;
      expect(tilePath(L, N, width)).toBe(path.replace(`tile/${H}/`, 'tile/'));
    }
    for (const path of vectors.go_sumdb_paths_invalid) {
      expect(() => parseTilePath(path)).toThrow(EvidenceError);
      expect(() => parseTilePath(path.replace('tile/3/', 'tile/'))).toThrow(EvidenceError);
    }
  });
});
