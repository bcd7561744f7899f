/**
 * Proofs as text (C2SP tlog-proof): one file shows that an entry is in a log, to who has the entry and the log's key.
 *
 *     c2sp.org/tlog-proof@v1
 *     extra <base64>                 at most once; Sealog writes none
 *     index <seq, decimal>
 *     <hash, base64>                 of the inclusion path, lowest first, one a line
 *     <an empty line>
 *     <the signed note of a checkpoint, to the end>
 *
 * A proof proves nothing by its form: its note MUST be opened (`openNote`) with the log's key, and its path checked (`checkInclusion`)
 * against the size and root of the checkpoint that comes out. `extra` is vouched for by nobody.
 */
import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';
import { fromBase64, fromUtf8, toBase64 } from './bytes.ts';
import { HASH_SIZE } from './sha256.ts';

export interface TlogProof {
  /** The entry's seq. */
  readonly index: number;
  /** The inclusion path, lowest first. */
  readonly path: readonly Uint8Array[];
  /** The signed note of the checkpoint that the path leads to. */
  readonly checkpoint: string;
  readonly extra?: Uint8Array;
}

const HEADER = 'c2sp.org/tlog-proof@v1';
/** No tree of 2^63 entries has a longer one. */
const PATH_MAX = 63;
/** A note of the longest kind (`note.ts`) and what stands before it, with room for what others call extra. */
const PROOF_CHARS_MAX = 1_100_000;

/** Returns the text of a proof. */
export function encodeTlogProof({ index, path, checkpoint, extra }: TlogProof): string {
  assert(Number.isSafeInteger(index) && index >= 0, 'seq is a whole number up to 2^53−1');
  assert(path.length <= PATH_MAX && path.every((hash) => hash.length === HASH_SIZE), 'a path has at most 63 hashes');
  assert(checkpoint.endsWith('\n'), 'a note ends in a newline');
  const lines = [HEADER, ...(extra === undefined ? [] : [`extra ${toBase64(extra)}`]), `index ${index}`];
  return `${[...lines, ...path.map(toBase64)].join('\n')}\n\n${checkpoint}`;
}

/**
 * Reads a proof, undoing `encodeTlogProof`: nothing before, between or behind what belongs there. The note is what it is. Throws an
 * EvidenceError.
 */
export function decodeTlogProof(proof: Uint8Array | string): TlogProof {
  if (proof.length > PROOF_CHARS_MAX) throw new EvidenceError('a proof of this length is none');
  const text = typeof proof === 'string' ? proof : fromUtf8(proof);
  // The lines before the note are never empty, so that the first empty line ends them.
  const end = text.indexOf('\n\n');
  if (end < 0) throw new EvidenceError('a proof has an empty line before its checkpoint');
  const lines = text.slice(0, end).split('\n', PATH_MAX + 4);
  if (lines.shift() !== HEADER) throw new EvidenceError(`a proof begins with ${HEADER}`);
  const extra = lines[0]?.startsWith('extra ') === true ? fromBase64(lines.shift()!.slice('extra '.length)) : undefined;
  const index = /^index (0|[1-9][0-9]{0,15})$/.exec(lines.shift() ?? '')?.[1];
  if (index === undefined || !Number.isSafeInteger(Number(index)))
    throw new EvidenceError('the index of a proof is a decimal number up to 2^53−1');
  if (lines.length > PATH_MAX) throw new EvidenceError(`a proof has at most ${PATH_MAX} hashes`);
  const path = lines.map(fromBase64);
  if (path.some((hash) => hash.length !== HASH_SIZE)) throw new EvidenceError('a hash of a proof has not 32 bytes');
  const checkpoint = text.slice(end + 2);
  if (!checkpoint.endsWith('\n')) throw new EvidenceError('the checkpoint of a proof is missing or cut');
  return { index: Number(index), path, checkpoint, ...(extra === undefined ? {} : { extra }) };
}
