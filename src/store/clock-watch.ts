/**
 * Looks at the clocks, also while nobody sends: where one is wrong nothing is stored (chain/clock-guard.ts), and somebody has to hear of it
 * who can set it right. The log itself hears of it when it is over; until then it takes nothing.
 */

export interface ClockWatchOptions {
  /** Milliseconds since 1970; undefined where the database does not answer. */
  readonly databaseClock: () => Promise<number | undefined>;
  /** Why nothing may be stamped at this time of the database. */
  readonly objection: (database: number) => string | undefined;
  readonly onWrong: (reason: string) => void;
  readonly onRight: (wrong: WrongClock) => void;
}

export interface WrongClock {
  /** The first one that was found. */
  readonly reason: string;
  readonly seconds: number;
}

/** What waits for a receipt hears of it at once; this is for who does not. */
const LOOK_EVERY_MS = 2000;

export class ClockWatch {
  readonly #options: ClockWatchOptions;
  #wrong: { readonly reason: string; readonly since: number } | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: ClockWatchOptions) {
    this.#options = options;
  }

  get isWrong(): boolean {
    return this.#wrong !== undefined;
  }

  start(): void {
    this.#timer = setInterval(() => void this.#look(), LOOK_EVERY_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Does not reject. */
  async #look(): Promise<void> {
    const { databaseClock, objection, onWrong, onRight } = this.#options;
    const now = await databaseClock();
    // What is not known changes nothing.
    if (now === undefined) return;
    const reason = objection(now);
    const wrong = this.#wrong;
    if (reason !== undefined && wrong === undefined) {
      this.#wrong = { reason, since: performance.now() };
      onWrong(reason);
    }
    if (reason === undefined && wrong !== undefined) {
      this.#wrong = undefined;
      onRight({ reason: wrong.reason, seconds: Math.round((performance.now() - wrong.since) / 1000) });
    }
  }
}
