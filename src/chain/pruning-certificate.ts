/**
 * A pruning certificate (docs/format.md section 24): the details of an entry of log_administration which says that the entries of a stream
 * from `first` up to, not including, `end` have expired and go.
 *
 * The inclusion path of a tree's last leaf is the frontier of the tree before it. So the last record and its path are all that the rest of
 * the stream goes on from: its hash is what the next entry names, its stamps are what no later entry goes behind, and the tree grows on.
 */
import { EvidenceError } from '../errors.ts';
import { equalBytes, fromHex, toHex, utf8 } from './bytes.ts';
import { canonicalText, type JsonObject, type JsonValue } from './canonical.ts';
import { appendLeaf, type Frontier, frontierRoot, leafHash, popCount } from './merkle.ts';
import { decodeRecord, type Rec } from './record.ts';
import { dropMonthOf, parseInstant } from './retain-until.ts';
import { sha256Hex } from './sha256.ts';

export const PRUNED_ACTION = 'retention.pruned';
/** The entry that says that a pruning is given up: what its certificates say is gone is not. */
export const ABANDONED_ACTION = 'retention.abandoned';
/** Runs of entries that a certificate can name: some 2 MB. */
export const HELD_RANGES_MAX = 100_000;

/** Entries from `from` up to, not including, `to`. */
export interface HeldRange {
  readonly from: number;
  readonly to: number;
}

/** What every certificate says. */
interface Certified {
  readonly stream: string;
  readonly dropMonth: number;
  readonly first: number;
  readonly end: number;
  /** Of entry end − 1 in the tree of size `end`, lowest first. */
  readonly path: readonly Uint8Array[];
  readonly root: Uint8Array;
  /** Entries of these that stay all the same (section 25): in order, apart from each other. */
  readonly held: readonly HeldRange[];
}

export interface NewCertificate extends Certified {
  /** Of the pruning, a UUID. */
  readonly run: string;
  /** The record of entry end − 1, as it was hashed. */
  readonly lastRecord: string;
  /** How long the category is kept now; undefined = for ever. */
  readonly months: number | undefined;
  /** What the stream's first entry said of the epoch before (docs/format.md section 23), where that entry goes. */
  readonly opening: JsonObject | undefined;
}

/** What follows from a certificate that is right in itself. */
export interface ReadCertificate extends Certified {
  readonly run: string;
  readonly last: Rec;
  readonly lastHash: Uint8Array;
  /** Of the last record, milliseconds since 1970. */
  readonly recordedAt: number;
  readonly retainUntil: number;
  /** Of the tree of size `end`. */
  readonly frontier: Frontier;
}

/** Returns the details of the certificate's entry. */
export function encodePruningCertificate(certificate: NewCertificate): JsonObject {
  const { run, stream, dropMonth, first, end, lastRecord, path, root, months, held, opening } = certificate;
  const { retainUntil } = decodeRecord(utf8(lastRecord));
  return {
    ...{ run, stream, dropMonth, first, end, size: end, lastRecord, root: toHex(root) },
    path: path.map(toHex),
    policy: { months: months ?? null },
    retainUntil: retainUntil ?? null,
    held: held.map(({ from, to }) => [from, to]),
    ...(opening === undefined ? {} : { opening }),
  };
}

/** Reads what vouches for the tree in what `encodePruningCertificate` made, and checks that it is right in itself. Throws an EvidenceError. */
export function decodePruningCertificate(details: JsonValue): ReadCertificate {
  const says = (details ?? {}) as Record<string, unknown>;
  const { run, stream, dropMonth, first, end, size, lastRecord, path, held, root, retainUntil } = says;
  const isRight =
    typeof run === 'string' &&
    typeof stream === 'string' &&
    isSeq(dropMonth) &&
    isSeq(first) &&
    isSeq(end) &&
    first < end &&
    size === end &&
    typeof lastRecord === 'string' &&
    isHash(root) &&
    Array.isArray(path) &&
    path.every(isHash);
  if (!isRight) throw new EvidenceError('a member of the certificate has another form');
  const stays = readHeld(held, first, end);
  const bytes = utf8(lastRecord);
  const last = decodeRecord(bytes);
  const until = last.retainUntil === undefined ? undefined : parseInstant(last.retainUntil);
  if (last.stream !== stream || last.seq !== end - 1 || until === undefined || last.retainUntil !== retainUntil)
    throw new EvidenceError('its last record is another one than it says');
  // What was held before goes later than its own month.
  if (dropMonthOf(until) > dropMonth) throw new EvidenceError('its last record expires in a later month');
  const hashes = path.map(fromHex);
  // The left neighbours of the last leaf, lowest first: the frontier of one entry less.
  if (hashes.length !== popCount(end - 1)) throw new EvidenceError('its path has another length');
  const lastHash = leafHash(bytes);
  const frontier = appendLeaf(end - 1, hashes.toReversed(), lastHash);
  if (!equalBytes(frontierRoot(end, frontier), fromHex(root)))
    throw new EvidenceError('its path leads to another root');
  return {
    ...{ run, stream, dropMonth, first, end, held: stays, path: hashes, root: fromHex(root), last, lastHash, frontier },
    recordedAt: parseInstant(last.recordedAt)!,
    retainUntil: until,
  };
}

/** Returns the run of held entries that one is in. */
export function heldAt(held: readonly HeldRange[], seq: number): HeldRange | undefined {
  const range = held[firstEndingBehind(held, seq)];
  return range !== undefined && range.from <= seq ? range : undefined;
}

/** Returns the first run of held entries that begins behind an entry. */
export function heldBehind(held: readonly HeldRange[], seq: number): HeldRange | undefined {
  const at = firstEndingBehind(held, seq);
  return held[at] !== undefined && held[at].from <= seq ? held[at + 1] : held[at];
}

function firstEndingBehind(held: readonly HeldRange[], seq: number): number {
  let [low, high] = [0, held.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (held[middle]!.to <= seq) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The id of the entry that gives up a pruning, in each tenant's log that has certificates of it. */
export function abandonedId(run: string): string {
  return `${ABANDONED_ACTION}:${run}`;
}

/** The id of a certificate's entry: its record, which is hashed and never sealed, so names the certificate. */
export function certificateId(details: JsonObject): string {
  return `${PRUNED_ACTION}:${sha256Hex(canonicalText(details))}`;
}

function readHeld(value: unknown, first: number, end: number): HeldRange[] {
  const malformed = () => new EvidenceError('what the certificate says is held is malformed');
  if (!Array.isArray(value) || value.length > HELD_RANGES_MAX) throw malformed();
  let last = first - 1;
  return value.map((one: unknown): HeldRange => {
    const [from, to] = Array.isArray(one) && one.length === 2 ? (one as unknown[]) : [];
    // Two that touch are one.
    if (!isSeq(from) || !isSeq(to) || from <= last || from >= to || to > end) throw malformed();
    last = to;
    return { from, to };
  });
}

function isSeq(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function isHash(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}
