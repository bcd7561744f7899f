/** Stored blocks opened: entries with their records, and their parts unsealed and checked against them. */
import { EvidenceError } from '../errors.ts';
import { decodeParts, decodeRecords, type StoredBlock, unpackPayload } from './block.ts';
import { fromHex, toHex } from './bytes.ts';
import { leafHash } from './merkle.ts';
import { type Part, partsHashHex } from './part.ts';
import { decodeRecord, partsHashIn, type Rec } from './record.ts';
import { openSealed } from './seal.ts';

/** What of a stored block is looked at when it is opened. */
export type OpenableBlock = Pick<StoredBlock, 'firstSeq' | 'entries' | 'records' | 'parts'>;

/** An entry whose parts are those that its record commits to. */
export interface Entry {
  readonly record: Rec;
  readonly bytes: Uint8Array;
  /** Of the record: chain link and leaf, hex. */
  readonly hash: string;
  readonly parts: readonly Part[];
}

/** Returns a block's records, decoded, with their bytes. Throws `EvidenceError`. */
export function openRecords(block: StoredBlock): { bytes: Uint8Array; record: Rec }[] {
  return recordsIn(block).map((bytes) => ({ bytes, record: decodeRecord(bytes) }));
}

function recordsIn(block: Pick<StoredBlock, 'entries' | 'records'>): Uint8Array[] {
  const records = decodeRecords(unpackPayload(block.records));
  if (records.length !== block.entries)
    throw new EvidenceError(`the block says ${block.entries} entries and holds ${records.length}`);
  return records;
}

/** Returns the parts of each entry of a block, not yet checked against its record. Throws `EvidenceError`. */
export function openParts(
  block: Pick<StoredBlock, 'parts'>,
  stream: string,
  dataKey: Uint8Array,
  records: readonly Pick<Rec, 'parts'>[],
): Part[][] {
  // One after the other, as they are hashed: read together that is one text.
  const hashes = fromHex(records.map(({ parts }) => parts).join(''));
  const parts = decodeParts(unpackPayload(openSealed(dataKey, stream, [hashes], block.parts)));
  if (parts.length !== records.length)
    throw new EvidenceError(`the block has ${records.length} records and parts of ${parts.length}`);
  return parts;
}

/** Throws `EvidenceError` unless these are the parts that the record commits to. */
export function checkParts(record: Pick<Rec, 'seq' | 'parts'>, parts: readonly Part[]): void {
  if (partsHashHex(parts) !== record.parts)
    throw new EvidenceError(`the parts of entry ${record.seq} are not those that its record commits to`);
}

/** Returns the wanted entries of a block (all without `wanted`), their parts checked. Throws `EvidenceError`. */
export function openBlock(
  block: OpenableBlock,
  stream: string,
  dataKey: Uint8Array,
  wanted?: ReadonlySet<number>,
): Entry[] {
  const all = recordsIn(block);
  const isWanted = (index: number): boolean => wanted === undefined || wanted.has(block.firstSeq + index);
  // Of the others only what the block is sealed with.
  const records = all.map((bytes, index) => (isWanted(index) ? decodeRecord(bytes) : { parts: partsHashIn(bytes) }));
  const parts = openParts(block, stream, dataKey, records);
  const entries: Entry[] = [];
  for (const [index, record] of records.entries()) {
    if (!('seq' in record)) continue;
    if (record.stream !== stream || record.seq !== block.firstSeq + index) {
      throw new EvidenceError(
        `the record at ${stream} ${block.firstSeq + index} says that it is ${record.stream} ${record.seq}`,
      );
    }
    const own = parts[index]!;
    checkParts(record, own);
    const bytes = all[index]!;
    entries.push({ record, bytes, hash: toHex(leafHash(bytes)), parts: own });
  }
  return entries;
}
