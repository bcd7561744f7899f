/**
 * Verification of one stream, from stored bytes: every hash, link, stamp, commitment, tag, id, block boundary, tile, and the state
 * that the sequencer goes on from.
 *
 * Imports nothing of Sealog but the formats in `chain/`; where the bytes come from is a `LogSource`. Reads chunk by chunk, holds
 * nothing but the edge of the tree, and may run while entries are appended: it checks the entries that the stream held when
 * it began, and reads the state again at the end for what may be stored beyond it.
 *
 * What this shows is that the database agrees with itself. That it is not another, equally consistent log is shown by checkpoints
 * that lie where the database's owner can not reach them.
 */
import { decodeRecords, type StoredBlock, spansOf, unpackPayload } from '../chain/block.ts';
import { concatBytes, equalBytes, toHex } from '../chain/bytes.ts';
import { decodeCanonical, type JsonValue } from '../chain/canonical.ts';
import { OUTCOMES } from '../chain/category.ts';
import { entryIdHash } from '../chain/entry.ts';
import { appendLeaves, encodeFrontier, type Frontier, leafHash } from '../chain/merkle.ts';
import { checkParts, openParts } from '../chain/open-block.ts';
import { isOpen, type Part, type PartName } from '../chain/part.ts';
import { decodeRecord, NO_PREVIOUS, type Rec } from '../chain/record.ts';
import { dropMonthOf, formatInstant, HELD, parseInstant } from '../chain/retain-until.ts';
import { marksOf, tagOf } from '../chain/tag.ts';
import { TILE_WIDTH, tileRoot } from '../chain/tile.ts';
import { EvidenceError, KeyUnavailableError } from '../errors.ts';

/** What is wrong with which entry. `seq` is absent where it is the stream as a whole. */
export interface Finding {
  readonly stream: string;
  readonly seq?: number;
  readonly kind: FindingKind;
  readonly detail: string;
}

export type FindingKind =
  | 'record'
  | 'link'
  | 'part'
  | 'block'
  | 'tag'
  | 'id'
  | 'tile'
  | 'frontier'
  | 'head'
  | 'gap'
  | 'overlap'
  | 'stamp';

/** `intact`: nothing is wrong. `tampered`: something is. `incomplete`: nothing is wrong with what could be read, but not all could be. */
export type Verdict = 'intact' | 'tampered' | 'incomplete';

export interface StreamReport {
  readonly stream: string;
  /** Entries that the stream held when verification began. */
  readonly size: number;
  readonly verdict: Verdict;
  readonly findings: readonly Finding[];
  /** More was found than is listed. */
  readonly truncated: boolean;
  /** What could not be checked, and why. */
  readonly unchecked: readonly { readonly seq?: number; readonly detail: string }[];
}

/** A stream's row. */
export interface StreamState {
  readonly size: number;
  readonly head: Uint8Array;
  readonly frontier: Uint8Array;
  readonly recordedAt: number;
  readonly retainUntil: number | undefined;
}

export interface StoredTile {
  readonly index: number;
  readonly hashes: Uint8Array;
  readonly root: Uint8Array;
}

/** Rows of the search index, which can be rebuilt: a tag of a block, or the id of an entry. */
export interface TagRow {
  readonly dropMonth: number;
  readonly firstSeq: number;
  readonly tag: bigint;
}

export interface IdRow {
  readonly dropMonth: number;
  readonly seq: number;
  readonly idHash: string;
}

/** Where the stored bytes of one stream come from. No call holds a snapshot after it returned. */
export interface LogSource {
  readonly stream: string;
  state(): Promise<StreamState>;
  /** The next blocks behind a position, in the order of first seq, then drop month, whatever partition they are in. */
  blocks(
    after: { readonly firstSeq: number; readonly dropMonth: number } | undefined,
    limit: number,
  ): Promise<StoredBlock[]>;
  keys(keyId: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }>;
  tiles(level: number, fromIndex: number, limit: number): Promise<StoredTile[]>;
  /** How many tiles there are of each level. */
  tileCounts(): Promise<ReadonlyMap<number, number>>;
  /** Those of the rows that are not stored. */
  missingTags(rows: readonly TagRow[]): Promise<TagRow[]>;
  missingIds(rows: readonly IdRow[]): Promise<IdRow[]>;
  /** The rows stored for entries before `size`, in slices that together are all of them; about `expected` in number. */
  countTags(size: number, expected: number): Promise<number>;
  countIds(size: number, expected: number): Promise<number>;
  tagSlices(size: number, expected: number): AsyncIterable<TagRow[]>;
  idSlices(size: number, expected: number): AsyncIterable<IdRow[]>;
}

