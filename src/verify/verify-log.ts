/**
 * Verification of a log as a whole (docs/format.md section 18.6): what its database says, against what was signed, anchored and kept elsewhere.
 *
 * `verifyStream` shows that the database agrees with itself. Whoever owns it can rewrite all of it, so that it agrees again; what
 * he can not do is sign (the key is elsewhere), make the signer forget (its mark is elsewhere), or change what an authority, a witness or
 * an auditor holds. All of that are roots that the tree had at some size, and each is held to the entries here.
 *
 * The verdict says no more than was shown. Only what somebody outside vouches for is anchored; a match with the log's own
 * signatures and with the signer's mark proves that nobody else rewrote it, not that its operator did not. So a log without outside evidence
 * is at best `not_provable`.
 *
 * Memory: a few pages of leaves, the names of the streams, and their reports.
 */
import { checkpointLeafHash, evidenceLeafHash, TICK_ACTION } from '../chain/anchor-tick.ts';
import { equalBytes, fromHex, toHex } from '../chain/bytes.ts';
import { streamParts } from '../chain/certificate.ts';
import { decodeCheckpoint, encodeCheckpoint, type ReadCheckpoint } from '../chain/checkpoint.ts';
import { CLOCK_TOLERANCE_MS } from '../chain/clock-guard.ts';
import { anchorEpoch, comparePlaces } from '../chain/key-statement.ts';
import {
  appendLeaves,
  checkConsistency,
  checkInclusion,
  type Frontier,
  frontierRoot,
  leafHash,
} from '../chain/merkle.ts';
import { openNote } from '../chain/note.ts';
import { decodeRecord, type Rec } from '../chain/record.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { HASH_SIZE } from '../chain/sha256.ts';
import { EvidenceError } from '../errors.ts';
import {
  CertificateBook,
  type CertificateEntry,
  type CertificateSays,
  type Certificates,
  NO_CERTIFICATES,
  readCertificate,
} from './certificates.ts';
import type { Finding, FindingKind, Unchecked } from './findings.ts';
import type {
  LogStream,
  LogWideSource,
  SourceCheckpoint,
  SourceLeaf,
  SourceStatement,
  TickLeaf,
} from './log-wide-source.ts';
import type { EvidenceChecker } from './outside-evidence.ts';
import type { PartsChecker } from './parts-check.ts';
import type { StatedRoot } from './root-check.ts';
import { type TrustedKey, trustedKeys } from './trusted-keys.ts';
import { orphanReport, type StreamReport, type VerifyOptions, verifyStream } from './verify-stream.ts';

/**
 * `tampered`: something is wrong. `incomplete`: nothing is wrong with what could be read, but not all could be. `not_provable`: nothing is wrong,
 * and nobody outside vouches for all of it. `intact`: nothing is wrong, and somebody does.
 */
export type LogVerdict = 'intact' | 'tampered' | 'incomplete' | 'not_provable';

/** Entries from 0 up to, not including, `to`, and who vouches for them. */
export interface Coverage {
  readonly from: 0;
  readonly to: number;
  readonly by: string;
  /** When, as the one who vouches states it: an instant of docs/format.md section 4. */
  readonly time?: string;
}

/** Entries from `from` up to, not including, `to`, that expired and are gone. */
export interface PrunedCoverage {
  readonly from: number;
  readonly to: number;
  /** The entry of the certificate. */
  readonly by: string;
  /** The time that somebody outside stated over the certificate, not before they expired: without it that they had is not provable. */
  readonly time?: string;
}

export interface LogStreamReport extends Omit<StreamReport, 'verdict' | 'pruned'> {
  readonly verdict: LogVerdict;
  /** Its stored checkpoint, where a trusted key signed it. */
  readonly checkpoint: { readonly size: number; readonly generation: number | undefined } | null;
  readonly anchored: readonly Coverage[];
  readonly pinned: readonly Coverage[];
  /** Entries that nobody outside vouches for, from `from` up to, not including, `to`. */
  readonly unanchored: { readonly from: number; readonly to: number } | null;
  /** Entries of a closed epoch that a recovery gave up: they do not count as the log. */
  readonly lost: { readonly from: number; readonly to: number; readonly by: string } | null;
  /** In order; where each has a time, what is missing is pruned, certified. */
  readonly pruned: readonly PrunedCoverage[];
}

export interface LogReport {
  readonly verdict: LogVerdict;
  readonly origin: string;
  /** The key that everything signed is trusted by, and why it is. */
  readonly key: { readonly vkey: string; readonly trusted: KeyTrust } | null;
  readonly entries: number;
  readonly streams: readonly LogStreamReport[];
  /** Of the log, beside those of its streams. */
  readonly findings: readonly Finding[];
  readonly unchecked: readonly Unchecked[];
  readonly truncated: boolean;
}

/** `given` by the verifier; of the `signer`'s own folder; of the first generation that the database states, taken on `first use`. */
export type KeyTrust = 'given' | 'signer' | 'first use';

export interface LogOptions {
  readonly key?: { readonly vkey: string; readonly trusted: 'given' | 'signer' } | undefined;
  /** Notes of checkpoints that the verifier holds, with a name for each. */
  readonly checkpoints?: readonly { readonly name: string; readonly note: string }[];
  /** Which outside evidence is trusted. Without one none is. */
  readonly evidence?: EvidenceChecker | undefined;
  /** What the signer last signed of each stream by its own record; `root` is hex. */
  readonly mark?: ReadonlyMap<string, { readonly size: number; readonly root: string }> | undefined;
  readonly findingsMax?: number;
  /** What looks at parts; default: this thread. */
  readonly parts?: PartsChecker | undefined;
  /** Called after each chunk with the number of entries of the stream that were checked. May take its time. */
  readonly onProgress?: (stream: LogStream, entries: number) => void | Promise<void>;
  /** Called while entries lack an anchor: returns whether to look again, after a while. Without it nobody waits. */
  readonly awaitAnchors?: () => Promise<boolean>;
}

