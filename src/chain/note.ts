/**
 * Signed notes (C2SP signed-note v1.0.0): a text with signatures that people can read and machines can check.
 *
 *     <text, whose last line ends in a newline, and which may contain empty lines>
 *     <an empty line>
 *     — <key name> <base64(key id, 4 bytes ‖ signature)>
 *     … one line for each signature
 *
 * - The text ends at the *last* empty line. Who splits at the first lets an attacker choose what he signed.
 * - UTF-8, and no character below U+0020 but newlines.
 * - A key is known by its name and its id together. Signatures by keys that we do not know are ignored, for that is how
 *   keys are rotated and witnesses added. But where one line of a key that we know is wrong, the whole note is refused.
 * - A note without a good signature of a known key has no text: `openNote` throws.
 *
 * A key is written as `<name>+<id, 8 hex digits>+<base64(type ‖ public key)>` (*vkey*), with
 * `id = SHA-256(name ‖ 0x0A ‖ type ‖ public key)[:4]`. Of the types, 0x01 (Ed25519) is signed and verified here.
 */

import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';
import { concatBytes, fromBase64, fromHex, fromUtf8, toBase64, toHex, utf8 } from './bytes.ts';
import { ED25519_KEY_SIZE, ed25519Signer, ed25519Verifier } from './ed25519.ts';
import { sha256 } from './sha256.ts';

/** A known key: what its signatures are called by, and what checks them. */
export interface NoteVerifier {
  readonly name: string;
  /** 8 hex digits. */
  readonly keyId: string;
  verify(text: Uint8Array, signature: Uint8Array): boolean;
}

export interface NoteSigner {
  readonly name: string;
  readonly keyId: string;
  /** The key that checks what this one signs, as text. */
  readonly vkey: string;
  sign(text: Uint8Array): Uint8Array;
}

/** A public key, as a vkey names it. */
export interface VerifierKey {
  readonly name: string;
  readonly keyId: string;
  /** The signature type that C2SP signed-note assigns, e.g. 0x01. */
  readonly type: number;
  readonly publicKey: Uint8Array;
}

export interface OpenedNote {
  /** What was signed, with its last newline. */
  readonly text: string;
  /** The known keys whose signatures are good, each once: at least one. */
  readonly verified: readonly { readonly name: string; readonly keyId: string }[];
  /** How many signature lines are by keys that we do not know: they say nothing. */
  readonly unverified: number;
}

/** A line below a note's text, before anybody has looked at what it signs. */
export interface SignatureLine {
  readonly name: string;
  /** 8 hex digits. */
  readonly keyId: string;
  readonly signature: Uint8Array;
}

export const TYPE_ED25519 = 0x01;

/** More than any checkpoint with a hundred post-quantum signatures. */
const NOTE_BYTES_MAX = 1_000_000;
/** The specification wants room for at least 16; each may cost us a verification. */
const SIGNATURES_MAX = 100;

const SIGNATURE_PREFIX = '— ';
const KEY_ID_SIZE = 4;
const SKEY_PREFIX = 'PRIVATE+KEY+';

// ---- Notes ----

/**
 * Opens a note with the keys that the caller trusts. Throws an EvidenceError where the form is wrong, where a signature
 * by one of these keys is wrong, and where there is none.
 */
export function openNote(note: Uint8Array | string, verifiers: readonly NoteVerifier[]): OpenedNote {
  const { text, lines } = splitNote(noteText(note));
  const message = utf8(text);
  const verified = new Map<string, { name: string; keyId: string }>();
  let unverified = 0;
  for (const { name, keyId, signature } of lines) {
    const known = verifiers.filter((verifier) => verifier.name === name && verifier.keyId === keyId);
    if (known.length === 0) {
      unverified += 1;
    } else if (known.some((verifier) => verifier.verify(message, signature))) {
      verified.set(`${name}+${keyId}`, { name, keyId });
    } else {
      throw new EvidenceError(`the signature of ${name}+${keyId} is wrong`);
    }
  }
  if (verified.size === 0) {
    throw new EvidenceError('no known key has signed this note');
  }
  return { text, verified: [...verified.values()], unverified };
}

