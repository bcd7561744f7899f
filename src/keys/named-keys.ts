/**
 * Month keys over whatever keeps keys by name. The rules that all key services share are here: a key is made when it is first needed, never
 * where it was lost, and never again once its month was destroyed.
 */
import assert from 'node:assert/strict';
import { concatBytes, lengthPrefixed, u32be, utf8 } from '../chain/bytes.ts';
import { KeyUnavailableError } from '../errors.ts';
import {
  type KeyContext,
  type MonthKeyName,
  type MonthKeys,
  monthKeyName,
  monthOf,
  parseMonthKey,
  type Removal,
} from './month-keys.ts';

/**
 * A key service, key by key. What it can not do now, or is not allowed to, is a `KeyUnavailableError`; that a key is not there is an answer.
 */
export interface NamedKeys {
  /** Returns undefined where there is no such key. MUST NOT make one. */
  encrypt(key: MonthKeyName, dataKey: Uint8Array, context: KeyContext): Promise<Uint8Array | undefined>;
  /** Returns undefined where there is no such key, or it is on its way out. Throws `KeyUnavailableError` (`wrong`) for what it did not encrypt so. */
  decrypt(key: MonthKeyName, wrapped: Uint8Array, context: KeyContext): Promise<Uint8Array | undefined>;
  /** Leaves a key that is there as it is. */
  make(key: MonthKeyName): Promise<void>;
  /** Nothing decrypts under it any more once this has resolved. It may not be there. */
  remove(key: MonthKeyName): Promise<Removal>;
  /** The generations of a month that are there. */
  generations(month: string): Promise<readonly number[]>;
  /** Notes for good, beside the keys, that a month was destroyed. It may be noted. */
  noteDestroyed(month: string): Promise<void>;
  isDestroyed(month: string): Promise<boolean>;
  close(): void;
}

const TAG = utf8('sealog/data-key/v1\0');

/** What a wrapped data key is bound to, docs/format.md section 13. */
export function associatedData({ stream, dropMonth }: KeyContext): Uint8Array {
  return concatBytes(TAG, lengthPrefixed(utf8(stream)), u32be(dropMonth));
}

export function monthKeysOf(keys: NamedKeys): MonthKeys {
  async function checkNotDestroyed(month: string): Promise<void> {
    if (await keys.isDestroyed(month)) throw destroyed(month);
  }

  return {
    async wrap(dataKey, context, { generation = 1, isKnown = false } = {}) {
      const month = monthOf(context.dropMonth);
      const key: MonthKeyName = { month, generation };
      const monthKey = monthKeyName(month, generation);
      await checkNotDestroyed(month);
      const found = await keys.encrypt(key, dataKey, context);
      if (found !== undefined) return { monthKey, wrapped: found };
      if (isKnown) throw missing(monthKey);
      await keys.make(key);
      const wrapped = await keys.encrypt(key, dataKey, context);
      if (wrapped === undefined) throw missing(monthKey);
      if (await keys.isDestroyed(month)) {
        // Destroyed while we made it.
        await keys.remove(key);
        throw destroyed(month);
      }
      return { monthKey, wrapped };
    },

    async unwrap(monthKey, wrapped, context) {
      const key = nameOf(monthKey);
      // Names come from the database: that another month was destroyed must not pass for the end of this one.
      if (key.month !== monthOf(context.dropMonth)) throw wrong(monthKey, context);
      const dataKey = await keys.decrypt(key, wrapped, context);
      if (dataKey !== undefined) return dataKey;
      throw (await keys.isDestroyed(key.month)) ? destroyed(key.month) : missing(monthKey);
    },

    async destroy(monthKey) {
      const { month } = nameOf(monthKey);
      assert(/^\d/.test(month), 'only a month comes to its end');
      // Noted first: what a crash leaves behind is refused by `wrap`, and destroyed by the next call.
      await keys.noteDestroyed(month);
      const removals: Removal[] = [];
      for (const generation of await keys.generations(month)) removals.push(await keys.remove({ month, generation }));
      return latest(removals);
    },

    retire(monthKey) {
      return keys.remove(nameOf(monthKey));
    },

    close: () => keys.close(),
  };
}

function nameOf(monthKey: string): MonthKeyName {
  const name = parseMonthKey(monthKey);
  if (name === undefined) throw new KeyUnavailableError('a month key has an impossible name', { problem: 'wrong' });
  return name;
}

function latest(removals: readonly Removal[]): Removal {
  const until = removals.flatMap(({ recoverableUntil }) => recoverableUntil ?? []).sort();
  return until.length === 0 ? {} : { recoverableUntil: until.at(-1)! };
}

function destroyed(month: string): KeyUnavailableError {
  return new KeyUnavailableError(`the month key ${month} is destroyed`, { problem: 'destroyed' });
}

function missing(monthKey: string): KeyUnavailableError {
  return new KeyUnavailableError(`the month key ${monthKey} is not in the key service`, { problem: 'missing' });
}

/** What was wrapped is not what this key wrapped for this stream and month. */
export function wrong(monthKey: string, { stream }: KeyContext, cause?: unknown): KeyUnavailableError {
  return new KeyUnavailableError(
    `the month key ${monthKey} is not the one that wrapped the data key of ${stream}`,
    cause === undefined ? { problem: 'wrong' } : { problem: 'wrong', cause },
  );
}