const FINDINGS_MAX = 1000;
const LEAVES_A_PAGE = 500;
/** Of each anchor the newest evidence that holds is looked for among so many. */
const EVIDENCE_LOOKED_AT = 20;
const PROOFS_REMEMBERED = 1000;
/** Of those behind a certificate: ticks that lack their entry, after a crash, are passed over. */
const CERTIFICATE_LEAVES_MAX = 50;
/** What is wrong with an index, or with how entries are stored, says nothing against the entries. */
const INDEX_KINDS: ReadonlySet<FindingKind> = new Set<FindingKind>(['tag', 'id', 'tile', 'block']);
/** The end of the year 9999. */
const TIME_MAX = 253_402_300_799_999;

/** Verifies all streams in scope. Throws only what the source throws (a database that does not answer), and an EvidenceError where `key` is no vkey. */
export async function verifyLog(source: LogWideSource, options: LogOptions = {}): Promise<LogReport> {
  const check = await LogCheck.begin(source, options);
  for (const stream of await check.streams()) await check.checkStream(stream);
  await check.checkVanished();
  return check.end();
}

/** Outside evidence that holds, for a checkpoint of an epoch of the anchor stream. */
interface Anchor {
  readonly by: string;
  readonly time: number | undefined;
  readonly stream: LogStream & { readonly epoch: number };
  readonly size: number;
  readonly root: Uint8Array;
}

/** The largest checkpoint of a stream that an anchor covers. */
interface Covered {
  /** Whose root the entries have. */
  agreed?: SourceLeaf;
  /** The same, or one that came while the entries were read. */
  largest?: SourceLeaf;
}

/** What is known of a stream's leaves. */
interface Leaves {
  /**
   * The last that was read, the last whose tick is in the anchor stream, and the last of these whose root the entries have. The anchor stream
   * itself has checkpoints with outside evidence instead.
   */
  last: SourceLeaf | undefined;
  lastCounted: SourceLeaf | undefined;
  lastAgreed: SourceLeaf | undefined;
  readonly covered: Map<Anchor, Covered>;
}

/** A stream that was read, and what is needed to say later who vouches for it. */
interface ReadStream {
  readonly stream: LogStream;
  readonly report: StreamReport;
  readonly findings: Finding[];
  readonly unchecked: Unchecked[];
  readonly checkpoint: LogStreamReport['checkpoint'];
  readonly leaves: Leaves;
  readonly pinned: Coverage[];
  readonly anchored: Coverage[];
  readonly lost: LogStreamReport['lost'];
  readonly pruned: readonly PrunedCoverage[];
  /** Entries that count. */
  readonly end: number;
  /** Read by another check: which leaves agreed with its entries is not known, but what it found is. */
  readonly isRestored?: boolean;
}

interface GivenCheckpoint {
  readonly name: string;
  readonly stream: string;
  readonly says: ReadCheckpoint;
}

/** The check of one log, for callers that go from stream to stream themselves. */
export class LogCheck {
  readonly #source: LogWideSource;
  readonly #options: LogOptions;
  readonly #findingsMax: number;
  readonly #findings: Finding[] = [];
  readonly #unchecked: Unchecked[] = [];
  #truncated = false;
  #key: LogReport['key'] = null;
  /** Statements of deployment keys, and what was said of them already. */
  #statements: readonly SourceStatement[] = [];
  readonly #problems = new Set<string>();
  #anchorStreams: readonly (LogStream & { readonly epoch: number })[] = [];
  #anchors: Anchor[] = [];
  #given: GivenCheckpoint[] = [];
  readonly #read: ReadStream[] = [];
  #names = new Set<string>();
  readonly #proven = new Map<string, Promise<boolean>>();
  readonly #vanished = new Set<number>();
  /** By name: what was read of a `log_administration`. */
  readonly #administration = new Map<string, { readonly stream: LogStream; readonly report: StreamReport }>();
  /** By tenant: its certificates, and the sizes that its `log_administration` had when they were read. */
  readonly #certificates = new Map<string, { readonly book: Certificates; readonly sizes: string }>();

  private constructor(source: LogWideSource, options: LogOptions) {
    this.#source = source;
    this.#options = options;
    this.#findingsMax = options.findingsMax ?? FINDINGS_MAX;
  }

  /** Reads what is not of one stream: keys, given checkpoints, outside evidence. */
  static async begin(source: LogWideSource, options: LogOptions = {}): Promise<LogCheck> {
    const check = new LogCheck(source, options);
    await check.#readKeys();
    await check.#readGiven();
    await check.#readEvidence();
    return check;
  }

  /** Returns the streams to check: those of the anchor stream come first. */
  async streams(): Promise<readonly LogStream[]> {
    const streams = await this.#source.streams();
    this.#names = new Set(streams.map(({ name }) => name));
    const isAnchor = ({ name }: LogStream): boolean => anchorEpoch(name) !== undefined;
    return [...streams.filter(isAnchor), ...streams.filter((stream) => !isAnchor(stream))];
  }

  /** What is wrong beside the streams, so far. */
  get findings(): readonly Finding[] {
    return this.#findings;
  }

