/** CEF: what an independent reader of the format makes of real and hostile events, held to what was sent. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { canonicalText, type JsonObject, type JsonValue } from '../src/chain/canonical.ts';
import { CATEGORIES } from '../src/chain/category.ts';
import { changesDiff } from '../src/chain/entry-view.ts';
import { CEF_FIELDS, cefText } from '../src/export/cef.ts';
import { CSV_COLUMNS } from '../src/export/csv.ts';
import { type ExportedEntry, SEVERITY_DEFAULTS } from '../src/export/exported-entry.ts';
import { TooLongError } from '../src/export/too-long-error.ts';
import { FORMAT_PAGES, tablesOf, withFormatTables } from '../tools/format-tables.ts';
import { type DecodedCef, decodeCef, splunkPairs } from './support/cef-decoder.ts';
import { corpusEvents, manyOf, TEST_DATA } from './support/corpus.ts';
import { generateEvents } from './support/events.ts';
import { exportedEntry, exportedStream } from './support/exported.ts';
import { hostileEvent } from './support/hostile-events.ts';
import { seededRandom } from './support/hostile-strings.ts';

const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;
const ZEROS = '0'.repeat(64);

const LOGIN: JsonObject = {
  id: '0199a4c2-7be1-7c53-9d0e-5f1b8a3c6d24',
  category: 'user_authentication',
  action: 'user.login',
  outcome: 'failure',
  occurredAt: '2026-11-22T21:04:05.123+01:00',
  source: { service: 'identity', host: 'idp-2', site: 'plant-7' },
  actor: { type: 'user', id: 'u-4711', email: 'm.kern@example.com', ip: '192.0.2.17' },
  details: { method: 'password', attempt: 2 },
};

function cef(event: JsonObject, options = {}): DecodedCef {
  return decodeCef(cefText(exportedEntry({ ...LOGIN, ...event }, options)));
}

/** Fields of the line as an object, to compare with. */
function fieldsOf(event: JsonObject, options = {}): Record<string, string> {
  return Object.fromEntries(cef(event, options).fields);
}

