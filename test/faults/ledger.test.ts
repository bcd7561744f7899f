/** The checker of runs with faults finds each defect that a log could have. */
import { describe, expect, test } from 'vitest';
import { checkLedger, type Line, type Receipt, type StoredEntry } from './ledger.ts';

const STREAM = 'acme/data_access';

function eventOf(n: number): Line['event'] {
  return { id: `e-${n}`, category: 'data_access', details: { n } };
}

function placeOf(n: number): Receipt {
  return { stream: STREAM, seq: n, hash: `hash-${n}` };
}

function line(n: number, more: Partial<Line> = {}): Line {
  return {
    tenant: 'acme',
    event: eventOf(n),
    ...{ sentAt: 10 * n, acknowledgedAt: 10 * n + 5, receipts: [placeOf(n)], isOpen: false, isRefused: false },
    ...more,
  };
}

function nobodyKnows(n: number, isRefused = false): Line {
  const { acknowledgedAt: _, ...rest } = line(n, { receipts: [], isOpen: !isRefused, isRefused });
  return rest;
}

function entry(n: number, more: Partial<StoredEntry> = {}): StoredEntry {
  return { tenant: 'acme', event: eventOf(n), ...placeOf(n), previous: n === 0 ? 'zeros' : `hash-${n - 1}`, ...more };
}

/** Three with receipts, one that nobody knows of and is stored, one that is not, one refused. */
const LINES = [line(0), line(1), line(2), nobodyKnows(3), nobodyKnows(8), nobodyKnows(9, true)];
const ENTRIES = [entry(2), entry(0), entry(1), entry(3)];

test('a sound log is kept, whatever became of what nobody knows of', () => {
  const counts = { acknowledged: 3, refused: 1, open: 2 };
  expect(checkLedger(LINES, ENTRIES)).toEqual({ verdict: 'kept', problems: [], ...counts, openStored: 1 });
  expect(checkLedger(LINES, ENTRIES.slice(0, 3))).toMatchObject({ verdict: 'kept', ...counts, openStored: 0 });
});

test('an entry of the log’s own between others is no gap', () => {
  const later = entry(5, { previous: 'hash-4' });
  const lines = [...LINES, line(5)];
  expect(checkLedger(lines, [...ENTRIES, later], [{ ...placeOf(4), previous: 'hash-3' }]).verdict).toBe('kept');
  expect(checkLedger(lines, [...ENTRIES, later]).verdict).toBe('broken');
});

test('a run without a receipt is void, not kept', () => {
  expect(checkLedger([nobodyKnows(0), nobodyKnows(1, true)], []).verdict).toBe('void');
});

describe('planted defects', () => {
  const without = (n: number) => ENTRIES.filter(({ seq }) => seq !== n);
  test.each<[string, RegExp, readonly Line[], readonly StoredEntry[]]>([
    ['an entry lost at the end', /^lost: .*e-2/, LINES.slice(0, 3), [entry(0), entry(1)]],
    ['an entry lost in the middle', /^lost: .*e-1/, LINES, without(1)],
    ['the gap that it leaves', /^gap: .* has 2 where 1 is due/, LINES, without(1)],
    ['an event stored twice', /^doubled: .*e-1/, LINES, [...ENTRIES, entry(4, { event: eventOf(1) })]],
    ['an entry from nowhere', /^from nowhere: .*e-77/, LINES, [...ENTRIES, entry(4, { event: eventOf(77) })]],
    [
      'a refused event that is stored',
      /^refused, and stored: .*e-9/,
      LINES,
      [...ENTRIES, entry(4, { event: eventOf(9) })],
    ],
    [
      'a changed event',
      /^changed: .*e-1/,
      LINES,
      [...without(1), entry(1, { event: { ...eventOf(1), details: { n: 2 } } })],
    ],
    [
      'an event that nobody knows of, stored otherwise than it was sent',
      /^changed: .*e-3/,
      LINES,
      [...without(3), entry(3, { event: { ...eventOf(3), details: {} } })],
    ],
    [
      'a receipt with another place',
      /^moved: .*e-1/,
      [line(0), line(1, { receipts: [placeOf(7)] }), line(2)],
      without(3),
    ],
    ['a receipt with another hash', /^moved: .*e-2/, LINES, [...without(2), entry(2, { hash: 'other' })]],
    [
      'two receipts that differ',
      /^two receipts: .*e-1/,
      [line(0), line(1, { receipts: [placeOf(1), placeOf(2)] }), line(2)],
      without(3),
    ],
    [
      'two entries at one place',
      /^fork: .* has 1 where 2 is due/,
      LINES,
      [...ENTRIES, entry(1, { event: eventOf(8) })],
    ],
    [
      'a link to another entry',
      /^chain: .* 2 does not follow 1/,
      LINES,
      [...without(2), entry(2, { previous: 'other' })],
    ],
    [
      'an entry before one that had its receipt when it was sent',
      /^order: .* 1 \(e-1\) was sent when 2 had its receipt/,
      [line(0), line(1, { sentAt: 30, acknowledgedAt: 35 }), line(2)],
      without(3),
    ],
    [
      'an entry in another tenant’s log',
      /^from nowhere: zeta.*e-1/,
      LINES,
      [...ENTRIES, entry(0, { tenant: 'zeta', event: eventOf(1), stream: 'zeta/data_access' })],
    ],
  ])('%s', (_, problem, lines, entries) => {
    const { verdict, problems } = checkLedger(lines, entries);
    expect(problems).toContainEqual(expect.stringMatching(problem));
    expect(verdict).toBe('broken');
  });
});
