/**
 * The tree against a naive one: RFC 6962 section 2.1 written down as it stands there, recursive, over plain arrays, with the
 * reference's hash. Then trees too large to have, in which all leaves but a few are equal.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sha256 as reference } from '@noble/hashes/sha2.js';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fromHex, toHex, utf8 } from '../src/chain/bytes.ts';
import {
  appendLeaf,
  appendLeaves,
  checkConsistency,
  checkInclusion,
  consistencyNodes,
  consistencyPath,
  decodeFrontier,
  EMPTY_ROOT,
  encodeFrontier,
  type Frontier,
  frontierNodes,
  frontierRoot,
  type GetNode,
  inclusionNodes,
  inclusionPath,
  leafHash,
  nodeHash,
  perfectRoot,
  popCount,
  rootFromInclusion,
} from '../src/chain/merkle.ts';
import { EvidenceError } from '../src/errors.ts';

const DATA = process.env.SEALOG_TEST_DATA;
const SIZE_MAX = Number.MAX_SAFE_INTEGER;

// ---- The naive tree ----

const hashOf = (...parts: Uint8Array[]): Uint8Array => reference(new Uint8Array(Buffer.concat(parts)));
const naiveLeaf = (record: Uint8Array) => hashOf(Uint8Array.of(0), record);
const naiveNode = (left: Uint8Array, right: Uint8Array) => hashOf(Uint8Array.of(1), left, right);

/** The largest power of two smaller than n. */
function k(n: number): number {
  let power = 1;
  while (power * 2 < n) power *= 2;
  return power;
}

function MTH(d: Uint8Array[]): Uint8Array {
  if (d.length === 0) return hashOf();
  if (d.length === 1) return d[0]!;
  return naiveNode(MTH(d.slice(0, k(d.length))), MTH(d.slice(k(d.length))));
}

function PATH(m: number, d: Uint8Array[]): Uint8Array[] {
  if (d.length === 1) return [];
  const middle = k(d.length);
  return m < middle
    ? [...PATH(m, d.slice(0, middle)), MTH(d.slice(middle))]
    : [...PATH(m - middle, d.slice(middle)), MTH(d.slice(0, middle))];
}

function SUBPROOF(m: number, d: Uint8Array[], whole: boolean): Uint8Array[] {
  if (m === d.length) return whole ? [] : [MTH(d)];
  const middle = k(d.length);
  return m <= middle
    ? [...SUBPROOF(m, d.slice(0, middle), whole), MTH(d.slice(middle))]
    : [...SUBPROOF(m - middle, d.slice(middle), false), MTH(d.slice(0, middle))];
}

const PROOF = (m: number, d: Uint8Array[]) => SUBPROOF(m, d, true);

/** Leaf hashes of n different records. */
const LEAVES = Array.from({ length: 1024 }, (_, i) => naiveLeaf(utf8(`entry ${i}`)));
const ROOTS = Array.from({ length: 301 }, (_, size) => MTH(LEAVES.slice(0, size)));

const nodesOf =
  (leaves: Uint8Array[]): GetNode =>
  (level, index) => {
    const inside = leaves.slice(index * 2 ** level, (index + 1) * 2 ** level);
    expect(inside, `node ${level}/${index} is not perfect`).toHaveLength(2 ** level);
    return MTH(inside);
  };

// ---- A tree too large to have ----

