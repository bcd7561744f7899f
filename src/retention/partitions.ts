/** Makes partitions ahead of time, so that no event ever waits for one. */
import { addMonths, dropMonthOf, KEPT_FOR_EVER, nextMonth } from '../chain/retain-until.ts';
import { RETENTION_MONTHS } from './policy.ts';

/** Months ahead for which partitions are there: an operator has that long to notice that making them fails. */
const MONTHS_AHEAD = 3;
const LOOK_EVERY_MS = 60 * 60_000;

/** Returns the drop months that entries stamped from `now` until some months later can have. */
export function dropMonthsAhead(now: number): number[] {
  const months = new Set<number>([KEPT_FOR_EVER]);
  for (const kept of new Set(Object.values(RETENTION_MONTHS))) {
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
  stop(): void;
}

/** Makes missing partitions now and every hour. */
export function partitionMaker(options: {
  readonly ensureDropMonth: (dropMonth: number) => Promise<boolean>;
  readonly wallClock: () => number;
  readonly log: { info(facts: object, message: string): void; error(facts: object, message: string): void };
}): PartitionMaker {
  const make = async (): Promise<void> => {
    const made: number[] = [];
    for (const month of dropMonthsAhead(options.wallClock()))
      if (await options.ensureDropMonth(month)) made.push(month);
    if (made.length > 0) options.log.info({ dropMonths: made }, 'made partitions');
  };
  const timer = setInterval(() => {
    make().catch((error: unknown) => options.log.error({ err: error }, 'partitions could not be made'));
  }, LOOK_EVERY_MS);
  timer.unref();
  return { make, stop: () => clearInterval(timer) };
}
