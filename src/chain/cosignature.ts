/**
 * Cosignatures (C2SP tlog-cosignature v1.0.1, Ed25519): what a witness signs when it has seen that a log only grew.
 *
 * A cosignature is a signature line of a checkpoint's note (`note.ts`) whose signature is
 *
 *     time, u64 big-endian, seconds since 1970 ‖ Ed25519 signature, 64 bytes
 *
 * and what is signed is not the text of the checkpoint but
 *
 *     cosignature/v1
 *     time <time, decimal>
 *     <the whole text of the checkpoint>
 *
 * It says: at this time, the largest consistent tree that I have seen of this log has this size and root. The witness's
 * name is not signed, so a key MUST belong to one witness. Its vkey has the type 0x04; a key of the type 0x01, which
 * would sign texts, is refused here, as `noteVerifier` refuses one of 0x04.
 */

import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';
import { concatBytes, u32be, utf8 } from './bytes.ts';
import { decodeCheckpoint } from './checkpoint.ts';
import { ED25519_KEY_SIZE, ed25519Signer, ed25519Verifier } from './ed25519.ts';
import {
  formatSignatureLine,
  formatVkey,
  keyIdOf,
  parseSignatureLine,
  parseVkey,
  type SignatureLine,
  type VerifierKey,
} from './note.ts';

export interface Cosignature {
  /** The witness's name, which stands in its vkey. */
  readonly name: string;
  /** Seconds since 1970, as the witness states them. */
  readonly time: number;
}

export interface Cosigner {
  readonly name: string;
  readonly keyId: string;
  readonly vkey: string;
  /** Returns the signature line over the text of a checkpoint, without its newline. `time` is in seconds since 1970. */
  cosign(checkpointText: string, time: number): string;
}

export const TYPE_COSIGNATURE = 0x04;

const TIME_SIZE = 8;
const SIGNATURE_SIZE = 64;
const WORD = 2 ** 32;

/** Reads the vkey of a witness. Throws an EvidenceError, also for a key of another type. */
export function parseCosignerVkey(vkey: string): VerifierKey {
  const key = parseVkey(vkey);
  if (key.type !== TYPE_COSIGNATURE) {
    throw new EvidenceError(`the key ${key.name} has the type ${key.type}: a witness's has 4`);
  }
  if (key.publicKey.length !== ED25519_KEY_SIZE) {
    throw new EvidenceError('an Ed25519 public key has 32 bytes');
  }
  return key;
}

/** Says whether a signature line is called by this key's name and id, so that `checkCosignature` takes it up. */
export function isLineOf(key: VerifierKey, line: SignatureLine): boolean {
  return line.name === key.name && line.keyId === key.keyId;
}

/**
 * Returns what a cosignature says when it is this witness's over this checkpoint; else throws an EvidenceError.
 *
 * @param line the signature line, without its newline
 * @param checkpointText the text of the checkpoint's note, with its last newline
 * @param vkey of the witness, type 0x04
 */
export function checkCosignature(line: string, checkpointText: string, vkey: string): Cosignature {
  const key = parseCosignerVkey(vkey);
  if (!checkpointText.isWellFormed()) {
    throw new EvidenceError('a text with a lone surrogate is no checkpoint');
  }
  decodeCheckpoint(checkpointText);
  const parsed = parseSignatureLine(line);
  if (!isLineOf(key, parsed)) {
    throw new EvidenceError(`the cosignature is by ${parsed.name}+${parsed.keyId}, not by ${key.name}+${key.keyId}`);
  }
  const { signature } = parsed;
  if (signature.length !== TIME_SIZE + SIGNATURE_SIZE) {
    throw new EvidenceError(`a cosignature has ${TIME_SIZE + SIGNATURE_SIZE} bytes, not ${signature.length}`);
  }
  const view = new DataView(signature.buffer, signature.byteOffset, TIME_SIZE);
  const time = view.getUint32(0) * WORD + view.getUint32(4);
  // C2SP allows times up to 2^63−1; no clock says one that a double can not hold.
  if (!Number.isSafeInteger(time)) {
    throw new EvidenceError('the time of a cosignature is beyond 2^53−1 seconds');
  }
  if (!ed25519Verifier(key.publicKey)(signedMessage(checkpointText, time), signature.subarray(TIME_SIZE))) {
    throw new EvidenceError(`the cosignature of ${key.name}+${key.keyId} is wrong`);
  }
  return { name: key.name, time };
}

/** Returns what cosigns as the witness `name` with the Ed25519 key of this seed. */
export function cosigner(name: string, seed: Uint8Array): Cosigner {
  const { publicKey, sign } = ed25519Signer(seed);
  const keyId = keyIdOf(name, TYPE_COSIGNATURE, publicKey);
  return {
    name,
    keyId,
    vkey: formatVkey({ name, keyId, type: TYPE_COSIGNATURE, publicKey }),
    cosign(checkpointText, time) {
      assert(Number.isSafeInteger(time) && time >= 0, 'a time is a whole number of seconds');
      const signature = sign(signedMessage(checkpointText, time));
      const stamp = concatBytes(u32be(Math.floor(time / WORD)), u32be(time % WORD));
      return formatSignatureLine({ name, keyId, signature: concatBytes(stamp, signature) });
    },
  };
}

function signedMessage(checkpointText: string, time: number): Uint8Array {
  return utf8(`cosignature/v1\ntime ${time}\n${checkpointText}`);
}
