/** The JSON files of an evidence bundle, read strictly: canonical, exactly the members of docs/format.md section 22, each in its form. */

import type { TickStep } from '../../chain/anchor-tick.ts';
import { BLIND_BYTES } from '../../chain/anchor-tick.ts';
import { fromBase64, fromHex, toBase64, utf8 } from '../../chain/bytes.ts';
import { canonicalBytes, canonicalText, decodeCanonical, type JsonValue } from '../../chain/canonical.ts';
import { CATEGORIES, TENANT_PATTERN } from '../../chain/category.ts';
import {
  BUNDLE_LIMITS,
  type BundleManifest,
  type BundleQuestion,
  ORIGIN_PATTERN,
} from '../../chain/evidence-bundle.ts';
import { PART_NAMES, type Part, type PartName, SALT_BYTES } from '../../chain/part.ts';
import { parseInstant } from '../../chain/retain-until.ts';
import { HASH_SIZE } from '../../chain/sha256.ts';
import { EvidenceError } from '../../errors.ts';

export interface ReadRange {
  readonly first: number;
  readonly end: number;
  readonly left: readonly Uint8Array[];
  readonly right: readonly Uint8Array[];
}

export interface ReadOpening {
  readonly seq: number;
  /** In name order. */
  readonly parts: readonly Part[];
  /** Names of parts that were erased, as it is said. */
  readonly erased: readonly PartName[];
}

export interface ReadConsistency {
  readonly from: number;
  readonly root: Uint8Array;
  readonly path: readonly Uint8Array[];
}

export type ReadEvidence =
  | {
      readonly kind: 'rfc3161';
      readonly name: string;
      readonly token: Uint8Array;
      readonly certificates: readonly Uint8Array[];
      readonly crls: readonly Uint8Array[];
    }
  | { readonly kind: 'witness'; readonly name: string; readonly line: string };

export interface ReadAnchor {
  readonly checkpoint: string;
  readonly evidence: readonly ReadEvidence[];
  readonly leaf: { readonly blind: Uint8Array; readonly steps: readonly TickStep[]; readonly size: number };
  readonly tick: { readonly path: readonly Uint8Array[]; readonly record: Uint8Array; readonly seq: number };
}

/** No tree is deeper: sizes end at 2^53−1. A tick's tree is no deeper either. */
const PATH_MAX = 64;
/** Of subtrees that cover the end of a tree: up to some place they grow, from there they shrink. */
const RIGHT_MAX = 2 * PATH_MAX;
const FILES_MAX = 4 + 6 * BUNDLE_LIMITS.streams;

export function readManifest(bytes: Uint8Array): BundleManifest {
  const value = object(json(bytes), 'the manifest', ['bundle', 'files', 'origin', 'question']);
  const version = value['bundle'];
  if (version !== 1 && version !== 2) throw new EvidenceError('the bundle is not of version 1 or 2');
  const files = list(value['files'], 'files', FILES_MAX).map((item) => {
    const file = object(item, 'a file', ['bytes', 'name', 'sha256']);
    const sha256 = text(file['sha256'], 'sha256');
    hash(sha256, 'sha256');
    return { bytes: integer(file['bytes'], 'bytes'), name: text(file['name'], 'name'), sha256 };
  });
  const origin = text(value['origin'], 'origin');
  if (!ORIGIN_PATTERN.test(origin)) throw new EvidenceError('the origin is malformed');
  return { bundle: version, files, origin, question: readQuestion(value['question']) };
}

function readQuestion(value: JsonValue | undefined): BundleQuestion {
  const question = object(value, 'the question', ['category', 'tenant'], ['from', 'to']);
  const tenant = text(question['tenant'], 'tenant');
  const category = CATEGORIES.find((one) => one === question['category'] && one !== 'anchor');
  if (!TENANT_PATTERN.test(tenant) || category === undefined)
    throw new EvidenceError('the question names no tenant and category');
  const [from, to] = [question['from'], question['to']].map((at) => (at === undefined ? undefined : instant(at)));
  if (from !== undefined && to !== undefined && from > to)
    throw new EvidenceError('the question ends before it begins');
  return { tenant, category, ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }) };
}

/** Returns the notes of key statements. */
export function readKeys(bytes: Uint8Array): string[] {
  return list(json(bytes), 'keys', BUNDLE_LIMITS.keyStatements).map((note) => text(note, 'a key statement'));
}

