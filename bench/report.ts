/** What the bench reports: rows, from the medians of rounds. */
import { describeTarget } from './targets.ts';

/** One round of one side. */
export interface Sample {
  /** Events a second. */
  readonly rate: number;
  /** Milliseconds from a request to its answer. */
  readonly p50: number;
  readonly p99: number;
  /** Bytes of write-ahead log an event. */
  readonly wal: number;
  /** Microseconds of processor time an event, by whom. */
  readonly cpu: Readonly<Record<string, number>>;
}

/** One result, as `--json` gives it; `ratio` = value / baseline. */
export interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly baseline: number;
  readonly ratio: number;
}

/** What could not be measured, and why. */
export interface Failure {
  readonly name: string;
  readonly reason: string;
}

/** Makes a row of two figures. */
export function compare(name: string, unit: string, value: number, baseline: number): Row {
  return { name, value: round(value), unit, baseline: round(baseline), ratio: Number((value / baseline).toFixed(3)) };
}

/** The middle value; of an even number the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** One line on some rounds of one side. */
export function describeSamples(who: string, samples: readonly Sample[]): string {
  const of = (read: (sample: Sample) => number) => median(samples.map(read));
  const cpu = Object.keys(samples[0]?.cpu ?? {}).map(
    (name) => `${name} ${of((sample) => sample.cpu[name]!).toFixed(0)}`,
  );
  const rates = samples.map((sample) => sample.rate.toFixed(0)).join(' ');
  return (
    `  ${who.padEnd(34)} ${of((sample) => sample.rate)
      .toFixed(0)
      .padStart(7)}/s (${rates})` +
    `  p50 ${of((sample) => sample.p50).toFixed(1)} ms  p99 ${of((sample) => sample.p99).toFixed(1)} ms` +
    `  WAL ${of((sample) => sample.wal).toFixed(0)} bytes/event  processor µs/event: ${cpu.join(', ')}`
  );
}

/** The rows as a table for people, each with its floor and goal where it has them, and which is reached. */
export function formatTable(rows: readonly Row[]): string {
  const lines = [
    ['', 'value', 'baseline', 'unit', 'ratio', 'floor', 'goal', 'reached'],
    ...rows.map((row) => {
      const { floor, goal, reached } = describeTarget(row);
      return [row.name, String(row.value), String(row.baseline), row.unit, row.ratio.toFixed(2), floor, goal, reached];
    }),
  ];
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const isText = (column: number) => column === 0 || column === 3 || column === 7;
  return lines
    .map((line) =>
      line
        .map((cell, column) => (isText(column) ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** To a tenth, and what is small to a thousandth: no row's ratio may look wrong for its rounding. */
function round(value: number): number {
  return Number(value.toFixed(value < 100 ? 3 : 1));
}
