/**
 * The record: what happened, when, in which place of which stream (DESIGN section 4).
 *
 * A record is the canonical JSON (RFC 8785) of
 *
 *     { v: 1, stream, seq, previous, id, action, outcome, severity?, occurredAt, recordedAt, retainUntil?, source, evidence?, parts }
 *
 * `previous` is the hash of entry seq−1 (64 zeros at 0), `parts` the parts hash, hashes are lower-case hex. The bytes that are
 * hashed are the bytes that are stored. A record's hash is H(0x00 ‖ record): the chain link and the RFC 6962 leaf hash in one,
 * so that chain and tree can not disagree.
 */
import { EvidenceError } from '../errors.ts';
import { fromUtf8, utf8 } from './bytes.ts';
import { canonicalText, type JsonObject, type JsonValue } from './canonical.ts';
import { isSurelyCanonical } from './canonical-scan.ts';
import { OUTCOMES, type Outcome } from './category.ts';
import { parseInstant } from './retain-until.ts';

/** C2SP entry bundles prefix an entry with its length in 16 bits. */
export const RECORD_BYTES_MAX = 65_535;

/** What precedes the first entry of a stream. */
export const NO_PREVIOUS = '0'.repeat(64);

/** What a record says before it has a position. */
export interface UnplacedRecord {
  readonly stream: string;
  readonly id: string;
  readonly action: string;
  readonly outcome: Outcome;
  readonly severity?: number | undefined;
  /** RFC 3339 with an offset, exactly as the client wrote it. */
  readonly occurredAt: string;
  readonly source: JsonObject;
  /** Present when the category's evidence was missing and the tenant's policy took the event all the same. */
  readonly evidence?: 'incomplete' | undefined;
  /** The parts hash, hex. */
  readonly parts: string;
}

/** The position: what only the sequencer knows. */
export interface Place {
  readonly seq: number;
  /** Hash of the entry before, hex. */
  readonly previous: string;
  /** The database's clock at sequencing, `YYYY-MM-DDThh:mm:ss.sssZ`. */
  readonly recordedAt: string;
  /** Absent where the stream is kept for ever. */
  readonly retainUntil?: string;
}

export type Rec = UnplacedRecord & Place;

/** A record without its position: what is before that and, right behind, what is after. All of it is made before the stream is locked. */
export interface RecordFrame {
  /** UTF-8, of which others may have more. */
  readonly bytes: Uint8Array;
  readonly start: number;
  /** Where the position belongs. */
  readonly split: number;
  readonly end: number;
}

/** Returns what of the record does not depend on the position. `source` is that of the record in canonical form. */
export function frameRecord(record: UnplacedRecord, source = canonicalText(record.source)): RecordFrame {
  const { before, after } = textsAround(record, source);
  const text = before + after;
  const bytes = utf8(text);
  const split = bytes.length === text.length ? before.length : Buffer.byteLength(before);
  return { bytes, start: 0, split, end: bytes.length };
}

function textsAround(record: UnplacedRecord, source: string): { before: string; after: string } {
  const evidence = record.evidence === undefined ? '' : `"evidence":${JSON.stringify(record.evidence)},`;
  const severity = record.severity === undefined ? '' : `,"severity":${record.severity}`;
  return {
    before:
      `{"action":${JSON.stringify(record.action)},${evidence}"id":${JSON.stringify(record.id)},` +
      `"occurredAt":${JSON.stringify(record.occurredAt)},"outcome":"${record.outcome}","parts":"${record.parts}","previous":"`,
    after: `${severity},"source":${source},"stream":${JSON.stringify(record.stream)},"v":1}`,
  };
}

/** Returns the position as it is written into a frame: ASCII. */
function placeText({ previous, recordedAt, retainUntil, seq }: Place): string {
  const retained = retainUntil === undefined ? '' : `","retainUntil":"${retainUntil}`;
  return `${previous}","recordedAt":"${recordedAt}${retained}","seq":${seq}`;
}

/** No position takes more. */
const PLACE_BYTES_MAX = placeText({
  seq: Number.MAX_SAFE_INTEGER,
  previous: NO_PREVIOUS,
  recordedAt: '9999-12-31T23:59:59.999Z',
  retainUntil: '9999-12-31T23:59:59.999Z',
}).length;

/** Returns how long a record becomes at most. */
export function recordBytesMax({ start, end }: RecordFrame): number {
  return end - start + PLACE_BYTES_MAX;
}