/** All leaves are the hash of "x" but those at `special`, which are the hashes of their seq. */
function sparseTree(special: number[]) {
  const equal = [naiveLeaf(utf8('x'))];
  for (let level = 0; level < 53; level++) equal.push(naiveNode(equal[level]!, equal[level]!));
  const leaf = (seq: number) => (special.includes(seq) ? naiveLeaf(utf8(String(seq))) : equal[0]!);
  const getNode: GetNode = (level, index) => {
    const width = 2 ** level;
    if (!special.some((seq) => Math.floor(seq / width) === index)) return equal[level]!;
    if (level === 0) return leaf(index);
    return naiveNode(getNode(level - 1, 2 * index), getNode(level - 1, 2 * index + 1));
  };
  // With BigInt, so that no mistake with large numbers can be made twice in the same way.
  const root = (size: number): Uint8Array => {
    let [begin, hash] = [0n, undefined as Uint8Array | undefined];
    const parts: Uint8Array[] = [];
    for (let level = 53n; level >= 0n; level--) {
      if ((BigInt(size) >> level) & 1n) {
        parts.push(getNode(Number(level), Number(begin >> level)));
        begin += 1n << level;
      }
    }
    for (const part of parts.reverse()) hash = hash === undefined ? part : naiveNode(part, hash);
    return hash ?? hashOf();
  };
  return { leaf, getNode, root };
}

/** Sizes where one bit more matters, and where 32-bit arithmetic would fail. */
const LARGE = [
  2 ** 31 - 1,
  2 ** 31,
  2 ** 31 + 1,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 32 + 1,
  2 ** 32 + 2 ** 31 + 3,
  2 ** 40 + 12_345,
  2 ** 52 - 1,
  2 ** 52,
  2 ** 52 + 1,
  2 ** 53 - 2,
  2 ** 53 - 1,
];

// ---- Damage ----

const flip = (bytes: Uint8Array, bit: number): Uint8Array => {
  const copy = new Uint8Array(bytes);
  copy[bit >> 3]! ^= 1 << (bit & 7);
  return copy;
};

/** The damaged sisters of a path that its form or its hashes must show: [name, path]. */
function damagedPaths(path: Uint8Array[]): [string, Uint8Array[]][] {
  const strange = naiveLeaf(utf8('strange'));
  const sisters: [string, Uint8Array[]][] = [
    ['one more at the end', [...path, strange]],
    ['one more at the start', [strange, ...path]],
    ['the last one twice', [...path, path.at(-1) ?? strange]],
    ['an empty hash more', [...path, new Uint8Array(0)]],
  ];
  if (path.length > 0) {
    sisters.push(['without the last', path.slice(0, -1)], ['without the first', path.slice(1)], ['empty', []]);
    sisters.push(['a hash cut', [...path.slice(0, -1), path.at(-1)!.subarray(0, 31)]]);
    sisters.push(['a hash with trailing bytes', [Buffer.concat([path[0]!, Buffer.alloc(1)]), ...path.slice(1)]]);
  }
  for (let i = 0; i + 1 < path.length; i++) {
    const swapped = [...path];
    [swapped[i], swapped[i + 1]] = [path[i + 1]!, path[i]!];
    sisters.push([`hashes ${i} and ${i + 1} swapped`, swapped]);
  }
  return sisters;
}

const refuses = (check: () => unknown, name = '') => expect(check, name).toThrow(EvidenceError);

// ---- Tests ----

describe('hashes', () => {
  test('leaf and node hashes are those of RFC 6962', () => {
    expect(toHex(EMPTY_ROOT)).toBe('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 700 }), (record) => {
        expect(toHex(leafHash(record))).toBe(toHex(naiveLeaf(record)));
      }),
    );
    expect(toHex(nodeHash(LEAVES[0]!, LEAVES[1]!))).toBe(toHex(naiveNode(LEAVES[0]!, LEAVES[1]!)));
    expect(toHex(leafHash(new Uint8Array(65_535)))).toBe(toHex(naiveLeaf(new Uint8Array(65_535))));
  });

  test('a node joins two hashes and nothing else', () => {
    expect(() => nodeHash(LEAVES[0]!, LEAVES[1]!.subarray(1))).toThrow('two hashes');
    expect(() => nodeHash(new Uint8Array(33), new Uint8Array(31))).toThrow('two hashes');
  });

  test('a perfect subtree has a power of two of leaves', () => {
    for (const count of [1, 2, 4, 256]) {
      expect(toHex(perfectRoot(LEAVES.slice(0, count)))).toBe(toHex(MTH(LEAVES.slice(0, count))));
    }
    for (const count of [0, 3, 255]) {
      expect(() => perfectRoot(LEAVES.slice(0, count))).toThrow('power of two');
    }
  });
});

