/** How fast a verification goes: never more than a share of the time, nor more than so many entries a second. */

export interface PaceOptions {
  /** Of one processor, the database's part included: while we wait for it, it works. Over 0, up to 1. */
  readonly share: number;
  /** Infinity = as fast as the share allows. */
  readonly entriesPerSecond: number;
}

/** Rests are not shorter than this: they would be all overhead. */
const REST_MIN_MS = 10;
/** What one rest may be at most; the rest of it is owed. */
const REST_MAX_MS = 60_000;

export class Pace {
  readonly #options: PaceOptions;
  readonly #clock: () => number;
  #since: number;
  #owedMs = 0;

  constructor(options: PaceOptions, clock: () => number) {
    this.#options = options;
    this.#clock = clock;
    this.#since = clock();
  }

  /** Returns for how many milliseconds to rest, after so many entries that count. */
  restAfter(entries: number): number {
    const { share, entriesPerSecond } = this.#options;
    const now = this.#clock();
    const workedMs = now - this.#since;
    this.#since = now;
    const byShare = (workedMs * (1 - share)) / share;
    const byEntries = (Math.max(0, entries) / entriesPerSecond) * 1000 - workedMs;
    this.#owedMs += Math.max(byShare, byEntries, 0);
    if (this.#owedMs < REST_MIN_MS) return 0;
    const rest = Math.min(this.#owedMs, REST_MAX_MS);
    this.#owedMs -= rest;
    return rest;
  }

  /** To be called after the rest, which is no work. */
  goOn(): void {
    this.#since = this.#clock();
  }
}
