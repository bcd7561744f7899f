/**
 * Counts each use of a month key, by key and what was done with it, and knows whether the key service answers.
 *
 * Uses are told in entries of the log (docs/keys.md), collected, since an entry needs a key too: one that is told in the next entry would tell
 * of itself for ever. The key that such an entry is sealed under is in use, so it is opened already; where it is not, telling costs one use,
 * which the next window tells, and no more.
 */
import { KeyUnavailableError } from '../errors.ts';
import { type MonthKeys, monthKeyName, monthOf, parseMonthKey } from './month-keys.ts';

export type KeyOperation = 'wrap' | 'unwrap' | 'destroy' | 'retire';

export interface KeyUse {
  /** The month key's name; of what could not be wrapped, that of its month. */
  readonly monthKey: string;
  readonly operation: KeyOperation;
  /** What kept it from being done; undefined = it was. */
  readonly problem: string | undefined;
  readonly count: number;
}

/** Of different ones between two looks; more, which a database with false names could ask for, are counted under one name. */
const USES_MAX = 1000;
const OTHERS = 'others';

export class MonthKeyUses {
  #uses = new Map<string, KeyUse>();
  #downSince: number | undefined;
  #reason: string | undefined;
  readonly #now: () => number;

  constructor(monotonic: () => number = () => performance.now()) {
    this.#now = monotonic;
  }

  /** Since when every call was in vain, by the monotonic clock, and why the last one was; undefined = the service answers, as far as known. */
  get outage(): { readonly since: number; readonly reason: string } | undefined {
    return this.#downSince === undefined ? undefined : { since: this.#downSince, reason: this.#reason ?? '' };
  }

  /** Returns what was counted since the last call. */
  take(): KeyUse[] {
    const uses = [...this.#uses.values()];
    this.#uses = new Map();
    return uses;
  }

  add({ monthKey, operation, problem, count }: KeyUse): void {
    const placeOf = (name: string): string => `${name} ${operation} ${problem ?? ''}`;
    const isRoom = this.#uses.size < USES_MAX || this.#uses.has(placeOf(monthKey));
    // Names come from the database, too.
    const name = isRoom && parseMonthKey(monthKey) !== undefined ? monthKey : OTHERS;
    const before = this.#uses.get(placeOf(name))?.count ?? 0;
    this.#uses.set(placeOf(name), { monthKey: name, operation, problem, count: before + count });
  }

  /** Returns month keys whose uses are counted here. */
  watch(monthKeys: MonthKeys): MonthKeys {
    const counted = async <T>(operation: KeyOperation, monthKey: string, work: Promise<T>): Promise<T> => {
      try {
        const result = await work;
        this.add({ monthKey, operation, problem: undefined, count: 1 });
        this.#downSince = this.#reason = undefined;
        return result;
      } catch (error) {
        const problem = error instanceof KeyUnavailableError ? (error.problem ?? 'unreachable') : 'failed';
        this.add({ monthKey, operation, problem, count: 1 });
        if (problem === 'unreachable') {
          this.#downSince ??= this.#now();
          this.#reason = error instanceof Error ? error.message : String(error);
        } else this.#downSince = this.#reason = undefined;
        throw error;
      }
    };
    return {
      wrap: (dataKey, context, options) => {
        const name = monthKeyName(monthOf(context.dropMonth), options?.generation ?? 1);
        return counted('wrap', name, monthKeys.wrap(dataKey, context, options));
      },
      unwrap: (monthKey, wrapped, context) => counted('unwrap', monthKey, monthKeys.unwrap(monthKey, wrapped, context)),
      destroy: (monthKey) => counted('destroy', monthKey, monthKeys.destroy(monthKey)),
      retire: (monthKey) => counted('retire', monthKey, monthKeys.retire(monthKey)),
      close: () => monthKeys.close(),
    };
  }
}
