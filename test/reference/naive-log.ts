/**
 * The log by the book: what docs/format.md says, written down from that page alone, as plainly and slowly as possible.
 * It shares no code with `src/` and uses only the hashes, ciphers and zstd of Node.js, so that a mistake in the fast
 * implementation and the same mistake here would both have to be in the page. test/reference.test.ts compares them.
 *
 * Sections of the page are named beside what they specify. Everything throws a plain Error for what is malformed.
 */
import { createCipheriv, createDecipheriv, createHash, hkdfSync } from 'node:crypto';
import { zstdDecompressSync } from 'node:zlib';
import { isObject, type Json, jcs, readCanonical } from './naive-json.ts';
import { ownInstant, timeText } from './naive-time.ts';

// ---- Section 1: notation --------------------------------------------------------------------------------------------

/** Bytes, texts in UTF-8, one behind the other. */
export function join(...pieces: readonly (Uint8Array | string)[]): Buffer {
  return Buffer.concat(pieces.map((piece) => Buffer.from(piece as string, 'utf8')));
}

export function H(...pieces: readonly (Uint8Array | string)[]): Buffer {
  return createHash('sha256')
    .update(join(...pieces))
    .digest();
}

export function LP(bytes: Uint8Array | string): Buffer {
  return join(u32(join(bytes).length), bytes);
}

export function u32(number: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(number);
  return bytes;
}

function u16(number: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(number);
  return bytes;
}

export function HKDF(key: Uint8Array, salt: Uint8Array, info: string): Buffer {
  return Buffer.from(hkdfSync('sha256', key, salt, info, 32));
}

export function sealGcm(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, associated: Uint8Array): Buffer {
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(associated);
  return join(cipher.update(plaintext), cipher.final(), cipher.getAuthTag());
}

export function openGcm(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, associated: Uint8Array): Buffer {
  if (sealed.length < 16) throw new Error('shorter than the authentication tag');
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 }).setAAD(associated);
  decipher.setAuthTag(sealed.subarray(-16));
  return join(decipher.update(sealed.subarray(0, -16)), decipher.final());
}

