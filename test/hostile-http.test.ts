/**
 * Hostile input over a socket: whatever is sent, the answer is never a 5xx and comes soon, and what is taken comes back as it was, byte
 * for byte in canonical form.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canonicalText, type JsonObject, type JsonValue } from '../src/chain/canonical.ts';
import { checkShape } from '../src/http/api-schema.ts';
import { generateEvents } from './support/events.ts';
import { type Answer, startService, type TestService } from './support/service.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const data = process.env.SEALOG_TEST_DATA;

const ANSWER_MAX_MS = 2000;
const NDJSON = { headers: { 'content-type': 'application/x-ndjson' } };

let service: TestService;
let count = 0;

beforeAll(async () => {
  service = await startService();
});

afterAll(async () => {
  await service.checkLog();
  await service.stop();
});

function event(more: JsonObject = {}): JsonObject {
  count += 1;
  return {
    id: `hostile-${count}`,
    category: 'system_operation',
    action: 'thing.happen',
    outcome: 'success',
    occurredAt: '2026-11-22T21:04:05.123+01:00',
    source: { service: 'test' },
    ...more,
  };
}

/** An event's text with these bytes as the value of `details.x`. */
function around(bytes: Uint8Array, id: string): Buffer {
  const [before, after] = JSON.stringify(event({ id, details: { x: 0 } })).split('"x":0');
  return Buffer.concat([Buffer.from(`${before}"x":`), bytes, Buffer.from(after!)]);
}

/** Sends it and fails on a 5xx, an answer that is no problem where it should be one, or one that takes long. */
async function send(path: string, body: Uint8Array | string, options = {}): Promise<Answer> {
  const start = performance.now();
  const answer = await service.post(path, body, options);
  expect(performance.now() - start).toBeLessThan(ANSWER_MAX_MS);
  expect(answer.status).toBeLessThan(500);
  if (answer.status >= 400) expect(checkShape('Problem', answer.body)).toEqual([]);
  else expect(checkShape(path === '/v1/events' ? 'Receipt' : 'BatchAnswer', answer.body)).toEqual([]);
  return answer;
}

/** What a reader gets for an id, without `log`, in canonical form; and its text must hold each part in canonical form. */
async function readCanonical(id: string, query = ''): Promise<string> {
  const { status, body, text } = await service.get(`/v1/events/${encodeURIComponent(id)}${query}`);
  expect(status).toBe(200);
  const { log: _, ...sent } = body;
  for (const name of ['actor', 'target', 'reason', 'changes', 'details', 'raw']) {
    if (name in sent) expect(text).toContain(`"${name}":${canonicalText(sent[name])}`);
  }
  return canonicalText(sent);
}

describe.skipIf(data === undefined)('JSONTestSuite over HTTP (needs SEALOG_TEST_DATA)', () => {
  const suite = join(data ?? '', 'hostile/jsontestsuite');
  const files = ['test_parsing', 'test_transform'].flatMap((folder) =>
    data === undefined ? [] : readdirSync(join(suite, folder)).map((name) => [folder, name] as const),
  );
  /** Valid JSON that is refused by a rule of Sealog's; see json-suite.test.ts. */
  const refused = /minus_zero|negative_zero|duplicated_key|escaped_null|null_escape/;

  it('has its files', () => {
    expect(files.length).toBeGreaterThan(330);
  });

  it.each(files)('%s/%s as a body, in a batch, and in the details of an event', async (folder, name) => {
    const bytes = readFileSync(join(suite, folder, name));
    const single = await send('/v1/events', bytes);
    expect([400, 413]).toContain(single.status);
    // Some expand a thousand times.
    const zipped = await send('/v1/events', gzipSync(bytes), { headers: { 'content-encoding': 'gzip' } });
    expect([single.status, 413]).toContain(zipped.status);
    await send('/v1/events/batch', bytes);
    await send('/v1/events/batch?atomic=true', bytes, NDJSON);

    const id = `suite-${folder}-${files.findIndex(([, other]) => other === name)}`;
    const body = around(bytes, id);
    const embedded = await send('/v1/events', body);
    if (name.startsWith('y_') && !refused.test(name)) expect(embedded.status).toBe(201);
    if (name.startsWith('n_') || name.startsWith('i_')) expect(embedded.status).toBe(400);
    if (embedded.status !== 201) {
      expect([400, 413]).toContain(embedded.status);
      return;
    }
    expect(await readCanonical(id)).toBe(canonicalText(JSON.parse(body.toString())));
    const again = await send('/v1/events/batch', Buffer.concat([Buffer.from('['), body, Buffer.from(']')]));
    expect(again.body.items[0].status).toBe(200);
  });
});