describe('lines written by hand', () => {
  it('a failed login', () => {
    const exported = exportedEntry(LOGIN, { seq: 17, previous: 'ab'.repeat(32) });
    expect(cefText(exported)).toBe(
      'CEF:0|Sealog|Sealog|1|user.login|User login|5|rt=1795377845123 ' +
        'externalId=0199a4c2-7be1-7c53-9d0e-5f1b8a3c6d24 deviceExternalId=acme/user_authentication ' +
        `cn1Label=seq cn1=17 cs1Label=hash cs1=${exported.entry.hash} flexString1Label=previous flexString1=${'ab'.repeat(32)} ` +
        'deviceCustomDate1Label=recordedAt deviceCustomDate1=1795377845310 cat=user_authentication act=user.login ' +
        'outcome=failure flexString2Label=notes flexString2=severity:default suid=u-4711 cs2Label=actorEmail ' +
        'cs2=m.kern@example.com src=192.0.2.17 sourceServiceName=identity dvchost=idp-2 deviceFacility=plant-7 ' +
        'cs3Label=more cs3={"actor":{"type":"user"},"occurredAt":"2026-11-22T21:04:05.123+01:00"} ' +
        'cs5Label=details cs5={"attempt":2,"method":"password"}',
    );
  });

  it('a changed account, with everything that has a meaning in CEF in it', () => {
    const event = {
      id: 'x1',
      category: 'configuration_change',
      action: 'user.update',
      outcome: 'success',
      severity: 4,
      occurredAt: '2026-11-22T20:04:05Z',
      source: { service: 'a=b', zone: 'L3' },
      actor: {
        type: 'user',
        id: 'DOMAIN\\user',
        name: ' M|K ',
        ip: '2001:db8::17',
        roles: ['a', 'b'],
        userAgent: 'x\ty',
      },
      target: { type: 'user', id: 'a\\=\nb', name: 'r\r\nn' },
      reason: '\u202eevil cs1=0',
      changes: { before: { a: 1 }, after: { a: '=\u2028' } },
      raw: 'tail\\',
    };
    const exported = exportedEntry(event);
    expect(cefText(exported)).toBe(
      'CEF:0|Sealog|Sealog|1|user.update|User update|4|rt=1795377845000 externalId=x1 ' +
        `deviceExternalId=acme/configuration_change cn1Label=seq cn1=0 cs1Label=hash cs1=${exported.entry.hash} ` +
        `flexString1Label=previous flexString1=${ZEROS} deviceCustomDate1Label=recordedAt ` +
        'deviceCustomDate1=1795377845310 cat=configuration_change act=user.update outcome=success ' +
        'flexString2Label=notes flexString2=replaced:actor.name,actor.userAgent,reason suid=DOMAIN\\\\user suser=␠M|K␠ ' +
        'spriv=a,b c6a2Label=Source IPv6 Address c6a2=2001:db8::17 requestClientApplication=x␉y fileType=user ' +
        'fileId=a\\\\\\=\\nb fname=r\\r\\nn duid=a\\\\\\=\\nb duser=r\\r\\nn sourceServiceName=a\\=b ' +
        'reason=<U+202E>evil cs1\\=0 cs3Label=more ' +
        'cs3={"actor":{"type":"user"},"occurredAt":"2026-11-22T20:04:05Z","source":{"zone":"L3"}} ' +
        'cs4Label=changes cs4={"after":{"a":"\\=\\\\u2028"},"before":{"a":1}} rawEvent=tail\\\\',
    );
  });

  it('the reader takes the line of another writer, and refuses what receivers choke on', () => {
    const { fields, name } = decodeCef('CEF:0|A\\|c|P|1|id|n x|5|msg=a\\\\b\\=c|d\\ne');
    expect([name, fields.get('msg')]).toEqual(['n x', 'a\\b=c|d\ne']);
    for (const line of [
      'CEF: 0|a|b|1|c|d|5|',
      'CEF:1|a|b|1|c|d|5|',
      'CEF:0|a|b|1|c|d|5',
      'CEF:0|a|b|1|c|d|11|',
      'CEF:0|a|b|1|c|d|5|msg=a\\|b',
      'CEF:0|a|b|1|c|d|5|msg=a\\',
      'CEF:0|a|b|1|c|d|5|msg=a=b',
      'CEF:0|a|b|1|c|d|5|msg= a',
      'CEF:0|a|b|1|c|d|5|msg=a ',
      'CEF:0|a|b|1|c|d|5|msg=',
      'CEF:0|a|b|1|c|d|5|a=1 a=2',
      'CEF:0|a|b|1|c|d|5|a-b=1',
      'CEF:0|a|b|1|c|d|5|cs1=1',
      'CEF:0|a|b|1|c|d|5|a=1\tb=2',
    ])
      expect(() => decodeCef(line), line).toThrow();
  });
});

describe('what arrives is what was sent', () => {
  it.skipIf(TEST_DATA === undefined)('of the real events', { timeout: 120_000 }, () => {
    const lines = { all: 0, shortened: 0, longest: 0 };
    for (const exported of exportedStream(corpusEvents())) {
      const line = checkLine(exported);
      lines.all += 1;
      lines.longest = Math.max(lines.longest, Buffer.byteLength(line));
      if (line.includes(' shortened:') || line.includes('=shortened:')) lines.shortened += 1;
    }
    expect(lines.all).toBeGreaterThan(manyOf(80_000));
    process.stderr.write(
      `CEF: ${lines.all} real events, ${lines.shortened} with a shortened field, the longest line ${lines.longest} bytes\n`,
    );
  });

  it('of generated events', () => {
    for (const event of generateEvents({ seed: 3, count: 2000 }))
      checkLine(exportedEntry(event as unknown as JsonObject));
  });

  it('of hostile ones, whose values no other reader finds other keys in', { timeout: 120_000 }, () => {
    const random = seededRandom(2);
    for (let i = 0; i < manyOf(10_000); i++) {
      const erased = random() < 0.1 ? (['actor', 'raw'] as const) : [];
      const line = checkLine(
        exportedEntry(hostileEvent(random), { erased, seq: i, retainUntil: '2027-11-22T20:04:05.310Z' }),
      );
      expect(splunkPairs(line)).toEqual(new Map(decodeCef(line).written));
    }
  });

  it('of a long time: exact digits', () => {
    expect(fieldsOf({}, { seq: Number.MAX_SAFE_INTEGER })['cn1']).toBe('9007199254740991');
    expect(fieldsOf({ occurredAt: '9999-12-31T23:59:59.999999999Z' })['rt']).toBe('253402300799999');
    const before = fieldsOf({ occurredAt: '1969-12-31T23:59:59.999Z' });
    expect(before['rt']).toBeUndefined();
    expect(JSON.parse(before['cs3']!)).toMatchObject({ occurredAt: '1969-12-31T23:59:59.999Z' });
  });
});

