/** `POST /v1/events` and `POST /v1/events/batch` over a socket: what is taken, what is refused, and what is answered. */
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkShape } from '../src/http/api-schema.ts';
import { generateEvents } from './support/events.ts';
import { type Answer, type RequestOptions, startService, type TestService } from './support/service.ts';

type Json = Record<string, unknown>;

const KiB = 1024;
const MiB = 1024 * KiB;
const NDJSON = { headers: { 'content-type': 'application/x-ndjson' } };
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** The smallest event of each category that is taken. */
const SMALLEST: Readonly<Record<string, Json>> = {
  user_authentication: { actor: { type: 'user', id: 'u-1' } },
  data_access: { actor: { type: 'user', id: 'u-1' }, target: { type: 'report', id: 'r-1' } },
  configuration_change: {
    actor: { type: 'user', id: 'u-1' },
    target: { type: 'role', id: 'r-1' },
    changes: { before: null, after: {} },
  },
  data_modification: {
    actor: { type: 'user', id: 'u-1' },
    target: { type: 'dataset', id: 'd-1' },
    changes: { before: {}, after: null },
  },
  security_event: { severity: 0 },
  system_operation: {},
};
const CATEGORIES = Object.keys(SMALLEST);

let service: TestService;
let count = 0;

beforeAll(async () => {
  service = await startService();
});

afterAll(async () => {
  await service.checkLog();
  await service.stop();
});

/** A valid event with an id of its own. */
function event(more: Json = {}, category = 'system_operation'): Json {
  count += 1;
  return {
    id: `event-${count}`,
    category,
    action: 'thing.happen',
    outcome: 'success',
    occurredAt: '2026-11-22T21:04:05.123+01:00',
    source: { service: 'test' },
    ...SMALLEST[category],
    ...more,
  };
}

/** Every field that an event can have. */
function fullEvent(): Json {
  return event(
    {
      severity: 4,
      source: { service: 'gateway', host: 'gw-1', site: 'plant-7', zone: 'L3' },
      actor: {
        type: 'user',
        id: 'u-1',
        name: 'A',
        email: 'a@example.com',
        ip: '192.0.2.1',
        sessionId: 's',
        userAgent: 'b',
        roles: ['x', 'y'],
      },
      target: { type: 'role', id: 'r-1', name: 'R' },
      reason: 'because',
      changes: { before: { a: 1 }, after: { a: 2 }, diff: [{ op: 'replace', path: '/a', value: 2 }] },
      details: { number: 1, list: [1, 2, { deep: true }], text: 'ü' },
      raw: 'line',
    },
    'configuration_change',
  );
}

async function send(body: unknown, options: RequestOptions = {}): Promise<Answer> {
  const answer = await service.post('/v1/events', body, options);
  expectShape(answer, 'Receipt');
  return answer;
}

async function sendBatch(body: unknown, options: RequestOptions = {}, query = ''): Promise<Answer> {
  const answer = await service.post(`/v1/events/batch${query}`, body, options);
  expectShape(answer, 'BatchAnswer');
  return answer;
}

/** Answers have the shape that openapi.yaml says, and a length. */
function expectShape(answer: Answer, success: string): void {
  const isProblem = answer.status >= 400;
  expect(checkShape(isProblem ? 'Problem' : success, answer.body)).toEqual([]);
  expect(answer.headers['content-type']).toBe(
    isProblem ? 'application/problem+json' : 'application/json; charset=utf-8',
  );
  expect(answer.headers['content-length']).toBe(String(Buffer.byteLength(answer.text)));
  expect(answer.headers['cache-control']).toBe('no-store');
  if (isProblem) expect(answer.body.status).toBe(answer.status);
}

function refusal(answer: Answer): { status: number; code: string; fields: string[] } {
  const errors: { field: string }[] = answer.body.errors ?? [];
  return { status: answer.status, code: answer.body.code, fields: errors.map((error) => error.field) };
}

/** Of what clients sent: a call that is refused leaves an entry of the log's own, in the tenant `refused` or the deployment's. */
async function entriesStored(): Promise<number> {
  const { rows } = await service.adminPool.query(
    `SELECT coalesce(sum(size), 0)::int AS size FROM sealog.stream WHERE split_part(name, '/', 1) NOT IN ('refused', 'sealog')`,
  );
  return rows[0].size;
}

/** Fails unless nothing was stored meanwhile. */
async function storesNothing<T>(work: () => Promise<T>): Promise<T> {
  const before = await entriesStored();
  const result = await work();
  expect(await entriesStored()).toBe(before);
  return result;
}

async function readBack(id: unknown, options: RequestOptions = {}): Promise<Json> {
  const { status, body } = await service.get(`/v1/events/${encodeURIComponent(String(id))}`, options);
  expect(status).toBe(200);
  const { log: _, ...sent } = body;
  return sent;
}

