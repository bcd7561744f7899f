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
import { commitmentOf, partsHash } from '../../chain/part.ts';
import { decodeRecord, NO_PREVIOUS, type Rec } from '../../chain/record.ts';
import { decodeEntryBundle } from '../../chain/tile.ts';
import { EvidenceError } from '../../errors.ts';
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
}

export interface RangeResult {
  /** The entries that were asked for; undefined where that can not be told, because records are wrong. */
  readonly asked: SeqRange | undefined;
  readonly roots: ReadonlyMap<number, Uint8Array>;
}

/** So many leaves are put into the tree at once. */
const LEAVES_AT_ONCE = 1024;
const NOTHING: RangeResult = { asked: undefined, roots: new Map() };

/** Checks the range; what is wrong goes to `findings`. */
export function checkRange(input: RangeInput, findings: BundleFindings): RangeResult {
  const { stream, size, range, question } = input;
  const { first, end, left, right } = range;
  const wrongForm = (detail: string): RangeResult => {
    findings.add('bundle', detail, stream);
    return NOTHING;
  };
  if (first > end || end > size)
    return wrongForm(`the range from ${first} to ${end} does not lie in a tree of ${size}`);
  if (left.length !== popCount(first) || right.length !== subtreesUpTo(end, size).length)
    return wrongForm('the range has another number of hashes beside it than its place demands');
  let records: Uint8Array[];
  let openings: Uint8Array[];
  try {
    records = decodeEntryBundle(input.entries);
    openings = linesOf(input.openings);
  } catch (error) {
    return wrongForm(wordsOf(error));
  }
  if (records.length !== end - first || openings.length !== end - first)
    return wrongForm(
      `the range is of ${end - first} entries; there are ${records.length} records and ${openings.length} openings`,
    );

  const leaves = records.map(leafHash);
  const decoded = checkRecords(stream, first, records, leaves, findings);
  checkOpenings(stream, first, decoded, openings, findings);
  checkCompleteness(stream, size, range, decoded, question, findings);
  const roots = checkTree(input, leaves, findings);
  return { asked: askedFor(first, decoded, question), roots };
}

/** Returns what the records say; undefined stands for one that is malformed. */
function checkRecords(
  stream: string,
  first: number,
  records: readonly Uint8Array[],
  leaves: readonly Uint8Array[],
  findings: BundleFindings,
): (Rec | undefined)[] {
  let before: Rec | undefined;
  return records.map((bytes, i) => {
    const seq = first + i;
    const say = (kind: 'record' | 'link' | 'stamp', detail: string) => findings.add(kind, detail, stream, seq);
    let record: Rec;
    try {
      record = decodeRecord(bytes);
    } catch (error) {
      say('record', wordsOf(error));
      return undefined;
    }
    if (record.stream !== stream || record.seq !== seq)
      say('record', `it says that it is ${record.stream} ${record.seq}`);
    // What entry `first` is linked to is not in the bundle; the tree holds it all the same.
    const previous = i === 0 ? undefined : leaves[i - 1]!;
    const isLinked =
      previous === undefined
        ? seq > 0 || record.previous === NO_PREVIOUS
        : equalBytes(fromHex(record.previous), previous);
    if (!isLinked) say('link', 'it does not name the hash of the entry before it');
    if (before !== undefined && record.recordedAt < before.recordedAt) say('stamp', 'recordedAt goes back');
    if (before !== undefined && retained(record) < retained(before)) say('stamp', 'retainUntil goes back');
    if (retained(record) < record.recordedAt) say('stamp', 'retainUntil is before recordedAt');
    before = record;
    return record;
  });
}

/** Instants have one length, so that they are ordered as texts; what is kept for ever is behind them all. */
function retained(record: Rec): string {
  return record.retainUntil ?? '~';
}

