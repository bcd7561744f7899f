/**
 * The sequencer: gives each entry its place, by group commit.
 *
 * What waits is one transaction: lock the streams' rows in one order and look for repeats → drop these → number, link, grow the
 * tree → blocks, tags, ids, full tiles and heads in one statement → commit → answer with receipts. The lock on a stream's row is the only
 * lock, and what the row holds (size, head, frontier, last stamps) is the sequencer's whole state: several replicas may append,
 * and a crash at any point leaves either the whole group or nothing of it. What does not need the position is done before
 * the lock; while a group commits, the next is being sealed and asks for its locks.
 *
 * Tenants take turns: each group takes from all that wait, in turns of a few entries (fair-queue.ts), so that nobody waits behind another
 * tenant's flood; the order within a tenant is that of arrival. And nobody can fill the queue (`#hasRoom`).
 *
 * A receipt is given only after COMMIT. When the reply to COMMIT is lost, the group's outcome is unknown and its clients are
 * told so (`outcome_unknown`); any failure before means that nothing was stored.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { EvidenceError, KeyUnavailableError, Problem } from '../errors.ts';
import { decodeRecords, packPayload, type StoredBlock, unpackPayload } from './block.ts';
import { concatBytes, fromHex, toHex } from './bytes.ts';
import type { ClockGuard } from './clock-guard.ts';
import type { EarlierEpoch, EarlierRetention, PendingEntry, PlacelessEntry, StreamRef } from './entry.ts';
import { FairQueue } from './fair-queue.ts';
import { isWithinShare, SHARE_ALONE } from './fair-share.ts';
import { appendLeaves, decodeFrontier, encodeFrontier, leafHash } from './merkle.ts';
import { placeRecords } from './placed-records.ts';
import { addMonths, dropMonthOf, formatInstant, nextMonth } from './retain-until.ts';
import { type Seal, type SealedRun, sealRuns } from './sealed-run.ts';
import { HASH_SIZE } from './sha256.ts';
import { placedTags } from './tag.ts';
import { fullTilesBetween, TILE_WIDTH, tileRoot } from './tile.ts';

/** What a client gets for an event: where it stands, for good. */
export interface Receipt {
  readonly id: string;
  readonly stream: string;
  readonly seq: number;
  readonly hash: string;
  readonly recordedAt: string;
  readonly retainUntil?: string;
}

/** The entry was appended, or its id stood in the stream already: whether that is a repeat or a conflict is told by comparing. */
export type Outcome =
  | { readonly kind: 'appended'; readonly receipt: Receipt }
  | {
      readonly kind: 'seen';
      readonly seq: number;
      /** Where the id stands, unless it is the stream that the entry was for: an epoch that this one goes on for. */
      readonly stream?: EarlierEpoch;
    };

/**
 * Entries that are committed in one transaction; if `atomic`, then none when an id was seen. An open submission's entries are sealed
 * here, together with what else waits for their streams; a sealed one brings its runs, and can seal some of a run's entries anew.
 */
export type Submission = {
  readonly atomic: boolean;
  /** Its first entry opens the epoch that it is for. */
  readonly opens?: true;
} & (
  | { readonly kind: 'open'; readonly entries: readonly PendingEntry[] }
  | {
      readonly kind: 'sealed';
      readonly entries: readonly PlacelessEntry[];
      readonly runs: readonly SealedRun[];
      readonly reseal: (entries: readonly PlacelessEntry[], dropMonth: number) => Promise<SealedRun>;
    }
);

/** A stream's row, locked. Instants are milliseconds since 1970. */
export interface StreamHead {
  readonly id: number;
  readonly name: string;
  readonly size: number;
  readonly head: Uint8Array;
  readonly frontier: Uint8Array;
  readonly recordedAt: number;
  readonly retainUntil: number | undefined;
  /** By which the next entry is stamped: calendar months, undefined = for ever. */
  readonly retentionMonths: number | undefined;
  readonly retentionBefore: readonly EarlierRetention[];
}

export interface IdQuery {
  readonly streamId: number;
  readonly idHash: string;
  /** The drop months that an entry recorded within the time of recognising repeats can have. */
  readonly dropMonths: readonly number[];
}

export interface NewBlock extends StoredBlock {
  readonly stream: StreamRef;
  /** Placed. */
  readonly tags: readonly bigint[];
  readonly idHashes: readonly string[];
}

export interface NewTile {
  readonly stream: StreamRef;
  readonly level: number;
  readonly index: number;
  readonly hashes: Uint8Array;
  readonly root: Uint8Array;
}

export interface NewHead extends Omit<StreamHead, 'name' | 'retentionMonths' | 'retentionBefore'> {
  readonly sizeBefore: number;
}