describe('a single event', () => {
  it.each(CATEGORIES)('of %s is stored and gets its receipt', async (category) => {
    const sent = event({}, category);
    const { status, body } = await send(sent);
    expect(status).toBe(201);
    expect(body).toEqual({
      id: sent.id,
      stream: `acme/${category}`,
      seq: expect.any(Number),
      hash: expect.stringMatching(/^[0-9a-f]{64}$/),
      recordedAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      retainUntil: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    });
    expect(Math.abs(Date.parse(body.recordedAt) - Date.now())).toBeLessThan(60_000);
    expect(await readBack(sent.id)).toEqual(sent);
  });

  it.each([
    ['user_authentication', 12],
    ['data_access', 12],
    ['configuration_change', 24],
    ['data_modification', 24],
    ['security_event', 36],
    ['system_operation', 12],
  ])('of %s is kept for %i months', async (category, months) => {
    const { body } = await send(event({}, category));
    const recorded = new Date(body.recordedAt);
    const kept = new Date(body.retainUntil);
    const between =
      (kept.getUTCFullYear() - recorded.getUTCFullYear()) * 12 + kept.getUTCMonth() - recorded.getUTCMonth();
    expect(between).toBe(months);
  });

  it('with every field there is comes back as it was sent', async () => {
    const sent = fullEvent();
    expect((await send(sent)).status).toBe(201);
    expect(await readBack(sent.id)).toEqual(sent);
  });

  it('without an id gets a UUIDv7 of now, another each time', async () => {
    const { id: _, ...sent } = event();
    const first = (await send(sent)).body;
    const second = (await send(sent)).body;
    expect(first.id).toMatch(UUID_V7);
    expect(Math.abs(Number.parseInt(first.id.replaceAll('-', '').slice(0, 12), 16) - Date.now())).toBeLessThan(60_000);
    expect(second.id).toMatch(UUID_V7);
    expect(second.id).not.toBe(first.id);
    expect(await readBack(first.id)).toEqual({ ...sent, id: first.id });
  });

  it('may repeat an id that Sealog made', async () => {
    const { id: _, ...sent } = event();
    const { body } = await send(sent);
    const again = await send({ ...sent, id: body.id });
    expect(again.status).toBe(200);
    expect(again.body).toEqual(body);
  });

  it.each(['a', '...', '.a', '..-', 'A.Z:0~9_-', 'x'.repeat(128)])('may have the id %j', async (id) => {
    const sent = event({ id: id === 'a' ? `a${count}` : id });
    expect((await send(sent)).status).toBe(201);
    expect(await readBack(sent.id)).toEqual(sent);
  });

  it.each(['', '.', '..', 'x'.repeat(129), 'a b', 'a/b', 'ä', 'a\n', 'a%20', 'a#', 7, null, ['a']])(
    'may not have the id %j',
    async (id) => {
      const answer = await storesNothing(() => send(event({ id })));
      expect(refusal(answer)).toEqual({ status: 400, code: 'invalid_event', fields: ['id'] });
    },
  );

  it('may be gzipped', async () => {
    const sent = fullEvent();
    const headers = { 'content-encoding': 'gzip' };
    expect((await send(gzipSync(JSON.stringify(sent)), { headers })).status).toBe(201);
    expect(await readBack(sent.id)).toEqual(sent);
  });

  it('is refused when its gzip data is damaged', async () => {
    const bytes = gzipSync(JSON.stringify(event()));
    bytes[bytes.length - 6]! ^= 1;
    const answer = await storesNothing(() => send(bytes, { headers: { 'content-encoding': 'gzip' } }));
    expect(refusal(answer)).toMatchObject({ status: 400, code: 'invalid_encoding' });
  });

  it.each([
    ['text/plain', undefined],
    ['application/x-ndjson', undefined],
    ['application/json; charset=latin1', undefined],
    ['application/json', 'br'],
    ['application/json', 'gzip, gzip'],
  ])('is refused as %s with encoding %s', async (type, encoding) => {
    const headers = { 'content-type': type, ...(encoding === undefined ? {} : { 'content-encoding': encoding }) };
    const answer = await storesNothing(() => send(event(), { headers }));
    expect(refusal(answer)).toMatchObject({ status: 415, code: 'unsupported_media_type' });
  });

  it.each([
    ['nothing', ''],
    ['blanks', ' \n'],
    ['a cut text', '{"id":"x"'],
    ['two values', '{} {}'],
    ['a repeated member', '{"category":"system_operation","category":"data_access"}'],
    ['__proto__', '{"details":{"__proto__":{}}}'],
    ['a byte order mark', '\ufeff{}'],
    ['bytes that are no UTF-8', Buffer.from([0x22, 0xff, 0x22])],
    ['a lone surrogate', '"\\ud800"'],
    ['U+0000', '"\\u0000"'],
    ['minus zero', '[-0]'],
    ['2^53', '[9007199254740992]'],
    ['1e400', '[1e400]'],
    ['33 levels', '['.repeat(33) + ']'.repeat(33)],
  ])('is refused when its body is %s', async (_what, body) => {
    const answer = await storesNothing(() => send(body));
    expect(refusal(answer)).toMatchObject({ status: 400, code: 'invalid_json' });
    expect(answer.body.errors[0].position).toEqual(expect.any(Number));
  });

  it.each([
    ['an array', []],
    ['a string', '"x"'],
    ['null', 'null'],
  ])('is refused when it is %s', async (_what, body) => {
    const answer = await storesNothing(() => send(body));
    expect(refusal(answer)).toEqual({ status: 400, code: 'invalid_event', fields: [''] });
  });

  it('that has several mistakes is refused with all of them', async () => {
    const { outcome: _, ...sent } = event({
      action: 'Login',
      severity: 11,
      source: {},
      colour: 'red',
      actor: { id: 7 },
    });
    const answer = await storesNothing(() => send(sent));
    expect(refusal(answer).fields.toSorted()).toEqual(
      ['action', 'actor.id', 'actor.type', 'colour', 'outcome', 'severity', 'source.service'].toSorted(),
    );
  });

  it('is refused with unknown parameters in its address', async () => {
    const answer = await storesNothing(() => service.post('/v1/events?atomic=true', event()));
    expect(refusal(answer)).toEqual({ status: 400, code: 'invalid_request', fields: ['atomic'] });
  });

  it('is refused from who may not write, or is nobody', async () => {
    const auditor = await service.token('auditor', 'refused');
    const forbidden = await storesNothing(() => send(event(), { token: auditor }));
    expect(refusal(forbidden)).toMatchObject({ status: 403, code: 'forbidden' });
    const unknown = await storesNothing(() => send(event(), { token: null }));
    expect(refusal(unknown)).toMatchObject({ status: 401, code: 'unauthenticated' });
    expect(unknown.headers['www-authenticate']).toBe('Bearer');
  });
});