/**
 * Writes the record into `target`, from `at` on, and returns where it ends. Member names stand in the order of RFC 8785; each value is already
 * in canonical form.
 */
export function placeRecord(
  { bytes, start, split, end }: RecordFrame,
  place: Place,
  target: Buffer,
  at: number,
): number {
  target.set(bytes.subarray(start, split), at);
  const placeAt = at + split - start;
  const afterAt = placeAt + target.write(placeText(place), placeAt, 'latin1');
  target.set(bytes.subarray(split, end), afterAt);
  return afterAt + end - split;
}

/** Returns what a frame says. */
export function framedRecord(frame: RecordFrame): UnplacedRecord {
  const place = { seq: 0, previous: NO_PREVIOUS, recordedAt: '1970-01-01T00:00:00.000Z' };
  const bytes = Buffer.alloc(recordBytesMax(frame));
  const {
    seq: _,
    previous: __,
    recordedAt: ___,
    ...said
  } = decodeRecord(bytes.subarray(0, placeRecord(frame, place, bytes, 0)));
  return said;
}

/** Returns the record's canonical text. */
export function encodeRecord(record: Rec): string {
  const { before, after } = textsAround(record, canonicalText(record.source));
  return before + placeText(record) + after;
}

/**
 * Returns what a record's bytes say. Throws `EvidenceError` unless they are exactly what `encodeRecord` would write: one
 * record has one spelling, and nothing that is not understood is let through.
 */
export function decodeRecord(bytes: Uint8Array): Rec {
  if (bytes.length > RECORD_BYTES_MAX) throw new EvidenceError('the record is longer than 65,535 bytes');
  let text: string;
  let value: JsonValue;
  try {
    text = fromUtf8(bytes);
    const written = readWritten(text);
    if (written !== undefined) return written;
    value = JSON.parse(text) as JsonValue;
  } catch (cause) {
    // The engine's own message would quote the text.
    throw new EvidenceError('the record is not JSON', { cause: cause instanceof EvidenceError ? cause : undefined });
  }
  const record = asRecord(value);
  if (encodeAgain(record) !== text) throw new EvidenceError('the record is not in canonical form');
  return record;
}

/** What nearly every record looks like: members in their order, no escapes, numbers of at most 15 digits. */
const WRITTEN = new RegExp(
  [
    '^\\{"action":"(T)",(?:"evidence":"(incomplete)",)?"id":"(T)","occurredAt":"(T)","outcome":"(success|failure|unknown)"',
    '"parts":"(H)","previous":"(H)","recordedAt":"(I)",(?:"retainUntil":"(I)",)?"seq":(0|[1-9][0-9]{0,14})',
    '(?:"severity":(10|[0-9]),)?"source":(\\{[^\\\\]*\\}),"stream":"(T)","v":1\\}$',
  ]
    .join(',')
    .replaceAll('(T)', '([^"\\\\\\u0000-\\u001f]*)')
    .replaceAll('(H)', '([0-9a-f]{64})')
    .replaceAll('(I)', '([-0-9T:.Z]{24})'),
);

/** How a record begins, up to the hash of its parts. No text in it can look like what follows: quotes are escaped there. */
const UP_TO_PARTS = new RegExp(
  '^{"action":"T",(?:"evidence":"incomplete",)?"id":"T","occurredAt":"T","outcome":"[a-z]+","parts":"([0-9a-f]{64})"'
    .replace('{', '\\{')
    .replaceAll('T', '[^"\\\\\\u0000-\\u001f]*'),
);

/**
 * Returns the hash of the parts that a record names, of one that is otherwise not needed: a third of the cost of reading it. Throws
 * `EvidenceError` where it names none.
 */
export function partsHashIn(bytes: Uint8Array): string {
  let text = '';
  try {
    text = fromUtf8(bytes);
  } catch {
    // Then it is no record, which the other way of reading says.
  }
  return UP_TO_PARTS.exec(text)?.[1] ?? decodeRecord(bytes).parts;
}

/** Texts of sources that are canonical. They repeat: a few services send most of what is sent. */
const knownSources = new Set<string>();
const SOURCES_REMEMBERED = 1000;

/**
 * Reads a record that looks as nearly all do. It is read by one expression, which is half of the cost of parsing and writing it again, and matches
 * only what `encodeRecord` writes. Undefined where it does not match: then that decides.
 */
