/**
 * Checkpoints (C2SP tlog-checkpoint v1.0.0): the text of the signed note in which a log states its size and root.
 *
 *     <origin>
 *     <size, decimal>
 *     <root, base64>
 *
 * Lines that follow are extensions: read and given back, since others sign them, but Sealog writes none. Who signed it
 * is the note's matter (`note.ts`): a text is a log's statement only when it came out of `openNote`.
 */

import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';
import { equalBytes, fromBase64, toBase64 } from './bytes.ts';
import { EMPTY_ROOT } from './merkle.ts';
import { hasControlCharacter } from './note.ts';
import { HASH_SIZE } from './sha256.ts';

export interface Checkpoint {
  /** The log's name, `<SEALOG_ORIGIN>/<stream>` for ours. */
  readonly origin: string;
  readonly size: number;
  /** 32 bytes. */
  readonly root: Uint8Array;
}

export interface ReadCheckpoint extends Checkpoint {
  /** The lines after the root, without their newlines. */
  readonly extensions: readonly string[];
}

/** Returns the text of a checkpoint, ready for `signNote`. */
export function encodeCheckpoint({ origin, size, root }: Checkpoint): string {
  assert(origin !== '' && !origin.includes('\n') && !hasControlCharacter(origin), 'an origin is one line');
  assert(Number.isSafeInteger(size) && size >= 0, 'a size is a whole number up to 2^53−1');
  assert(root.length === HASH_SIZE && (size > 0 || equalBytes(root, EMPTY_ROOT)), 'this is not the root of a tree');
  return `${origin}\n${size}\n${toBase64(root)}\n`;
}

/**
 * Reads a checkpoint, undoing `encodeCheckpoint`: a size without leading zeros up to 2^53−1, a root of 32 bytes (that
 * of the empty tree when the size is 0), no empty line. Throws an EvidenceError.
 */
export function decodeCheckpoint(text: string): ReadCheckpoint {
  const lines = text.split('\n');
  // The split leaves an empty string after the last newline; any other empty line is wrong.
  if (lines.pop() !== '' || lines.length < 3 || lines.includes('') || hasControlCharacter(text)) {
    throw new EvidenceError('a checkpoint is at least three lines, none of them empty');
  }
  const [origin, decimal, base64, ...extensions] = lines;
  const size = Number(decimal);
  if (!/^(0|[1-9][0-9]*)$/.test(decimal!) || !Number.isSafeInteger(size)) {
    throw new EvidenceError('the size of a checkpoint is a decimal number up to 2^53−1');
  }
  const root = fromBase64(base64!);
  if (root.length !== HASH_SIZE) {
    throw new EvidenceError(`the root of a checkpoint has 32 bytes, not ${root.length}`);
  }
  if (size === 0 && !equalBytes(root, EMPTY_ROOT)) {
    throw new EvidenceError('the empty tree has another root');
  }
  return { origin: origin!, size, root, extensions };
}