describe("a category's evidence", () => {
  it.each([
    ['user_authentication', ['actor']],
    ['data_access', ['actor', 'target']],
    ['configuration_change', ['actor', 'target', 'changes']],
    ['data_modification', ['actor', 'target', 'changes']],
    ['security_event', ['severity']],
  ] as const)('%s: refused without each of %j', async (category, fields) => {
    for (const field of fields) {
      const { [field]: _, ...sent } = event({}, category);
      const answer = await storesNothing(() => send(sent));
      expect(refusal(answer)).toEqual({ status: 400, code: 'invalid_event', fields: [field] });
      expect(answer.body.errors[0].message).toMatch(/^is required: a /);
    }
  });

  it('configuration_change: a diff, or before and after', async () => {
    const diff = [{ op: 'add', path: '/a', value: 1 }];
    const status = async (changes: Json) => (await send(event({ changes }, 'configuration_change'))).status;
    expect(await status({ diff })).toBe(201);
    expect(await status({ diff, before: 1 })).toBe(201);
    expect(await status({ before: null, after: null })).toBe(201);
    expect(await status({ before: 1 })).toBe(400);
    expect(await status({ after: 1 })).toBe(400);
    expect(await status({})).toBe(400);
    expect(await status({ diff: [{ op: 'add', path: '/a' }] })).toBe(400);
    expect(await status({ diff: [{ op: 'add', path: 'a', value: 1 }] })).toBe(400);
  });

  it('data_modification: before and after, whatever else', async () => {
    const diff = [{ op: 'add', path: '/a', value: 1 }];
    const answer = async (changes: Json) => refusal(await send(event({ changes }, 'data_modification'))).fields;
    expect(await answer({ before: null, after: null })).toEqual([]);
    expect(await answer({ before: 1, after: 2, diff })).toEqual([]);
    expect(await answer({ after: 1 })).toEqual(['changes.before']);
    expect(await answer({ before: 1 })).toEqual(['changes.after']);
    expect((await answer({ diff })).toSorted()).toEqual(['changes.after', 'changes.before']);
  });

  it.each(['log_administration', 'other', '', 3, null])('%j is no category of clients', async (category) => {
    const answer = await storesNothing(() => send({ ...event(), category }));
    expect(refusal(answer)).toEqual({ status: 400, code: 'invalid_event', fields: ['category'] });
  });
});