function checkOpenings(
  stream: string,
  first: number,
  records: readonly (Rec | undefined)[],
  openings: readonly Uint8Array[],
  findings: BundleFindings,
): void {
  for (const [i, line] of openings.entries()) {
    const seq = first + i;
    try {
      const opening = readOpening(line);
      if (opening.seq !== seq) throw new EvidenceError(`the opening at its place is of ${opening.seq}`);
      const record = records[i];
      if (record === undefined) continue;
      const commitments = opening.parts.map((part) => ({ name: part.name, commitment: commitmentOf(part) }));
      if (!equalBytes(partsHash(commitments), fromHex(record.parts)))
        findings.add('part', 'the parts are not those that the record commits to', stream, seq);
      for (const name of opening.erased)
        findings.add('erasure', `${name} was erased, and there is no certificate of it`, stream, seq);
    } catch (error) {
      findings.add('bundle', wordsOf(error), stream, seq);
    }
  }
}

/** The neighbours: recordedAt never decreases, so what stands between them is all that was asked for. */
function checkCompleteness(
  stream: string,
  size: number,
  { first, end }: ReadRange,
  records: readonly (Rec | undefined)[],
  { from, to }: BundleQuestion,
  findings: BundleFindings,
): void {
  const at = (index: number): Rec | 'none' | undefined => (records.length === 0 ? 'none' : records.at(index));
  const one = at(0);
  if (first > 0 && one !== undefined && (one === 'none' || from === undefined || one.recordedAt >= from))
    findings.add('gap', 'entries before the first may have been asked for', stream, first);
  const last = at(-1);
  if (end < size && last !== undefined && (last === 'none' || to === undefined || last.recordedAt < to))
    findings.add('gap', 'entries behind the last may have been asked for', stream, end);
}

/** Returns the roots of the wanted sizes. */
function checkTree(
  { stream, size, root, range, sizes }: RangeInput,
  leaves: readonly Uint8Array[],
  findings: BundleFindings,
): Map<number, Uint8Array> {
  const { first, end, left, right } = range;
  const stops = [...new Set(sizes)].filter((one) => one >= first && one <= end).sort((a, b) => a - b);
  const roots = new Map<number, Uint8Array>();
  let frontier: Frontier = left;
  let at = first;
  while (true) {
    if (stops[0] === at) roots.set(stops.shift()!, frontierRoot(at, frontier));
    if (at === end) break;
    const next = Math.min(end, at + LEAVES_AT_ONCE, stops[0] ?? end);
    frontier = appendLeaves(at, frontier, leaves.slice(at - first, next - first));
    at = next;
  }
  if (!equalBytes(frontierRoot(size, appendSubtrees(end, frontier, size, right)), root))
    findings.add(
      'checkpoint',
      'the entries and the tree around them do not come to the root of the checkpoint',
      stream,
    );
  return roots;
}

function askedFor(
  first: number,
  records: readonly (Rec | undefined)[],
  { from, to }: BundleQuestion,
): SeqRange | undefined {
  if (records.includes(undefined)) return undefined;
  const begin = countWhile(records, (record) => from !== undefined && record!.recordedAt < from);
  const length = countWhile(records.slice(begin), (record) => to === undefined || record!.recordedAt < to);
  return { from: first + begin, to: first + begin + length };
}

function countWhile<T>(items: readonly T[], holds: (item: T) => boolean): number {
  const index = items.findIndex((item) => !holds(item));
  return index < 0 ? items.length : index;
}

/** Returns lines without their line feeds. Throws an EvidenceError where the last has none. */
function linesOf(bytes: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(0x0a, at);
    if (end < 0) throw new EvidenceError('the last line of openings.ndjson does not end');
    lines.push(bytes.subarray(at, end));
    at = end + 1;
  }
  return lines;
}

/** Returns the words of an error of the world's; one of ours goes on. */
export function wordsOf(error: unknown): string {
  if (!(error instanceof EvidenceError)) throw error;
  return error.message;
}
