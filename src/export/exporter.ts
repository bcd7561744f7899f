/** The main thread's side of the export: starts the thread that follows sinks, starts it anew where it dies, and tells all replicas of new entries. */
import { Worker } from 'node:worker_threads';
import type { Deliveries, ExportTask, FromThread, ToThread } from './export-task.ts';

export interface ExporterOptions {
  readonly task: ExportTask;
  /** Says whether there is a sink to follow: without one there is no thread. */
  readonly isWanted: () => Promise<boolean>;
  /** Tells all replicas that there are new entries of these tenants. */
  readonly notice: (tenantIds: readonly number[]) => Promise<void>;
  readonly log: {
    info(facts: object, message: string): void;
    warn(facts: object, message: string): void;
    error(facts: object, message: string): void;
  };
}

/** Notices are this far apart at least: a receiver reads everything there is at each. */
const NOTICE_EVERY_MS = 50;
/** How often to look for a first sink, and how long after its end the thread is started anew. */
const LOOK_MS = 1000;
const CLOSE_MAX_MS = 1500;
const NOTHING: Deliveries = { following: 0, delivered: 0, failures: 0 };

export class Exporter {
  readonly #options: ExporterOptions;
  #worker: Worker | undefined;
  #again: NodeJS.Timeout | undefined;
  #closed = false;
  /** Of the thread that runs, and of those that ended before it. */
  #deliveries: Deliveries = NOTHING;
  #before: Deliveries = NOTHING;
  #noticing: Promise<void> | undefined;
  /** Tenants that replicas are to be told of. */
  #due = new Set<number>();

  constructor(options: ExporterOptions) {
    this.#options = options;
  }

  /** What this replica does for sinks, and has done since it began. */
  get deliveries(): Deliveries {
    const { following, delivered, failures } = this.#deliveries;
    return { following, delivered: delivered + this.#before.delivered, failures: failures + this.#before.failures };
  }

  /** Starts the thread as soon as there is a sink. */
  start(): void {
    void this.#options
      .isWanted()
      .catch(() => false)
      .then((isWanted) => {
        if (this.#closed) return;
        if (isWanted) this.#start();
        else this.#later();
      });
  }

  /** Sinks were changed: whoever follows them learns of it at once. */
  look(): void {
    if (this.#closed) return;
    if (this.#worker === undefined) this.start();
    else this.#worker.postMessage({ kind: 'look' } satisfies ToThread);
  }

  #later(): void {
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.start(), LOOK_MS);
    this.#again.unref();
  }

  #start(): void {
    clearTimeout(this.#again);
    if (this.#worker !== undefined) return;
    const { task, log } = this.#options;
    const worker = new Worker(new URL('./export-thread.ts', import.meta.url), { workerData: task });
    this.#worker = worker;
    worker.on('message', (message: FromThread) => {
      if (message.kind === 'log') log[message.level](message.facts, message.message);
      else if (message.kind === 'deliveries') this.#deliveries = message;
    });
    worker.on('error', (error) => log.error({ err: error }, 'the export thread failed'));
    worker.on('exit', () => {
      this.#before = { ...this.deliveries, following: 0 };
      this.#deliveries = NOTHING;
      this.#worker = undefined;
      if (!this.#closed) this.#later();
    });
    worker.unref();
  }

  /** There are new entries of these tenants. Costs nothing here: the notice goes by itself, at most every 50 ms. */
  appended(tenantIds: ReadonlySet<number>): void {
    if (this.#worker === undefined) return;
    for (const id of tenantIds) this.#due.add(id);
    this.#noticing ??= this.#tellOthers().finally(() => {
      this.#noticing = undefined;
    });
  }

  /** Ends the deliveries under way, which go again, and lets go of the sinks. Takes less than two seconds. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#again);
    const worker = this.#worker;
    if (worker === undefined) return;
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    worker.postMessage({ kind: 'close' } satisfies ToThread);
    const late = setTimeout(() => void worker.terminate(), CLOSE_MAX_MS);
    await ended;
    clearTimeout(late);
  }

  async #tellOthers(): Promise<void> {
    while (this.#due.size > 0 && !this.#closed) {
      const tenantIds = [...this.#due];
      this.#due = new Set();
      // Who misses it looks by himself.
      await this.#options.notice(tenantIds).catch(() => {});
      await new Promise<void>((resolve) => setTimeout(resolve, NOTICE_EVERY_MS).unref());
    }
  }
}