export interface VerifyOptions {
  /** Called after each chunk with the number of entries checked so far. */
  readonly onProgress?: (entries: number) => void | Promise<void>;
  readonly findingsMax?: number;
}

const BLOCKS_A_CHUNK = 32;
const TILES_A_CHUNK = 64;
const FINDINGS_MAX = 1000;

/** Verifies the stream. Throws only what the source throws (a database that does not answer). */
export async function verifyStream(source: LogSource, options: VerifyOptions = {}): Promise<StreamReport> {
  const check = new StreamCheck(source, options.findingsMax ?? FINDINGS_MAX);
  return check.run(options.onProgress ?? (() => {}));
}

class StreamCheck {
  readonly #source: LogSource;
  readonly #findingsMax: number;
  readonly #findings: Finding[] = [];
  readonly #unchecked: { seq?: number; detail: string }[] = [];
  #truncated = false;

  /** The seq that comes next, and the hash of the entry before; undefined behind a hole. */
  #next = 0;
  #previous: string | undefined = NO_PREVIOUS;
  #recordedAt = 0;
  #retainUntil: number | undefined;
  /** Undefined behind a hole: the tree can not be computed past it. */
  #frontier: Frontier | undefined = [];
  readonly #tree: TreeCheck;
  #tags = 0;
  #tagsKnown = true;

  constructor(source: LogSource, findingsMax: number) {
    this.#source = source;
    this.#findingsMax = findingsMax;
    this.#tree = new TreeCheck(source, (seq, detail) => this.#find('tile', detail, seq));
  }

