/**
 * A block without some of its parts: the chosen ones are closed (their commitments stay, salts and values do not), and what is left is
 * sealed anew under the same data key, with a fresh salt (docs/format.md sections 11 and 12). Records, and so hashes, are untouched.
 */
import assert from 'node:assert/strict';
import { encodeParts, packPayload, type StoredBlock } from '../chain/block.ts';
import { fromHex } from '../chain/bytes.ts';
import { decodeCanonical, type JsonValue } from '../chain/canonical.ts';
import { checkParts, openParts, openRecords } from '../chain/open-block.ts';
import { commitmentOf, isOpen, type Part, type PartName, partsHashHex } from '../chain/part.ts';
import type { Rec } from '../chain/record.ts';
import { sealParts } from '../chain/seal.ts';
import { sha256 } from '../chain/sha256.ts';
import { KEPT_BITS, marksOf, tagOf } from '../chain/tag.ts';

export interface Resealed {
  readonly oldHash: Uint8Array;
  readonly parts: Uint8Array;
  readonly goneTags: readonly bigint[];
}

/** Returns the block's new parts, or undefined where all that was chosen is gone already. Throws `EvidenceError` where the block is not sound. */
export function resealWithout(
  block: StoredBlock,
  stream: string,
  keys: { readonly dataKey: Uint8Array; readonly tagKey: Uint8Array },
  chosen: ReadonlyMap<number, readonly PartName[]>,
): Resealed | undefined {
  const records = openRecords(block).map(({ record }) => record);
  const before = openParts(block, stream, keys.dataKey, records);
  let isChanged = false;
  const after = before.map((parts, i) => {
    // What does not verify is evidence of something else: it is not touched.
    checkParts(records[i]!, parts);
    const names = chosen.get(block.firstSeq + i) ?? [];
    return parts.map((part): Part => {
      if (!isOpen(part) || !names.includes(part.name)) return part;
      isChanged = true;
      return { name: part.name, commitment: commitmentOf(part) };
    });
  });
  if (!isChanged) return undefined;
  const hashes = records.map(({ parts }) => fromHex(parts));
  const parts = sealParts(keys.dataKey, stream, hashes, packPayload(encodeParts(after)));
  // Read back before it replaces anything.
  for (const [i, own] of openParts({ parts }, stream, keys.dataKey, records).entries())
    assert(partsHashHex(own) === records[i]!.parts && partsHashHex(before[i]!) === records[i]!.parts);
  // One that ends as another does that stays is stored as that one.
  const kept = (tag: bigint): bigint => BigInt.asUintN(KEPT_BITS, tag);
  const left = new Set([...tagsOf(records, after, keys.tagKey)].map(kept));
  return {
    oldHash: sha256(block.parts),
    parts,
    goneTags: [...tagsOf(records, before, keys.tagKey)].filter((tag) => !left.has(kept(tag))),
  };
}

/** The distinct tags of entries. */
export function tagsOf(records: readonly Rec[], parts: readonly (readonly Part[])[], tagKey: Uint8Array): Set<bigint> {
  const tags = new Set<bigint>();
  for (const [i, { action, source }] of records.entries()) {
    const [actor, target] = [openValue(parts[i]!, 'actor'), openValue(parts[i]!, 'target')];
    for (const mark of marksOf({ action, source, actor, target })) tags.add(tagOf(mark, tagKey));
  }
  return tags;
}

function openValue(parts: readonly Part[], name: PartName): JsonValue | undefined {
  const part = parts.find((one) => one.name === name);
  return part !== undefined && isOpen(part) ? decodeCanonical(part.value) : undefined;
}
