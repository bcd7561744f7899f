/**
 * The entries of a batch, as bytes and columns: a batch waits for its place many times as long as it takes to read it, and thousands of objects
 * that wait are what garbage collection costs. What is rarely needed again, an event that was seen before, is read back.
 */
import { decodeParts } from '../chain/block.ts';
import { ByteColumn } from '../chain/byte-column.ts';
import { toHex } from '../chain/bytes.ts';
import { type CanonicalEvent, eventOf, type PendingEntry, type StreamRef } from '../chain/entry.ts';
import type { OpenPart } from '../chain/part.ts';
import type { RecordFrame } from '../chain/record.ts';
import { type LaidOutRun, RunCutter, RunLayout } from '../chain/sealed-run.ts';
import { HASH_SIZE } from '../chain/sha256.ts';
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
    // A copy: what was cut from the text of the body would keep all of that.
    this.id = Buffer.from(id).toString();
    this.mayRepeat = mayRepeat;
  }

  /** Read back each time. */
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
    const frames = new ByteColumn();
    const [splits, ends] = [new Uint32Array(events.length), new Uint32Array(events.length)];
    for (const [i, { index }] of events.entries()) {
      const { bytes, start, split, end } = this.#frameAt(index);
      splits[i] = frames.length + split - start;
      frames.add(bytes.subarray(start, end));
      ends[i] = frames.length;
    }
    return {
      streams,
      stream: Uint16Array.from(events, ({ stream }) => streams.indexOf(stream)),
      id: events.map(({ id }) => id),
      idHash: events.map(({ index }) => this.#idHashes[index]!),
      mayRepeat: Uint8Array.from(events, ({ mayRepeat }) => (mayRepeat ? 1 : 0)),
      frames: new Uint8Array(frames.bytes),
      splits,
      ends,
      bytes: Uint32Array.from(events, ({ index }) => this.#bytes[index]!),
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
      const { marks, markEnds, occurredAt, severity, outcome } = run.columns;
      const entry = {
        ...{ parts, partsHash, occurredAt: occurredAt[at]!, outcome: outcome[at]! },
        marks: marks.slice(markEnds[at - 1] ?? 0, markEnds[at]).map((mark) => run.marks[mark]!),
        severity: severity[at] === -1 ? undefined : severity[at],
      };
      layout.add(entry, index);
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
