/**
 * Opened data keys, by stream and drop month for writing and by id for reading.
 *
 * An opened key is kept for `cacheMs` after the key service last opened it, and no longer: so long a key service may be away without anybody
 * noticing. Who uses a key renews it, in the background, each `renewMs`: a key in use is never close to its end while the service is there,
 * and one whose month key was destroyed or taken away is gone by then. What a month key's service says is wrong or destroyed ends a key at
 * once; that it does not answer does not.
 */
import { randomBytes } from 'node:crypto';
import type { StreamRef } from '../chain/entry.ts';
import { DATA_KEY_BYTES } from '../chain/seal.ts';
import type { StreamKeys } from '../chain/sealed-run.ts';
import { tagKeyOf } from '../chain/tag.ts';
import { KeyUnavailableError } from '../errors.ts';
import type { KeyContext, MonthKeys, WrapOptions, WrappedForm } from './month-keys.ts';

/** A data key as it is stored. */
export interface StoredKey extends WrappedForm {
  readonly id: string;
  /** The same key, wrapped by later generations of the month key; the newest first. */
  readonly rewrapped?: readonly WrappedForm[];
}

/** What is stored of a data key, and how it is found; `store/data-keys.ts` has the SQL. */
export interface KeyStore {
  /** `make` is told which generation of month keys wraps now, and whether its key of this month was used before. */
  findOrStore(
    stream: StreamRef,
    dropMonth: number,
    make: (options?: WrapOptions) => Promise<WrappedForm>,
  ): Promise<StoredKey>;
  byId(id: string): Promise<(StoredKey & { readonly stream: string; readonly dropMonth: number }) | undefined>;
}

export interface KeyringOptions {
  readonly cacheMs?: number;
  /** Milliseconds of a clock that nobody sets. For tests. */
  readonly monotonic?: () => number;
}

/** Enough for a thousand tenants' current months; the least recently used go first. */
const OPENED_MAX = 10_000;
/** Over a night, and until somebody has seen to it. */
export const CACHE_MS = 24 * 3_600_000;
/** Within this a destroyed key is gone from everywhere; a stream costs the key service so many calls a day. */
const RENEW_MS = 3_600_000;
const RENEW_AGAIN_MS = 60_000;

interface Opened {
  readonly keys: StreamKeys;
  readonly dropMonth: number;
  /** When the key service opened it. */
  readonly at: number;
}

interface Kept {
  opened: Promise<Opened>;
  /** From when on whoever uses it renews it; undefined = not opened yet, or being renewed. */
  renewAt: number | undefined;
}

export class Keyring {
  readonly #monthKeys: MonthKeys;
  readonly #store: KeyStore;
  readonly #cacheMs: number;
  readonly #renewMs: number;
  readonly #now: () => number;
  /** Ids by stream and drop month; an id never changes. */
  readonly #ids = new Map<string, string>();
  readonly #making = new Map<string, Promise<StreamKeys>>();
  readonly #kept = new Map<string, Kept>();
  #openedAt = Number.NEGATIVE_INFINITY;

  constructor(monthKeys: MonthKeys, store: KeyStore, options: KeyringOptions = {}) {
    const { cacheMs = CACHE_MS, monotonic = () => performance.now() } = options;
    this.#monthKeys = monthKeys;
    this.#store = store;
    this.#cacheMs = cacheMs;
    this.#renewMs = Math.min(RENEW_MS, cacheMs / 4);
    this.#now = monotonic;
  }

  /** When a key was last opened by the key service, by the monotonic clock: nothing that is kept outlives it by more than `cacheMs`. */
  get openedAt(): number {
    return this.#openedAt;
  }

  /** Returns the keys that new blocks of a stream and drop month are sealed with, made on first use. */
  async keysFor(stream: StreamRef, dropMonth: number): Promise<StreamKeys> {
    const place = `${stream.id} ${dropMonth}`;
    const id = this.#ids.get(place);
    if (id !== undefined) return this.keysById(id);
    const making = this.#making.get(place) ?? this.#findOrMake(stream, dropMonth, place);
    this.#making.set(place, making);
    try {
      return await making;
    } finally {
      this.#making.delete(place);
    }
  }

