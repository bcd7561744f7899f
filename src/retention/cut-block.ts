/**
 * A block cut where what is held of it begins and ends: runs of held entries are sealed under a later drop month, the others under their own
 * again. Records stay as they are, to the byte; whatever was erased stays erased.
 */
import assert from 'node:assert/strict';
import { encodeParts, encodeRecords, packPayload, type StoredBlock, spansOf } from '../chain/block.ts';
import { equalBytes, fromHex } from '../chain/bytes.ts';
import { spanned } from '../chain/entry.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import { type HeldRange, heldAt } from '../chain/pruning-certificate.ts';
import { parseInstant } from '../chain/retain-until.ts';
import { sealParts } from '../chain/seal.ts';
import type { StreamKeys } from '../chain/sealed-run.ts';
import { sha256 } from '../chain/sha256.ts';
import type { CutBlock, PlacedBlock } from '../store/holds.ts';
import { tagsOf } from './reseal.ts';

/** Returns what is put in place of a block; undefined where nothing of it is held. Throws `EvidenceError` where the block is not sound. */
export function cutBlock(
  block: StoredBlock,
  stream: string,
  held: readonly HeldRange[],
  own: StreamKeys,
  later: StreamKeys & { readonly dropMonth: number },
): CutBlock | undefined {
  const entries = openBlock(block, stream, own.dataKey);
  const isHeld = ({ record }: Entry): boolean => heldAt(held, record.seq) !== undefined;
  if (!entries.some(isHeld)) return undefined;
  const runs: { readonly isHeld: boolean; readonly entries: Entry[] }[] = [];
  for (const entry of entries) {
    const last = runs.at(-1);
    if (last?.isHeld === isHeld(entry)) last.entries.push(entry);
    else runs.push({ isHeld: isHeld(entry), entries: [entry] });
  }
  const blocks = runs.map((run) =>
    run.isHeld
      ? sealRun(run.entries, stream, later, later.dropMonth)
      : sealRun(run.entries, stream, own, block.dropMonth),
  );
  // Read back before it replaces anything.
  const again = blocks.flatMap((one, i) => openBlock(one, stream, (runs[i]!.isHeld ? later : own).dataKey));
  assert(again.length === entries.length && again.every(({ bytes }, i) => equalBytes(bytes, entries[i]!.bytes)));
  return {
    oldHash: sha256(block.parts),
    blocks,
  };
}

function sealRun(entries: readonly Entry[], stream: string, keys: StreamKeys, dropMonth: number): PlacedBlock {
  const recorded = entries.map(({ record }) => parseInstant(record.recordedAt)!);
  const spans = spansOf(entries.map(({ record }) => spanned(record)));
  const hashes = entries.map(({ record }) => fromHex(record.parts));
  return {
    ...{ firstSeq: entries[0]!.record.seq, entries: entries.length, dropMonth, keyId: keys.id },
    ...{ recordedFrom: Math.min(...recorded), recordedTo: Math.max(...recorded), ...spans },
    records: packPayload(encodeRecords(entries.map(({ bytes }) => bytes))),
    parts: sealParts(keys.dataKey, stream, hashes, packPayload(encodeParts(entries.map(({ parts }) => parts)))),
    tags: [...tagsOfEntries(entries, keys.tagKey)],
  };
}

function tagsOfEntries(entries: readonly Entry[], tagKey: Uint8Array): Set<bigint> {
  return tagsOf(
    entries.map(({ record }) => record),
    entries.map(({ parts }) => parts),
    tagKey,
  );
}
