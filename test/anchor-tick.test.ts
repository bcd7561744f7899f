/** Ticks, and the trees that are put together from subtrees. */
import { hash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { checkpointLeafHash, evidenceLeafHash, tickPath, tickRoot } from '../src/chain/anchor-tick.ts';
import {
  appendLeaves,
  appendSubtrees,
  checkInclusion,
  encodeFrontier,
  perfectRoot,
  subtreesUpTo,
} from '../src/chain/merkle.ts';
import { EvidenceError } from '../src/errors.ts';

const leaves = Array.from({ length: 300 }, (_, i) => hash('sha256', `leaf ${i}`, 'buffer'));

describe('a tick', () => {
  test('has leaves as the format says, written again naively', () => {
    const blind = new Uint8Array(16).fill(7);
    const text = 'log.example/acme/data_access\n1\nAAAA\n';
    const naive = (data: Buffer) => hash('sha256', Buffer.concat([Buffer.of(0), data]), 'hex');
    expect(Buffer.from(checkpointLeafHash(blind, text)).toString('hex')).toBe(
      naive(Buffer.concat([Buffer.from('sealog/anchor-checkpoint/v1\0'), blind, Buffer.from(text)])),
    );
    expect(Buffer.from(evidenceLeafHash(Buffer.from('token'))).toString('hex')).toBe(
      naive(Buffer.concat([Buffer.from('sealog/anchor-evidence/v1\0'), hash('sha256', 'token', 'buffer')])),
    );
  });

  test('proves each of its leaves, and no other in its place', () => {
    for (const count of [1, 2, 3, 7, 8, 9, 31]) {
      const own = leaves.slice(0, count);
      const root = tickRoot(own);
      for (const [index, leaf] of own.entries()) {
        const path = tickPath(own, index);
        checkInclusion(index, count, leaf, path, root);
        expect(() => checkInclusion(index, count, leaves[count]!, path, root)).toThrow(EvidenceError);
      }
    }
  });
});

describe('subtrees from a size on', () => {
  test('come to the same frontier as the leaves, for every range', () => {
    const frontier = (size: number) => appendLeaves(0, [], leaves.slice(0, size));
    for (let begin = 0; begin <= 70; begin++) {
      for (let size = begin; size <= 140; size += 1 + (size % 3)) {
        const nodes = subtreesUpTo(begin, size);
        const hashes = nodes.map(({ level, index }) =>
          perfectRoot(leaves.slice(index * 2 ** level, (index + 1) * 2 ** level)),
        );
        expect(encodeFrontier(appendSubtrees(begin, frontier(begin), size, hashes))).toEqual(
          encodeFrontier(frontier(size)),
        );
        if (hashes.length === 0) continue;
        expect(() => appendSubtrees(begin, frontier(begin), size, hashes.slice(1))).toThrow(EvidenceError);
        expect(() => appendSubtrees(begin, frontier(begin), size, [...hashes, leaves[0]!])).toThrow(EvidenceError);
        expect(() => appendSubtrees(begin, frontier(begin), size, hashes.with(0, new Uint8Array(31)))).toThrow(
          EvidenceError,
        );
      }
    }
  });

  test('are few, also between large sizes', () => {
    const nodes = subtreesUpTo(2 ** 40 + 12_345, 2 ** 52 - 1);
    expect(nodes.length).toBeLessThan(104);
    expect(nodes.reduce((sum, { level }) => sum + 2 ** level, 0)).toBe(2 ** 52 - 1 - 2 ** 40 - 12_345);
    expect(nodes.every(({ level, index }) => Number.isSafeInteger(index) && level < 53)).toBe(true);
  });
});
