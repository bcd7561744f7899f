/**
 * One sink: takes what the log has for it, stream by stream, from where it stands.
 *
 *     read from the cursor → filter → encode → deliver → move the cursor (durable) → …
 *
 * The log is the queue: nothing is kept here but the batch that is under way and the one that is made ready meanwhile, and a pause of any length is
 * only a cursor that waits. The cursor moves behind a delivery, never before one, so everything goes at least once; a crash between the two sends a
 * batch again, with the same ids and seqs. No batch is sent before the one ahead of it is delivered, so within a stream the order is the log's.
 *
 * Nothing is made ready for a peer that may not take it: at the start, and from a failure on, there is only one small batch until one is delivered, and
 * during a pause there is none.
 *
 * Four things can stop it. The peer can not be reached, or does not take the batch now: the same batch goes again after a pause that doubles, with
 * jitter, without end. The peer refuses one entry for good, or the log does not have it as it was: that stream is parked there, visibly, and the others
 * go on. A stream can not be read now, for want of a key: it is set aside for such a pause, and the others go on. The sink was changed or taken by
 * somebody else: this follower ends.
 */

import assert from 'node:assert/strict';
import type { Category } from '../chain/category.ts';
import { EvidenceError, KeyUnavailableError } from '../errors.ts';
import type { EncodedEntry } from './encoded-entries.ts';
import type { Fate, Message, Transport } from './transport.ts';
import { TransportError } from './transport.ts';

/** A stream of the sink, as the database has it now. */
export interface StreamPosition {
  readonly id: number;
  readonly name: string;
  readonly category: Category;
  readonly size: number;
  readonly nextSeq: number;
  readonly isParked: boolean;
  /** Entries before this one have expired, and may be gone. */
  readonly pruned: number;
}

export interface FollowerOptions {
  readonly transport: Transport;
  readonly streams: () => Promise<readonly StreamPosition[]>;
  /** Gives what the sink makes of entries from a seq on, in order, some at once, as far as the stream goes; while `isAhead` says so, reads and encodes before it is asked. */
  readonly read: (
    stream: StreamPosition,
    fromSeq: number,
    isAhead: () => boolean,
  ) => AsyncIterable<readonly EncodedEntry[]>;
  /** Each returns false where the sink is not ours any more. `isWell`: what failed before is over. */
  readonly advance: (stream: StreamPosition, nextSeq: number, delivered: number, isWell: boolean) => Promise<boolean>;
  readonly park: (stream: StreamPosition, seq: number, reason: string) => Promise<boolean>;
  readonly fail: (failures: number, error: string, retryInMs: number) => Promise<boolean>;
  /** What failed is over, and there was nothing to deliver since. */
  readonly recover: () => Promise<boolean>;
  /** What a batch may hold, where that is less than what the transport takes: memory is shared with others. */
  readonly batchBytesMax?: () => number;
  readonly failures: number;
  readonly log: { warn(facts: object, message: string): void; info(facts: object, message: string): void };
  readonly timing?: Partial<FollowerTiming>;
}

export interface FollowerTiming {
  /** Without a wake, how often to look for entries. */
  readonly lookMs: number;
  /** After a first failure, and at most. */
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
  /** Of what a peer asks us to wait. */
  readonly retryAfterMaxMs: number;
}

const TIMING: FollowerTiming = { lookMs: 1000, retryMinMs: 500, retryMaxMs: 60_000, retryAfterMaxMs: 3_600_000 };
/** In one turn, so that a stream with a million entries does not keep the others of the sink waiting. */
const RUNS_A_TURN = 4;
/** What is more is delivered at once, while the next stream is read. Less takes longer to be delivered than to be made ready. */
const MIXED_BYTES_MAX = 4 * 1024 * 1024;
/** What is tried on a peer of which nothing is known, or that failed: each of many sinks that fail holds so much while it waits for an answer. */
const TRIED_BYTES_MAX = 256 * 1024;
/** Entries that are passed over by the filter before the cursor is moved all the same. */
const PASSED_OVER_MAX = 20_000;

/** The sink is not ours any more. */
class Lost extends Error {
  override readonly name = 'Lost';
}