/** Returns the text of a note whose form is right, whoever signed it. Throws an EvidenceError. */
export function unopenedText(note: string): string {
  return splitNote(noteText(note)).text;
}

/** Returns the note of a text that ends in a newline, with a signature line for each signer in the order given. */
export function signNote(text: string, signers: readonly NoteSigner[]): string {
  assert(text.endsWith('\n') && !hasControlCharacter(text), 'this text can not be a note');
  assert(signers.length > 0 && signers.length <= SIGNATURES_MAX, 'a note has 1 to 100 signatures');
  const message = utf8(text);
  const lines = signers.map((signer) => {
    return `${formatSignatureLine({ name: signer.name, keyId: signer.keyId, signature: signer.sign(message) })}\n`;
  });
  return `${text}\n${lines.join('')}`;
}

/** Returns the text of a note, its signatures unchecked: for what the note only claims. Empty where it has none. */
export function claimedText(note: string): string {
  return note.slice(0, note.lastIndexOf('\n\n') + 1);
}

/** Says whether a text has a character that notes must not have: one below U+0020 that is no newline. */
export function hasControlCharacter(text: string): boolean {
  return /[\u0000-\u0009\u000b-\u001f]/.test(text);
}

function noteText(note: Uint8Array | string): string {
  // A text has at least as many bytes as UTF-16 code units: a huge one is not even looked at.
  const tooLong = `a note has at most ${NOTE_BYTES_MAX} bytes`;
  if (note.length > NOTE_BYTES_MAX) throw new EvidenceError(tooLong);
  const text = typeof note === 'string' ? note : fromUtf8(note);
  if (!text.isWellFormed() || hasControlCharacter(text)) {
    throw new EvidenceError('a note has a character that notes must not have');
  }
  if (utf8(text).length > NOTE_BYTES_MAX) throw new EvidenceError(tooLong);
  return text;
}

function splitNote(note: string): { text: string; lines: SignatureLine[] } {
  const split = note.lastIndexOf('\n\n');
  if (split < 0) {
    throw new EvidenceError('a note without an empty line has no signatures');
  }
  const signatures = note.slice(split + 2);
  if (!signatures.endsWith('\n')) {
    throw new EvidenceError('the signatures of a note are missing or cut');
  }
  const lines = signatures.slice(0, -1).split('\n');
  if (lines.length > SIGNATURES_MAX) {
    throw new EvidenceError(`a note has at most ${SIGNATURES_MAX} signatures`);
  }
  return { text: note.slice(0, split + 1), lines: lines.map(parseSignatureLine) };
}

/** Returns a signature line, without its newline. */
export function formatSignatureLine({ name, keyId, signature }: SignatureLine): string {
  return `${SIGNATURE_PREFIX}${name} ${toBase64(concatBytes(fromHex(keyId), signature))}`;
}

/** Reads a signature line without its newline, undoing `formatSignatureLine`. Throws an EvidenceError. */
export function parseSignatureLine(line: string): SignatureLine {
  const [dash, name, base64, ...more] = line.split(' ');
  if (`${dash} ` !== SIGNATURE_PREFIX || name === undefined || base64 === undefined || more.length > 0) {
    throw new EvidenceError('a signature line is "— <key name> <base64>"');
  }
  checkKeyName(name);
  const bytes = fromBase64(base64);
  if (bytes.length <= KEY_ID_SIZE) {
    throw new EvidenceError('a signature line without a signature');
  }
  return { name, keyId: toHex(bytes.subarray(0, KEY_ID_SIZE)), signature: bytes.subarray(KEY_ID_SIZE) };
}

// ---- Keys ----

/** Returns the Ed25519 key of this name. Throws an EvidenceError where the name can not be a key's. */
export function ed25519Key(name: string, publicKey: Uint8Array): VerifierKey {
  assert(publicKey.length === ED25519_KEY_SIZE, 'an Ed25519 public key has 32 bytes');
  checkKeyName(name);
  return { name, keyId: keyIdOf(name, TYPE_ED25519, publicKey), type: TYPE_ED25519, publicKey };
}