describe('a field', () => {
  it('externalId takes 40 characters; a longer id is a hash there, which no id can be, and whole in cs6', () => {
    const forty = 'i'.repeat(40);
    expect(fieldsOf({ id: forty })).toMatchObject({ externalId: forty });
    expect(fieldsOf({ id: forty })['cs6']).toBeUndefined();
    const id = 'i'.repeat(41);
    const hash = createHash('sha256').update(id).digest('hex');
    expect(fieldsOf({ id })).toMatchObject({ externalId: `#${hash.slice(0, 39)}`, cs6: id, cs6Label: 'eventId' });
  });

  it('src holds an IPv4 address, c6a2 one of IPv6, and what is neither stands in more', () => {
    const ip = (text: string) => {
      const { src, c6a2, cs3 } = fieldsOf({ actor: { type: 'user', id: 'u', ip: text } });
      return [src, c6a2, JSON.parse(cs3!).actor.ip];
    };
    expect(ip('192.0.2.1')).toEqual(['192.0.2.1', undefined, undefined]);
    expect(ip('::1')).toEqual([undefined, '::1', undefined]);
    for (const text of ['fe80::1%eth0', '010.0.0.1', '10.0.0.1:443', 'localhost', '::1 cs1=0'])
      expect(ip(text)).toEqual([undefined, undefined, text]);
  });

  it('spriv tells two roles from one with a comma', () => {
    const spriv = (...roles: string[]) => fieldsOf({ actor: { type: 'user', id: 'u', roles } })['spriv'];
    expect(spriv('a', 'b')).toBe('a,b');
    expect(spriv('a,b')).toBe('["a,b"]');
    expect(spriv('["a"]')).toBe('["[\\"a\\"]"]');
    expect(spriv()).toBeUndefined();
  });

  it('duid and duser are there for accounts only', () => {
    const target = (type: string) => fieldsOf({ target: { type, id: 'i', name: 'n' } });
    expect(target('service_account')).toMatchObject({
      duid: 'i',
      duser: 'n',
      fileId: 'i',
      fname: 'n',
      fileType: 'service_account',
    });
    expect(target('useragent')['duid']).toBeUndefined();
  });

  it('rawEvent holds bytes in base64 and says so; an empty text is said too', () => {
    expect(fieldsOf({ raw: { base64: 'AA==' } })).toMatchObject({
      rawEvent: 'AA==',
      flexString2: 'severity:default base64:raw',
    });
    expect(fieldsOf({ raw: '' })['flexString2']).toBe('severity:default empty:raw');
  });

  it('blanks at an edge are shown, also if there is nothing else', () => {
    const id = (text: string) => fieldsOf({ actor: { type: 'user', id: text } })['suid'];
    expect(id(' admin')).toBe('␠admin');
    expect(id('admin\u00a0 ')).toBe('admin<U+00A0>␠');
    expect(id('  ')).toBe('␠␠');
    expect(id('\t')).toBe('␉');
    expect(id('\n x')).toBe('\n x');
    expect(id('x \n')).toBe('x \n');
  });

  it('what was erased is said, and what was not sent', () => {
    const fields = fieldsOf({}, { erased: ['actor', 'details'], evidence: 'incomplete' });
    expect(fields['flexString2']).toBe('severity:default evidence:incomplete erased:actor,details');
    expect(Object.keys(fields)).not.toEqual(expect.arrayContaining(['suid']));
    expect(fields['cs5']).toBeUndefined();
  });

  it('severity is the sent one, else that of its category and outcome', () => {
    expect(cef({ severity: 0 }).severity).toBe(0);
    expect(cef({ severity: 10 }).fields.has('flexString2')).toBe(false);
    for (const [category, defaults] of Object.entries(SEVERITY_DEFAULTS))
      for (const [outcome, severity] of Object.entries(defaults))
        expect(cef({ category, outcome }).severity).toBe(severity);
  });

  it('parts of a shape that no client can send do no harm', () => {
    const odd = [null, 1, 'text', [], ['a'], {}, { id: 1, roles: 'x', ip: {} }, { id: '', type: '' }];
    for (const value of odd) {
      const event = {
        ...LOGIN,
        actor: value,
        target: value,
        reason: value,
        raw: value,
        details: value,
        changes: value,
      };
      const { fields } = decodeCef(cefText(exportedEntry(event as JsonObject)));
      if (typeof value !== 'object' || Array.isArray(value))
        expect(JSON.parse(fields.get('cs3')!).actor).toEqual(value);
    }
  });
});

