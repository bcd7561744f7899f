/**
 * The entries of a batch, as bytes and columns: a batch waits for its place many times as long as it takes to read it, and thousands of objects
 * that wait are what garbage collection costs. What is rarely needed again, an event that was seen before, is read back.
 */
import { decodeParts } from '../chain/block.ts';
import { ByteColumn } from '../chain/byte-column.ts';
import { toHex } from '../chain/bytes.ts';
import { type CanonicalEvent, eventOf, type PendingEntry, type StreamRef, spanned } from '../chain/entry.ts';
import type { OpenPart } from '../chain/part.ts';
import type { RecordFrame } from '../chain/record.ts';
import { type LaidOutRun, RunCutter, RunLayout } from '../chain/sealed-run.ts';
import { HASH_SIZE } from '../chain/sha256.ts';
import { marksOf } from '../chain/tag.ts';
import type { AppendableEvent } from './appender.ts';
import type { EntryColumns } from './batch-wire.ts';

/** An event of a batch. */
export class BatchEvent implements AppendableEvent {
  readonly #batch: BatchEntries;
  readonly index: number;
  readonly stream: StreamRef;
  readonly id: string;
  readonly mayRepeat: boolean;

  constructor(batch: BatchEntries, index: number, { stream, id, mayRepeat }: PendingEntry) {
    this.#batch = batch;
    this.index = index;
    this.stream = stream;
    this.id = id;
    this.mayRepeat = mayRepeat;
  }

  /** Read back. */
  get event(): CanonicalEvent {
    return this.#batch.eventAt(this.index);
  }
}

export class BatchEntries {
  readonly #cutter = new RunCutter<number>();
  #runs: readonly LaidOutRun<number>[] | undefined;
  readonly #frames = new ByteColumn();
  /** Of each frame where its position belongs, and where it ends. */
  readonly #splits: number[] = [];
  readonly #ends: number[] = [];
  readonly #idHashes: string[] = [];
  readonly #bytes: number[] = [];
  /** Of an entry its run, and which it is there; worked out where one is looked for. */
  #places: ReadonlyMap<number, readonly [run: LaidOutRun<number>, at: number]> | undefined;
  readonly #parts = new Map<LaidOutRun<number>, OpenPart[][]>();

  add(entry: PendingEntry): BatchEvent {
    const index = this.#ends.length;
    const { frame } = entry;
    this.#splits.push(this.#frames.length + frame.split - frame.start);
    this.#frames.add(frame.bytes.subarray(frame.start, frame.end));
    this.#ends.push(this.#frames.length);
    this.#idHashes.push(entry.idHash);
    this.#bytes.push(entry.bytes);
    this.#cutter.add(entry, index);
    return new BatchEvent(this, index, entry);
  }

  /** Returns runs of exactly these; nothing may be added any more. */
  runsOf(events: readonly BatchEvent[]): LaidOutRun<number>[] {
    const kept = new Set(events.map(({ index }) => index));
    return this.#allRuns().flatMap((run) => {
      if (run.entries.every((index) => kept.has(index))) return [run];
      return run.entries.some((index) => kept.has(index)) ? [this.#cutTo(run, kept)] : [];
    });
  }

  eventAt(index: number): CanonicalEvent {
    this.#places ??= new Map(this.#allRuns().flatMap((run) => run.entries.map((entry, at) => [entry, [run, at]])));
    const [run, at] = this.#places.get(index)!;
    return eventOf(this.#frameAt(index), this.#partsOf(run)[at]!);
  }

  columnsOf(events: readonly BatchEvent[]): EntryColumns {
    const streams = [...new Set(events.map(({ stream }) => stream))];
    const column = (of: (index: number) => number): Uint32Array => Uint32Array.from(events, ({ index }) => of(index));
    return {
      streams,
      stream: Uint16Array.from(events, ({ stream }) => streams.indexOf(stream)),
      id: events.map(({ id }) => id),
      idHash: events.map(({ index }) => this.#idHashes[index]!),
      mayRepeat: Uint8Array.from(events, ({ mayRepeat }) => (mayRepeat ? 1 : 0)),
      frames: new Uint8Array(this.#frames.bytes),
      starts: column((index) => this.#startOf(index)),
      splits: column((index) => this.#splits[index]!),
      ends: column((index) => this.#ends[index]!),
      bytes: column((index) => this.#bytes[index]!),
    };
  }

  #allRuns(): readonly LaidOutRun<number>[] {
    this.#runs ??= this.#cutter.end();
    return this.#runs;
  }

  /** Lays out a run again, of some of its entries. */
  #cutTo(run: LaidOutRun<number>, kept: ReadonlySet<number>): LaidOutRun<number> {
    const layout = new RunLayout<number>(run.stream);
    for (const [at, index] of run.entries.entries()) {
      if (!kept.has(index)) continue;
      const parts = this.#partsOf(run)[at]!;
      const partsHash = toHex(run.partsHashes.subarray(HASH_SIZE * at, HASH_SIZE * (at + 1)));
      const event = eventOf(this.#frameAt(index), parts);
      layout.add({ parts, partsHash, marks: marksOf(event), ...spanned(event) }, index);
    }
    return layout.end();
  }

  #partsOf(run: LaidOutRun<number>): OpenPart[][] {
    const parts = this.#parts.get(run) ?? (decodeParts(run.payload) as OpenPart[][]);
    this.#parts.set(run, parts);
    return parts;
  }

  #startOf(index: number): number {
    return index === 0 ? 0 : this.#ends[index - 1]!;
  }

  #frameAt(index: number): RecordFrame {
    const [split, end] = [this.#splits[index]!, this.#ends[index]!];
    return { bytes: this.#frames.bytes, start: this.#startOf(index), split, end };
  }
}
