/** `src/chain/sha256.ts` without Node. */
import { sha256 as hash } from '@noble/hashes/sha2.js';
import assert from './assert.ts';
import { toHex, utf8 } from './bytes.ts';

export const HASH_SIZE = 32;

export function sha256(data: Uint8Array | string): Uint8Array {
  return hash(typeof data === 'string' ? utf8(data) : data);
}

export function sha256Into(target: Uint8Array, at: number, data: Uint8Array): void {
  target.set(sha256(data), at);
}

export function sha256Hex(data: Uint8Array | string): string {
  const digest = sha256(data);
  assert(digest.length === HASH_SIZE);
  return toHex(digest);
}
