/**
 * A lane takes one run at a time, has a thread work on it, and keeps its row true: progress and heartbeat each second, the result at the end.
 *
 * What can go wrong ends one way: the run is let go of, and somebody takes it again, with what is in its row. A thread that dies, a database
 * that goes away, a replica that is killed: none of it says anything about the log. Only where a run was begun again and again and did not
 * get on, it failed.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { RunKind, RunVerdict, TakenRun } from '../store/verifications.ts';
import type { ThreadMessage, ThreadTask } from './thread-task.ts';

export interface RunStore {
  take(kind: RunKind, owner: string, silentMs: number): Promise<TakenRun | undefined>;
  save(
    run: { readonly id: string; readonly owner: string },
    progress: object | undefined,
    gotOn: boolean,
  ): Promise<boolean>;
  release(run: { readonly id: string; readonly owner: string }, failed: boolean): Promise<void>;
  finish(
    run: { readonly id: string; readonly owner: string },
    progress: object,
    result: { readonly verdict: RunVerdict; readonly report: object } | { readonly error: string },
  ): Promise<boolean>;
}

/** A run that is being worked on: what its kind makes of what a thread says. */
export interface Work {
  /** What the next thread is to do. */
  task(): Promise<ThreadTask>;
  /** Takes a message. Returns the result when it was the last one, and `again` when another thread goes on. */
  take(message: Exclude<ThreadMessage, { kind: 'failed' }>): Promise<WorkResult | undefined>;
  readonly progress: object;
}

export type WorkResult = 'again' | { readonly verdict: RunVerdict; readonly report: object };

export type RunResult = { readonly verdict: RunVerdict; readonly report: object } | { readonly error: string };

export interface RunLaneOptions {
  readonly kind: RunKind;
  readonly store: RunStore;
  readonly begin: (run: TakenRun) => Work;
  /** Tells the log of a result before anybody can read it. What takes longer than a few seconds, or fails, is not waited for. */
  readonly tell?: (run: TakenRun, result: RunResult) => Promise<unknown>;
  /** Called after a run has ended. */
  readonly onEnd?: (run: TakenRun, result: RunResult) => void;
  /** Called when a run is no longer worked on here, ended or not. */
  readonly onLeave?: () => Promise<void>;
  readonly log: LaneLog;
  readonly timing?: Partial<LaneTiming>;
}

export interface LaneLog {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface LaneTiming {
  /** How often to look for a run that waits. */
  readonly lookMs: number;
  readonly saveMs: number;
  /** An owner who did not write for so long is given up. */
  readonly silentMs: number;
}

const TIMING: LaneTiming = { lookMs: 5000, saveMs: 1000, silentMs: 30_000 };
/** So often in a row a run is begun without getting on; pauses between them add up to two minutes and a half. */
const ATTEMPTS_MAX = 8;
/** A thread tells something every second, unless one chunk, or one statement, takes longer. */
const SILENT_THREAD_MS = 120_000;
const THREAD_HEAP_MB = 1024;
/** A result is not kept back for longer by a log that takes no entry of it: that log may be what the result is about. */
const TELL_MAX_MS = 5000;
/** Letting go of a run must not keep the service from stopping: without it somebody waits `silentMs`. */
const RELEASE_MAX_MS = 700;

/** What a run met that is no fault of it. */
class Interruption extends Error {
  override readonly name = 'Interruption';
}

export class RunLane {
  readonly #options: RunLaneOptions;
  readonly #timing: LaneTiming;
  readonly #owner = randomUUID();
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #woken: PromiseWithResolvers<void> = Promise.withResolvers<void>();
  #worker: Worker | undefined;

