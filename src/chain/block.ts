/**
 * Blocks: consecutive entries of one stream stored together, as transparency logs store bundles (DESIGN sections 1 and 5).
 *
 * A block has two payloads. `records` is a C2SP entry bundle (each record behind its length, u16 big-endian), in the clear.
 * `parts` is sealed (`seal.ts`) and holds, before sealing,
 *
 *     u8  1                                    the version
 *     u32 number of entries
 *     for each entry: u8 open, u8 closed       bit i = the part PART_NAMES[i] is open (has a value) or closed (has a commitment)
 *     salts, 16 bytes each                     of the open parts
 *     commitments, 32 bytes each               of the closed parts
 *     LP(JCS(value))                           of the open parts
 *
 * each of the last three running over the names in name order and, within a name, over the entries: like stands beside like,
 * which compresses better. All integers are big-endian.
 *
 * Either payload is stored behind one byte that says how: 0 as it is, 1 as one zstd frame.
 */
import assert from 'node:assert/strict';
import zlib from 'node:zlib';
import { EvidenceError } from '../errors.ts';
import { isOpen, type OpenPart, PART_NAMES, type Part, SALT_BYTES } from './part.ts';
import { HASH_SIZE } from './sha256.ts';
import { decodeEntryBundle, encodeEntryBundle } from './tile.ts';
import { zstdFrameOf } from './zstd.ts';

/**
 * Before compression, records and parts together. One event may be larger; it then stands alone. Reading one entry must open one block: 0.5 ms.
 * Blocks of half the size open in 0.3 ms, and take a tenth more of the disk.
 */
export const BLOCK_BYTES_MAX = 256 * 1024;
/** An upper bound of entries, for blocks of tiny events. */
export const BLOCK_ENTRIES_MAX = 1024;
/** Of an entry three of the actor, two of the target, an address, action, service and site. */
export const BLOCK_TAGS_MAX = 9 * BLOCK_ENTRIES_MAX;
/** What one entry may take; canonical numbers can be six times as long as they were sent. */
export const ENTRY_BYTES_MAX = 8 * 1024 * 1024;
/** No payload that we wrote is larger: a guard against a bomb in stored bytes. */
const PAYLOAD_BYTES_MAX = 16 * 1024 * 1024;

const VERSION = 1;
const HEADER_BYTES = 5;

/** A row of the table `block`, as stored. Times are milliseconds since 1970. */
export interface StoredBlock {
  readonly dropMonth: number;
  readonly firstSeq: number;
  readonly entries: number;
  readonly recordedFrom: number;
  readonly recordedTo: number;
  readonly occurredFrom: number;
  readonly occurredTo: number;
  /** −1 where no entry of the block has a severity. */
  readonly severityMin: number;
  readonly severityMax: number;
  /** Bit i = some entry has the outcome OUTCOMES[i]. */
  readonly outcomes: number;
  readonly keyId: string;
  readonly records: Uint8Array;
  readonly parts: Uint8Array;
}

/** What a block's row says about its entries, so that a search can pass over it unread. */
export type BlockSpans = Pick<StoredBlock, 'occurredFrom' | 'occurredTo' | 'severityMin' | 'severityMax' | 'outcomes'>;

/** Returns the spans of a block's entries. */
export function spansOf(entries: readonly Spanned[]): BlockSpans {
  const spans = noSpans();
  for (const entry of entries) widen(spans, entry);
  return spans;
}

/** Of an entry: `occurredAt` in milliseconds since 1970, `outcome` an index in OUTCOMES. */
export interface Spanned {
  readonly occurredAt: number;
  readonly severity: number | undefined;
  readonly outcome: number;
}

export type Widening = { -readonly [name in keyof BlockSpans]: BlockSpans[name] };

/** The spans of no entry. */
export function noSpans(): Widening {
  return { occurredFrom: Infinity, occurredTo: -Infinity, severityMin: -1, severityMax: -1, outcomes: 0 };
}

/** Makes spans hold one entry more. */
export function widen(spans: Widening, { occurredAt, severity, outcome }: Spanned): void {
  spans.occurredFrom = Math.min(spans.occurredFrom, occurredAt);
  spans.occurredTo = Math.max(spans.occurredTo, occurredAt);
  if (severity !== undefined) {
    spans.severityMin = spans.severityMin === -1 ? severity : Math.min(spans.severityMin, severity);
    spans.severityMax = Math.max(spans.severityMax, severity);
  }
  spans.outcomes |= 1 << outcome;
}

export function encodeRecords(records: readonly Uint8Array[]): Uint8Array {
  return encodeEntryBundle(records);
}

