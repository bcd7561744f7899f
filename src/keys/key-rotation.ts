/**
 * Rotation of month keys: a new generation wraps what is new, and each data key that is there gets a form of it too; no entry is touched.
 *
 * Every replica looks each hour: whether it is time for a generation, whether something is still to be wrapped by the newest, and whether earlier
 * ones have been kept long enough. Two at once do the work twice, and no harm: a generation begins once, and of each data key one form of it is
 * stored. A crash leaves forms that are there and forms that are not, and the next look goes on.
 *
 * A form is stored when it was opened again, and gave the same key; what stands stored is opened before it counts.
 */
import { KeyUnavailableError } from '../errors.ts';
import { openDataKey, type StoredKey } from './keyring.ts';
import { type KeyContext, type MonthKeys, monthKeyName, parseMonthKey, type WrappedForm } from './month-keys.ts';

export interface RotationStore {
  readonly newest: () => Promise<{ readonly generation: number; readonly isRewrapped: boolean }>;
  /** How old it is, by the database's clock; undefined while there is no data key. */
  readonly ageMs: () => Promise<number | undefined>;
  /** Returns false where somebody else began one after `after`. */
  readonly begin: (after: number, by: string | undefined) => Promise<boolean>;
  /** Data keys by id: all, or those that neither a form of a generation nor of a later one wraps. */
  readonly keys: (after: string, limit: number, notWrappedBy?: number) => Promise<readonly (StoredKey & KeyContext)[]>;
  /** Adds a form; returns the one that is stored. */
  readonly store: (id: string, generation: number, form: WrappedForm) => Promise<WrappedForm>;
  readonly noteRewrapped: (generation: number) => Promise<void>;
  /** The newest generation by which everything has been wrapped for so many days; `from`: the first that may still be there. */
  readonly toRetire: (keptDays: number) => Promise<Retirement | undefined>;
  readonly noteRetired: (generation: number) => Promise<void>;
  /** The months that data keys were ever wrapped for. */
  readonly months: () => Promise<readonly string[]>;
}

export interface Retirement {
  readonly generation: number;
  readonly from: number;
  readonly isNoted: boolean;
}

export interface KeyRotationOptions {
  readonly monthKeys: MonthKeys;
  readonly store: RotationStore;
  /** 0 = no generation begins by itself. */
  readonly rotationDays: number;
  /** 0 = earlier generations stay. */
  readonly retireDays: number;
  /** Tells the log, before it is done. */
  readonly tell: (action: 'month_key.rotated' | 'month_key.retired', details: KeyChange) => Promise<unknown>;
  /** Why nothing is to be destroyed now: a clock that jumped would end what backups of yesterday still need. */
  readonly objection: () => Promise<string | undefined>;
  readonly log: {
    info(facts: object, message: string): void;
    warn(facts: object, message: string): void;
    error(facts: object, message: string): void;
  };
  /** For tests. */
  readonly lookEveryMs?: number | undefined;
  readonly onStep?: ((step: RotationStep) => void) | undefined;
}

export type RotationStep =
  | 'rotation-told'
  | 'rotation-begun'
  | 'rotation-wrapped'
  | 'rotation-stored'
  | 'rotation-noted'
  | 'retirement-told'
  | 'retirement-noted'
  | 'retirement-removed';

export interface KeyChange {
  readonly generation: number;
  /** Of what is retired: from this one to the one before `generation`. */
  readonly from?: number;
}

const LOOK_EVERY_MS = 3_600_000;
const DAY_MS = 86_400_000;
const PAGE = 100;
/** Wrapping and opening, of so many data keys: a key service answers some hundred calls a second without anybody else noticing. */
const AT_ONCE = 4;

export class KeyRotation {
  readonly #options: KeyRotationOptions;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #again = false;
  #closed = false;
  /** Before which this process has destroyed all. */
  #retired = 0;

  constructor(options: KeyRotationOptions) {
    this.#options = options;
  }

