/**
 * Verification of one stream, from stored bytes: every hash, link, stamp, commitment, tag, id, block boundary, tile, and the state
 * that the sequencer goes on from.
 *
 * Imports nothing of Sealog but the formats in `chain/`; where the bytes come from is a `LogSource`. Reads chunk by chunk, holds
 * nothing but the edge of the tree, and may run while entries are appended: it checks the entries that the stream held when
 * it began, and reads the state again at the end for what may be stored beyond it.
 *
 * Where roots are given that were stated of the stream before, the tree must have them at their sizes (`root-check.ts`).
 *
 * What this shows is that the database agrees with itself. That it is not another, equally consistent log is shown by checkpoints
 * that lie where the database's owner can not reach them. How the entries are cut into blocks is no evidence: the same entries in
 * other blocks, properly sealed and indexed, are the same log.
 */
import { decodeRecords, spansOf, unpackPayload } from '../chain/block.ts';
import { toHex } from '../chain/bytes.ts';
import { OUTCOMES } from '../chain/category.ts';
import { entryIdHash } from '../chain/entry.ts';
import { encodeFrontier, leafHash } from '../chain/merkle.ts';
import type { PartName } from '../chain/part.ts';
import { heldAt, heldBehind } from '../chain/pruning-certificate.ts';
import { decodeRecord, NO_PREVIOUS, type Rec } from '../chain/record.ts';
import { dropMonthOf, formatInstant, KEPT_FOR_EVER, parseInstant } from '../chain/retain-until.ts';
import { HASH_SIZE } from '../chain/sha256.ts';
import { placedTags } from '../chain/tag.ts';
import { TILE_WIDTH } from '../chain/tile.ts';
import { isTimestamp } from '../chain/timestamp.ts';
import { EvidenceError, KeyUnavailableError } from '../errors.ts';
import {
  type CertificateEntry,
  type Certificates,
  type FindCertificates,
  type FoundCertificate,
  NO_CERTIFICATES,
  type PruningCertificate,
} from './certificates.ts';
import { ChainCheck } from './chain-check.ts';
import { type Finding, Findings, type Unchecked } from './findings.ts';
import { IndexCheck } from './index-check.ts';
import {
  type IdRow,
  idBucket,
  type KeyOwner,
  type LogSource,
  type SourceBlock,
  type SourceTile,
  type StreamState,
} from './log-source.ts';
import { type GonePart, PartsCheck, type PartsChecker, type PartsResult } from './parts-check.ts';
import { RootCheck, type StatedRoot, type StatedRoots } from './root-check.ts';
import { TreeCheck, type TreeFinding } from './tree-check.ts';

/** `intact`: nothing is wrong. `tampered`: something is. `incomplete`: nothing is wrong with what could be read, but not all could be. */
export type Verdict = 'intact' | 'tampered' | 'incomplete';

export interface StreamReport {
  readonly stream: string;
  /** Entries that the stream held when verification began. */
  readonly size: number;
  /** The root over them, hex; undefined where it is not known. */
  readonly root: string | undefined;
  readonly verdict: Verdict;
  /** In the order of the entries; what concerns the stream as a whole comes last. */
  readonly findings: readonly Finding[];
  /** More was found than is listed. */
  readonly truncated: boolean;
  /** What could not be checked, and why. */
  readonly unchecked: readonly Unchecked[];
  /** Entries that are gone, as certificates say; the first of them. Absent where there are none. */
  readonly pruned?: readonly PrunedRange[];
  /** Entries with parts that are gone, as certificates say; the first of them. Absent where there are none. */
  readonly erased?: readonly ErasedRange[];
  /** Parts whose certificates nobody signed: that they were erased on request is not provable. Absent where there are none. */
  readonly unproven?: number;
}

/** Entries from `from` up to, not including, `to`, that lost the same parts by one certificate. */
export interface ErasedRange {
  readonly from: number;
  readonly to: number;
  readonly parts: readonly PartName[];
  readonly certificate: CertificateEntry;
}

/** Entries from `from` up to, not including, `to`, that expired, by one certificate. */
export interface PrunedRange {
  readonly from: number;
  readonly to: number;
  readonly certificate: PruningCertificate;
}

export interface VerifyOptions {
  /** Called after each chunk with the number of entries checked so far. */
  readonly onProgress?: (entries: number) => void | Promise<void>;
  readonly findingsMax?: number;
  /** Roots that were stated of the stream, in the order of their sizes. Those of a sound log were stated before the call, or its entries come with them. */
  readonly roots?: StatedRoots;
  /** Called with each of them that the entries have. */
  readonly onAgreed?: (statement: StatedRoot) => void;
  /** Called with entries whose record is the one that was linked to, in order. */
  readonly onEntries?: (entries: readonly { readonly seq: number; readonly record: Rec }[]) => Promise<void>;
  /** What looks at parts; default: this thread. */
  readonly parts?: PartsChecker;
  /** The certificates of the stream's tenant, looked for where something is missing; default: there are none. */
  readonly certificates?: FindCertificates;
  /** Called with each entry that says that it is a certificate and whose record is the one that was linked to; whether it is signed is the caller's to say. */
  readonly onCertificate?: (
    found: Omit<FoundCertificate, 'entry'> & { readonly entry: Omit<CertificateEntry, 'isSigned'> },
  ) => void;
}

