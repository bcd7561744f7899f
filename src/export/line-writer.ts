/**
 * Lines of downloads, made in a thread of their own: opening and writing a block takes up to some tens of milliseconds, in which the main
 * thread would give no receipt. One thread for all downloads: they take turns block by block, and use up one processor at most,
 * where processors are short less than that.
 *
 * The thread has neither database nor keys of its own, only the block and the key that it is given. One that dies fails the downloads that
 * wait for it, and is started anew by the next.
 */
import { Worker } from 'node:worker_threads';
import type { EntryQuery } from '../chain/entry-filter.ts';
import type { OpenableBlock } from '../chain/open-block.ts';
import { EvidenceError } from '../errors.ts';
import type { DownloadFormat } from './download-format.ts';
import type { ExportedEntry } from './exported-entry.ts';

/** Which entries of a block are wanted, and as what. */
export interface LinesWanted {
  readonly block: OpenableBlock;
  readonly stream: ExportedEntry['stream'];
  readonly dataKey: Uint8Array;
  readonly query: EntryQuery;
  readonly format: DownloadFormat;
  /** From this seq on, and before that. */
  readonly first: number;
  readonly end: number;
  /** No more entries than that. */
  readonly limit: number;
}

export interface Lines {
  readonly bytes: Uint8Array;
  readonly entries: number;
  /** Seqs of the first and the last entry; undefined where there is none. */
  readonly first: number | undefined;
  readonly last: number | undefined;
}

/** Undefined: there will be no more. */
export type LinesAsked = (LinesWanted & { readonly id: number }) | undefined;
export type LinesAnswer =
  | (Lines & { readonly id: number })
  | { readonly id: number; readonly failure: string; readonly isEvidence: boolean };

interface Waiting {
  readonly resolve: (lines: Lines) => void;
  readonly reject: (error: Error) => void;
}

/** A block is done in much less. */
const CLOSE_MAX_MS = 1000;

export class LineWriter {
  readonly #log: { error(facts: object, message: string): void };
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  #asked = 0;
  #closed = false;

  constructor(log: { error(facts: object, message: string): void }) {
    this.#log = log;
  }

  /** Returns the lines of a block. Throws an EvidenceError where it is not what was stored. */
  write(wanted: LinesWanted): Promise<Lines> {
    if (this.#closed) return Promise.reject(new Error('the service is stopping'));
    const id = this.#asked++;
    this.#worker ??= this.#start();
    const worker = this.#worker;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      worker.postMessage({ ...wanted, id } satisfies LinesAsked);
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    const worker = this.#worker;
    if (worker === undefined) return;
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    worker.postMessage(undefined satisfies LinesAsked);
    const late = setTimeout(() => void worker.terminate(), CLOSE_MAX_MS);
    await ended;
    clearTimeout(late);
  }

  #start(): Worker {
    const worker = new Worker(new URL('./line-thread.ts', import.meta.url));
    worker.on('message', (answer: LinesAnswer) => {
      const waiting = this.#waiting.get(answer.id);
      this.#waiting.delete(answer.id);
      if (!('failure' in answer)) waiting?.resolve(answer);
      else waiting?.reject(answer.isEvidence ? new EvidenceError(answer.failure) : new Error(answer.failure));
    });
    worker.on('error', (error) => this.#log.error({ err: error }, 'the thread of downloads failed'));
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = undefined;
      for (const { reject } of this.#waiting.values()) reject(new Error('the thread of downloads ended'));
      this.#waiting.clear();
    });
    // The process need not stay for a thread that waits.
    worker.unref();
    return worker;
  }
}
