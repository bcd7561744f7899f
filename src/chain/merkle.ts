/**
 * The Merkle tree of RFC 6962 section 2.1 (RFC 9162 section 2.1 says the same, and how to check proofs).
 *
 * A tree over `size` leaf hashes splits at k, the largest power of two smaller than its size: its left half is a
 * *perfect* subtree, which no later leaf changes, its right half is a tree again. A perfect subtree is named by its
 * level (it has 2^level leaves) and its index among its level, from the left. From these alone follow the root of any
 * size and every proof:
 *
 * - the *frontier* of a size is the perfect subtrees that cover [0, size), largest first: all that a log must know to
 *   grow;
 * - an *inclusion path* shows that a leaf hash is the one at `seq` in the tree of `size`;
 * - a *consistency path* shows that the tree of size `from` is what the tree of size `to` began with.
 *
 * What builds a proof asserts its arguments, for they are ours. What checks one trusts nothing: it throws an
 * `EvidenceError` that says what is wrong, and returns only when everything holds. A path must have exactly the length
 * that seq and size demand.
 *
 * `seq`, `size`, levels and indexes are safe integers. Above 2^31 the bit operators of JavaScript truncate, so there
 * are none here on whole numbers: halves are divisions, which are exact.
 */

import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';
import { concatBytes, equalBytes } from './bytes.ts';
import { HASH_SIZE, sha256 } from './sha256.ts';

/** The perfect subtrees that cover [0, size), largest first: as many hashes as `size` has one bits. */
export type Frontier = readonly Uint8Array[];

/** A perfect subtree: the leaves from `index * 2^level` up to, not including, `(index + 1) * 2^level`. */
export interface Subtree {
  readonly level: number;
  readonly index: number;
}

/** Gives the hash of a perfect subtree; level 0 are the leaf hashes. */
export type GetNode = (level: number, index: number) => Uint8Array;

/**
 * The leaves from `begin` up to, not including, `end`: one that the splits of RFC 6962 make, so `begin` is a multiple
 * of 2^k ≥ its size.
 */
interface Range {
  readonly begin: number;
  readonly end: number;
}

/** The root of the empty tree: SHA-256 of nothing. */
export const EMPTY_ROOT: Uint8Array = sha256('');

const LEAF_PREFIX = Uint8Array.of(0x00);
const NODE_PREFIX = 0x01;

// ---- Hashes ----

/**
 * Returns the hash of a record: SHA-256(0x00 ‖ record), the leaf hash of RFC 6962 section 2.1 and the link of the
 * chain.
 */
export function leafHash(record: Uint8Array): Uint8Array {
  if (record.length >= leafInput.length) return sha256(concatBytes(LEAF_PREFIX, record));
  leafInput.set(record, 1);
  return sha256(leafInput.subarray(0, 1 + record.length));
}

/** For records of the usual length; it begins with the prefix. */
const leafInput = new Uint8Array(4096);

/** One for all calls, since a tree hashes nothing more often: SHA-256 has read it before anybody writes it again. */
const nodeInput = Uint8Array.of(NODE_PREFIX, ...new Uint8Array(2 * HASH_SIZE));

/** Returns the hash of an inner node: SHA-256(0x01 ‖ left ‖ right). */
export function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  assert(left.length === HASH_SIZE && right.length === HASH_SIZE, 'a node joins two hashes');
  nodeInput.set(left, 1);
  nodeInput.set(right, 1 + HASH_SIZE);
  return sha256(nodeInput);
}

/**
 * Returns the root of a perfect subtree from the hashes of its leaves, or of the equally high subtrees that it consists
 * of: 2^n of them.
 */
export function perfectRoot(hashes: readonly Uint8Array[]): Uint8Array {
  assert(popCount(hashes.length) === 1, 'a perfect subtree has a power of two of leaves');
  let level = hashes;
  while (level.length > 1) {
    const above = new Array<Uint8Array>(level.length / 2);
    for (let i = 0; i < above.length; i++) {
      above[i] = nodeHash(level[2 * i]!, level[2 * i + 1]!);
    }
    level = above;
  }
  return level[0]!;
}

// ---- Growing ----

/** Returns the frontier of `size + 1` from that of `size`. */
export function appendLeaf(size: number, frontier: Frontier, leaf: Uint8Array): Frontier {
  return appendLeaves(size, frontier, [leaf]);
}