describe('a growing tree', () => {
  // Computed by another program in another language: leaf i is the text "entry <i>".
  test.each([
    [1, '773885a613489e24ce2cf76199d6a423f042e4bbf12d7eecee912ef276c65701'],
    [2, '5a47662fd8a317d96049a3f9f47c55dc67ca66051baa3683dbb19b2fe09a07b0'],
    [3, '94fbd0dd836f50301692e6d0eade728ee19ec52bfff1606ed807c8575d5aaa19'],
    [7, '98c97f0ba3175cd08b031dd084b9dc4e649b64d1a28e6ea694646503173ab587'],
    [8, 'b69732ce5c914162ca9accfaf4e95d3f9874d68805437088aaff184a4db96773'],
    [255, 'cf66793e6329dff242eb3cee0a6f36ad3e3a196dcc573a1ec775e102be863f1c'],
    [256, 'da6596d95369f5fef322ab8e4e0da3b0b50236aa9c8a3b1d246f7411c9e2e32e'],
    [257, '5c1fdfe835358022f2392de478dbe053fc130cfe1d3a082879a90cf6bf14bf7e'],
    [1000, '346c6b9cb89c4b76fac9dcb20cda86e3a01c0a57417c139028eacd4538fde95b'],
  ])('has the root that another program gives it at size %i', (size, root) => {
    expect(toHex(frontierRoot(size, appendLeaves(0, [], LEAVES.slice(0, size))))).toBe(root);
  });

  test('leaf by leaf: the naive root at every size, and a frontier of one hash for each one bit', () => {
    let frontier: Frontier = [];
    for (let size = 0; size <= 300; size++) {
      expect(frontier).toHaveLength(popCount(size));
      expect(toHex(frontierRoot(size, frontier))).toBe(toHex(ROOTS[size]!));
      expect(frontier.map(toHex)).toEqual(
        frontierNodes(size).map(({ level, index }) => toHex(nodesOf(LEAVES)(level, index))),
      );
      frontier = appendLeaf(size, frontier, LEAVES[size]!);
    }
  });

  test('in any batches, stored and read between them: always the same tree', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(90), { maxLength: 12 }), (batches) => {
        let [size, frontier] = [0, [] as Frontier];
        for (const count of batches) {
          frontier = appendLeaves(size, frontier, LEAVES.slice(size, Math.min(size + count, LEAVES.length)));
          size = Math.min(size + count, LEAVES.length);
          frontier = decodeFrontier(size, new Uint8Array(encodeFrontier(frontier)));
        }
        expect(toHex(frontierRoot(size, frontier))).toBe(toHex(MTH(LEAVES.slice(0, size))));
      }),
      { numRuns: 60 },
    );
  });

  test('leaves the frontier that it was given as it was', () => {
    const frontier = appendLeaves(0, [], LEAVES.slice(0, 7));
    const before = toHex(encodeFrontier(frontier));
    appendLeaves(7, frontier, LEAVES.slice(7, 20));
    expect(toHex(encodeFrontier(frontier))).toBe(before);
  });

  // Computed by another program: every leaf is the text "x".
  test.each([
    [2 ** 31 - 1, '3174e7ba8da2b767ed1554b9f07ae0d7e4c75e30d38fa0f81951246eca1c7fd9'],
    [2 ** 31, 'e334d734a7b44d70de7bd5f2248a6485a8faf9d834efdc08adaa86207d9d3ea9'],
    [2 ** 31 + 1, '133a467fcc9615bb2830a76e4107ee4efc03870b8c50d882b477c9ac341225b4'],
    [2 ** 32 - 1, 'ad03246d155c1ca17b355975bdf0eb715c2e1af585a2d05277c7f246e59e97ca'],
    [2 ** 32, 'd3912cee706ee576a87363434ad5a190365537388b4d4708bd4e0e8a5dedd461'],
    [2 ** 32 + 1, '3ba579b43f1b233612c27e35923f3a82231c44389271c7890d7c6365ec59acf2'],
    [2 ** 53 - 1, '64283961fb13bf3d559c0842c595bf7bf8844b4f8153dee7170b27362f418b65'],
  ])('works at size %i', (size, root) => {
    const { getNode, leaf } = sparseTree([]);
    const frontier = frontierNodes(size).map(({ level, index }) => getNode(level, index));
    expect(frontier).toHaveLength(popCount(size));
    expect(toHex(frontierRoot(size, frontier))).toBe(root);
    const before = frontierNodes(size - 1).map(({ level, index }) => getNode(level, index));
    expect(appendLeaf(size - 1, before, leaf(0)).map(toHex)).toEqual(frontier.map(toHex));
  });

  test('stops at 2^53−1', () => {
    const { getNode, leaf } = sparseTree([]);
    const frontier = frontierNodes(SIZE_MAX).map(({ level, index }) => getNode(level, index));
    expect(() => appendLeaf(SIZE_MAX, frontier, leaf(0))).toThrow('2^53');
    for (const size of [-1, 0.5, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => frontierRoot(size, [])).toThrow('2^53');
      expect(() => frontierNodes(size)).toThrow('2^53');
    }
  });

  test('takes no frontier of another size, and no leaf that is no hash', () => {
    const frontier = appendLeaves(0, [], LEAVES.slice(0, 7));
    expect(() => frontierRoot(8, frontier)).toThrow('frontier');
    expect(() => appendLeaf(6, frontier, LEAVES[7]!)).toThrow('frontier');
    expect(() => appendLeaf(7, frontier, LEAVES[7]!.subarray(1))).toThrow('32 bytes');
  });

  test('refuses stored frontiers that are cut or too long', () => {
    const bytes = encodeFrontier(appendLeaves(0, [], LEAVES.slice(0, 7)));
    expect(decodeFrontier(7, bytes)).toHaveLength(3);
    expect(decodeFrontier(0, new Uint8Array(0))).toHaveLength(0);
    for (const [size, stored] of [
      [7, bytes.subarray(1)],
      [7, bytes.subarray(0, 95)],
      [7, Buffer.concat([bytes, Buffer.alloc(1)])],
      [7, Buffer.concat([bytes, Buffer.alloc(32)])],
      [8, bytes],
      [0, bytes],
      [1, new Uint8Array(0)],
    ] as const) {
      refuses(() => decodeFrontier(size, stored));
    }
  });
});

