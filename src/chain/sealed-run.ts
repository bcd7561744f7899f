/**
 * Runs: consecutive entries of one stream that will be one block. A sealed run has its parts compressed and encrypted for a drop month and
 * its tags worked out; all that is left for the sequencer is to give the entries their places.
 */
import { BLOCK_BYTES_MAX, BLOCK_ENTRIES_MAX, encodeParts, packPayload } from './block.ts';
import { fromHex } from './bytes.ts';
import type { PendingEntry, PlacelessEntry, StreamRef } from './entry.ts';
import { sealParts } from './seal.ts';
import { type Mark, type TagKind, tagOf } from './tag.ts';

/** The keys of one stream in one drop month. */
export interface StreamKeys {
  readonly id: string;
  readonly dataKey: Uint8Array;
  readonly tagKey: Uint8Array;
}

export type KeysFor = (stream: StreamRef, dropMonth: number) => Promise<StreamKeys>;

/** What sealing needs of a run. */
export interface OpenRun {
  readonly stream: StreamRef;
  readonly dropMonth: number;
  /** The parts payload, see `block.ts`. */
  readonly payload: Uint8Array;
  /** Of each entry, in order, one behind the other. */
  readonly partsHashes: Uint8Array;
  /** The distinct marks of the entries. */
  readonly marks: readonly Mark[];
}

export interface RunSeal {
  readonly keyId: string;
  readonly parts: Uint8Array;
  readonly tags: readonly bigint[];
}

export interface SealedRun extends RunSeal {
  readonly stream: StreamRef;
  readonly entries: readonly PlacelessEntry[];
  readonly dropMonth: number;
}

/** Seals runs, in order. */
export type Seal = (runs: readonly OpenRun[]) => Promise<readonly RunSeal[]>;

/** Returns the function that seals on this thread. */
export function sealWith(keysFor: KeysFor): Seal {
  return (runs) =>
    Promise.all(
      runs.map(async ({ stream, dropMonth, payload, partsHashes, marks }) => {
        const keys = await keysFor(stream, dropMonth);
        return {
          keyId: keys.id,
          parts: sealParts(keys.dataKey, stream.name, [partsHashes], packPayload(payload)),
          tags: [...new Set(marks.map((mark) => tagOf(mark, keys.tagKey)))],
        };
      }),
    );
}

/** Cuts the entries into runs that fit a block, stream by stream, and has them sealed. */
export async function sealRuns(
  entries: readonly PendingEntry[],
  dropMonthOfStream: (stream: StreamRef) => number,
  seal: Seal,
): Promise<SealedRun[]> {
  const runs = [...Map.groupBy(entries, (entry) => entry.stream.id).values()].flatMap(cutRuns);
  if (runs.length === 0) return [];
  const open = runs.map((run) => openRun(run, dropMonthOfStream(run[0]!.stream)));
  const seals = await seal(open);
  return runs.map((run, i) => ({ stream: run[0]!.stream, entries: run, dropMonth: open[i]!.dropMonth, ...seals[i]! }));
}

function openRun(entries: readonly PendingEntry[], dropMonth: number): OpenRun {
  return {
    stream: entries[0]!.stream,
    dropMonth,
    payload: encodeParts(entries.map((entry) => entry.parts)),
    partsHashes: fromHex(entries.map((entry) => entry.partsHash).join('')),
    marks: distinctMarks(entries),
  };
}

/** Marks repeat a lot within a block: each is hashed once. */
function distinctMarks(entries: readonly PendingEntry[]): Mark[] {
  const marks: Mark[] = [];
  const known = new Map<TagKind, Set<string>>();
  for (const entry of entries) {
    for (const mark of entry.marks) {
      const values = known.get(mark.kind);
      if (values?.has(mark.value) === true) continue;
      if (values === undefined) known.set(mark.kind, new Set([mark.value]));
      else values.add(mark.value);
      marks.push(mark);
    }
  }
  return marks;
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