  /** Returns the keys of a stored block. Throws `KeyUnavailableError` when they can not be had. */
  async keysById(id: string): Promise<StreamKeys> {
    const kept = this.#kept.get(id);
    if (kept === undefined) return this.#keep(id, this.#openById(id));
    this.#kept.delete(id);
    this.#kept.set(id, kept);
    const opened = await kept.opened;
    const now = this.#now();
    if (now - opened.at >= this.#cacheMs) {
      // Of several who find out at once, the first opens it anew.
      if (this.#kept.get(id) !== kept) return this.keysById(id);
      this.#kept.delete(id);
      return this.#keep(id, this.#openById(id));
    }
    if (kept.renewAt !== undefined && now >= kept.renewAt) this.#renew(id, kept);
    return opened.keys;
  }

  /** Forgets the opened keys of a drop month, whose key was destroyed. */
  async forget(dropMonth: number): Promise<void> {
    for (const [id, kept] of this.#kept) {
      const opened = await kept.opened.catch(() => undefined);
      if (opened?.dropMonth === dropMonth && this.#kept.get(id) === kept) this.#kept.delete(id);
    }
  }

  async #findOrMake(stream: StreamRef, dropMonth: number, place: string): Promise<StreamKeys> {
    const context: KeyContext = { stream: stream.name, dropMonth };
    const row = await this.#store.findOrStore(stream, dropMonth, (options) =>
      this.#monthKeys.wrap(randomBytes(DATA_KEY_BYTES), context, options),
    );
    // Also what was wrapped just now: nothing is sealed under a key that does not open again.
    const keys = await (this.#kept.has(row.id) ? this.keysById(row.id) : this.#keep(row.id, this.#open(row, context)));
    this.#ids.set(place, row.id);
    if (this.#ids.size > OPENED_MAX) this.#ids.delete(this.#ids.keys().next().value ?? place);
    return keys;
  }

  /** One call at a time works a key out; a failure is forgotten, so that the next call tries again. */
  async #keep(id: string, opening: Promise<Opened>): Promise<StreamKeys> {
    const kept: Kept = { opened: opening, renewAt: undefined };
    this.#kept.set(id, kept);
    if (this.#kept.size > OPENED_MAX) this.#kept.delete(this.#kept.keys().next().value ?? id);
    try {
      const { keys, at } = await opening;
      kept.renewAt = at + this.#renewMs;
      return keys;
    } catch (error) {
      if (this.#kept.get(id) === kept) this.#kept.delete(id);
      throw error;
    }
  }

  #renew(id: string, kept: Kept): void {
    kept.renewAt = undefined;
    this.#openById(id).then(
      (opened) => {
        kept.opened = Promise.resolve(opened);
        kept.renewAt = opened.at + this.#renewMs;
      },
      (error: unknown) => {
        kept.renewAt = this.#now() + Math.min(RENEW_AGAIN_MS, this.#renewMs);
        const problem = error instanceof KeyUnavailableError ? error.problem : undefined;
        const isGone = problem !== undefined && problem !== 'unreachable';
        if (isGone && this.#kept.get(id) === kept) this.#kept.delete(id);
      },
    );
  }

  async #openById(id: string): Promise<Opened> {
    const row = await this.#store.byId(id);
    if (row === undefined) throw new KeyUnavailableError(`there is no data key ${id}`, { problem: 'missing' });
    return this.#open(row, { stream: row.stream, dropMonth: row.dropMonth });
  }

  async #open(row: StoredKey, context: KeyContext): Promise<Opened> {
    const at = this.#now();
    const dataKey = await openDataKey(this.#monthKeys, row, context);
    this.#openedAt = Math.max(this.#openedAt, at);
    return { keys: { id: row.id, dataKey, tagKey: tagKeyOf(dataKey) }, dropMonth: context.dropMonth, at };
  }
}

/**
 * Opens a data key by its newest form that can be opened: whoever may add forms can not keep an older one from opening, as long as the month key
 * that wrapped it is there.
 */
export async function openDataKey(monthKeys: MonthKeys, row: StoredKey, context: KeyContext): Promise<Uint8Array> {
  let first: unknown;
  for (const { monthKey, wrapped } of [...(row.rewrapped ?? []), row]) {
    try {
      return await monthKeys.unwrap(monthKey, wrapped, context);
    } catch (error) {
      first ??= error;
      // The service does not answer for others either; and what is destroyed has no other generation.
      if (!(error instanceof KeyUnavailableError) || error.problem === 'unreachable' || error.problem === 'destroyed')
        throw error;
    }
  }
  throw first;
}