  async run(onProgress: (entries: number) => void | Promise<void>): Promise<StreamReport> {
    const source = this.#source;
    const state = await source.state();
    let after: { firstSeq: number; dropMonth: number } | undefined;
    let reading = source.blocks(undefined, BLOCKS_A_CHUNK);
    for (;;) {
      const chunk = await reading;
      const last = chunk.at(-1);
      if (last === undefined) break;
      after = { firstSeq: last.firstSeq, dropMonth: last.dropMonth };
      // Blocks that begin at or behind the size came after we began.
      const own = chunk.filter((block) => block.firstSeq < state.size);
      const more = own.length === chunk.length;
      if (more) {
        reading = source.blocks(after, BLOCKS_A_CHUNK);
        // A failure is met where it is awaited; until then it is nobody's.
        reading.catch(() => {});
      }
      await this.#checkChunk(own, state);
      await onProgress(this.#next);
      if (!more) break;
    }
    if (this.#next < state.size)
      this.#find('gap', `entries ${this.#next} to ${state.size - 1} are missing at the end`, this.#next);
    this.#checkState(state);
    await this.#checkBeyond(state);
    await this.#checkIndexes(state.size);
    let verdict: Verdict = 'intact';
    if (this.#findings.length > 0) verdict = 'tampered';
    else if (this.#unchecked.length > 0) verdict = 'incomplete';
    return {
      stream: source.stream,
      size: state.size,
      verdict,
      findings: this.#findings,
      truncated: this.#truncated,
      unchecked: this.#unchecked,
    };
  }

  async #checkChunk(blocks: readonly StoredBlock[], state: StreamState): Promise<void> {
    const tags: TagRow[] = [];
    const ids: IdRow[] = [];
    for (const block of blocks) await this.#checkBlock(block, state, tags, ids);
    for (const row of await this.#source.missingTags(tags))
      this.#find('tag', `the tag ${row.tag} of this block is missing`, row.firstSeq);
    for (const row of await this.#source.missingIds(ids))
      this.#find('id', 'the id of this entry is missing from the index', row.seq);
  }

  async #checkBlock(block: StoredBlock, state: StreamState, tags: TagRow[], ids: IdRow[]): Promise<void> {
    const { firstSeq } = block;
    if (firstSeq < this.#next) {
      this.#find(
        'overlap',
        `a block begins at ${firstSeq}, though the entries before ${this.#next} stand in others`,
        firstSeq,
      );
      return;
    }
    if (firstSeq > this.#next) {
      this.#find('gap', `entries ${this.#next} to ${firstSeq - 1} are missing`, this.#next);
      this.#leaveHole(firstSeq);
    }
    if (firstSeq + block.entries > state.size) {
      this.#find(
        'block',
        `the block holds entries up to ${firstSeq + block.entries - 1}, the stream only ${state.size}`,
        firstSeq,
      );
    }
    let records: Uint8Array[];
    try {
      records = decodeRecords(unpackPayload(block.records));
    } catch (error) {
      this.#findError('block', error, firstSeq);
      this.#leaveHole(Math.min(firstSeq + block.entries, state.size));
      return;
    }
    if (records.length !== block.entries) {
      this.#find('block', `the block says ${block.entries} entries and holds ${records.length}`, firstSeq);
    }
    const decoded = records.map((bytes, index) => this.#checkRecord(bytes, firstSeq + index, block));
    const leaves = records.map((bytes) => leafHash(bytes));
    if (this.#frontier !== undefined) this.#frontier = appendLeaves(firstSeq, this.#frontier, leaves);
    await this.#tree.append(leaves);
    this.#next = firstSeq + records.length;
    if (decoded.every((record) => record !== undefined)) await this.#checkContent(block, decoded, tags, ids);
    else this.#tagsKnown = false;
  }

  /** Everything a record says that its neighbours or its block also say. */
  #checkRecord(bytes: Uint8Array, seq: number, block: StoredBlock): Rec | undefined {
    const before = this.#previous;
    this.#previous = toHex(leafHash(bytes));
    let record: Rec;
    try {
      record = decodeRecord(bytes);
    } catch (error) {
      this.#findError('record', error, seq);
      return undefined;
    }
    if (record.stream !== this.#source.stream)
      this.#find('record', `the record says that it belongs to ${record.stream}`, seq);
    if (record.seq !== seq) this.#find('record', `the record stands at ${seq} and says that it is ${record.seq}`, seq);
    if (before !== undefined && record.previous !== before) {
      this.#find(
        'link',
        seq === 0
          ? 'the first entry names a previous one'
          : `it does not link to entry ${seq - 1}: one of the two was changed`,
        seq,
      );
    }
    const recordedAt = parseInstant(record.recordedAt)!;
    const retainUntil = record.retainUntil === undefined ? undefined : parseInstant(record.retainUntil)!;
    if (recordedAt < this.#recordedAt)
      this.#find('stamp', `recordedAt goes back, from ${formatInstant(this.#recordedAt)} to ${record.recordedAt}`, seq);
    if ((retainUntil ?? Infinity) < (this.#retainUntil ?? 0)) {
      this.#find(
        'stamp',
        `retainUntil goes back, from ${formatInstant(this.#retainUntil!)} to ${record.retainUntil}`,
        seq,
      );
    }
    if (retainUntil !== undefined && retainUntil < recordedAt)
      this.#find('stamp', 'retainUntil is before recordedAt', seq);
    if (block.dropMonth !== HELD && dropMonthOf(retainUntil) !== block.dropMonth) {
      this.#find(
        'block',
        `it is kept until ${record.retainUntil ?? 'for ever'} and stored under drop month ${block.dropMonth}`,
        seq,
      );
    }
    if (recordedAt < block.recordedFrom || recordedAt > block.recordedTo)
      this.#find('block', 'it was recorded outside the span of its block', seq);
    this.#recordedAt = Math.max(recordedAt, this.#recordedAt);
    this.#retainUntil = retainUntil;
    return record;
  }

  /** Parts against commitments, spans, tags and ids of a block whose records are sound. */
  async #checkContent(block: StoredBlock, records: readonly Rec[], tags: TagRow[], ids: IdRow[]): Promise<void> {
    const { firstSeq, dropMonth } = block;
    for (const record of records) ids.push({ dropMonth, seq: record.seq, idHash: entryIdHash(record.id) });
    const spans = spansOf(
      records.map((record) => ({
        occurredAt: Date.parse(record.occurredAt),
        severity: record.severity,
        outcome: OUTCOMES.indexOf(record.outcome),
      })),
    );
    for (const [name, value] of Object.entries(spans)) {
      if (block[name as keyof typeof spans] !== value)
        this.#find('block', `the block's ${name} is not that of its entries`, firstSeq);
    }
    if (
      block.recordedFrom !== parseInstant(records[0]!.recordedAt) ||
      block.recordedTo !== parseInstant(records.at(-1)!.recordedAt)
    ) {
      this.#find('block', 'the span of recordedAt is not that of its entries', firstSeq);
    }
    let keys: { readonly dataKey: Uint8Array; readonly tagKey: Uint8Array };
    let parts: Part[][];
    try {
      keys = await this.#source.keys(block.keyId);
      parts = openParts(
        block,
        this.#source.stream,
        keys.dataKey,
        records.map((record) => ({ record })),
      );
    } catch (error) {
      this.#tagsKnown = false;
      if (error instanceof KeyUnavailableError) this.#leaveUnchecked(`the parts: ${error.message}`, firstSeq);
      else this.#findError('part', error, firstSeq);
      return;
    }
    const own = new Set<bigint>();
    for (const [index, record] of records.entries()) {
      const open = parts[index]!;
      try {
        checkParts(record, open);
        for (const part of open) {
          if (!isOpen(part))
            this.#find('part', `the part ${part.name} is gone, without a certificate of its erasure`, record.seq);
        }
        const marks = marksOf({
          action: record.action,
          source: record.source,
          actor: partValue(open, 'actor'),
          target: partValue(open, 'target'),
        });
        for (const mark of marks) own.add(tagOf(mark, keys.tagKey));
      } catch (error) {
        this.#tagsKnown = false;
        this.#findError('part', error, record.seq);
      }
    }
    for (const tag of own) tags.push({ dropMonth, firstSeq, tag });
    this.#tags += own.size;
  }

  /** The row that the sequencer goes on from, against what the entries come to. */
  #checkState(state: StreamState): void {
    if (this.#previous !== undefined && this.#next === state.size) {
      const head = state.size === 0 ? NO_PREVIOUS : this.#previous;
      if (toHex(state.head) !== head) {
        this.#find(
          'head',
          `the stream's head is not the hash of its last entry: the row or entry ${state.size - 1} was changed`,
          lastSeq(state),
        );
      }
    }
    if (
      this.#frontier !== undefined &&
      this.#next === state.size &&
      !equalBytes(state.frontier, encodeFrontier(this.#frontier))
    ) {
      this.#find('frontier', "the stream's frontier is not that of the tree over its entries", lastSeq(state));
    }
    if (this.#next === state.size && state.size > 0) {
      if (state.recordedAt !== this.#recordedAt)
        this.#find('head', "the stream's recordedAt is not that of its last entry", lastSeq(state));
      if (state.retainUntil !== this.#retainUntil)
        this.#find('head', "the stream's retainUntil is not that of its last entry", lastSeq(state));
    }
  }

  /** What may be stored behind the end: read before the state that must cover it. */
  async #checkBeyond(before: StreamState): Promise<void> {
    const counts = await this.#source.tileCounts();
    const beyond = await this.#source.blocks({ firstSeq: before.size - 1, dropMonth: Infinity }, BLOCKS_A_CHUNK);
    const state = await this.#source.state();
    if (state.size < before.size)
      this.#find('head', `the stream shrank from ${before.size} to ${state.size} entries`, lastSeq(state));
    for (const block of beyond) {
      if (block.firstSeq + block.entries > state.size) {
        this.#find(
          'block',
          `a block with entry ${block.firstSeq} is stored, the stream has ${state.size} entries`,
          block.firstSeq,
        );
      }
    }
    for (const [level, count] of counts) {
      const full = Math.floor(state.size / TILE_WIDTH ** (level + 1));
      if (count > full) this.#find('tile', `${count} tiles of level ${level} are stored, ${full} are full`);
    }
  }

  /** With every expected row there (checked on the way), equal numbers mean equal sets; otherwise each stored row is looked at. */
  async #checkIndexes(size: number): Promise<void> {
    const ids = this.#next;
    if ((await this.#source.countIds(size, ids)) !== ids) {
      for await (const slice of this.#source.idSlices(size, ids)) await this.#checkIdRows(slice);
    }
    if (this.#tagsKnown && (await this.#source.countTags(size, this.#tags)) !== this.#tags) {
      for await (const slice of this.#source.tagSlices(size, this.#tags)) await this.#checkTagRows(slice);
    }
  }

  async #checkIdRows(rows: readonly IdRow[]): Promise<void> {
    const seen = new Set<number>();
    for (const row of rows) {
      const block = await this.#blockAt(row.seq);
      const record = block === undefined ? undefined : recordAt(block, row.seq);
      if (record === undefined) this.#find('id', 'the index has an id for an entry that is not there', row.seq);
      else if (entryIdHash(record.id) !== row.idHash || seen.has(row.seq))
        this.#find('id', 'the index has a foreign id for this entry', row.seq);
      else if (block?.dropMonth !== row.dropMonth)
        this.#find('id', `the id is stored under drop month ${row.dropMonth}`, row.seq);
      seen.add(row.seq);
    }
  }

  async #checkTagRows(rows: readonly TagRow[]): Promise<void> {
    const seen = new Set<string>();
    for (const [firstSeq, own] of Map.groupBy(rows, (row) => row.firstSeq)) {
      const block = await this.#blockAt(firstSeq);
      const expected =
        block === undefined || block.firstSeq !== firstSeq ? new Set<bigint>() : await this.#expectedTags(block);
      for (const row of own) {
        const key = `${firstSeq} ${row.tag}`;
        if (!expected.has(row.tag) || row.dropMonth !== block?.dropMonth)
          this.#find('tag', `the tag ${row.tag} is not one of this block`, firstSeq);
        else if (seen.has(key)) this.#find('tag', `the tag ${row.tag} of this block is stored twice`, firstSeq);
        seen.add(key);
      }
    }
  }

  async #expectedTags(block: StoredBlock): Promise<Set<bigint>> {
    const tags = new Set<bigint>();
    const records = decodeRecords(unpackPayload(block.records)).map((bytes) => ({ record: decodeRecord(bytes) }));
    const keys = await this.#source.keys(block.keyId);
    const parts = openParts(block, this.#source.stream, keys.dataKey, records);
    for (const [index, { record }] of records.entries()) {
      const open = parts[index]!;
      const marks = marksOf({
        action: record.action,
        source: record.source,
        actor: partValue(open, 'actor'),
        target: partValue(open, 'target'),
      });
      for (const mark of marks) tags.add(tagOf(mark, keys.tagKey));
    }
    return tags;
  }

  async #blockAt(seq: number): Promise<StoredBlock | undefined> {
    const blocks = await this.#source.blocks({ firstSeq: Math.max(-1, seq - 1025), dropMonth: Infinity }, 1100);
    return blocks.filter((block) => block.firstSeq <= seq && seq < block.firstSeq + block.entries).at(-1);
  }

  #leaveHole(next: number): void {
    this.#tree.leaveHole(next - this.#next);
    this.#next = next;
    this.#previous = undefined;
    this.#frontier = undefined;
    this.#tagsKnown = false;
  }

