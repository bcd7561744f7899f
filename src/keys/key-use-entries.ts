/**
 * Tells the log of the uses of month keys: an entry a minute, where there were any, and one at the end. One is told at a time; what is used
 * meanwhile goes into the next, so that a log that takes no entries gets one when it does again, and not one for each minute.
 */
import type { KeyUse, MonthKeyUses } from './month-key-uses.ts';

export interface KeyUseEntriesOptions {
  readonly uses: MonthKeyUses;
  /** Appends an entry about these; resolves once it is stored, with false where it never will be. Does not reject. */
  readonly tell: (uses: readonly KeyUse[]) => Promise<boolean>;
  /** For tests. */
  readonly everyMs?: number | undefined;
}

const EVERY_MS = 60_000;
/** In an entry. */
const USES_MAX = 200;
const CLOSE_MAX_MS = 1000;

export class KeyUseEntries {
  readonly #options: KeyUseEntriesOptions;
  readonly #timer: NodeJS.Timeout;
  #telling: Promise<void> | undefined;

  constructor(options: KeyUseEntriesOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#look(), options.everyMs ?? EVERY_MS);
    this.#timer.unref();
  }

  /** Tells what is not told yet; takes a second at most. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, CLOSE_MAX_MS);
    const last = async (): Promise<void> => {
      await this.#telling;
      await this.#tell();
    };
    await Promise.race([last(), late.promise]);
    clearTimeout(timer);
  }

  #look(): void {
    this.#telling ??= this.#tell().finally(() => {
      this.#telling = undefined;
    });
  }

  async #tell(): Promise<void> {
    const uses = this.#options.uses.take();
    for (let at = 0; at < uses.length; at += USES_MAX) await this.#options.tell(uses.slice(at, at + USES_MAX));
  }
}