/** An open transaction of the sequencer: the locked rows, and what was read under the locks. */
export interface AppendTransaction {
  /** The streams that were asked for, locked, in ascending order of id. */
  readonly heads: readonly StreamHead[];
  /** Of these, the ids of epochs that were closed. */
  readonly closed: readonly number[];
  /** Of these, the ids of later epochs that have no opening entry yet. */
  readonly unopened: readonly number[];
  /** Why the signer wants nothing appended to this database, if so. */
  readonly refusal: string | undefined;
  /** The database's clock, read under the locks, milliseconds since 1970. */
  readonly now: number;
  /** For each query the newest seq with that id, or undefined. */
  readonly seqs: readonly (number | undefined)[];
  /** Looks for ids again. */
  seen(queries: readonly IdQuery[]): Promise<readonly (number | undefined)[]>;
  /** The newest blocks from the one that holds `seq` on, in order. */
  blocksFrom(streamId: number, seq: number): Promise<StoredBlock[]>;
  /** The roots of full tiles [from, to) of a level, in order. */
  tileRoots(streamId: number, level: number, from: number, to: number): Promise<Uint8Array[]>;
  /** The first leaf hashes of an unfinished tile whose entries were pruned, one after the other. */
  tileEdge(streamId: number, index: number): Promise<Uint8Array>;
}

export interface NewRows {
  readonly blocks: readonly NewBlock[];
  readonly tiles: readonly NewTile[];
  readonly heads: readonly NewHead[];
}

export interface AppendStore {
  /**
   * Locks the streams' rows, looks for the ids, lets `work` decide what to write, writes it and commits; without rows nothing is committed.
   * `onWritten` is called when everything is on its way. Throws a Problem: `outcome_unknown` when the reply to COMMIT was lost, else 503
   * with nothing stored; what `work` throws comes back as it is.
   */
  transact<T>(
    streamIds: readonly number[],
    queries: readonly IdQuery[],
    work: (transaction: AppendTransaction) => Promise<{ readonly result: T; readonly rows: NewRows | undefined }>,
    onWritten: () => void,
  ): Promise<T>;
}

export interface SequencerOptions {
  readonly store: AppendStore;
  readonly seal: Seal;
  readonly clock: ClockGuard;
  readonly wallClock: () => number;
  /** How long a repeated id finds its first receipt. */
  readonly repeatDays: number;
  /** Entries and bytes of one tenant that may wait when no other's do; more is refused with `busy`. Room for others is beside it. */
  readonly queueEntriesMax: number;
  readonly queueBytesMax: number;
  /** Called when entries were committed, with the tenants whose they are. */
  readonly onAppended?: (tenantIds: ReadonlySet<number>) => void;
  /** Called with streams of which something else is remembered than stands in their rows: their epoch was closed, or their policy changed. */
  readonly onOutdated?: (streamIds: readonly number[]) => void;
  /** Recovery alone appends to a database that the signer has not accepted. */
  readonly isRecovery?: boolean;
  readonly log: {
    debug(facts: object, message: string): void;
    warn(facts: object, message: string): void;
    error(facts: object, message: string): void;
  };
}

/** A group is closed at this size: about 50 ms of work, so that nobody waits long behind a flood. */
const GROUP_ENTRIES_MAX = 4096;
const GROUP_BYTES_MAX = 8 * 1024 * 1024;
/** So few are not shared out among two groups: each pays for its statements and its blocks. */
const GROUP_ENTRIES_UNCUT = 16;
/** Entries that a tenant gives in a turn while others wait, so that a group has turns for 64 of them; an entry counts for as many as its bytes fill of a group. */
const TURN_ENTRIES = 64;
const ENTRY_BYTES = GROUP_BYTES_MAX / GROUP_ENTRIES_MAX;
/** Streams whose unfinished tile is remembered (8 KiB each at most); others read it from their newest blocks once a tile. */
const EDGES_MAX = 2000;
const OBJECTION_AGE_MS = 10_000;
/** How long locks are held behind another group's COMMIT: many times as long as one takes, and less than the database lets a transaction wait. */
const BEHIND_MAX_MS = 500;
const DAY_MS = 86_400_000;

interface Waiting {
  readonly tenantId: number;
  readonly submission: Submission;
  readonly bytes: number;
  readonly resolve: (outcomes: readonly (Outcome | undefined)[]) => void;
  readonly reject: (error: unknown) => void;
}

interface Held {
  entries: number;
  bytes: number;
}

/** The leaf hashes of the level-0 tile that is not full yet. They are those of a stream exactly when size and head are its. */
interface Edge {
  readonly size: number;
  readonly head: string;
  readonly leaves: readonly Uint8Array[];
}

type GroupResult =
  | {
      readonly kind: 'done';
      readonly outcomes: ReadonlyMap<Waiting, readonly (Outcome | undefined)[]>;
      readonly heads: readonly NewHead[];
    }
  | { readonly kind: 'month_turned'; readonly now: number; readonly heads: ReadonlyMap<number, StreamHead> };

interface EntryQuery extends IdQuery {
  readonly entry: PlacelessEntry;
  readonly earlier?: EarlierEpoch;
}

/** Where an id was seen; without a stream it is the entry's own. */
interface Seen {
  readonly seq: number;
  readonly stream?: EarlierEpoch;
}

type Verdict = Outcome | { readonly kind: 'twin'; readonly of: PlacelessEntry } | undefined;

/** Nothing was stored, and that is the affair of some streams: what else is in their group is tried without them. */
class StreamProblem extends Problem {
  readonly streamIds: ReadonlySet<number>;

