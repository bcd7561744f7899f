/**
 * The tables of docs/format.md section 17 in memory, so that thousands of histories can be written and verified in seconds.
 * It takes PostgreSQL's place for test/reference.test.ts only, since the formats are what is tested there; all other tests
 * use the real one.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import type { StoredBlock } from '../../src/chain/block.ts';
import type { StreamRef } from '../../src/chain/entry.ts';
import type { AppendStore, AppendTransaction, IdQuery, NewRows, StreamHead } from '../../src/chain/sequencer.ts';
import { KeyUnavailableError, Problem } from '../../src/errors.ts';
import type { KeyStore } from '../../src/keys/keyring.ts';
import type { KeyContext, MonthKeys } from '../../src/keys/month-keys.ts';
import {
  type IdRow as IndexedId,
  type IndexScope,
  type IndexSlice,
  idBucket,
  isInScope,
  type LogSource,
  type SourceBlock,
  type StoredIndex,
  type StoredRow,
} from '../../src/verify/log-source.ts';
import * as naive from './naive-log.ts';
import type { EdgeRow } from './naive-pruning.ts';
import type * as tables from './naive-verify.ts';

/** What a transaction committed: when by the database's clock, and the streams' rows after it. */
export interface Commit {
  readonly now: number;
  readonly step: number;
  readonly heads: NewRows['heads'];
}

/** What goes wrong with the transactions to come. */
export type Fault = 'none' | 'refused before' | 'refused after' | 'reply lost';

export class MemoryLog implements AppendStore, KeyStore {
  readonly tenants: tables.TenantRow[];
  readonly streams: tables.StreamRow[];
  blocks: tables.BlockRow[] = [];
  ids: tables.IdRow[] = [];
  readonly tiles: tables.TileRow[] = [];
  dataKeys: tables.DataKeyRow[] = [];
  edges: EdgeRow[] = [];
  readonly commits: Commit[] = [];
  /** The database's clock. */
  now = 0;
  /** Which step of a plan is being played. */
  step = 0;
  fault: Fault = 'none';
  /** How long each stream's next entries are kept, by id; null: for ever. */
  months: ReadonlyMap<number, number | null> = new Map();
  readonly #newest = new Map<string, number>();
  #keysMade = 0;
  #lock: Promise<unknown> = Promise.resolve();

  constructor(tenants: readonly tables.TenantRow[], streams: readonly tables.StreamRow[]) {
    this.tenants = [...tenants];
    this.streams = [...streams];
  }

  /** One transaction at a time: more than the locks of the real one promise, but nothing that the sequencer could tell. */
  async transact<T>(
    streamIds: readonly number[],
    queries: readonly IdQuery[],
    work: (transaction: AppendTransaction) => Promise<{ readonly result: T; readonly rows: NewRows | undefined }>,
    onWritten: () => void,
  ): Promise<T> {
    const before = this.#lock;
    const done = Promise.withResolvers<void>();
    this.#lock = done.promise;
    await before;
    try {
      if (this.fault === 'refused before') throw new Problem('not_ready');
      const { now } = this;
      const { result, rows } = await work({
        heads: streamIds.map((id) => this.#headOf(id)).sort((a, b) => a.id - b.id),
        closed: [],
        unopened: [],
        refusal: undefined,
        now,
        seqs: this.#seen(queries),
        seen: async (again) => this.#seen(again),
        blocksFrom: async (streamId, seq) => this.#blocksFrom(streamId, seq),
        tileRoots: async (streamId, level, from, to) => this.#tileRoots(streamId, level, from, to),
        tileEdge: async (streamId, index) => tileEdge(this, streamId, index) ?? new Uint8Array(0),
      });
      if (rows === undefined) return result;
      onWritten();
      if (this.fault === 'refused after') throw new Problem('not_ready');
      this.#write(rows, now);
      if (this.fault === 'reply lost') throw new Problem('outcome_unknown');
      return result;
    } finally {
      done.resolve();
    }
  }

  async findOrStore(stream: StreamRef, dropMonth: number, make: Parameters<KeyStore['findOrStore']>[2]) {
    const find = () => this.dataKeys.find((key) => key.stream === stream.id && key.dropMonth === dropMonth);
    if (find() === undefined) {
      const { monthKey, wrapped } = await make();
      const place = { id: 100 + this.#keysMade++, stream: stream.id, tenant: stream.tenantId };
      if (find() === undefined) this.dataKeys.push({ ...place, dropMonth, monthKey, wrapped: copyOf(wrapped) });
    }
    const { id, monthKey, wrapped } = find()!;
    return { id: String(id), monthKey, wrapped };
  }

  async byId(id: string) {
    return keyById(this, id);
  }

  /** Takes the rows that are left of a pruned month in place of its own. */
  leave({ blocks, ids, dataKeys, edges }: tables.Rows): void {
    Object.assign(this, { blocks: [...blocks], ids: [...ids], dataKeys: [...dataKeys], edges: [...edges] });
  }

  #headOf(id: number): StreamHead {
    const row = this.streams.find((stream) => stream.id === id)!;
    const months = this.months.get(id) ?? undefined;
    return { ...row, retainUntil: row.retainUntil ?? undefined, retentionMonths: months, retentionBefore: [] };
  }

  #seen(queries: readonly IdQuery[]): (number | undefined)[] {
    return queries.map(({ streamId, idHash, dropMonths }) => {
      const seqs = dropMonths.map((month) => this.#newest.get(`${streamId} ${month} ${idHash}`) ?? -1);
      const newest = Math.max(...seqs);
      return newest === -1 ? undefined : newest;
    });
  }

  /** As the statement of the real store has it: a bounded look back. */
  #blocksFrom(streamId: number, seq: number): StoredBlock[] {
    return this.blocks
      .filter((block) => block.stream === streamId && block.firstSeq > seq - 1024)
      .sort((a, b) => a.firstSeq - b.firstSeq)
      .slice(0, 1280)
      .filter((block) => block.firstSeq + block.entries > seq)
      .map(storedBlock);
  }