  constructor(options: RunLaneOptions) {
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Looks at once. */
  wake(): void {
    this.#woken.resolve();
  }

  /** Ends the thread, and lets go of its run. Takes less than a second. */
  async close(): Promise<void> {
    this.#stop.abort();
    this.wake();
    void this.#worker?.terminate();
    const late = new AbortController();
    await Promise.race([
      this.#running,
      delay(RELEASE_MAX_MS, undefined, { signal: late.signal, ref: false }).catch(() => {}),
    ]);
    late.abort();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    let failing = false;
    while (!signal.aborted) {
      let found = false;
      try {
        const run = await this.#options.store.take(this.#options.kind, this.#owner, this.#timing.silentMs);
        failing = false;
        found = run !== undefined;
        if (run !== undefined) await this.#workOn(run).finally(() => this.#options.onLeave?.());
      } catch (error) {
        // Said once: a database that is away has much to say.
        if (!failing && !signal.aborted)
          this.#options.log.warn({ reason: words(error) }, 'runs of verification can not be looked for');
        failing = true;
      }
      if (!found) await this.#pause();
    }
  }

  async #pause(): Promise<void> {
    const over = new AbortController();
    await Promise.race([
      this.#woken.promise,
      delay(this.#timing.lookMs, undefined, { signal: over.signal, ref: false }).catch(() => {}),
    ]);
    over.abort();
    this.#woken = Promise.withResolvers<void>();
  }

  async #workOn(run: TakenRun): Promise<void> {
    const { store, begin, log, onEnd, kind } = this.#options;
    const mine = { id: run.id, owner: this.#owner };
    const work = begin(run);
    try {
      // It can have been taken over from one who stopped between the two.
      if (this.#stop.signal.aborted) throw new Interruption('stopping');
      if (run.attempts >= ATTEMPTS_MAX) throw new Error(`it was begun ${run.attempts} times and did not get on`);
      const result = await this.#work(mine, work);
      await this.#tell(run, result);
      if (await store.finish(mine, work.progress, result)) onEnd?.(run, result);
      log.info({ run: run.id, kind, verdict: result.verdict }, 'verified');
    } catch (error) {
      const isStopping = this.#stop.signal.aborted;
      const reason = words(error);
      if (!isStopping)
        log.warn({ run: run.id, kind, attempts: run.attempts, reason }, 'a verification was interrupted');
      if (isStopping || run.attempts < ATTEMPTS_MAX) {
        await store.release(mine, !isStopping).catch(() => {});
        return;
      }
      await this.#tell(run, { error: reason });
      if (await store.finish(mine, work.progress, { error: reason })) onEnd?.(run, { error: reason });
    }
  }

  async #tell(run: TakenRun, result: RunResult): Promise<void> {
    const { tell } = this.#options;
    if (tell === undefined) return;
    const over = new AbortController();
    const signal = AbortSignal.any([over.signal, this.#stop.signal]);
    await Promise.race([
      tell(run, result).catch(() => {}),
      delay(TELL_MAX_MS, undefined, { signal, ref: false }).catch(() => {}),
    ]);
    over.abort();
  }

  async #work(
    mine: { readonly id: string; readonly owner: string },
    work: Work,
  ): Promise<Exclude<WorkResult, 'again'>> {
    for (;;) {
      const result = await this.#thread(mine, work);
      if (result !== 'again') return result;
    }
  }

  /** One thread, from its start to its end. */
  async #thread(mine: { readonly id: string; readonly owner: string }, work: Work): Promise<WorkResult> {
    const task = await work.task();
    if (this.#stop.signal.aborted) throw new Interruption('stopping');
    const worker = new Worker(new URL('./verification-thread.ts', import.meta.url), {
      workerData: task,
      resourceLimits: { maxOldGenerationSizeMb: THREAD_HEAP_MB },
    });
    this.#worker = worker;
    // The process need not stay for it.
    worker.unref();
    const ended = Promise.withResolvers<WorkResult>();
    let lastWord = performance.now();
    let gotOn = false;
    let changed = false;
    /** Messages are taken one after the other. */
    let taking: Promise<void> = Promise.resolve();
    worker.on('message', (message: ThreadMessage) => {
      lastWord = performance.now();
      taking = taking.then(async () => {
        if (message.kind === 'failed') throw new Interruption(message.reason);
        changed = true;
        if (message.kind === 'stream') gotOn = true;
        const result = await work.take(message);
        if (result !== undefined) ended.resolve(result);
      });
      taking.catch((error: unknown) => ended.reject(error));
    });
    worker.on('error', (error) => ended.reject(error));
    worker.on('exit', () => {
      // What it said last may still be on the way through `take`.
      void taking.then(
        () => ended.reject(new Interruption('the thread ended')),
        () => {},
      );
    });

    const saving = new AbortController();
    const save = async (): Promise<void> => {
      while (!saving.signal.aborted) {
        await delay(this.#timing.saveMs, undefined, { signal: saving.signal, ref: false }).catch(() => {});
        if (saving.signal.aborted) return;
        if (performance.now() - lastWord > SILENT_THREAD_MS) throw new Interruption('the thread said nothing for long');
        const [hasChanged, hasGotOn] = [changed, gotOn];
        [changed, gotOn] = [false, false];
        if (!(await this.#options.store.save(mine, hasChanged ? work.progress : undefined, hasGotOn)))
          throw new Interruption('somebody else has taken it over');
      }
    };
    const saved = save();
    saved.catch((error: unknown) => ended.reject(error));
    try {
      const result = await ended.promise;
      if (result === 'again') await this.#options.store.save(mine, work.progress, gotOn);
      return result;
    } catch (error) {
      // What was finished since the last second is not lost.
      if (changed) await this.#options.store.save(mine, work.progress, gotOn).catch(() => {});
      throw error;
    } finally {
      saving.abort();
      this.#worker = undefined;
      await worker.terminate();
      await saved.catch(() => {});
    }
  }
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