export class SinkFollower {
  readonly #options: FollowerOptions;
  readonly #timing: FollowerTiming;
  readonly #stop = new AbortController();
  #woken = Promise.withResolvers<void>();
  /** In a row, of the peer or of the log as a whole. */
  #failures: number;
  /** It was the peer that failed: only a delivery ends that. */
  #isPeerFailing: boolean;
  /** What was sent last was delivered. */
  #isFlowing = false;
  /** A failure was told that nothing has taken back. */
  #isTroubleTold = false;
  /** Streams that could not be read: how often in a row, and when they are looked at again, by `performance.now()`. */
  readonly #setAside = new Map<number, { readonly failures: number; readonly until: number }>();
  readonly #ended: Promise<void>;

  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
    this.#failures = options.failures;
    this.#isPeerFailing = options.failures > 0;
    this.#ended = this.#run();
  }

  /** There may be something new. */
  wake(): void {
    this.#woken.resolve();
  }

  /** Resolves when the follower has ended: it was closed, or the sink is not ours any more. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  /** Ends the delivery under way; what it did not confirm goes again. */
  async close(): Promise<void> {
    this.#stop.abort();
    this.wake();
    await this.#ended;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    try {
      while (!signal.aborted) {
        this.#woken = Promise.withResolvers<void>();
        try {
          if (!(await this.#turn())) await this.#pause(this.#timing.lookMs, true);
        } catch (error) {
          if (error instanceof Lost || signal.aborted) return;
          await this.#retreat(error);
        }
      }
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
    } finally {
      this.#options.transport.close();
    }
  }

  /**
   * Gives each stream its turn: while a batch is delivered, the next is made ready, if the one before was delivered. Returns whether there is more. A stream that can not be read does not
   * keep the others back; that is told when all had their turn.
   */
  async #turn(): Promise<boolean> {
    await this.#pause(this.#options.transport.restMs ?? 0, false);
    const turn: Turn = { parked: new Set(), more: false, unreadable: undefined };
    const batches = this.#batches(turn);
    try {
      for (let next = batches.next(); ; ) {
        const { value: batch } = await next;
        if (batch === undefined) break;
        const ahead = this.#isFlowing ? batches.next() : undefined;
        ahead?.catch(() => {});
        await this.#take(batch, turn);
        next = ahead ?? batches.next();
      }
    } finally {
      await batches.return(undefined);
    }
    if (turn.unreadable !== undefined) await this.#tellUnreadable(turn.unreadable);
    else if (this.#isTroubleTold && !this.#isPeerFailing && this.#setAside.size === 0) {
      mustBeOurs(await this.#options.recover());
      this.#failures = 0;
      this.#isTroubleTold = false;
    }
    return turn.more;
  }

  /** The batches of a turn, in the order in which they are delivered: some runs of each stream. */
  async *#batches(turn: Turn): AsyncGenerator<readonly Run[], undefined> {
    const { streams, transport } = this.#options;
    // What fails goes alone: it is only one stream's then.
    const isMixed = transport.mixesStreams === true && this.#failures === 0;
    let batch: Run[] = [];
    for (const stream of await streams()) {
      if (stream.isParked || stream.nextSeq >= stream.size) continue;
      const aside = this.#setAside.get(stream.id);
      if (aside !== undefined && performance.now() < aside.until) continue;
      try {
        let runs = 0;
        for await (const run of this.#runsOf(stream, sizeOf(batch))) {
          this.#setAside.delete(stream.id);
          if (batch.length > 0 && !this.#isWithin([...batch, run])) {
            yield batch;
            batch = [];
          }
          batch.push(run);
          runs += 1;
          if (!isMixed || run.isFull || !this.#leavesRoom(batch)) {
            yield batch;
            batch = [];
          }
          const isOver = turn.parked.has(stream.id) || run.poison !== undefined;
          turn.more ||= !isOver;
          if (isOver || runs === RUNS_A_TURN) break;
        }
        this.#setAside.delete(stream.id);
      } catch (error) {
        const failures = (aside?.failures ?? 0) + 1;
        const pauseMs = this.#pauseMs(failures);
        this.#setAside.set(stream.id, { failures, until: performance.now() + pauseMs });
        turn.unreadable = { error, failures, pauseMs };
      }
    }
    if (batch.length > 0) yield batch;
  }

  /**
   * Reads: each run as much as one delivery takes, the first `beside` what waits for it already. The last may be empty, and only pass entries
   * over.
   */
  async *#runsOf(stream: StreamPosition, beside: BatchSize): AsyncGenerator<Run> {
    const { transport, read } = this.#options;
    let taken = beside;
    let run = { stream, messages: [] as Message[], bytes: 0, nextSeq: stream.nextSeq };
    let fromSeq = run.nextSeq;
    try {
      for await (const entries of read(stream, fromSeq, () => this.#isFlowing)) {
        for (const entry of entries) {
          const { seq } = entry;
          // More, where what stood between has expired.
          assert(seq >= run.nextSeq, 'a sink would go back');
          if (seq > run.nextSeq && run.nextSeq < stream.pruned) {
            const facts = { stream: stream.name, from: run.nextSeq, to: Math.min(seq, stream.pruned) };
            this.#options.log.warn(facts, 'entries expired before a sink had them');
          }
          if (entry.kind === 'poison') {
            yield { ...run, poison: { seq, reason: entry.reason } };
            return;
          }
          if (entry.kind === 'message') {
            const { payload } = entry.message;
            const { messages, bytes, nextSeq } = run;
            const isFull =
              taken.messages + messages.length >= transport.batchMessagesMax ||
              taken.bytes + bytes + payload.length > this.#batchBytesMax();
            if (messages.length > 0 && isFull) {
              yield { ...run, isFull: true };
              taken = EMPTY;
              run = { stream, messages: [], bytes: 0, nextSeq };
              fromSeq = nextSeq;
            }
            run.messages.push(entry.message);
            run.bytes += payload.length;
          }
          run.nextSeq = seq + 1;
        }
        if (run.nextSeq - fromSeq >= PASSED_OVER_MAX) {
          yield run;
          fromSeq = run.nextSeq;
          run = { stream, messages: [], bytes: 0, nextSeq: fromSeq };
        }
      }
    } catch (error) {
      // Trying again does not bring back what is gone: somebody has to look.
      if (!(error instanceof EvidenceError)) throw error;
      yield { ...run, poison: { seq: Math.max(run.nextSeq, stream.pruned), reason: error.message } };
      return;
    }
    // Behind what expired there may be nothing.
    const nextSeq = Math.max(run.nextSeq, Math.min(stream.pruned, stream.size));
    if (nextSeq > fromSeq) yield { ...run, nextSeq };
  }

  #batchBytesMax(): number {
    const { transport, batchBytesMax } = this.#options;
    const tried = this.#isFlowing ? Number.POSITIVE_INFINITY : TRIED_BYTES_MAX;
    return Math.min(transport.batchBytesMax, batchBytesMax?.() ?? Number.POSITIVE_INFINITY, tried);
  }

  /** Says whether so much is left to a batch that it had better wait for more. */
  #leavesRoom(batch: readonly Run[]): boolean {
    const { bytes, messages } = sizeOf(batch);
    const isHalfFull = 2 * bytes > this.#batchBytesMax() || 2 * messages > this.#options.transport.batchMessagesMax;
    return !isHalfFull && bytes <= MIXED_BYTES_MAX;
  }

  #isWithin(batch: readonly Run[]): boolean {
    const { bytes, messages } = sizeOf(batch);
    return bytes <= this.#batchBytesMax() && messages <= this.#options.transport.batchMessagesMax;
  }

  /** Delivers a batch and moves the cursors behind it, or parks a stream at what can not be delivered. */
  async #take(batch: readonly Run[], turn: Turn): Promise<void> {
    // It may have been made ready before a stream was parked.
    const runs = batch.filter(({ stream }) => !turn.parked.has(stream.id));
    const refused = await this.#deliver(runs.flatMap(({ messages }) => messages));
    for (const { stream, messages, nextSeq, poison } of runs) {
      const stopper = refused.get(stream.name) ?? poison;
      if (stopper === undefined) {
        // Entries that are passed over say nothing of the peer.
        if (messages.length > 0) this.#isPeerFailing = false;
        if (!this.#isPeerFailing) this.#failures = 0;
        const isWell = this.#failures === 0 && this.#setAside.size === 0;
        mustBeOurs(await this.#options.advance(stream, nextSeq, messages.length, isWell));
        if (isWell) this.#isTroubleTold = false;
        continue;
      }
      const { seq, reason } = stopper;
      this.#options.log.warn({ stream: stream.name, seq, reason }, 'a sink is parked at an entry');
      turn.parked.add(stream.id);
      mustBeOurs(await this.#options.park(stream, seq, reason));
    }
  }

  /**
   * Delivers messages, and what of them must go again, until nothing must. Returns the first entry of each stream, by its name, that the peer refuses
   * for good. Throws a TransportError where the peer took none of them.
   */
  async #deliver(messages: readonly Message[]): Promise<ReadonlyMap<string, Poison>> {
    const refused = new Map<string, Poison>();
    // Behind an entry that parks the stream nothing need go: it comes again when the stream goes on.
    const isBehind = ({ stream, seq }: Message): boolean =>
      seq >= (refused.get(stream)?.seq ?? Number.POSITIVE_INFINITY);
    let left = messages;
    while (left.length > 0) {
      const fates = await this.#options.transport.deliver(left, this.#stop.signal);
      const again: Message[] = [];
      let why: (Fate & { readonly kind: 'again' }) | undefined;
      for (const [index, fate] of fates.entries()) {
        const message = left[index]!;
        if (fate.kind === 'again') {
          again.push(message);
          why ??= fate;
        } else if (fate.kind === 'refused' && !isBehind(message)) {
          refused.set(message.stream, { seq: message.seq, reason: fate.reason });
        }
      }
      // They are read again, and not kept for as long as the peer is away.
      if (again.length === messages.length) throw new TransportError('refused', why!.reason, why!.afterMs);
      left = again.filter((message) => !isBehind(message));
      if (left.length > 0) await this.#waitForPeer(why!.reason, why!.afterMs);
    }
    if (messages.length > 0) this.#isFlowing = true;
    return refused;
  }

  async #retreat(error: unknown): Promise<void> {
    if (error instanceof TransportError) return this.#waitForPeer(error.message, error.retryAfterMs);
    // The log itself can not be read now: its database is away. That is not the peer's failure.
    this.#options.log.warn({ reason: words(error) }, 'a sink can not be followed now');
    await this.#wait('the log can not be read now', undefined);
  }

  /** The streams that could be read are not kept waiting for this. */
  async #tellUnreadable({ error, failures, pauseMs }: Unreadable): Promise<void> {
    this.#options.log.warn({ reason: words(error) }, 'a stream can not be read for a sink now');
    // What the database says is for its operator alone.
    const what = error instanceof KeyUnavailableError ? `: ${error.message}` : ' now';
    this.#isTroubleTold = true;
    mustBeOurs(await this.#options.fail(failures, `the log can not be read${what}`, pauseMs).catch(() => true));
  }

  #waitForPeer(reason: string, askedMs: number | undefined): Promise<void> {
    this.#isPeerFailing = true;
    this.#isFlowing = false;
    return this.#wait(reason, askedMs);
  }

  /** Tells of a failure, and pauses: twice as long each time, with jitter, or as long as the peer asked for. */
  async #wait(reason: string, askedMs: number | undefined): Promise<void> {
    this.#failures += 1;
    const ms = Math.max(Math.min(askedMs ?? 0, this.#timing.retryAfterMaxMs), this.#pauseMs(this.#failures));
    if (this.#failures === 1) this.#options.log.warn({ reason }, 'a sink does not take what is sent');
    this.#isTroubleTold = true;
    const ours = await this.#options.fail(this.#failures, reason, ms).catch(() => true);
    mustBeOurs(ours);
    await this.#pause(ms, false);
    if (this.#stop.signal.aborted) throw new Lost();
  }

  #pauseMs(failures: number): number {
    const { retryMinMs, retryMaxMs } = this.#timing;
    const ceiling = Math.min(retryMaxMs, retryMinMs * 2 ** Math.min(failures - 1, 20));
    return ceiling * (0.5 + Math.random() / 2);
  }

  /** Waits so long, or until it is woken. */
  async #pause(ms: number, isWakeable: boolean): Promise<void> {
    if (ms <= 0 || this.#stop.signal.aborted) return;
    const { promise: over, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    const { signal } = this.#stop;
    const stopped = (): void => resolve();
    signal.addEventListener('abort', stopped);
    await (isWakeable ? Promise.race([over, this.#woken.promise]) : over);
    signal.removeEventListener('abort', stopped);
    clearTimeout(timer);
  }
}

/** Consecutive entries of a stream, as far as they are wanted. A batch has several where the transport takes streams together. */
interface Run {
  readonly stream: StreamPosition;
  readonly messages: readonly Message[];
  readonly bytes: number;
  /** One delivery takes no more. */
  readonly isFull?: boolean;
  /** Behind the last entry that is delivered, or passed over, with these messages. */
  readonly nextSeq: number;
  /** What stands at `nextSeq` and can not be encoded. */
  readonly poison?: Poison;
}

/** What the making ready and the delivering of a turn tell each other. */
interface Turn {
  /** Streams that were parked in it. */
  readonly parked: Set<number>;
  /** Whether there is more in the log than had its turn. */
  more: boolean;
  /** A stream that could not be read, the last of them. */
  unreadable: Unreadable | undefined;
}

interface Unreadable {
  readonly error: unknown;
  readonly failures: number;
  readonly pauseMs: number;
}

interface BatchSize {
  readonly bytes: number;
  readonly messages: number;
}

const EMPTY: BatchSize = { bytes: 0, messages: 0 };

function sizeOf(batch: readonly Run[]): BatchSize {
  return {
    bytes: batch.reduce((sum, { bytes }) => sum + bytes, 0),
    messages: batch.reduce((sum, { messages }) => sum + messages.length, 0),
  };
}

interface Poison {
  readonly seq: number;
  readonly reason: string;
}

function mustBeOurs(isOurs: boolean): void {
  if (!isOurs) throw new Lost();
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
