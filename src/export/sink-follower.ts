/**
 * One sink: takes what the log has for it, stream by stream, from where it stands.
 *
 *     read from the cursor → filter → encode → deliver → move the cursor (durable) → …
 *
 * The log is the queue: nothing is kept here but the batch that is under way, and a pause of any length is only a cursor that waits. The cursor
 * moves behind a delivery, never before one, so everything goes at least once; a crash between the two sends a batch again, with the same ids and
 * seqs. Within a stream the order is the log's.
 *
 * Three things can stop it. The peer can not be reached, or does not take the batch now: the same batch goes again after a pause that doubles, with
 * jitter, without end. The peer refuses one entry for good: that stream is parked there, visibly, and the others go on. The sink was changed or taken by
 * somebody else: this follower ends.
 */

import assert from 'node:assert/strict';
import type { Category } from '../chain/category.ts';
import { EvidenceError } from '../errors.ts';
import type { ExportedEntry } from './exported-entry.ts';
import { TooLongError } from './too-long-error.ts';
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
}

export interface FollowerOptions {
  readonly transport: Transport;
  /** Says whether the sink wants an entry, by its record. */
  readonly wants: (exported: ExportedEntry) => boolean;
  readonly streams: () => Promise<readonly StreamPosition[]>;
  /** Returns entries from a seq on, in order: as many as are at hand in one short read; none at the end. */
  readonly read: (stream: StreamPosition, fromSeq: number) => Promise<readonly ExportedEntry[]>;
  /** Each returns false where the sink is not ours any more. */
  readonly advance: (stream: StreamPosition, nextSeq: number, delivered: number) => Promise<boolean>;
  readonly park: (stream: StreamPosition, seq: number, reason: string) => Promise<boolean>;
  readonly fail: (failures: number, error: string, retryInMs: number) => Promise<boolean>;
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
const BATCHES_A_TURN = 4;
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
  #failures: number;
  readonly #ended: Promise<void>;

  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
    this.#failures = options.failures;
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
   * Gives each stream its turn. Returns whether there is more. A stream that can not be read (a key, a block, the database) does not keep the
   * others back; that is told when all had their turn.
   */
  async #turn(): Promise<boolean> {
    let more = false;
    let unreadable: unknown;
    for (const stream of await this.#options.streams()) {
      if (stream.isParked || stream.nextSeq >= stream.size) continue;
      try {
        more = (await this.#follow(stream)) || more;
      } catch (error) {
        if (error instanceof Lost || error instanceof TransportError) throw error;
        unreadable = error;
      }
    }
    if (unreadable !== undefined) throw unreadable;
    return more;
  }

  async #follow(stream: StreamPosition): Promise<boolean> {
    let { nextSeq } = stream;
    for (let batches = 0; batches < BATCHES_A_TURN; batches++) {
      const gathered = await this.#gather(stream, nextSeq);
      if (gathered.nextSeq === nextSeq && gathered.poison === undefined) return false;
      const refused = await this.#deliver(gathered.messages);
      const poison = refused ?? gathered.poison;
      if (poison !== undefined) {
        this.#options.log.warn(
          { stream: stream.name, seq: poison.seq, reason: poison.reason },
          'a sink is parked at an entry',
        );
        mustBeOurs(await this.#options.park(stream, poison.seq, poison.reason));
        return false;
      }
      nextSeq = gathered.nextSeq;
      mustBeOurs(await this.#options.advance(stream, nextSeq, gathered.messages.length));
      this.#failures = 0;
      if (nextSeq >= stream.size) return true;
    }
    return true;
  }

