/** Where the stored bytes of one stream come from: `store/verify-source.ts` reads them from PostgreSQL. */
import type { StoredBlock } from '../chain/block.ts';

/** A stream's row. */
export interface StreamState {
  readonly size: number;
  readonly head: Uint8Array;
  readonly frontier: Uint8Array;
  readonly recordedAt: number;
  readonly retainUntil: number | undefined;
  /** The name that the row's tenant, category and epoch come to: that of the stream. */
  readonly describes: string;
}

/** A row that names another tenant is hidden from its own readers and shown to strangers. */
interface Owned {
  readonly foreign: boolean;
}

export interface SourceBlock extends StoredBlock, Owned {
  /** Placed, as stored: what is not there is undefined. Without them, there are more than a block can have. */
  readonly tags: readonly (bigint | undefined)[] | undefined;
}

export interface SourceTile extends Owned {
  readonly index: number;
  readonly hashes: Uint8Array;
  readonly root: Uint8Array;
}

/** Whose parts a data key seals. */
export interface KeyOwner extends Owned {
  readonly stream: string;
  readonly dropMonth: number;
}

/** Where an id stands, by the index of ids, which can be rebuilt. */
export interface IdRow {
  readonly dropMonth: number;
  readonly seq: number;
  readonly idHash: string;
}

/** A row as it is stored, and how often. */
export type StoredRow<Row> = Row & Owned & { readonly copies: number };

/** Entries from `from` up to, not including, `to`. */
export interface SeqRange {
  readonly from: number;
  readonly to: number;
}

/** Which rows of an index are counted: those of entries before `size` and outside of the ranges. */
export interface IndexScope {
  readonly size: number;
  readonly except: readonly SeqRange[];
}

export function isInScope(seq: number, { size, except }: IndexScope): boolean {
  return seq < size && !except.some(({ from, to }) => seq >= from && seq < to);
}

/** Rows of an index by their bucket, and the last entry that any row, in scope or not, names. */
export interface IndexSlice {
  readonly counts: readonly { readonly bucket: number; readonly rows: number }[];
  readonly last: number | undefined;
}

/** The stored rows of one index. */
export interface StoredIndex<Row> {
  /** Those of the rows that are not stored. */
  missing(rows: readonly Row[]): Promise<Row[]>;
  /** The rows that are stored, counted, in slices that together are all of them. */
  counts(scope: IndexScope): AsyncIterable<IndexSlice>;
  /** The rows of one bucket that are in scope. */
  rowsIn(bucket: number, scope: IndexScope): AsyncIterable<StoredRow<Row>[]>;
}

/** The index is counted in this many buckets, by the entries' places. */
export const INDEX_BUCKETS = 65_536;
/** Entries that are next to each other share a bucket, 1024 of them. */
export const ID_BUCKET_BITS = 10;
const ID_BUCKET_ENTRIES = 2 ** ID_BUCKET_BITS;

/** The bucket of an entry's id, by the entry's seq. */
export function idBucket(seq: number): number {
  const bucket = Math.floor(seq / ID_BUCKET_ENTRIES) % INDEX_BUCKETS;
  return bucket < 0 ? bucket + INDEX_BUCKETS : bucket;
}

/** The entries before `size` whose ids are in a bucket. */
export function* seqsOfIdBucket(bucket: number, size: number): Iterable<SeqRange> {
  for (let from = bucket * ID_BUCKET_ENTRIES; from < size; from += INDEX_BUCKETS * ID_BUCKET_ENTRIES)
    yield { from, to: from + ID_BUCKET_ENTRIES };
}

/**
 * No call holds a snapshot after it returned, so that what is read later may be newer. Numbers that no double holds come as
 * ±(2^53−1): wrong, but never the end of a verification.
 */
export interface LogSource {
  readonly stream: string;
  /** The number of its row. */
  readonly streamId: number;
  state(): Promise<StreamState>;
  /**
   * The next blocks behind a position, in the order of first seq, then drop month, whatever partition they are in; the block at the
   * position may come once more.
   */
  blocks(
    after: { readonly firstSeq: number; readonly dropMonth: number } | undefined,
    limit: number,
  ): Promise<SourceBlock[]>;
  /** The last block that begins at `seq` or before; without `seq` the last of all. */
  lastBlock(seq?: number): Promise<SourceBlock | undefined>;
  /** Undefined when there is no such data key. */
  keyOwner(keyId: string): Promise<KeyOwner | undefined>;
  /** Throws `KeyUnavailableError` when the key is there and can not be opened. */
  keys(keyId: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }>;
  tiles(level: number, fromIndex: number, limit: number): Promise<SourceTile[]>;
  /** The first hashes of a tile of level 0 that pruning kept while it was not full; undefined where it kept none. */
  tileEdge(index: number): Promise<Uint8Array | undefined>;
  /** The index of the last tile of each level. */
  lastTiles(): Promise<ReadonlyMap<number, number>>;
  readonly ids: StoredIndex<IdRow>;
}
