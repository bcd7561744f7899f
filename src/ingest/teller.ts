/**
 * Tells the log what it must hear, however long it takes: an entry that can not be stored now is tried again, with pauses, until it is
 * stored or the service stops. For what happened already and waits for nobody: a start, a verdict.
 *
 * An attempt of which nobody knows how it ended is made again: told twice is better than not at all.
 */
import { setTimeout as delay } from 'node:timers/promises';

export interface TellerOptions {
  readonly log: { warn(facts: object, message: string): void };
  /** For tests. */
  readonly pauseMinMs?: number;
  readonly pauseMaxMs?: number;
}

const PAUSE_MIN_MS = 1000;
/** A log that is kept from appending may be so for days. */
const PAUSE_MAX_MS = 60_000;
/** More that waits than this is given up: it would be some thousand verdicts. */
const WAITING_MAX = 5000;

export class Teller {
  readonly #options: TellerOptions;
  readonly #closing = new AbortController();
  #waiting = 0;

  constructor(options: TellerOptions) {
    this.#options = options;
  }

  /** Resolves with true once it is stored, and with false when it never will be. Does not reject. */
  async tell(action: string, append: () => Promise<unknown>): Promise<boolean> {
    const { log, pauseMinMs = PAUSE_MIN_MS, pauseMaxMs = PAUSE_MAX_MS } = this.#options;
    const { signal } = this.#closing;
    if (this.#waiting >= WAITING_MAX) {
      log.warn({ action }, 'an entry about the service is not stored: too many wait');
      return false;
    }
    this.#waiting += 1;
    try {
      for (let pauseMs = pauseMinMs; !signal.aborted; pauseMs = Math.min(2 * pauseMs, pauseMaxMs)) {
        try {
          await append();
          return true;
        } catch (error) {
          if (pauseMs === pauseMinMs)
            log.warn({ action, reason: words(error) }, 'an entry about the service is not stored yet');
        }
        await delay(pauseMs, undefined, { signal, ref: false }).catch(() => {});
      }
      return false;
    } finally {
      this.#waiting -= 1;
    }
  }

  /** Nothing is tried again. */
  close(): void {
    this.#closing.abort();
  }
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