  async checkStream(stream: LogStream): Promise<LogStreamReport> {
    const findings: Finding[] = [];
    const add = (kind: FindingKind, detail: string, seq?: number): void => {
      findings.push({ stream: stream.name, ...(seq === undefined ? {} : { seq }), kind, detail });
    };
    // What was signed is read before the entries, which were there when it was, and before the keys, which were stated when they signed.
    const mark = this.#options.mark?.get(stream.name);
    const stored = await this.#source.checkpoint(stream);
    const keys = await this.#keysOf(stream.name, (kind, detail) => add(kind, detail));
    const opened = stored === undefined ? undefined : this.#openCheckpoint(stream, stored, keys, add);
    const said = await this.#source.closing(stream);
    // What a recovery closed counts up to consistentSize; what a shorter policy closed is a stream like any other, that ended.
    const closing = said?.isTurned === true ? undefined : said;
    const given = this.#given.filter((one) => one.stream === stream.name);
    const stated: StatedRoot[] = given.map(({ says: { size, root }, name }) => ({ size, root, kind: 'given', name }));
    if (mark !== undefined && isRoot(mark.root))
      stated.push({ size: mark.size, root: fromHex(mark.root), kind: 'mark', name: "the signer's own record" });
    if (opened !== undefined)
      stated.push({ size: opened.size, root: opened.root, kind: 'checkpoint', name: 'its signed checkpoint' });
    if (said?.isTurned === true)
      stated.push({ size: said.lastSize, root: fromHex(said.lastRoot), kind: 'successor', name: said.successor });
    stated.sort((a, b) => a.size - b.size);

    const epoch = this.#source.isWhole ? anchorEpoch(stream.name) : undefined;
    const leaves: Leaves = { last: undefined, lastCounted: undefined, lastAgreed: undefined, covered: new Map() };
    const pinned: Coverage[] = [];
    let beyond = false;
    const counts = (one: StatedRoot): boolean => {
      if (closing === undefined || one.size <= closing.consistentSize) return true;
      beyond = true;
      return false;
    };
    const report = await verifyStream(this.#source.open(stream), {
      findingsMax: this.#findingsMax,
      ...(this.#options.parts === undefined ? {} : { parts: this.#options.parts }),
      roots: filtered(
        epoch === undefined
          ? this.#withLeaves(stream, stated, leaves)
          : this.#withEvidence(stream, stated, leaves, add),
        counts,
      ),
      onAgreed: (one) => {
        if (one.kind === 'given') pinned.push({ from: 0, to: one.size, by: one.name });
        if (one.kind === 'anchor') agree(leaves, one.size);
      },
      ...onEntries(epoch === undefined ? undefined : this.#ticksOf(add), openingOf(stream.name, add)),
      certificates: (isFresh) => this.#certificatesOf(stream, isFresh),
      onProgress: (entries) => this.#options.onProgress?.(stream, entries),
    });

    if (said?.isTurned === true && report.size > said.lastSize)
      add('inconsistent', `${said.successor} says that the epoch ended before this entry`, said.lastSize);
    const unchecked = [...report.unchecked];
    const { consistentSize } = closing ?? {};
    const end = Math.min(report.size, consistentSize ?? report.size);
    if (closing !== undefined && (beyond || closing.lastSize > closing.consistentSize)) {
      const lost = closing.lastSize - closing.consistentSize;
      const detail = `entries that were lost in the recovery that opened ${closing.successor}: what was signed of them`;
      unchecked.push({ seq: closing.consistentSize, entries: lost, detail });
    }
    if (closing === undefined) await this.#checkNewest(stream, stored, leaves, mark, add, unchecked);
    if (opened !== undefined && closing === undefined) await this.#checkGeneration(stream, opened, add);

    const read: ReadStream = {
      ...{ stream, report, findings, unchecked, leaves, pinned, end },
      checkpoint: opened === undefined ? null : { size: opened.size, generation: opened.key.generation },
      anchored: [],
      pruned: await this.#prunedCoverage(report, add),
      lost:
        closing === undefined || closing.lastSize <= closing.consistentSize
          ? null
          : { from: closing.consistentSize, to: closing.lastSize, by: closing.successor },
    };
    this.#read.push(read);
    await this.#cover(read);
    return this.#reportOf(read);
  }

  /** Takes over what another check of this log found in a stream: who vouches for it is looked for again at the end. */
  async restoreStream(stream: LogStream, report: LogStreamReport): Promise<void> {
    const { checkpoint, anchored, pinned, unanchored: _, lost, pruned, verdict, ...rest } = report;
    const read: ReadStream = {
      ...{ stream, checkpoint, lost, pruned, findings: [], unchecked: [...report.unchecked], isRestored: true },
      report: { ...rest, verdict: verdict === 'not_provable' ? 'intact' : verdict },
      leaves: { last: undefined, lastCounted: undefined, lastAgreed: undefined, covered: new Map() },
      ...{ pinned: [...pinned], anchored: [...anchored] },
      end: Math.min(report.size, lost?.from ?? report.size),
    };
    this.#read.push(read);
    if (uncovered(read) !== undefined) await this.#coverLater(read);
  }

  /** Streams that something speaks of and that are not there. Needs the list of streams. */
  async checkVanished(): Promise<void> {
    const { stored, anchored } = await this.#source.orphans();
    for (const id of new Set([...anchored, ...this.#vanished])) {
      const detail = 'the anchor stream has leaves of the stream, and it is not there any more';
      this.#find(`(stream ${id})`, 'truncated', detail);
    }
    for (const id of stored) {
      if (anchored.includes(id)) continue;
      for (const finding of orphanReport(id).findings) this.#find(finding.stream, finding.kind, finding.detail);
    }
    for (const [name, { size }] of this.#options.mark ?? []) {
      if (this.#names.has(name) || !this.#isInScope(name)) continue;
      this.#find(name, 'truncated', `the signer signed ${size} entries of the stream, and it is not there any more`);
    }
    for (const { stream, name, says } of this.#given) {
      if (this.#names.has(stream) || !this.#isInScope(stream)) continue;
      this.#find(stream, 'truncated', `${name} states ${says.size} entries of the stream, and it is not there`);
    }
  }

  /** Waits for anchors where it may, and sums up. */
  async end(): Promise<LogReport> {
    let open = this.#read.filter((read) => uncovered(read) !== undefined);
    while (open.length > 0 && this.#options.evidence !== undefined && (await this.#options.awaitAnchors?.()) === true) {
      await this.#readEvidence();
      for (const read of open) await this.#coverLater(read);
      open = open.filter((read) => uncovered(read) !== undefined);
    }
    const streams = this.#read.map((read) => this.#reportOf(read));
    const verdicts = streams.map(({ verdict }) => verdict);
    if (this.#findings.length > 0) verdicts.push('tampered');
    if (this.#unchecked.length > 0) verdicts.push('incomplete');
    return {
      verdict: worstVerdict(verdicts),
      origin: this.#source.origin,
      key: this.#key,
      entries: streams.reduce((sum, { size }) => sum + size, 0),
      streams: streams.toSorted((a, b) => (a.stream < b.stream ? -1 : 1)),
      findings: this.#findings,
      unchecked: this.#unchecked,
      truncated: this.#truncated || streams.some(({ truncated }) => truncated),
    };
  }

  // ---- Keys ----

  async #readKeys(): Promise<void> {
    const { origin } = this.#source;
    this.#statements = await this.#source.keyStatements([origin]);
    const { key } = this.#options;
    if (key !== undefined) this.#key = key;
    else {
      const first = firstKey(origin, this.#statements);
      this.#key = first === undefined ? null : { vkey: first, trusted: 'first use' };
    }
    if (this.#key === null) return;
    // A signer that has not signed anything yet has stated nothing.
    if (this.#key.trusted === 'signer' && this.#statements.length === 0 && (this.#options.mark?.size ?? 0) === 0) {
      this.#key = null;
      return;
    }
    const problems = trustedKeys(origin, this.#key.vkey, notesOf(this.#statements)).problems;
    for (const { kind, detail } of [...problems, ...contradictions(this.#statements)]) {
      this.#problems.add(detail);
      this.#find(origin, kind, detail);
    }
  }

  /** Returns the trusted keys of a stream; undefined where the verifier trusts one key of another stream alone. */
  async #keysOf(
    stream: string,
    find: (kind: 'key' | 'signature', detail: string) => void,
  ): Promise<readonly TrustedKey[] | undefined> {
    const { origin } = this.#source;
    const name = `${origin}/${stream}`;
    // It may have been stated since.
    if (this.#key === null) await this.#readKeys();
    if (this.#key === null) return [];
    const own = await this.#source.keyStatements([name]);
    // A key can be replaced while a long log is read.
    this.#statements = await this.#source.keyStatements([origin]);
    const { keys, problems } = trustedKeys(origin, this.#key.vkey, notesOf([...this.#statements, ...own]));
    for (const { kind, detail } of [...problems, ...contradictions(own)])
      if (!this.#problems.has(detail)) find(kind, detail);
    const of = keys.filter((key) => key.name === name);
    return of.length === 0 && keys.every((key) => key.generation === undefined) ? undefined : of;
  }

  /** Returns what a stored checkpoint says, where a trusted key signed it. */
  #openCheckpoint(
    stream: LogStream,
    stored: SourceCheckpoint,
    keys: readonly TrustedKey[] | undefined,
    add: (kind: FindingKind, detail: string, seq?: number) => void,
  ): (ReadCheckpoint & { readonly key: TrustedKey }) | undefined {
    const at = stored.size > 0 ? stored.size - 1 : undefined;
    if (stored.copies > 1) add('checkpoint', `the stream has ${stored.copies} stored checkpoints`, at);
    if (keys === undefined) return undefined;
    try {
      const { says, key } = openCheckpoint(stored.note, keys);
      if (says.origin !== `${this.#source.origin}/${stream.name}`) {
        add('checkpoint', `the stored checkpoint is of ${says.origin}`, at);
        return undefined;
      }
      if (says.extensions.length > 0)
        add('checkpoint', 'the stored checkpoint has lines that Sealog does not write', at);
      const isSame =
        says.size === stored.size &&
        equalBytes(says.root, stored.root) &&
        (key.generation === undefined || key.generation === stored.generation);
      if (!isSame) add('checkpoint', 'the row of the checkpoint says something else than its note', at);
      return { ...says, key };
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      add('signature', `the stored checkpoint: ${error.message}`, at);
      return undefined;
    }
  }

  /** A generation that was replaced may have been stolen since: what it signed counts only where it is known to be older. */
  async #checkGeneration(
    stream: LogStream,
    opened: ReadCheckpoint & { readonly key: TrustedKey },
    add: (kind: FindingKind, detail: string, seq?: number) => void,
  ): Promise<void> {
    const { to, generation } = opened.key;
    if (to === undefined || opened.size === 0) return;
    const epoch = anchorEpoch(stream.name);
    if (epoch !== undefined && comparePlaces({ epoch, size: opened.size }, to) <= 0) return;
    for await (const leaf of this.#leavesOf(stream, undefined)) {
      if (leaf.size > opened.size) break;
      if (leaf.size !== opened.size || leaf.place === undefined || !equalBytes(leaf.root, opened.root)) continue;
      if (comparePlaces({ epoch: leaf.place.epoch, size: leaf.place.seq + 1 }, to) <= 0) return;
    }
    // The next generation may have signed it in the meantime.
    const now = await this.#source.checkpoint(stream);
    if (now !== undefined && now.generation !== generation) return;
    const detail = `the checkpoint is signed by generation ${generation}, which was replaced, and no tick shows that it is older than that`;
    add('key', detail, opened.size - 1);
  }

  /** The stored checkpoint is the newest that was signed. */
  async #checkNewest(
    stream: LogStream,
    before: SourceCheckpoint | undefined,
    { lastCounted }: Leaves,
    mark: { readonly size: number } | undefined,
    add: (kind: FindingKind, detail: string, seq?: number) => void,
    unchecked: Unchecked[],
  ): Promise<void> {
    const needed = Math.max(lastCounted?.size ?? 0, mark?.size ?? 0);
    if ((before?.size ?? 0) >= needed) return;
    const size = (await this.#source.checkpoint(stream))?.size ?? 0;
    if (lastCounted !== undefined && size < lastCounted.size) {
      const detail = `the stored checkpoint is of size ${size}, and one of ${lastCounted.size} was signed before: it is an older one`;
      add(
        'checkpoint',
        size === 0 ? `a checkpoint of ${lastCounted.size} was signed, and none is stored` : detail,
        Math.max(0, size - 1),
      );
    } else if (mark !== undefined && size < mark.size) {
      // The signer writes its record first, and may have ended before it could store the checkpoint.
      const detail = `the signer signed size ${mark.size}, and that checkpoint is not stored`;
      unchecked.push({ seq: size, entries: mark.size - size, detail });
    }
  }

  // ---- What was stated ----

  async #readGiven(): Promise<void> {
    const { origin } = this.#source;
    for (const { name, note } of this.#options.checkpoints ?? []) {
      try {
        const end = note.lastIndexOf('\n\n');
        const named = decodeCheckpoint(end < 0 ? note : note.slice(0, end + 1));
        if (!named.origin.startsWith(`${origin}/`)) throw new EvidenceError(`it is of ${named.origin}`);
        const stream = named.origin.slice(origin.length + 1);
        const keys = await this.#keysOf(stream, (kind, detail) => this.#find(stream, kind, detail));
        const { says } = openCheckpoint(note, keys ?? []);
        this.#given.push({ name, stream, says });
      } catch (error) {
        if (!(error instanceof EvidenceError)) throw error;
        this.#find(origin, 'signature', `${name}: ${error.message}`);
      }
    }
  }

  /** Reads the newest evidence of each anchor, and the given checkpoints of the anchor stream, which are evidence too. */
  async #readEvidence(): Promise<void> {
    const anchors: Anchor[] = [];
    // A young log has its first tick after a while.
    this.#anchorStreams = await this.#source.anchorStreams();
    for (const stream of this.#anchorStreams) {
      for (const { name, says } of this.#given.filter((one) => one.stream === stream.name))
        anchors.push({ by: name, time: undefined, stream, size: says.size, root: says.root });
    }
    const { evidence: check } = this.#options;
    if (check !== undefined) {
      for (const name of await this.#source.anchors()) {
        for (const stream of this.#anchorStreams) {
          const held = await this.#newestHeld(name, stream, check);
          if (held !== undefined) anchors.push(held);
        }
      }
    }
    this.#anchors = anchors;
  }

  async #newestHeld(
    name: string,
    stream: LogStream & { readonly epoch: number },
    check: EvidenceChecker,
  ): Promise<Anchor | undefined> {
    const keys = await this.#keysOf(stream.name, () => {});
    for (const evidence of await this.#source.newestEvidence(name, stream, EVIDENCE_LOOKED_AT)) {
      try {
        const text = textOf(evidence.note);
        const held = await check(evidence, text);
        if (held === undefined) continue;
        const { says } = openCheckpoint(evidence.note, keys ?? []);
        if (says.origin !== `${this.#source.origin}/${stream.name}` || says.size !== evidence.size)
          throw new EvidenceError('it is of another checkpoint than its row says');
        return { by: `${held.by} (${name})`, time: held.time, stream, size: says.size, root: says.root };
      } catch (error) {
        if (!(error instanceof EvidenceError)) throw error;
        this.#findOnce(
          stream.name,
          'anchor',
          `evidence ${evidence.id} of ${name}: ${error.message}`,
          evidence.size - 1,
        );
      }
    }
    return undefined;
  }

  async *#leavesOf(stream: LogStream, from: SourceLeaf | undefined): AsyncGenerator<SourceLeaf> {
    for (let after = from; ; ) {
      const page = await this.#source.leaves(stream, after, LEAVES_A_PAGE);
      yield* page;
      after = page.at(-1);
      if (after === undefined || page.length < LEAVES_A_PAGE) return;
    }
  }

  async *#withLeaves(stream: LogStream, stated: readonly StatedRoot[], leaves: Leaves): AsyncGenerator<StatedRoot> {
    let i = 0;
    for await (const leaf of this.#leavesOf(stream, undefined)) {
      for (; i < stated.length && stated[i]!.size <= leaf.size; i++) yield stated[i]!;
      this.#take(leaf, leaves);
      const { place, size, root } = leaf;
      // A tick without an entry means nothing.
      if (place === undefined) continue;
      yield { size, root, kind: 'anchor', name: `tick ${place.seq} of the anchor stream` };
    }
    yield* stated.slice(i);
  }

  /** For the anchor stream: the checkpoints that outside evidence is of. */
  async *#withEvidence(
    stream: LogStream,
    stated: readonly StatedRoot[],
    leaves: Leaves,
    add: (kind: FindingKind, detail: string, seq?: number) => void,
  ): AsyncGenerator<StatedRoot> {
    let i = 0;
    for (let after = { size: 0, id: 0 }; ; ) {
      const page = await this.#source.evidenceNotes(stream, after, LEAVES_A_PAGE);
      for (const { size, note, anchor } of page) {
        for (; i < stated.length && stated[i]!.size <= size; i++) yield stated[i]!;
        try {
          const says = decodeCheckpoint(textOf(note));
          if (says.size !== size || says.origin !== `${this.#source.origin}/${stream.name}`)
            throw new EvidenceError('its checkpoint is another one than its row says');
          leaves.lastCounted = { tick: new Uint8Array(0), size, root: says.root, place: undefined };
          yield { size, root: says.root, kind: 'anchor', name: `the evidence of ${anchor}` };
        } catch (error) {
          if (!(error instanceof EvidenceError)) throw error;
          add('anchor', `evidence of ${anchor}: ${error.message}`, size - 1);
        }
      }
      const last = page.at(-1);
      if (last === undefined || page.length < LEAVES_A_PAGE) break;
      after = last;
    }
    yield* stated.slice(i);
  }

  #take(leaf: SourceLeaf, leaves: Leaves): void {
    // Its tick may be on the way: it is looked at again.
    if (leaf.place === undefined) return;
    leaves.last = leaf;
    leaves.lastCounted = leaf;
    for (const anchor of this.#anchors) {
      if (!isUnder(leaf, anchor)) continue;
      const covered = leaves.covered.get(anchor) ?? {};
      covered.largest = leaf;
      leaves.covered.set(anchor, covered);
    }
  }

  // ---- Ticks ----

  /** Returns what holds the ticks of an epoch of the anchor stream to their leaves. */
  #ticksOf(add: (kind: FindingKind, detail: string, seq?: number) => void) {
    const sizes = new Map<number, number>();
    return async (entries: readonly { readonly seq: number; readonly record: Rec }[]): Promise<void> => {
      for (const { seq, record } of entries) {
        // The first entry behind a recovery.
        if (record.action === 'epoch.opened') continue;
        if (record.action !== TICK_ACTION || !isRoot(record.id)) add('anchor', 'the entry is no tick', seq);
        else await this.#checkTick(fromHex(record.id), seq, sizes, add);
      }
    };
  }

  async #checkTick(
    tick: Uint8Array,
    seq: number,
    sizes: Map<number, number>,
    add: (kind: FindingKind, detail: string, seq?: number) => void,
  ): Promise<void> {
    const wrong = new Set<string>();
    const root = await this.#rootOfTick(tick, (leaf, hash) => {
      if ('evidence' in leaf.of) {
        if (leaf.of.evidence === undefined) wrong.add('the outside evidence of a leaf of the tick is gone');
      } else {
        const { streamId, stream, size } = leaf.of;
        if (stream === undefined) this.#vanished.add(streamId);
        if (size < (sizes.get(streamId) ?? 0))
          wrong.add(`the tick states a smaller size of ${stream ?? streamId} than one before it`);
        sizes.set(streamId, size);
      }
      if (hash !== undefined && !equalBytes(hash, leaf.hash))
        wrong.add('the hash of a leaf of the tick is not that of what it says');
    });
    if (root === undefined || !equalBytes(root, tick)) wrong.add('the leaves of the tick do not come to its root');
    for (const detail of wrong) add('anchor', detail, seq);
  }

  /** Returns the root over a tick's leaves, and shows each with the hash of what it says; undefined where there are none, or places are missing. */
  async #rootOfTick(
    tick: Uint8Array,
    look: (leaf: TickLeaf, hash: Uint8Array | undefined) => void,
  ): Promise<Uint8Array | undefined> {
    let frontier: Frontier = [];
    let size = 0;
    for (;;) {
      const page = await this.#source.tickLeaves(tick, size, LEAVES_A_PAGE);
      if (page.some(({ position, hash }, i) => position !== size + i || hash.length !== HASH_SIZE)) return undefined;
      for (const leaf of page) look(leaf, this.#hashOf(leaf));
      frontier = appendLeaves(
        size,
        frontier,
        page.map(({ hash }) => hash),
      );
      size += page.length;
      if (page.length < LEAVES_A_PAGE) return size === 0 ? undefined : frontierRoot(size, frontier);
    }
  }

  /** The hash of what a leaf's row says; undefined where that is not known. */
  #hashOf({ of }: TickLeaf): Uint8Array | undefined {
    if ('evidence' in of) return of.evidence === undefined ? undefined : evidenceLeafHash(of.evidence);
    const { stream, size, root, blind } = of;
    if (stream === undefined) return undefined;
    if (size < 1 || root.length !== HASH_SIZE || blind.length !== 16) return new Uint8Array(HASH_SIZE);
    return checkpointLeafHash(blind, encodeCheckpoint({ origin: `${this.#source.origin}/${stream}`, size, root }));
  }