describe('changes that are too long', () => {
  const many = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`member ${i}`, 'value']));
  const changes = { before: many, after: { ...many, 'member 7': 'other' } };
  const target = { type: 'role', id: 'r' };

  it.each(['configuration_change', 'data_modification'])('of %s are shown as their difference', (category) => {
    const fields = fieldsOf({ category, target, changes });
    expect(fields).toMatchObject({ cs4Label: 'diff', flexString2: expect.stringContaining('shortened:changes') });
    expect(JSON.parse(fields['cs4']!)).toEqual([{ op: 'replace', path: '/member 7', value: 'other' }]);
  });

  it('are cut where the difference is no shorter, or was sent', () => {
    const long = 'x'.repeat(5000);
    for (const given of [
      { before: null, after: long },
      { before: 1, after: 2, diff: [{ op: 'add', path: '/a', value: long }] },
    ]) {
      const fields = fieldsOf({ category: 'configuration_change', target, changes: given });
      expect(fields['flexString2']).toContain('shortened:changes');
      expect(canonicalText({ ...given }).startsWith(fields['cs4']!)).toBe(true);
    }
  });
});

describe('a value that is too long', () => {
  it.each([
    ['of one byte', 'a', 1023],
    ['of two', 'é', 1022],
    ['of three', '漢', 1023],
    ['of four', '👩', 1020],
    ['with an escape', '\\', 1022],
    ['with a line end', '\n', 1022],
    ['with a picture', '\u0007', 1023],
  ])('is cut between characters: %s', (_name, char, bytes) => {
    for (let prefix = 0; prefix < 8; prefix++) {
      const id = 'x'.repeat(prefix) + char.repeat(2000);
      const { written, fields } = cef({ actor: { type: 'user', id } });
      const length = Buffer.byteLength(written.get('suid')!);
      expect(length).toBeLessThanOrEqual(1023);
      expect(length).toBeGreaterThan(1023 - 4);
      if (prefix === 0) expect(length).toBe(bytes);
      expect(fields.get('flexString2')).toMatch(/(^| )shortened:actor\.id$/);
      expect(fields.get('suid')!.isWellFormed()).toBe(true);
    }
  });

  it('is not cut when it has exactly the length', () => {
    for (const [id, cut] of [
      ['x'.repeat(1023), false],
      [`${'x'.repeat(1021)}\\`, false],
      [`${'x'.repeat(1022)}\\`, true],
    ] as const)
      expect(
        cef({ actor: { type: 'user', id } })
          .fields.get('flexString2')!
          .includes('shortened'),
      ).toBe(cut);
  });

  it('has no blank at its new edge', () => {
    const { written } = cef({ reason: `${'x'.repeat(1000)}${' '.repeat(100)}y` });
    expect(written.get('reason')).toBe('x'.repeat(1000));
  });

  it('is cut in time that grows with its length only', () => {
    const long = { raw: `${' '.repeat(200_000)}x${' '.repeat(50_000)}`, details: { a: '\\'.repeat(200_000) } };
    const exported = exportedEntry({ ...LOGIN, ...long });
    const started = performance.now();
    for (let i = 0; i < 3; i++) cefText(exported);
    // Some 20 ms each; what grows with the square of a length would take minutes.
    expect(performance.now() - started).toBeLessThan(5000);
  });
});

