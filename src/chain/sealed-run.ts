/**
 * Runs: consecutive entries of one stream that will be one block. A sealed run has its parts compressed and encrypted for a drop month and
 * its tags worked out; all that is left for the sequencer is to give the entries their places.
 */
import {
  BLOCK_BYTES_MAX,
  BLOCK_ENTRIES_MAX,
  type BlockSpans,
  encodeParts,
  noSpans,
  packPayload,
  widen,
} from './block.ts';
import { ByteColumn } from './byte-column.ts';
import type { PendingEntry, PlacelessEntry, StreamRef } from './entry.ts';
import type { OpenPart } from './part.ts';
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

/** A run laid out, but for its drop month. Its entries are named by whatever its maker knows them by. */
export interface LaidOutRun<E> extends Omit<OpenRun, 'dropMonth'> {
  readonly entries: readonly E[];
  readonly spans: BlockSpans;
  readonly columns: LaidOutColumns;
}

/** What a run was laid out from, by entry, so that some of it can be laid out again. */
export interface LaidOutColumns {
  /** Indexes in the run's marks, of all entries one behind the other, and where those of each end. */
  readonly marks: readonly number[];
  readonly markEnds: readonly number[];
  readonly occurredAt: readonly number[];
  /** −1 = none. */
  readonly severity: readonly number[];
  readonly outcome: readonly number[];
}

export interface RunSeal {
  readonly keyId: string;
  readonly parts: Uint8Array;
  readonly tags: readonly bigint[];
}

export interface SealedRun<E = PlacelessEntry> extends RunSeal {
  readonly stream: StreamRef;
  readonly entries: readonly E[];
  readonly dropMonth: number;
  readonly spans: BlockSpans;
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
  const runs = new RunCutter<PendingEntry>();
  for (const entry of entries) runs.add(entry, entry);
  return sealLaidOut(runs.end(), dropMonthOfStream, seal);
}

export async function sealLaidOut<E>(
  runs: readonly LaidOutRun<E>[],
  dropMonthOfStream: (stream: StreamRef) => number,
  seal: Seal,
): Promise<SealedRun<E>[]> {
  if (runs.length === 0) return [];
  const open = runs.map((run) => ({ ...run, dropMonth: dropMonthOfStream(run.stream) }));
  const seals = await seal(open);
  return open.map(({ stream, entries, dropMonth, spans }, i) => ({ stream, entries, dropMonth, spans, ...seals[i]! }));
}

/** Cuts entries into runs that fit a block, as they come: those of a stream stay in order. Of a run that is full only its bytes, columns and distinct marks are kept. */
export class RunCutter<E> {
  readonly #full: LaidOutRun<E>[] = [];
  readonly #open = new Map<number, RunLayout<E>>();

  add(entry: PendingEntry, as: E): void {
    const { stream } = entry;
    let run = this.#open.get(stream.id);
    if (run === undefined || !run.hasRoom(entry)) {
      if (run !== undefined) this.#full.push(run.end());
      run = new RunLayout(stream);
      this.#open.set(stream.id, run);
    }
    run.add(entry, as);
  }

  end(): LaidOutRun<E>[] {
    for (const run of this.#open.values()) this.#full.push(run.end());
    return this.#full;
  }
}

/** What a run needs of an entry. */
type RunEntry = Pick<PendingEntry, 'parts' | 'partsHash' | 'marks' | 'occurredAt' | 'severity' | 'outcome'>;

/** A run that entries are added to. */
export class RunLayout<E> {
  readonly #stream: StreamRef;
  readonly #entries: E[] = [];
  readonly #parts: (readonly OpenPart[])[] = [];
  readonly #hashes = new ByteColumn();
  /** Marks repeat a lot within a block: each is hashed once. */
  readonly #marks: Mark[] = [];
  readonly #known = new Map<TagKind, Map<string, number>>();
  readonly #columns = {
    marks: [] as number[],
    markEnds: [] as number[],
    occurredAt: [] as number[],
    severity: [] as number[],
    outcome: [] as number[],
  };
  readonly #spans = noSpans();
  #bytes = 0;

  constructor(stream: StreamRef) {
    this.#stream = stream;
  }

  /** An event larger than a block stands alone. */
  hasRoom({ bytes }: PendingEntry): boolean {
    return this.#entries.length < BLOCK_ENTRIES_MAX && this.#bytes + bytes <= BLOCK_BYTES_MAX;
  }

  add(entry: RunEntry & { readonly bytes?: number }, as: E): void {
    this.#entries.push(as);
    this.#parts.push(entry.parts);
    this.#hashes.addHex(entry.partsHash);
    const columns = this.#columns;
    for (const mark of entry.marks) columns.marks.push(this.#indexOf(mark));
    columns.markEnds.push(columns.marks.length);
    columns.occurredAt.push(entry.occurredAt);
    columns.severity.push(entry.severity ?? -1);
    columns.outcome.push(entry.outcome);
    widen(this.#spans, entry);
    this.#bytes += entry.bytes ?? 0;
  }

  end(): LaidOutRun<E> {
    return {
      stream: this.#stream,
      entries: this.#entries,
      payload: encodeParts(this.#parts),
      partsHashes: this.#hashes.bytes,
      marks: this.#marks,
      spans: this.#spans,
      columns: this.#columns,
    };
  }

  #indexOf(mark: Mark): number {
    let values = this.#known.get(mark.kind);
    if (values === undefined) {
      values = new Map();
      this.#known.set(mark.kind, values);
    }
    const known = values.get(mark.value);
    if (known !== undefined) return known;
    values.set(mark.value, this.#marks.length);
    return this.#marks.push(mark) - 1;
  }
}