describe('numbers', () => {
  it.each([
    '0',
    '1',
    '-1',
    '9007199254740991',
    '-9007199254740991',
    '1.5',
    '-0.1',
    '1e21',
    '1E22',
    '1.10',
    '5e-324',
    '1.7976931348623157e308',
    '0.1e1',
    '100e-2',
    '123456789012345.6',
    '0e-400000',
  ])('%s is taken and comes back as the same number', async (number) => {
    const id = `number-${number}`.replaceAll('+', '.');
    expect((await send('/v1/events', around(Buffer.from(number), id))).status).toBe(201);
    expect(await readCanonical(id)).toContain(`"details":{"x":${canonicalText(Number(number))}}`);
  });

  it.each([
    '-0',
    '-0.0',
    '9007199254740992',
    '-9007199254740993',
    '1e400',
    '-1e400',
    '1e-400',
    '0.1000000000000000055511151231257827',
    '1.00000000000000001',
    '123456789012345678901234567890',
    `1${'0'.repeat(400)}`,
    `0.${'3'.repeat(200_000)}`,
    '9'.repeat(200_000),
    `1e${'9'.repeat(100_000)}`,
    `1e-${'9'.repeat(100_000)}`,
    'NaN',
    'Infinity',
    '0x10',
    '01',
    '+1',
    '.5',
    '5.',
    '1_000',
  ])('%.20s is refused', async (number) => {
    const { status, body } = await send('/v1/events', around(Buffer.from(number), `no-number-${count}`));
    expect([status, body.code]).toEqual([400, 'invalid_json']);
    expect(body.errors[0].field).toMatch(/^details/);
  });
});

