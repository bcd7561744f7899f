/** What verification says: findings, and what it could not look at. */
import { EvidenceError } from '../errors.ts';

/** What is wrong with which entry. `seq` is absent where it is the stream as a whole. */
export interface Finding {
  readonly stream: string;
  readonly seq?: number;
  readonly kind: FindingKind;
  readonly detail: string;
}

export type FindingKind =
  /** The entry's record is not the one that was linked to. */
  | 'record'
  /** The entry names another predecessor than it has. */
  | 'link'
  /** The entry's parts are not those that its record commits to, or do not open. */
  | 'part'
  /** A part of the entry is closed, and no certificate says why. */
  | 'erasure'
  /** The row of the block that begins with this entry contradicts the entries in it. */
  | 'block'
  /** The search index lacks a tag of the block that begins with this entry, or has one too many. */
  | 'tag'
  /** The index of ids lacks this entry, or has one too many. */
  | 'id'
  /** A tile of the Merkle tree contradicts the entries from this one on. */
  | 'tile'
  /** The stream's row has another frontier than the tree over its entries. */
  | 'frontier'
  /** The stream's row contradicts the last entry, or itself. */
  | 'head'
  /** Entries from this one on are missing. */
  | 'gap'
  /** The oldest entries are missing, and no certificate says that they expired. */
  | 'early_deletion'
  /** Entries from this one on are not there, or the stream is not, though a statement out of the database's reach covers them. */
  | 'truncated'
  /** A block begins with this entry, which stands in another block already. */
  | 'overlap'
  /** A time of the entry goes back behind its predecessor's. */
  | 'stamp'
  /** The stored checkpoint is not that of the entries up to this one, or was put back to an older one. */
  | 'checkpoint'
  /** The tree up to this entry is another one than was stated before: by an anchor, a given checkpoint, or the signer's mark. */
  | 'inconsistent'
  /** A signature is not of a trusted key, or wrong. */
  | 'signature'
  /** A key signed what it was not valid for, or its statement does not hold. */
  | 'key'
  /** A tick or its leaves, or outside evidence, do not lead where they say. */
  | 'anchor';

/** What could not be checked, and why: entries from `seq` on, so many in all. */
export interface Unchecked {
  readonly seq?: number;
  readonly entries: number;
  readonly detail: string;
}

/** Collects them, up to a number: a log that is all wrong must not become a report that fills the memory. */
export class Findings {
  readonly found: Finding[] = [];
  readonly #stream: string;
  readonly max: number;
  readonly #unchecked = new Map<string, Unchecked>();
  #truncated = false;

  constructor(stream: string, max: number) {
    this.#stream = stream;
    this.max = max;
  }

  /** More was found than is listed. */
  get truncated(): boolean {
    return this.#truncated;
  }

  /** Each reason once, from the first entry that it hides on. */
  get unchecked(): Unchecked[] {
    return [...this.#unchecked.values()];
  }

  add(kind: FindingKind, detail: string, seq?: number): void {
    if (this.found.length >= this.max) this.#truncated = true;
    else this.found.push({ stream: this.#stream, ...(seq === undefined ? {} : { seq }), kind, detail });
  }

  /** An `EvidenceError` is a finding; anything else is not ours to judge. */
  addError(kind: FindingKind, error: unknown, seq: number): void {
    if (!(error instanceof EvidenceError)) throw error;
    this.add(kind, error.message, seq);
  }

  leaveUnchecked(detail: string, entries: number, seq?: number): void {
    const known = this.#unchecked.get(detail);
    if (known !== undefined) this.#unchecked.set(detail, { ...known, entries: known.entries + entries });
    else if (this.#unchecked.size < this.max)
      this.#unchecked.set(detail, { ...(seq === undefined ? {} : { seq }), entries, detail });
  }
}
