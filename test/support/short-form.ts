/**
 * The short form of the tests, which `npm test` runs: of a list that tries one thing in many ways it takes a part, another in each run.
 * The long one (`npm run test:hard`, SEALOG_TEST_HARD=1) takes all. Names of tests, and what `expect` compares, tell which part it was.
 */
import { randomInt } from 'node:crypto';

export const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

/** Returns `count` of the items in their order; in the long form all. */
export function someOf<Item>(items: readonly Item[], count = 1): readonly Item[] {
  if (HARD) return items;
  const left = items.map((_, index) => index);
  while (left.length > count) left.splice(randomInt(left.length), 1);
  return left.map((index) => items[index]!);
}