describe('depth and width', () => {
  const nested = (open: string, close: string, depth: number) => Buffer.from(open.repeat(depth) + close.repeat(depth));

  it('32 levels are taken, 33 are refused, and any number is refused soon', async () => {
    // The event and its details are the first two.
    for (const [depth, status] of [
      [30, 201],
      [31, 400],
      [1000, 400],
      [130_000, 400],
    ] as const) {
      const id = `deep-${depth}`;
      expect((await send('/v1/events', around(nested('[', ']', depth), id))).status).toBe(status);
      const objects = await send(
        '/v1/events',
        around(Buffer.from(`${'{"a":'.repeat(depth > 40_000 ? 40_000 : depth - 1)}{}`), `${id}-cut`),
      );
      expect(objects.status).toBe(400);
    }
    for (const body of [
      nested('[', ']', 131_000),
      nested('{"a":', '}', 40_000),
      Buffer.alloc(200_000, '['),
      Buffer.alloc(200_000, '{"":'.repeat(4)),
    ]) {
      expect((await send('/v1/events', body)).status).toBe(400);
      await send('/v1/events/batch', body);
      await send('/v1/events/batch', body, NDJSON);
    }
  });

  it('30,000 members, items or escapes are taken and come back', async () => {
    const members = Object.fromEntries(Array.from({ length: 20_000 }, (_, n) => [`k${n}`, n % 10]));
    const items = Array.from({ length: 60_000 }, (_, n) => n % 10);
    const escapes = '\u0001"\\'.repeat(12_000);
    for (const details of [members, { items }, { escapes }]) {
      const sent = event({ details: details as JsonObject });
      expect((await send('/v1/events', JSON.stringify(sent))).status).toBe(201);
      expect(await readCanonical(sent.id as string)).toBe(canonicalText(sent));
    }
  });

  it('mistakes by the thousand are told in a few words', async () => {
    const many = Object.fromEntries(Array.from({ length: 12_000 }, (_, n) => [`unknown${n}`, n]));
    const operations = Array.from({ length: 9000 }, () => ({ op: 'no', path: 'x' }));
    for (const more of [
      many,
      { actor: many },
      { source: many },
      { changes: { diff: operations } },
      { actor: { type: 'u', id: 'u', roles: Array(30_000).fill('') } },
    ]) {
      const answer = await send('/v1/events', JSON.stringify(event(more as JsonObject)));
      expect(answer.status).toBe(400);
      expect(answer.body.errors.length).toBeLessThanOrEqual(20);
      expect(answer.text.length).toBeLessThan(10_000);
    }
    const long = await send('/v1/events', JSON.stringify(event({ ['x'.repeat(100_000)]: 1 })));
    expect(long.status).toBe(400);
    expect(long.text.length).toBeLessThan(1000);
  });

  it('NDJSON of nothing but line feeds, or of lines of one character, is answered soon', async () => {
    expect((await send('/v1/events/batch', Buffer.alloc(4_000_000, '\n'), NDJSON)).status).toBe(400);
    expect((await send('/v1/events/batch', Buffer.alloc(4_000_000, '[\n'), NDJSON)).status).toBe(400);
    const { status, body } = await send('/v1/events/batch', '"\n'.repeat(10_000), NDJSON);
    expect([status, body.items.length]).toEqual([200, 10_000]);
  });

  it('names that JavaScript knows are names like others', async () => {
    const names = [
      'constructor',
      'toString',
      'hasOwnProperty',
      '__defineGetter__',
      'prototype',
      'length',
      'then',
      'toJSON',
      '',
      '0',
      '-1',
      '10',
      '9',
      '\\',
      '"',
      '\u2028',
    ];
    const object = Object.fromEntries(names.map((name) => [name, { [name]: name }]));
    const sent = event({
      category: 'configuration_change',
      actor: { type: 'u', id: 'constructor', name: '__proto__' },
      target: { type: 'toString', id: '__proto__' },
      changes: { before: object, after: { ...object, toString: 1 } },
      details: object,
    });
    expect((await send('/v1/events', JSON.stringify(sent))).status).toBe(201);
    expect(await readCanonical(sent.id as string)).toBe(canonicalText(sent));
    for (const name of ['__proto__', '\\u005f_proto__']) {
      const { status, body } = await send('/v1/events', `{"details":{"${name}":1}}`);
      expect([status, body.code]).toEqual([400, 'invalid_json']);
    }
  });
});

