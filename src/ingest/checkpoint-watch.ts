/**
 * Waiting for a signed checkpoint (`POST /v1/events?wait=checkpoint`). Whoever signs may be another process, so the stored checkpoints
 * are looked at, for all who wait together.
 */

import { isWithinShare } from '../chain/fair-share.ts';

/** Returns the newest signed checkpoints of these streams, by name. */
export type FindCheckpoints = (
  streams: readonly string[],
) => Promise<readonly { readonly stream: string; readonly size: number; readonly note: string }[]>;

export interface CheckpointWatchOptions {
  readonly find: FindCheckpoints;
  /** How often it is looked. */
  readonly everyMs: number;
  readonly waitMaxMs: number;
  /** Who comes when so many wait, or his tenant's share of them, is answered without a checkpoint. */
  readonly waitersMax: number;
}

interface Waiter {
  readonly tenant: string;
  readonly stream: string;
  readonly size: number;
  readonly until: number;
  readonly resolve: (note: string | undefined) => void;
}

export class CheckpointWatch {
  readonly #options: CheckpointWatchOptions;
  #waiters: Waiter[] = [];
  /** How many of them each tenant has. */
  readonly #held = new Map<string, number>();
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(options: CheckpointWatchOptions) {
    this.#options = options;
  }

  /** Returns the signed note that covers `size` entries of a tenant's stream, or undefined when there was none in time. */
  wait(tenant: string, stream: string, size: number): Promise<string | undefined> {
    const { waitMaxMs, waitersMax } = this.#options;
    const own = this.#held.get(tenant) ?? 0;
    if (this.#isClosed || !isWithinShare(own, this.#waiters.length, 1, waitersMax)) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#held.set(tenant, own + 1);
      this.#waiters.push({ tenant, stream, size, until: performance.now() + waitMaxMs, resolve });
      this.#schedule();
    });
  }

  /** Nobody waits any longer. */
  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const waiter of this.#waiters.splice(0)) this.#answer(waiter, undefined);
  }

  #schedule(): void {
    this.#timer ??= setTimeout(() => void this.#look(), this.#options.everyMs);
  }

  async #look(): Promise<void> {
    const asked = [...new Set(this.#waiters.map((waiter) => waiter.stream))];
    // A database that does not answer is one that shows nothing yet.
    const found = await this.#options.find(asked).catch(() => []);
    const newest = new Map(found.map((one) => [one.stream, one]));
    const now = performance.now();
    this.#waiters = this.#waiters.filter((waiter) => {
      const { stream, size, until } = waiter;
      const checkpoint = newest.get(stream);
      const isCovered = checkpoint !== undefined && checkpoint.size >= size;
      if (!isCovered && now < until) return true;
      this.#answer(waiter, isCovered ? checkpoint.note : undefined);
      return false;
    });
    this.#timer = undefined;
    if (this.#waiters.length > 0) this.#schedule();
  }

  #answer({ tenant, resolve }: Waiter, note: string | undefined): void {
    const left = this.#held.get(tenant)! - 1;
    if (left === 0) this.#held.delete(tenant);
    else this.#held.set(tenant, left);
    resolve(note);
  }
}
