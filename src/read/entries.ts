/** Entries by their place, and the keys that open them. */
import type { StreamRef } from '../chain/entry.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import { KeyUnavailableError, Problem } from '../errors.ts';
import type { AsTenant } from '../store/database.ts';
import { blockOf, prunedOf } from '../store/log-reader.ts';

export interface Keys {
  keysById(id: string): Promise<OpenedKeys>;
}

interface OpenedKeys {
  readonly dataKey: Uint8Array;
  readonly tagKey: Uint8Array;
}

/**
 * Returns entries of one stream by seq; each block is read and opened once. One that is not there is missing from the answer. With the
 * drop month, which MUST then be that of all, its partition is looked at first.
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
    const block = await ask(
      async (database) =>
        (dropMonth === undefined ? undefined : await blockOf(database, stream.id, seq, [dropMonth])) ??
        // What is held may have been moved meanwhile.
        blockOf(database, stream.id, seq),
    );
    if (block === undefined) continue;
    const opened = await openKeys(keys, block.keyId, () => isPruned(ask, stream.id, seq));
    if (opened === undefined) continue;
    for (const entry of openBlock(block, stream.name, opened.dataKey, wanted)) entries.set(entry.record.seq, entry);
  }
  return entries;
}

/**
 * Returns the keys of stored blocks; undefined where they expired, so that nobody can open them any more: the key of their month is destroyed
 * (and they are in a database that was restored), or they were pruned since they were read. Throws a Problem `not_ready` when the key service
 * does not give what opens them.
 */
export async function openKeys(
  keys: Keys,
  id: string,
  werePruned: () => Promise<boolean>,
): Promise<OpenedKeys | undefined> {
  try {
    return await keys.keysById(id);
  } catch (cause) {
    if (!(cause instanceof KeyUnavailableError)) throw cause;
    if (cause.problem === 'destroyed' || (cause.problem === 'missing' && (await werePruned()))) return undefined;
    throw new Problem('not_ready', { detail: 'a key that entries are sealed with can not be had now', cause });
  }
}

/** Says whether an entry was pruned by now. */
export async function isPruned(ask: AsTenant, streamId: number, seq: number): Promise<boolean> {
  return seq < (await ask((database) => prunedOf(database, streamId)));
}