  start(): void {
    this.look();
    this.#timer = setInterval(() => this.look(), this.#options.lookEveryMs ?? LOOK_EVERY_MS);
    this.#timer.unref();
  }

  /** Begins the generation after `after`. Returns false where somebody else did. */
  async begin(after: number, by: string | undefined): Promise<boolean> {
    const isBegun = await this.#options.store.begin(after, by);
    if (isBegun) this.#options.log.info({ generation: after + 1 }, 'a new generation of month keys');
    this.look();
    return isBegun;
  }

  /** Looks soon; does not reject. */
  look(): void {
    this.#again = true;
    this.#looking ??= this.#work().finally(() => {
      this.#looking = undefined;
      if (this.#again && !this.#closed) this.look();
    });
  }

  /** Resolves when nothing is being looked at. */
  async settled(): Promise<void> {
    while (this.#looking !== undefined) await this.#looking;
  }

  /** Ends after what is being wrapped. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#looking;
  }

  async #work(): Promise<void> {
    this.#again = false;
    // What keeps one from being done keeps not the next: a log that takes no entries now is no reason to leave keys as they are.
    for (const step of [() => this.#beginInTime(), () => this.#rewrap(), () => this.#retire()]) {
      try {
        await step();
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#options.log.warn({ reason }, 'month keys could not be rotated now');
      }
    }
  }

  async #beginInTime(): Promise<void> {
    const { store, rotationDays, tell, onStep } = this.#options;
    const age = await store.ageMs();
    if (rotationDays === 0 || age === undefined || age < rotationDays * DAY_MS) return;
    const { generation } = await store.newest();
    await tell('month_key.rotated', { generation: generation + 1 });
    onStep?.('rotation-told');
    await this.begin(generation, undefined);
    onStep?.('rotation-begun');
  }

  async #rewrap(): Promise<void> {
    const { generation, isRewrapped } = await this.#options.store.newest();
    if (generation > 1 && !isRewrapped) await this.#rewrapAll(generation);
  }

  async #rewrapAll(generation: number): Promise<void> {
    const { store, log, onStep } = this.#options;
    const wrapped = await this.#overKeys(generation, (row) => this.#rewrapOne(row, generation));
    if (this.#closed) return;
    // What has no month key any more, since its month was destroyed, needs no new one.
    await store.noteRewrapped(generation);
    onStep?.('rotation-noted');
    log.info({ generation, wrapped }, 'data keys are wrapped by the new generation');
  }

  /**
   * Works on data keys, some at once; `work` returns false where the month was destroyed. Returns how many there were of other months. One that does not
   * open keeps none behind it from its turn, and is thrown at the end.
   */
  async #overKeys(
    notWrappedBy: number | undefined,
    work: (row: StoredKey & KeyContext) => Promise<boolean>,
  ): Promise<number> {
    const destroyed = new Set<number>();
    let failure: KeyUnavailableError | undefined;
    let done = 0;
    const worked = async (row: StoredKey & KeyContext): Promise<void> => {
      try {
        if (await work(row)) done += 1;
        else destroyed.add(row.dropMonth);
      } catch (error) {
        if (!(error instanceof KeyUnavailableError) || error.problem === 'unreachable') throw error;
        failure ??= error;
      }
    };
    for (let after = '0'; !this.#closed; ) {
      const page = [...(await this.#options.store.keys(after, PAGE, notWrappedBy))];
      if (page.length === 0) break;
      after = page.at(-1)!.id;
      const workThrough = async (): Promise<void> => {
        for (let row = page.shift(); row !== undefined && !this.#closed; row = page.shift()) {
          if (!destroyed.has(row.dropMonth)) await worked(row);
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, workThrough));
    }
    if (failure !== undefined) throw failure;
    return done;
  }

  /** Returns whether there is a form of the generation now; false where the key of its month is destroyed. Throws what may be otherwise later. */
  async #rewrapOne(row: StoredKey & KeyContext, generation: number): Promise<boolean> {
    const { monthKeys, store, log, onStep } = this.#options;
    const context: KeyContext = { stream: row.stream, dropMonth: row.dropMonth };
    try {
      const dataKey = await openDataKey(monthKeys, row, context);
      const form = await monthKeys.wrap(dataKey, context, { generation });
      await this.#checkOpens(form, context, dataKey);
      onStep?.('rotation-wrapped');
      const stored = await store.store(row.id, generation, form);
      onStep?.('rotation-stored');
      // Another's, or what somebody put there who could not know the key.
      if (!isSame(stored.wrapped, form.wrapped)) await this.#checkOpens(stored, context, dataKey);
      return true;
    } catch (error) {
      if (!(error instanceof KeyUnavailableError) || error.problem === 'unreachable') throw error;
      if (error.problem === 'destroyed') return false;
      log.error({ dataKey: row.id, reason: error.message }, 'a data key can not be wrapped again');
      throw error;
    }
  }

  /** Returns whether a data key opens by generations from this one on; false where its month was destroyed. Throws where it does not. */
  async #checkOpensWithout(row: StoredKey & KeyContext, generation: number): Promise<boolean> {
    const forms = [...(row.rewrapped ?? []), row].filter(
      ({ monthKey }) => (parseMonthKey(monthKey)?.generation ?? 0) >= generation,
    );
    for (const { monthKey, wrapped } of forms) {
      try {
        await this.#options.monthKeys.unwrap(monthKey, wrapped, row);
        return true;
      } catch (error) {
        if (!(error instanceof KeyUnavailableError) || error.problem === 'unreachable') throw error;
        if (error.problem === 'destroyed') return false;
      }
    }
    // Whether its month was destroyed, its first form says.
    const isDestroyed = await this.#options.monthKeys.unwrap(row.monthKey, row.wrapped, row).then(
      () => false,
      (error: unknown) => error instanceof KeyUnavailableError && error.problem === 'destroyed',
    );
    if (isDestroyed) return false;
    this.#options.log.error(
      { dataKey: row.id, generation },
      'earlier generations stay: a data key opens by them alone',
    );
    throw new KeyUnavailableError(`data key ${row.id} does not open by generation ${generation} or a later one`, {
      problem: 'wrong',
    });
  }

  async #checkOpens(form: WrappedForm, context: KeyContext, dataKey: Uint8Array): Promise<void> {
    const opened = await this.#options.monthKeys.unwrap(form.monthKey, form.wrapped, context);
    if (!isSame(opened, dataKey))
      throw new KeyUnavailableError(`a form of the data key of ${context.stream} opens to another key`, {
        problem: 'wrong',
      });
  }

  async #retire(): Promise<void> {
    const { monthKeys, store, retireDays, tell, objection, log, onStep } = this.#options;
    if (retireDays === 0 || this.#closed) return;
    const due = await store.toRetire(retireDays);
    if (due === undefined || due.generation <= this.#retired) return;
    const { generation, from, isNoted } = due;
    if (!isNoted) {
      const stop = await objection();
      if (stop !== undefined) {
        log.warn({ generation, reason: stop }, 'earlier generations of month keys stay');
        return;
      }
      // Once more: a replica may have stored a key of an old generation while that ended.
      await this.#rewrapAll((await store.newest()).generation);
      // What says that it is wrapped may be what somebody put there: each is opened without what is to go.
      await this.#overKeys(undefined, (row) => this.#checkOpensWithout(row, generation));
      if (this.#closed) return;
      await tell('month_key.retired', { generation, from });
      onStep?.('retirement-told');
      // Noted first: no start looks for these keys any more. What a crash leaves of them goes when a process looks for the first time.
      await store.noteRetired(generation);
      onStep?.('retirement-noted');
    }
    for (const month of await store.months()) {
      for (let each = from; each < generation; each++) {
        if (this.#closed) return;
        await monthKeys.retire(monthKeyName(month, each));
        onStep?.('retirement-removed');
      }
    }
    this.#retired = generation;
    if (!isNoted) log.info({ generation, from }, 'earlier generations of month keys are destroyed');
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