/** Returns the frontier of `size + leaves.length` from that of `size`: about one node hash a leaf. */
export function appendLeaves(size: number, frontier: Frontier, leaves: readonly Uint8Array[]): Frontier {
  assertFrontier(size, frontier);
  assertSize(size + leaves.length);
  const nodes = [...frontier];
  for (const [i, leaf] of leaves.entries()) {
    assert(leaf.length === HASH_SIZE, 'a leaf hash has 32 bytes');
    // As in adding one to a binary number: each one bit at the end is a subtree that the new one completes.
    let node = leaf;
    for (let n = size + i; n % 2 === 1; n = half(n)) {
      node = nodeHash(nodes.pop()!, node);
    }
    nodes.push(node);
  }
  return nodes;
}

/** Returns the root of the tree of `size`. */
export function frontierRoot(size: number, frontier: Frontier): Uint8Array {
  assertFrontier(size, frontier);
  return size === 0 ? EMPTY_ROOT : joinSubtrees(frontier);
}

/** Returns the hashes of a frontier, one after the other, as they are stored. */
export function encodeFrontier(frontier: Frontier): Uint8Array {
  return concatBytes(...frontier);
}

/**
 * Reads the frontier of `size`, undoing `encodeFrontier`. Throws an EvidenceError where the bytes are not as many as
 * that size has.
 */
export function decodeFrontier(size: number, bytes: Uint8Array): Frontier {
  assertSize(size);
  const count = popCount(size);
  if (bytes.length !== count * HASH_SIZE) {
    throw new EvidenceError(`a frontier of size ${size} has ${count * HASH_SIZE} bytes, not ${bytes.length}`);
  }
  return Array.from({ length: count }, (_, i) => bytes.subarray(i * HASH_SIZE, (i + 1) * HASH_SIZE));
}

/** Returns the perfect subtrees whose hashes are the frontier of `size`, largest first. */
export function frontierNodes(size: number): Subtree[] {
  assertSize(size);
  return subtreesOf({ begin: 0, end: size });
}

/**
 * Returns the perfect subtrees that cover [begin, size), from left to right, each the largest that fits: aligned to its own
 * width. With the frontier of `begin` and the leaves before they come to the tree of `size`.
 */
export function subtreesUpTo(begin: number, size: number): Subtree[] {
  assertSize(begin);
  assertSize(size);
  assert(begin <= size, 'a range does not end before it begins');
  const subtrees: Subtree[] = [];
  for (let at = begin; at < size; ) {
    let level = 0;
    while (at % 2 ** (level + 1) === 0 && at + 2 ** (level + 1) <= size) level++;
    subtrees.push({ level, index: at / 2 ** level });
    at += 2 ** level;
  }
  return subtrees;
}

/**
 * Returns the frontier of `size`, from that of `begin` and the hashes of the subtrees that `subtreesUpTo` names. Throws an
 * EvidenceError where they are not as many.
 */
export function appendSubtrees(
  begin: number,
  frontier: Frontier,
  size: number,
  hashes: readonly Uint8Array[],
): Frontier {
  assertFrontier(begin, frontier);
  const subtrees = subtreesUpTo(begin, size);
  if (hashes.length !== subtrees.length)
    throw new EvidenceError(
      `entries ${begin} to ${size - 1} are under ${subtrees.length} hashes, not ${hashes.length}`,
    );
  hashes.forEach(checkHash);
  const nodes = [...frontier];
  for (const [i, { index }] of subtrees.entries()) {
    let node = hashes[i]!;
    // A subtree with an odd index completes the one that is twice as wide.
    for (let at = index; at % 2 === 1; at = half(at)) node = nodeHash(nodes.pop()!, node);
    nodes.push(node);
  }
  assertFrontier(size, nodes);
  return nodes;
}

// ---- Inclusion ----

/**
 * Returns the inclusion path of the leaf at `seq` in the tree of `size`, lowest first: PATH(m, D[n]) of RFC 6962
 * section 2.1.1.
 */
export function inclusionPath(seq: number, size: number, getNode: GetNode): Uint8Array[] {
  return inclusionRanges(seq, size).map((range) => rangeHash(range, getNode));
}

/** Returns the perfect subtrees that `inclusionPath` will ask for, so that they can be fetched before. */
export function inclusionNodes(seq: number, size: number): Subtree[] {
  return inclusionRanges(seq, size).flatMap(subtreesOf);
}

