/**
 * Holds an index of the entries, which has rows of its own, to them: none is missing, and there is none too many.
 *
 * What must be there is looked up while the entries are read. What must not be there is found by counting: the rows that must be there
 * and are, against all that are stored, in buckets; only the rows of a bucket that holds too many are looked at one by one.
 */
import type { Findings } from './findings.ts';
import { INDEX_BUCKETS, type SeqRange, type StoredIndex, type StoredRow } from './log-source.ts';

/** More holes than these are more than a question to the database can list. */
const RANGES_MAX = 100;
/** Rows that are looked at together, so that the blocks they name are read once for all of them: some 20 MB. */
const ROWS_MAX = 100_000;

export interface IndexOf<Row> {
  bucketOf(row: Row): number;
  seqOf(row: Row): number;
  /** In words. */
  nameOf(row: Row): string;
  readonly stored: StoredIndex<Row>;
  /** Says whether a row that is missing is still to be there: what an erasure or a pruning takes away goes with what it came from. Absent: it is. */
  isStillExpected?(row: Row): Promise<boolean>;
  /** What was read to say so is not good for the next time. */
  endOfLook?(): void;
  /** Why the row does not belong there, or undefined when it does. */
  objection(row: Row): Promise<string | undefined>;
}

export class IndexCheck<Row> {
  readonly #index: IndexOf<Row>;
  readonly #findings: Findings;
  /** Rows of each bucket: those that are expected and there, and those that are stored. */
  readonly #counts = new Int32Array(INDEX_BUCKETS);
  readonly #stored = new Int32Array(INDEX_BUCKETS);
  readonly #except: { from: number; to: number }[] = [];
  #expected: Row[] = [];
  /** The last entry that any row names. */
  #last = -1;

  constructor(index: IndexOf<Row>, findings: Findings) {
    this.#index = index;
    this.#findings = findings;
  }

  expect(row: Row): void {
    this.#expected.push(row);
    this.#counts[this.#index.bucketOf(row)]! += 1;
  }

  /** What the rows of these entries must be is not known. */
  leaveOut({ from, to }: SeqRange): void {
    const last = this.#except.at(-1);
    if (last !== undefined && from <= last.to) last.to = Math.max(last.to, to);
    else this.#except.push({ from, to });
  }

  /** Looks for what is expected since the last time. */
  async checkMissing(): Promise<void> {
    const rows = this.#expected;
    this.#expected = [];
    const missing = await this.#index.stored.missing(rows);
    // In the order of the entries, so that each block is read again once.
    for (const row of missing.toSorted((a, b) => this.#index.seqOf(a) - this.#index.seqOf(b))) {
      this.#counts[this.#index.bucketOf(row)]! -= 1;
      if (!this.#findings.truncated && (await this.#index.isStillExpected?.(row)) === false) continue;
      this.#findings.add('id', `the index lacks ${this.#index.nameOf(row)}`, this.#index.seqOf(row));
    }
    this.#index.endOfLook?.();
  }

  /** Counts what is stored. */
  async count(size: number): Promise<void> {
    if (this.#except.length > RANGES_MAX) return;
    const scope = { size, except: this.#except };
    for await (const { counts, last } of this.#index.stored.counts(scope)) {
      for (const { bucket, rows } of counts) this.#stored[bucket]! += rows;
      this.#last = Math.max(this.#last, last ?? -1);
    }
  }

  /** Looks at what is there besides, by what `count` counted. */
  async checkSurplus(size: number): Promise<void> {
    const scope = { size, except: this.#except };
    if (this.#except.length > RANGES_MAX) {
      const detail = `whether the index has a foreign id: there are more than ${RANGES_MAX} holes`;
      this.#findings.leaveUnchecked(detail, size);
      return;
    }
    let rows: StoredRow<Row>[] = [];
    for (let bucket = 0; bucket < INDEX_BUCKETS; bucket++) {
      if (this.#stored[bucket]! <= this.#counts[bucket]!) continue;
      for await (const more of this.#index.stored.rowsIn(bucket, scope)) {
        for (const row of more) rows.push(row);
        if (rows.length < ROWS_MAX) continue;
        await this.#checkRows(rows);
        rows = [];
        if (this.#findings.truncated) return;
      }
    }
    await this.#checkRows(rows);
  }

  /** `size` MUST have been read after `checkSurplus`: rows appear together with the size that covers them. */
  checkBeyond(size: number): void {
    if (this.#last < size) return;
    const detail = `the index has rows up to entry ${this.#last}, the stream has ${size} entries`;
    this.#findings.add('id', detail, this.#last);
  }

  async #checkRows(rows: readonly StoredRow<Row>[]): Promise<void> {
    // In the order of the entries, so that each block is read once.
    for (const row of rows.toSorted((a, b) => this.#index.seqOf(a) - this.#index.seqOf(b))) {
      if (this.#findings.truncated) return;
      const objection =
        (await this.#index.objection(row)) ??
        (row.foreign ? 'is stored under another tenant' : undefined) ??
        (row.copies > 1 ? `is stored ${row.copies} times` : undefined);
      if (objection === undefined) continue;
      // It may have gone with its entry since it was listed; what no entry can be at did not, and is not found again by a number that it is cut to.
      const seq = this.#index.seqOf(row);
      const mayBeGone = !row.foreign && seq >= 0 && seq < Number.MAX_SAFE_INTEGER;
      if (!mayBeGone || (await this.#index.stored.missing([row])).length === 0)
        this.#findings.add('id', `${this.#index.nameOf(row)} ${objection}`, seq);
    }
  }
}
