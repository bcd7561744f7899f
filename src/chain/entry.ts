/**
 * An event on its way to becoming an entry. A `PendingEntry` has everything but a place; all of it is worked out before any
 * lock is taken.
 */
import { randomBytes } from 'node:crypto';
import type { Spanned } from './block.ts';
import { canonicalBytes, canonicalText, decodeCanonical, type JsonObject, type JsonValue } from './canonical.ts';
import { OUTCOMES, type Outcome } from './category.ts';
import { type OpenPart, PART_NAMES, type PartName, partsHashHex, SALT_BYTES } from './part.ts';
import { framedRecord, frameRecord, type RecordFrame } from './record.ts';
import { sha256Hex } from './sha256.ts';
import { type Mark, marksOf } from './tag.ts';

/** A stream as far as appending needs to know it. */
export interface StreamRef {
  readonly id: number;
  readonly tenantId: number;
  readonly name: string;
  /** Calendar months that an entry is kept, undefined = for ever, as far as is known: what counts stands in the row that the sequencer locks. */
  readonly retentionMonths: number | undefined;
  readonly retentionBefore?: readonly EarlierRetention[] | undefined;
  /** Epochs that this one goes on for under a shorter policy, and in which an id may still be known. */
  readonly earlier?: readonly EarlierEpoch[] | undefined;
}

/** Months that counted in a stream earlier, until an instant; milliseconds since 1970. */
export interface EarlierRetention {
  readonly months: number;
  readonly until: number;
}

/** An epoch that was closed at its last entry. It changes no more. */
export interface EarlierEpoch
  extends Pick<StreamRef, 'id' | 'tenantId' | 'name' | 'retentionMonths' | 'retentionBefore'> {
  /** Of its last entry. */
  readonly recordedAt: number;
  readonly retainUntil: number | undefined;
}

interface EventHead {
  readonly id: string;
  readonly action: string;
  readonly outcome: Outcome;
  readonly severity?: number | undefined;
  readonly occurredAt: string;
  readonly source: JsonObject;
  readonly evidence?: 'incomplete' | undefined;
}

/** What a valid event says, its id decided. */
export interface EventFields extends EventHead {
  readonly parts: { readonly [name in PartName]?: JsonValue | undefined };
}

/** The same in canonical form, and the values of it that marks are taken from. */
export interface CanonicalEvent extends EventHead {
  readonly sourceText: string;
  /** In name order. */
  readonly parts: readonly { readonly name: PartName; readonly value: Uint8Array }[];
  readonly actor: JsonValue | undefined;
  readonly target: JsonValue | undefined;
}

/** What the sequencer needs of an entry to give it a place. */
export interface PlacelessEntry {
  readonly stream: StreamRef;
  readonly id: string;
  readonly idHash: string;
  /** False where the id is ours and new: nothing can repeat it. */
  readonly mayRepeat: boolean;
  readonly frame: RecordFrame;
  /** About what it takes in a block before compression. */
  readonly bytes: number;
}

export interface PendingEntry extends PlacelessEntry, Spanned {
  /** What it is made of. */
  readonly event: CanonicalEvent;
  readonly parts: readonly OpenPart[];
  /** Hex. */
  readonly partsHash: string;
  readonly marks: readonly Mark[];
}

/** Returns the canonical form of an event. */
export function canonicalEvent(event: EventFields): CanonicalEvent {
  const parts = PART_NAMES.flatMap((name) => {
    const value = event.parts[name];
    return value === undefined ? [] : [{ name, value: canonicalBytes(value) }];
  });
  const { actor, target } = event.parts;
  return { ...event, sourceText: canonicalText(event.source), parts, actor, target };
}

/** Returns the event that an entry was made of, from what is kept of it. */
export function eventOf(frame: RecordFrame, parts: readonly OpenPart[]): CanonicalEvent {
  const { stream: _, parts: __, ...said } = framedRecord(frame);
  const valueIn = (name: PartName): JsonValue | undefined => {
    const part = parts.find((one) => one.name === name);
    return part === undefined ? undefined : decodeCanonical(part.value);
  };
  return {
    ...said,
    sourceText: canonicalText(said.source),
    parts,
    actor: valueIn('actor'),
    target: valueIn('target'),
  };
}

/** Returns the pending entry of an event: its parts committed to, its record framed. */
export function pendingEntry(stream: StreamRef, event: EventFields, mayRepeat: boolean): PendingEntry {
  return pendingCanonical(stream, canonicalEvent(event), mayRepeat);
}

/** Returns the pending entry of an event whose canonical form is known. */
export function pendingCanonical(stream: StreamRef, event: CanonicalEvent, mayRepeat: boolean): PendingEntry {
  const { id, action, outcome, severity, occurredAt, source, actor, target } = event;
  const parts: OpenPart[] = [];
  let bytes = 0;
  for (const { name, value } of event.parts) {
    parts.push({ name, salt: freshSalt(), value });
    bytes += SALT_BYTES + value.length;
  }
  const hash = partsHashHex(parts);
  const frame = frameRecord({ ...event, stream: stream.name, parts: hash }, event.sourceText);
  return {
    stream,
    id,
    idHash: entryIdHash(id),
    mayRepeat,
    frame,
    bytes: bytes + frame.end - frame.start + 150,
    event,
    ...spanned({ occurredAt, severity, outcome }),
    parts,
    partsHash: hash,
    marks: marksOf({ action, source, actor, target }),
  };
}

/** Returns what a block's spans are made of. */
export function spanned({
  occurredAt,
  severity,
  outcome,
}: Pick<EventHead, 'occurredAt' | 'severity' | 'outcome'>): Spanned {
  return { occurredAt: Date.parse(occurredAt), severity, outcome: OUTCOMES.indexOf(outcome) };
}

/** Returns the first 16 bytes of H("sealog/id/v1\0" ‖ id), written as a UUID, since that is PostgreSQL's 16-byte type. */
export function entryIdHash(id: string): string {
  const hex = sha256Hex(`sealog/id/v1\0${id}`);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
}

/** Random bytes are drawn for this many salts at a time: a system call each would cost more than the hash. */
const POOL_SALTS = 256;
let pool = new Uint8Array(0);
let used = 0;

function freshSalt(): Uint8Array {
  if (used === pool.length) {
    pool = randomBytes(POOL_SALTS * SALT_BYTES);
    used = 0;
  }
  used += SALT_BYTES;
  return pool.subarray(used - SALT_BYTES, used);
}
