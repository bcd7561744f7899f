/** CSV, read back by a strict reader of RFC 4180 and by one that separates by `;` as some languages of a spreadsheet do; and JSON as it is exported. */
import { describe, expect, it } from 'vitest';
import { canonicalText, type JsonObject } from '../src/chain/canonical.ts';
import { entryText } from '../src/chain/entry-view.ts';
import { CSV_COLUMNS, csvHeader, csvText } from '../src/export/csv.ts';
import { jsonText } from '../src/export/json.ts';
import { ocsfText } from '../src/export/ocsf.ts';
import { syslogMessage } from '../src/export/syslog-message.ts';
import { TooLongError } from '../src/export/too-long-error.ts';
import { corpusEvents, manyOf, TEST_DATA } from './support/corpus.ts';
import { readCsv } from './support/csv-reader.ts';
import { exportedEntry, exportedStream } from './support/exported.ts';
import { hostileEvent } from './support/hostile-events.ts';
import { hostileString, seededRandom } from './support/hostile-strings.ts';

const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;
const EVENT: JsonObject = {
  id: 'e-1',
  category: 'configuration_change',
  action: 'role.update',
  outcome: 'success',
  severity: 4,
  occurredAt: '2026-11-22T21:04:05.123+01:00',
  source: { service: 'mes', host: 'gw-1', site: 'plant-7', zone: 'L3' },
  actor: {
    type: 'user',
    id: 'u-1',
    name: 'Kern, "M."',
    email: 'm@example.com',
    ip: '::1',
    sessionId: 's',
    userAgent: 'a',
    roles: ['x', 'y'],
  },
  target: { type: 'role', id: 'r', name: 'R' },
  reason: '=1+1',
  changes: { before: { a: 1 }, after: { a: 2 } },
  details: { b: 1 },
  raw: 'one\r\ntwo',
};

