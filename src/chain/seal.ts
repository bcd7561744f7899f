/**
 * Sealing: the parts of a block are encrypted with a key that is destroyed when they expire (DESIGN section 5).
 *
 *     key    = HKDF-SHA-256(data key, salt = 32 fresh random bytes, info = "sealog/seal/v1\0", 32 bytes)
 *     sealed = salt ‖ AES-256-GCM(key, nonce = 12 zero bytes, payload, associated data) ‖ tag (16 bytes)
 *     associated data = "sealog/seal/v1\0" ‖ LP(stream) ‖ the entries' parts hashes, 32 bytes each
 *
 * A fresh key for each sealing makes the fixed nonce safe (it is used once under each key) and re-sealing after an erasure
 * free of any counter. The associated data ties the sealed bytes to the stream and to exactly these entries.
 */
import assert from 'node:assert/strict';
import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, type KeyObject, randomBytes } from 'node:crypto';
import { EvidenceError } from '../errors.ts';
import { concatBytes, lengthPrefixed, utf8 } from './bytes.ts';

export const DATA_KEY_BYTES = 32;
const SALT_BYTES = 32;
const TAG_BYTES = 16;
const NONCE = new Uint8Array(12);
const INFO = utf8('sealog/seal/v1\0');

/** Keys go over as key objects: of bytes Node asks first whether they are one, by an error that it throws and catches, which costs 10 µs. */
function sealingKey(dataKey: Uint8Array, salt: Uint8Array): KeyObject {
  assert.equal(dataKey.length, DATA_KEY_BYTES);
  return createSecretKey(new Uint8Array(hkdfSync('sha256', createSecretKey(dataKey), salt, INFO, 32)));
}

function associatedData(stream: string, partsHashes: readonly Uint8Array[]): Uint8Array {
  return concatBytes(INFO, lengthPrefixed(utf8(stream)), ...partsHashes);
}

/** Returns the sealed payload of a block whose entries have these parts hashes (32 bytes each, in order). */
export function sealParts(
  dataKey: Uint8Array,
  stream: string,
  partsHashes: readonly Uint8Array[],
  payload: Uint8Array,
): Uint8Array {
  const salt = randomBytes(SALT_BYTES);
  const cipher = createCipheriv('aes-256-gcm', sealingKey(dataKey, salt), NONCE);
  cipher.setAAD(associatedData(stream, partsHashes));
  const sealed = cipher.update(payload);
  cipher.final();
  return concatBytes(salt, sealed, cipher.getAuthTag());
}

/** Returns the payload. Throws `EvidenceError` when key, stream, entries or bytes are not those that were sealed. */
export function openSealed(
  dataKey: Uint8Array,
  stream: string,
  partsHashes: readonly Uint8Array[],
  sealed: Uint8Array,
): Uint8Array {
  if (sealed.length < SALT_BYTES + TAG_BYTES) throw new EvidenceError('the sealed parts are cut short');
  const salt = sealed.subarray(0, SALT_BYTES);
  const decipher = createDecipheriv('aes-256-gcm', sealingKey(dataKey, salt), NONCE);
  decipher.setAAD(associatedData(stream, partsHashes));
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
  const payload = decipher.update(sealed.subarray(SALT_BYTES, sealed.length - TAG_BYTES));
  try {
    decipher.final();
  } catch (cause) {
    throw new EvidenceError('the sealed parts do not open with their key', { cause });
  }
  return payload;
}
