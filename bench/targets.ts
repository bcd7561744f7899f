/**
 * What the figures are held to: of each row that has them its floor, below which Sealog is not worth its price, and its goal.
 * The only place of these numbers in the code; `test/performance.test.ts` holds docs/performance.md to it.
 */
import type { Row } from './report.ts';

interface Target {
  /** What is compared: value / baseline, or, with `more`, value - baseline in the row's unit. */
  readonly of: 'ratio' | 'more';
  /** Whether the figure is to be at least, or at most, what is named. */
  readonly is: 'at least' | 'at most';
  readonly floor: number;
  readonly goal: number;
}

export const TARGETS: Readonly<Record<string, Target>> = {
  'ingest.batch': { of: 'ratio', is: 'at least', floor: 1, goal: 2.5 },
  'ingest.limit': { of: 'ratio', is: 'at least', floor: 0.2, goal: 0.5 },
  'ingest.single': { of: 'ratio', is: 'at least', floor: 6, goal: 10 },
  'ingest.single.p99': { of: 'ratio', is: 'at most', floor: 4, goal: 2 },
  verify: { of: 'ratio', is: 'at least', floor: 0.5, goal: 1 },
  'export.syslog.cef': { of: 'ratio', is: 'at least', floor: 0.4, goal: 0.8 },
  'proof.growth': { of: 'ratio', is: 'at most', floor: 1.5, goal: 1.1 },
  'ingest.growth': { of: 'ratio', is: 'at least', floor: 0.9, goal: 1 },
  'search.growth': { of: 'ratio', is: 'at most', floor: 2, goal: 1.2 },
  'start.growth': { of: 'ratio', is: 'at most', floor: 2, goal: 1.1 },
  memory: { of: 'more', is: 'at most', floor: 200, goal: 80 },
  disk: { of: 'ratio', is: 'at most', floor: 0.35, goal: 0.15 },
  'disk.large': { of: 'ratio', is: 'at most', floor: 0.35, goal: 0.15 },
};

/** A row's floor and goal in words, and which of them is reached; empty texts where it has none. */
export function describeTarget({ name, value, baseline, ratio }: Row): {
  readonly floor: string;
  readonly goal: string;
  readonly reached: string;
} {
  const target = TARGETS[name];
  if (target === undefined) return { floor: '', goal: '', reached: '' };
  const { of, is, floor, goal } = target;
  const figure = of === 'ratio' ? ratio : value - baseline;
  const reaches = (limit: number) => (is === 'at least' ? figure >= limit : figure <= limit);
  const words = (limit: number) => `${is === 'at least' ? '≥' : '≤'} ${of === 'ratio' ? '' : '+'}${limit}`;
  return {
    floor: words(floor),
    goal: words(goal),
    reached: reaches(goal) ? 'goal' : reaches(floor) ? 'floor' : 'missed',
  };
}