  constructor(streamIds: readonly number[], detail: string) {
    super('not_ready', { detail });
    this.streamIds = new Set(streamIds);
  }
}

export class Sequencer {
  readonly #options: SequencerOptions;
  readonly #queue = new FairQueue<Waiting>(TURN_ENTRIES);
  /** What waits and what is being stored, in all and by tenant. */
  readonly #queued: Held = { entries: 0, bytes: 0 };
  readonly #queuedOf = new Map<number, Held>();
  /** Entries that wait. */
  #waiting = 0;
  #running: Promise<void> | undefined;
  #awaited: PromiseWithResolvers<void> | undefined;
  #closed = false;
  readonly #edges = new Map<number, Edge>();
  /** What this process knows a stream to hold: a database that shows less was put back to an older state. */
  readonly #known = new Map<number, { size: number; head: string }>();
  #objection: { readonly detail: string; readonly at: number } | undefined;

  constructor(options: SequencerOptions) {
    this.#options = options;
  }

  /** Why the last group was refused, if that was just now. It is forgotten after a while, since nobody sends to a service that is not ready. */
  get objection(): string | undefined {
    const last = this.#objection;
    return last === undefined || performance.now() - last.at > OBJECTION_AGE_MS ? undefined : last.detail;
  }

  get queued(): { entries: number; bytes: number } {
    return { ...this.#queued };
  }

  /**
   * Appends the entries in one transaction and returns an outcome for each, in order. When a submission is atomic and an id of it was
   * seen before, nothing is appended and the outcomes of the others are missing (undefined). All entries are of one tenant's streams. Throws
   * a Problem: `busy` when too much waits, `not_ready`, or `outcome_unknown`.
   */
  async append(submission: Submission): Promise<readonly (Outcome | undefined)[]> {
    const { entries } = submission;
    if (entries.length === 0) return [];
    const bytes = entries.reduce((sum, entry) => sum + entry.bytes, 0);
    if (this.#closed) throw new Problem('not_ready', { detail: 'the service is stopping' });
    const { tenantId } = entries[0]!.stream;
    if (!this.#hasRoom(tenantId, entries.length, bytes)) throw new Problem('busy');
    return new Promise((resolve, reject) => {
      const waiting = { tenantId, submission, bytes, resolve, reject };
      this.#queue.push(tenantId, waiting, Math.max(entries.length, bytes / ENTRY_BYTES));
      this.#waiting += entries.length;
      this.#hold(waiting, 1);
      if (this.#waiting >= this.#half) {
        this.#awaited?.resolve();
        this.#awaited = undefined;
      }
      this.#running ??= this.#start();
    });
  }

  async #start(): Promise<void> {
    await this.#run();
    // What came after the last look at the queue.
    this.#running = this.#queue.length > 0 ? this.#start() : undefined;
  }

  /** Takes nothing more; what waits is still committed. */
  async close(): Promise<void> {
    this.#closed = true;
    while (this.#running !== undefined) await this.#running;
  }

  /**
   * Takes groups while there are any: one gathers while another's statements run, and is sealed while its COMMIT is flushed. Two take turns, of
   * about the same size, so that there is work here while one is in the database: whatever came first would else go alone, the many behind it
   * would be the next, and so on, and neither would have anything beside it.
   */
  async #run(): Promise<void> {
    let ahead: Promise<void> = Promise.resolve();
    // Let what arrives in this turn of the event loop join the group.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const written = Promise.withResolvers<void>();
      ahead = this.#commitGroup(this.#takeGroup(), ahead, written.resolve);
      await written.promise;
      await Promise.race([ahead, this.#gathered()]);
    }
    await ahead;
  }

  /** Resolves when half of all that is under way waits. */
  async #gathered(): Promise<void> {
    if (this.#waiting > 0 && this.#waiting >= this.#half) return;
    this.#awaited ??= Promise.withResolvers<void>();
    await this.#awaited.promise;
  }

  /**
   * Says whether so much more of a tenant may wait. Alone it can fill the queue; beside others its share is smaller, and something is always
   * free for whoever comes next (fair-share.ts). Who has nothing here yet may bring more than his share, up to twice the queue in all, or else
   * a large submission would never pass beside a flood; whatever he sends next is held to his share again.
   */
  #hasRoom(tenantId: number, entries: number, bytes: number): boolean {
    // A submission larger than the queue passes when nothing else waits, else it never would.
    if (this.#queue.length === 0) return true;
    const { queueEntriesMax, queueBytesMax } = this.#options;
    const own = this.#queuedOf.get(tenantId);
    const fits = (held: number, all: number, more: number, max: number): boolean =>
      own === undefined ? all + more <= 2 * max : isWithinShare(held, all, more, max / SHARE_ALONE);
    return (
      fits(own?.entries ?? 0, this.#queued.entries, entries, queueEntriesMax) &&
      fits(own?.bytes ?? 0, this.#queued.bytes, bytes, queueBytesMax)
    );
  }

  /** Counts what waits; with −1 what does not any more. */
  #hold({ tenantId, submission, bytes }: Waiting, times: 1 | -1): void {
    const own = this.#queuedOf.get(tenantId) ?? { entries: 0, bytes: 0 };
    for (const held of [this.#queued, own]) {
      held.entries += times * submission.entries.length;
      held.bytes += times * bytes;
    }
    if (own.entries === 0) this.#queuedOf.delete(tenantId);
    else this.#queuedOf.set(tenantId, own);
  }

  /** Half of what waits and what is being stored. */
  get #half(): number {
    return Math.ceil(this.#queued.entries / 2);
  }

  #takeGroup(): Waiting[] {
    const group: Waiting[] = [];
    const entriesMax = Math.min(Math.max(this.#half, GROUP_ENTRIES_UNCUT), GROUP_ENTRIES_MAX);
    let entries = 0;
    let bytes = 0;
    for (let first = this.#queue.peek(); first !== undefined; first = this.#queue.peek()) {
      entries += first.submission.entries.length;
      bytes += first.bytes;
      if (group.length > 0 && (entries > entriesMax || bytes > GROUP_BYTES_MAX)) break;
      group.push(first);
      this.#waiting -= first.submission.entries.length;
      this.#queue.shift();
    }
    return group;
  }

  /** `ahead` resolves when the group before this one has ended. */
  async #commitGroup(group: readonly Waiting[], ahead: Promise<void>, onWritten: () => void): Promise<void> {
    const { log, wallClock } = this.#options;
    const started = performance.now();
    try {
      let guess = wallClock();
      const entries = group.reduce((sum, waiting) => sum + waiting.submission.entries.length, 0);
      let runs = await this.#sealGroup(group, guess);
      for (let attempt = 1; ; attempt++) {
        const result = await this.#transactBehind(ahead, group, runs, onWritten);
        if (result.kind === 'done') {
          for (const head of result.heads) this.#known.set(head.id, { size: head.size, head: toHex(head.head) });
          for (const [waiting, outcomes] of result.outcomes) this.#settle(waiting, () => waiting.resolve(outcomes));
          if (result.heads.length > 0) this.#options.onAppended?.(new Set(group.map(({ tenantId }) => tenantId)));
          log.debug(
            { entries, streams: result.heads.length, ms: Math.round(performance.now() - started) },
            'appended group',
          );
          break;
        }
        // The month turned between sealing and stamping, or the policy changed: seal for the month that the stream's row leads to.
        assert(attempt < 3, 'the drop month keeps changing');
        guess = result.now;
        runs = await this.#sealGroup(group, guess, result.heads);
      }
      this.#objection = undefined;
    } catch (error) {
      await ahead;
      await this.#refuse(group, error);
    } finally {
      onWritten();
    }
  }

  /**
   * Tells a group that it was not appended. What is wrong with one stream (its key, its state) is not the others' affair: a group that
   * failed for that is tried again one by one. Where the database or the clock is in the way, all share it.
   */
  async #refuse(group: readonly Waiting[], error: unknown): Promise<void> {
    const again = (part: readonly Waiting[]) => this.#commitGroup(part, Promise.resolve(), () => {});
    if (error instanceof StreamProblem) {
      // A flood to them must not make the others' group many: these stay one. What opens an epoch is appended alone.
      const isMeant = ({ submission }: Waiting) =>
        submission.entries.some(({ stream }) => error.streamIds.has(stream.id));
      const others = group.filter((waiting) => !isMeant(waiting));
      const opening = group.filter((waiting) => isMeant(waiting) && waiting.submission.opens && group.length > 1);
      this.#tell(
        group.filter((waiting) => isMeant(waiting) && !opening.includes(waiting)),
        error,
      );
      for (const waiting of opening) await again([waiting]);
      if (others.length > 0) await again(others);
      return;
    }
    if (!(error instanceof Problem) && group.length > 1) {
      for (const waiting of group) await again([waiting]);
      return;
    }
    const refusal =
      error instanceof Problem ? error : new Problem('not_ready', { detail: reasonOf(error), cause: error });
    const at = performance.now();
    if (refusal.code !== 'busy') this.#objection = { detail: refusal.detail ?? refusal.title, at };
    // Behind a commit that hangs everybody finds the stream locked: that is the same objection.
    else if (this.objection !== undefined) this.#objection = { ...this.#objection!, at };
    this.#tell(group, refusal);
  }

  #tell(group: readonly Waiting[], refusal: Problem): void {
    const { log } = this.#options;
    const entries = group.reduce((sum, waiting) => sum + waiting.submission.entries.length, 0);
    const isUsual = refusal.code === 'busy' || refusal instanceof StreamProblem;
    log[isUsual ? 'warn' : 'error']({ err: refusal, entries }, 'group not appended');
    for (const waiting of group) this.#settle(waiting, () => waiting.reject(refusal));
  }

  #settle(waiting: Waiting, answer: () => void): void {
    this.#hold(waiting, -1);
    answer();
  }

  /** Returns the group's runs, sealed for the drop month of an entry that is stamped now. */
  async #sealGroup(
    group: readonly Waiting[],
    now: number,
    heads: ReadonlyMap<number, StreamHead> = new Map(),
  ): Promise<SealedRun[]> {
    const dropMonth = (stream: StreamRef) => dropMonthOf(stampsOf(stream, now, heads.get(stream.id)).retainUntil);
    const open = group.flatMap(({ submission }) => (submission.kind === 'open' ? submission.entries : []));
    const runs = await sealRuns(open, dropMonth, this.#options.seal);
    for (const { submission } of group) {
      if (submission.kind === 'open') continue;
      for (const run of submission.runs) {
        runs.push(
          run.dropMonth === dropMonth(run.stream) ? run : await submission.reseal(run.entries, dropMonth(run.stream)),
        );
      }
    }
    return runs;
  }

  /**
   * Begins while the COMMIT of the group ahead is on its way, so that the way to the database lies behind us when that has ended. What both
   * change is locked until then; and what was written is not tried again, for which that group would want its locks once more. A COMMIT that
   * takes long keeps nobody else from our streams: we give their locks back, and begin again behind it. Until it has ended nothing of ours is written.
   */
  async #transactBehind(
    ahead: Promise<void>,
    group: readonly Waiting[],
    runs: readonly SealedRun[],
    onWritten: () => void,
  ): Promise<GroupResult> {
    let isAhead = true;
    let gaveBack = false;
    const ended = ahead.then(() => {
      isAhead = false;
    });
    const wait = async (): Promise<void> => {
      if (isAhead) await Promise.race([ended, sleep(BEHIND_MAX_MS, undefined, { ref: false })]);
      gaveBack = isAhead;
      if (gaveBack) throw new Problem('busy');
    };
    try {
      return await this.#transact(wait, group, runs, onWritten);
    } catch (error) {
      // That one may have ended while we gave the locks back.
      if (!isAhead && !gaveBack) throw error;
      await ended;
      return this.#transact(wait, group, runs, onWritten);
    }
  }