  #find(kind: FindingKind, detail: string, seq?: number): void {
    if (this.#findings.length >= this.#findingsMax) {
      this.#truncated = true;
      return;
    }
    this.#findings.push({ stream: this.#source.stream, ...(seq === undefined ? {} : { seq }), kind, detail });
  }

  #findError(kind: FindingKind, error: unknown, seq: number): void {
    if (!(error instanceof EvidenceError)) throw error;
    this.#find(kind, error.message, seq);
  }

  #leaveUnchecked(detail: string, seq: number): void {
    if (this.#unchecked.length < this.#findingsMax) this.#unchecked.push({ seq, detail });
  }
}

/** A level's tile that is being filled, and the stored tiles that were read ahead. */
interface Filling {
  hashes: (Uint8Array | undefined)[];
  index: number;
  stored: StoredTile[];
  asked: number;
}

/** Compares the stored tiles with those that the leaves come to, level by level. */
class TreeCheck {
  readonly #source: LogSource;
  readonly #find: (seq: number, detail: string) => void;
  /** Leaves that are not known and not yet counted. */
  #hole = 0;
  /** For each level the hashes of the tile that is being filled; undefined = not known. */
  readonly #filling: Filling[] = [];

  constructor(source: LogSource, find: (seq: number, detail: string) => void) {
    this.#source = source;
    this.#find = find;
  }

