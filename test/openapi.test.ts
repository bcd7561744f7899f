import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PERMISSIONS } from '../src/auth/roles.ts';
import { CATEGORIES, CLIENT_CATEGORIES, OUTCOMES } from '../src/chain/category.ts';
import { isTimestamp } from '../src/chain/timestamp.ts';
import { PROBLEMS, Problem } from '../src/errors.ts';
import { checkShape, declaredOperations, validateEvent, validatePath, validateQuery } from '../src/http/api-schema.ts';
import { documentText, generateTypes, loadApiDocument } from '../tools/openapi-types.ts';

type Json = Record<string, unknown>;

const actor = { type: 'user', id: 'u-4711' };
const target = { type: 'role', id: 'shift_supervisor' };
const common = {
  id: '0199a4c2-7be1-7c53-9d0e-5f1b8a3c6d24',
  outcome: 'success',
  occurredAt: '2026-11-22T21:04:05.123+01:00',
  source: { service: 'mes-gateway' },
};
/** For each category an event with exactly what it demands. */
const LEAST: Record<string, Json> = {
  user_authentication: { ...common, category: 'user_authentication', action: 'user.login', actor },
  data_access: { ...common, category: 'data_access', action: 'report.view', actor, target },
  configuration_change: {
    ...common,
    category: 'configuration_change',
    action: 'role.update',
    actor,
    target,
    changes: { before: null, after: {} },
  },
  data_modification: {
    ...common,
    category: 'data_modification',
    action: 'dataset.delete',
    actor,
    target,
    changes: { before: { rows: 3 }, after: null },
  },
  security_event: { ...common, category: 'security_event', action: 'api_key.create', severity: 6 },
  system_operation: { ...common, category: 'system_operation', action: 'backup.complete' },
};
const login = LEAST.user_authentication as Json;
const change = LEAST.configuration_change as Json;

describe('openapi.yaml', () => {
  const document = loadApiDocument();

  it('is what src/http/api-types.ts was generated from (npm run types)', () => {
    const types = readFileSync(new URL('../src/http/api-types.ts', import.meta.url), 'utf8');
    expect(types).toBe(generateTypes(document));
  });

  it('is what src/http/api-document.json was generated from (npm run types)', () => {
    const text = readFileSync(new URL('../src/http/api-document.json', import.meta.url), 'utf8');
    expect(text).toBe(documentText(document));
    expect(JSON.parse(text)).toEqual(document);
  });

  it('gives every operation its own name and a permission that exists', () => {
    const operations = declaredOperations();
    expect(new Set(operations.map(({ operationId }) => operationId)).size).toBe(operations.length);
    for (const { permission } of operations) expect(['public', ...Object.keys(PERMISSIONS)]).toContain(permission);
    expect(operations).toContainEqual({
      operationId: 'createEvents',
      method: 'POST',
      path: '/v1/events/batch',
      permission: 'events:write',
      bodyTypes: ['application/json', 'application/x-ndjson'],
    });
  });

  it('says the same as the code: categories, outcomes, problem codes', () => {
    const { schemas } = document.components;
    expect(schemas.Category?.enum).toEqual(CATEGORIES);
    expect(schemas.Outcome?.enum).toEqual(OUTCOMES);
    expect(schemas.ProblemCode?.enum).toEqual(Object.keys(PROBLEMS));
    const mapping = (schemas.Event as { discriminator?: { mapping: Json } }).discriminator?.mapping;
    expect(Object.keys(mapping ?? {})).toEqual(CLIENT_CATEGORIES);
  });

  it('has no reference that leads nowhere', () => {
    const text = JSON.stringify(document);
    for (const [, pointer] of text.matchAll(/"\$ref":"#\/([^"]+)"/g)) {
      const found = (pointer as string).split('/').reduce<unknown>((at, name) => (at as Json)?.[name], document);
      expect(found, pointer).toBeDefined();
    }
  });

  it('has schemas that are schemas, and that all compile', () => {
    const { paths, components } = document;
    const parameters = Object.values(paths).flatMap((methods) =>
      Object.values(methods).flatMap(({ operationId, parameters = [] }) =>
        parameters.map((parameter) => ({ operationId, ...parameter })),
      ),
    );
    expect(parameters.length).toBeGreaterThan(50);
    // The service leaves this out: it takes a while.
    const ajv = new Ajv2020({ keywords: ['x-expects', 'x-reason', 'discriminator'], formats: { base64: true } });
    for (const schema of [...Object.values(components.schemas), ...parameters.map(({ schema }) => schema)])
      expect(ajv.validateSchema(schema), JSON.stringify(schema)).toBe(true);
    for (const name of Object.keys(components.schemas)) checkShape(name, {});
    for (const category of CLIENT_CATEGORIES) expect(validateEvent({ category })).not.toEqual([]);
    for (const { operationId, name, in: place } of parameters) {
      const validate = () =>
        place === 'query'
          ? validateQuery(operationId as never, `${name}=x`)
          : validatePath(operationId as never, { [name]: 'x' });
      try {
        validate();
      } catch (error) {
        expect(error).toBeInstanceOf(Problem);
      }
    }
  });

  it('shows examples that are valid', () => {
    const events = Object.values(document.components.schemas)
      .flatMap((schema) => (schema.examples ?? []) as unknown[])
      .filter((example): example is Json => typeof example === 'object');
    expect(events.map(({ category }) => category)).toEqual(CLIENT_CATEGORIES);
    for (const event of events) expect(validateEvent(event)).toEqual([]);
  });
});