  #tileRoots(streamId: number, level: number, from: number, to: number): Uint8Array[] {
    return this.tiles
      .filter((tile) => tile.stream === streamId && tile.level === level && tile.index >= from && tile.index < to)
      .sort((a, b) => a.index - b.index)
      .map((tile) => tile.root);
  }

  #write({ blocks, tiles, heads }: NewRows, now: number): void {
    for (const { stream: ref, idHashes, keyId, records, parts, tags, ...spans } of blocks) {
      const place = { stream: ref.id, tenant: ref.tenantId };
      const { firstSeq, dropMonth } = spans;
      const payloads = { records: copyOf(records), parts: copyOf(parts), tags: [...tags] };
      this.blocks.push({ ...place, ...spans, keyId: Number(keyId), ...payloads });
      for (const [i, id] of idHashes.entries()) {
        this.ids.push({ ...place, seq: firstSeq + i, id, dropMonth });
        this.#newest.set(`${ref.id} ${dropMonth} ${id}`, firstSeq + i);
      }
    }
    for (const { stream: ref, level, index, hashes, root } of tiles) {
      const place = { stream: ref.id, tenant: ref.tenantId };
      this.tiles.push({ ...place, level, index, hashes: copyOf(hashes), root: copyOf(root) });
    }
    for (const { id, sizeBefore, size, head, frontier, recordedAt, retainUntil } of heads) {
      const at = this.streams.findIndex((stream) => stream.id === id);
      const row = this.streams[at]!;
      assert.equal(row.size, sizeBefore, 'a head is where it was locked');
      const bytes = { head: copyOf(head), frontier: copyOf(frontier) };
      this.streams[at] = { ...row, ...bytes, size, recordedAt, retainUntil: retainUntil ?? null };
    }
    this.commits.push({
      now,
      step: this.step,
      heads: heads.map((each) => ({ ...each, head: copyOf(each.head), frontier: copyOf(each.frontier) })),
    });
  }
}

/** Month keys in memory, wrapping by the book: `src/keys/file-month-keys.ts` waits for a disk at each new key. */
export class MemoryMonthKeys implements MonthKeys {
  readonly byName = new Map<string, Uint8Array>();

  async wrap(dataKey: Uint8Array, { stream, dropMonth }: KeyContext) {
    const monthKey = dropMonth === 0 ? 'for-ever' : String(dropMonth);
    if (!this.byName.has(monthKey)) this.byName.set(monthKey, randomBytes(32));
    const wrapped = naive.wrap(this.byName.get(monthKey)!, randomBytes(12), stream, dropMonth, dataKey);
    return { monthKey, wrapped };
  }

  async unwrap(monthKey: string, wrapped: Uint8Array, { stream, dropMonth }: KeyContext) {
    try {
      return naive.unwrap(this.byName.get(monthKey)!, stream, dropMonth, wrapped);
    } catch (cause) {
      throw new KeyUnavailableError(`the month key ${monthKey} is not there or opens nothing`, { cause });
    }
  }

  async destroy(monthKey: string) {
    this.byName.delete(monthKey);
    return {};
  }

  retire(monthKey: string) {
    return this.destroy(monthKey);
  }

  close(): void {}

  /** These keys but for one. */
  without(name: string): MemoryMonthKeys {
    const others = new MemoryMonthKeys();
    for (const [each, key] of this.byName) if (each !== name) others.byName.set(each, key);
    return others;
  }
}

/** What a `KeyStore` says of a data key. */
export function keyById(rows: tables.Rows, id: string) {
  const key = rows.dataKeys.find((row) => row.id === Number(id));
  const stream = rows.streams.find((row) => row.id === key?.stream);
  if (key === undefined || stream === undefined) return undefined;
  return { id, monthKey: key.monthKey, wrapped: key.wrapped, stream: stream.name, dropMonth: key.dropMonth };
}