const BLOCKS_A_CHUNK = 32;
/** Blocks whose parts are looked at elsewhere at a time: some megabytes. */
const BLOCKS_AT_WORK = 8;
const TILES_LISTED_MAX = 32;
/** Of pruned entries, 8 KiB each. */
const TILES_A_READ = 64;
const FINDINGS_MAX = 1000;
/** At certificates that came meanwhile, each of which may read them all anew: as many as a report lists when something is missing, and once more at the end. */
const FRESH_LOOKS_MAX = 2 * FINDINGS_MAX;
const ERASED_LISTED_MAX = 1000;

/** Verifies the stream. Throws only what the source throws (a database that does not answer). */
export async function verifyStream(source: LogSource, options: VerifyOptions = {}): Promise<StreamReport> {
  const findings = new Findings(source.stream, options.findingsMax ?? FINDINGS_MAX);
  const roots = await RootCheck.begin(findings, options.roots ?? [], options.onAgreed);
  const check = new StreamCheck(source, findings, roots, options);
  return check.run(options.onProgress ?? (() => {}));
}

/** Returns what is to be said of a stream that has stored rows and no row of its own. */
export function orphanReport(streamId: number): StreamReport {
  const stream = `(stream ${streamId})`;
  const detail = 'keys, blocks or rows of the index are stored, and the row of the stream is gone';
  return {
    stream,
    size: 0,
    root: undefined,
    verdict: 'tampered',
    findings: [{ stream, kind: 'head', detail }],
    truncated: false,
    unchecked: [],
  };
}

/** A record in its place; undefined what it says when it can not be read. */
interface Placed {
  readonly bytes: Uint8Array;
  readonly says: Rec | undefined;
  /** Milliseconds since 1970; Infinity = kept for ever. */
  readonly recordedAt: number;
  readonly retainUntil: number;
}

/** A record that is the one that was linked to, as far as its neighbours tell. */
interface SoundEntry extends Placed {
  readonly seq: number;
  readonly says: Rec;
}

/** A block in its place, its records followed by the chain: what else it says is compared once all of them are settled. */
interface PlacedBlock {
  readonly block: SourceBlock;
  readonly begin: number;
  readonly placed: readonly Placed[];
  /** Entries whose record is not, or may not be, the one that was linked to: nothing is concluded from what it says. */
  readonly unsound: Set<number>;
}

/** What was found, or is being looked for, in the parts of a block; undefined where they can not be opened. */
interface FoundParts {
  readonly begin: number;
  readonly end: number;
  /** As stored. */
  readonly tags: SourceBlock['tags'];
  /** Every record is the one that was linked to. */
  readonly isSound: boolean;
  /** And the block holds as many as it says. */
  readonly isWhole: boolean;
  /** Of its sound entries, where certificates are looked for. */
  readonly says: ReadonlyMap<number, Rec> | undefined;
  result: PartsResult | Promise<PartsResult> | undefined;
}

class StreamCheck {
  readonly #source: LogSource;
  readonly #findings: Findings;
  readonly #roots: RootCheck;
  readonly #onEntries: VerifyOptions['onEntries'];
  readonly #certificates: FindCertificates;
  readonly #onCertificate: VerifyOptions['onCertificate'];
  readonly #erased: ErasedRange[] = [];
  #isErasedCut = false;
  #freshLooksLeft = FRESH_LOOKS_MAX;
  #unproven = 0;
  readonly #tree: TreeCheck;
  readonly #chain: ChainCheck;
  readonly #ids: IndexCheck<IdRow>;
  readonly #checker: PartsChecker;
  readonly #pruned: PrunedRange[] = [];
  /** Certificates of which every entry was found to be gone. */
  readonly #dropped: PruningCertificate[] = [];
  /** Blocks whose parts were given to be looked at, and not taken yet. */
  readonly #found: FoundParts[] = [];
  /** The rows that are looked up while the next blocks are read. */
  #lookup: Promise<void> = Promise.resolve();
  /** The seq that comes next, and the block that was placed before it. */
  #next = 0;
  #placed: SourceBlock | undefined;
  /** Blocks that the chain has not settled up to their end, and up to which entry it has. */
  #open: PlacedBlock[] = [];
  #settled = 0;
  /** The last sound entry, and its stamps. */
  #lastSound = -1;
  #recordedAt = 0;
  #retainUntil = 0;

  constructor(source: LogSource, findings: Findings, roots: RootCheck, options: VerifyOptions) {
    const { onEntries, parts, certificates, onCertificate } = options;
    this.#source = source;
    this.#findings = findings;
    this.#roots = roots;
    this.#onEntries = onEntries;
    this.#certificates = certificates ?? (async () => NO_CERTIFICATES);
    this.#onCertificate = onCertificate;
    this.#checker = parts ?? new PartsCheck();
    const find = ({ kind, detail, seq }: TreeFinding): void => this.#findings.add(kind, detail, seq);
    this.#tree = new TreeCheck(source, findings.max, find, roots);
    this.#chain = new ChainCheck(this.#findings, this.#tree, (seq, isSound) => this.#settle(seq, isSound));
    const blocks = new BlockReader(source);
    this.#ids = new IndexCheck(
      {
        bucketOf: (row) => idBucket(row.seq),
        seqOf: (row) => row.seq,
        nameOf: (row) => `the hashed id ${row.idHash} of this entry`,
        stored: source.ids,
        // In this order: a block that goes between the two questions has expired by the second.
        isStillExpected: async (row) => (await blocks.hasId(row)) && !(await this.#hasExpired(row.seq)),
        endOfLook: () => blocks.forget(),
        objection: (row) => blocks.objectionToId(row),
      },
      this.#findings,
    );
  }