/** Reads bytes from front to back; `end` throws where something follows. */
class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  take(length: number): Buffer {
    if (this.#at + length > this.#bytes.length) throw new Error('cut short');
    this.#at += length;
    return Buffer.from(this.#bytes.subarray(this.#at - length, this.#at));
  }

  /** An unsigned big-endian integer. */
  integer(length: number): number {
    return this.take(length).readUIntBE(0, length);
  }

  atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  end(): void {
    if (!this.atEnd()) throw new Error('something follows the end');
  }
}

// ---- Section 5: parts -----------------------------------------------------------------------------------------------

export const PART_NAMES = ['actor', 'changes', 'details', 'raw', 'reason', 'target'] as const;
export type PartName = (typeof PART_NAMES)[number];

/** A part with its salt and JCS(value), or what an erasure leaves of it. */
export type Part =
  | { readonly name: PartName; readonly salt: Uint8Array; readonly value: Uint8Array }
  | { readonly name: PartName; readonly closed: Uint8Array };

export function commitment(part: Part): Uint8Array {
  if ('closed' in part) return part.closed;
  return H('sealog/part/v1\0', part.salt, LP(part.name), LP(part.value));
}

export function partsHash(parts: readonly Part[]): Buffer {
  const inOrder = PART_NAMES.flatMap((name) => parts.filter((part) => part.name === name));
  return H('sealog/parts/v1\0', ...inOrder.flatMap((part) => [LP(part.name), commitment(part)]));
}

// ---- Sections 6 and 7: record, hash ---------------------------------------------------------------------------------

/** The members of an event that its record repeats. */
export interface EventHead {
  readonly action: string;
  readonly evidence?: 'incomplete';
  readonly id: string;
  readonly occurredAt: string;
  readonly outcome: string;
  readonly severity?: number;
  readonly source: { readonly [name: string]: string };
}

/** A record that was read: its members, and its two stamps as instants. */
export interface NaiveRecord extends EventHead {
  readonly parts: string;
  readonly previous: string;
  readonly recordedAt: number;
  readonly retainUntil: number | null;
  readonly seq: number;
  readonly stream: string;
}

export function writeRecord(record: NaiveRecord): Buffer {
  const { retainUntil, ...others } = record;
  const members: { [name: string]: Json } = { ...others, recordedAt: timeText(record.recordedAt), v: 1 };
  if (retainUntil !== null) members['retainUntil'] = timeText(retainUntil);
  const bytes = jcs(members);
  if (bytes.length > 65_535) throw new Error('a record longer than 65,535 bytes');
  return bytes;
}

export function readRecord(bytes: Uint8Array): NaiveRecord {
  const value = readCanonical(bytes);
  if (!isObject(value)) throw new Error('no object');
  const text = (check: (text: string) => boolean) => (member: Json) => typeof member === 'string' && check(member);
  const integer = (highest: number) => (member: Json) =>
    typeof member === 'number' && Number.isInteger(member) && member >= 0 && member <= highest;
  const hash = text((member) => /^[0-9a-f]{64}$/.test(member));
  const time = text((member) => ownInstant(member) >= 0);
  const anyText = text(() => true);
  const members: { [name: string]: { readonly optional?: true; readonly valid: (member: Json) => boolean } } = {
    action: { valid: anyText },
    evidence: { optional: true, valid: (member) => member === 'incomplete' },
    id: { valid: anyText },
    occurredAt: { valid: anyText },
    outcome: { valid: text((member) => ['success', 'failure', 'unknown'].includes(member)) },
    parts: { valid: hash },
    previous: { valid: hash },
    recordedAt: { valid: time },
    retainUntil: { optional: true, valid: time },
    seq: { valid: integer(Number.MAX_SAFE_INTEGER) },
    severity: { optional: true, valid: integer(10) },
    source: { valid: isObject },
    stream: { valid: anyText },
    v: { valid: (member) => member === 1 },
  };
  for (const name of Object.keys(value)) if (!Object.hasOwn(members, name)) throw new Error(`a member ${name}`);
  for (const [name, { optional, valid }] of Object.entries(members)) {
    const member = value[name];
    if (member === undefined ? optional !== true : !valid(member)) throw new Error(`its ${name}`);
  }
  const { v: _, recordedAt, retainUntil, ...others } = value;
  return {
    ...(others as unknown as Omit<NaiveRecord, 'recordedAt' | 'retainUntil'>),
    recordedAt: ownInstant(recordedAt as string),
    retainUntil: retainUntil === undefined ? null : ownInstant(retainUntil as string),
  };
}

export function entryHash(record: Uint8Array): Buffer {
  return H(Buffer.of(0), record);
}

// ---- Section 8: tree ------------------------------------------------------------------------------------------------

export function node(left: Uint8Array, right: Uint8Array): Buffer {
  return H(Buffer.of(1), left, right);
}

/** The root, as RFC 6962 section 2.1 defines it. */
export function root(hashes: readonly Uint8Array[]): Uint8Array {
  if (hashes.length === 0) return H();
  if (hashes.length === 1) return hashes[0] as Uint8Array;
  let k = 1;
  while (k * 2 < hashes.length) k *= 2;
  return node(root(hashes.slice(0, k)), root(hashes.slice(k)));
}

/** The roots of the perfect subtrees that cover all leaves, largest first. */
export function frontier(hashes: readonly Uint8Array[]): Buffer {
  if (hashes.length === 0) return Buffer.alloc(0);
  let k = 1;
  while (k * 2 <= hashes.length) k *= 2;
  return join(root(hashes.slice(0, k)), frontier(hashes.slice(k)));
}

export function rootFromFrontier(bytes: Uint8Array): Uint8Array {
  if (bytes.length === 0) return H();
  if (bytes.length <= 32) return bytes;
  return node(bytes.subarray(0, 32), rootFromFrontier(bytes.subarray(32)));
}

// ---- Section 9: tiles, entry bundles --------------------------------------------------------------------------------

export interface Tile {
  readonly level: number;
  readonly index: number;
  readonly hashes: Uint8Array;
  readonly root: Uint8Array;
}

/** Every full tile of a tree: hash i of a tile of level L is the root over its 256^L leaves. */
export function fullTiles(hashes: readonly Uint8Array[], level = 0): readonly Tile[] {
  const tiles: Tile[] = [];
  for (let index = 0; (index + 1) * 256 <= hashes.length; index += 1) {
    const own = hashes.slice(index * 256, (index + 1) * 256);
    tiles.push({ level, index, hashes: join(...own), root: root(own) });
  }
  if (tiles.length === 0) return [];
  return [
    ...tiles,
    ...fullTiles(
      tiles.map((tile) => tile.root),
      level + 1,
    ),
  ];
}

export function writeBundle(records: readonly Uint8Array[]): Buffer {
  return join(...records.flatMap((record) => [u16(record.length), record]));
}

export function readBundle(bytes: Uint8Array): readonly Buffer[] {
  const reader = new Reader(bytes);
  const records: Buffer[] = [];
  while (!reader.atEnd()) records.push(reader.take(reader.integer(2)));
  return records;
}

// ---- Section 11: parts payload, codec -------------------------------------------------------------------------------

/** The parts payload of a block; the parts of each entry in any order. */
export function writeParts(entries: readonly (readonly Part[])[]): Buffer {
  const bits = (parts: readonly Part[], closed: boolean): number =>
    PART_NAMES.map((name, i) =>
      parts.some((part) => part.name === name && 'closed' in part === closed) ? 2 ** i : 0,
    ).reduce((sum, bit) => sum + bit);
  const columns = PART_NAMES.flatMap((name) => entries.flatMap((parts) => parts.filter((part) => part.name === name)));
  return join(
    Buffer.of(1),
    u32(entries.length),
    ...entries.map((parts) => Buffer.of(bits(parts, false), bits(parts, true))),
    ...columns.flatMap((part) => ('closed' in part ? [] : [part.salt])),
    ...columns.flatMap((part) => ('closed' in part ? [part.closed] : [])),
    ...columns.flatMap((part) => ('closed' in part ? [] : [LP(part.value)])),
  );
}

/** The parts of each entry, in name order. Values are not looked into. */
export function readParts(payload: Uint8Array): readonly (readonly Part[])[] {
  const reader = new Reader(payload);
  if (reader.integer(1) !== 1) throw new Error('another version');
  const entries: { open: number; closed: number; parts: Part[] }[] = [];
  const count = reader.integer(4);
  for (let i = 0; i < count; i += 1) {
    const [open, closed] = [reader.integer(1), reader.integer(1)];
    if (open > 63 || closed > 63 || (open & closed) !== 0) throw new Error('bits that must not be');
    entries.push({ open, closed, parts: [] });
  }
  const columns = PART_NAMES.flatMap((name, i) => entries.map((entry) => ({ name, entry, bit: 2 ** i })));
  const opens = columns.filter(({ entry, bit }) => (entry.open & bit) !== 0);
  const closeds = columns.filter(({ entry, bit }) => (entry.closed & bit) !== 0);
  const salts = opens.map(() => reader.take(16));
  const commitments = closeds.map(() => reader.take(32));
  const values = opens.map(() => reader.take(reader.integer(4)));
  reader.end();
  for (const [i, { name, entry }] of opens.entries()) {
    entry.parts.push({ name, salt: salts[i] as Buffer, value: values[i] as Buffer });
  }
  for (const [i, { name, entry }] of closeds.entries()) entry.parts.push({ name, closed: commitments[i] as Buffer });
  return entries.map(({ parts }) => PART_NAMES.flatMap((name) => parts.filter((part) => part.name === name)));
}

const PAYLOAD_BYTES_MAX = 16 * 1024 * 1024;

/** The payload behind its codec byte. */
export function unpack(packed: Uint8Array): Buffer {
  const [codec, body] = [packed[0], Buffer.from(packed.subarray(1))];
  if (codec === 0 && body.length <= PAYLOAD_BYTES_MAX) return body;
  if (codec !== 1) throw new Error('no such codec, or too long');
  if (zstdFrameLength(body) !== body.length) throw new Error('not exactly one zstd frame');
  return zstdDecompressSync(body, { maxOutputLength: PAYLOAD_BYTES_MAX });
}

/** How long the zstd frame at the beginning is: RFC 8878 section 3.1.1. Its integers are little-endian. */
function zstdFrameLength(bytes: Buffer): number {
  if (bytes.readUInt32LE(0) !== 0xfd2fb528) throw new Error('no zstd frame');
  const descriptor = bytes.readUInt8(4);
  const singleSegment = (descriptor & 0x20) !== 0;
  const contentSizeBytes = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] as number;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] as number;
  let at = 5 + (singleSegment ? 0 : 1) + dictionaryBytes + contentSizeBytes;
  for (let last = false; !last; ) {
    const header = bytes.readUIntLE(at, 3);
    last = (header & 1) === 1;
    const isRunLength = ((header >> 1) & 3) === 1;
    at += 3 + (isRunLength ? 1 : header >> 3);
  }
  return at + ((descriptor & 4) !== 0 ? 4 : 0);
}

