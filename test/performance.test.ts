/** What docs/performance.md promises is what `npm run bench` holds its figures to. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { compare } from '../bench/report.ts';
import { describeTarget, TARGETS } from '../bench/targets.ts';

test('the page has the floor and the goal of every row that has them', () => {
  const page = readFileSync(new URL('../docs/performance.md', import.meta.url), 'utf8');
  const shown = page.split('\n').flatMap((line) => {
    // name, work, baseline, floor, goal, value, baseline, ratio, reached
    const cells = line.split('|').slice(1, -1);
    const name = /`([\w.]+)`/.exec(cells[0] ?? '')?.[1];
    return cells.length === 9 && name !== undefined ? [[name, cells[3]!.trim(), cells[4]!.trim()] as const] : [];
  });
  const held = Object.entries(TARGETS).map(([name, { of, is, floor, goal }]) => {
    const words = (limit: number) => (of === 'more' ? `+ ${limit} MB` : is === 'at most' ? `at most ${limit}` : limit);
    return [name, words(floor), words(goal)] as const;
  });
  const numbers = (rows: readonly (readonly [string, string | number, string | number])[]) =>
    rows.map(([name, floor, goal]) => [name, ...[floor, goal].map((text) => String(text).replace(/\.0$/, ''))]).sort();
  expect(numbers(shown)).toEqual(numbers(held));
});

test.each([
  ['ingest.batch', 99, 100, 'missed'],
  ['ingest.batch', 100, 100, 'floor'],
  ['ingest.batch', 250, 100, 'goal'],
  ['disk', 36, 100, 'missed'],
  ['disk', 35, 100, 'floor'],
  ['disk', 15, 100, 'goal'],
  ['memory', 401, 200, 'missed'],
  ['memory', 400, 200, 'floor'],
  ['memory', 280, 200, 'goal'],
  ['disk.wal', 1, 1, ''],
])('%s: %i beside %i is: %s', (name, value, baseline, reached) => {
  expect(describeTarget(compare(name, 'any', value, baseline)).reached).toBe(reached);
});