describe('inclusion', () => {
  test('every entry of every size up to 70: the naive path, accepted, and asking only for the nodes it named', () => {
    for (let size = 1; size <= 70; size++) {
      for (let seq = 0; seq < size; seq++) {
        const path = inclusionPath(seq, size, nodesOf(LEAVES.slice(0, size)));
        expect(path.map(toHex)).toEqual(PATH(seq, LEAVES.slice(0, size)).map(toHex));
        checkInclusion(seq, size, LEAVES[seq]!, path, ROOTS[size]!);
        const asked: string[] = [];
        inclusionPath(seq, size, (level, index) => {
          asked.push(`${level}/${index}`);
          return LEAVES[0]!;
        });
        expect(inclusionNodes(seq, size).map(({ level, index }) => `${level}/${index}`)).toEqual(asked);
      }
    }
  });

  test('random entries of larger trees: the naive path, and no damaged sister of it', () => {
    const places = fc.integer({ min: 1, max: 300 }).chain((size) => fc.tuple(fc.nat(size - 1), fc.constant(size)));
    fc.assert(
      fc.property(places, fc.nat(), (place, random) => {
        const [seq, size] = place;
        const [leaf, root] = [LEAVES[seq]!, ROOTS[size]!];
        const path = inclusionPath(seq, size, nodesOf(LEAVES.slice(0, size)));
        expect(path.map(toHex)).toEqual(PATH(seq, LEAVES.slice(0, size)).map(toHex));
        checkInclusion(seq, size, leaf, path, root);
        for (const [name, damaged] of damagedPaths(path)) {
          refuses(() => checkInclusion(seq, size, leaf, damaged, root), name);
        }
        const other = random % ROOTS.length;
        if (other !== size) {
          refuses(() => checkInclusion(seq, other, leaf, path, ROOTS[other]!), `size ${other}`);
          refuses(() => checkInclusion(seq, size, leaf, path, ROOTS[other]!), `root of size ${other}`);
        }
        const neighbour = random % size;
        if (neighbour !== seq) {
          refuses(() => checkInclusion(neighbour, size, leaf, path, root), `seq ${neighbour}`);
          refuses(() => checkInclusion(seq, size, LEAVES[neighbour]!, path, root), `leaf ${neighbour}`);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('every flipped bit of leaf, path and root is refused', () => {
    for (const [seq, size] of [
      [0, 1],
      [4, 7],
      [6, 7],
      [5, 8],
    ] as const) {
      const path = PATH(seq, LEAVES.slice(0, size));
      const parts = [LEAVES[seq]!, ROOTS[size]!, ...path];
      for (const part of parts.keys()) {
        for (let bit = 0; bit < 256; bit++) {
          const [leaf, root, ...hashes] = parts.map((bytes, i) => (i === part ? flip(bytes, bit) : bytes));
          refuses(() => checkInclusion(seq, size, leaf!, hashes, root!), `part ${part} bit ${bit}`);
        }
      }
    }
  });

  test('a path that goes on beyond the root is not followed', () => {
    const endless = new Array<Uint8Array>(1000).fill(LEAVES[0]!);
    expect(() => checkInclusion(4, 7, LEAVES[4]!, endless, ROOTS[7]!)).toThrow('too long');
    expect(() => checkConsistency(4, 7, ROOTS[4]!, ROOTS[7]!, endless)).toThrow('too long');
    expect(() => checkInclusion(4, 7, LEAVES[4]!, [], ROOTS[7]!)).toThrow('too short');
    expect(() => checkConsistency(3, 7, ROOTS[3]!, ROOTS[7]!, [])).toThrow('too short');
  });

  test('an entry beyond the size, and sizes and positions that are none, are refused', () => {
    const [leaf, root] = [LEAVES[0]!, ROOTS[1]!];
    checkInclusion(0, 1, leaf, [], root);
    for (const [seq, size] of [
      [1, 1],
      [2, 1],
      [0, 0],
      [-1, 1],
      [0, -1],
      [0.5, 1],
      [0, 1.5],
      [Number.NaN, 1],
      [0, Number.NaN],
      [0, 2 ** 53],
      [2 ** 53, 2 ** 53],
      [2 ** 32, 1],
      [2 ** 32, 2 ** 32 + 1],
      [0, Number.POSITIVE_INFINITY],
    ] as const) {
      refuses(() => checkInclusion(seq, size, leaf, [], root), `${seq} in ${size}`);
    }
    refuses(() => checkInclusion(0, 0, EMPTY_ROOT, [], EMPTY_ROOT), 'the empty tree holds nothing');
  });

  test('leaf, path and root must be hashes', () => {
    const [leaf, path, root] = [LEAVES[0]!, [LEAVES[1]!], ROOTS[2]!];
    checkInclusion(0, 2, leaf, path, root);
    refuses(() => checkInclusion(0, 2, leaf.subarray(1), path, root));
    refuses(() => checkInclusion(0, 2, leaf, [path[0]!.subarray(1)], root));
    refuses(() => checkInclusion(0, 2, leaf, path, root.subarray(1)));
    refuses(() => checkInclusion(0, 1, leaf, [], Buffer.concat([leaf, Buffer.alloc(1)])));
    // An inner node is no leaf: the prefixes keep them apart.
    refuses(() => checkInclusion(0, 2, naiveLeaf(Buffer.concat([Buffer.of(1), leaf, path[0]!])), [], root));
  });

  test.each(LARGE)('works at size %i, where a seq that 32 bits hold alike is refused', (size) => {
    for (const seq of [0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32, size - 2 ** 20, size - 2, size - 1]) {
      if (seq >= size) continue;
      const { leaf, getNode, root } = sparseTree([seq]);
      const path = inclusionPath(seq, size, getNode);
      checkInclusion(seq, size, leaf(seq), path, root(size));
      expect(toHex(rootFromInclusion(seq, size, leaf(seq), path))).toBe(toHex(root(size)));
      for (const other of [
        seq + 2 ** 32,
        seq - 2 ** 32,
        seq + 2 ** 31,
        seq - 2 ** 31,
        seq + 1,
        seq - 1,
        seq % 2 ** 32,
      ]) {
        if (other !== seq) {
          refuses(() => checkInclusion(other, size, leaf(seq), path, root(size)), `${seq} as ${other}`);
        }
      }
      for (const [name, damaged] of damagedPaths(path)) {
        // Equal leaves make equal neighbours: swapping these is no damage.
        if (damaged.length === path.length && damaged.every((hash, i) => toHex(hash) === toHex(path[i]!))) continue;
        refuses(() => checkInclusion(seq, size, leaf(seq), damaged, root(size)), name);
      }
    }
  });

  test('who builds a path for an entry that is not there made a mistake', () => {
    expect(() => inclusionPath(1, 1, nodesOf(LEAVES))).toThrow('no such entry');
    expect(() => inclusionPath(0, 0, nodesOf(LEAVES))).toThrow('no such entry');
    expect(() => inclusionNodes(0, 2 ** 53)).toThrow('2^53');
  });
});

describe('consistency', () => {
  test('every pair of sizes up to 70: the naive path, accepted, and asking only for the nodes it named', () => {
    for (let to = 0; to <= 70; to++) {
      for (let from = 0; from <= to; from++) {
        const path = consistencyPath(from, to, nodesOf(LEAVES.slice(0, to)));
        expect(path.map(toHex)).toEqual(from === 0 ? [] : PROOF(from, LEAVES.slice(0, to)).map(toHex));
        checkConsistency(from, to, ROOTS[from]!, ROOTS[to]!, path);
        const asked: string[] = [];
        consistencyPath(from, to, (level, index) => {
          asked.push(`${level}/${index}`);
          return LEAVES[0]!;
        });
        expect(consistencyNodes(from, to).map(({ level, index }) => `${level}/${index}`)).toEqual(asked);
      }
    }
  });

  test('random sizes: the naive path, and no damaged sister of it', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 300 }), fc.nat(300), (a, b, other) => {
        const [from, to] = [Math.min(a, b), Math.max(a, b)];
        const [old, now] = [ROOTS[from]!, ROOTS[to]!];
        const path = consistencyPath(from, to, nodesOf(LEAVES.slice(0, to)));
        expect(path.map(toHex)).toEqual(PROOF(from, LEAVES.slice(0, to)).map(toHex));
        checkConsistency(from, to, old, now, path);
        for (const [name, damaged] of damagedPaths(path)) {
          refuses(() => checkConsistency(from, to, old, now, damaged), name);
        }
        if (from !== to) {
          refuses(() => checkConsistency(from, to, now, old, path), 'roots swapped');
          refuses(() => checkConsistency(to, from, now, old, path), 'a tree that shrank');
          refuses(() => checkConsistency(from, to, old, old, path), 'the old root twice');
          refuses(() => checkConsistency(from, to, now, now, path), 'the new root twice');
        }
        if (other !== from) {
          refuses(() => checkConsistency(from, to, ROOTS[other]!, now, path), 'the old root of another size');
          if (other > 0 || path.length > 0) {
            refuses(() => checkConsistency(other, to, ROOTS[other]!, now, path), 'from another size');
          }
        }
        if (other !== to) {
          refuses(() => checkConsistency(from, to, old, ROOTS[other]!, path), 'the new root of another size');
          refuses(() => checkConsistency(from, other, old, ROOTS[other]!, path), 'to another size');
        }
      }),
      { numRuns: 150 },
    );
  });

  test('every flipped bit of both roots and the path is refused', () => {
    for (const [from, to] of [
      [1, 2],
      [3, 7],
      [4, 7],
      [6, 8],
      [7, 7],
    ] as const) {
      const parts = [ROOTS[from]!, ROOTS[to]!, ...PROOF(from, LEAVES.slice(0, to))];
      for (const part of parts.keys()) {
        for (let bit = 0; bit < 256; bit++) {
          const [old, now, ...path] = parts.map((bytes, i) => (i === part ? flip(bytes, bit) : bytes));
          refuses(() => checkConsistency(from, to, old!, now!, path), `part ${part} bit ${bit}`);
        }
      }
    }
  });

  test('every tree began empty: from size 0 the path is empty and the old root the empty one', () => {
    checkConsistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, []);
    checkConsistency(0, 5, EMPTY_ROOT, ROOTS[5]!, []);
    refuses(() => checkConsistency(0, 5, EMPTY_ROOT, ROOTS[5]!, [ROOTS[5]!]));
    refuses(() => checkConsistency(0, 5, ROOTS[5]!, ROOTS[5]!, []));
    refuses(() => checkConsistency(0, 5, flip(EMPTY_ROOT, 3), ROOTS[5]!, []));
    refuses(() => checkConsistency(0, 0, ROOTS[1]!, ROOTS[1]!, []));
    refuses(() => checkConsistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [EMPTY_ROOT]));
    refuses(() => checkConsistency(5, 0, ROOTS[5]!, EMPTY_ROOT, []));
  });

  test('equal sizes have equal roots and an empty path', () => {
    checkConsistency(5, 5, ROOTS[5]!, ROOTS[5]!, []);
    refuses(() => checkConsistency(5, 5, ROOTS[5]!, ROOTS[4]!, []));
    refuses(() => checkConsistency(5, 5, ROOTS[5]!, ROOTS[5]!, [ROOTS[5]!]));
  });

  test('sizes that are none are refused', () => {
    for (const [from, to] of [
      [-1, 1],
      [1, -1],
      [0.5, 1],
      [1, 1.5],
      [Number.NaN, 1],
      [1, Number.NaN],
      [1, 2 ** 53],
      [2 ** 53, 2 ** 53],
      [1, Number.POSITIVE_INFINITY],
    ] as const) {
      refuses(() => checkConsistency(from, to, ROOTS[1]!, ROOTS[1]!, []), `${from} to ${to}`);
    }
    refuses(() => checkConsistency(1, 1, ROOTS[1]!.subarray(1), ROOTS[1]!.subarray(1), []));
  });

  test.each(LARGE)('works up to size %i, where a size that 32 bits hold alike is refused', (to) => {
    for (const from of [1, 3, 2 ** 31 - 1, 2 ** 31, 2 ** 31 + 5, 2 ** 32, 2 ** 32 + 1, 2 ** 52, to - 2 ** 30, to - 1]) {
      if (from > to) continue;
      const { getNode, root } = sparseTree([0, from - 1, to - 1]);
      const path = consistencyPath(from, to, getNode);
      checkConsistency(from, to, root(from), root(to), path);
      for (const other of [from + 2 ** 32, from - 2 ** 32, from + 2 ** 31, from - 2 ** 31, from + 1]) {
        if (other > 0) {
          refuses(() => checkConsistency(other, to, root(from), root(to), path), `from ${other}`);
        }
      }
      refuses(() => checkConsistency(from, to, root(from), flip(root(to), 255), path));
      refuses(() => checkConsistency(from, to, flip(root(from), 0), root(to), path));
      refuses(() => checkConsistency(from, to, root(from), root(to), [...path, EMPTY_ROOT]));
    }
  });

  test('who builds a path to a smaller tree made a mistake', () => {
    expect(() => consistencyPath(2, 1, nodesOf(LEAVES))).toThrow('shrink');
    expect(() => consistencyNodes(1, 2 ** 53)).toThrow('2^53');
  });
});