  // ---- Who vouches for it ----

  async #cover(read: ReadStream): Promise<void> {
    const { stream, report, leaves, anchored, end } = read;
    if (read.isRestored !== true) anchored.length = 0;
    const epoch = anchorEpoch(stream.name);
    for (const anchor of this.#anchors) {
      const { by, time, size } = anchor;
      const said = {
        from: 0,
        by,
        ...(time === undefined || time > TIME_MAX ? {} : { time: formatInstant(time) }),
      } as const;
      if (epoch !== undefined) {
        if (anchor.stream.epoch === epoch && (await this.#isBegin(read, size, anchor.root)))
          anchored.push({ ...said, to: Math.min(size, end) });
        continue;
      }
      const { agreed, largest } = leaves.covered.get(anchor) ?? {};
      const isLater = largest !== undefined && largest.size > report.size;
      const isSame = largest?.size === report.size && toHex(largest.root) === report.root;
      const best = isSame || (isLater && (await this.#isBegin(read, largest.size, largest.root))) ? largest : agreed;
      if (best === undefined || !(await this.#isAnchored(stream, best, anchor))) continue;
      if (read.isRestored === true) anchored.splice(0, anchored.length, ...anchored.filter((one) => one.by !== by));
      anchored.push({ ...said, to: Math.min(best.size, end) });
    }
  }

  /** Looks for what came since the entries were read. */
  async #coverLater(read: ReadStream): Promise<void> {
    const { leaves } = read;
    const { lastAgreed, lastCounted } = leaves;
    const seen = [...leaves.covered.values()].flatMap(({ agreed }) => agreed ?? []);
    leaves.covered.clear();
    for (const leaf of [...seen, lastAgreed, lastCounted].filter((one) => one !== undefined)) {
      this.#take(leaf, leaves);
      if (leaf.size <= (lastAgreed?.size ?? 0)) agree(leaves, leaf.size);
    }
    for await (const leaf of this.#leavesOf(read.stream, leaves.last)) this.#take(leaf, leaves);
    await this.#cover(read);
  }

  /** Says whether the entries that were read are what the tree of this size and root begins with, or holds. */
  async #isBegin({ stream, report, unchecked }: ReadStream, size: number, root: Uint8Array): Promise<boolean> {
    if (report.root === undefined) return false;
    // Up to the size that was read each stated root was held to the entries, and is a finding where it is another.
    if (size <= report.size) return true;
    try {
      const path = await this.#source.consistency(stream, report.size, size);
      checkConsistency(report.size, size, fromHex(report.root), root, path);
      return report.size > 0;
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      const detail = `whether the entries are those that ${size} entries were signed with: ${error.message}`;
      if (!unchecked.some((one) => one.detail === detail)) unchecked.push({ seq: 0, entries: report.size, detail });
      return false;
    }
  }

  /** Shows that a leaf is in its tick, and the tick in the anchor stream as the outside knows it. */
  #isAnchored(stream: LogStream, leaf: SourceLeaf, anchor: Anchor): Promise<boolean> {
    const key = `${anchor.stream.name} ${anchor.size} ${toHex(leaf.tick)} ${this.#source.isWhole ? '' : stream.id}`;
    const known = this.#proven.get(key) ?? this.#proveAnchored(stream, leaf, anchor);
    this.#proven.set(key, known);
    if (this.#proven.size > PROOFS_REMEMBERED) this.#proven.delete(this.#proven.keys().next().value!);
    return known;
  }

  async #proveAnchored(stream: LogStream, { tick, size, root, place }: SourceLeaf, anchor: Anchor): Promise<boolean> {
    const { seq } = place!;
    try {
      const { record, path } = await this.#source.entryProof(anchor.stream, seq, anchor.size);
      checkInclusion(seq, anchor.size, leafHash(record), path, anchor.root);
      const says = decodeRecord(record);
      if (says.action !== TICK_ACTION || says.id !== toHex(tick)) throw new EvidenceError('the entry is another one');
      // Over the whole log each tick was held to its leaves already.
      if (this.#source.isWhole) return true;
      let isThere = false;
      const found = await this.#rootOfTick(tick, ({ of, hash }, own) => {
        if ('evidence' in of || of.streamId !== stream.id || of.size !== size || !equalBytes(of.root, root)) return;
        isThere ||= own !== undefined && equalBytes(own, hash);
      });
      if (found === undefined || !equalBytes(found, tick))
        throw new EvidenceError('its leaves do not come to its root');
      if (!isThere) throw new EvidenceError('the leaf is not the one that it says');
      return true;
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      this.#findOnce(anchor.stream.name, 'anchor', `the tick of size ${size} of ${stream.name}: ${error.message}`, seq);
      return false;
    }
  }

  // ---- Certificates ----

  /** Returns what is certified in the log of a stream's tenant. It is read where something is missing, and again where more may have come since. */
  async #certificatesOf({ name }: LogStream, isFresh: boolean): Promise<Certificates> {
    const tenant = streamParts(name)?.tenant;
    if (tenant === undefined) return NO_CERTIFICATES;
    const known = this.#certificates.get(tenant);
    if (known !== undefined && !isFresh) return known.book;
    const streams = await this.#source.administration(tenant);
    const sizes: number[] = [];
    for (const stream of streams) sizes.push((await this.#source.open(stream).state()).size);
    if (known?.sizes === sizes.join()) return known.book;
    const book = new CertificateBook();
    for (const stream of streams) await this.#readCertificates(stream, book);
    this.#certificates.set(tenant, { book, sizes: sizes.join() });
    return book;
  }

  /** Certificates of a stream that is not what was linked, or signed, certify nothing; what is wrong with it is found where it is checked. */
  async #readCertificates(stream: LogStream, book: CertificateBook): Promise<void> {
    const mark = this.#options.mark?.get(stream.name);
    const stored = await this.#source.checkpoint(stream);
    const keys = await this.#keysOf(stream.name, () => {});
    const opened = stored === undefined ? undefined : this.#openCheckpoint(stream, stored, keys, () => {});
    const closing = await this.#source.closing(stream);
    const end = closing?.consistentSize ?? Infinity;
    const roots: StatedRoot[] = [];
    if (opened !== undefined) roots.push({ ...opened, kind: 'checkpoint', name: 'its signed checkpoint' });
    if (mark !== undefined && isRoot(mark.root))
      roots.push({ size: mark.size, root: fromHex(mark.root), kind: 'mark', name: "the signer's own record" });
    const signed = Math.min(opened?.size ?? 0, end);
    const found: { readonly says: CertificateSays; readonly entry: CertificateEntry }[] = [];
    const report = await verifyStream(this.#source.open(stream), {
      ...(this.#options.parts === undefined ? {} : { parts: this.#options.parts }),
      roots: roots.filter(({ size }) => size <= end).sort((a, b) => a.size - b.size),
      // Read at once: what is compressed, and no certificate, may be large.
      onCertificate: ({ entry, ...one }) => {
        const says = entry.seq < end ? readCertificate({ ...one, entry }) : undefined;
        if (says !== undefined) found.push({ says, entry: { ...entry, isSigned: entry.seq < signed } });
      },
    });
    if (report.findings.some(({ kind }) => !INDEX_KINDS.has(kind))) return;
    this.#administration.set(stream.name, { stream, report });
    for (const { says, entry } of found) book.take(says, entry);
  }

  async #prunedCoverage(
    { pruned = [] }: StreamReport,
    add: (kind: FindingKind, detail: string, seq: number) => void,
  ): Promise<PrunedCoverage[]> {
    const coverage: PrunedCoverage[] = [];
    for (const { from, to, certificate } of pruned) {
      const { retainUntil, entry } = certificate;
      const times = await this.#statedOver(entry);
      const by = `${entry.stream}#${entry.seq}`;
      // The certificate says itself when it was written; somebody outside saw it there before.
      const early = times.find((time) => time < retainUntil - CLOCK_TOLERANCE_MS);
      if (early !== undefined) {
        const until = `entries ${from} to ${to - 1} are missing, and are kept until ${formatInstant(retainUntil)}`;
        add('early_deletion', `${until}: their certificate ${by} was there at ${formatInstant(early)} already`, from);
      }
      const time = entry.isSigned ? times.find((one) => one >= retainUntil) : undefined;
      coverage.push({ from, to, by, ...(time === undefined || time > TIME_MAX ? {} : { time: formatInstant(time) }) });
    }
    return coverage;
  }

  /** The newest time that each anchor states over a certificate's entry. */
  async #statedOver(entry: CertificateEntry): Promise<number[]> {
    const administration = this.#administration.get(entry.stream);
    if (administration === undefined) return [];
    const { stream } = administration;
    const behind = { size: entry.seq, tick: new Uint8Array(HASH_SIZE).fill(0xff) };
    const leaves = (await this.#source.leaves(stream, behind, CERTIFICATE_LEAVES_MAX)).filter((leaf) => leaf.place);
    const times: number[] = [];
    for (const anchor of this.#anchors) {
      const leaf = anchor.time === undefined ? undefined : leaves.find((one) => isUnder(one, anchor));
      if (leaf === undefined || !(await this.#isOf(administration, leaf))) continue;
      if (await this.#isAnchored(stream, leaf, anchor)) times.push(anchor.time!);
    }
    return times;
  }

  /** Says whether a leaf states the tree that was read, or what that one began with or became. */
  async #isOf({ stream, report }: { stream: LogStream; report: StreamReport }, leaf: SourceLeaf): Promise<boolean> {
    if (report.root === undefined) return false;
    const own = { size: report.size, root: fromHex(report.root) };
    const [before, after] = leaf.size <= own.size ? [leaf, own] : [own, leaf];
    try {
      const path = await this.#source.consistency(stream, before.size, after.size);
      checkConsistency(before.size, after.size, before.root, after.root, path);
      return true;
    } catch (error) {
      if (!(error instanceof EvidenceError)) throw error;
      return false;
    }
  }

  // ---- Sums ----

  #reportOf(read: ReadStream): LogStreamReport {
    const { report, findings, unchecked, checkpoint, anchored, pinned, lost, pruned, end } = read;
    const { verdict: _, pruned: __, ...rest } = report;
    const all = [...report.findings, ...findings].toSorted((a, b) => (a.seq ?? Infinity) - (b.seq ?? Infinity) || 0);
    const anchoredTo = Math.max(0, ...anchored.map(({ to }) => to));
    let verdict: LogVerdict = 'intact';
    if (all.length > 0) verdict = 'tampered';
    else if (unchecked.length > 0) verdict = 'incomplete';
    else if (uncovered(read) !== undefined || report.unproven !== undefined) verdict = 'not_provable';
    else if (pruned.some(({ time }) => time === undefined)) verdict = 'not_provable';
    return {
      ...rest,
      verdict,
      findings: all.slice(0, this.#findingsMax),
      truncated: report.truncated || all.length > this.#findingsMax,
      unchecked,
      checkpoint,
      anchored,
      pinned: pinned.map((one) => ({ ...one, to: Math.min(one.to, end) })),
      unanchored: anchoredTo < end ? { from: anchoredTo, to: end } : null,
      lost,
      pruned,
    };
  }

  #isInScope(stream: string): boolean {
    if (this.#source.isWhole) return true;
    // One tenant's part: that of the streams that it shows.
    const [first] = this.#names;
    return first !== undefined && stream.split('/')[0] === first.split('/')[0] && anchorEpoch(stream) === undefined;
  }

  #find(stream: string, kind: FindingKind, detail: string, seq?: number): void {
    if (this.#findings.length >= this.#findingsMax) this.#truncated = true;
    else this.#findings.push({ stream, ...(seq === undefined ? {} : { seq }), kind, detail });
  }

  #findOnce(stream: string, kind: FindingKind, detail: string, seq: number): void {
    if (!this.#findings.some((one) => one.detail === detail)) this.#find(stream, kind, detail, seq);
  }
}

/** Returns the worst of some verdicts; `intact` where there are none. */
export function worstVerdict(verdicts: readonly LogVerdict[]): LogVerdict {
  const order: readonly LogVerdict[] = ['tampered', 'incomplete', 'not_provable'];
  return order.find((one) => verdicts.includes(one)) ?? 'intact';
}

/** The entries that nobody outside vouches for: neither anchored nor pinned. */
function uncovered({ anchored, pinned, end }: ReadStream): { from: number; to: number } | undefined {
  const from = Math.max(0, ...[...anchored, ...pinned].map(({ to }) => to));
  return from < end ? { from, to: end } : undefined;
}

/** The entries have the root of the leaf of this size, and of all leaves before it. */
function agree(leaves: Leaves, size: number): void {
  if (leaves.lastCounted?.size === size) leaves.lastAgreed = leaves.lastCounted;
  for (const covered of leaves.covered.values())
    if (covered.largest !== undefined && covered.largest.size === size) covered.agreed = covered.largest;
}

/** Whether an anchor's checkpoint is of a size behind the tick of the leaf. */
function isUnder({ place }: SourceLeaf, { stream, size }: Anchor): boolean {
  return place !== undefined && place.epoch === stream.epoch && place.seq < size;
}

async function* filtered(
  roots: AsyncIterable<StatedRoot>,
  counts: (one: StatedRoot) => boolean,
): AsyncGenerator<StatedRoot> {
  for await (const one of roots) if (counts(one)) yield one;
}

type OnEntries = NonNullable<VerifyOptions['onEntries']>;

function onEntries(...looks: readonly (OnEntries | undefined)[]): { readonly onEntries?: OnEntries } {
  const all = looks.filter((look) => look !== undefined);
  if (all.length === 0) return {};
  return {
    onEntries: async (entries) => {
      for (const look of all) await look(entries);
    },
  };
}

/** Returns what holds a later epoch to its first entry, which Sealog writes when it goes on for another (docs/format.md section 23). */
function openingOf(
  stream: string,
  add: (kind: FindingKind, detail: string, seq?: number) => void,
): OnEntries | undefined {
  if (!/\/e[0-9]+$/.test(stream)) return undefined;
  return async ([first]) => {
    if (first?.seq !== 0) return;
    const { action, source } = first.record;
    if (action !== 'epoch.opened' || source['service'] !== 'sealog')
      add('inconsistent', 'the epoch does not begin with the entry that opens it', 0);
  };
}

/** Opens the note of a checkpoint, and says which key signed it. Throws an EvidenceError. */
function openCheckpoint(note: string, keys: readonly TrustedKey[]): { says: ReadCheckpoint; key: TrustedKey } {
  const { text, verified } = openNote(
    note,
    keys.map(({ verifier }) => verifier),
  );
  const key = keys.findLast(({ verifier }) => verified.some(({ keyId }) => keyId === verifier.keyId))!;
  return { says: decodeCheckpoint(text), key };
}

/** The text that a note's signatures are over, before anybody looked at them. */
function textOf(note: string): string {
  const end = note.lastIndexOf('\n\n');
  if (end < 0) throw new EvidenceError('a note without an empty line has no signatures');
  return note.slice(0, end + 1);
}

/** The vkey of the first generation that is stated. */
function firstKey(origin: string, statements: readonly SourceStatement[]): string | undefined {
  for (const { note } of statements) {
    const [name, , generation, , vkey] = note.split('\n');
    if (name === origin && generation === '1' && vkey?.startsWith(`${origin}+`)) return vkey;
  }
  return undefined;
}

function notesOf(statements: readonly SourceStatement[]): string[] {
  return statements.map(({ note }) => note);
}

/** Rows of statements that say something else than their notes; what is wrong with a note is found by whoever trusts by it. */
function contradictions(statements: readonly SourceStatement[]): { readonly kind: 'key'; readonly detail: string }[] {
  return statements.flatMap(({ name, generation, vkey, note }) => {
    const [, , decimal, , stated] = note.split('\n');
    if (decimal === String(generation) && stated === vkey && vkey.startsWith(`${name}+`)) return [];
    return [{ kind: 'key', detail: `the row of a key statement of ${name} says something else than its note` }];
  });
}

function isRoot(hex: string): boolean {
  return /^[0-9a-f]{64}$/.test(hex);
}
