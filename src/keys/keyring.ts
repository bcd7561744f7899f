/** Opened data keys, by stream and drop month for writing and by id for reading. */
import { randomBytes } from 'node:crypto';
import type { StreamRef } from '../chain/entry.ts';
import { DATA_KEY_BYTES } from '../chain/seal.ts';
import type { StreamKeys } from '../chain/sealed-run.ts';
import { tagKeyOf } from '../chain/tag.ts';
import { KeyUnavailableError } from '../errors.ts';
import type { KeyContext, MonthKeys } from './month-keys.ts';

/** What is stored of a data key, and how it is found; `store/data-keys.ts` has the SQL. */
export interface KeyStore {
  findOrStore(
    stream: StreamRef,
    dropMonth: number,
    make: () => Promise<{ monthKey: string; wrapped: Uint8Array }>,
  ): Promise<{ id: string; monthKey: string; wrapped: Uint8Array }>;
  byId(
    id: string,
  ): Promise<{ id: string; monthKey: string; wrapped: Uint8Array; stream: string; dropMonth: number } | undefined>;
}

/** Enough for a thousand tenants' current months; the least recently used go first. */
const OPENED_MAX = 10_000;

export class Keyring {
  readonly #monthKeys: MonthKeys;
  readonly #store: KeyStore;
  readonly #current = new Map<string, Promise<StreamKeys>>();
  readonly #opened = new Map<string, Promise<StreamKeys>>();

  constructor(monthKeys: MonthKeys, store: KeyStore) {
    this.#monthKeys = monthKeys;
    this.#store = store;
  }

  /** Returns the keys that new blocks of a stream and drop month are sealed with, made on first use. */
  keysFor(stream: StreamRef, dropMonth: number): Promise<StreamKeys> {
    return remembered(this.#current, `${stream.id} ${dropMonth}`, async () => {
      const context = { stream: stream.name, dropMonth };
      const row = await this.#store.findOrStore(stream, dropMonth, () =>
        this.#monthKeys.wrap(randomBytes(DATA_KEY_BYTES), context),
      );
      return this.#open(row, context);
    });
  }

  /** Returns the keys of a stored block. Throws `KeyUnavailableError` when they can not be had. */
  keysById(id: string): Promise<StreamKeys> {
    return remembered(this.#opened, id, async () => {
      const row = await this.#store.byId(id);
      if (row === undefined) throw new KeyUnavailableError(`there is no data key ${id}`);
      return this.#open(row, { stream: row.stream, dropMonth: row.dropMonth });
    });
  }

  async #open(row: { id: string; monthKey: string; wrapped: Uint8Array }, context: KeyContext): Promise<StreamKeys> {
    const dataKey = await this.#monthKeys.unwrap(row.monthKey, row.wrapped, context);
    return { id: row.id, dataKey, tagKey: tagKeyOf(dataKey) };
  }
}

/** One call at a time works a key out; a failure is forgotten, so that the next call tries again. */
function remembered(
  map: Map<string, Promise<StreamKeys>>,
  key: string,
  make: () => Promise<StreamKeys>,
): Promise<StreamKeys> {
  const known = map.get(key);
  if (known !== undefined) {
    map.delete(key);
    map.set(key, known);
    return known;
  }
  const made = make();
  map.set(key, made);
  made.catch(() => map.delete(key));
  if (map.size > OPENED_MAX) map.delete(map.keys().next().value ?? key);
  return made;
}