describe('a repeat', () => {
  it('of the same event answers 200 with the first receipt, byte for byte, however often', async () => {
    const sent = fullEvent();
    const first = await send(sent);
    expect(first.status).toBe(201);
    await send(event({}, 'configuration_change'));
    const again = await storesNothing(() => Promise.all([send(sent), send(sent), send(sent)]));
    expect(again.map((answer) => [answer.status, answer.text])).toEqual(Array(3).fill([200, first.text]));
  });

  it('is the same event in another order of members, with other blanks, escapes and spellings of numbers', async () => {
    const sent = fullEvent();
    const first = await send(sent);
    const turned = JSON.stringify(reversed(sent), null, 3)
      .replace('"severity": 4', '"severity": 4.0e0')
      .replace('"number": 1', '"number": 10e-1')
      .replace('"ü"', '"\\u00fc"')
      .replace('"line"', '"\\u006Cine"');
    expect(turned).not.toContain('ü');
    const again = await storesNothing(() => send(turned));
    expect([again.status, again.text]).toEqual([200, first.text]);
  });

  it.each<[string, (sent: Json) => Json]>([
    ['action', (sent) => ({ ...sent, action: 'role.delete' })],
    ['outcome', (sent) => ({ ...sent, outcome: 'failure' })],
    ['severity', (sent) => ({ ...sent, severity: 5 })],
    ['no severity', ({ severity: _, ...sent }) => sent],
    ['occurredAt', (sent) => ({ ...sent, occurredAt: '2026-11-22T21:04:05.124+01:00' })],
    ['occurredAt in other words', (sent) => ({ ...sent, occurredAt: '2026-11-22T20:04:05.123Z' })],
    ['source.service', (sent) => ({ ...sent, source: { ...(sent.source as Json), service: 'other' } })],
    ['source.zone', (sent) => ({ ...sent, source: { ...(sent.source as Json), zone: 'L4' } })],
    ['no source.host', (sent) => ({ ...sent, source: without(sent.source as Json, 'host') })],
    ['actor.id', (sent) => ({ ...sent, actor: { ...(sent.actor as Json), id: 'u-2' } })],
    ['no actor.roles', (sent) => ({ ...sent, actor: without(sent.actor as Json, 'roles') })],
    ['the order of actor.roles', (sent) => ({ ...sent, actor: { ...(sent.actor as Json), roles: ['y', 'x'] } })],
    ['the case of actor.email', (sent) => ({ ...sent, actor: { ...(sent.actor as Json), email: 'A@example.com' } })],
    ['target.name', (sent) => ({ ...sent, target: { ...(sent.target as Json), name: 'S' } })],
    ['reason', (sent) => ({ ...sent, reason: 'because.' })],
    ['no reason', (sent) => without(sent, 'reason')],
    ['changes.before', (sent) => ({ ...sent, changes: { ...(sent.changes as Json), before: null } })],
    ['no changes.diff', (sent) => ({ ...sent, changes: without(sent.changes as Json, 'diff') })],
    ['details', (sent) => ({ ...sent, details: { ...(sent.details as Json), number: 2 } })],
    ['one more of details', (sent) => ({ ...sent, details: { ...(sent.details as Json), more: null } })],
    ['no details', (sent) => without(sent, 'details')],
    ['the Unicode form of details', (sent) => ({ ...sent, details: { ...(sent.details as Json), text: 'u\u0308' } })],
    ['raw', (sent) => ({ ...sent, raw: 'line\n' })],
    ['raw as base64', (sent) => ({ ...sent, raw: { base64: Buffer.from('line').toString('base64') } })],
    ['no raw', (sent) => without(sent, 'raw')],
  ])('with another %s is a conflict', async (_what, change) => {
    const sent = fullEvent();
    const first = await send(sent);
    const other = await storesNothing(() => send(change(sent)));
    expect(refusal(other)).toEqual({ status: 409, code: 'id_conflict', fields: ['id'] });
    expect((await send(sent)).text).toBe(first.text);
    expect(await readBack(sent.id, {})).toEqual(sent);
  });

  it.each<[string, Json]>([
    ['severity', { severity: 0 }],
    ['reason', { reason: 'x' }],
    ['empty details', { details: {} }],
    ['raw', { raw: '' }],
    ['actor', { actor: { type: 'user', id: 'u' } }],
    ['target', { target: { type: 't', id: 't' } }],
    ['changes', { changes: { before: null } }],
  ])('that has %s, which the first had not, is a conflict', async (_what, more) => {
    const sent = event();
    await send(sent);
    expect((await storesNothing(() => send({ ...sent, ...more }))).status).toBe(409);
  });

  it('in another category, or of another tenant, is another event', async () => {
    const id = `shared-${count}`;
    const sent = CATEGORIES.map((category) => event({ id }, category));
    const receipts = [];
    for (const one of sent) {
      const answer = await send(one);
      expect(answer.status).toBe(201);
      receipts.push(answer.text);
    }
    const writer = await service.token('service', 'other');
    const reader = await service.token('auditor', 'other');
    const theirs = event({ id, details: { whose: 'theirs' } }, 'data_access');
    const other = await send(theirs, { token: writer });
    expect(other.status).toBe(201);
    expect(other.body.stream).toBe('other/data_access');
    expect(await readBack(id, { token: reader })).toEqual(theirs);
    for (const [index, one] of sent.entries()) expect((await send(one)).text).toBe(receipts[index]);
  });

  it('with what another tenant stored under the id is a conflict with the own event only', async () => {
    const id = `mine-${count}`;
    const mine = event({ id, details: { whose: 'mine' } });
    const theirs = event({ id, details: { whose: 'theirs' } });
    const writer = await service.token('service', 'other');
    expect((await send(mine)).status).toBe(201);
    expect((await send(theirs, { token: writer })).status).toBe(201);
    expect((await send(theirs)).status).toBe(409);
    expect((await send(mine, { token: writer })).status).toBe(409);
    expect((await send(mine)).status).toBe(200);
  });
});