// ---- Vectors of others ----

interface Golden {
  leaf_inputs_hex: string[];
  level0: string[];
  level1: string[];
  level2: string[];
  level3: string[];
  roots_by_size: string[];
  hasher: { desc: string; out: string; leaf_hex?: string; left_hex?: string; right_hex?: string }[];
}

interface Derived {
  roots_hex_by_size: string[];
  inclusion: { size: number; index: number; proof: string[] }[];
  consistency: { size1: number; size2: number; proof: string[] }[];
  compact_ranges_0_n: { size: number; nodes_left_to_right: string[] }[];
}

describe.skipIf(DATA === undefined)('shared vectors (SEALOG_TEST_DATA)', () => {
  const read = (name: string) => JSON.parse(readFileSync(join(DATA!, 'vectors/merkle', name), 'utf8'));

  test('rfc6962-golden.json', () => {
    const golden = read('rfc6962-golden.json') as Golden;
    const leaves = golden.leaf_inputs_hex.map((hex) => leafHash(fromHex(hex)));
    const levels = [golden.level0, golden.level1, golden.level2, golden.level3];
    for (const [level, hashes] of levels.entries()) {
      for (const [index, hash] of hashes.entries()) {
        expect(toHex(perfectRoot(leaves.slice(index * 2 ** level, (index + 1) * 2 ** level)))).toBe(hash);
      }
    }
    for (const [size, root] of golden.roots_by_size.entries()) {
      expect(toHex(frontierRoot(size, appendLeaves(0, [], leaves.slice(0, size))))).toBe(root);
    }
    // These nodes join texts that are no hashes, so only the naive node takes them.
    for (const { desc, out, leaf_hex, left_hex, right_hex } of golden.hasher) {
      if (leaf_hex !== undefined) expect(toHex(leafHash(fromHex(leaf_hex))), desc).toBe(out);
      else if (left_hex !== undefined) expect(toHex(naiveNode(fromHex(left_hex), fromHex(right_hex!))), desc).toBe(out);
      else expect(toHex(EMPTY_ROOT), desc).toBe(out);
    }
  });

  test('derived-leaf-i-300.json, and the damaged sisters of each of its proofs', () => {
    const derived = read('derived-leaf-i-300.json') as Derived;
    const leaves = Array.from({ length: 300 }, (_, i) => leafHash(utf8(`leaf ${i}`)));
    const roots = derived.roots_hex_by_size.map(fromHex);
    for (const [size, root] of roots.entries()) {
      expect(toHex(frontierRoot(size, appendLeaves(0, [], leaves.slice(0, size))))).toBe(toHex(root));
    }
    for (const { size, nodes_left_to_right } of derived.compact_ranges_0_n) {
      expect(appendLeaves(0, [], leaves.slice(0, size)).map(toHex)).toEqual(nodes_left_to_right);
    }
    for (const { size, index, proof } of derived.inclusion) {
      const path = proof.map(fromHex);
      expect(inclusionPath(index, size, nodesOf(leaves.slice(0, size))).map(toHex)).toEqual(proof);
      checkInclusion(index, size, leaves[index]!, path, roots[size]!);
      for (const [name, damaged] of damagedPaths(path)) {
        refuses(() => checkInclusion(index, size, leaves[index]!, damaged, roots[size]!), name);
      }
      refuses(() => checkInclusion(size, size, leaves[index]!, path, roots[size]!));
    }
    for (const { size1, size2, proof } of derived.consistency) {
      const path = proof.map(fromHex);
      expect(consistencyPath(size1, size2, nodesOf(leaves.slice(0, size2))).map(toHex)).toEqual(proof);
      checkConsistency(size1, size2, roots[size1]!, roots[size2]!, path);
      for (const [name, damaged] of damagedPaths(path)) {
        refuses(() => checkConsistency(size1, size2, roots[size1]!, roots[size2]!, damaged), name);
      }
      if (size1 !== size2) {
        refuses(() => checkConsistency(size1, size2, roots[size2]!, roots[size1]!, path));
      }
    }
  });
});