function readWritten(text: string): Rec | undefined {
  const match = WRITTEN.exec(text);
  if (match === null) return undefined;
  const [
    ,
    action,
    evidence,
    id,
    occurredAt,
    outcome,
    parts,
    previous,
    recordedAt,
    retainUntil,
    seq,
    severity,
    source,
    stream,
  ] = match;
  if (!isInstant(recordedAt!, 'recordedAt') || (retainUntil !== undefined && !isInstant(retainUntil, 'retainUntil')))
    return undefined;
  if (!knownSources.has(source!)) {
    // What the expression took for the source may be more than that: then it is no JSON.
    if (!isSurelyCanonical(utf8(source!))) return undefined;
    if (knownSources.size >= SOURCES_REMEMBERED) knownSources.clear();
    knownSources.add(source!);
  }
  return {
    stream: stream!,
    id: id!,
    action: action!,
    outcome: outcome as Outcome,
    ...(severity === undefined ? {} : { severity: Number(severity) }),
    occurredAt: occurredAt!,
    source: JSON.parse(source!) as JsonObject,
    ...(evidence === undefined ? {} : { evidence: 'incomplete' }),
    parts: parts!,
    seq: Number(seq),
    previous: previous!,
    recordedAt: recordedAt!,
    ...(retainUntil === undefined ? {} : { retainUntil }),
  };
}

/** Canonical JSON has no lone surrogates and a bounded depth: what has is not what `encodeRecord` was ever given. */
function encodeAgain(record: Rec): string {
  const wellFormed = [record.stream, record.id, record.action, record.occurredAt].every((text) => text.isWellFormed());
  if (!wellFormed) throw new EvidenceError('the record has a lone surrogate');
  try {
    return encodeRecord(record);
  } catch (cause) {
    throw new EvidenceError("the record's source has no canonical form", { cause });
  }
}

function asRecord(value: JsonValue): Rec {
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    throw new EvidenceError('the record is not an object');
  const object = value as Record<string, JsonValue | undefined>;
  if (object['v'] !== 1) throw new EvidenceError('the record is not of version 1');
  const { severity, retainUntil, evidence } = object;
  return {
    stream: text(object, 'stream'),
    id: text(object, 'id'),
    action: text(object, 'action'),
    outcome: outcome(object['outcome']),
    ...(severity === undefined ? {} : { severity: integer(severity, 'severity', 10) }),
    occurredAt: text(object, 'occurredAt'),
    source: source(object['source']),
    ...(evidence === undefined ? {} : { evidence: incomplete(evidence) }),
    parts: hash(object, 'parts'),
    seq: integer(object['seq'], 'seq', Number.MAX_SAFE_INTEGER),
    previous: hash(object, 'previous'),
    recordedAt: instant(object['recordedAt'], 'recordedAt'),
    ...(retainUntil === undefined ? {} : { retainUntil: instant(retainUntil, 'retainUntil') }),
  };
}

function text(object: Record<string, JsonValue | undefined>, member: string): string {
  const value = object[member];
  if (typeof value !== 'string') throw new EvidenceError(`the record's ${member} is not a string`);
  return value;
}

function hash(object: Record<string, JsonValue | undefined>, member: string): string {
  const value = text(object, member);
  if (!/^[0-9a-f]{64}$/.test(value)) throw new EvidenceError(`the record's ${member} is not a hash`);
  return value;
}

function integer(value: JsonValue | undefined, member: string, max: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0 || value > max) {
    throw new EvidenceError(`the record's ${member} is not an integer from 0 to ${max}`);
  }
  return value;
}

/** Of the entries of one commit all stamps are alike: the last instants that were read well. */
const knownInstants = { recordedAt: '', retainUntil: '' };

function isInstant(text: string, member: keyof typeof knownInstants): boolean {
  if (text === knownInstants[member] && text !== '') return true;
  if (parseInstant(text) === undefined) return false;
  knownInstants[member] = text;
  return true;
}

function instant(value: JsonValue | undefined, member: keyof typeof knownInstants): string {
  if (typeof value !== 'string' || !isInstant(value, member))
    throw new EvidenceError(`the record's ${member} is not an instant`);
  return value;
}

function outcome(value: JsonValue | undefined): Outcome {
  const known = OUTCOMES.find((one) => one === value);
  if (known === undefined) throw new EvidenceError("the record's outcome is unknown");
  return known;
}

function source(value: JsonValue | undefined): JsonObject {
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    throw new EvidenceError("the record's source is not an object");
  return value as JsonObject;
}

function incomplete(value: JsonValue): 'incomplete' {
  if (value !== 'incomplete') throw new EvidenceError("the record's evidence is unknown");
  return value;
}
