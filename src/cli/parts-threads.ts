/**
 * Threads that look at parts: half of the work of a verification, beside the thread that reads, links and counts. A command has the machine
 * to itself for a while; the service, which has other things to do, verifies on one thread.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { JsonValue } from '../chain/canonical.ts';
import type { PartsChecker, PartsJob, PartsResult } from '../verify/parts-check.ts';

/** A job as it goes over: texts are copied faster than objects. */
export interface PackedJob extends Omit<PartsJob, 'records'> {
  readonly id: number;
  /** Of each entry: action, service and site where they are texts, parts hash. */
  readonly texts: readonly (string | null)[];
}

export interface PackedResult extends Omit<PartsResult, 'tags'> {
  readonly id: number;
  readonly tags: BigInt64Array | undefined;
}

interface Waiting {
  readonly resolve: (result: PartsResult) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly waiting: Map<number, Waiting>;
}

/** More do not pay: the thread that reads is then the one that all wait for. */
const THREADS_MAX = 2;

export class PartsThreads implements PartsChecker {
  readonly #threads: readonly Thread[];
  #jobs = 0;

  constructor(threads = Math.min(THREADS_MAX, availableParallelism() - 1)) {
    this.#threads = Array.from({ length: Math.max(1, threads) }, start);
  }

  check({ records, parts, ...job }: PartsJob): Promise<PartsResult> {
    const { worker, waiting } = this.#threads.reduce((least, other) =>
      other.waiting.size < least.waiting.size ? other : least,
    );
    const texts: (string | null)[] = [];
    for (const { action, source, parts: hash } of records)
      texts.push(action, textOf(source['service']), textOf(source['site']), hash);
    const id = this.#jobs++;
    // In memory of its own, which moves there.
    const own = new Uint8Array(parts);
    return new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject });
      worker.postMessage({ ...job, parts: own, texts, id } satisfies PackedJob, [own.buffer]);
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }
}

/** What is no text is not tagged. */
function textOf(value: JsonValue | undefined): string | null {
  return typeof value === 'string' ? value : null;
}

function start(): Thread {
  const worker = new Worker(new URL('./parts-thread.ts', import.meta.url));
  const waiting = new Map<number, Waiting>();
  const fail = (error: Error): void => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  worker.on('message', ({ id, tags, ...result }: PackedResult) => {
    waiting.get(id)?.resolve({ ...result, tags: tags === undefined ? undefined : [...tags] });
    waiting.delete(id);
  });
  worker.on('error', (error) => fail(error instanceof Error ? error : new Error(String(error))));
  worker.on('exit', () => fail(new Error('a thread that looks at parts ended')));
  // The process need not stay for a thread that waits.
  worker.unref();
  return { worker, waiting };
}