  async run(onProgress: (entries: number) => void | Promise<void>): Promise<StreamReport> {
    const state = await this.#source.state();
    await this.#checkBlocks(state, onProgress);
    await this.#checkState(state);
    const root = this.#next === state.size ? this.#tree.roots() : undefined;
    await this.#roots.end(state.size, async () => (await this.#source.state()).size);
    await this.#takeParts(0);
    await this.#lookup;
    await this.#ids.checkMissing();
    const [lastBlock, lastTiles] = await Promise.all([
      this.#source.lastBlock(),
      this.#source.lastTiles(),
      this.#ids.count(state.size),
    ]);
    await this.#ids.checkSurplus(state.size);
    await this.#checkBeyond(state, lastBlock, lastTiles);

    const { truncated, unchecked } = this.#findings;
    const found = await this.#withoutExpired(this.#findings.found);
    const findings = found.toSorted((a, b) => (a.seq ?? Infinity) - (b.seq ?? Infinity) || 0);
    let verdict: Verdict = 'intact';
    if (findings.length > 0) verdict = 'tampered';
    else if (unchecked.length > 0) verdict = 'incomplete';
    return {
      stream: this.#source.stream,
      size: state.size,
      root: root === undefined ? undefined : toHex(root.own),
      verdict,
      findings,
      truncated: truncated || this.#isErasedCut,
      unchecked,
      ...(this.#pruned.length === 0 ? {} : { pruned: this.#pruned }),
      ...(this.#erased.length === 0 ? {} : { erased: this.#erased }),
      ...(this.#unproven === 0 ? {} : { unproven: this.#unproven }),
    };
  }

  /** Checks block after block; each knows where the next begins. Blocks that begin at or behind the size came after we began. */
  async #checkBlocks(state: StreamState, onProgress: (entries: number) => void | Promise<void>): Promise<void> {
    const source = this.#source;
    let held: SourceBlock | undefined;
    let reading = source.blocks(undefined, BLOCKS_A_CHUNK);
    let before: SourceBlock | undefined;
    for (;;) {
      const read = await reading;
      // The one that was read before comes again. If it is another in the same place, that one is among those that follow.
      const chunk = before !== undefined && isSamePlace(read[0], before) ? read.slice(1) : read;
      const own = chunk.filter((block) => block.firstSeq < state.size);
      const last = own.at(-1);
      const more = last !== undefined && own.length === chunk.length && chunk.length >= BLOCKS_A_CHUNK;
      if (more) {
        // A place that is filled more often than that is passed over.
        const { firstSeq, dropMonth } = last;
        const isStuck = before !== undefined && isSamePlace(last, before);
        reading = source.blocks({ firstSeq, dropMonth: isStuck ? dropMonth + 1 : dropMonth }, BLOCKS_A_CHUNK);
        // A failure is met where it is awaited; until then it is nobody's.
        reading.catch(() => {});
        before = last;
      }
      for (const block of own) {
        // What was asked for is sent, and read, only while we do nothing: without this it would be when a whole chunk is done.
        await nextTurn();
        if (held !== undefined) await this.#checkBlock(held, block.firstSeq, state);
        held = block;
      }
      if (!more && held !== undefined) await this.#checkBlock(held, state.size, state);
      await this.#lookUp();
      await onProgress(this.#next);
      if (!more) break;
    }
    if (this.#next < state.size) await this.#passOver(state.size, 'entries are missing at the end');
  }

  /**
   * What is not stored up to here was pruned, as far as certificates say so; the rest is missing. What expires is always the oldest part, but for
   * what is held.
   */
  async #passOver(to: number, missing: string): Promise<void> {
    const begin = this.#next;
    while (this.#next < to) {
      const from = this.#next;
      const certificate = await this.#certificateOf(from);
      if (certificate !== undefined) {
        const held = heldBehind(certificate.held, from)?.from ?? Infinity;
        await this.#skipPruned(certificate, Math.min(to, certificate.end, held), true);
        continue;
      }
      const keeping = await this.#certificateOver(from);
      const end = keeping === undefined ? to : Math.min(to, await this.#nextEdge(from));
      const isOldest = from === 0 || keeping !== undefined || (await this.#certificateOver(from - 1)) !== undefined;
      const expired = `entries ${from} to ${end - 1} are missing, and no certificate says that they expired`;
      if (isOldest) this.#findings.add('early_deletion', expired, from);
      else this.#findings.add('gap', from === begin ? missing : expired, from);
      if (keeping === undefined) return this.#leaveHole(end);
      // Their hashes are known all the same.
      await this.#skipPruned(keeping, end, false);
      this.#ids.leaveOut({ from, to: end });
    }
  }

  /** A month may be dropped while it is read: that the key of a block was not there any more is no finding, where the block is gone too. */
  async #withoutExpired(found: readonly Finding[]): Promise<readonly Finding[]> {
    const kept: Finding[] = [];
    for (const finding of found) {
      const { kind, seq } = finding;
      if (kind !== 'part' || seq === undefined || !(await this.#hasExpired(seq))) kept.push(finding);
    }
    return kept;
  }

  /** Says whether an entry that was there went since, with a certificate. */
  async #hasExpired(seq: number): Promise<boolean> {
    if (this.#dropped.some((one) => certifiesGone(one, seq))) return true;
    const block = await this.#source.lastBlock(seq);
    if (block !== undefined && seq < block.firstSeq + block.entries) return false;
    const certificate = await this.#certificateOf(seq);
    if (certificate === undefined) return false;
    // All of it, as a rule: nobody need look again.
    if ((await this.#source.lastBlock(certificate.end - 1)) === undefined) this.#dropped.push(certificate);
    return true;
  }

  /** What certifies that an entry is gone. */
  #certificateOf(seq: number): Promise<PruningCertificate | undefined> {
    return this.#findCertificate((one) => counts(one) && certifiesGone(one, seq));
  }

  /** One whose entries this is among, also where it says that it stays. */
  #certificateOver(seq: number): Promise<PruningCertificate | undefined> {
    return this.#findCertificate((one) => counts(one) && seq >= one.first && seq < one.end);
  }

  /** What says that an entry is held, also where nothing came of that pruning: it was moved before. */
  #holdOf(seq: number): Promise<PruningCertificate | undefined> {
    return this.#findCertificate(
      (one) => counts({ ...one, isAbandoned: false }) && heldAt(one.held, seq) !== undefined,
    );
  }

  #findCertificate(isIt: (certificate: PruningCertificate) => boolean): Promise<PruningCertificate | undefined> {
    return this.#certified((all) => all.prunedOf(this.#source.stream).find(isIt));
  }

  /** What certificates say, also those that came since they were read. */
  async #certified<T>(of: (all: Certificates) => T | undefined): Promise<T | undefined> {
    const known = of(await this.#certificates(false));
    if (known !== undefined || this.#freshLooksLeft === 0) return known;
    this.#freshLooksLeft -= 1;
    return of(await this.#certificates(true));
  }

  /** Where, behind an entry, certificates begin to say something else. */
  async #nextEdge(seq: number): Promise<number> {
    const edges = (await this.#certificates(false))
      .prunedOf(this.#source.stream)
      .filter(counts)
      .flatMap(({ first, end, held }) => [first, end, heldAt(held, seq)?.to, heldBehind(held, seq)?.from]);
    return Math.min(...edges.filter((edge) => edge !== undefined && edge > seq).map(Number));
  }

  /**
   * Goes on behind entries that are not there: their hashes are those that tiles have, and at the certificate's end the tree must be the one that it
   * states. Its last record is what the next entry names, and what no stamp goes back behind.
   */
  async #skipPruned(certificate: PruningCertificate, to: number, isPruned: boolean): Promise<void> {
    const from = this.#next;
    await this.#chain.rest();
    await this.#closeBlocks();
    await this.#takeParts(0);
    let last: Uint8Array | undefined;
    let isKnown = true;
    for await (const hashes of leavesOf(this.#source, from, to)) {
      isKnown = !hashes.includes(undefined);
      // A certificate may speak of more entries than anybody could store: what is behind a hash that is not there is not looked for.
      if (!isKnown) break;
      const leaves = hashes as readonly Uint8Array[];
      if (last !== undefined) await this.#tree.append([{ hash: last, isDoubtful: false }]);
      await this.#tree.append(leaves.slice(0, -1).map((hash) => ({ hash, isDoubtful: false })));
      last = leaves.at(-1);
    }
    const isEnd = to === certificate.end;
    const { lastHash, frontier, recordedAt, retainUntil } = certificate;
    if (!isKnown || (isEnd && !this.#tree.isFrontier(encodeFrontier(frontier), [lastHash]))) {
      const detail = 'the stored hashes of pruned entries do not come to what their certificate states';
      this.#findings.add('tile', detail, from);
      this.#tree.leaveHole(to - 1);
    }
    const leaf = isEnd ? lastHash : isKnown ? last : undefined;
    if (leaf === undefined) await this.#tree.append([undefined]);
    else {
      const previous = isEnd ? certificate.last.previous : to === 1 ? NO_PREVIOUS : '';
      await this.#chain.append([{ seq: to - 1, leaf, hash: toHex(leaf), previous }]);
    }
    if (isEnd) {
      this.#lastSound = to - 1;
      this.#recordedAt = Math.max(this.#recordedAt, recordedAt);
      this.#retainUntil = Math.max(this.#retainUntil, retainUntil);
    }
    if (isPruned) this.#pruned.push({ from, to, certificate });
    this.#next = to;
  }

  /** `following` is where the next block begins, or the stream ends. */
  async #checkBlock(block: SourceBlock, following: number, state: StreamState): Promise<void> {
    let records: Uint8Array[] | undefined;
    let unreadable: unknown;
    try {
      records = decodeRecords(unpackPayload(block.records));
    } catch (error) {
      unreadable = error;
    }
    let placed = placedRecords(records ?? []);
    const begin = await this.#beginOf(block, placed);
    if (begin === undefined) return;
    this.#placed = block;
    if (begin > this.#next) {
      await this.#passOver(begin, `entries ${this.#next} to ${begin - 1} are missing`);
    }
    if (block.foreign) this.#findings.add('block', 'the block is stored under another tenant', begin);
    if (begin + block.entries > state.size) {
      const detail = `the block says that it holds ${block.entries} entries, the stream has only ${state.size}`;
      this.#findings.add('block', detail, begin);
    }
    // Where it ends when nothing but its row says so.
    const end = Math.max(begin, Math.min(begin + block.entries, following > begin ? following : Infinity, state.size));
    if (records === undefined) {
      this.#findings.addError('block', unreadable, begin);
      await this.#leaveHole(end);
      return;
    }
    if (placed.length !== block.entries) {
      const detail = `the block says that it holds ${block.entries} entries, and holds ${placed.length}`;
      this.#findings.add('block', detail, begin);
      // Where the next block confirms the row, what the block holds beyond it is foreign.
      if (begin + block.entries === following) placed = placed.slice(0, block.entries);
      // Which of its entries are there can be said only where they stand in their places.
      if (placed.length === 0 || placed.some(({ says }, i) => says?.seq !== begin + i)) {
        await this.#leaveHole(end);
        return;
      }
    } else if (this.#isMisplaced(placed, begin)) {
      await this.#leaveHole(end);
      return;
    }
    await this.#checkEntries(block, begin, placed);
  }

  /** Returns where the block stands, or undefined when its entries stand in others already. */
  async #beginOf(block: SourceBlock, placed: readonly Placed[]): Promise<number | undefined> {
    const { firstSeq } = block;
    if (firstSeq === this.#next) return firstSeq;
    // Its entries say where they stand: when that is here, it is the row that is wrong.
    const said = placed.findIndex(({ says }) => says?.stream === this.#source.stream);
    if (said !== -1 && placed[said]!.says!.seq - said === this.#next) {
      const detail = `the block's row says that it begins with entry ${firstSeq}, and it begins with ${this.#next}`;
      this.#findings.add('block', detail, this.#next);
      return this.#next;
    }
    if (firstSeq > this.#next) return firstSeq;
    // What is moved is cut out of its block: what comes now was looked at as a part of that.
    if (this.#placed !== undefined && !(await this.#isThere(this.#placed))) return undefined;
    const detail = `a block begins with entry ${firstSeq}, though the entries before ${this.#next} stand in others`;
    this.#findings.add('overlap', detail, firstSeq);
    return undefined;
  }

  /** Says whether a block that was read is still the one in its place. */
  async #isThere(block: SourceBlock): Promise<boolean> {
    const { firstSeq, dropMonth, entries } = block;
    // From the place before it: one at the position itself need not come.
    const now = await this.#source.blocks({ firstSeq, dropMonth: dropMonth - 1 }, 2);
    return now.some((one) => isSamePlace(one, block) && one.entries === entries);
  }

  /** Says whether every entry of the block belongs elsewhere, and all to one place: then it is the block that is wrong. */
  #isMisplaced(placed: readonly Placed[], begin: number): boolean {
    const first = placed[0]?.says;
    if (first?.stream === this.#source.stream && first.seq === begin) return false;
    const places = new Set(placed.map(({ says }, i) => (says === undefined ? '' : `${says.stream} ${says.seq - i}`)));
    if (places.size > 1 || places.has('') || places.has(`${this.#source.stream} ${begin}`)) return false;
    // A single entry may as well have been changed itself: its neighbours tell.
    const { stream, seq } = placed[0]!.says!;
    if (placed.length === 1 && stream === this.#source.stream) return false;
    this.#findings.add('block', `the block holds entries of ${stream} from ${seq} on`, begin);
    return true;
  }

  async #checkEntries(block: SourceBlock, begin: number, placed: readonly Placed[]): Promise<void> {
    const own: PlacedBlock = { block, begin, placed, unsound: new Set() };
    this.#open.push(own);
    for (const [i, { bytes, says }] of placed.entries()) {
      if (!this.#checkRecord(bytes, says, begin + i)) own.unsound.add(begin + i);
    }
    this.#next = begin + placed.length;
    await this.#chain.append(
      placed.map(({ bytes, says }, i) => {
        const leaf = leafHash(bytes);
        return {
          seq: begin + i,
          leaf,
          hash: toHex(leaf),
          previous: own.unsound.has(begin + i) ? undefined : says?.previous,
        };
      }),
    );
    await this.#closeBlocks();
  }

  /** Called by the chain for each entry, in order. */
  #settle(seq: number, isSound: boolean): void {
    this.#settled = seq + 1;
    if (!isSound) this.#open.find(({ begin, placed }) => seq < begin + placed.length)?.unsound.add(seq);
  }

  /** Checks the blocks of which every entry is settled. */
  async #closeBlocks(): Promise<void> {
    for (let first = this.#open[0]; first !== undefined; first = this.#open[0]) {
      if (first.begin + first.placed.length > this.#settled) return;
      this.#open.shift();
      await this.#checkContent(first);
    }
  }

  /** What a record says of itself; links are the chain's. Returns whether the record can be the one that belongs here. */
  #checkRecord(bytes: Uint8Array, record: Rec | undefined, seq: number): boolean {
    if (record === undefined) {
      try {
        decodeRecord(bytes);
      } catch (error) {
        this.#findings.addError('record', error, seq);
      }
      return false;
    }
    if (record.stream !== this.#source.stream)
      this.#findings.add('record', `the record says that it belongs to ${record.stream}`, seq);
    if (record.seq !== seq)
      this.#findings.add('record', `the record stands at ${seq} and says that it is ${record.seq}`, seq);
    return record.stream === this.#source.stream && record.seq === seq;
  }

  /** Stamps, spans, key, parts, tags and ids of a block. */
  async #checkContent(own: PlacedBlock): Promise<void> {
    const { block, begin, placed, unsound } = own;
    const end = begin + placed.length;
    const sound: SoundEntry[] = [];
    for (const [i, { bytes, says, recordedAt, retainUntil }] of placed.entries())
      if (says !== undefined && !unsound.has(begin + i))
        sound.push({ bytes, says, recordedAt, retainUntil, seq: begin + i });
    for (const entry of sound) this.#checkStamps(entry);
    if (this.#onEntries !== undefined) await this.#onEntries(sound.map(({ seq, says }) => ({ seq, record: says })));
    const owner = await this.#source.keyOwner(block.keyId);
    if (owner === undefined && !(await this.#isThere(block))) {
      // It was moved or dropped meanwhile, its key with it.
      this.#ids.leaveOut({ from: begin, to: end });
      return;
    }
    const dropMonth = await this.#checkDropMonth(block, sound);
    this.#checkKey(block, begin, owner, dropMonth);
    for (const seq of [...unsound].sort((a, b) => a - b)) this.#ids.leaveOut({ from: seq, to: seq + 1 });
    for (const { seq, says } of sound) this.#ids.expect({ dropMonth, seq, idHash: entryIdHash(says.id) });
    if (unsound.size === 0) this.#checkSpans(block, sound);
    const isWhole = unsound.size === 0 && placed.length === block.entries;
    const says = this.#onCertificate && new Map(sound.map((entry) => [entry.seq, entry.says]));
    const found: FoundParts = {
      ...{ begin, end, tags: block.tags, isSound: unsound.size === 0, isWhole, says },
      result: undefined,
    };
    this.#found.push(found);
    if (owner !== undefined) await this.#checkParts(own, found);
    await this.#takeParts(found.result instanceof Promise ? BLOCKS_AT_WORK : 0);
  }

  #checkStamps({ seq, recordedAt, retainUntil }: SoundEntry): void {
    if (recordedAt < this.#recordedAt) {
      const detail = `recordedAt goes back, from ${formatInstant(this.#recordedAt)} to ${formatInstant(recordedAt)}`;
      this.#findings.add('stamp', detail, seq);
    }
    if (retainUntil < this.#retainUntil) {
      const detail = `retainUntil goes back, from ${formatUntil(this.#retainUntil)} to ${formatUntil(retainUntil)}`;
      this.#findings.add('stamp', detail, seq);
    }
    if (retainUntil < recordedAt) this.#findings.add('stamp', 'retainUntil is before recordedAt', seq);
    this.#lastSound = seq;
    this.#recordedAt = recordedAt;
    this.#retainUntil = retainUntil;
  }

  /** Returns the drop month that the block is to be stored under: its entries' own, or a later one where they are held. */
  async #checkDropMonth(block: SourceBlock, sound: readonly SoundEntry[]): Promise<number> {
    for (const { seq, retainUntil } of sound) {
      const month = dropMonthOf(retainUntil === Infinity ? undefined : retainUntil);
      if (month === block.dropMonth) continue;
      const mayBeHeld = month !== KEPT_FOR_EVER && month < block.dropMonth;
      if (mayBeHeld && (await this.#holdOf(seq)) !== undefined) continue;
      const detail = `it is kept until ${formatUntil(retainUntil)} and stored under drop month ${block.dropMonth}`;
      this.#findings.add('block', detail, seq);
      return month;
    }
    return block.dropMonth;
  }

  /** The key must be the stream's, for the month: another's may be destroyed earlier or later than was promised. */
  #checkKey(block: SourceBlock, begin: number, owner: KeyOwner | undefined, dropMonth: number): void {
    if (owner === undefined) {
      this.#findings.add('part', `the data key ${block.keyId} of the block is not there`, begin);
    } else if (owner.stream !== this.#source.stream || owner.dropMonth !== dropMonth) {
      const detail = `the block names a data key of ${owner.stream} for drop month ${owner.dropMonth}`;
      this.#findings.add('block', detail, begin);
    } else if (owner.foreign) {
      this.#findings.add('block', 'the data key of the block is stored under another tenant', begin);
    }
  }

  #checkSpans(block: SourceBlock, sound: readonly SoundEntry[]): void {
    let [recordedFrom, recordedTo] = [Infinity, -Infinity];
    for (const { recordedAt } of sound) {
      recordedFrom = Math.min(recordedFrom, recordedAt);
      recordedTo = Math.max(recordedTo, recordedAt);
    }
    const spans = {
      recordedFrom,
      recordedTo,
      ...spansOf(
        sound.map(({ says }) => ({
          // The engine's own reader takes 30 February for a day in March.
          occurredAt: isTimestamp(says.occurredAt) ? Date.parse(says.occurredAt) : Number.NaN,
          severity: says.severity,
          outcome: OUTCOMES.indexOf(says.outcome),
        })),
      ),
    };
    for (const [name, value] of Object.entries(spans)) {
      if (block[name as keyof typeof spans] !== value)
        this.#findings.add('block', `the block's ${name} is not that of its entries`, sound[0]!.seq);
    }
  }

  /** Has the parts looked at; what comes of it is taken later, block after block. */
  async #checkParts({ block, begin, placed }: PlacedBlock, found: FoundParts): Promise<void> {
    let keys: { readonly dataKey: Uint8Array; readonly tagKey: Uint8Array };
    try {
      keys = await this.#source.keys(block.keyId);
    } catch (error) {
      if (!(error instanceof KeyUnavailableError)) throw error;
      if (error.problem !== 'unreachable' && (await this.#hasExpired(begin))) return;
      if (await this.#isThere(block))
        this.#findings.leaveUnchecked(`the parts: ${error.message}`, placed.length, begin);
      return;
    }
    const records = placed.flatMap(({ says }) => says ?? []);
    const { stream } = this.#source;
    found.result = this.#checker.check({ stream, begin, parts: block.parts, records, ...keys });
    // A failure is met where the result is taken.
    if (found.result instanceof Promise) found.result.catch(() => {});
  }

  /** Takes what was found of parts, in the order of the blocks, until so many are left. */
  async #takeParts(left: number): Promise<void> {
    while (this.#found.length > left) {
      const { begin, end, tags, isSound, isWhole, says, result } = this.#found.shift()!;
      const said = result instanceof Promise ? await result : result;
      if (said?.closed !== undefined) {
        // They open only under all the records that they were sealed with.
        if (isWhole) this.#findings.add('part', said.closed, begin);
        else this.#findings.leaveUnchecked('the parts of blocks with a changed record', end - begin, begin);
      }
      for (const { kind, detail, seq } of said?.findings ?? []) this.#findings.add(kind, detail, seq);
      for (const { seq, details } of said?.certificates ?? []) {
        const record = says?.get(seq);
        if (record === undefined) continue;
        this.#onCertificate?.({ action: record.action, entry: entryOf(record), details });
      }
      const isCertified = await this.#checkGone(said?.gone ?? []);
      if (said?.tags !== undefined && isSound && isCertified) this.#checkTags(begin, said.tags, tags);
    }
  }

  /** Holds what search finds a block by to what its entries say. */
  #checkTags(begin: number, tags: readonly bigint[], stored: SourceBlock['tags']): void {
    if (stored === undefined) {
      this.#findings.add('tag', 'the block has more tags than entries can have', begin);
      return;
    }
    const expected = placedTags(tags, this.#source.streamId, begin);
    const found = new Set<bigint | undefined>();
    for (const tag of stored) {
      if (tag === undefined || !expected.has(tag))
        this.#findings.add('tag', `the tag ${tag} is not one of this block's`, begin);
      else if (found.has(tag)) this.#findings.add('tag', `the tag ${tag} is stored twice`, begin);
      found.add(tag);
    }
    for (const tag of expected)
      if (!found.has(tag)) this.#findings.add('tag', `the index lacks the tag ${tag} of this block`, begin);
  }

  /** Holds parts that are gone to certificates. Returns whether each has one. */
  async #checkGone(gone: readonly GonePart[]): Promise<boolean> {
    let isCertified = true;
    for (const [seq, parts] of Map.groupBy(gone, (part) => part.seq)) {
      const certified = new Map<string, { certificate: CertificateEntry; parts: PartName[] }>();
      for (const { name } of parts) {
        const found = await this.#certified((all) => all.erasureOf(this.#source.stream, seq, name));
        const certificate = found?.entry;
        if (certificate === undefined) {
          this.#findings.add('erasure', `the part ${name} is gone, without a certificate of its erasure`, seq);
          isCertified = false;
          continue;
        }
        if (!certificate.isSigned) this.#unproven += 1;
        const key = `${certificate.stream} ${certificate.seq}`;
        certified.set(key, { certificate, parts: [...(certified.get(key)?.parts ?? []), name] });
      }
      for (const one of certified.values()) this.#noteErased(seq, one.parts, one.certificate);
    }
    return isCertified;
  }

  #noteErased(seq: number, parts: readonly PartName[], certificate: CertificateEntry): void {
    const last = this.#erased.at(-1);
    const isSame =
      last?.to === seq &&
      last.certificate.stream === certificate.stream &&
      last.certificate.seq === certificate.seq &&
      last.parts.join() === parts.join();
    if (isSame) this.#erased[this.#erased.length - 1] = { ...last, to: seq + 1 };
    else if (this.#erased.length < ERASED_LISTED_MAX) this.#erased.push({ from: seq, to: seq + 1, parts, certificate });
    else this.#isErasedCut = true;
  }

  /** The row that the sequencer goes on from, against what the entries come to. */
  async #checkState(state: StreamState): Promise<void> {
    if (state.describes !== this.#source.stream)
      this.#findings.add('head', `the stream's row describes ${state.describes}`);
    if (this.#next === state.size) {
      await this.#chain.end(state);
    } else {
      await this.#chain.leaveHole(this.#next);
      this.#tree.end(undefined);
    }
    await this.#closeBlocks();
    if (state.size === 0 || this.#lastSound !== state.size - 1) return;
    if (state.recordedAt !== this.#recordedAt)
      this.#findings.add('head', "the stream's recordedAt is not that of its last entry", state.size - 1);
    if ((state.retainUntil ?? Infinity) !== this.#retainUntil)
      this.#findings.add('head', "the stream's retainUntil is not that of its last entry", state.size - 1);
  }

  /** What may be stored behind the end: each thing was read before the state that must cover it. */
  async #checkBeyond(
    before: StreamState,
    lastBlock: SourceBlock | undefined,
    lastTiles: ReadonlyMap<number, number>,
  ): Promise<void> {
    const source = this.#source;
    const state = await source.state();
    if (state.size < before.size) {
      const detail = `the stream shrank from ${before.size} to ${state.size} entries during verification`;
      this.#findings.add('head', detail, state.size === 0 ? undefined : state.size - 1);
    }
    this.#ids.checkBeyond(state.size);
    // One that begins before the size was looked at already. The first that should not be there is named.
    if (lastBlock !== undefined && lastBlock.firstSeq >= state.size) {
      const blocks = await source.blocks({ firstSeq: state.size - 1, dropMonth: Infinity }, BLOCKS_A_CHUNK);
      const { size } = await source.state();
      const { firstSeq } = blocks.find((block) => block.firstSeq >= size) ?? lastBlock;
      this.#findings.add('block', `a block begins with this entry, though the stream has only ${size}`, firstSeq);
    }
    for (const [level, last] of lastTiles) {
      const width = TILE_WIDTH ** (level + 1);
      const full = Math.floor(state.size / width);
      if (last < full) continue;
      const tiles = await source.tiles(level, full, TILES_LISTED_MAX);
      const { size } = await source.state();
      const index = tiles.find((tile) => tile.index >= Math.floor(size / width))?.index ?? last;
      this.#findings.add('tile', `the tile ${index} of level ${level} is stored and not full`, index * width);
    }
  }

  async #leaveHole(to: number): Promise<void> {
    await this.#chain.leaveHole(to);
    await this.#closeBlocks();
    await this.#takeParts(0);
    this.#ids.leaveOut({ from: this.#next, to });
    this.#next = to;
  }

  /** Looks up what is expected since the last time, while the next blocks are checked: one look at a time. */
  async #lookUp(): Promise<void> {
    await this.#lookup;
    this.#lookup = this.#ids.checkMissing();
    // A failure is met where it is awaited.
    this.#lookup.catch(() => {});
  }
}

/** Blocks read again, for what the index says of them. Rows come in the order of the entries: the last block is remembered. */
class BlockReader {
  readonly #source: LogSource;
  #block: SourceBlock | undefined;
  #records: readonly Placed[] = [];

  constructor(source: LogSource) {
    this.#source = source;
  }

  async objectionToId(row: IdRow): Promise<string | undefined> {
    const block = await this.#read(row.seq);
    const record = block === undefined ? undefined : this.#records[row.seq - block.firstSeq]?.says;
    if (block === undefined || record === undefined) return 'is of no entry that is there';
    if (entryIdHash(record.id) !== row.idHash) return 'is not its id';
    return row.dropMonth === block.dropMonth ? undefined : `is stored under drop month ${row.dropMonth}`;
  }

  forget(): void {
    this.#block = undefined;
  }

  /** As it is now: its block may have been moved to another drop month since it was checked. */
  async hasId(row: IdRow): Promise<boolean> {
    const block = await this.#read(row.seq);
    return block === undefined || block.dropMonth === row.dropMonth;
  }

  async #read(seq: number): Promise<SourceBlock | undefined> {
    const known = this.#block;
    if (known !== undefined && seq >= known.firstSeq && seq < known.firstSeq + this.#records.length) return known;
    const block = await this.#source.lastBlock(seq);
    this.#block = block;
    try {
      this.#records = block === undefined ? [] : placedRecords(decodeRecords(unpackPayload(block.records)));
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      this.#records = [];
    }
    return block;
  }
}

/** The hashes of entries that are not stored, tile by tile: from full tiles, and from what pruning kept of one that is not full. */
async function* leavesOf(
  source: LogSource,
  from: number,
  to: number,
): AsyncGenerator<readonly (Uint8Array | undefined)[]> {
  const last = Math.floor((to - 1) / TILE_WIDTH);
  let read: readonly SourceTile[] = [];
  let asked = Math.floor(from / TILE_WIDTH);
  for (let index = asked; index <= last; index++) {
    if (index >= asked) {
      read = await source.tiles(0, index, TILES_A_READ);
      asked = index + TILES_A_READ;
    }
    const hashes = read.find((tile) => tile.index === index)?.hashes ?? (await source.tileEdge(index));
    const first = Math.max(from, index * TILE_WIDTH);
    const end = Math.min(to, (index + 1) * TILE_WIDTH);
    yield Array.from({ length: end - first }, (_, i) => {
      const at = (first + i - index * TILE_WIDTH) * HASH_SIZE;
      return hashes !== undefined && hashes.length >= at + HASH_SIZE ? hashes.subarray(at, at + HASH_SIZE) : undefined;
    });
  }
}

/** One that was written before its entries expired certifies nothing, nor does one whose pruning was given up. */
function counts({ isAbandoned, entry, retainUntil }: PruningCertificate): boolean {
  return !isAbandoned && entry.recordedAt >= retainUntil;
}

function certifiesGone({ first, end, held }: PruningCertificate, seq: number): boolean {
  return seq >= first && seq < end && heldAt(held, seq) === undefined;
}

function entryOf({ stream, seq, id, recordedAt }: Rec): Omit<CertificateEntry, 'isSigned'> {
  return { stream, seq, id, recordedAt: parseInstant(recordedAt)! };
}

/** Lets whatever else there is to do have its turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === 'function') setImmediate(resolve);
    else setTimeout(resolve);
  });
}

function isSamePlace(a: SourceBlock | undefined, b: SourceBlock): boolean {
  return a?.firstSeq === b.firstSeq && a.dropMonth === b.dropMonth;
}

/** Entries of a block are mostly stamped alike: each instant is read once. */
function placedRecords(records: readonly Uint8Array[]): Placed[] {
  const instants = new Map<string, number>();
  const instantOf = (text: string): number => {
    const ms = instants.get(text) ?? parseInstant(text)!;
    instants.set(text, ms);
    return ms;
  };
  return records.map((bytes) => {
    try {
      const says = decodeRecord(bytes);
      const retainUntil = says.retainUntil === undefined ? Infinity : instantOf(says.retainUntil);
      return { bytes, says, recordedAt: instantOf(says.recordedAt), retainUntil };
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      return { bytes, says: undefined, recordedAt: 0, retainUntil: Infinity };
    }
  });
}

function formatUntil(retainUntil: number): string {
  return retainUntil === Infinity ? 'for ever' : formatInstant(retainUntil);
}
