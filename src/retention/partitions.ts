/** Makes partitions ahead of time, so that no event ever waits for one. */
import { addMonths, dropMonthOf, KEPT_FOR_EVER, nextMonth } from '../chain/retain-until.ts';
import { RETENTION_MONTHS } from './policy.ts';

/** Months ahead for which partitions are there: an operator has that long to notice that making them fails. */
const MONTHS_AHEAD = 3;
const LOOK_EVERY_MS = 60 * 60_000;

/** Returns the drop months that entries stamped from `now` until some months later can have, which are kept for one of these times. */
export function dropMonthsAhead(
  now: number,
  keptMonths: readonly number[] = Object.values(RETENTION_MONTHS),
): number[] {
  const months = new Set<number>([KEPT_FOR_EVER]);
  for (const kept of new Set(keptMonths)) {
    let month = dropMonthOf(addMonths(now, kept));
    for (let i = 0; i <= MONTHS_AHEAD; i++) {
      months.add(month);
      month = nextMonth(month);
    }
  }
  return [...months].sort((a, b) => a - b);
}

export interface PartitionMaker {
  /** Makes what is missing; throws what the database throws. */
  make(): Promise<void>;
  /** Makes what is missing for entries that are to be kept so many months from now on. */
  makeFor(months: number): Promise<void>;
  stop(): void;
}

/** Makes missing partitions now and every hour. */
export function partitionMaker(options: {
  readonly ensureDropMonth: (dropMonth: number) => Promise<boolean>;
  /** Months that entries are kept by policies, of whatever tenant. */
  readonly monthsInUse: () => Promise<readonly number[]>;
  readonly wallClock: () => number;
  /** Why nothing is stamped by the clock now: what months it would be for is not known then. */
  readonly objection: () => string | undefined;
  readonly log: { info(facts: object, message: string): void; error(facts: object, message: string): void };
}): PartitionMaker {
  const makeMissing = async (dropMonths: readonly number[]): Promise<void> => {
    if (options.objection() !== undefined) return;
    const made: number[] = [];
    for (const month of dropMonths) if (await options.ensureDropMonth(month)) made.push(month);
    if (made.length > 0) options.log.info({ dropMonths: made }, 'made partitions');
  };
  const defaults = Object.values(RETENTION_MONTHS);
  const make = async (): Promise<void> =>
    makeMissing(dropMonthsAhead(options.wallClock(), [...defaults, ...(await options.monthsInUse())]));
  const timer = setInterval(() => {
    make().catch((error: unknown) => options.log.error({ err: error }, 'partitions could not be made'));
  }, LOOK_EVERY_MS);
  timer.unref();
  const makeFor = (months: number): Promise<void> => makeMissing(dropMonthsAhead(options.wallClock(), [months]));
  return { make, makeFor, stop: () => clearInterval(timer) };
}