  async append(leaves: readonly (Uint8Array | undefined)[]): Promise<void> {
    this.#flushHole();
    for (const leaf of leaves) {
      if (this.#add(0, leaf)) await this.#closeTile(0);
    }
  }

  leaveHole(length: number): void {
    this.#hole += length;
  }

  /** Whole tiles inside a hole are passed over by their number, not leaf by leaf. */
  #flushHole(): void {
    for (; this.#hole > 0; this.#hole--) {
      if (this.#add(0, undefined)) this.#passTile(0);
    }
  }

  #level(level: number): Filling {
    this.#filling[level] ??= { hashes: [], index: 0, stored: [], asked: 0 };
    return this.#filling[level];
  }

  #add(level: number, hash: Uint8Array | undefined): boolean {
    const { hashes } = this.#level(level);
    hashes.push(hash);
    return hashes.length === TILE_WIDTH;
  }

  #passTile(level: number): void {
    const filling = this.#level(level);
    filling.hashes = [];
    filling.index += 1;
    if (this.#add(level + 1, undefined)) this.#passTile(level + 1);
  }

  async #closeTile(level: number): Promise<void> {
    const filling = this.#level(level);
    const { hashes, index } = filling;
    filling.hashes = [];
    filling.index += 1;
    const width = TILE_WIDTH ** level;
    const firstSeq = index * TILE_WIDTH * width;
    const stored = await this.#stored(level, index);
    let root: Uint8Array | undefined;
    if (hashes.every((hash) => hash !== undefined)) {
      const bytes = concatBytes(...hashes);
      root = tileRoot(bytes);
      if (stored === undefined) {
        this.#find(firstSeq, `the tile ${index} of level ${level} is missing`);
      } else if (!equalBytes(stored.hashes, bytes)) {
        const at = hashes.findIndex((hash, i) => !equalBytes(hash, stored.hashes.subarray(32 * i, 32 * i + 32)));
        this.#find(
          firstSeq + at * width,
          `the tile ${index} of level ${level} has another hash ${at} than the entries`,
        );
      } else if (!equalBytes(stored.root, root)) {
        this.#find(firstSeq, `the root of tile ${index} of level ${level} is not that of its hashes`);
      }
    }
    if (this.#add(level + 1, root)) await this.#closeTile(level + 1);
  }

  async #stored(level: number, index: number): Promise<StoredTile | undefined> {
    const filling = this.#level(level);
    if (index >= filling.asked) {
      filling.stored = await this.#source.tiles(level, index, TILES_A_CHUNK);
      filling.asked = index + TILES_A_CHUNK;
    }
    return filling.stored.find((tile) => tile.index === index);
  }
}

function partValue(parts: readonly Part[], name: PartName): JsonValue | undefined {
  const part = parts.find((one) => one.name === name);
  return part === undefined || !isOpen(part) ? undefined : decodeCanonical(part.value);
}

function recordAt(block: StoredBlock, seq: number): Rec | undefined {
  const bytes = decodeRecords(unpackPayload(block.records))[seq - block.firstSeq];
  return bytes === undefined ? undefined : decodeRecord(bytes);
}

function lastSeq(state: StreamState): number | undefined {
  return state.size === 0 ? undefined : state.size - 1;
}
