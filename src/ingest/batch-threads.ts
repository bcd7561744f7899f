/**
 * The batch threads: batches are read, validated and sealed beside the main thread, which would otherwise be the one busy processor of the
 * machine. A thread that dies takes its batches with it, whose outcome is then unknown, and is started anew.
 *
 * Batches wait here and not in a thread, and tenants take turns (chain/fair-queue.ts): a thread has only so many before it that it need not
 * wait for the next. A batch that is sealed and waits for its place makes way for another.
 */
import { Worker } from 'node:worker_threads';
import type { PlacelessEntry, StreamRef } from '../chain/entry.ts';
import { FairQueue } from '../chain/fair-queue.ts';
import type { Entry } from '../chain/open-block.ts';
import type { StreamKeys } from '../chain/sealed-run.ts';
import type { Outcome, Submission } from '../chain/sequencer.ts';
import { Problem } from '../errors.ts';
import type { SeenStream } from './appender.ts';
import type { Batch, BatchAnswer, BatchLimits } from './batch.ts';
import {
  decodeEntries,
  decodeRun,
  encodeOutcomes,
  type OutcomeColumns,
  type RunColumns,
  type SealedColumns,
} from './batch-wire.ts';
import type { EvidenceRule, OpenStream, Policies } from './events.ts';
import { ThreadCalls } from './thread-calls.ts';

export interface BatchThreadsOptions {
  readonly threads: number;
  readonly limits: BatchLimits;
  readonly policies: Policies;
  readonly keysFor: (stream: StreamRef, dropMonth: number) => Promise<StreamKeys>;
  readonly append: (submission: Submission) => Promise<readonly (Outcome | undefined)[]>;
  readonly readEntries: (stream: SeenStream, seqs: readonly number[]) => Promise<ReadonlyMap<number, Entry>>;
  readonly log: { error(facts: object, message: string): void };
}

interface Thread {
  readonly worker: Worker;
  readonly calls: ThreadCalls;
  /** The batches that are not sealed yet, by number. */
  readonly working: Map<number, WaitingBatch>;
}

interface WaitingBatch {
  readonly batch: Batch;
  readonly onEvents: (events: number) => void;
  readonly resolve: (answer: Promise<BatchAnswer>) => void;
  readonly reject: (error: Problem) => void;
}

/** One is worked on, and one lies ready. */
const WORKING_MAX = 2;
/** Bytes that a tenant gives in a turn while others wait. */
const TURN_BYTES = 64 * 1024;

export class BatchThreads {
  readonly #options: BatchThreadsOptions;
  readonly #threads: Thread[] = [];
  readonly #waiting = new FairQueue<WaitingBatch>(TURN_BYTES);
  #batches = 0;
  #closed = false;

  constructor(options: BatchThreadsOptions) {
    this.#options = options;
  }

  /** Starts the threads ahead of the first batch. */
  start(): void {
    while (this.#threads.length < this.#options.threads) this.#threads.push(this.#start());
  }

  /** Answers a batch; `onEvents` is called with the number of its events as soon as that is known. */
  async answer(batch: Batch, onEvents: (events: number) => void): Promise<BatchAnswer> {
    if (this.#closed) throw stopping();
    return new Promise((resolve, reject) => {
      this.#waiting.push(batch.sender.tenant, { batch, onEvents, resolve, reject }, batch.body.length);
      this.#handOut();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) next.reject(stopping());
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }

  /** Gives waiting batches to the threads with the least to do, as far as these take some. */
  #handOut(): void {
    while (this.#waiting.length > 0) {
      const idle = this.#threads.some(({ working }) => working.size === 0);
      if (!idle && this.#threads.length < this.#options.threads) this.#threads.push(this.#start());
      const thread = this.#threads.reduce((least, other) => (other.working.size < least.working.size ? other : least));
      if (thread.working.size >= WORKING_MAX) return;
      const next = this.#waiting.shift()!;
      next.resolve(this.#answer(thread, next));
    }
  }

  async #answer(thread: Thread, waiting: WaitingBatch): Promise<BatchAnswer> {
    const number = this.#batches++;
    thread.working.set(number, waiting);
    try {
      return await thread.calls.call<BatchAnswer>('answer', { number, batch: waiting.batch });
    } finally {
      this.#makeWay(thread, number);
    }
  }

  #makeWay(thread: Thread, number: number): void {
    if (thread.working.delete(number) && !this.#closed) this.#handOut();
  }

  #start(): Thread {
    const { limits, log } = this.#options;
    const worker = new Worker(new URL('./batch-thread.ts', import.meta.url), {
      workerData: { eventBytesMax: limits.eventBytesMax, batchEventsMax: limits.batchEventsMax } satisfies BatchLimits,
    });
    const calls: ThreadCalls = new ThreadCalls(worker, {
      openStream: ({ tenant, category }: { tenant: string; category: Parameters<OpenStream>[1] }) =>
        this.#options.policies.openStream(tenant, category),
      evidenceRule: ({ tenant, category }: { tenant: string; category: Parameters<EvidenceRule>[1] }) =>
        this.#options.policies.evidenceRule(tenant, category),
      keysFor: ({ stream, dropMonth }: { stream: StreamRef; dropMonth: number }) =>
        this.#options.keysFor(stream, dropMonth),
      events: async ({ batch, events }: { batch: number; events: number }) =>
        thread.working.get(batch)?.onEvents(events),
      append: (sealed: SealedColumns) => {
        this.#makeWay(thread, sealed.batch);
        return this.#append(calls, sealed);
      },
      readEntries: ({ stream, seqs }: { stream: SeenStream; seqs: readonly number[] }) =>
        this.#options.readEntries(stream, seqs),
    });
    const thread: Thread = { worker, calls, working: new Map() };
    worker.on('error', (error) => log.error({ err: error }, 'a batch thread failed'));
    worker.on('exit', () => {
      const at = this.#threads.indexOf(thread);
      if (at !== -1) this.#threads.splice(at, 1);
      calls.fail(new Problem('outcome_unknown'));
    });
    // The process need not stay for a thread that waits.
    worker.unref();
    return thread;
  }

  async #append(calls: ThreadCalls, sealed: SealedColumns): Promise<OutcomeColumns> {
    const entries = decodeEntries(sealed.entries);
    const indexOf = new Map(entries.map((entry, index) => [entry, index]));
    const reseal = async (kept: readonly PlacelessEntry[], dropMonth: number) => {
      const asked = {
        submission: sealed.submission,
        entries: Uint32Array.from(kept, (entry) => indexOf.get(entry)!),
        dropMonth,
      };
      return decodeRun(await calls.call<RunColumns>('reseal', asked), entries);
    };
    const runs = sealed.runs.map((run) => decodeRun(run, entries));
    return encodeOutcomes(await this.#options.append({ kind: 'sealed', atomic: sealed.atomic, entries, runs, reseal }));
  }
}

function stopping(): Problem {
  return new Problem('not_ready', { detail: 'the service is stopping' });
}