describe('a line with a maximum', () => {
  it('is the whole line where that fits', () => {
    const exported = exportedEntry(LOGIN);
    const whole = cefText(exported);
    expect(cefText(exported, Buffer.byteLength(whole))).toBe(whole);
    expect(cefText(exported, Buffer.byteLength(whole) - 1)).not.toBe(whole);
  });

  it('keeps what identifies the event, says what is missing, and never cuts without saying it', {
    timeout: 120_000,
  }, () => {
    const random = seededRandom(3);
    let tooLong = 0;
    for (let i = 0; i < manyOf(5000); i++) {
      const exported = exportedEntry(hostileEvent(random));
      const max = 500 + Math.floor(random() ** 2 * 12_000);
      const whole = decodeCef(cefText(exported));
      let line: string;
      try {
        line = cefText(exported, max);
      } catch (error) {
        expect(error).toBeInstanceOf(TooLongError);
        expect(error).toMatchObject({ maxBytes: max });
        expect((error as TooLongError).neededBytes).toBeGreaterThan(max);
        // And with that many bytes it goes.
        expect(Buffer.byteLength(cefText(exported, (error as TooLongError).neededBytes))).toBeLessThanOrEqual(
          (error as TooLongError).neededBytes,
        );
        tooLong += 1;
        continue;
      }
      expect(Buffer.byteLength(line)).toBeLessThanOrEqual(max);
      const short = decodeCef(line);
      const shortened = listIn(short, 'shortened');
      for (const { key, from, kept } of CEF_FIELDS) {
        const before = whole.written.get(key);
        const now = short.written.get(key);
        if (before === now) continue;
        expect(kept).toBeUndefined();
        expect(before!.startsWith(now ?? '')).toBe(true);
        expect(shortened, `${key} of ${line}`).toEqual(
          expect.arrayContaining([key === 'cs4' ? expect.stringMatching(/changes|diff/) : from]),
        );
      }
      expect([...short.written.keys()].every((key) => whole.written.has(key) || key.startsWith('flexString2'))).toBe(
        true,
      );
    }
    expect(tooLong).toBeGreaterThan(50);
    expect(tooLong).toBeLessThan(2500);
  });

  it('cuts the longest, and leaves short ones whole', () => {
    const event = { ...LOGIN, details: { a: 'a'.repeat(3000) }, raw: 'r'.repeat(3500), reason: 'short' };
    const short = decodeCef(cefText(exportedEntry(event), 2500));
    expect(listIn(short, 'shortened')).toEqual(['details', 'raw']);
    expect(short.fields.get('reason')).toBe('short');
    const [details, raw] = ['cs5', 'rawEvent'].map((key) => short.written.get(key)!.length);
    expect(Math.abs(details! - raw!)).toBeLessThan(2);
    // Nothing to speak of is wasted.
    expect(Buffer.byteLength(cefText(exportedEntry(event), 2500))).toBeGreaterThan(2200);
  });
});

describe('the pages', () => {
  const pages = FORMAT_PAGES.map((url) => readFileSync(url, 'utf8'));

  it('have the tables of now: `node tools/format-tables.ts` writes them', () => {
    for (const page of pages) expect(withFormatTables(page)).toBe(page);
    expect(pages.flatMap(tablesOf)).toEqual(
      expect.arrayContaining([
        'cef-fields',
        'severities',
        'ocsf-classes',
        ...CATEGORIES.map((category) => `cef-${category}`),
      ]),
    );
  });

  it('name all columns of CSV, in order', () => {
    const page = readFileSync(new URL('siem-formats.md', FORMAT_PAGES[0]), 'utf8');
    expect(page.replace(/\n/g, ' ')).toContain(CSV_COLUMNS.map((name) => `\`${name}\``).join(' '));
  });
});