export function decodeRecords(payload: Uint8Array): Uint8Array[] {
  return decodeEntryBundle(payload);
}

/** Returns the parts payload of a block; `entries` has each entry's parts in name order. */
export function encodeParts(entries: readonly (readonly Part[])[]): Uint8Array {
  let salt = HEADER_BYTES + 2 * entries.length;
  let opened = 0;
  let closed = 0;
  let values = 0;
  for (const parts of entries) {
    for (const part of parts) {
      if (!isOpen(part)) {
        closed += 1;
      } else {
        opened += 1;
        values += 4 + part.value.length;
      }
    }
  }
  let commitment = salt + SALT_BYTES * opened;
  let value = commitment + HASH_SIZE * closed;
  const payload = new Uint8Array(value + values);
  const view = new DataView(payload.buffer);
  view.setUint8(0, VERSION);
  view.setUint32(1, entries.length);
  // How many parts of each entry are written: they come in name order, too.
  const written = new Uint8Array(entries.length);
  for (let column = 0; column < PART_NAMES.length; column++) {
    for (let entry = 0; entry < entries.length; entry++) {
      const part = entries[entry]![written[entry]!];
      if (part === undefined || part.name !== PART_NAMES[column]) continue;
      written[entry]! += 1;
      const flags = HEADER_BYTES + 2 * entry;
      if (isOpen(part)) {
        payload[flags]! |= 1 << column;
        payload.set(part.salt, salt);
        view.setUint32(value, part.value.length);
        payload.set(part.value, value + 4);
        salt += SALT_BYTES;
        value += 4 + part.value.length;
      } else {
        payload[flags + 1]! |= 1 << column;
        payload.set(part.commitment, commitment);
        commitment += HASH_SIZE;
      }
    }
  }
  assert(
    entries.every((parts, entry) => parts.length === written[entry]),
    'parts in name order',
  );
  return payload;
}

/** Returns each entry's parts in name order. Throws `EvidenceError` on anything that `encodeParts` does not write. */
export function decodeParts(payload: Uint8Array): Part[][] {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  if (payload.length < HEADER_BYTES || view.getUint8(0) !== VERSION)
    throw new EvidenceError('the parts are not of version 1');
  const count = view.getUint32(1);
  if (payload.length < HEADER_BYTES + 2 * count) throw new EvidenceError('the parts are cut short');

  let opened = 0;
  let closed = 0;
  for (let i = HEADER_BYTES; i < HEADER_BYTES + 2 * count; i += 2) {
    const [open, shut] = [payload[i]!, payload[i + 1]!];
    if ((open & shut) !== 0) throw new EvidenceError('a part is both open and closed');
    if (open >= 1 << PART_NAMES.length || shut >= 1 << PART_NAMES.length) throw new EvidenceError('a part has no name');
    opened += bitCount(open);
    closed += bitCount(shut);
  }

  // Where the next salt, commitment and value stand.
  let salt = HEADER_BYTES + 2 * count;
  let commitment = salt + SALT_BYTES * opened;
  let value = commitment + HASH_SIZE * closed;
  if (value > payload.length) throw new EvidenceError('the parts are cut short');
  const entries: Part[][] = Array.from({ length: count }, () => []);
  for (let column = 0; column < PART_NAMES.length; column++) {
    const name = PART_NAMES[column]!;
    const bit = 1 << column;
    for (let entry = 0; entry < count; entry++) {
      const flags = HEADER_BYTES + 2 * entry;
      if ((payload[flags]! & bit) !== 0) {
        if (value + 4 > payload.length) throw new EvidenceError('the parts are cut short');
        const end = value + 4 + view.getUint32(value);
        if (end > payload.length) throw new EvidenceError('the parts are cut short');
        const part: OpenPart = {
          name,
          salt: payload.subarray(salt, salt + SALT_BYTES),
          value: payload.subarray(value + 4, end),
        };
        entries[entry]!.push(part);
        salt += SALT_BYTES;
        value = end;
      } else if ((payload[flags + 1]! & bit) !== 0) {
        entries[entry]!.push({ name, commitment: payload.subarray(commitment, commitment + HASH_SIZE) });
        commitment += HASH_SIZE;
      }
    }
  }
  if (value !== payload.length) throw new EvidenceError('bytes follow the parts');
  return entries;
}

function bitCount(byte: number): number {
  let count = 0;
  for (let rest = byte; rest > 0; rest &= rest - 1) count++;
  return count;
}