describe('a batch', () => {
  it('is answered event by event, in order', async () => {
    const events = generateEvents({ seed: 21, count: 60 });
    const { status, body } = await sendBatch(events);
    expect(status).toBe(200);
    expect(body.errors).toBe(false);
    expect(body.items.map((item: Json) => [item.status, item.id, item.stream])).toEqual(
      events.map((one) => [201, one.id, `acme/${one.category}`]),
    );
    for (const one of events.slice(0, 10)) expect(await readBack(one.id)).toEqual(one);
  });

  it('numbers the events of a stream in the order of the batch', async () => {
    const events = Array.from({ length: 50 }, () => event());
    const { body } = await sendBatch(events);
    const seqs = body.items.map((item: { seq: number }) => item.seq);
    expect(seqs).toEqual(seqs.map((_: number, index: number) => seqs[0] + index));
  });

  it.each([
    ['LF', '\n', '\n'],
    ['CRLF', '\r\n', '\r\n'],
    ['LF, none after the last', '\n', ''],
    ['CRLF, none after the last', '\r\n', ''],
    ['blank lines', '\n\n \t\r\n\n', '\n\n\n'],
  ])('may be NDJSON with %s', async (_what, between, end) => {
    const events = [event(), fullEvent(), event({}, 'security_event')];
    const text = events.map((one) => JSON.stringify(one)).join(between) + end;
    const { status, body } = await sendBatch(text, NDJSON);
    expect(status).toBe(200);
    expect(body.items.map((item: Json) => [item.status, item.id])).toEqual(events.map((one) => [201, one.id]));
  });

  it.each(['application/json', 'application/x-ndjson'])('of %s may be gzipped', async (type) => {
    const events = generateEvents({ seed: 22, count: 40 }).map((one) => ({
      ...one,
      id: `${type.slice(-4)}-${one.id}`,
    }));
    const text = type.endsWith('ndjson') ? events.map((one) => JSON.stringify(one)).join('\n') : JSON.stringify(events);
    const headers = { 'content-type': type, 'content-encoding': 'gzip' };
    const { body } = await sendBatch(gzipSync(text), { headers });
    expect(body.errors).toBe(false);
    expect(body.items).toHaveLength(40);
  });

  it('takes what is right and names what is wrong', async () => {
    const known = event();
    await send(known);
    const good = event();
    const events = [
      good,
      event({ severity: 'x' }),
      known,
      { ...known, outcome: 'failure' },
      'text',
      good,
      event({ id: '..' }),
    ];
    const before = await entriesStored();
    const { status, body } = await sendBatch(events);
    expect(status).toBe(200);
    expect(body.errors).toBe(true);
    expect(body.items.map((item: Json) => item.code ?? item.status)).toEqual([
      201,
      'invalid_event',
      200,
      'id_conflict',
      'invalid_event',
      200,
      'invalid_event',
    ]);
    expect(body.items.map((item: { errors?: Json[] }) => item.errors?.[0]?.field)).toEqual([
      undefined,
      'severity',
      undefined,
      'id',
      '',
      undefined,
      'id',
    ]);
    const { status: _, ...receipt } = body.items[0];
    expect(body.items[5]).toEqual({ status: 200, ...receipt });
    expect(await entriesStored()).toBe(before + 1);
  });

  it('with one id for two events stores the first', async () => {
    const one = event({ details: { n: 1 } });
    const { body } = await sendBatch([one, { ...one, details: { n: 2 } }, one]);
    expect(body.items.map((item: Json) => item.status)).toEqual([201, 409, 200]);
    expect(await readBack(one.id)).toEqual(one);
  });

  it('may have one id in several categories', async () => {
    const id = `all-${count}`;
    const { body } = await sendBatch(CATEGORIES.map((category) => event({ id }, category)));
    expect(body.items.map((item: Json) => item.status)).toEqual(CATEGORIES.map(() => 201));
  });

  it('of nothing but mistakes stores nothing', async () => {
    const { status, body } = await storesNothing(() => sendBatch([{}, [], 1]));
    expect(status).toBe(200);
    expect(body.items.map((item: Json) => item.status)).toEqual([400, 400, 400]);
  });

  it('of NDJSON has a broken line as its own mistake, with the place in the line', async () => {
    const [first, last] = [event(), event()];
    const text = Buffer.concat([
      Buffer.from(`${JSON.stringify(first)}\n{"details":{"a":1,"a":2}}\n[1,\n`),
      Buffer.from([0xff, 0x0a]),
      Buffer.from(JSON.stringify(last)),
    ]);
    const { body } = await sendBatch(text, NDJSON);
    expect(body.items.map((item: Json) => item.code ?? item.status)).toEqual([
      201,
      'invalid_json',
      'invalid_json',
      'invalid_json',
      201,
    ]);
    expect(body.items[1].errors[0]).toMatchObject({ field: 'details.a', position: 18 });
  });

  it('of a broken array is refused whole', async () => {
    for (const text of [
      `[${JSON.stringify(event())},]`,
      `[${JSON.stringify(event())}`,
      `[${JSON.stringify(event())},{"a":1,"a":2}]`,
    ]) {
      const answer = await storesNothing(() => sendBatch(text));
      expect(refusal(answer)).toMatchObject({ status: 400, code: 'invalid_json' });
    }
    const answer = await storesNothing(() => sendBatch(`[{"a":1},{"a":1,"b":[0,{"c":-0}]}]`));
    expect(refusal(answer).fields).toEqual(['[1].b[1].c']);
  });

  it.each([
    ['an empty array', '[]', {}],
    ['an object', '{}', {}],
    ['no line', '', NDJSON],
    ['blank lines', '\n \r\n\t', NDJSON],
  ])('is refused when it is %s', async (_what, text, options) => {
    const answer = await storesNothing(() => sendBatch(text, options));
    expect(refusal(answer)).toMatchObject({ status: 400, code: 'invalid_batch' });
  });

  it.each(['?atomic=yes', '?atomic=TRUE', '?atomic=1', '?atomic=true&atomic=true', '?atomic'])(
    'is refused with %s',
    async (query) => {
      const answer = await storesNothing(() => sendBatch([event()], {}, query));
      expect(refusal(answer)).toEqual({ status: 400, code: 'invalid_request', fields: ['atomic'] });
    },
  );
});