export function readRange(bytes: Uint8Array): ReadRange {
  const value = object(json(bytes), 'the range', ['end', 'first', 'left', 'right']);
  return {
    first: integer(value['first'], 'first'),
    end: integer(value['end'], 'end'),
    left: hashes(value['left'], 'left'),
    right: hashes(value['right'], 'right', RIGHT_MAX),
  };
}

/** Reads one line of `openings.ndjson`, without its line feed. */
export function readOpening(line: Uint8Array): ReadOpening {
  const value = object(json(line), 'an opening', ['parts', 'seq']);
  return { seq: integer(value['seq'], 'seq'), ...readParts(value['parts']) };
}

export interface ReadCertificate {
  readonly record: Uint8Array;
  readonly parts: readonly Part[];
  readonly path: readonly Uint8Array[];
  /** The signed note of the checkpoint that the path leads to. */
  readonly checkpoint: string;
}

/** Reads `certificates.ndjson`. */
export function readCertificates(bytes: Uint8Array): ReadCertificate[] {
  const lines: ReadCertificate[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(0x0a, at);
    if (end < 0) throw new EvidenceError('the last line of certificates.ndjson does not end');
    if (lines.length === BUNDLE_LIMITS.certificateEntries)
      throw new EvidenceError(`certificates.ndjson: more than ${BUNDLE_LIMITS.certificateEntries}`);
    const value = object(json(bytes.subarray(at, end)), 'a certificate', ['checkpoint', 'parts', 'path', 'record']);
    lines.push({
      record: utf8(text(value['record'], 'record')),
      parts: readParts(value['parts']).parts,
      path: hashes(value['path'], 'path'),
      checkpoint: text(value['checkpoint'], 'checkpoint'),
    });
    at = end + 1;
  }
  return lines;
}

function readParts(value: JsonValue | undefined): Pick<ReadOpening, 'parts' | 'erased'> {
  const given = object(value, 'parts', [], PART_NAMES);
  const erased: PartName[] = [];
  const parts: Part[] = [];
  for (const name of PART_NAMES) {
    const part = given[name];
    if (part === undefined) continue;
    const members = part !== null && typeof part === 'object' && 'salt' in part;
    if (members) {
      const open = object(part, name, ['salt', 'value']);
      parts.push({ name, salt: hex(open['salt'], 'salt', SALT_BYTES), value: canonicalBytes(open['value']!) });
      continue;
    }
    const closed = object(part, name, ['commitment', 'state']);
    if (closed['state'] !== 'erased' && closed['state'] !== 'withheld')
      throw new EvidenceError(`the state of ${name} is unknown`);
    if (closed['state'] === 'erased') erased.push(name);
    parts.push({ name, commitment: hash(closed['commitment'], 'commitment') });
  }
  return { parts, erased };
}

export function readConsistency(bytes: Uint8Array): ReadConsistency[] {
  const items = list(json(bytes), 'consistency', BUNDLE_LIMITS.consistencies).map((item) => {
    const value = object(item, 'a consistency path', ['from', 'path', 'root']);
    return {
      from: integer(value['from'], 'from'),
      root: hash(value['root'], 'root'),
      path: hashes(value['path'], 'path'),
    };
  });
  ascending(items, (a, b) => a.from - b.from, 'consistency paths');
  return items;
}

export function readAnchors(bytes: Uint8Array): ReadAnchor[] {
  return list(json(bytes), 'anchors', BUNDLE_LIMITS.anchors).map((item) => {
    const value = object(item, 'an anchor', ['checkpoint', 'evidence', 'leaf', 'tick']);
    const leaf = object(value['leaf'], 'leaf', ['blind', 'path', 'size']);
    const tick = object(value['tick'], 'tick', ['path', 'record', 'seq']);
    const evidence = list(value['evidence'], 'evidence', BUNDLE_LIMITS.evidencePerAnchor);
    ascending(evidence.map(canonicalText), byText, 'evidence');
    return {
      checkpoint: text(value['checkpoint'], 'checkpoint'),
      evidence: evidence.map(readEvidence),
      leaf: {
        blind: hex(leaf['blind'], 'blind', BLIND_BYTES),
        steps: list(leaf['path'], 'path', PATH_MAX).map(readStep),
        size: integer(leaf['size'], 'size'),
      },
      tick: {
        path: hashes(tick['path'], 'path'),
        record: utf8(text(tick['record'], 'record')),
        seq: integer(tick['seq'], 'seq'),
      },
    };
  });
}

function readStep(value: JsonValue): TickStep {
  const step = object(value, 'a step', [], ['left', 'right']);
  const [side, ...more] = Object.keys(step);
  if ((side !== 'left' && side !== 'right') || more.length > 0) throw new EvidenceError('a step has one side');
  return { side, hash: hash(step[side], side) };
}

