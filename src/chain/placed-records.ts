/** Records given their places: written straight into their entry bundle, and hashed where they stand. */
import assert from 'node:assert/strict';
import { toHex } from './bytes.ts';
import { placeRecord, RECORD_BYTES_MAX, type RecordFrame, recordBytesMax } from './record.ts';
import { sha256 } from './sha256.ts';

export interface PlacedRecords {
  /** The C2SP entry bundle: each record behind its length, u16 big-endian. */
  readonly bundle: Uint8Array;
  /** Leaf hashes, which are the links of the chain: as bytes, and as hex. */
  readonly leaves: readonly Uint8Array[];
  readonly hashes: readonly string[];
}

const LENGTH_BYTES = 2;

/** Places records one behind the other; `seq` and `previous` are those of the first. */
export function placeRecords(
  frames: readonly RecordFrame[],
  { seq, previous, ...stamps }: { seq: number; previous: string; recordedAt: string; retainUntil?: string },
): PlacedRecords {
  const bundle = Buffer.allocUnsafe(frames.reduce((sum, frame) => sum + LENGTH_BYTES + recordBytesMax(frame), 0));
  const leaves: Uint8Array[] = [];
  const hashes: string[] = [];
  let at = 0;
  for (const [i, frame] of frames.entries()) {
    const start = at + LENGTH_BYTES;
    const end = placeRecord(frame, { seq: seq + i, previous: hashes[i - 1] ?? previous, ...stamps }, bundle, start);
    const length = end - start;
    assert(length <= RECORD_BYTES_MAX, 'a record has at most 65,535 bytes');
    // A leaf hash is that of the record behind a zero, which stands for a moment where the end of its length will.
    bundle[start - 1] = 0;
    const leaf = sha256(bundle.subarray(start - 1, end));
    bundle.writeUInt16BE(length, at);
    leaves.push(leaf);
    hashes.push(toHex(leaf));
    at = end;
  }
  return { bundle: bundle.subarray(0, at), leaves, hashes };
}
