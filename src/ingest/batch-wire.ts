/** What a batch thread and the main thread tell each other. Entries travel as columns: a few arrays instead of thousands of objects. */
import type { PlacelessEntry, StreamRef } from '../chain/entry.ts';
import type { SealedRun } from '../chain/sealed-run.ts';

/** Entries of a sealed submission, by column. */
export interface EntryColumns {
  readonly streams: readonly StreamRef[];
  /** Index in `streams`. */
  readonly stream: Uint16Array;
  readonly id: readonly string[];
  readonly idHash: readonly string[];
  readonly mayRepeat: Uint8Array;
  readonly before: readonly string[];
  readonly after: readonly string[];
  readonly occurredAt: Float64Array;
  /** −1 = none. */
  readonly severity: Int8Array;
  readonly outcome: Uint8Array;
  readonly bytes: Float64Array;
}

/** A run whose entries are named by their index in the submission. */
export interface RunColumns {
  readonly stream: StreamRef;
  readonly entries: Uint32Array;
  readonly dropMonth: number;
  readonly keyId: string;
  readonly parts: Uint8Array;
  readonly tags: BigInt64Array;
}

export interface SealedColumns {
  /** The batch that it comes from. */
  readonly batch: number;
  /** Names the submission when some of a run is to be sealed anew. */
  readonly submission: number;
  readonly atomic: boolean;
  readonly entries: EntryColumns;
  readonly runs: readonly RunColumns[];
}

export function encodeEntries(entries: readonly PlacelessEntry[]): EntryColumns {
  const streams = [...new Set(entries.map((entry) => entry.stream))];
  const index = new Map(streams.map((stream, i) => [stream, i]));
  return {
    streams,
    stream: Uint16Array.from(entries, (entry) => index.get(entry.stream)!),
    id: entries.map((entry) => entry.id),
    idHash: entries.map((entry) => entry.idHash),
    mayRepeat: Uint8Array.from(entries, (entry) => (entry.mayRepeat ? 1 : 0)),
    before: entries.map((entry) => entry.frame.before),
    after: entries.map((entry) => entry.frame.after),
    occurredAt: Float64Array.from(entries, (entry) => entry.occurredAt),
    severity: Int8Array.from(entries, (entry) => entry.severity ?? -1),
    outcome: Uint8Array.from(entries, (entry) => entry.outcome),
    bytes: Float64Array.from(entries, (entry) => entry.bytes),
  };
}

export function decodeEntries(columns: EntryColumns): PlacelessEntry[] {
  return columns.id.map((id, i) => ({
    stream: columns.streams[columns.stream[i]!]!,
    id,
    idHash: columns.idHash[i]!,
    mayRepeat: columns.mayRepeat[i] === 1,
    frame: { before: columns.before[i]!, after: columns.after[i]! },
    occurredAt: columns.occurredAt[i]!,
    severity: columns.severity[i] === -1 ? undefined : columns.severity[i],
    outcome: columns.outcome[i]!,
    bytes: columns.bytes[i]!,
  }));
}

export function encodeRun(run: SealedRun, indexOf: ReadonlyMap<PlacelessEntry, number>): RunColumns {
  return {
    stream: run.stream,
    entries: Uint32Array.from(run.entries, (entry) => indexOf.get(entry)!),
    dropMonth: run.dropMonth,
    keyId: run.keyId,
    parts: new Uint8Array(run.parts),
    tags: BigInt64Array.from(run.tags),
  };
}

export function decodeRun(run: RunColumns, entries: readonly PlacelessEntry[]): SealedRun {
  return {
    stream: run.stream,
    entries: Array.from(run.entries, (index) => entries[index]!),
    dropMonth: run.dropMonth,
    keyId: run.keyId,
    parts: run.parts,
    tags: [...run.tags],
  };
}