  /** Reads, filters and encodes as much as one delivery takes. */
  async #gather(stream: StreamPosition, fromSeq: number): Promise<Gathered> {
    const { transport, wants, read } = this.#options;
    const messages: Message[] = [];
    let bytes = 0;
    let nextSeq = fromSeq;
    for (;;) {
      const entries = await read(stream, nextSeq);
      if (entries.length === 0) return { messages, nextSeq };
      for (const exported of entries) {
        const { seq } = exported.entry.record;
        // More, where what stood between has expired.
        assert(seq >= nextSeq, 'a sink would go back');
        if (wants(exported)) {
          const encoded = encode(transport, exported);
          if ('reason' in encoded) return { messages, nextSeq, poison: { seq, reason: encoded.reason } };
          const isFull =
            messages.length >= transport.batchMessagesMax || bytes + encoded.payload.length > transport.batchBytesMax;
          if (messages.length > 0 && isFull) return { messages, nextSeq };
          messages.push({ exported, payload: encoded.payload });
          bytes += encoded.payload.length;
        }
        nextSeq = seq + 1;
      }
      if (nextSeq - fromSeq >= PASSED_OVER_MAX) return { messages, nextSeq };
    }
  }

  /** Delivers a batch, and what of it must go again, until nothing must. Returns the first entry that the peer refuses for good. */
  async #deliver(messages: readonly Message[]): Promise<Poison | undefined> {
    let poison: Poison | undefined;
    let left = messages;
    while (left.length > 0) {
      const fates = await this.#options.transport.deliver(left, this.#stop.signal);
      const again: Message[] = [];
      let why: (Fate & { readonly kind: 'again' }) | undefined;
      for (const [index, fate] of fates.entries()) {
        const message = left[index]!;
        const { seq } = message.exported.entry.record;
        if (fate.kind === 'again') {
          again.push(message);
          why ??= fate;
        } else if (fate.kind === 'refused' && (poison === undefined || seq < poison.seq)) {
          poison = { seq, reason: fate.reason };
        }
      }
      // Behind an entry that parks the stream nothing need go: it comes again when the stream goes on.
      left = poison === undefined ? again : again.filter(({ exported }) => exported.entry.record.seq < poison!.seq);
      if (left.length > 0) await this.#wait(why!.reason, why!.afterMs);
    }
    return poison;
  }

  async #retreat(error: unknown): Promise<void> {
    if (error instanceof TransportError) return this.#wait(error.message, error.retryAfterMs);
    // The log itself can not be read now: its database is away, or a key. That is not the peer's failure.
    this.#options.log.warn({ reason: words(error) }, 'a sink can not be followed now');
    await this.#wait(`the log can not be read: ${words(error)}`, undefined);
  }

  /** Tells of a failure, and pauses: twice as long each time, with jitter, or as long as the peer asked for. */
  async #wait(reason: string, askedMs: number | undefined): Promise<void> {
    const { retryMinMs, retryMaxMs, retryAfterMaxMs } = this.#timing;
    this.#failures += 1;
    const ceiling = Math.min(retryMaxMs, retryMinMs * 2 ** Math.min(this.#failures - 1, 20));
    const ms = Math.max(Math.min(askedMs ?? 0, retryAfterMaxMs), ceiling * (0.5 + Math.random() / 2));
    if (this.#failures === 1) this.#options.log.warn({ reason }, 'a sink does not take what is sent');
    const ours = await this.#options.fail(this.#failures, reason, ms).catch(() => true);
    mustBeOurs(ours);
    await this.#pause(ms, false);
    if (this.#stop.signal.aborted) throw new Lost();
  }

  /** Waits so long, or until it is woken. */
  async #pause(ms: number, isWakeable: boolean): Promise<void> {
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

interface Gathered {
  readonly messages: readonly Message[];
  /** Behind the last entry that is delivered, or passed over, with these messages. */
  readonly nextSeq: number;
  /** What stands at `nextSeq` and can not be encoded. */
  readonly poison?: Poison;
}

interface Poison {
  readonly seq: number;
  readonly reason: string;
}

function encode(
  transport: Transport,
  exported: ExportedEntry,
): { readonly payload: Uint8Array } | { readonly reason: string } {
  try {
    return { payload: transport.encode(exported) };
  } catch (error) {
    if (error instanceof TooLongError || error instanceof EvidenceError) return { reason: error.message };
    throw error;
  }
}

function mustBeOurs(isOurs: boolean): void {
  if (!isOurs) throw new Lost();
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