/**
 * Returns when `leaf` is the leaf hash at `seq` in the tree of `size` that has this root; else throws an EvidenceError.
 */
export function checkInclusion(
  seq: number,
  size: number,
  leaf: Uint8Array,
  path: readonly Uint8Array[],
  root: Uint8Array,
): void {
  checkHash(root);
  if (!equalBytes(rootFromInclusion(seq, size, leaf, path), root)) {
    throw new EvidenceError('the inclusion path leads to another root');
  }
}

/**
 * Returns the root to which an inclusion path leads (RFC 9162 section 2.1.3.2). Throws an EvidenceError where its form
 * is wrong.
 */
export function rootFromInclusion(
  seq: number,
  size: number,
  leaf: Uint8Array,
  path: readonly Uint8Array[],
): Uint8Array {
  checkSize(seq);
  checkSize(size);
  checkHash(leaf);
  path.forEach(checkHash);
  if (seq >= size) {
    throw new EvidenceError(`a tree of size ${size} has no entry ${seq}`);
  }
  // fn and sn of the RFC: the node's place in its level, and the place of the level's last node.
  let node = seq;
  let last = size - 1;
  let hash = leaf;
  for (const sibling of path) {
    if (last === 0) {
      throw new EvidenceError('the inclusion path is too long');
    }
    if (node % 2 === 1 || node === last) {
      hash = nodeHash(sibling, hash);
      // The last node of a level without a right sibling moves up unchanged until it has a left one.
      while (node % 2 === 0 && node !== 0) {
        node = half(node);
        last = half(last);
      }
    } else {
      hash = nodeHash(hash, sibling);
    }
    node = half(node);
    last = half(last);
  }
  if (last !== 0) {
    throw new EvidenceError('the inclusion path is too short');
  }
  return hash;
}

// ---- Consistency ----

/**
 * Returns the consistency path from the tree of size `from` to that of size `to`: PROOF(m, D[n]) of RFC 6962 section
 * 2.1.2. Empty where the sizes are equal and, as C2SP tlog-witness has it, where `from` is 0.
 */
export function consistencyPath(from: number, to: number, getNode: GetNode): Uint8Array[] {
  return consistencyRanges(from, to).map((range) => rangeHash(range, getNode));
}

/** Returns the perfect subtrees that `consistencyPath` will ask for, so that they can be fetched before. */
export function consistencyNodes(from: number, to: number): Subtree[] {
  return consistencyRanges(from, to).flatMap(subtreesOf);
}

/**
 * Returns when the tree of size `from` with root `fromRoot` is what the tree of size `to` with root `toRoot` began with
 * (RFC 9162 section 2.1.4.2); else throws an EvidenceError. Every tree began empty: from size 0 this says nothing about
 * `toRoot`, only that `fromRoot` is the empty root and the path empty.
 */
export function checkConsistency(
  from: number,
  to: number,
  fromRoot: Uint8Array,
  toRoot: Uint8Array,
  path: readonly Uint8Array[],
): void {
  checkSize(from);
  checkSize(to);
  checkHash(fromRoot);
  checkHash(toRoot);
  path.forEach(checkHash);
  if (from > to) {
    throw new EvidenceError(`the tree shrank from size ${from} to ${to}`);
  }
  if (from === 0 && !equalBytes(fromRoot, EMPTY_ROOT)) {
    throw new EvidenceError('the empty tree has another root');
  }
  if (from === 0 || from === to) {
    if (path.length > 0) {
      throw new EvidenceError(`the consistency path from size ${from} to ${to} must be empty`);
    }
    if (from === to && !equalBytes(fromRoot, toRoot)) {
      throw new EvidenceError(`two roots for size ${to}`);
    }
    return;
  }

  // The first subtree is the one that ends the old tree: the old root itself where the old tree is perfect, and then it
  // is not in the path.
  const perfect = popCount(from) === 1;
  const seed = perfect ? fromRoot : path[0];
  if (seed === undefined) {
    throw new EvidenceError('the consistency path is too short');
  }
  let node = from - 1;
  let last = to - 1;
  while (node % 2 === 1) {
    node = half(node);
    last = half(last);
  }
  let oldHash = seed;
  let newHash = seed;
  for (const sibling of perfect ? path : path.slice(1)) {
    if (last === 0) {
      throw new EvidenceError('the consistency path is too long');
    }
    if (node % 2 === 1 || node === last) {
      oldHash = nodeHash(sibling, oldHash);
      newHash = nodeHash(sibling, newHash);
      while (node % 2 === 0 && node !== 0) {
        node = half(node);
        last = half(last);
      }
    } else {
      newHash = nodeHash(newHash, sibling);
    }
    node = half(node);
    last = half(last);
  }
  if (last !== 0) {
    throw new EvidenceError('the consistency path is too short');
  }
  if (!equalBytes(oldHash, fromRoot)) {
    throw new EvidenceError('the consistency path leads to another old root');
  }
  if (!equalBytes(newHash, toRoot)) {
    throw new EvidenceError('the consistency path leads to another new root');
  }
}