/** What was there before `'` was put in front. */
function undone(cell: string): string {
  return cell.replace(/(^|;)'/g, '$1');
}

function rowOf(event: JsonObject, options = {}): Record<string, string> {
  const cells = readCsv(csvText(exportedEntry(event, options)));
  expect(cells).toHaveLength(CSV_COLUMNS.length);
  return Object.fromEntries(CSV_COLUMNS.map((name, index) => [name, cells[index]!]));
}

describe('CSV', () => {
  it('has a line of names, which stay where they are', () => {
    expect(readCsv(csvHeader())).toEqual([...CSV_COLUMNS]);
    expect(csvHeader()).toBe(
      '"stream","seq","recordedAt","id","category","action","outcome","severity","occurredAt","source.service","source.host",' +
        '"source.site","source.zone","actor.type","actor.id","actor.name","actor.email","actor.ip","actor.sessionId",' +
        '"actor.userAgent","actor.roles","target.type","target.id","target.name","reason","changes","details","raw",' +
        '"log.hash","log.previous","log.retainUntil","log.evidence","log.erased"\r\n',
    );
  });

  it('has a line an entry', () => {
    const exported = exportedEntry(EVENT);
    expect(rowOf(EVENT)).toEqual({
      stream: 'acme/configuration_change',
      seq: '0',
      recordedAt: '2026-11-22T20:04:05.310Z',
      id: 'e-1',
      category: 'configuration_change',
      action: 'role.update',
      outcome: 'success',
      severity: '4',
      occurredAt: '2026-11-22T21:04:05.123+01:00',
      'source.service': 'mes',
      'source.host': 'gw-1',
      'source.site': 'plant-7',
      'source.zone': 'L3',
      'actor.type': 'user',
      'actor.id': 'u-1',
      'actor.name': 'Kern, "M."',
      'actor.email': 'm@example.com',
      'actor.ip': '::1',
      'actor.sessionId': 's',
      'actor.userAgent': 'a',
      'actor.roles': '["x","y"]',
      'target.type': 'role',
      'target.id': 'r',
      'target.name': 'R',
      reason: "'=1+1",
      changes: '{"after":{"a":2},"before":{"a":1}}',
      details: '{"b":1}',
      raw: 'one␍␊two',
      'log.hash': exported.entry.hash,
      'log.previous': '0'.repeat(64),
      'log.retainUntil': '',
      'log.evidence': '',
      'log.erased': '',
    });
    expect(
      rowOf({ ...EVENT, raw: { base64: 'AA==' } }, { erased: ['actor', 'reason'], evidence: 'incomplete' }),
    ).toMatchObject({
      raw: '{"base64":"AA=="}',
      'actor.id': '',
      reason: '',
      'log.evidence': 'incomplete',
      'log.erased': 'actor reason',
    });
  });

  it.each([
    ['=1+1', "'=1+1"],
    ['+1', "'+1"],
    ['-1', "'-1"],
    ['@SUM(1)', "'@SUM(1)"],
    ['\t=1', "'␉=1"],
    ['\r=1', "'␍=1"],
    ['\nx', "'␊x"],
    ['\tx', "'␉x"],
    ['  =1', "'  =1"],
    ['"=1', `'"=1`],
    ['" =1', `'" =1`],
    ['＝1', "'＝1"],
    ['＠x', "'＠x"],
    ["'=1", "''=1"],
    ["'x", "''x"],
    ['a;=1', "a;'=1"],
    ['a; "-1', `a;' "-1`],
    ["a;'b", "a;''b"],
    ['a=1', 'a=1'],
    ['a;b', 'a;b'],
    ['a -1', 'a -1'],
    ['\u202e=1', '<U+202E>=1'],
    ['', ''],
  ])('%j is written %j', (text, cell) => {
    const row = rowOf({ ...EVENT, raw: text });
    expect(row['raw']).toBe(cell);
  });

  it.skipIf(TEST_DATA === undefined)('gives the real events back', { timeout: 120_000 }, () => {
    let count = 0;
    for (const exported of exportedStream(corpusEvents())) {
      const line = csvText(exported);
      const cells = readCsv(line);
      if (cells.length !== CSV_COLUMNS.length) throw new Error(line);
      const event = JSON.parse(entryText(exported.entry, exported.stream.category)) as JsonObject;
      const raw = event['raw'];
      if (typeof raw === 'string' && undone(cells[27]!) !== shown(raw)) throw new Error(`${raw} became ${cells[27]}`);
      const details = event['details'];
      if (details !== undefined && undone(cells[26]!) !== shown(canonicalText(details))) throw new Error(line);
      count += 1;
    }
    expect(count).toBeGreaterThan(manyOf(80_000));
  });

  it('holds no formula and no second line in hostile events, and gives them back', { timeout: 120_000 }, () => {
    const random = seededRandom(6);
    for (let i = 0; i < manyOf(10_000); i++) {
      const line = csvText(exportedEntry(hostileEvent(random)));
      const cells = readCsv(line);
      // Behind a `;`: what is a cell to a spreadsheet that separates by it, quotes or not.
      const isFormula = cells.some((cell) => cell.split(';').some((part) => /^["\s]*[=+\-@＝＋－＠]/.test(part)));
      if (cells.length !== CSV_COLUMNS.length || UNSAFE.test(line.slice(0, -2)) || isFormula) throw new Error(line);
      const text = hostileString(random, 500);
      const reason = readCsv(csvText(exportedEntry({ ...EVENT, reason: text })))[24]!;
      if (undone(reason) !== shown(text)) throw new Error(`${text} became ${reason}`);
    }
  });
});

describe('JSON as it is exported', () => {
  it('is what readers get, and has no character that misleads', () => {
    const random = seededRandom(7);
    for (let i = 0; i < manyOf(3000); i++) {
      const exported = exportedEntry(hostileEvent(random));
      const text = jsonText(exported);
      expect(text).not.toMatch(UNSAFE);
      expect(JSON.parse(text)).toEqual(JSON.parse(entryText(exported.entry, exported.stream.category)));
    }
  });

  it('leaves out whole parts, the largest first, who and to what last, and says which', () => {
    const exported = exportedEntry({ ...EVENT, raw: 'r'.repeat(2000), details: { d: 'd'.repeat(3000) } });
    const whole = jsonText(exported);
    expect(jsonText(exported, Buffer.byteLength(whole))).toBe(whole);
    const read = (max: number) => JSON.parse(jsonText(exported, max)) as JsonObject & { log: JsonObject };
    expect(read(Buffer.byteLength(whole) - 1).log['omitted']).toEqual(['details']);
    expect(read(2500).log['omitted']).toEqual(['details', 'raw']);
    const { log, ...least } = read(700);
    expect(log['omitted']).toEqual(['actor', 'changes', 'details', 'diff', 'raw', 'reason']);
    expect(Object.keys(least)).toEqual([
      'id',
      'category',
      'action',
      'outcome',
      'severity',
      'occurredAt',
      'source',
      'target',
    ]);
    expect(log).toMatchObject({ seq: 0, hash: exported.entry.hash });
    expect(log['diff']).toBeUndefined();
    expect(() => jsonText(exported, 500)).toThrow(TooLongError);
    expect(() => jsonText(exported, 500)).toThrow(/takes 5\d\d bytes .* 500 is the maximum/);
  });

  it('is within what sinks have unless told otherwise, whatever a sender calls himself', () => {
    const [text, id] = ['\u202e'.repeat(256), `i${'d'.repeat(127)}`];
    const actor = { type: 'user', id: text, name: text };
    const exported = exportedEntry({
      ...{ ...EVENT, id, actor, action: `a.${'b'.repeat(61)}` },
      source: { service: text, host: text, site: '\u{1f600}'.repeat(128), zone: text },
    });
    for (const message of [
      syslogMessage(exported, jsonText, { hostname: 'log.example', maxBytes: 2048 }),
      syslogMessage(exported, ocsfText, { hostname: 'log.example', maxBytes: 8096 }),
    ]) {
      const read = JSON.parse(Buffer.from(message).toString().split('] ')[1]!);
      const { source, log } = read.unmapped ?? read;
      expect(log.omitted).toContain('source');
      expect(log.hash).toBe(exported.entry.hash);
      expect(source).toMatchObject({ service: '\u202e'.repeat(16), site: '\u{1f600}'.repeat(16) });
    }
  });

  it('tells what was erased from what was left out', () => {
    const exported = exportedEntry({ ...EVENT, raw: 'r'.repeat(2000) }, { erased: ['actor'] });
    expect(JSON.parse(jsonText(exported, 1500)).log).toMatchObject({ erased: ['actor'], omitted: ['raw'] });
  });
});

/** Line ends and other control characters as they are shown. */
function shown(text: string): string {
  if (!UNSAFE.test(text)) return text;
  return [...text]
    .map((char) => {
      const code = char.codePointAt(0)!;
      if (!UNSAFE.test(char)) return char;
      if (code < 0x20) return String.fromCodePoint(0x2400 + code);
      return code === 0x7f ? '␡' : `<U+${code.toString(16).toUpperCase().padStart(4, '0')}>`;
    })
    .join('');
}
