/**
 * Ed25519 (RFC 8032) over raw 32-byte keys. A build without Node replaces this file, as it does `sha256.ts`.
 *
 * node:crypto wants keys in their ASN.1 forms (RFC 8410), which for Ed25519 are fixed bytes before the raw key.
 */

import assert from 'node:assert/strict';
import { createPrivateKey, createPublicKey, sign, verify } from 'node:crypto';
import { fromHex } from './bytes.ts';

/** The length of a public key, and of the seed that is the private key. */
export const ED25519_KEY_SIZE = 32;

export interface Ed25519Signer {
  readonly publicKey: Uint8Array;
  sign(message: Uint8Array): Uint8Array;
}

const PRIVATE_PREFIX = fromHex('302e020100300506032b657004220420');
const PUBLIC_PREFIX = fromHex('302a300506032b6570032100');

/** Returns what signs with the private key that is this seed. */
export function ed25519Signer(seed: Uint8Array): Ed25519Signer {
  assert(seed.length === ED25519_KEY_SIZE, 'an Ed25519 seed has 32 bytes');
  const key = createPrivateKey({ key: asBuffer(PRIVATE_PREFIX, seed), format: 'der', type: 'pkcs8' });
  const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
  return {
    publicKey: spki.subarray(PUBLIC_PREFIX.length),
    sign: (message) => sign(null, message, key),
  };
}

/** Returns what says whether a signature is this key's over a message. A signature of another length is none. */
export function ed25519Verifier(publicKey: Uint8Array): (message: Uint8Array, signature: Uint8Array) => boolean {
  assert(publicKey.length === ED25519_KEY_SIZE, 'an Ed25519 public key has 32 bytes');
  const key = createPublicKey({ key: asBuffer(PUBLIC_PREFIX, publicKey), format: 'der', type: 'spki' });
  return (message, signature) => verify(null, message, key, signature);
}

/** In memory of its own: a seed has no business in the pool that short buffers share. */
function asBuffer(prefix: Uint8Array, key: Uint8Array): Buffer {
  const der = Buffer.alloc(prefix.length + key.length);
  der.set(prefix);
  der.set(key, prefix.length);
  return der;
}
