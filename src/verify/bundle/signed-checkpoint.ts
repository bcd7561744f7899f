/** Checkpoints that are signed by trusted keys, and until when their keys signed (docs/format.md sections 10 and 19). */
import { type Checkpoint, decodeCheckpoint } from '../../chain/checkpoint.ts';
import { type AnchorPlace, comparePlaces } from '../../chain/key-statement.ts';
import { openNote, unopenedText } from '../../chain/note.ts';
import { EvidenceError } from '../../errors.ts';
import type { TrustedKey } from '../trusted-keys.ts';

/** What a note says, before anybody has looked at who signed it. */
export interface StatedCheckpoint extends Checkpoint {
  readonly note: string;
  readonly text: string;
}

/** Returns what a checkpoint's note says. Throws an EvidenceError where it is no note of a checkpoint of ours. */
export function readStated(note: string): StatedCheckpoint {
  const text = unopenedText(note);
  const { origin, size, root, extensions } = decodeCheckpoint(text);
  if (extensions.length > 0) throw new EvidenceError('a checkpoint has lines that no checkpoint of Sealog has');
  return { note, text, origin, size, root };
}

/** Returns the trusted keys that signed a checkpoint, at least one. Throws an EvidenceError. */
export function signersOf(stated: StatedCheckpoint, keys: readonly TrustedKey[]): TrustedKey[] {
  const own = keys.filter((key) => key.name === stated.origin);
  const { verified } = openNote(
    stated.note,
    own.map((key) => key.verifier),
  );
  return own.filter(({ verifier }) => verified.some(({ keyId }) => keyId === verifier.keyId));
}

/** Whether one of these keys signs now. */
export function signsNow(signers: readonly TrustedKey[]): boolean {
  return signers.some(({ to }) => to === undefined);
}

/** Whether one of these keys still signed checkpoints of the anchor stream at this place: up to where the next generation began. */
export function signedUpTo(signers: readonly TrustedKey[], place: AnchorPlace): boolean {
  return signers.some(({ to }) => to === undefined || comparePlaces(place, to) <= 0);
}

/** Whether one of these keys still signed when the tick at this place was made. */
export function signedBefore(signers: readonly TrustedKey[], tick: AnchorPlace): boolean {
  return signers.some(({ to }) => to === undefined || comparePlaces(tick, to) < 0);
}
