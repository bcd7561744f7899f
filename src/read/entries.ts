/** Entries by their place, and the keys that open them. */
import type { StreamRef } from '../chain/entry.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import { KeyUnavailableError, Problem } from '../errors.ts';
import type { AsTenant } from '../store/database.ts';
import { blockOf } from '../store/log-reader.ts';

export interface Keys {
  keysById(id: string): Promise<OpenedKeys>;
}

interface OpenedKeys {
  readonly dataKey: Uint8Array;
  readonly tagKey: Uint8Array;
}

/**
 * Returns entries of one stream by seq; each block is read and opened once. One that is not there is missing from the answer. With the
 * drop month, which MUST then be that of all, only its partition is looked at.
 */
export async function readEntries(
  ask: AsTenant,
  keys: Keys,
  stream: Pick<StreamRef, 'id' | 'name'>,
  seqs: readonly number[],
  dropMonth?: number,
): Promise<Map<number, Entry>> {
  const entries = new Map<number, Entry>();
  const wanted = new Set(seqs);
  for (const seq of [...wanted].sort((a, b) => a - b)) {
    if (entries.has(seq)) continue;
    const block = await ask((database) => blockOf(database, stream.id, seq, dropMonth));
    if (block === undefined) continue;
    const { dataKey } = await openKeys(keys, block.keyId);
    for (const entry of openBlock(block, stream.name, dataKey, wanted)) entries.set(entry.record.seq, entry);
  }
  return entries;
}

/** Returns the keys of stored blocks. Throws a Problem `not_ready` when the key service does not give what opens them. */
export async function openKeys(keys: Keys, id: string): Promise<OpenedKeys> {
  try {
    return await keys.keysById(id);
  } catch (cause) {
    if (cause instanceof KeyUnavailableError)
      throw new Problem('not_ready', { detail: 'a key that entries are sealed with can not be had now', cause });
    throw cause;
  }
}