  /** `wait` resolves when what is written ahead has ended. */
  async #transact(
    wait: () => Promise<void>,
    group: readonly Waiting[],
    runs: readonly SealedRun[],
    onWritten: () => void,
  ): Promise<GroupResult> {
    const streamIds = [...new Set(runs.map((run) => run.stream.id))].sort((a, b) => a - b);
    const asking = group.flatMap((waiting) => waiting.submission.entries.filter((entry) => entry.mayRepeat));
    const queries = this.#idQueries(asking, undefined);
    return this.#options.store.transact(
      streamIds,
      queries,
      async (transaction) => {
        await wait();
        const heads = new Map(transaction.heads.map((head) => [head.id, head]));
        this.#checkPlaces(runs, heads);
        // What the rows say of the policy, and of the newest entries, may lead to other months than was thought.
        const all = this.#idQueries(asking, heads);
        const enough = all.every((query, i) => isSameList(query.dropMonths, queries[i]!.dropMonths));
        const seqs = enough ? transaction.seqs : await transaction.seen(all);
        return this.#appendGroup(transaction, heads, group, runs, seenAt(all, seqs));
      },
      onWritten,
    );
  }

  /** What to ask for each entry: in its own stream, and then in the epochs that this one goes on for. */
  #idQueries(asking: readonly PlacelessEntry[], heads: ReadonlyMap<number, StreamHead> | undefined): EntryQuery[] {
    const { repeatDays, wallClock } = this.#options;
    const now = wallClock();
    const months = new Map<number, number[]>();
    const remembered = (streamId: number, work: () => number[]): number[] => {
      const known = months.get(streamId) ?? work();
      months.set(streamId, known);
      return known;
    };
    const own = asking.map((entry): EntryQuery => {
      const { stream, idHash } = entry;
      const dropMonths = remembered(stream.id, () => {
        const head = heads?.get(stream.id);
        return repeatMonths(head ?? stream, now, now, head?.retainUntil, repeatDays);
      });
      return { entry, streamId: stream.id, idHash, dropMonths };
    });
    const before = asking.flatMap((entry) =>
      (entry.stream.earlier ?? []).map((earlier): EntryQuery => {
        const { id, recordedAt, retainUntil } = earlier;
        const dropMonths = remembered(id, () => repeatMonths(earlier, now, recordedAt, retainUntil, repeatDays));
        return { entry, streamId: id, idHash: entry.idHash, dropMonths, earlier };
      }),
    );
    return [...own, ...before.filter(({ dropMonths }) => dropMonths.length > 0)];
  }

  async #appendGroup(
    transaction: AppendTransaction,
    heads: ReadonlyMap<number, StreamHead>,
    group: readonly Waiting[],
    runs: readonly SealedRun[],
    seen: ReadonlyMap<PlacelessEntry, Seen>,
  ): Promise<{ result: GroupResult; rows: NewRows | undefined }> {
    const { now, refusal, closed, unopened } = transaction;
    if (refusal !== undefined && !this.#options.isRecovery) throw new Problem('not_ready', { detail: refusal });
    if (closed.length > 0) {
      this.#options.onOutdated?.(closed);
      throw new StreamProblem(closed, 'the epoch of a stream was closed: the next attempt goes to the new one');
    }
    // An epoch that goes on for another begins with the entry that says so (docs/format.md section 23).
    if (unopened.length > 0 && !this.#options.isRecovery && !(group.length === 1 && group[0]!.submission.opens))
      throw new StreamProblem(unopened, 'a new epoch of a stream is being opened');
    const outdated = runs.filter(({ stream }) => stream.retentionMonths !== heads.get(stream.id)!.retentionMonths);
    if (outdated.length > 0) this.#options.onOutdated?.([...new Set(outdated.map(({ stream }) => stream.id))]);
    for (const head of heads.values()) this.#checkKnown(head);
    const newest = Math.max(...[...heads.values()].map((head) => head.recordedAt));
    const objection = this.#options.clock.objection(now, newest);
    if (objection !== undefined) throw new Problem('not_ready', { detail: objection, retryAfter: 60 });

    for (const run of runs) {
      if (dropMonthOf(stampsOf(run.stream, now, heads.get(run.stream.id)).retainUntil) !== run.dropMonth)
        return { result: { kind: 'month_turned', now, heads }, rows: undefined };
    }

    const { verdicts, dropped } = sortOut(group, seen);
    const plan = { blocks: [] as NewBlock[], tiles: [] as NewTile[], heads: [] as NewHead[] };
    const receipts = new Map<PlacelessEntry, Receipt>();
    for (const [streamId, own] of Map.groupBy(runs, (run) => run.stream.id)) {
      const kept = dropped.size === 0 ? own : await this.#withoutDropped(group, own, dropped);
      if (kept.length > 0) await this.#grow(transaction, heads.get(streamId)!, kept, now, plan, receipts);
    }

    const outcomes = new Map<Waiting, (Outcome | undefined)[]>();
    for (const waiting of group) {
      outcomes.set(
        waiting,
        waiting.submission.entries.map((entry) => {
          const verdict = verdicts.get(entry);
          if (verdict?.kind === 'twin') return { kind: 'seen', seq: receipts.get(verdict.of)!.seq };
          if (verdict !== undefined) return verdict;
          const receipt = receipts.get(entry);
          return receipt === undefined ? undefined : { kind: 'appended', receipt };
        }),
      );
    }
    return { result: { kind: 'done', outcomes, heads: plan.heads }, rows: plan.blocks.length > 0 ? plan : undefined };
  }

  /**
   * Finds streams that are not where this process made or found them: what a primary had told nobody else went with it, and another stream may have
   * its number now.
   */
  #checkPlaces(runs: readonly SealedRun[], heads: ReadonlyMap<number, StreamHead>): void {
    const moved = new Set(
      runs
        .map(({ stream }) => stream)
        .filter(({ id, name }) => heads.get(id)?.name !== name)
        .map(({ id }) => id),
    );
    if (moved.size === 0) return;
    if ([...moved].some((id) => this.#known.has(id)))
      throw new EvidenceError(
        'a stream is gone in which something was committed: the database was restored or rewritten',
      );
    this.#options.onOutdated?.([...moved]);
    throw new StreamProblem([...moved], 'a stream is not in this database: the next attempt finds or makes it');
  }

  /** Refuses a stream that shows less than this process saw committed, and a head that contradicts itself. */
  #checkKnown(head: StreamHead): void {
    const known = this.#known.get(head.id);
    if (
      known !== undefined &&
      (head.size < known.size || (head.size === known.size && toHex(head.head) !== known.head))
    ) {
      throw new EvidenceError('a stream went back behind what was committed: the database was restored or rewritten');
    }
    // Throws when frontier and size contradict each other.
    decodeFrontier(head.size, head.frontier);
  }

  /** Seals runs anew without the entries that are dropped. Rare: only a repeat or a conflict drops one. */
  async #withoutDropped(
    group: readonly Waiting[],
    runs: readonly SealedRun[],
    dropped: ReadonlySet<PlacelessEntry>,
  ): Promise<SealedRun[]> {
    const kept: SealedRun[] = [];
    for (const run of runs) {
      const entries = run.entries.filter((entry) => !dropped.has(entry));
      if (entries.length === run.entries.length) kept.push(run);
      else if (entries.length > 0) kept.push(...(await this.#reseal(group, run, entries)));
    }
    return kept;
  }

  async #reseal(group: readonly Waiting[], run: SealedRun, entries: readonly PlacelessEntry[]): Promise<SealedRun[]> {
    const owner = group.find(
      ({ submission }) => submission.kind === 'sealed' && submission.entries.includes(entries[0]!),
    )?.submission;
    if (owner?.kind === 'sealed') return [await owner.reseal(entries, run.dropMonth)];
    return sealRuns(entries as readonly PendingEntry[], () => run.dropMonth, this.#options.seal);
  }

  /** Numbers and links one stream's entries and grows its tree; adds what is to be written to the plan. */
  async #grow(
    transaction: AppendTransaction,
    head: StreamHead,
    runs: readonly SealedRun[],
    now: number,
    plan: { blocks: NewBlock[]; tiles: NewTile[]; heads: NewHead[] },
    receipts: Map<PlacelessEntry, Receipt>,
  ): Promise<void> {
    const { stream } = runs[0]!;
    const { recordedAt, retainUntil } = stampsOf(stream, now, head);
    const stamps = {
      recordedAt: formatInstant(recordedAt),
      ...(retainUntil === undefined ? {} : { retainUntil: formatInstant(retainUntil) }),
    };
    let seq = head.size;
    let previous = toHex(head.head);
    const leaves: Uint8Array[] = [];
    for (const run of runs) {
      const firstSeq = seq;
      const frames = run.entries.map((entry) => entry.frame);
      const placed = placeRecords(frames, { seq, previous, ...stamps });
      for (const [i, entry] of run.entries.entries()) {
        previous = placed.hashes[i]!;
        receipts.set(entry, { id: entry.id, stream: stream.name, seq, hash: previous, ...stamps });
        leaves.push(placed.leaves[i]!);
        seq += 1;
      }
      plan.blocks.push({
        stream,
        dropMonth: run.dropMonth,
        firstSeq,
        entries: run.entries.length,
        recordedFrom: recordedAt,
        recordedTo: recordedAt,
        ...run.spans,
        keyId: run.keyId,
        records: packPayload(placed.bundle),
        parts: run.parts,
        tags: [...placedTags(run.tags, stream.id, firstSeq)],
        idHashes: run.entries.map((entry) => entry.idHash),
      });
    }
    const frontier = appendLeaves(head.size, decodeFrontier(head.size, head.frontier), leaves);
    plan.tiles.push(...(await this.#fullTiles(transaction, stream, head, leaves, previous)));
    plan.heads.push({
      id: stream.id,
      sizeBefore: head.size,
      size: seq,
      head: fromHex(previous),
      frontier: encodeFrontier(frontier),
      recordedAt,
      retainUntil,
    });
  }

  /** Returns the tiles that become full when the tree grows by these leaves; `newHead` is the hash of the last. */
  async #fullTiles(
    transaction: AppendTransaction,
    stream: StreamRef,
    head: StreamHead,
    leaves: readonly Uint8Array[],
    newHead: string,
  ): Promise<NewTile[]> {
    const size = head.size + leaves.length;
    const full = fullTilesBetween(head.size, size);
    const start = head.size - (head.size % TILE_WIDTH);
    const remembered = this.#edges.get(stream.id);
    let edge: readonly Uint8Array[] | undefined;
    if (start === head.size) edge = [];
    else if (remembered?.size === head.size && remembered.head === toHex(head.head)) edge = remembered.leaves;
    else if (full.length > 0) edge = await edgeLeaves(transaction, stream.id, head, start);

    // Without a known edge, and no tile to fill, there is nothing to do and nothing to remember.
    if (edge === undefined) return [];
    const hashes = [...edge, ...leaves];
    const tiles: NewTile[] = [];
    for (const { level, index } of full) {
      const first = index * TILE_WIDTH;
      let inside: readonly Uint8Array[];
      if (level === 0) {
        inside = hashes.slice(first - start, first - start + TILE_WIDTH);
      } else {
        const made = tiles.filter(
          (tile) => tile.level === level - 1 && tile.index >= first && tile.index < first + TILE_WIDTH,
        );
        const stored = await transaction.tileRoots(stream.id, level - 1, first, first + TILE_WIDTH - made.length);
        inside = [...stored, ...made.map((tile) => tile.root)];
      }
      assert.equal(inside.length, TILE_WIDTH, 'a full tile has 256 hashes');
      const bytes = concatBytes(...inside);
      tiles.push({ stream, level, index, hashes: bytes, root: tileRoot(bytes) });
    }
    // If the transaction fails, no stream will have this size and head, and the memory is never used.
    this.#remember(stream.id, { size, head: newHead, leaves: hashes.slice(hashes.length - (size % TILE_WIDTH)) });
    return tiles;
  }

  #remember(streamId: number, edge: Edge): void {
    this.#edges.delete(streamId);
    this.#edges.set(streamId, edge);
    if (this.#edges.size > EDGES_MAX) {
      for (const oldest of this.#edges.keys()) {
        this.#edges.delete(oldest);
        break;
      }
    }
  }
}

/**
 * Says of each entry whether its id was seen before or stands twice in this group; what gets no verdict is appended. An atomic
 * submission of which one id was seen is dropped as a whole, before anything that follows is compared with it.
 */
function sortOut(
  group: readonly Waiting[],
  seen: ReadonlyMap<PlacelessEntry, Seen>,
): { verdicts: Map<PlacelessEntry, Exclude<Verdict, undefined>>; dropped: Set<PlacelessEntry> } {
  const verdicts = new Map<PlacelessEntry, Exclude<Verdict, undefined>>();
  const dropped = new Set<PlacelessEntry>();
  const firsts = new Map<string, PlacelessEntry>();
  for (const { submission } of group) {
    const own = new Map<string, PlacelessEntry>();
    let repeats = false;
    for (const entry of submission.entries) {
      if (!entry.mayRepeat) continue;
      const key = `${entry.stream.id} ${entry.idHash}`;
      const found = seen.get(entry);
      const twin = firsts.get(key) ?? own.get(key);
      if (found !== undefined) verdicts.set(entry, { kind: 'seen', ...found });
      else if (twin !== undefined) verdicts.set(entry, { kind: 'twin', of: twin });
      else own.set(key, entry);
      if (verdicts.has(entry)) {
        dropped.add(entry);
        repeats = true;
      }
    }
    if (submission.atomic && repeats) {
      for (const entry of submission.entries) {
        dropped.add(entry);
        const verdict = verdicts.get(entry);
        assert(
          verdict?.kind !== 'twin' || firsts.has(`${entry.stream.id} ${entry.idHash}`),
          'an atomic submission repeats no id itself',
        );
      }
    } else {
      for (const [key, entry] of own) firsts.set(key, entry);
    }
  }
  return { verdicts, dropped };
}

/** The leaf hashes from the start of the unfinished tile on, read from the newest blocks. */
async function edgeLeaves(
  transaction: AppendTransaction,
  streamId: number,
  head: StreamHead,
  start: number,
): Promise<Uint8Array[]> {
  const blocks = await transaction.blocksFrom(streamId, start);
  const leaves: Uint8Array[] = [];
  let next: number | undefined;
  if ((blocks[0]?.firstSeq ?? head.size) > start) {
    // What has expired is gone; its hashes were kept.
    leaves.push(...leavesIn(await transaction.tileEdge(streamId, start / TILE_WIDTH)));
    next = start + leaves.length;
  }
  for (const block of blocks) {
    const records = decodeRecords(unpackPayload(block.records));
    // Blocks that are held lie behind the kept hashes' end, or before it.
    if (next !== undefined && block.firstSeq + block.entries <= next) continue;
    if ((next !== undefined && block.firstSeq !== next) || records.length !== block.entries) break;
    next = block.firstSeq + records.length;
    leaves.push(...records.slice(Math.max(0, start - block.firstSeq)).map(leafHash));
  }
  if (next !== head.size || leaves.length !== head.size - start || toHex(leaves.at(-1)!) !== toHex(head.head)) {
    throw new EvidenceError('the newest blocks of a stream do not lead to its head: verify the log');
  }
  return leaves;
}

function leavesIn(hashes: Uint8Array): Uint8Array[] {
  return Array.from({ length: hashes.length / HASH_SIZE }, (_, i) =>
    hashes.subarray(i * HASH_SIZE, (i + 1) * HASH_SIZE),
  );
}

/** Of each entry the first place that was found: those in its own stream come first. */
function seenAt(
  queries: readonly EntryQuery[],
  seqs: readonly (number | undefined)[],
): ReadonlyMap<PlacelessEntry, Seen> {
  const seen = new Map<PlacelessEntry, Seen>();
  for (const [i, { entry, earlier }] of queries.entries()) {
    const seq = seqs[i];
    if (seq !== undefined && !seen.has(entry))
      seen.set(entry, earlier === undefined ? { seq } : { seq, stream: earlier });
  }
  return seen;
}

/** recordedAt never decreases and retainUntil is never lower than its predecessor's, so that what expires is always a prefix. */
function stampsOf(
  stream: StreamRef,
  now: number,
  head: StreamHead | undefined,
): { recordedAt: number; retainUntil: number | undefined } {
  const recordedAt = Math.max(now, head?.recordedAt ?? 0);
  const { retentionMonths } = head ?? stream;
  // What is kept for ever is followed by nothing that is kept for less.
  const forEver = head !== undefined && head.size > 0 && head.retainUntil === undefined;
  if (retentionMonths === undefined || forEver) return { recordedAt, retainUntil: undefined };
  return { recordedAt, retainUntil: Math.max(addMonths(recordedAt, retentionMonths), head?.retainUntil ?? 0) };
}

/**
 * The drop months in which an entry of a stream can be that was recorded within the time of recognising repeats, and up to `last`: those
 * that its months lead to, and for the time before these counted, those that counted then. `floor` is the retainUntil of the newest entry.
 */
function repeatMonths(
  { retentionMonths, retentionBefore = [] }: Pick<StreamRef, 'retentionMonths' | 'retentionBefore'>,
  now: number,
  last: number,
  floor: number | undefined,
  days: number,
): number[] {
  const slack = 10 * 60_000;
  let from = now - days * DAY_MS - slack;
  if (last + slack < from) return [];
  if (retentionMonths === undefined) return [dropMonthOf(undefined)];
  const found = new Set<number>();
  const add = (first: number, end: number): void => {
    for (let month = first; month <= end; month = nextMonth(month)) found.add(month);
  };
  for (const { months, until } of retentionBefore) {
    if (until + slack < from) continue;
    add(dropMonthOf(addMonths(from, months)), dropMonthOf(addMonths(until + slack, months)));
    from = until - slack;
  }
  add(
    dropMonthOf(addMonths(from, retentionMonths)),
    dropMonthOf(Math.max(addMonths(last + slack, retentionMonths), floor ?? 0)),
  );
  return [...found].sort((a, b) => a - b);
}

function isSameList(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

/** What may be told of a failure that is no Problem: our own words, never another library's. */
function reasonOf(error: unknown): string {
  // Its words name a stream, and so a tenant; and what is said here strangers read too (`/readyz`).
  if (error instanceof KeyUnavailableError) return 'a key that entries are sealed with can not be had now';
  return error instanceof EvidenceError ? error.message : 'appending failed';
}
