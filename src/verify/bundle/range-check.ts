/** The entries of a bundle's stream: their records, links, openings, and the tree that they stand in. */
import { equalBytes, fromHex } from '../../chain/bytes.ts';
import type { BundleQuestion } from '../../chain/evidence-bundle.ts';
import {
  appendLeaves,
  appendSubtrees,
  type Frontier,
  frontierRoot,
  leafHash,
  popCount,
  subtreesUpTo,
} from '../../chain/merkle.ts';
import { partsHashHex } from '../../chain/part.ts';
import { decodeRecord, NO_PREVIOUS, type Rec } from '../../chain/record.ts';
import { EvidenceError } from '../../errors.ts';
import type { Certificates } from '../certificates.ts';
import { type ReadRange, readOpening } from './bundle-files.ts';
import type { BundleFindings, SeqRange } from './bundle-report.ts';

export interface RangeInput {
  readonly stream: string;
  /** Of the checkpoint. */
  readonly size: number;
  readonly root: Uint8Array;
  readonly range: ReadRange;
  readonly entries: Uint8Array;
  readonly openings: Uint8Array;
  readonly question: BundleQuestion;
  /** Sizes whose roots are wanted, where the range shows them. */
  readonly sizes: readonly number[];
  readonly certificates: Certificates;
}

export interface RangeResult {
  /** The entries that were asked for; undefined where that can not be told, because records are wrong. */
  readonly asked: SeqRange | undefined;
  readonly roots: ReadonlyMap<number, Uint8Array>;
  /** Entries whose certificates are signed by nobody who is known. */
  readonly unproven: number;
}

/** So many leaves are put into the tree at once. */
const LEAVES_AT_ONCE = 1024;
const NOTHING: RangeResult = { asked: undefined, roots: new Map(), unproven: 0 };

/** Checks the range, one entry after the other: a million of them are not held in memory. What is wrong goes to `findings`. */
export function checkRange(input: RangeInput, findings: BundleFindings): RangeResult {
  const { stream, size, range, entries, openings } = input;
  const { first, end, left, right } = range;
  const wrongForm = (detail: string): RangeResult => {
    findings.add('bundle', detail, stream);
    return NOTHING;
  };
  if (first > end || end > size)
    return wrongForm(`the range from ${first} to ${end} does not lie in a tree of ${size}`);
  if (left.length !== popCount(first) || right.length !== subtreesUpTo(end, size).length)
    return wrongForm('the range has another number of hashes beside it than its place demands');
  const [records, lines] = [countOf(recordsOf(entries)), countOf(linesOf(openings))];
  if (records === undefined) return wrongForm('the last record of entries is cut');
  if (lines === undefined) return wrongForm('the last line of openings.ndjson does not end');
  if (records !== end - first || lines !== end - first)
    return wrongForm(`the range is of ${end - first} entries; there are ${records} records and ${lines} openings`);

  const tree = new TreeCheck(input);
  const completeness = new CompletenessCheck(input);
  const chain = new ChainCheck(stream, findings);
  const opening = linesOf(openings);
  let seq = first;
  let unproven = 0;
  for (const bytes of recordsOf(entries)) {
    const leaf = leafHash(bytes!);
    const record = chain.add(seq, bytes!, leaf);
    if (checkOpening(input, seq, record, opening.next().value!, findings)) unproven += 1;
    completeness.add(seq, record);
    tree.add(leaf);
    seq += 1;
  }
  completeness.end(findings);
  const roots = tree.end(findings);
  return { asked: completeness.asked, roots, unproven };
}

/** Records, their places, links and stamps. */
class ChainCheck {
  readonly #stream: string;
  readonly #findings: BundleFindings;
  /** Of the entry before. What the first one is linked to is not in the bundle; the tree holds it all the same. */
  #previous: Uint8Array | undefined;
  #before: Rec | undefined;

  constructor(stream: string, findings: BundleFindings) {
    this.#stream = stream;
    this.#findings = findings;
  }

  /** Returns what the record says; undefined where it is malformed. */
  add(seq: number, bytes: Uint8Array, leaf: Uint8Array): Rec | undefined {
    const say = (kind: 'record' | 'link' | 'stamp', detail: string) =>
      this.#findings.add(kind, detail, this.#stream, seq);
    const previous = this.#previous;
    this.#previous = leaf;
    let record: Rec;
    try {
      record = decodeRecord(bytes);
    } catch (error) {
      say('record', wordsOf(error));
      return undefined;
    }
    if (record.stream !== this.#stream || record.seq !== seq)
      say('record', `it says that it is ${record.stream} ${record.seq}`);
    const isLinked =
      previous === undefined
        ? seq > 0 || record.previous === NO_PREVIOUS
        : equalBytes(fromHex(record.previous), previous);
    if (!isLinked) say('link', 'it does not name the hash of the entry before it');
    const before = this.#before;
    if (before !== undefined && record.recordedAt < before.recordedAt) say('stamp', 'recordedAt goes back');
    if (before !== undefined && retained(record) < retained(before)) say('stamp', 'retainUntil goes back');
    if (retained(record) < record.recordedAt) say('stamp', 'retainUntil is before recordedAt');
    this.#before = record;
    return record;
  }
}

/** Instants have one length, so that they are ordered as texts; what is kept for ever is behind them all. */
function retained(record: Rec): string {
  return record.retainUntil ?? '~';
}

/** Returns whether it lacks parts by a certificate that nobody who is known signed. */
function checkOpening(
  { stream, certificates }: RangeInput,
  seq: number,
  record: Rec | undefined,
  line: Uint8Array,
  findings: BundleFindings,
): boolean {
  let isUnproven = false;
  try {
    const opening = readOpening(line);
    if (opening.seq !== seq) throw new EvidenceError(`the opening at its place is of ${opening.seq}`);
    if (record === undefined) return false;
    if (partsHashHex(opening.parts) !== record.parts)
      findings.add('part', 'the parts are not those that the record commits to', stream, seq);
    for (const name of opening.erased) {
      const certificate = certificates.erasureOf(stream, seq, name);
      if (certificate === undefined)
        findings.add('erasure', `${name} was erased, and there is no certificate of it`, stream, seq);
      else if (!certificate.entry.isSigned) isUnproven = true;
    }
  } catch (error) {
    findings.add('bundle', wordsOf(error), stream, seq);
  }
  return isUnproven;
}

/** The neighbours, and what stands between them: recordedAt never decreases, so that is all that was asked for. */
class CompletenessCheck {
  readonly #input: RangeInput;
  #malformed = false;
  /** The first and last entry: `none` until there is one, undefined where it is malformed. */
  #one: Rec | 'none' | undefined = 'none';
  #last: Rec | 'none' | undefined = 'none';
  #askedFrom: number;
  #askedTo: number | undefined;
  #hasBegun = false;