describe('an event', () => {
  const corpus = process.env.SEALOG_TEST_DATA;

  it.skipIf(corpus === undefined)('of the real corpus is valid, each one (needs SEALOG_TEST_DATA)', () => {
    const folder = join(corpus as string, 'corpus');
    const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.ndjson.gz'),
    );
    let events = 0;
    for (const file of files) {
      for (const line of gunzipSync(readFileSync(join(folder, file)))
        .toString()
        .split('\n')) {
        if (line === '') continue;
        events += 1;
        const errors = validateEvent(JSON.parse(line));
        if (errors.length > 0) expect.fail(`${file}: ${line.slice(0, 100)}: ${JSON.stringify(errors)}`);
      }
    }
    expect(events).toBeGreaterThan(80_000);
  });

  it.each(Object.keys(LEAST))('of category %s is valid with what the category demands', (category) => {
    expect(validateEvent(LEAST[category])).toEqual([]);
  });

  it.each([
    ['user_authentication', 'actor'],
    ['data_access', 'actor'],
    ['data_access', 'target'],
    ['configuration_change', 'actor'],
    ['configuration_change', 'target'],
    ['configuration_change', 'changes'],
    ['configuration_change', 'changes.before'],
    ['configuration_change', 'changes.after'],
    ['data_modification', 'actor'],
    ['data_modification', 'target'],
    ['data_modification', 'changes'],
    ['data_modification', 'changes.before'],
    ['data_modification', 'changes.after'],
    ['security_event', 'severity'],
    ...CLIENT_CATEGORIES.flatMap((category) =>
      ['action', 'outcome', 'occurredAt', 'source', 'source.service'].map((field): [string, string] => [
        category,
        field,
      ]),
    ),
  ])('of category %s is refused without %s, which is named', (category, field) => {
    const errors = validateEvent(without(LEAST[category] as Json, field));
    expect(errors).toHaveLength(1);
    expect(errors[0]).toMatchObject({ field, message: expect.stringMatching(/^is required/) });
  });

  it('of configuration_change brings a diff, or before and after, or all three', () => {
    const diff = [{ op: 'replace', path: '/export', value: null }];
    expect(validateEvent({ ...change, changes: { diff } })).toEqual([]);
    expect(validateEvent({ ...change, changes: { diff: [] } })).toEqual([]);
    expect(validateEvent({ ...change, changes: { before: 1, after: 2, diff } })).toEqual([]);
    expect(validateEvent({ ...change, changes: { diff, after: 2 } })).toEqual([]);
    expect(fields({ ...LEAST.data_modification, changes: { diff } })).toEqual(['changes.before', 'changes.after']);
  });

  it('may bring more than its category demands', () => {
    const everything = {
      severity: 0,
      reason: 'CR-1182 approved',
      actor: {
        ...actor,
        name: 'M. Kern',
        email: 'm@example.com',
        ip: '192.0.2.1',
        sessionId: 's',
        userAgent: 'u',
        roles: ['a'],
      },
      target: { ...target, name: 'Supervisors' },
      source: { service: 's', host: 'h', site: 'plant-7', zone: 'L3' },
      changes: { after: [1] },
      details: { nested: { anything: [null, true, 1.5, 'x'] } },
      raw: { base64: 'AAECAw==' },
    };
    for (const category of ['user_authentication', 'data_access', 'security_event', 'system_operation']) {
      expect(validateEvent({ ...LEAST[category], ...everything })).toEqual([]);
    }
  });

  it('with only the category wrong hears of nothing else', () => {
    expect(validateEvent({})).toMatchObject([{ field: 'category', message: expect.stringContaining('is required') }]);
    expect(validateEvent({ category: 'nonsense', foo: 1 })).toMatchObject([{ field: 'category' }]);
    expect(validateEvent({ ...login, category: ['user_authentication'] })).toMatchObject([{ field: 'category' }]);
    expect(validateEvent({ ...login, category: '__proto__' })).toMatchObject([{ field: 'category' }]);
  });

  it('of log_administration is refused: it is written by Sealog only', () => {
    expect(validateEvent({ ...login, category: 'log_administration' })).toEqual([
      { field: 'category', message: expect.stringContaining('written by Sealog only') },
    ]);
  });

  it.each([null, undefined, 1, 'x', true, [], [LEAST.data_access]])('is an object, not %j', (value) => {
    expect(validateEvent(value)).toEqual([{ field: '', message: 'must be a JSON object' }]);
  });

  it.each<[string, unknown]>([
    ['id', ''],
    ['id', '.'],
    ['id', '..'],
    ['id', 'a b'],
    ['id', 'a/b'],
    ['id', 'ä'],
    ['id', 'a\n'],
    ['id', 'x'.repeat(129)],
    ['id', 7],
    ['id', null],
    ['action', 'login'],
    ['action', 'User.login'],
    ['action', 'user.'],
    ['action', 'user..login'],
    ['action', 'user.log-in'],
    ['action', '1.a'],
    ['action', 'user.login\n'],
    ['action', `a.${'b'.repeat(62)}`],
    ['outcome', 'ok'],
    ['outcome', ''],
    ['severity', -1],
    ['severity', 11],
    ['severity', 4.5],
    ['severity', '4'],
    ['severity', null],
    ['severity', true],
    ['occurredAt', '2026-11-22 21:04:05Z'],
    ['occurredAt', 1_795_000_000],
    ['source', 'mes'],
    ['source', []],
    ['source.service', ''],
    ['source.service', 'x'.repeat(257)],
    ['source.site', 7],
    ['actor', 'u-4711'],
    ['actor', null],
    ['actor.id', ''],
    ['actor.id', 4711],
    ['actor.type', null],
    ['actor.name', ''],
    ['actor.roles', 'admin'],
    ['actor.roles[1]', ['a', 3]],
    ['target', []],
    ['target.id', {}],
    ['reason', ''],
    ['reason', 'x'.repeat(4097)],
    ['reason', null],
    ['changes', []],
    ['changes', {}],
    ['changes', null],
    ['changes.diff', {}],
    ['changes.diff', null],
    ['details', []],
    ['details', 'x'],
    ['details', null],
    ['raw', 5],
    ['raw', null],
    ['raw', []],
    ['raw.base64', { base64: 'QQ' }],
    ['raw.base64', { base64: 'QR==' }],
    ['raw.base64', { base64: 'QQ==\n' }],
    ['raw.base64', { base64: 'Q-==' }],
    ['raw.base64', { base64: 'QQ=A' }],
    ['raw.base64', { base64: '' }],
    ['raw.base64', { base64: 1 }],
    ['raw.base64', {}],
  ])('is refused for its %s %j, which is named in words', (field, value) => {
    // A path that goes on behind a value given whole: `actor.roles[1]`, `raw.base64`.
    const whole = ['actor.roles', 'raw'].find((name) => field.startsWith(name) && typeof value === 'object') ?? field;
    const errors = validateEvent(withValue(login, whole, value));
    expect(errors.map((error) => error.field)).toEqual([field]);
    // The validator's own words begin so.
    expect(errors[0]?.message).toMatch(/^(must be|is required)/);
    expect(errors[0]?.message).not.toMatch(/must be (string|integer|object|array)$/);
  });

  it.each<[string, string]>([
    ['id', 'x'.repeat(128)],
    ['id', '...'],
    ['id', '-'],
    ['id', 'A:z~0.9_-'],
    ['action', `a.${'b'.repeat(61)}`],
    ['action', 'a_1.b.c_2'],
    ['source.service', '\u{1F600}'.repeat(256)],
    ['reason', 'x'.repeat(4096)],
    ['raw', ''],
    ['raw', 'x'.repeat(200_000)],
  ])('may have the %s %j', (field, value) => {
    expect(validateEvent(withValue(login, field, value))).toEqual([]);
  });

  it.each([
    ['foo', { foo: 1 }],
    ['log', { log: { seq: 1 } }],
    ['toString', { toString: 1 }],
    ['constructor', { constructor: {} }],
    ['["a b.c"]', { 'a b.c': 1 }],
    [`["${'x'.repeat(64)}…"]`, { ['x'.repeat(100_000)]: 1 }],
    ['["\uFFFD"]', { '\uD800': 1 }],
    ['source.port', { source: { service: 's', port: 1 } }],
    ['actor.role', { actor: { ...actor, role: 'x' } }],
    ['target.kind', { target: { ...target, kind: 'x' } }],
    ['changes.old', { changes: { before: 1, after: 2, old: 3 } }],
    ['changes.diff[0].why', { changes: { diff: [{ op: 'remove', path: '', why: 1 }] } }],
    ['raw.type', { raw: { base64: 'QQ==', type: 'x' } }],
  ])('is refused for the unknown field %s', (field, members) => {
    expect(validateEvent({ ...login, ...members })).toEqual([{ field, message: 'is not a field that is known here' }]);
  });

  it('is refused for the unknown field __proto__', () => {
    const event = JSON.parse(`{"__proto__":{"id":"x"},${JSON.stringify(login).slice(1)}`);
    expect(fields(event)).toEqual(['__proto__']);
  });

  it.each<[string, unknown]>([
    ['', [{ op: 'add', path: '/a/-', value: 1 }]],
    ['', [{ op: 'test', path: '', value: null }]],
    ['', [{ op: 'remove', path: '/a~0b/~1' }]],
    ['', [{ op: 'move', path: '/a', from: '/b' }]],
    ['[0].value', [{ op: 'add', path: '/a' }]],
    ['[0].value', [{ op: 'replace', path: '/a' }]],
    ['[0].value', [{ op: 'test', path: '/a' }]],
    ['[0].from', [{ op: 'move', path: '/a' }]],
    ['[0].from', [{ op: 'copy', path: '/a' }]],
    ['[0].op', [{ op: 'set', path: '/a' }]],
    ['[0].op', [{ path: '/a' }]],
    ['[0].path', [{ op: 'remove' }]],
    ['[0].path', [{ op: 'remove', path: 'a' }]],
    ['[0].path', [{ op: 'remove', path: '/a~2' }]],
    ['[0].path', [{ op: 'remove', path: '/a~' }]],
    ['[1]', [{ op: 'remove', path: '/a' }, 'remove']],
  ])('has operations of RFC 6902 in its diff: %s %j', (place, diff) => {
    expect(fields({ ...change, changes: { diff } })).toEqual(place === '' ? [] : [`changes.diff${place}`]);
  });

  it('hears of all its mistakes at once, each field once, at most 20', () => {
    const { target: _, ...rest } = LEAST.data_modification as Json;
    const wrong = { ...rest, severity: '5', action: 'X'.repeat(70), changes: { after: 1 }, foo: 1 };
    expect(fields(wrong).sort()).toEqual(['action', 'changes.before', 'foo', 'severity', 'target']);

    const many = Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`unknown${index}`, 1]));
    expect(validateEvent({ ...login, ...many })).toHaveLength(20);
  });

  it('that is wrong in 100,000 places costs no more than one mistake', () => {
    const diff = Array.from({ length: 9999 }, () => 0);
    const roles = Array.from({ length: 100_000 }, () => 0);
    const many = Object.fromEntries(Array.from({ length: 100_000 }, (_, index) => [`unknown${index}`, 1]));
    const begin = performance.now();
    expect(fields({ ...change, changes: { diff } })).toEqual(['changes.diff[0]']);
    expect(fields({ ...login, actor: { ...actor, roles } })).toEqual(['actor.roles']);
    expect(fields({ ...login, ...many })).toHaveLength(1);
    expect(performance.now() - begin).toBeLessThan(10_000);
  });

  it('is looked into no further than it is read into values (ingest/events.ts)', () => {
    const says = (schema: object) => Object.keys(schema).filter((keyword) => !/^(description|x-.*)$/.test(keyword));
    const { EventFields, Changes, Raw } = loadApiDocument().components.schemas as Record<
      string,
      { properties: Record<string, object> }
    >;
    expect(says(EventFields!.properties['details']!)).toEqual(['type']);
    expect(says(Changes!.properties['before']!)).toEqual([]);
    expect(says(Changes!.properties['after']!)).toEqual([]);
    // Of a string, nothing.
    expect(says(Raw!).sort()).toEqual(['additionalProperties', 'properties', 'required', 'type']);
  });

  it('is never told what it holds, nor changed', () => {
    const canary = 'canary-5f1b8a3c';
    const wrong = { ...change, id: `${canary}/`, outcome: canary, changes: { diff: [{ op: canary, path: canary }] } };
    const before = structuredClone(wrong);
    expect(JSON.stringify(validateEvent(wrong))).not.toContain(canary);
    expect(wrong).toEqual(before);
  });
});