/**
 * Returns what signs notes as `name` with the Ed25519 key of this seed. Throws an EvidenceError for a name as above.
 */
export function noteSigner(name: string, seed: Uint8Array): NoteSigner {
  const { publicKey, sign } = ed25519Signer(seed);
  const key = ed25519Key(name, publicKey);
  return { name, keyId: key.keyId, vkey: formatVkey(key), sign };
}

/** Returns what checks the signatures of a key. Throws an EvidenceError for a type that we do not verify. */
export function noteVerifier(key: VerifierKey): NoteVerifier {
  if (key.type !== TYPE_ED25519) {
    throw new EvidenceError(`the key ${key.name} has the type ${key.type}, which is not verified here`);
  }
  return { name: key.name, keyId: key.keyId, verify: ed25519Verifier(key.publicKey) };
}

/** Returns the text of a key. */
export function formatVkey({ name, keyId, type, publicKey }: VerifierKey): string {
  return `${name}+${keyId}+${toBase64(concatBytes(Uint8Array.of(type), publicKey))}`;
}

/**
 * Reads a key, undoing `formatVkey`. Throws an EvidenceError, also where the id is not the hash that the format
 * recommends (as it is not for the types 0x02 and 0x05, which need another reader).
 */
export function parseVkey(vkey: string): VerifierKey {
  const { name, keyId, type, key } = parseKey(vkey);
  if (type === TYPE_ED25519 && key.length !== ED25519_KEY_SIZE) {
    throw new EvidenceError('an Ed25519 public key has 32 bytes');
  }
  if (keyId !== keyIdOf(name, type, key)) {
    throw new EvidenceError(`the id of the key ${name} is not its hash`);
  }
  return { name, keyId, type, publicKey: key };
}

/** Reads an Ed25519 signing key as Go's sumdb/note writes it. Throws an EvidenceError, which never carries the key. */
export function parseSkey(skey: string): NoteSigner {
  if (!skey.startsWith(SKEY_PREFIX)) {
    throw new EvidenceError(`a signing key begins with ${SKEY_PREFIX}`);
  }
  const { name, keyId, type, key: seed } = parseKey(skey.slice(SKEY_PREFIX.length));
  if (type !== TYPE_ED25519 || seed.length !== ED25519_KEY_SIZE) {
    throw new EvidenceError('a signing key is an Ed25519 seed of 32 bytes');
  }
  const signer = noteSigner(name, seed);
  if (signer.keyId !== keyId) {
    throw new EvidenceError(`the id of the signing key ${name} is not its hash`);
  }
  return signer;
}

/** `<name>+<id>+<base64(type ‖ key)>`: neither name nor id has a plus sign, but the base64 may. */
function parseKey(text: string): { name: string; keyId: string; type: number; key: Uint8Array } {
  const first = text.indexOf('+');
  const second = text.indexOf('+', first + 1);
  if (first < 0 || second < 0) {
    throw new EvidenceError('a key is "<name>+<id>+<base64>"');
  }
  const name = text.slice(0, first);
  const keyId = text.slice(first + 1, second);
  checkKeyName(name);
  const bytes = fromBase64(text.slice(second + 1));
  const [type] = bytes;
  if (type === undefined) {
    throw new EvidenceError('the key is empty');
  }
  return { name, keyId, type, key: bytes.subarray(1) };
}

/** Returns the id of a key, as the format recommends it: 8 hex digits. */
export function keyIdOf(name: string, type: number, publicKey: Uint8Array): string {
  return toHex(sha256(concatBytes(utf8(`${name}\n`), Uint8Array.of(type), publicKey)).subarray(0, KEY_ID_SIZE));
}

function checkKeyName(name: string): void {
  if (name === '' || !name.isWellFormed() || hasControlCharacter(name) || /[+\p{White_Space}]/u.test(name)) {
    throw new EvidenceError('a key name has at least one character, and neither spaces nor plus signs');
  }
}
