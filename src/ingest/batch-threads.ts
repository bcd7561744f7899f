/**
 * The batch threads: batches are read, validated and sealed beside the main thread, which would otherwise be the one busy processor of the
 * machine (80 of 115 µs an event). A batch goes to the thread with the least to do. A thread that dies takes its batches with it, whose
 * outcome is then unknown, and is started anew.
 */
import { Worker } from 'node:worker_threads';
import type { PlacelessEntry, StreamRef } from '../chain/entry.ts';
import type { Entry } from '../chain/open-block.ts';
import type { StreamKeys } from '../chain/sealed-run.ts';
import type { Outcome, Submission } from '../chain/sequencer.ts';
import { Problem } from '../errors.ts';
import type { Batch, BatchAnswer, BatchLimits } from './batch.ts';
import { decodeEntries, decodeRun, type RunColumns, type SealedColumns } from './batch-wire.ts';
import type { OpenStream } from './events.ts';
import { ThreadCalls } from './thread-calls.ts';

export interface BatchThreadsOptions {
  readonly threads: number;
  readonly limits: BatchLimits;
  readonly openStream: OpenStream;
  readonly keysFor: (stream: StreamRef, dropMonth: number) => Promise<StreamKeys>;
  readonly append: (submission: Submission) => Promise<readonly (Outcome | undefined)[]>;
  readonly readEntries: (stream: StreamRef, seqs: readonly number[]) => Promise<ReadonlyMap<number, Entry>>;
  readonly log: { error(facts: object, message: string): void };
}

interface Thread {
  readonly worker: Worker;
  readonly calls: ThreadCalls;
  batches: number;
}

export class BatchThreads {
  readonly #options: BatchThreadsOptions;
  readonly #threads: Thread[] = [];
  #closed = false;

  constructor(options: BatchThreadsOptions) {
    this.#options = options;
  }

  /** Starts the threads ahead of the first batch. */
  start(): void {
    while (this.#threads.length < this.#options.threads) this.#threads.push(this.#start());
  }

  async answer(batch: Batch): Promise<BatchAnswer> {
    if (this.#closed) throw new Problem('not_ready', { detail: 'the service is stopping' });
    const idle = this.#threads.find((thread) => thread.batches === 0);
    if (idle === undefined && this.#threads.length < this.#options.threads) this.#threads.push(this.#start());
    const thread = this.#threads.reduce((least, other) => (other.batches < least.batches ? other : least));
    thread.batches += 1;
    try {
      return await thread.calls.call<BatchAnswer>('answer', batch);
    } finally {
      thread.batches -= 1;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }

  #start(): Thread {
    const { limits, log } = this.#options;
    const worker = new Worker(new URL('./batch-thread.ts', import.meta.url), {
      workerData: { eventBytesMax: limits.eventBytesMax, batchEventsMax: limits.batchEventsMax } satisfies BatchLimits,
    });
    const calls: ThreadCalls = new ThreadCalls(worker, {
      openStream: ({ tenant, category }: { tenant: string; category: Parameters<OpenStream>[1] }) =>
        this.#options.openStream(tenant, category),
      keysFor: ({ stream, dropMonth }: { stream: StreamRef; dropMonth: number }) =>
        this.#options.keysFor(stream, dropMonth),
      append: (sealed: SealedColumns) => this.#append(calls, sealed),
      readEntries: ({ stream, seqs }: { stream: StreamRef; seqs: readonly number[] }) =>
        this.#options.readEntries(stream, seqs),
    });
    const thread: Thread = { worker, calls, batches: 0 };
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

  #append(calls: ThreadCalls, sealed: SealedColumns): Promise<readonly (Outcome | undefined)[]> {
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
    return this.#options.append({ kind: 'sealed', atomic: sealed.atomic, entries, runs, reseal });
  }
}