// ---- Sections 12 and 13: sealing, keys ------------------------------------------------------------------------------

/** The column `parts`: packed parts, sealed. `partsHashes` are those that the records name, 32 bytes each. */
export function seal(
  dataKey: Uint8Array,
  salt: Uint8Array,
  stream: string,
  partsHashes: readonly Uint8Array[],
  packed: Uint8Array,
): Buffer {
  const key = HKDF(dataKey, salt, 'sealog/seal/v1\0');
  return join(salt, sealGcm(key, Buffer.alloc(12), packed, join('sealog/seal/v1\0', LP(stream), ...partsHashes)));
}

export function open(
  dataKey: Uint8Array,
  stream: string,
  partsHashes: readonly Uint8Array[],
  column: Uint8Array,
): Buffer {
  const key = HKDF(dataKey, column.subarray(0, 32), 'sealog/seal/v1\0');
  const associated = join('sealog/seal/v1\0', LP(stream), ...partsHashes);
  return openGcm(key, Buffer.alloc(12), column.subarray(32), associated);
}

export function wrap(
  monthKey: Uint8Array,
  nonce: Uint8Array,
  stream: string,
  month: number,
  dataKey: Uint8Array,
): Buffer {
  return join(nonce, sealGcm(monthKey, nonce, dataKey, join('sealog/data-key/v1\0', LP(stream), u32(month))));
}

export function unwrap(monthKey: Uint8Array, stream: string, month: number, wrapped: Uint8Array): Buffer {
  if (wrapped.length !== 60) throw new Error('a wrapped key has 60 bytes');
  const associated = join('sealog/data-key/v1\0', LP(stream), u32(month));
  return openGcm(monthKey, wrapped.subarray(0, 12), wrapped.subarray(12), associated);
}

// ---- Section 15: hash of an id --------------------------------------------------------------------------------------

export function idHash(id: string): string {
  const hex = H('sealog/id/v1\0', id).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)].join('-');
}
