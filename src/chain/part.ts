/**
 * Parts: who and what exactly. Each part of an event is bound to its record by a salted commitment, so that one part can be
 * erased and everything else still verifies (DESIGN section 4).
 *
 *     commitment = H("sealog/part/v1\0" ‖ salt16 ‖ LP(name) ‖ LP(JCS(value)))
 *     parts hash = H("sealog/parts/v1\0" ‖ for each part in name order: LP(name) ‖ commitment)
 *
 * A salt is 16 fresh random bytes, secret, and lives and dies with the value: an erased value can not be guessed from its
 * commitment.
 */
import assert from 'node:assert/strict';
import { concatBytes, lengthPrefixed, utf8 } from './bytes.ts';
import { HASH_SIZE, sha256, sha256Hex, sha256Into } from './sha256.ts';

/** The parts an event can have, in name order, which is the order of hashing. */
export const PART_NAMES = ['actor', 'changes', 'details', 'raw', 'reason', 'target'] as const;

export type PartName = (typeof PART_NAMES)[number];

export const SALT_BYTES = 16;

/** A part whose value is there: `value` is its canonical JSON (RFC 8785) in UTF-8. */
export interface OpenPart {
  readonly name: PartName;
  readonly salt: Uint8Array;
  readonly value: Uint8Array;
}

/** A part of which only the commitment is left: it was erased. */
export interface ClosedPart {
  readonly name: PartName;
  readonly commitment: Uint8Array;
}

export type Part = OpenPart | ClosedPart;

export function isOpen(part: Part): part is OpenPart {
  return 'value' in part;
}

const PART_TAG = utf8('sealog/part/v1\0');
const PARTS_TAG = utf8('sealog/parts/v1\0');

interface NameBytes {
  /** `"sealog/part/v1\0"`, room for the salt, `LP(name)`, room for the value's length: the start of every hashed message. */
  readonly head: Uint8Array;
  readonly prefixed: Uint8Array;
}

const NAME_BYTES = Object.fromEntries(
  PART_NAMES.map((name) => {
    const prefixed = lengthPrefixed(utf8(name));
    return [name, { head: concatBytes(PART_TAG, new Uint8Array(SALT_BYTES), prefixed, new Uint8Array(4)), prefixed }];
  }),
) as unknown as Record<PartName, NameBytes>;

/** For messages that fit: this runs per part of every event, and SHA-256 has read a message before the next is written. */
const scratch = new Uint8Array(16 * 1024);

/** Returns the commitment to one part (32 bytes). */
export function partCommitment(name: PartName, salt: Uint8Array, value: Uint8Array): Uint8Array {
  return sha256(committed(name, salt, value));
}

/** What a commitment is the hash of, in memory that the next call may use again. */
function committed(name: PartName, salt: Uint8Array, value: Uint8Array): Uint8Array {
  assert(salt.length === SALT_BYTES, 'a salt has 16 bytes');
  const { head } = NAME_BYTES[name];
  const length = head.length + value.length;
  const message = length <= scratch.length ? scratch.subarray(0, length) : new Uint8Array(length);
  message.set(head);
  message.set(salt, PART_TAG.length);
  message[head.length - 4] = value.length >>> 24;
  message[head.length - 3] = value.length >>> 16;
  message[head.length - 2] = value.length >>> 8;
  message[head.length - 1] = value.length;
  message.set(value, head.length);
  return message;
}

/** Returns the commitment to a part that is open or closed. */
export function commitmentOf(part: Part): Uint8Array {
  return isOpen(part) ? partCommitment(part.name, part.salt, part.value) : part.commitment;
}

/** Returns the parts hash (32 bytes). `parts` MUST be in name order, without repeats. */
export function partsHash(parts: readonly Part[]): Uint8Array {
  return sha256(joinCommitments(parts));
}

/** The same as hex, as records have it. */
export function partsHashHex(parts: readonly Part[]): string {
  return sha256Hex(joinCommitments(parts));
}

/** Six parts at most, and the tag. */
const joined = new Uint8Array(512);

/** What the parts hash is the hash of, in memory that the next call uses again. */
function joinCommitments(parts: readonly Part[]): Uint8Array {
  joined.set(PARTS_TAG);
  let at = PARTS_TAG.length;
  let last = '';
  for (const part of parts) {
    assert(part.name > last, 'parts in name order');
    last = part.name;
    const { prefixed } = NAME_BYTES[part.name];
    joined.set(prefixed, at);
    at += prefixed.length;
    if (isOpen(part)) sha256Into(joined, at, committed(part.name, part.salt, part.value));
    else joined.set(part.commitment, at);
    at += HASH_SIZE;
  }
  return joined.subarray(0, at);
}