describe('text in every field', () => {
  const TRICKS = [
    '\u00e9',
    'e\u0301',
    '\u202e\u2066abc\u2069',
    '\ufeff',
    '\u2028\u2029',
    '\ufffe\uffff',
    '\u{10ffff}\u{1f469}\u200d\u{1f680}',
    '\u0001\u001f\u007f\u0085',
    '\t\r\n',
    ' leading and trailing ',
    '"\\/\b\f',
    "'; DROP TABLE sealog.block; --",
    '%00%0a%s$(x)`x`{{x}}',
    '<script>alert(1)</script>',
    'CEF:0|a|b=c\\|d',
    '{"a":1}',
    'null',
    '\u0130\u0131\u017f\u212a',
    '\ud83d\ude00'.repeat(40),
    '__proto__',
  ];

  it.each(TRICKS)('%j comes back as it was sent, and is found', async (text) => {
    const sent = event({
      source: { service: text, host: text, site: text, zone: text },
      actor: {
        type: text,
        id: text,
        name: text,
        email: text,
        ip: text,
        sessionId: text,
        userAgent: text,
        roles: [text, text],
      },
      target: { type: text, id: text, name: text },
      reason: text,
      changes: { before: { [text === '__proto__' ? 'x' : text]: text }, after: [text] },
      details: { [text === '__proto__' ? 'x' : text]: { text } },
      raw: text,
    });
    expect((await send('/v1/events', JSON.stringify(sent))).status).toBe(201);
    expect(await readCanonical(sent.id as string)).toBe(canonicalText(sent));
    const escaped = JSON.stringify(sent).replaceAll(
      /[^\x20-\x7e]/g,
      (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
    );
    expect((await send('/v1/events', escaped)).status).toBe(200);

    for (const name of ['actor', 'target', 'service', 'site', 'ip']) {
      const { status, body } = await service.get(`/v1/events?${new URLSearchParams({ [name]: text })}`);
      expect(status).toBe(200);
      expect(body.items.map((item: JsonObject) => item.id)).toContain(sent.id);
    }
  });

  it.each(['\\ud800', '\\udc00', '\\ud800\\ud800', '\\udc00\\ud800', 'a\\u0000'])(
    '%s is refused in every field',
    async (text) => {
      for (const path of ['id', 'action', 'source.service', 'actor.id', 'target.name', 'reason', 'details.a', 'raw']) {
        const [first, second] = path.split('.') as [string, string | undefined];
        const value = second === undefined ? `"${text}"` : `{"${second}":"${text}"}`;
        const { status, body } = await send('/v1/events', `{"${first}":${value}}`);
        expect([status, body.code, body.errors[0].field]).toEqual([400, 'invalid_json', path]);
      }
    },
  );
});

describe('random events', () => {
  const text = (maxLength: number) =>
    fc.string({ unit: 'binary', minLength: 1, maxLength }).filter((one) => !one.includes('\0') && one.isWellFormed());
  const name = text(12).filter((one) => one !== '__proto__');
  const number = fc.oneof(
    fc.integer(),
    fc.maxSafeInteger(),
    fc
      .double({ noNaN: true, noDefaultInfinity: true })
      .map((one) => (one === 0 ? 0 : one))
      .filter((one) => !Number.isInteger(one) || Number.isSafeInteger(one)),
  );
  const { value } = fc.letrec<{ value: JsonValue }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 5, withCrossShrink: true },
      fc.constantFrom<JsonValue>(null, true, false, '', {}, []),
      number,
      text(30),
      fc.array(tie('value'), { maxLength: 6 }),
      fc.dictionary(name, tie('value'), { maxKeys: 6, noNullPrototype: true }),
    ) as fc.Arbitrary<JsonValue>,
  }));
  const object = fc.dictionary(name, value, { maxKeys: 8, noNullPrototype: true });
  const pad = (n: number, digits: number) => String(n).padStart(digits, '0');
  const time = fc
    .tuple(
      fc.integer({ min: 2, max: 9998 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 28 }),
      fc.nat(23),
      fc.nat(59),
      fc.nat(59),
      fc.string({ unit: fc.constantFrom(...'0123456789'), maxLength: 9 }),
      fc.constantFrom('Z', '+01:00', '-00:00', '-23:59', '+14:00'),
    )
    .map(
      ([year, month, day, hour, minute, second, fraction, zone]) =>
        `${pad(year, 4)}-${pad(month, 2)}-${pad(day, 2)}T${pad(hour, 2)}:${pad(minute, 2)}:${pad(second, 2)}${fraction === '' ? '' : `.${fraction}`}${zone}`,
    );
  const optional = { requiredKeys: [] as [] };
  const actor = fc.record(
    {
      type: text(20),
      id: text(40),
      name: text(40),
      email: text(40),
      ip: fc.oneof(fc.ipV4(), fc.ipV6(), text(40)),
      sessionId: text(20),
      userAgent: text(60),
      roles: fc.array(text(20), { maxLength: 4 }),
    },
    { requiredKeys: ['type', 'id'] },
  );
  const target = fc.record({ type: text(20), id: text(40), name: text(40) }, { requiredKeys: ['type', 'id'] });
  const common = {
    outcome: fc.constantFrom('success', 'failure', 'unknown'),
    action: fc.stringMatching(/^[a-z][a-z0-9_]{0,9}(\.[a-z0-9_]{1,9}){1,4}$/),
    occurredAt: time,
    source: fc.record(
      { service: text(60), host: text(60), site: text(60), zone: text(60) },
      { requiredKeys: ['service'] },
    ),
  };
  const others = fc.record(
    {
      reason: text(60),
      details: object,
      raw: fc.oneof(
        text(200),
        fc.constant(''),
        fc
          .uint8Array({ minLength: 1, maxLength: 50 })
          .map((bytes) => ({ base64: Buffer.from(bytes).toString('base64') })),
      ),
    },
    optional,
  );
  const anyEvent = fc
    .oneof(
      fc.record({ category: fc.constant('user_authentication'), ...common, actor }),
      fc.record({ category: fc.constant('data_access'), ...common, actor, target }),
      fc.record({
        category: fc.constant('configuration_change'),
        ...common,
        actor,
        target,
        changes: fc.record({ before: value, after: value }),
      }),
      fc.record({
        category: fc.constant('data_modification'),
        ...common,
        actor,
        target,
        changes: fc.record({ before: value, after: value }),
      }),
      fc.record({ category: fc.constant('security_event'), ...common, severity: fc.nat(10) }),
      fc.record(
        {
          category: fc.constant('system_operation'),
          ...common,
          severity: fc.nat(10),
          actor,
          target,
          changes: fc.record({ before: value, after: value }, { requiredKeys: ['before'] }),
        },
        { requiredKeys: ['category', 'outcome', 'action', 'occurredAt', 'source'] },
      ),
    )
    .chain((one) => others.map((more) => ({ ...one, ...more }) as unknown as JsonObject));

  it('come back as they were accepted, singly and in batches of every kind', async () => {
    let batches = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(anyEvent, { minLength: 1, maxLength: 12 }), async (some) => {
        batches += 1;
        const events: JsonObject[] = some.map((one) => event(one));
        const array = JSON.stringify(events);
        const lines = events.map((one) => JSON.stringify(one)).join('\n');
        let answer: Answer;
        if (batches % 4 === 0) answer = await send('/v1/events/batch', array);
        else if (batches % 4 === 1) answer = await send('/v1/events/batch', lines, NDJSON);
        else if (batches % 4 === 2)
          answer = await send('/v1/events/batch?atomic=true', gzipSync(array), {
            headers: { 'content-encoding': 'gzip' },
          });
        else {
          for (const one of events) expect((await send('/v1/events', JSON.stringify(one))).status).toBe(201);
          answer = await send('/v1/events/batch', array);
        }
        expect(answer.body.items.filter((item: JsonObject) => (item.status as number) >= 400)).toEqual([]);
        for (const one of events) expect(await readCanonical(one.id as string)).toBe(canonicalText(one));
        // Sent again in canonical form they are the same events.
        const again = await send('/v1/events/batch', `[${events.map((one) => canonicalText(one)).join(',')}]`);
        expect(again.body.items.map((item: JsonObject) => item.status)).toEqual(events.map(() => 200));
        expect(again.body.items.map(({ status: _, ...receipt }: JsonObject) => receipt)).toEqual(
          answer.body.items.map(({ status: _, ...receipt }: JsonObject) => receipt),
        );
      }),
      { seed: 2026, numRuns: HARD ? 70 : 15 },
    );
    const { body } = await service.get('/v1/events?limit=1000');
    expect(checkShape('EventPage', body)).toEqual([]);
  });

  it('with any member replaced by any value are taken unchanged or refused with the place', async () => {
    const paths = [
      'id',
      'category',
      'action',
      'outcome',
      'severity',
      'occurredAt',
      'source',
      'source.service',
      'actor',
      'actor.id',
      'actor.roles',
      'target',
      'target.name',
      'reason',
      'changes',
      'changes.before',
      'details',
      'raw',
      'new',
      'actor.new',
    ];
    await fc.assert(
      fc.asyncProperty(
        anyEvent,
        fc.constantFrom(...paths),
        fc.oneof(
          value,
          fc.constantFrom<JsonValue>(
            '.',
            'x',
            11,
            -1,
            1.5,
            [],
            { base64: '' },
            { base64: 'AB==' },
            '2026-02-30T00:00:00Z',
          ),
        ),
        async (one, path, wrong) => {
          const sent = event(one);
          const [first, second] = path.split('.') as [string, string | undefined];
          if (second === undefined) sent[first] = wrong;
          else sent[first] = { ...(sent[first] as JsonObject | undefined), [second]: wrong };
          const answer = await send('/v1/events', JSON.stringify(sent));
          if (answer.status >= 400) {
            expect([answer.status, answer.body.code]).toEqual([400, 'invalid_event']);
            for (const { field, message } of answer.body.errors)
              expect([typeof field, typeof message]).toEqual(['string', 'string']);
          } else {
            const id = typeof sent.id === 'string' ? sent.id : answer.body.id;
            expect(await readCanonical(id, `?category=${sent.category}`)).toBe(canonicalText({ ...sent, id }));
          }
        },
      ),
      { seed: 7, numRuns: 300 },
    );
  });

  it('with bytes broken anywhere are taken as they are or refused', async () => {
    const texts = generateEvents({ seed: 13, count: 20 }).map((one) => Buffer.from(JSON.stringify(one)));
    const wound = fc.record({
      at: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
      remove: fc.nat(6),
      insert: fc.oneof(
        fc.uint8Array({ maxLength: 4 }),
        fc
          .constantFrom(
            '"',
            '{',
            '}',
            '[',
            ']',
            ',',
            ':',
            '\\',
            '\\u',
            '\\ud800',
            '-',
            '0',
            'e',
            '\u0000',
            '\n',
            '\ufeff',
            '1e999',
            '"a":1,',
            '"id":"x",',
            'null',
          )
          .map((one) => Buffer.from(one)),
      ),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.nat(19),
        fc.array(wound, { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        async (which, wounds, asLine) => {
          let bytes = texts[which]!;
          for (const { at, remove, insert } of wounds) {
            const place = Math.floor(at * bytes.length);
            bytes = Buffer.concat([bytes.subarray(0, place), insert, bytes.subarray(place + remove)]);
          }
          const answer = asLine ? await send('/v1/events/batch', bytes, NDJSON) : await send('/v1/events', bytes);
          if (!asLine && answer.status < 300) {
            const sent = JSON.parse(bytes.toString());
            expect(await readCanonical(answer.body.id, `?category=${sent.category}`)).toBe(
              canonicalText({ id: answer.body.id, ...sent }),
            );
          }
        },
      ),
      { seed: 99, numRuns: 400 },
    );
  });
});