// ---- The splits of RFC 6962 ----

/** The ranges whose hashes are PATH(seq, D[size]), lowest first: at each split the half that does not hold the leaf. */
function inclusionRanges(seq: number, size: number): Range[] {
  assertSize(seq);
  assertSize(size);
  assert(seq < size, 'a tree of this size has no such entry');
  const ranges: Range[] = [];
  let [begin, end] = [0, size];
  while (end - begin > 1) {
    const middle = begin + split(end - begin);
    if (seq < middle) {
      ranges.push({ begin: middle, end });
      end = middle;
    } else {
      ranges.push({ begin, end: middle });
      begin = middle;
    }
  }
  return ranges.reverse();
}

/** The ranges whose hashes are PROOF(from, D[to]), lowest first. */
function consistencyRanges(from: number, to: number): Range[] {
  assertSize(from);
  assertSize(to);
  assert(from <= to, 'a tree does not shrink');
  if (from === 0) {
    return [];
  }
  const ranges: Range[] = [];
  let [begin, end] = [0, to];
  while (end !== from) {
    const middle = begin + split(end - begin);
    if (from <= middle) {
      ranges.push({ begin: middle, end });
      end = middle;
    } else {
      ranges.push({ begin, end: middle });
      begin = middle;
    }
  }
  // What is left ends the old tree; where it is the whole old tree, the checker has its root already.
  if (begin > 0) {
    ranges.push({ begin, end });
  }
  return ranges.reverse();
}

/** MTH(D[begin:end]). */
function rangeHash(range: Range, getNode: GetNode): Uint8Array {
  return joinSubtrees(subtreesOf(range).map(({ level, index }) => getNode(level, index)));
}

/** The perfect subtrees that cover a range, largest first: one for each one bit of its length. */
function subtreesOf({ begin, end }: Range): Subtree[] {
  const subtrees: Subtree[] = [];
  for (let at = begin; at < end; ) {
    const level = bitLength(end - at) - 1;
    const width = 2 ** level;
    subtrees.push({ level, index: at / width });
    at += width;
  }
  return subtrees;
}

/** The hash of a range from the hashes of its perfect subtrees: each is the left half of what follows it. */
function joinSubtrees(hashes: readonly Uint8Array[]): Uint8Array {
  return hashes.reduceRight((right, left) => nodeHash(left, right));
}

/** k of RFC 6962: the largest power of two smaller than n, for n > 1. */
function split(n: number): number {
  return 2 ** (bitLength(n - 1) - 1);
}

// ---- Whole numbers up to 2^53−1 ----

const WORD = 2 ** 32;

function half(n: number): number {
  return Math.floor(n / 2);
}

/** The number of binary digits: 0 for 0. */
function bitLength(n: number): number {
  return n < WORD ? 32 - Math.clz32(n) : 64 - Math.clz32(Math.floor(n / WORD));
}

/** The number of one bits. */
export function popCount(n: number): number {
  let count = 0;
  for (let rest = n; rest > 0; rest = half(rest)) {
    count += rest % 2;
  }
  return count;
}

function assertSize(n: number): void {
  assert(Number.isSafeInteger(n) && n >= 0, 'seq and size are whole numbers up to 2^53−1');
}

function assertFrontier(size: number, frontier: Frontier): void {
  assertSize(size);
  assert(frontier.length === popCount(size), 'this is not the frontier of this size');
}

function checkSize(n: number): void {
  if (!Number.isSafeInteger(n) || n < 0) {
    throw new EvidenceError('seq and size are whole numbers up to 2^53−1');
  }
}

function checkHash(hash: Uint8Array): void {
  if (hash.length !== HASH_SIZE) {
    throw new EvidenceError(`a hash has 32 bytes, not ${hash.length}`);
  }
}
