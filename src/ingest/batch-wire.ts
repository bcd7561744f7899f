/** What a batch thread and the main thread tell each other. Entries and outcomes travel as columns: a few arrays instead of thousands of objects. */
import type { BlockSpans } from '../chain/block.ts';
import type { EarlierEpoch, PlacelessEntry, StreamRef } from '../chain/entry.ts';
import type { SealedRun } from '../chain/sealed-run.ts';
import type { Outcome, Receipt } from '../chain/sequencer.ts';

/** Entries of a sealed submission, by column. */
export interface EntryColumns {
  readonly streams: readonly StreamRef[];
  /** Index in `streams`. */
  readonly stream: Uint16Array;
  readonly id: readonly string[];
  readonly idHash: readonly string[];
  readonly mayRepeat: Uint8Array;
  /** All frames, one behind the other; of each, where its position belongs, and where it ends. */
  readonly frames: Uint8Array<ArrayBuffer>;
  readonly splits: Uint32Array;
  readonly ends: Uint32Array;
  readonly bytes: Uint32Array;
}

/** A run whose entries are named by their index in the submission. */
export interface RunColumns {
  readonly stream: StreamRef;
  readonly entries: Uint32Array;
  readonly dropMonth: number;
  readonly spans: BlockSpans;
  readonly keyId: string;
  readonly parts: Uint8Array<ArrayBuffer>;
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

export function decodeEntries(columns: EntryColumns): PlacelessEntry[] {
  return columns.id.map((id, i) => ({
    stream: columns.streams[columns.stream[i]!]!,
    id,
    idHash: columns.idHash[i]!,
    mayRepeat: columns.mayRepeat[i] === 1,
    frame: { bytes: columns.frames, start: columns.ends[i - 1] ?? 0, split: columns.splits[i]!, end: columns.ends[i]! },
    bytes: columns.bytes[i]!,
  }));
}

export function encodeRun<E>(run: SealedRun<E>, indexOf: (entry: E) => number): RunColumns {
  const { stream, dropMonth, spans, keyId } = run;
  return {
    ...{ stream, dropMonth, spans, keyId },
    entries: Uint32Array.from(run.entries, indexOf),
    parts: new Uint8Array(run.parts),
    tags: BigInt64Array.from(run.tags),
  };
}

export function decodeRun(
  { entries, tags, ...run }: RunColumns,
  all: readonly PlacelessEntry[],
): SealedRun<PlacelessEntry> {
  return { ...run, entries: Array.from(entries, (index) => all[index]!), tags: [...tags] };
}

/** Outcomes of a submission, by column: in one transaction the entries of a stream are stamped alike. */
export interface OutcomeColumns {
  readonly kinds: Uint8Array;
  readonly seqs: Float64Array;
  /** Of what was appended, one behind the other: hex. */
  readonly hashes: string;
  /** What receipts have in common, and index of each in it. */
  readonly stamps: readonly Stamps[];
  readonly stamp: Uint16Array;
  /** Where an id stands in an earlier epoch, by index of the entry. */
  readonly epochs: ReadonlyMap<number, EarlierEpoch>;
}

type Stamps = Omit<Receipt, 'id' | 'seq' | 'hash'>;

const WITHHELD = 0;
const APPENDED = 1;
const SEEN = 2;
const HASH_CHARS = 64;

export function encodeOutcomes(outcomes: readonly (Outcome | undefined)[]): OutcomeColumns {
  const kinds = new Uint8Array(outcomes.length);
  const seqs = new Float64Array(outcomes.length);
  const stamp = new Uint16Array(outcomes.length);
  const hashes: string[] = [];
  const stamps: Stamps[] = [];
  const epochs = new Map<number, EarlierEpoch>();
  for (const [i, outcome] of outcomes.entries()) {
    if (outcome === undefined) continue;
    if (outcome.kind === 'seen') {
      kinds[i] = SEEN;
      seqs[i] = outcome.seq;
      if (outcome.stream !== undefined) epochs.set(i, outcome.stream);
      continue;
    }
    const { id: _, seq, hash, ...own } = outcome.receipt;
    kinds[i] = APPENDED;
    seqs[i] = seq;
    hashes.push(hash);
    const known = stamps.findIndex((one) => one.stream === own.stream);
    stamp[i] = known === -1 ? stamps.push(own) - 1 : known;
  }
  return { kinds, seqs, hashes: hashes.join(''), stamps, stamp, epochs };
}

/** `ids` are those of the entries. */
export function decodeOutcomes(columns: OutcomeColumns, ids: readonly string[]): (Outcome | undefined)[] {
  const { kinds, seqs, hashes, stamps, stamp, epochs } = columns;
  let at = 0;
  return ids.map((id, i) => {
    const seq = seqs[i]!;
    if (kinds[i] === WITHHELD) return undefined;
    if (kinds[i] === SEEN) return { kind: 'seen', seq, ...(epochs.has(i) ? { stream: epochs.get(i)! } : {}) };
    const hash = hashes.slice(at, at + HASH_CHARS);
    at += HASH_CHARS;
    const { stream, recordedAt, retainUntil } = stamps[stamp[i]!]!;
    const receipt = { id, stream, seq, hash, recordedAt };
    return { kind: 'appended', receipt: retainUntil === undefined ? receipt : { ...receipt, retainUntil } };
  });
}