/** Checks a line against its event: the event built anew from the fields is the event, but for what the notes say. */
function checkLine(exported: ExportedEntry): string {
  const line = cefText(exported);
  assert(!UNSAFE.test(line));
  const decoded = decodeCef(line);
  const { entry, stream } = exported;
  const { record } = entry;
  const { fields, written } = decoded;
  assert.deepEqual(
    [decoded.vendor, decoded.product, decoded.version, decoded.eventClass],
    ['Sealog', 'Sealog', '1', record.action],
  );
  assert.equal(fields.get('deviceExternalId'), stream.name);
  assert.equal(fields.get('cn1'), String(record.seq));
  assert.equal(fields.get('cs1'), entry.hash);
  assert.equal(fields.get('flexString1'), record.previous);
  assert.equal(fields.get('deviceCustomDate1'), String(Date.parse(record.recordedAt)));
  for (const { key, maxBytes } of CEF_FIELDS) assert(Buffer.byteLength(written.get(key) ?? '') <= maxBytes);

  const erased = entry.parts.filter((part) => !('value' in part)).map(({ name }) => name as string);
  assert.deepEqual(listIn(decoded, 'erased'), erased);
  const parts = Object.fromEntries(
    entry.parts.flatMap((part) =>
      'value' in part ? [[part.name, JSON.parse(Buffer.from(part.value).toString()) as JsonValue]] : [],
    ),
  );
  const shortened = listIn(decoded, 'shortened');
  const replaced = listIn(decoded, 'replaced');
  const more = shortened.includes('more') ? undefined : (JSON.parse(fields.get('cs3')!) as JsonObject);

  /** A text that stands in a field of its own. */
  const checkText = (from: string, key: string, sent: JsonValue | undefined): void => {
    if (typeof sent !== 'string' || sent === '') {
      assert.equal(fields.get(key), undefined);
      return;
    }
    const shown = shownText(sent);
    if (shortened.includes(from)) assert(shown.startsWith(fields.get(key)!));
    else assert.equal(fields.get(key), shown);
    if (shown !== sent) assert(replaced.includes(from));
  };
  const actor = (parts['actor'] ?? {}) as JsonObject;
  const target = (parts['target'] ?? {}) as JsonObject;
  const isAccount = /(^|_)(user|account)$/i.test((target['type'] as string | undefined) ?? '');
  checkText('actor.id', 'suid', actor['id']);
  checkText('actor.name', 'suser', actor['name']);
  checkText('actor.email', 'cs2', actor['email']);
  checkText('actor.userAgent', 'requestClientApplication', actor['userAgent']);
  checkText('target.type', 'fileType', target['type']);
  checkText('target.id', 'fileId', target['id']);
  checkText('target.name', 'fname', target['name']);
  checkText('target.id', 'duid', isAccount ? target['id'] : undefined);
  checkText('target.name', 'duser', isAccount ? target['name'] : undefined);
  checkText('source.service', 'sourceServiceName', record.source['service']);
  checkText('source.host', 'dvchost', record.source['host']);
  checkText('source.site', 'deviceFacility', record.source['site']);
  checkText('reason', 'reason', parts['reason']);
  const raw = parts['raw'] as string | JsonObject | undefined;
  checkText('raw', 'rawEvent', typeof raw === 'object' ? raw['base64'] : raw);

  const checkJson = (from: string, key: string, sent: JsonValue | undefined): void => {
    if (sent === undefined) assert.equal(fields.get(key), undefined);
    else if (shortened.includes(from)) assert(shownJson(canonicalText(sent)).startsWith(fields.get(key)!));
    else assert.deepEqual(JSON.parse(fields.get(key)!), sent);
  };
  checkJson('details', 'cs5', parts['details']);
  if (fields.get('cs4Label') === 'diff') {
    assert(shortened.includes('changes'));
    const diff = changesDiff(entry)!;
    if (shortened.includes('diff')) assert(shownJson(JSON.stringify(diff)).startsWith(fields.get('cs4')!));
    else assert.deepEqual(JSON.parse(fields.get('cs4')!), diff);
  } else checkJson('changes', 'cs4', parts['changes']);

  const roles = actor['roles'] as string[] | undefined;
  const spriv = fields.get('spriv');
  if (spriv !== undefined && !shortened.includes('actor.roles') && !replaced.includes('actor.roles'))
    assert.deepEqual(spriv.startsWith('[') ? JSON.parse(spriv) : spriv.split(','), roles);

  if (more !== undefined) {
    // What stands in fields of its own, and the rest, are together what was sent.
    const own = {
      id: 0,
      name: 0,
      email: 0,
      userAgent: 0,
      ...(spriv === undefined ? {} : { roles: 0 }),
      ...(fields.has('src') || fields.has('c6a2') ? { ip: 0 } : {}),
    };
    assert.deepEqual(more['actor'] ?? {}, without(actor, own));
    assert.deepEqual(more['target'] ?? {}, without(target, { type: 0, id: 0, name: 0 }));
    assert.deepEqual(more['source'] ?? {}, without(record.source, { service: 0, host: 0, site: 0 }));
    assert.equal(more['occurredAt'], record.occurredAt);
    assert.equal(more['retainUntil'], record.retainUntil);
  }
  const ip = fields.get('src') ?? fields.get('c6a2');
  if (ip !== undefined) assert.equal(ip, actor['ip']);
  assert.equal(fields.get('rt'), Date.parse(record.occurredAt) < 0 ? undefined : String(Date.parse(record.occurredAt)));
  assert.equal(fields.get('cs6') ?? fields.get('externalId'), record.id);
  assert.deepEqual(
    [fields.get('cat'), fields.get('act'), fields.get('outcome')],
    [stream.category, record.action, record.outcome],
  );
  const isDefault = (fields.get('flexString2') ?? '').split(' ').includes('severity:default');
  assert.equal(isDefault, record.severity === undefined);
  if (!isDefault) assert.equal(decoded.severity, record.severity);
  return line;
}

