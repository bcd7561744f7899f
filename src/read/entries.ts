/** Entries by their place. */
import type { StreamRef } from '../chain/entry.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import { blockOf } from '../store/log-reader.ts';
import type { AsTenant, Keys } from './search.ts';

/** Returns entries of one stream by seq; each block is read and opened once. One that is not there is missing from the answer. */
export async function readEntries(
  ask: AsTenant,
  keys: Keys,
  stream: Pick<StreamRef, 'id' | 'name'>,
  seqs: readonly number[],
): Promise<Map<number, Entry>> {
  const entries = new Map<number, Entry>();
  const wanted = new Set(seqs);
  for (const seq of [...wanted].sort((a, b) => a - b)) {
    if (entries.has(seq)) continue;
    const block = await ask((database) => blockOf(database, stream.id, seq));
    if (block === undefined) continue;
    const { dataKey } = await keys.keysById(block.keyId);
    for (const entry of openBlock(block, stream.name, dataKey, wanted)) entries.set(entry.record.seq, entry);
  }
  return entries;
}
