/**
 * Whether the key service has the keys that this database needs, before anything is sealed: of each month that data keys were wrapped for, one is
 * opened.
 *
 * A month key that is another, or not there, refuses the start: new keys would be made where they do not belong, and nobody would notice until
 * somebody reads. That the service does not answer does not: until it does, and all is well, no key is given out.
 */
import { KeyUnavailableError, SettingsError } from '../errors.ts';
import { openDataKey, type StoredKey } from './keyring.ts';
import type { KeyContext, MonthKeys } from './month-keys.ts';

/** Data keys of all months, of each some; of one month together. */
export type Samples = () => Promise<readonly (StoredKey & KeyContext)[]>;

/** Some tens of months, each a call to a service nearby. */
const AT_ONCE = 8;
const SHOWN_MAX = 5;
const AGAIN_MS = 5000;
const UNCHECKED = 'month keys are not checked yet';

/** Returns what refuses the start, in words. Throws `KeyUnavailableError` where the service does not answer. */
export async function checkMonthKeys(monthKeys: MonthKeys, samples: Samples): Promise<string[]> {
  const months = [...Map.groupBy(await samples(), ({ dropMonth }) => dropMonth).values()];
  const found: string[] = [];
  const look = async (): Promise<void> => {
    for (let rows = months.shift(); rows !== undefined; rows = months.shift()) {
      const problem = await problemOf(monthKeys, rows);
      if (problem !== undefined) found.push(problem);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, look));
  if (found.length === 0) return [];
  const more = found.length > SHOWN_MAX ? ` and ${found.length - SHOWN_MAX} more` : '';
  return [
    `SEALOG_MASTER_KEY has not the month keys of this database: ${found.sort().slice(0, SHOWN_MAX).join('; ')}${more}. ` +
      'See docs/keys.md, Wrong keys, also where one is lost for good',
  ];
}

/** One data key that opens, by whatever form, is enough: another may be damaged, which verification tells. */
async function problemOf(monthKeys: MonthKeys, rows: readonly (StoredKey & KeyContext)[]): Promise<string | undefined> {
  let problem: string | undefined;
  for (const row of rows) {
    try {
      await openDataKey(monthKeys, row, row);
      return undefined;
    } catch (error) {
      if (!(error instanceof KeyUnavailableError) || error.problem === 'unreachable') throw error;
      if (error.problem === 'destroyed') return undefined;
      const what = error.problem === 'missing' ? 'is not there' : 'is not the one that wrapped the keys of its month';
      problem = `${row.rewrapped?.[0]?.monthKey ?? row.monthKey} ${what}`;
    }
  }
  return problem;
}

export interface CheckedOptions {
  readonly monthKeys: MonthKeys;
  readonly samples: Samples;
  readonly log: { warn(facts: object, message: string): void; error(facts: object, message: string): void };
  /** For tests. */
  readonly againMs?: number;
}

/** Month keys that give nothing out before they were checked. */
export class CheckedMonthKeys implements MonthKeys {
  readonly #options: CheckedOptions;
  #objection: string | undefined = UNCHECKED;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: CheckedOptions) {
    this.#options = options;
  }

  /** Why no key is given out, or undefined. Strangers read it (`/readyz`): which key, and which service, the log says. */
  get objection(): string | undefined {
    return this.#objection;
  }

  /** Checks, and where the key service does not answer goes on trying. @throws SettingsError where a key is wrong, or not there */
  async start(): Promise<void> {
    const { monthKeys, samples, log } = this.#options;
    let refusals: string[];
    try {
      refusals = await checkMonthKeys(monthKeys, samples);
    } catch (error) {
      if (!(error instanceof KeyUnavailableError)) throw error;
      this.#objection = UNCHECKED;
      log.warn({ reason: error.message }, 'the key service does not answer: nothing is stored until it does');
      this.#again();
      return;
    }
    if (refusals.length > 0) throw new SettingsError(refusals);
    this.#objection = undefined;
  }

  wrap: MonthKeys['wrap'] = async (...given) => {
    this.#refuse();
    return this.#options.monthKeys.wrap(...given);
  };

  unwrap: MonthKeys['unwrap'] = async (...given) => {
    this.#refuse();
    return this.#options.monthKeys.unwrap(...given);
  };

  destroy: MonthKeys['destroy'] = async (monthKey) => {
    this.#refuse();
    return this.#options.monthKeys.destroy(monthKey);
  };

  retire: MonthKeys['retire'] = async (monthKey) => {
    this.#refuse();
    return this.#options.monthKeys.retire(monthKey);
  };

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#options.monthKeys.close();
  }

  #refuse(): void {
    if (this.#objection !== undefined) throw new KeyUnavailableError(this.#objection, { problem: 'unreachable' });
  }

  #again(): void {
    if (this.#closed) return;
    const { log, againMs = AGAIN_MS } = this.#options;
    this.#timer = setTimeout(() => {
      this.start().catch((error: unknown) => {
        const isWrong = error instanceof SettingsError;
        this.#objection = isWrong ? 'the month keys are not those of this database' : UNCHECKED;
        if (isWrong) log.error({ reason: error.message }, 'wrong month keys: nothing is stored with them');
        this.#again();
      });
    }, againMs);
    this.#timer.unref();
  }
}