describe('an atomic batch', () => {
  const sendAll = (body: unknown, options: RequestOptions = {}) => sendBatch(body, options, '?atomic=true');
  const statuses = (answer: Answer) => answer.body.items.map((item: Json) => item.status);

  it('stores all: 201, and one recordedAt', async () => {
    const events = [...CATEGORIES.map((category) => event({}, category)), fullEvent()];
    const answer = await sendAll(events);
    expect(answer.status).toBe(201);
    expect(answer.body.errors).toBe(false);
    expect(statuses(answer)).toEqual(events.map(() => 201));
    expect(new Set(answer.body.items.map((item: Json) => item.recordedAt)).size).toBe(1);
  });

  it('sent again gives the first receipts', async () => {
    const events = [event(), fullEvent(), event()];
    const first = await sendAll(events);
    const again = await storesNothing(() => sendAll(events));
    expect(again.status).toBe(201);
    expect(statuses(again)).toEqual([200, 200, 200]);
    expect(again.body.items).toEqual(first.body.items.map((item: Json) => ({ ...item, status: 200 })));
  });

  it('of which some are stored already stores the others', async () => {
    const known = [event(), event()];
    const receipts = (await sendBatch(known)).body.items;
    const answer = await sendAll([event(), known[0], event(), known[1]]);
    expect(answer.status).toBe(201);
    expect(statuses(answer)).toEqual([201, 200, 201, 200]);
    expect(answer.body.items[1]).toEqual({ ...receipts[0], status: 200 });
    expect(answer.body.items[3]).toEqual({ ...receipts[1], status: 200 });
  });

  it('may repeat an event within itself', async () => {
    const one = fullEvent();
    const answer = await sendAll([one, event(), reversed(one)]);
    expect(answer.status).toBe(201);
    expect(statuses(answer)).toEqual([201, 201, 200]);
    expect(answer.body.items[2]).toEqual({ ...answer.body.items[0], status: 200 });
  });

  it('stores nothing when one is not valid, and names it', async () => {
    const answer = await storesNothing(() =>
      sendAll([event(), event({ severity: 11 }), event(), { ...event(), id: '.' }, 5]),
    );
    expect(refusal(answer)).toEqual({ status: 400, code: 'invalid_batch', fields: ['[1].severity', '[3].id', '[4]'] });
  });

  it('of NDJSON stores nothing when a line is broken', async () => {
    const text = `${JSON.stringify(event())}\n{"a":1,"a":2}\n${JSON.stringify(event())}`;
    const answer = await storesNothing(() => sendAll(text, NDJSON));
    expect(refusal(answer)).toEqual({ status: 400, code: 'invalid_batch', fields: ['[1].a'] });
  });

  it('stores nothing when an id belongs to another event, and names the items', async () => {
    const [one, two] = [event(), fullEvent()];
    await sendBatch([one, two]);
    const others = [event(), { ...one, outcome: 'failure' }, event(), { ...two, raw: 'other' }];
    const answer = await storesNothing(() => sendAll(others));
    expect(refusal(answer)).toEqual({ status: 409, code: 'id_conflict', fields: ['[1].id', '[3].id'] });
  });

  it('stores nothing when it has two events of one id', async () => {
    const one = event({ details: { n: 1 } });
    const answer = await storesNothing(() => sendAll([event(), one, { ...one, details: { n: 2 } }]));
    expect(refusal(answer)).toEqual({ status: 409, code: 'id_conflict', fields: ['[2].id'] });
  });

  it('sent eight times at once is stored once', async () => {
    const events = [event(), event({}, 'data_access'), event()];
    const before = await entriesStored();
    const answers = await Promise.all(Array.from({ length: 8 }, () => sendAll(events)));
    expect(answers.map((answer) => answer.status)).toEqual(Array(8).fill(201));
    const receipts = answers.map((answer) => answer.body.items.map(({ status: _, ...receipt }: Json) => receipt));
    expect(new Set(receipts.map((one) => JSON.stringify(one))).size).toBe(1);
    expect(await entriesStored()).toBe(before + 3);
  });

  it('that conflicts with another sent at once: one of the two is stored whole', async () => {
    for (let round = 0; round < 10; round++) {
      const shared = event({ details: { whose: 'a' } });
      const a = [event(), shared];
      const b = [event(), { ...shared, details: { whose: 'b' } }];
      const before = await entriesStored();
      const answers = await Promise.all([sendAll(a), sendAll(b)]);
      expect(answers.map((answer) => answer.status).toSorted()).toEqual([201, 409]);
      expect(await entriesStored()).toBe(before + 2);
    }
  });
});