function without(object: JsonObject, names: object): JsonObject {
  return Object.fromEntries(Object.entries(object).filter(([name]) => !Object.hasOwn(names, name)));
}

/** The names behind a word of the notes. */
function listIn({ fields }: DecodedCef, word: string): string[] {
  const note = (fields.get('flexString2') ?? '').split(' ').find((one) => one.startsWith(`${word}:`));
  return note === undefined ? [] : note.slice(word.length + 1).split(',');
}

/** What docs/cef.md says is shown instead of a text, character by character. */
function shownText(text: string): string {
  if (text.trim() === text && !/[\u0000-\u0009\u000b\u000c\u000e-\u001f\u007f-\uffff]/.test(text)) return text;
  const chars = [...text].map((char) => {
    const code = char.codePointAt(0)!;
    if (char === '\n' || char === '\r' || !UNSAFE.test(char)) return char;
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return code === 0x7f ? '␡' : `<U+${code.toString(16).toUpperCase().padStart(4, '0')}>`;
  });
  const blank = (char: string | undefined) =>
    char !== undefined && char !== '\n' && char !== '\r' && char.trim() === '';
  const show = (char: string) =>
    char === ' ' ? '␠' : `<U+${char.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}>`;
  for (let at = 0; blank(chars[at]); at++) chars[at] = show(chars[at]!);
  for (let at = chars.length - 1; blank(chars[at]); at--) chars[at] = show(chars[at]!);
  return chars.join('');
}

/** The same of JSON, where an escape says it. */
function shownJson(text: string): string {
  return [...text]
    .map((char) => (UNSAFE.test(char) ? `\\u${char.codePointAt(0)!.toString(16).padStart(4, '0')}` : char))
    .join('');
}
