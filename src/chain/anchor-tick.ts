/**
 * Ticks of the anchor stream: one root over what was signed since the last (docs/format.md section 20).
 *
 *     checkpoint leaf = "sealog/anchor-checkpoint/v1\0" ‖ blind, 16 random bytes ‖ text of a stream's checkpoint
 *     evidence leaf   = "sealog/anchor-evidence/v1\0" ‖ H(outside evidence)
 *
 * The leaves are those of an RFC 6962 tree, whose root in hex is the id of the tick's entry. The blind keeps one tenant's proof
 * from telling anything of another: without it, small sizes and known names could be guessed from a sibling's hash.
 */
import assert from 'node:assert/strict';
import { concatBytes, utf8 } from './bytes.ts';
import { appendLeaves, frontierRoot, inclusionPath, leafHash, nodeHash, perfectRoot } from './merkle.ts';
import { sha256 } from './sha256.ts';

export const BLIND_BYTES = 16;
export const TICK_ACTION = 'anchor.tick';

const CHECKPOINT_TAG = utf8('sealog/anchor-checkpoint/v1\0');
const EVIDENCE_TAG = utf8('sealog/anchor-evidence/v1\0');

/** Returns the leaf hash of a checkpoint, by its text. */
export function checkpointLeafHash(blind: Uint8Array, checkpointText: string): Uint8Array {
  assert.equal(blind.length, BLIND_BYTES);
  return leafHash(concatBytes(CHECKPOINT_TAG, blind, utf8(checkpointText)));
}

/** Returns the leaf hash of outside evidence, such as a time-stamp token. */
export function evidenceLeafHash(evidence: Uint8Array): Uint8Array {
  return leafHash(concatBytes(EVIDENCE_TAG, sha256(evidence)));
}

/** Returns the root of a tick's leaf hashes, at least one. */
export function tickRoot(leaves: readonly Uint8Array[]): Uint8Array {
  assert(leaves.length > 0, 'a tick has leaves');
  return frontierRoot(leaves.length, appendLeaves(0, [], leaves));
}

/** A hash beside the way from a leaf to the root, and on which side it stands. */
export interface TickStep {
  readonly side: 'left' | 'right';
  readonly hash: Uint8Array;
}

/**
 * Returns the way from one leaf to the root, lowest first. Each step says its side: a tick's record does not say how many leaves there
 * are, and an index and a number of leaves that nothing vouches for could be changed without changing the root.
 */
export function tickSteps(leaves: readonly Uint8Array[], index: number): TickStep[] {
  const steps: TickStep[] = [];
  let last = leaves.length - 1;
  let at = index;
  for (const hash of tickPath(leaves, index)) {
    const isRight = at % 2 === 1 || at === last;
    steps.push({ side: isRight ? 'left' : 'right', hash });
    // A last node without a right sibling moves up unchanged until it has a left one (RFC 9162 section 2.1.3.2).
    if (isRight)
      while (at % 2 === 0 && at !== 0) {
        at = Math.floor(at / 2);
        last = Math.floor(last / 2);
      }
    at = Math.floor(at / 2);
    last = Math.floor(last / 2);
  }
  return steps;
}

/** Returns the tick root to which a leaf's steps lead, undoing `tickSteps`. */
export function rootFromSteps(leaf: Uint8Array, steps: readonly TickStep[]): Uint8Array {
  return steps.reduce(
    (hash, step) => (step.side === 'left' ? nodeHash(step.hash, hash) : nodeHash(hash, step.hash)),
    leaf,
  );
}

/** Returns the inclusion path of one leaf in a tick's tree. */
export function tickPath(leaves: readonly Uint8Array[], index: number): Uint8Array[] {
  return inclusionPath(index, leaves.length, (level, at) => {
    const width = 2 ** level;
    return perfectRoot(leaves.slice(at * width, (at + 1) * width));
  });
}