describe('a timestamp', () => {
  it.each([
    '2026-11-22T21:04:05Z',
    '2026-11-22T21:04:05.1Z',
    '2026-11-22T21:04:05.123456789+01:00',
    '2026-11-22T21:04:05-00:00',
    '2026-11-22T21:04:05+23:59',
    '2024-02-29T00:00:00Z',
    '2000-02-29T23:59:59.999999999Z',
    '0001-01-01T00:00:00Z',
    '9999-12-31T23:59:59.999999999Z',
    '0001-01-01T05:00:00+05:00',
    '9999-12-31T18:59:59-05:00',
  ])('may be %s', (text) => {
    expect(isTimestamp(text)).toBe(true);
  });

  it.each([
    '',
    '2026-11-22',
    '2026-11-22T21:04:05',
    '2026-11-22T21:04Z',
    '2026-11-22t21:04:05Z',
    '2026-11-22T21:04:05z',
    '2026-11-22 21:04:05Z',
    '2026-11-22T21:04:05.Z',
    '2026-11-22T21:04:05,5Z',
    '2026-11-22T21:04:05.1234567890Z',
    '2026-11-22T21:04:05+01',
    '2026-11-22T21:04:05+0100',
    '2026-11-22T21:04:05+24:00',
    '2026-11-22T21:04:05+01:60',
    '2026-11-22T21:04:05~01:00',
    '2026-11-22T24:00:00Z',
    '2026-11-22T21:60:00Z',
    '2026-11-22T21:04:60Z',
    '2016-12-31T23:59:60Z',
    '2026-00-22T21:04:05Z',
    '2026-13-22T21:04:05Z',
    '2026-11-00T21:04:05Z',
    '2026-11-31T21:04:05Z',
    '2025-02-29T00:00:00Z',
    '1900-02-29T00:00:00Z',
    '0000-01-01T00:00:00Z',
    '10000-01-01T00:00:00Z',
    '+2026-11-22T21:04:05Z',
    '0001-01-01T04:59:59+05:00',
    '9999-12-31T19:00:00-05:00',
    '2026-11-22T21:04:05Z ',
    ' 2026-11-22T21:04:05Z',
    '2026-11-22T21:04:05Z\n',
    '٢٠٢٦-11-22T21:04:05Z',
    '2026-11-22T21:04:05+٠١:00',
  ])('is not %j', (text) => {
    expect(isTimestamp(text)).toBe(false);
  });

  it('is judged as a regular expression and the calendar judge it', () => {
    const number = (max: number, width: number) => fc.nat(max).map((value) => String(value).padStart(width, '0'));
    const parts = fc.tuple(
      number(9999, 4),
      number(13, 2),
      number(32, 2),
      number(25, 2),
      number(61, 2),
      number(61, 2),
      fc.constantFrom('', '.5', '.123456789', '.'),
      fc.constantFrom('Z', '+00:00', '-23:59', '+14:00', 'z', ''),
    );
    fc.assert(
      fc.property(parts, ([year, month, day, hour, minute, second, fraction, offset]) => {
        const text = `${year}-${month}-${day}T${hour}:${minute}:${second}${fraction}${offset}`;
        expect(isTimestamp(text)).toBe(reference(text));
      }),
      { numRuns: 3000 },
    );
  });

  function reference(text: string): boolean {
    if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/.test(text)) return false;
    // Date moves 30 February to March, and 24:00 to the next day; the text it gives back shows it.
    const local = new Date(`${text.slice(0, 19)}Z`);
    if (Number.isNaN(local.getTime()) || local.toISOString().slice(0, 19) !== text.slice(0, 19)) return false;
    // The year as written, and in UTC.
    const years = [local.getUTCFullYear(), new Date(text.replace(/\.\d+/, '')).getUTCFullYear()];
    return years.every((year) => year >= 1 && year <= 9999);
  }
});

