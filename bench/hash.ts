/**
 * What a SHA-256 costs here: `node:crypto` (as `src/chain/sha256.ts` uses it) beside @noble/hashes, the reference, on
 * the three sizes that the chain hashes. Run: `node bench/hash.ts`. A ratio above 1 is the reason for `node:crypto` on
 * the hot path.
 */

import { randomBytes } from 'node:crypto';
import { sha256 as noble } from '@noble/hashes/sha2.js';
import { leafHash, nodeHash } from '../src/chain/merkle.ts';
import { sha256 } from '../src/chain/sha256.ts';

const ROUNDS = 5;
const ROUND_MS = 150;
/** Calls between two looks at the clock. */
const CALLS = 2_000;

const INPUTS = [
  { name: 'tree node, 65 B', size: 65 },
  { name: 'commitment, 150 B', size: 150 },
  { name: 'record, 600 B', size: 600 },
];

const rows = INPUTS.map(({ name, size }) => {
  const data = new Uint8Array(randomBytes(size));
  const [node, reference] = rates(
    () => sha256(data),
    () => noble(data),
  );
  return { input: name, 'node:crypto/s': node, 'noble/s': reference, ratio: (node / reference).toFixed(2) };
});
console.table(rows);

const [left, right, record] = [randomBytes(32), randomBytes(32), randomBytes(600)];
const [nodes, leaves] = rates(
  () => nodeHash(left, right),
  () => leafHash(record),
);
console.table([{ 'nodeHash/s': nodes, 'leafHash/s (600 B record)': leaves }]);

/** Returns the calls a second of both functions: the best of several rounds, taken in turn so that noise hits both. */
function rates(a: () => unknown, b: () => unknown): [number, number] {
  let [bestA, bestB] = [0, 0];
  for (let round = 0; round < ROUNDS; round++) {
    bestA = Math.max(bestA, rate(a));
    bestB = Math.max(bestB, rate(b));
  }
  return [bestA, bestB];
}

function rate(work: () => unknown): number {
  const start = performance.now();
  let calls = 0;
  let elapsed = 0;
  while (elapsed < ROUND_MS) {
    for (let i = 0; i < CALLS; i++) {
      work();
    }
    calls += CALLS;
    elapsed = performance.now() - start;
  }
  return Math.round((calls / elapsed) * 1000);
}
