/**
 * Sealed runs: consecutive entries of one stream that will be one block, their parts already compressed and sealed for a drop month.
 * All that is left for the sequencer is to give the entries their places.
 */
import { BLOCK_BYTES_MAX, BLOCK_ENTRIES_MAX, encodeParts, packPayload } from './block.ts';
import type { PendingEntry, PlacelessEntry, StreamRef } from './entry.ts';
import { sealParts } from './seal.ts';
import { tagOf } from './tag.ts';

/** The keys of one stream in one drop month. */
export interface StreamKeys {
  readonly id: string;
  readonly dataKey: Uint8Array;
  readonly tagKey: Uint8Array;
}

export type KeysFor = (stream: StreamRef, dropMonth: number) => Promise<StreamKeys>;

export interface SealedRun {
  readonly stream: StreamRef;
  readonly entries: readonly PlacelessEntry[];
  readonly dropMonth: number;
  readonly keyId: string;
  readonly parts: Uint8Array;
  readonly tags: readonly bigint[];
}

/** Cuts the entries into runs that fit a block, stream by stream, and seals each. */
export async function sealRuns(
  entries: readonly PendingEntry[],
  dropMonthOfStream: (stream: StreamRef) => number,
  keysFor: KeysFor,
): Promise<SealedRun[]> {
  const runs: Promise<SealedRun>[] = [];
  for (const own of Map.groupBy(entries, (entry) => entry.stream.id).values()) {
    const dropMonth = dropMonthOfStream(own[0]!.stream);
    for (const run of cutRuns(own)) runs.push(sealRun(run, dropMonth, keysFor));
  }
  return Promise.all(runs);
}

async function sealRun(entries: readonly PendingEntry[], dropMonth: number, keysFor: KeysFor): Promise<SealedRun> {
  const { stream } = entries[0]!;
  const keys = await keysFor(stream, dropMonth);
  const payload = packPayload(encodeParts(entries.map((entry) => entry.parts)));
  const hashes = entries.map((entry) => entry.partsHash);
  const parts = sealParts(keys.dataKey, stream.name, hashes, payload);
  return { stream, entries, dropMonth, keyId: keys.id, parts, tags: tagsOf(entries, keys) };
}

/** An event larger than a block stands alone. */
function cutRuns(entries: readonly PendingEntry[]): PendingEntry[][] {
  const runs: PendingEntry[][] = [];
  let run: PendingEntry[] = [];
  let bytes = 0;
  for (const entry of entries) {
    if (run.length > 0 && (bytes + entry.bytes > BLOCK_BYTES_MAX || run.length === BLOCK_ENTRIES_MAX)) {
      runs.push(run);
      run = [];
      bytes = 0;
    }
    run.push(entry);
    bytes += entry.bytes;
  }
  if (run.length > 0) runs.push(run);
  return runs;
}

/** The distinct tags of a run. Marks repeat a lot within a block: each is hashed once. */
function tagsOf(entries: readonly PendingEntry[], keys: StreamKeys): bigint[] {
  const marks = new Map<string, bigint>();
  for (const entry of entries) {
    for (const mark of entry.marks) {
      const key = `${mark.kind} ${mark.value}`;
      if (!marks.has(key)) marks.set(key, tagOf(mark, keys.tagKey));
    }
  }
  return [...new Set(marks.values())];
}