const STORED = 0;
const ZSTD = 1;
/** Below this a zstd frame's own cost eats the gain. */
const COMPRESS_FROM_BYTES = 256;

/**
 * Returns the payload behind its codec byte, compressed where that makes it smaller. On this thread: a stream object for the thread pool
 * costs four times as much here as compressing 16 KiB does.
 */
export function packPayload(payload: Uint8Array): Uint8Array {
  if (payload.length < COMPRESS_FROM_BYTES) return withCodec(STORED, payload);
  return smaller(payload, zstdFrameOf(payload));
}

function smaller(payload: Uint8Array, compressed: Uint8Array): Uint8Array {
  return compressed.length < payload.length ? withCodec(ZSTD, compressed) : withCodec(STORED, payload);
}

function withCodec(codec: number, body: Uint8Array): Uint8Array {
  const packed = new Uint8Array(1 + body.length);
  packed[0] = codec;
  packed.set(body, 1);
  return packed;
}

/** Returns what `packPayload` was given. Throws `EvidenceError` on any other bytes. */
export function unpackPayload(packed: Uint8Array): Uint8Array {
  const body = packed.subarray(1);
  if (packed[0] === STORED && body.length <= PAYLOAD_BYTES_MAX) return body;
  if (packed[0] === STORED) throw new EvidenceError('the payload is too long');
  if (packed[0] !== ZSTD) throw new EvidenceError('the payload has an unknown codec');
  // The library stops at the end of the first frame, or goes on to a second or over one to be skipped, and says nothing of it.
  const frame = zstdFrame(body);
  if (frame?.length !== body.length) throw new EvidenceError('the compressed payload is not exactly one frame');
  // In one piece where the frame says how much comes out: a third faster. It may lie: what it says is only room.
  const chunkSize = Math.min(Math.max(frame.contentSize ?? 0, CHUNK_BYTES_MIN), CHUNK_BYTES_MAX) + CHUNK_BYTES_SPARE;
  try {
    return zlib.zstdDecompressSync(body, { maxOutputLength: PAYLOAD_BYTES_MAX, chunkSize });
  } catch (cause) {
    throw new EvidenceError('the payload does not decompress', { cause });
  }
}

const CHUNK_BYTES_MIN = 4 * 1024;
const CHUNK_BYTES_MAX = 256 * 1024;
/** A chunk that is filled to its end is followed by another. */
const CHUNK_BYTES_SPARE = 64;

/** How a frame begins (section 3.1.1), read as a little-endian number. */
const ZSTD_MAGIC = 0xfd2fb528;
/** RFC 8878 section 3.1.1.1.1: bytes of the dictionary id and of the content size, by their flags in the descriptor. */
const DICTIONARY_ID_BYTES = [0, 1, 2, 4];
const CONTENT_SIZE_BYTES = [0, 2, 4, 8];
/** Types of blocks: 0 raw, 1 run-length, 2 compressed, 3 reserved. */
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;

interface ZstdFrame {
  readonly length: number;
  /** Of what is compressed, as the frame states it. */
  readonly contentSize: number | undefined;
}

/** Returns the zstd frame that the bytes begin with (RFC 8878 section 3.1.1), from its headers; undefined where there is none. */
function zstdFrame(bytes: Uint8Array): ZstdFrame | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 6 || view.getUint32(0, true) !== ZSTD_MAGIC) return undefined;
  const descriptor = view.getUint8(4);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const hasChecksum = (descriptor & 0x04) !== 0;
  const sizeFlag = descriptor >> 6;
  const sizeBytes = sizeFlag === 0 && isSingleSegment ? 1 : CONTENT_SIZE_BYTES[sizeFlag]!;
  const sizeAt = 5 + (isSingleSegment ? 0 : 1) + DICTIONARY_ID_BYTES[descriptor & 3]!;
  let at = sizeAt + sizeBytes;
  const contentSize = at <= bytes.length ? readContentSize(view, sizeAt, sizeBytes) : undefined;
  for (let isLast = false; !isLast; ) {
    if (at + 3 > bytes.length) return undefined;
    const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
    isLast = (header & 1) !== 0;
    const type = (header >> 1) & 3;
    if (type === RESERVED_BLOCK) return undefined;
    at += 3 + (type === RLE_BLOCK ? 1 : header >> 3);
  }
  return { length: at + (hasChecksum ? 4 : 0), contentSize };
}

/** RFC 8878 section 3.1.1.1.4; undefined where there is none, or one that nobody has room for. */
function readContentSize(view: DataView, at: number, bytes: number): number | undefined {
  switch (bytes) {
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    default:
      return undefined;
  }
}