describe('limits', () => {
  const padded = (bytes: number, more: Json = {}): string => {
    const start = JSON.stringify(event({ ...more, details: { pad: '' } }));
    return start.replace('"pad":""', `"pad":"${'x'.repeat(bytes - start.length)}"`);
  };

  it('an event of 256 KiB is taken, of one byte more not', async () => {
    expect((await send(padded(256 * KiB))).status).toBe(201);
    const answer = await storesNothing(() => send(padded(256 * KiB + 1)));
    expect(refusal(answer)).toMatchObject({ status: 413, code: 'too_large' });
  });

  it('an event that is larger once decoded is not taken', async () => {
    const headers = { 'content-encoding': 'gzip' };
    const noise = Array.from({ length: 6000 }, (_, n) => (n * 7919 * 104_729).toString(36)).join(' ');
    const fits = JSON.stringify(event({ details: { noise } }));
    expect((await send(gzipSync(fits), { headers })).status).toBe(201);
    const large = JSON.stringify(event({ details: { noise: noise.repeat(5) } }));
    expect(large.length).toBeGreaterThan(256 * KiB);
    const answer = await storesNothing(() => send(gzipSync(large), { headers }));
    expect(refusal(answer)).toMatchObject({ status: 413, code: 'too_large' });
  });

  it('in a batch an event over 256 KiB is its own mistake', async () => {
    const events = [padded(256 * KiB), padded(256 * KiB + 1), padded(300)];
    const array = await sendBatch(`[${events.join(',')}]`);
    expect(array.body.items.map((item: Json) => item.status)).toEqual([201, 413, 201]);
    const lines = await sendBatch(events.join('\n'), NDJSON);
    expect(lines.body.items.map((item: Json) => item.status)).toEqual([200, 413, 200]);
    const atomic = await storesNothing(() => sendBatch(events.join('\r\n'), NDJSON, '?atomic=true'));
    expect(refusal(atomic)).toEqual({ status: 400, code: 'invalid_batch', fields: ['[1]'] });
  });

  it('a batch of 16 MiB is taken, of one byte more not', async () => {
    const each = 64 * KiB;
    const lines = Array.from({ length: 255 }, () => padded(each - 1));
    const text = lines.join('\n');
    const rest = 16 * MiB - text.length - 1;
    const whole = `${text}\n${padded(rest)}`;
    expect(Buffer.byteLength(whole)).toBe(16 * MiB);
    const { status, body } = await sendBatch(whole, NDJSON);
    expect(status).toBe(200);
    expect(body.errors).toBe(false);
    expect(body.items).toHaveLength(256);
    const answer = await storesNothing(() => sendBatch(`${whole}\n`, NDJSON));
    expect(refusal(answer)).toMatchObject({ status: 413, code: 'too_large' });
  });

  it('a batch of 10,000 events is taken, of one more not', async () => {
    const { id: _, ...small } = event({ id: 'x' });
    const line = JSON.stringify(small);
    const lines = Array.from({ length: 10_000 }, () => line);
    const { status, body } = await sendBatch(lines.join('\n'), NDJSON);
    expect(status).toBe(200);
    expect(body.errors).toBe(false);
    expect(new Set(body.items.map((item: { id: string }) => item.id)).size).toBe(10_000);
    for (const [text, options] of [
      [`${lines.join('\n')}\n${line}`, NDJSON],
      [`[${lines.join(',')},${line}]`, {}],
    ] as const) {
      const answer = await storesNothing(() => sendBatch(text, options));
      expect(refusal(answer)).toMatchObject({ status: 400, code: 'invalid_batch' });
    }
  });

  it('a body that expands too much is refused before it is read to its end', async () => {
    const headers = { 'content-type': 'application/x-ndjson', 'content-encoding': 'gzip' };
    const answer = await storesNothing(() => sendBatch(gzipSync(Buffer.alloc(15 * MiB, 0x20)), { headers }));
    expect(refusal(answer)).toMatchObject({ status: 413, code: 'too_large' });
  });

  it('text fields end at their number of characters, in code points', async () => {
    const status = async (more: Json) => (await send(event(more))).status;
    expect(await status({ reason: '\u{1f600}'.repeat(4096) })).toBe(201);
    expect(await status({ reason: '\u{1f600}'.repeat(4097) })).toBe(400);
    expect(await status({ reason: '' })).toBe(400);
    // The record is at most 65,535 bytes; the longest that a sender can make fits.
    const longest = '\u0001'.repeat(256);
    const source = { service: longest, host: longest, site: longest, zone: longest };
    expect(await status({ id: 'y'.repeat(128), source, action: `a.${'b'.repeat(61)}` })).toBe(201);
  });

  it('of an event, whatever they are set to, let in nothing that can not be read', async () => {
    const large = await startService({ limits: { eventBytesMax: 4 * MiB } });
    try {
      const sent = event({ details: { numbers: [] } });
      const text = JSON.stringify(sent).replace('[]', `[${Array(800_000).fill('1e20').join(',')}]`);
      const { status } = await large.post('/v1/events', text);
      if (status === 201) expect((await large.get(`/v1/events/${sent.id}`)).status).toBe(200);
      else expect(status).toBe(413);
      await large.checkLog();
    } finally {
      await large.stop();
    }
  });

  it('can be set', async () => {
    const small = await startService({ limits: { eventBytesMax: KiB, batchBytesMax: 4 * KiB, batchEventsMax: 3 } });
    try {
      expect((await small.post('/v1/events', padded(KiB))).status).toBe(201);
      expect((await small.post('/v1/events', padded(KiB + 1))).status).toBe(413);
      expect((await small.post('/v1/events/batch', [event(), event(), event()])).status).toBe(200);
      expect((await small.post('/v1/events/batch', [event(), event(), event(), event()])).status).toBe(400);
      expect((await small.post('/v1/events/batch', `[${padded(5 * KiB)}]`)).status).toBe(413);
      await small.checkLog();
    } finally {
      await small.stop();
    }
  });
});

describe('tenants', () => {
  it('are not made by writing where they are closed', async () => {
    const closed = await startService({ makeTenants: false });
    try {
      const single = await closed.post('/v1/events', event());
      expect(refusal(single)).toMatchObject({ status: 403, code: 'forbidden' });
      // Nor by reading, which would leave an entry.
      expect(refusal(await closed.get('/v1/streams'))).toMatchObject({ status: 403, code: 'forbidden' });
      const { rows } = await closed.adminPool.query("SELECT name FROM sealog.tenant WHERE name <> 'sealog'");
      expect(rows).toEqual([]);
    } finally {
      await closed.stop();
    }
  });
});

function without(object: Json, name: string): Json {
  const { [name]: _, ...rest } = object;
  return rest;
}

/** The same value with the members of all objects in the opposite order. */
function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .map(([name, member]) => [name, reversed(member)])
      .reverse(),
  );
}