describe('random addresses', () => {
  it('are answered without a 5xx', async () => {
    const piece = fc.oneof(
      fc.constantFrom(
        'category',
        'actor',
        'limit',
        'cursor',
        'from',
        'to',
        'ip',
        'severityMin',
        'order',
        '=',
        '&',
        '%',
        '%00',
        '%ff',
        '%2e',
        '+',
        '?',
        '..',
        '/',
        'asc',
        '10',
        '2026-01-01T00:00:00Z',
        '::1',
        '[]',
        ';',
      ),
      fc.string({ unit: 'grapheme-ascii', maxLength: 5 }).map((one) => one.replaceAll(/[\x00-\x20\x7f#]/g, '')),
      fc
        .string({ unit: 'binary', maxLength: 3 })
        .filter((one) => one.isWellFormed())
        .map(encodeURIComponent),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('/v1/events?', '/v1/events/', '/v1/events/x?', '/v1/streams?', '/v1/events?cursor='),
        fc.array(piece, { maxLength: 12 }),
        async (start, pieces) => {
          const answer = await service.get(`${start}${pieces.join('')}`);
          expect(answer.status).toBeLessThan(500);
          if (answer.status >= 400) expect(checkShape('Problem', answer.body)).toEqual([]);
        },
      ),
      { seed: 5, numRuns: 400 },
    );
  });
});