describe('a query string', () => {
  it('becomes values: integers, booleans, defaults', () => {
    expect(validateQuery('searchEvents', '')).toEqual({ order: 'desc', limit: 100 });
    expect(
      validateQuery(
        'searchEvents',
        'category=data_access&actor=M.+Kern%26Co&severityMin=0&limit=1000&order=asc&from=2026-11-22T00:00:00%2B01:00',
      ),
    ).toEqual({
      category: 'data_access',
      actor: 'M. Kern&Co',
      severityMin: 0,
      limit: 1000,
      order: 'asc',
      from: '2026-11-22T00:00:00+01:00',
    });
    expect(validateQuery('createEvents', '')).toEqual({ atomic: false });
    expect(validateQuery('createEvents', 'atomic=true')).toEqual({ atomic: true });
    expect(validateQuery('searchEvents', 'category=log_administration&&')).toMatchObject({
      category: 'log_administration',
    });
  });

  it.each([
    ['searchEvents', 'limit=1.0', 'limit'],
    ['searchEvents', 'limit=01', 'limit'],
    ['searchEvents', 'limit=1e2', 'limit'],
    ['searchEvents', 'limit=+5', 'limit'],
    ['searchEvents', 'limit=%2B5', 'limit'],
    ['searchEvents', 'limit=-1', 'limit'],
    ['searchEvents', 'limit=0', 'limit'],
    ['searchEvents', 'limit=1001', 'limit'],
    ['searchEvents', 'limit=', 'limit'],
    ['searchEvents', 'limit', 'limit'],
    ['searchEvents', 'limit=99999999999999999999', 'limit'],
    ['searchEvents', 'limit=5&limit=5', 'limit'],
    ['searchEvents', 'limit=5&%6Cimit=6', 'limit'],
    ['searchEvents', 'Limit=5', 'Limit'],
    ['searchEvents', 'order=up', 'order'],
    ['searchEvents', 'category=nonsense', 'category'],
    ['searchEvents', 'category=data_access,security_event', 'category'],
    ['searchEvents', 'actor=', 'actor'],
    ['searchEvents', 'actor=%00', 'actor'],
    ['searchEvents', 'actor=%FF', 'actor'],
    ['searchEvents', 'actor=%', 'actor'],
    ['searchEvents', 'actor=%ED%A0%80', 'actor'],
    ['searchEvents', 'from=2026-11-22', 'from'],
    ['searchEvents', 'from=2026-11-22T00:00:00+01:00', 'from'],
    ['searchEvents', 'cursor=%2F', 'cursor'],
    ['searchEvents', 'actor[]=x', 'actor[]'],
    ['searchEvents', '__proto__=x', '__proto__'],
    ['searchEvents', 'constructor=x', 'constructor'],
    ['createEvents', 'atomic=TRUE', 'atomic'],
    ['createEvents', 'atomic=1', 'atomic'],
    ['createEvents', 'atomic', 'atomic'],
    ['createEvent', 'wait=stored', 'wait'],
    ['createEvent', 'waits=checkpoint', 'waits'],
    ['listStreams', 'limit=5', 'limit'],
  ] as const)('of %s is refused: %s names %s', (operationId, query, field) => {
    const problem = thrown(() => validateQuery(operationId, query));
    expect(problem).toMatchObject({ code: 'invalid_request', errors: [{ field }] });
  });

  it('is told of all its mistakes', () => {
    const problem = thrown(() => validateQuery('searchEvents', 'limit=x&foo=1&order=up'));
    expect(problem.errors.map(({ field }) => field)).toEqual(['limit', 'foo', 'order']);
  });

  it('never throws anything but a problem', () => {
    const text = fc.oneof(
      fc.string(),
      fc.string({ unit: fc.constantFrom('%', '&', '=', '+', '0', 'F', 'limit', 'atomic', 'true') }),
    );
    fc.assert(
      fc.property(text, (query) => {
        try {
          validateQuery('createEvents', query);
        } catch (error) {
          expect(error).toBeInstanceOf(Problem);
        }
      }),
    );
  });
});

