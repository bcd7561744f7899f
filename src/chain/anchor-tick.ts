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
import { appendLeaves, frontierRoot, inclusionPath, leafHash, perfectRoot } from './merkle.ts';
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

/** Returns the inclusion path of one leaf in a tick's tree. */
export function tickPath(leaves: readonly Uint8Array[], index: number): Uint8Array[] {
  return inclusionPath(index, leaves.length, (level, at) => {
    const width = 2 ** level;
    return perfectRoot(leaves.slice(at * width, (at + 1) * width));
  });
}