  constructor(input: RangeInput) {
    this.#input = input;
    this.#askedFrom = input.range.first;
  }

  add(seq: number, record: Rec | undefined): void {
    const { from, to } = this.#input.question;
    if (this.#one === 'none') this.#one = record;
    this.#last = record;
    if (record === undefined) {
      this.#malformed = true;
      return;
    }
    if (!this.#hasBegun && from !== undefined && record.recordedAt < from) this.#askedFrom = seq + 1;
    else this.#hasBegun = true;
    if (this.#hasBegun && this.#askedTo === undefined && to !== undefined && record.recordedAt >= to)
      this.#askedTo = seq;
  }

  end(findings: BundleFindings): void {
    const { stream, size, range, question } = this.#input;
    const { from, to } = question;
    const [one, last] = [this.#one, this.#last];
    if (range.first > 0 && one !== undefined && (one === 'none' || from === undefined || one.recordedAt >= from))
      findings.add('gap', 'entries before the first may have been asked for', stream, range.first);
    if (range.end < size && last !== undefined && (last === 'none' || to === undefined || last.recordedAt < to))
      findings.add('gap', 'entries behind the last may have been asked for', stream, range.end);
  }

  get asked(): SeqRange | undefined {
    if (this.#malformed) return undefined;
    return { from: this.#askedFrom, to: this.#askedTo ?? this.#input.range.end };
  }
}

/** The tree that the entries stand in, and its roots at the sizes that are wanted. */
class TreeCheck {
  readonly #input: RangeInput;
  readonly #roots = new Map<number, Uint8Array>();
  readonly #stops: readonly number[];
  #stop = 0;
  #frontier: Frontier;
  #size: number;
  #leaves: Uint8Array[] = [];

  constructor(input: RangeInput) {
    const { first, end, left } = input.range;
    this.#input = input;
    this.#stops = [...new Set(input.sizes)].filter((one) => one >= first && one <= end).sort((a, b) => a - b);
    this.#frontier = left;
    this.#size = first;
    this.#append();
  }

  add(leaf: Uint8Array): void {
    this.#leaves.push(leaf);
    const next = this.#size + this.#leaves.length;
    if (this.#leaves.length === LEAVES_AT_ONCE || next === this.#stops[this.#stop]) this.#append();
  }

  /** Returns the roots of the wanted sizes that lie in the range. */
  end(findings: BundleFindings): Map<number, Uint8Array> {
    this.#append();
    const { stream, size, root, range } = this.#input;
    const frontier = appendSubtrees(range.end, this.#frontier, size, range.right);
    if (!equalBytes(frontierRoot(size, frontier), root))
      findings.add(
        'checkpoint',
        'the entries and the tree around them do not come to the root of the checkpoint',
        stream,
      );
    return this.#roots;
  }

  #append(): void {
    this.#frontier = appendLeaves(this.#size, this.#frontier, this.#leaves);
    this.#size += this.#leaves.length;
    this.#leaves = [];
    if (this.#stops[this.#stop] !== this.#size) return;
    this.#roots.set(this.#size, frontierRoot(this.#size, this.#frontier));
    this.#stop += 1;
  }
}

/** The records of an entry bundle (docs/format.md section 9); undefined where the last one is cut. */
function* recordsOf(bytes: Uint8Array): Generator<Uint8Array | undefined> {
  for (let at = 0; at < bytes.length; ) {
    const end = at + 2 + bytes[at]! * 256 + (bytes[at + 1] ?? 0);
    if (at + 2 > bytes.length || end > bytes.length) return yield undefined;
    yield bytes.subarray(at + 2, end);
    at = end;
  }
}

/** Lines without their line feeds; undefined where the last has none. */
function* linesOf(bytes: Uint8Array): Generator<Uint8Array | undefined> {
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(0x0a, at);
    if (end < 0) return yield undefined;
    yield bytes.subarray(at, end);
    at = end + 1;
  }
}

function countOf(items: Iterable<unknown>): number | undefined {
  let count = 0;
  for (const item of items) {
    if (item === undefined) return undefined;
    count += 1;
  }
  return count;
}

/** Returns the words of an error of the world's; one of ours goes on. */
export function wordsOf(error: unknown): string {
  if (!(error instanceof EvidenceError)) throw error;
  return error.message;
}