describe('a path', () => {
  it('holds an id', () => {
    expect(validatePath('readEvent', { id: 'a:b~c' })).toEqual({ id: 'a:b~c' });
  });

  it.each(['', 'a b', '.', '..', 'a\0', 'x'.repeat(129)])('holds no other text: %j', (id) => {
    expect(thrown(() => validatePath('readEvent', { id }))).toMatchObject({
      code: 'invalid_request',
      errors: [{ field: 'id' }],
    });
  });
});

describe('an answer', () => {
  const receipt = {
    id: 'a',
    stream: 'acme/data_access',
    seq: 0,
    hash: '0'.repeat(64),
    recordedAt: '2026-11-22T20:04:05.310Z',
  };

  it('can be held to the document', () => {
    expect(checkShape('Receipt', receipt)).toEqual([]);
    expect(checkShape('Receipt', { ...receipt, extra: 1 })).toMatchObject([{ field: 'extra' }]);
    expect(checkShape('BatchAnswer', { errors: false, items: [{ status: 201, ...receipt }] })).toEqual([]);
    expect(checkShape('BatchAnswer', { errors: false, items: [receipt] })).not.toEqual([]);
    const stored = { ...login, log: { ...receipt, id: undefined, previous: '0'.repeat(64) } };
    expect(checkShape('StoredEvent', JSON.parse(JSON.stringify(stored)))).toEqual([]);
    expect(checkShape('StoredEvent', login)).toMatchObject([{ field: 'log' }]);
  });
});

function fields(event: unknown): string[] {
  return validateEvent(event).map(({ field }) => field);
}

function thrown(action: () => unknown): Problem {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(Problem);
    return error as Problem;
  }
  return expect.fail('nothing was thrown');
}

function without(event: Json, path: string): Json {
  const [name, member] = path.split('.') as [string, string?];
  const copy = structuredClone(event);
  if (member === undefined) delete copy[name];
  else delete (copy[name] as Json)[member];
  return copy;
}

function withValue(event: Json, path: string, value: unknown): Json {
  const [name, member] = path.split('.') as [string, string?];
  if (member === undefined) return { ...event, [name]: value };
  const least = name === 'target' ? target : {};
  return { ...event, [name]: { ...least, ...((event[name] ?? {}) as Json), [member]: value } };
}