/** The rows of one stream for `verifyStream`, chosen as `store/verify-source.ts` chooses them. */
export function memorySource(rows: tables.Rows, streamId: number, keys: LogSource['keys']): LogSource {
  const stream = rows.streams.find((row) => row.id === streamId)!;
  const tenant = rows.tenants.find(({ name }) => name === stream.name.split('/')[0])?.id ?? stream.tenant;
  const ofStream = <Row extends { readonly stream: number }>(all: readonly Row[]) =>
    all.filter((row) => row.stream === streamId);
  const blocks = ofStream(rows.blocks)
    .sort((a, b) => a.firstSeq - b.firstSeq || a.dropMonth - b.dropMonth)
    .map((row): SourceBlock => ({ ...storedBlock(row), tags: tagsOf(row), foreign: row.tenant !== tenant }));
  const tiles = ofStream(rows.tiles)
    .sort((a, b) => a.index - b.index)
    .map((row) => ({ ...row, foreign: row.tenant !== tenant }));
  return {
    stream: stream.name,
    streamId,
    async state() {
      const owner = rows.tenants.find(({ id }) => id === stream.tenant)?.name ?? '(no tenant)';
      const epoch = stream.epoch === 1 ? '' : `/e${stream.epoch}`;
      const describes = `${owner}/${stream.category}${epoch}`;
      return { ...stream, retainUntil: stream.retainUntil ?? undefined, describes };
    },
    async blocks(after, limit) {
      const { firstSeq, dropMonth } = after ?? { firstSeq: -1, dropMonth: Number.POSITIVE_INFINITY };
      return blocks
        .filter((block) => block.firstSeq > firstSeq || (block.firstSeq === firstSeq && block.dropMonth > dropMonth))
        .slice(0, limit);
    },
    async lastBlock(seq) {
      return blocks.findLast((block) => seq === undefined || block.firstSeq <= seq);
    },
    async keyOwner(keyId) {
      const row = rows.dataKeys.find((key) => key.id === Number(keyId));
      const owner = keyById(rows, keyId);
      return row === undefined || owner === undefined ? undefined : { ...owner, foreign: row.tenant !== tenant };
    },
    keys,
    async tiles(level, fromIndex, limit) {
      return tiles.filter((tile) => tile.level === level && tile.index >= fromIndex).slice(0, limit);
    },
    async lastTiles() {
      // In ascending order of index: the last one stays.
      return new Map(tiles.map((tile) => [tile.level, tile.index]));
    },
    tileEdge: async (index) => tileEdge(rows, streamId, index),
    ids: memoryIndex(ofStream(rows.ids), tenant, {
      rowOf: ({ id, seq, dropMonth }: tables.IdRow): IndexedId => ({ idHash: id, seq, dropMonth }),
      bucketOf: (row) => idBucket(row.seq),
      seqOf: (row) => row.seq,
      keyOf: (row) => `${row.dropMonth} ${row.seq} ${row.idHash}`,
    }),
  };
}

function tileEdge({ edges }: tables.Rows, stream: number, index: number): Uint8Array | undefined {
  const own = edges.filter((edge) => edge.stream === stream && edge.index === index);
  return own.sort((a, b) => b.width - a.width)[0]?.hashes;
}

interface IndexShape<Stored, Row> {
  rowOf(stored: Stored): Row;
  bucketOf(row: Row): number;
  seqOf(row: Row): number;
  keyOf(row: Row): string;
}

function memoryIndex<Stored extends { readonly tenant: number }, Row>(
  all: readonly Stored[],
  tenant: number,
  { rowOf, bucketOf, seqOf, keyOf }: IndexShape<Stored, Row>,
): StoredIndex<Row> {
  const rows = all.map((stored) => ({ row: rowOf(stored), foreign: stored.tenant !== tenant }));
  const own = new Set(rows.flatMap(({ row, foreign }) => (foreign ? [] : [keyOf(row)])));
  return {
    async missing(wanted) {
      return wanted.filter((row) => !own.has(keyOf(row)));
    },
    async *counts(scope: IndexScope): AsyncIterable<IndexSlice> {
      const inScope = rows.filter(({ row }) => isInScope(seqOf(row), scope));
      const counts = [...Map.groupBy(inScope, ({ row }) => bucketOf(row))];
      const last = rows.length === 0 ? undefined : Math.max(...rows.map(({ row }) => seqOf(row)));
      yield { counts: counts.map(([bucket, found]) => ({ bucket, rows: found.length })), last };
    },
    async *rowsIn(bucket: number, scope: IndexScope): AsyncIterable<StoredRow<Row>[]> {
      const found = rows.filter(({ row }) => bucketOf(row) === bucket && isInScope(seqOf(row), scope));
      const groups = [...Map.groupBy(found, ({ row }) => keyOf(row)).values()];
      if (groups.length === 0) return;
      yield groups.map((same) => ({
        ...same[0]!.row,
        copies: same.length,
        foreign: same.some(({ foreign }) => foreign),
      }));
    },
  };
}

function storedBlock({ stream: _, tenant: __, tags: ___, keyId, ...block }: tables.BlockRow): StoredBlock {
  return { ...block, keyId: String(keyId) };
}

function tagsOf({ tags }: tables.BlockRow): SourceBlock['tags'] {
  return tags.length > 9216 ? undefined : tags.map((tag) => tag ?? undefined);
}

/** What is written stays as it was, whatever becomes of the writer's buffers. */
function copyOf(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(bytes);
}
