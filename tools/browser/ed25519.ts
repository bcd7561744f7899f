/** `src/chain/ed25519.ts` without Node: what verifies. A page signs nothing. */
import { ed25519 } from '@noble/curves/ed25519.js';
import assert from './assert.ts';

export const ED25519_KEY_SIZE = 32;

export interface Ed25519Signer {
  readonly publicKey: Uint8Array;
  sign(message: Uint8Array): Uint8Array;
}

export function ed25519Signer(): Ed25519Signer {
  throw new Error('a page signs nothing');
}

export function ed25519Verifier(publicKey: Uint8Array): (message: Uint8Array, signature: Uint8Array) => boolean {
  assert(publicKey.length === ED25519_KEY_SIZE, 'an Ed25519 public key has 32 bytes');
  // RFC 8032 and no more: ZIP 215 takes encodings of points that it refuses.
  return (message, signature) => {
    try {
      return signature.length === 64 && ed25519.verify(signature, message, publicKey, { zip215: false });
    } catch {
      return false;
    }
  };
}