function readEvidence(value: JsonValue): ReadEvidence {
  const isToken = value !== null && typeof value === 'object' && 'token' in value;
  if (isToken) {
    const stamp = object(value, 'evidence', ['certificates', 'crls', 'kind', 'name', 'token']);
    if (stamp['kind'] !== 'rfc3161') throw new EvidenceError('the kind of evidence is unknown');
    return {
      kind: 'rfc3161',
      name: text(stamp['name'], 'name'),
      token: base64(stamp['token'], 'token'),
      certificates: derList(stamp['certificates'], 'certificates'),
      crls: derList(stamp['crls'], 'crls'),
    };
  }
  const witness = object(value, 'evidence', ['kind', 'line', 'name']);
  if (witness['kind'] !== 'witness') throw new EvidenceError('the kind of evidence is unknown');
  return { kind: 'witness', name: text(witness['name'], 'name'), line: text(witness['line'], 'line') };
}

// ---- Values ----

/** Returns the value of a file. Throws an EvidenceError unless it is canonical. */
function json(bytes: Uint8Array): JsonValue {
  if (bytes.length > BUNDLE_LIMITS.jsonBytes) throw new EvidenceError('a JSON file is too large');
  return decodeCanonical(bytes);
}

/** Returns an object that has all of `needed` and, beside them, none but `optional`. */
function object(
  value: JsonValue | undefined,
  what: string,
  needed: readonly string[],
  optional: readonly string[] = [],
): Record<string, JsonValue | undefined> {
  if (value === undefined || value === null || typeof value !== 'object' || Array.isArray(value))
    throw new EvidenceError(`${what}: not an object`);
  const names = Object.keys(value);
  if (names.some((name) => !needed.includes(name) && !optional.includes(name)))
    throw new EvidenceError(`${what}: an unknown member`);
  for (const name of needed) if (!names.includes(name)) throw new EvidenceError(`${what}: ${name} is missing`);
  return value;
}

function list(value: JsonValue | undefined, what: string, max: number): JsonValue[] {
  if (!Array.isArray(value)) throw new EvidenceError(`${what}: not an array`);
  if (value.length > max) throw new EvidenceError(`${what}: more than ${max}`);
  return value;
}

function text(value: JsonValue | undefined, what: string): string {
  if (typeof value !== 'string') throw new EvidenceError(`${what}: not a string`);
  return value;
}

function integer(value: JsonValue | undefined, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw new EvidenceError(`${what}: not a whole number up to 2^53−1`);
  return value;
}

function instant(value: JsonValue): string {
  if (typeof value !== 'string' || parseInstant(value) === undefined) throw new EvidenceError('not an instant');
  return value;
}

function hex(value: JsonValue | undefined, what: string, bytes: number): Uint8Array {
  const digits = text(value, what);
  if (digits.length !== 2 * bytes) throw new EvidenceError(`${what}: not ${bytes} bytes in hex`);
  return fromHex(digits);
}

function hash(value: JsonValue | undefined, what: string): Uint8Array {
  return hex(value, what, HASH_SIZE);
}

function hashes(value: JsonValue | undefined, what: string, max = PATH_MAX): Uint8Array[] {
  return list(value, what, max).map((one) => hash(one, what));
}

function base64(value: JsonValue | undefined, what: string): Uint8Array {
  const encoded = text(value, what);
  // Four characters are three bytes: what is far too long is not even decoded.
  if (encoded.length <= Math.ceil(BUNDLE_LIMITS.evidenceBytes / 3) * 4) {
    const bytes = fromBase64(encoded);
    if (bytes.length <= BUNDLE_LIMITS.evidenceBytes) return bytes;
  }
  throw new EvidenceError(`${what}: too large`);
}

function derList(value: JsonValue | undefined, what: string): Uint8Array[] {
  const items = list(value, what, BUNDLE_LIMITS.certificates).map((one) => base64(one, what));
  ascending(items.map(toBase64), byText, what);
  return items;
}

/** By UTF-16 code units, as canonical JSON orders names. */
function byText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Throws an EvidenceError unless each is greater than the one before it. */
export function ascending<T>(items: readonly T[], compare: (a: T, b: T) => number, what: string): void {
  for (let i = 1; i < items.length; i++) {
    if (compare(items[i - 1]!, items[i]!) >= 0) throw new EvidenceError(`${what}: not in order, or one stands twice`);
  }
}
