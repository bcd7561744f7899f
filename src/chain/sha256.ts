/**
 * SHA-256 (FIPS 180-4), the only hash in Sealog's formats.
 *
 * @noble/hashes is the reference: `test/sha256.test.ts` shows that both agree for every length around the block
 * boundaries and for random ones. `node:crypto` is used because it pays on the hot path (`bench/hash.ts`: four to six
 * times as fast). No other file of the chain knows which of them it is, so that a build without Node replaces this file
 * alone.
 */

import assert from 'node:assert/strict';
import { hash } from 'node:crypto';

/** The length of a hash in bytes. */
export const HASH_SIZE = 32;

/** Returns the hash of bytes, or of the UTF-8 form of a well-formed text: 32 bytes. */
export function sha256(data: Uint8Array | string): Uint8Array {
  // As text with one character a byte: asked for a Buffer, Node allocates memory outside its heap for each, and is
  // three times slower.
  return Buffer.from(hash('sha256', wellFormed(data), 'binary'), 'latin1');
}

/** Writes the hash into `target`, 32 bytes from `at` on: without the memory that a hash of its own would take, on the hot path. */
export function sha256Into(target: Uint8Array, at: number, data: Uint8Array): void {
  const bytes = hash('sha256', data, 'binary');
  for (let i = 0; i < HASH_SIZE; i++) target[at + i] = bytes.charCodeAt(i);
}

/** Returns the hash as lower-case hex, as `sha256sum` prints it. */
export function sha256Hex(data: Uint8Array | string): string {
  return hash('sha256', wellFormed(data), 'hex');
}

/** A lone surrogate would be hashed as U+FFFD: two texts, one hash. The strict reader has refused it before. */
function wellFormed(data: Uint8Array | string): Uint8Array | string {
  assert(typeof data !== 'string' || data.isWellFormed(), 'a text with a lone surrogate has no UTF-8 form');
  return data;
}
