/**
 * Bytes: the few ways in which this project writes text, numbers and hashes as bytes, and reads them back strictly.
 *
 * What is read is either exactly what the writer writes, or refused with an `EvidenceError`: a byte sequence has one
 * hex text, one base64 text and one UTF-8 text, so nothing can be changed in a way that no check sees.
 *
 * Functions here and in `sha256.ts` may return a `Buffer`, because it is faster; the type says `Uint8Array`, and
 * callers MUST use only what both do alike: `subarray` for a view, `new Uint8Array(x)` for a copy, never `slice` (a
 * copy in one, a view in the other) and never `toString`.
 */

import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';

const U32_MAX = 0xffff_ffff;

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Returns the UTF-8 bytes of a text. A lone surrogate would silently become U+FFFD: the strict reader has refused it
 * before.
 */
export function utf8(text: string): Uint8Array {
  assert(text.isWellFormed(), 'a text with a lone surrogate has no UTF-8 form');
  return Buffer.from(text, 'utf8');
}

/**
 * Returns the text of UTF-8 bytes, undoing `utf8`; a byte order mark is kept as what it is. Throws an EvidenceError.
 */
export function fromUtf8(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch (cause) {
    throw new EvidenceError('not UTF-8', { cause });
  }
}

/** Joins bytes: `‖` in the formats. */
export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}

/** Returns a number from 0 to 2^32−1 as 4 bytes, big-endian. */
export function u32be(n: number): Uint8Array {
  assert(Number.isInteger(n) && n >= 0 && n <= U32_MAX, 'not a u32');
  return Uint8Array.of(n >>> 24, n >>> 16, n >>> 8, n);
}

/** `LP(x)` of DESIGN section 4: the length of x as u32 big-endian, then x. */
export function lengthPrefixed(bytes: Uint8Array): Uint8Array {
  return concatBytes(u32be(bytes.length), bytes);
}

/** Returns lower-case hex. */
export function toHex(bytes: Uint8Array): string {
  return view(bytes).toString('hex');
}

/** Reads hex as `toHex` writes it: lower-case, two digits a byte. Throws an EvidenceError. */
export function fromHex(text: string): Uint8Array {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/.test(text)) {
    throw new EvidenceError('not lower-case hex');
  }
  return Buffer.from(text, 'hex');
}

/** Returns standard base64 (RFC 4648 section 4) with padding. */
export function toBase64(bytes: Uint8Array): string {
  return view(bytes).toString('base64');
}

/**
 * Reads base64 as `toBase64` writes it: standard alphabet, padded, unused bits zero, no white space. Throws an
 * EvidenceError.
 */
export function fromBase64(text: string): Uint8Array {
  const bytes = Buffer.from(text, 'base64');
  // Node's reader skips what it does not know and takes the URL alphabet; writing it again shows all of it.
  if (bytes.toString('base64') !== text) {
    throw new EvidenceError('not canonical base64');
  }
  return bytes;
}

/** Says whether both hold the same bytes. Not in constant time: what is compared here is public. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

/** Orders bytes as unsigned numbers, a prefix before what it begins: negative, 0 or positive. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b);
}

function view(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
