/** The command line of `npm run bench`. */
import { parseArgs } from 'node:util';
import { EVENT_ORDERS, type EventChoice, type EventOrder, type EventSource, hasCorpus } from './corpus.ts';

export interface Options {
  readonly json: boolean;
  readonly smoke: boolean;
  /** Everything, not only what a run without options measures. */
  readonly full: boolean;
  /** Names of rows; none = by `full`. */
  readonly only: readonly string[];
  /** Measured seconds of a round. */
  readonly seconds: number;
  readonly rounds: number;
  /** The large size of the rows about growth. */
  readonly entries: number;
  /** How long memory is watched at full load. */
  readonly minutes: number;
  readonly events: EventSource;
}

/** As the command line has them: which events, and not yet where they are. */
export interface Asked extends Omit<Options, 'events'> {
  readonly choice: EventChoice;
}

const SMOKE = { events: 700, entries: 2100, rounds: 1, minutes: 0.03 };
const LARGE = 2_000_000;

export function usage(names: readonly string[]): string {
  return `usage: npm run bench -- [options]
  --json       end with one line { "results": [{ name, value, unit, baseline, ratio }], "failed": [{ name, reason }] }
  --full       everything: without it, what takes less than 15 minutes
  --entries N  the large size of *.growth and disk.large (${LARGE})
  --only NAME  these rows; may be repeated: ${names.join(', ')}
  --smoke      a few hundred events, one pass each: shows that everything works, not how fast
  --seconds N  measured seconds of a round (8)
  --rounds N   rounds of a measurement (3)
  --minutes N  how long memory is watched at full load (10)
  --order HOW  order of the events: ${EVENT_ORDERS.join(', ')} (sources)
  --events N   use only the first N events`;
}

/** The options, or undefined where they can not be understood. */
export function readOptions(names: readonly string[], testData: string | undefined): Asked | undefined {
  try {
    const { values } = parseArgs({
      options: {
        json: { type: 'boolean', default: false },
        smoke: { type: 'boolean', default: false },
        full: { type: 'boolean', default: false },
        only: { type: 'string', multiple: true, default: [] },
        seconds: { type: 'string', default: '8' },
        rounds: { type: 'string' },
        entries: { type: 'string' },
        minutes: { type: 'string' },
        order: { type: 'string', default: 'sources' },
        events: { type: 'string' },
      },
    });
    const { json, smoke, full, only, order } = values;
    const seconds = Number(values.seconds);
    const rounds = Number(values.rounds ?? (smoke ? SMOKE.rounds : 3));
    const entries = Number(values.entries ?? (smoke ? SMOKE.entries : LARGE));
    const minutes = Number(values.minutes ?? (smoke ? SMOKE.minutes : 10));
    const limit = values.events === undefined ? (smoke ? SMOKE.events : undefined) : Number(values.events);
    if (!(seconds > 0 && minutes > 0) || ![rounds, entries, limit ?? 1].every(isCount)) return undefined;
    if (!isOrder(order) || only.some((name) => !names.includes(name))) return undefined;
    const choice = { order, ...(limit !== undefined && { limit }), ...(hasCorpus(testData) && { testData }) };
    return { json, smoke, full, only, seconds, rounds, entries, minutes, choice };
  } catch {
    return undefined;
  }
}

function isCount(value: number): boolean {
  return Number.isInteger(value) && value > 0;
}

function isOrder(value: string): value is EventOrder {
  return EVENT_ORDERS.some((order) => order === value);
}
