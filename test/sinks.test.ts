/** Sinks by API and by the operator's file: their whole life, what is refused, and that no secret comes out anywhere. */
import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import { Problem, SettingsError } from '../src/errors.ts';
import { categoriesOf, followedBy, readNewSink, termsOf, wantsOf } from '../src/export/sink.ts';
import { placesFrom, type SourceOfPlaces } from '../src/export/sink-places.ts';
import { addedBy } from '../src/export/sink-routes.ts';
import { openSinkSecret } from '../src/export/sink-secret.ts';
import { readSinksFile } from '../src/export/sinks-file.ts';
import { openSink } from '../src/export/transport-of-sink.ts';
import { checkShape } from '../src/http/api-schema.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { keyById } from '../src/store/data-keys.ts';
import { advance, fail, park, takeSinks } from '../src/store/sink-followers.ts';
import { secretOfSink } from '../src/store/sinks.ts';
import { selfSigned } from './support/certificates.ts';
import { exportedEntry } from './support/exported.ts';
import { type Answer, startService, type TestService } from './support/service.ts';
import { answers, startSiem } from './support/siem-server.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape
type Json = any;

/** Stands in every secret, and must stand nowhere else. */
const CANARY = 'c4n4ryYg7LxQ2v';
const NOBODY = '00000000-0000-4000-8000-000000000000';

let service: TestService;

beforeAll(async () => {
  service = await startService({ environment: { SEALOG_ALLOW_ADDRESSES: '127.0.0.0/8', SEALOG_ANCHOR_SECONDS: '1' } });
  const events = Array.from({ length: 12 }, (_, n) => event(n));
  expect((await service.post('/v1/events/batch?atomic=true', events)).status).toBe(201);
});

afterEach(async () => {
  const { body } = await call('GET', '/v1/sinks?limit=100');
  for (const { id } of body.items) await call('DELETE', `/v1/sinks/${id}`);
});

afterAll(async () => {
  await service.checkLog();
  await service.stop();
});

function event(n: number, more: object = {}): Json {
  return {
    id: `sink-${n}`,
    category: n % 2 === 0 ? 'security_event' : 'system_operation',
    action: 'sensor.read',
    outcome: 'success',
    severity: 5,
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 'mes', site: 'plant-7' },
    ...(n % 2 === 0 ? { actor: { type: 'user', id: 'u' }, target: { type: 'sensor', id: 's' } } : {}),
    ...more,
  };
}

interface Asking {
  readonly role?: Role;
  readonly tenant?: string;
  readonly sites?: readonly string[];
  readonly of?: TestService;
}

async function call(method: string, path: string, body?: Json, asking: Asking = {}): Promise<Answer> {
  const { role = 'it_security_admin', tenant = 'acme', sites, of = service } = asking;
  const claims = { tenant, roles: [role], subject: 'ann', ttlSeconds: 600, ...(sites === undefined ? {} : { sites }) };
  const response = await fetch(`${of.url}${path}`, {
    method,
    headers: {
      authorization: `Bearer ${await signToken(of.tokens, claims)}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  expect(text).not.toContain(CANARY);
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers) as Answer['headers'],
    text,
    body: text === '' ? undefined : JSON.parse(text),
  };
}

let names = 0;
function webhook(more: object = {}): Json {
  names += 1;
  return { name: `hook ${names}`, type: 'webhook', url: 'http://127.0.0.1:9/in', ...more };
}

async function made(given: Json = webhook(), asking: Asking = {}): Promise<Json> {
  const { status, body } = await call('POST', '/v1/sinks', given, asking);
  expect([status, body.errors]).toEqual([201, undefined]);
  expect(checkShape('Sink', body)).toEqual([]);
  return body;
}

async function read(id: string, asking: Asking = {}): Promise<Json> {
  const { status, body } = await call('GET', `/v1/sinks/${id}`, undefined, asking);
  expect(status).toBe(200);
  return body;
}

/** Of what the log tells of a sink, newest first. */
async function told(id: string, of = service, tenant = 'acme'): Promise<Json[]> {
  const path = `/v1/events?category=configuration_change&target=${id}&limit=50`;
  return (await call('GET', path, undefined, { role: 'auditor', tenant, of })).body.items;
}

async function cursors(id: string): Promise<Record<string, number>> {
  const { rows } = await service.adminPool.query(
    'SELECT s.name, c.next_seq AS seq FROM sealog.sink_cursor AS c JOIN sealog.stream AS s ON s.id = c.stream WHERE c.sink = $1',
    [id],
  );
  return Object.fromEntries(rows.map(({ name, seq }) => [name, Number(seq)]));
}

async function streamId(name: string): Promise<number> {
  const { rows } = await service.adminPool.query('SELECT id, tenant, size FROM sealog.stream WHERE name = $1', [name]);
  return rows[0].id;
}

/** Takes a sink as a follower does, and does what one would. */
async function asFollower(id: string, work: (hold: Json, tenantId: number) => Promise<boolean>): Promise<void> {
  const { writer } = service.app.database;
  const owner = randomUUID();
  await takeSinks(writer, owner, 0, 1000);
  const { rows } = await service.adminPool.query('SELECT revision, tenant FROM sealog.sink WHERE id = $1', [id]);
  const { revision, tenant } = rows[0];
  expect(await work({ sink: id, owner, revision }, tenant)).toBe(true);
}

function keysOf(of: TestService): Keyring {
  return new Keyring(fileMonthKeys(of.config.monthKeysDir), {
    findOrStore: () => Promise.reject(new Error('reading makes no keys')),
    byId: (id) => keyById(of.app.database.verifier, id),
  });
}

/** Every row of every table, as text: bytes in hex too. */
async function everything(of: TestService): Promise<string> {
  const { rows } = await of.adminPool.query<{ name: string }>(
    `SELECT relname AS name FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relkind IN ('r', 'p')`,
  );
  let text = '';
  for (const { name } of rows) {
    const found = await of.adminPool.query<{ row: string }>(`SELECT t::text AS row FROM sealog."${name}" AS t`);
    text += found.rows.map(({ row }) => row).join('\n');
  }
  return text;
}

describe('a sink', () => {
  test('is made, shown, changed, paused, resumed, disabled and deleted, and the log tells each', async () => {
    const given = webhook({ bearerToken: `${CANARY}-1`, headers: { 'X-Plant': '7' }, filter: { severityMin: 3 } });
    const sink = await made(given);
    expect(sink).toMatchObject({
      config: { name: given.name, type: 'webhook', url: given.url, filter: { severityMin: 3 } },
      secrets: ['bearerToken'],
      state: 'running',
      failures: 0,
      lastError: null,
      parked: [],
      fromFile: false,
      createdBy: 'ann',
    });
    expect(sink.lag.entries).toBeLessThan(10);
    const path = `/v1/sinks/${sink.id}`;
    const changed = await call('PUT', path, { ...sink.config, filter: { severityMin: 5 } });
    expect([changed.status, changed.body.config.filter, changed.body.secrets]).toEqual([
      200,
      { severityMin: 5 },
      ['bearerToken'],
    ]);
    for (const [act, state] of [
      ['pause', 'paused'],
      ['resume', 'running'],
      ['disable', 'disabled'],
      ['resume', 'running'],
    ]) {
      const { status, body } = await call('POST', `${path}/${act}`, { reason: 'because' });
      expect([act, status, body.state]).toEqual([act, 200, state]);
    }
    expect((await call('DELETE', path)).status).toBe(204);
    expect((await call('GET', path)).status).toBe(404);
    expect((await call('POST', `${path}/resume`, {})).status).toBe(404);
    const entries = await told(sink.id);
    expect(entries.map(({ action }) => action)).toEqual([
      'sink.deleted',
      'sink.resumed',
      'sink.disabled',
      'sink.resumed',
      'sink.paused',
      'sink.changed',
      'sink.created',
    ]);
    expect(entries.at(-1).changes.after).toEqual({ ...sink.config, secrets: ['bearerToken'] });
    expect(entries.at(-2).changes).toMatchObject({
      before: { filter: { severityMin: 3 } },
      after: { filter: { severityMin: 5 } },
    });
    const { rows } = await service.adminPool.query('SELECT secret FROM sealog.sink WHERE id = $1', [sink.id]);
    expect(rows[0].secret).toBeNull();
    // Its name is free again.
    await made({ ...given, url: 'http://127.0.0.1:9/again' });
  });

  test('has one name in a tenant, and another tenant may have it too', async () => {
    const given = webhook();
    await made(given);
    expect((await call('POST', '/v1/sinks', given)).body).toMatchObject({ status: 409, code: 'exists' });
    await made(given, { tenant: 'globex' });
  });

  test('of another tenant is none, whatever is asked', async () => {
    const { id, config } = await made();
    const asking = { tenant: 'globex' };
    const acts: [string, string, Json?][] = [
      ['GET', ''],
      ['PUT', '', config],
      ['DELETE', ''],
      ...['pause', 'resume', 'disable', 'test', 'retry'].map((act): [string, string, Json] => ['POST', `/${act}`, {}]),
      ['POST', '/replay', { from: 'beginning' }],
      ['POST', '/skip', { stream: 'acme/security_event', seq: 0, reason: 'x' }],
    ];
    for (const [method, rest, body] of acts) {
      const foreign = await call(method, `/v1/sinks/${id}${rest}`, body, asking);
      const nowhere = await call(method, `/v1/sinks/${NOBODY}${rest}`, body, asking);
      expect([method, rest, foreign.status, foreign.body]).toEqual([method, rest, 404, nowhere.body]);
    }
    const list = await call('GET', '/v1/sinks?limit=100', undefined, asking);
    expect(list.body.items.map((one: Json) => one.id)).not.toContain(id);
    expect((await read(id)).state).toBe('running');
  });

  test('is listed by name, page by page', async () => {
    const tenant = 'initech';
    for (const name of ['b', 'a', 'ä', 'c']) await made(webhook({ name }), { tenant });
    const seen: string[] = [];
    for (let cursor = ''; ; ) {
      const { body } = await call('GET', `/v1/sinks?limit=2${cursor}`, undefined, { tenant, role: 'auditor' });
      expect(checkShape('SinkPage', body)).toEqual([]);
      seen.push(...body.items.map((one: Json) => one.config.name));
      if (body.next === null) break;
      cursor = `&cursor=${body.next}`;
    }
    expect(seen).toEqual(['a', 'b', 'c', 'ä']);
  });

  test('is changed by nobody who only reads, and there are not too many', async () => {
    const { id } = await made();
    for (const role of ['auditor', 'operator', 'service', 'plant_manager'] as const)
      expect((await call('POST', `/v1/sinks/${id}/pause`, {}, { role, sites: ['plant-7'] })).status).toBe(403);
    const tenant = 'hooli';
    for (let n = 0; n < 20; n++) await made(webhook(), { tenant });
    expect((await call('POST', '/v1/sinks', webhook(), { tenant })).body).toMatchObject({ code: 'quota' });
  });
});

describe('secrets', () => {
  test('are nowhere in clear, and open with the key of their tenant alone', async () => {
    const given = [
      webhook({ bearerToken: `${CANARY}b`, secretHeaders: { 'X-Api-Key': `${CANARY}h` } }),
      webhook({ preset: 'splunk-hec', token: `${CANARY}s` }),
      webhook({ preset: 'sumo-logic', url: `https://sumo.example/receiver/${CANARY}` }),
    ];
    const sinks = [];
    for (const one of given) sinks.push(await made(one));
    expect(sinks.map((one) => one.secrets)).toEqual([['bearerToken', 'secretHeaders'], ['token'], ['url']]);
    expect(sinks[2].config.url).toBeUndefined();
    const wrong = await call('POST', '/v1/sinks', webhook({ preset: 'splunk-hec', token: `${CANARY} with a blank` }));
    expect(wrong.body.errors).toMatchObject([{ field: 'token' }]);
    const text = await everything(service);
    for (const secret of [
      CANARY,
      Buffer.from(CANARY).toString('hex'),
      Buffer.from(CANARY).toString('base64').slice(2, 16),
    ])
      expect(text.includes(secret)).toBe(false);

    const stored = async (id: string): Promise<Json> => {
      const { rows } = await service.adminPool.query(
        'SELECT secret, secret_key::text AS key FROM sealog.sink WHERE id = $1',
        [id],
      );
      return { sealed: rows[0].secret, keyId: rows[0].key };
    };
    const keys = keysOf(service);
    const first = await stored(sinks[0].id);
    expect(await openSinkSecret(keys, sinks[0].id, first)).toEqual({
      bearerToken: `${CANARY}b`,
      secretHeaders: { 'X-Api-Key': `${CANARY}h` },
    });
    // Put into another sink, or damaged, they are nothing.
    await expect(openSinkSecret(keys, sinks[1].id, first)).rejects.toThrow('do not open');
    const damaged = Buffer.from(first.sealed);
    damaged[40]! ^= 1;
    await expect(openSinkSecret(keys, sinks[0].id, { ...first, sealed: damaged })).rejects.toThrow('do not open');
  });

  test('are given out with the sink that they are for, and not once it was changed', async () => {
    const sink = await made(webhook({ bearerToken: `${CANARY}-of-one` }));
    const { writer } = service.app.database;
    const { rows } = await service.adminPool.query(
      'SELECT id, tenant AS "tenantId", revision FROM sealog.sink WHERE id = $1',
      [sink.id],
    );
    const seen = rows[0];
    const stored = await secretOfSink(writer, seen);
    expect(await openSinkSecret(keysOf(service), sink.id, stored)).toEqual({ bearerToken: `${CANARY}-of-one` });
    for (const other of [{ tenantId: seen.tenantId + 1 }, { revision: seen.revision + 1 }, { id: randomUUID() }])
      await expect(secretOfSink(writer, { ...seen, ...other })).rejects.toMatchObject({ code: 'busy' });
    // It goes elsewhere now: what was seen is not where its secret is for.
    const moved = { ...sink.config, url: 'http://127.0.0.1:9/elsewhere', bearerToken: `${CANARY}-of-another` };
    expect((await call('PUT', `/v1/sinks/${sink.id}`, moved)).status).toBe(200);
    await expect(secretOfSink(writer, seen)).rejects.toMatchObject({ code: 'busy' });
    // A role that answers clients does not get at it.
    await expect(service.app.database.reader.query('SELECT secret FROM sealog.sink')).rejects.toMatchObject({
      code: '42501',
    });
  });

  test('stay where a change does not name them, but not when the sink goes elsewhere', async () => {
    const sink = await made(webhook({ bearerToken: `${CANARY}1` }));
    const path = `/v1/sinks/${sink.id}`;
    for (const moved of [{ url: 'http://127.0.0.1:9/elsewhere' }, { preset: 'otlp' }]) {
      const { status, body } = await call('PUT', path, { ...sink.config, ...moved });
      expect([status, body.errors.map((one: Json) => one.field)]).toEqual([400, ['bearerToken']]);
    }
    const again = await call('PUT', path, { ...sink.config, url: 'http://127.0.0.1:9/new', bearerToken: `${CANARY}2` });
    expect([again.status, again.body.secrets]).toEqual([200, ['bearerToken']]);
    const removed = await call('PUT', path, { ...again.body.config, url: 'http://127.0.0.1:9/x', bearerToken: null });
    expect([removed.status, removed.body.secrets]).toEqual([200, []]);
    const [last, before] = await told(sink.id);
    expect(before.details.secretsReplaced).toEqual(['bearerToken']);
    expect([last.changes.before.secrets, last.changes.after.secrets]).toEqual([['bearerToken'], []]);
  });
});

describe('a configuration', () => {
  test.each<[string, Json, string[]]>([
    ['nothing', {}, ['name', 'type']],
    ['a list', [], ['']],
    ['an unknown member', webhook({ surl: 1 }), ['surl']],
    ['a member of another kind', webhook({ framing: 'lf' }), ['framing']],
    [
      'a member that does nothing',
      { ...webhook(), type: 'syslog', url: 'tcp://h:1', tlsServerName: 'x' },
      ['tlsServerName'],
    ],
    ['a preset of syslog', webhook({ type: 'syslog', url: 'udp://h:1', preset: 'elastic' }), ['preset']],
    ['an unknown preset', webhook({ preset: 'nagios' }), ['preset']],
    ['a missing secret', webhook({ preset: 'datadog', url: 'https://x.example' }), ['apiKey']],
    [
      'a filter',
      webhook({ filter: { categories: ['anchor'], severityMin: 11, actions: ['*'], sites: [], x: 1 } }),
      ['filter.x', 'filter.categories', 'filter.severityMin', 'filter.actions', 'filter.sites'],
    ],
    ['a filter that is none', webhook({ filter: null }), ['filter']],
    ['a category twice', webhook({ filter: { categories: ['data_access', 'data_access'] } }), ['filter.categories']],
    ['from', webhook({ from: 'yesterday' }), ['from']],
    ['from two', webhook({ from: { seq: 1, time: '2026-01-01T00:00:00Z' } }), ['from']],
    ['a seq of all categories', webhook({ from: { seq: 1 } }), ['from']],
    ['a time that is none', webhook({ from: { time: '2026-13-01T00:00:00Z' } }), ['from']],
    [
      'a seq that is not there yet',
      webhook({ from: { seq: 99 }, filter: { categories: ['system_operation'] } }),
      ['from.seq'],
    ],
    ['a name', webhook({ name: 'a\u0000b' }), ['name']],
    ['secrets', webhook({ secrets: ['bearerToken'] }), ['secrets']],
    ['an address of a file', webhook({ url: 'file:///etc/passwd' }), ['url']],
    ['credentials in the URL', webhook({ url: `https://u:${CANARY}@h/` }), ['url']],
  ])('is refused for %s, field by field', async (_, given, fields) => {
    // What JSON can not keep is refused before.
    if (JSON.stringify(given).includes('\\u0000'))
      return expect((await call('POST', '/v1/sinks', given)).status).toBe(400);
    const { status, body } = await call('POST', '/v1/sinks', given);
    expect([status, body.errors?.map((one: Json) => one.field)]).toEqual([400, fields]);
  });

  test('has a filter that means what it says', () => {
    const entry = (record: object, category = 'security_event'): Json => {
      const exported = exportedEntry(event(0));
      return {
        entry: { ...exported.entry, record: { ...exported.entry.record, ...record } },
        stream: { ...exported.stream, category },
      };
    };
    const wants = (filter: object, record: object, category?: string, anchor = false): boolean =>
      wantsOf({ filter, anchor })(entry(record, category));
    expect(wants({ actions: ['user.*'] }, { action: 'user.login' })).toBe(true);
    expect(wants({ actions: ['user.*'] }, { action: 'user' })).toBe(false);
    expect(wants({ actions: ['user.*'] }, { action: 'users.login' })).toBe(false);
    expect(wants({ actions: ['user.login'] }, { action: 'user.login.again' })).toBe(false);
    expect(wants({ sites: ['plant-7'] }, { source: { service: 'x' } })).toBe(false);
    expect(wants({ sites: ['plant-7'] }, { source: { service: 'x', site: 'plant-7' } })).toBe(true);
    expect(wants({ severityMin: 6 }, { severity: 5 })).toBe(false);
    expect(wants({ severityMin: 6 }, { severity: undefined })).toBe(true);
    expect(wants({ categories: ['data_access'] }, {})).toBe(false);
    expect(wants({ sites: ['plant-7'] }, {}, 'anchor')).toBe(false);
    expect(wants({ sites: ['plant-7'] }, {}, 'anchor', true)).toBe(true);
    expect(categoriesOf(termsOf({}))).toHaveLength(7);
  });

  test('does not keep an erasure from any sink, since it may have had other filters before', () => {
    const wants = (filter: object, action: string, category: string) => {
      const details = { entries: [{ stream: 'acme/data_access/e2', seq: 4, parts: ['actor'] }] };
      const exported: Json = exportedEntry({ ...event(0), action, details });
      return wantsOf({ filter, anchor: false })({ ...exported, stream: { ...exported.stream, category } });
    };
    const filter = { categories: ['security_event'], severityMin: 9, actions: ['user.*'], sites: ['plant-7'] };
    expect(wants(filter, 'erasure.completed', 'log_administration')).toBe(true);
    expect(wants(filter, 'erasure.proposed', 'log_administration')).toBe(false);
    // Anybody can send an event that is called so; only the log's own are believed.
    expect(wants(filter, 'erasure.completed', 'data_access')).toBe(false);
  });

  test('that leaves out what the log tells of itself still reads it, for erasures', async () => {
    expect(followedBy({ filter: { categories: ['data_access'] } })).toEqual(['data_access', 'log_administration']);
    const added = (before: Json, after: Json) => addedBy({ filter: before }, { filter: after }).categories;
    expect(added({ categories: ['data_access'] }, { categories: ['log_administration', 'security_event'] })).toEqual([
      'security_event',
    ]);
    const own: SourceOfPlaces[] = (['data_access', 'log_administration'] as const).map((category, id) => ({
      stream: { id, name: `acme/${category}`, category, epoch: 1, size: 10 },
      ask: () => Promise.reject(new Error('nothing need be asked')),
      isForErasures: category === 'log_administration',
    }));
    expect(await placesFrom(own, { seq: 4 }, 'from')).toEqual([
      { streamId: 0, nextSeq: 4 },
      { streamId: 1, nextSeq: 10 },
    ]);
    await expect(placesFrom(own, { seq: 11 }, 'from')).rejects.toThrow(Problem);
  });

  test('that is stored opens as a transport', async () => {
    const { id } = await made({ name: 'syslog', type: 'syslog', url: 'tcp://127.0.0.1:9', anchor: true });
    const { rows } = await service.adminPool.query('SELECT id, config FROM sealog.sink WHERE id = $1', [id]);
    const log = { debug() {}, warn() {} };
    const deps = { allowAddresses: [], hostname: 'host', log };
    const { transport, anchor } = await openSink({ ...rows[0], secret: undefined }, keysOf(service), deps);
    expect(anchor).toBe(true);
    expect(transport.batchMessagesMax).toBeGreaterThan(1);
    transport.close();
    expect('config' in readNewSink({ name: 'x', type: 'syslog', url: 'tcp://127.0.0.1:9' }, {})).toBe(true);
  });
});

test('certificates are shown whole, and told by their hash', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sealog-sinks-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const tlsCa = (await readFile((await selfSigned(dir)).cert, 'utf8')).repeat(9);
  const { id, config } = await made(webhook({ tlsCa }));
  expect(config.tlsCa).toBe(tlsCa);
  expect((await told(id))[0].changes.after.tlsCa).toMatch(/^sha256:[0-9a-f]{64}$/);
});

test('the anchor stream is followed where that is asked for, and gone back in', async () => {
  const name = 'sealog/anchor';
  await vi.waitFor(() => streamId(name), 10_000);
  const { id } = await made(webhook({ anchor: true }));
  expect((await cursors(id))[name]).toBeGreaterThanOrEqual(0);
  await asFollower(id, async (hold, tenantId) =>
    park(service.app.database.writer, hold, { tenantId, streamId: await streamId(name), seq: 0, reason: 'no' }),
  );
  expect((await read(id)).parked).toMatchObject([{ stream: name, seq: 0 }]);
  expect((await call('POST', `/v1/sinks/${id}/replay`, { stream: name, from: 'beginning' })).body.parked).toEqual([]);
  expect((await cursors(id))[name]).toBe(0);
  const other = await made();
  const { body } = await call('POST', `/v1/sinks/${other.id}/replay`, { stream: name, from: 'beginning' });
  expect(body.errors).toMatchObject([{ field: 'stream' }]);
});

describe('where a sink begins', () => {
  const operation = { categories: ['system_operation'] };

  test.each<[string, Json, number | undefined]>([
    ['now', 'now', 6],
    ['the beginning', 'beginning', undefined],
    ['a seq', { seq: 4 }, 4],
    ['before everything', { time: '2020-01-01T00:00:00Z' }, 0],
    ['behind everything', { time: '2100-01-01T00:00:00Z' }, 6],
  ])('is %s', async (_, from, place) => {
    const { id } = await made(webhook({ from, filter: operation }));
    expect((await cursors(id))['acme/system_operation']).toBe(place);
    expect((await read(id)).lag.entries).toBe(6 - (place ?? 0));
    expect((await told(id))[0].details.from).toEqual(
      from.time === undefined ? from : { time: from.time.replace('Z', '.000Z') },
    );
  });

  test('is the first entry that the log took at an instant or behind it', async () => {
    const tenant = 'tyrell';
    const token = { token: await service.token('service', tenant) };
    const taken: string[] = [];
    for (let n = 1; n < 6; n += 2) {
      const { body } = await service.post('/v1/events', event(n), token);
      taken.push(body.recordedAt);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    for (const [seq, time] of taken.entries()) {
      const { id } = await made(webhook({ from: { time }, filter: operation }), { tenant });
      expect((await cursors(id))['tyrell/system_operation']).toBe(seq);
    }
  });

  test('of categories that a change adds is where the log stands then', async () => {
    const { id, config } = await made(webhook({ from: 'beginning', filter: operation }));
    await call('PUT', `/v1/sinks/${id}`, { ...config, filter: undefined });
    expect(await cursors(id)).toMatchObject({ 'acme/data_access': expect.any(Number) });
    expect((await cursors(id))['acme/system_operation']).toBeUndefined();
  });
});

describe('a sink that has trouble', () => {
  const stream = 'acme/system_operation';

  test('shows that it tries again, and why, and a resumed one begins afresh', async () => {
    const { id } = await made();
    const error = 'http://127.0.0.1:9: nobody answers';
    await asFollower(id, (hold) => fail(service.app.database.writer, hold, { failures: 3, error, retryInMs: 60_000 }));
    const sink = await read(id);
    expect(sink).toMatchObject({ state: 'retrying', failures: 3, lastError: error });
    expect(Date.parse(sink.retryAt)).toBeGreaterThan(Date.now());
    expect((await call('POST', `/v1/sinks/${id}/retry`, {})).body).toMatchObject({
      ...{ state: 'running', failures: 0, lastError: null, retryAt: null },
    });
  });

  test('is parked until an administrator passes the entry over by name, which is an entry', async () => {
    const { id } = await made(webhook({ from: 'beginning' }));
    const { writer } = service.app.database;
    const streamId_ = await streamId(stream);
    await asFollower(id, async (hold, tenantId) => {
      const at = { tenantId, streamId: streamId_ };
      return (
        (await advance(writer, hold, { ...at, nextSeq: 2, delivered: 2, isWell: true })) &&
        (await park(writer, hold, { ...at, seq: 2, reason: 'the peer says 400' }))
      );
    });
    const parked = await read(id);
    expect(parked).toMatchObject({ state: 'parked', parked: [{ stream, seq: 2, reason: 'the peer says 400' }] });
    expect(parked.lag.seconds).toBeGreaterThanOrEqual(0);
    const skip = (body: Json) => call('POST', `/v1/sinks/${id}/skip`, body);
    expect((await skip({ stream, seq: 2 })).body.errors).toMatchObject([{ field: 'reason' }]);
    expect((await skip({ stream, seq: 1, reason: 'x' })).body).toMatchObject({ code: 'already_decided' });
    expect((await skip({ stream: 'acme/data_access', seq: 2, reason: 'x' })).status).not.toBe(200);
    expect((await skip({ stream: 'globex/security_event', seq: 2, reason: 'x' })).body.code).toBe('invalid_request');
    const retried = await call('POST', `/v1/sinks/${id}/retry`, { stream });
    expect(retried.body).toMatchObject({ state: 'running', parked: [] });
    expect((await cursors(id))[stream]).toBe(2);
    await asFollower(id, (hold, tenantId) =>
      park(writer, hold, { tenantId, streamId: streamId_, seq: 2, reason: 'again' }),
    );
    const skipped = await skip({ stream, seq: 2, reason: 'it is in the archive' });
    expect([skipped.status, skipped.body.parked]).toEqual([200, []]);
    expect((await cursors(id))[stream]).toBe(3);
    expect((await skip({ stream, seq: 2, reason: 'twice' })).status).toBe(409);
    const [last, before] = await told(id);
    expect([last.action, before.action]).toEqual(['sink.entry_skipped', 'sink.retried']);
    expect(last).toMatchObject({
      actor: { id: 'ann' },
      reason: 'it is in the archive',
      details: { stream, seq: 2, refusal: 'again' },
    });
  });

  test('is not written to by who followed it before a change', async () => {
    const { id } = await made(webhook({ from: 'beginning' }));
    const { writer } = service.app.database;
    const streamId_ = await streamId(stream);
    await asFollower(id, async (hold, tenantId) => {
      const to = { tenantId, streamId: streamId_, nextSeq: 5, delivered: 5, isWell: true };
      expect(await advance(writer, hold, to)).toBe(true);
      await call('POST', `/v1/sinks/${id}/replay`, { stream, from: { seq: 1 } });
      expect(await advance(writer, hold, { ...to, nextSeq: 6 })).toBe(false);
      expect(await park(writer, hold, { ...to, seq: 5, reason: 'late' })).toBe(false);
      return true;
    });
    expect((await cursors(id))[stream]).toBe(1);
  });

  test('goes back in the log, and never forward', async () => {
    const { id } = await made();
    const replay = (body: Json) => call('POST', `/v1/sinks/${id}/replay`, body);
    expect((await replay({ from: 'now' })).body.errors).toMatchObject([{ field: 'from' }]);
    expect((await replay({ from: { seq: 3 } })).body.errors).toMatchObject([{ field: 'stream' }]);
    expect((await replay({ stream, from: { seq: 7 } })).body.errors).toMatchObject([{ field: 'from.seq' }]);
    expect((await replay({ stream: 'globex/data_access', from: 'beginning' })).body.errors).toMatchObject([
      { field: 'stream' },
    ]);
    expect((await replay({ stream, from: { seq: 3 } })).status).toBe(200);
    expect((await cursors(id))[stream]).toBe(3);
    expect((await replay({ stream, from: { seq: 4 } })).status).toBe(400);
    expect((await replay({ from: { time: '2100-01-01T00:00:00Z' } })).status).toBe(200);
    expect((await cursors(id))[stream]).toBe(3);
    expect((await replay({ from: 'beginning' })).status).toBe(200);
    const own = Object.entries(await cursors(id)).filter(([name]) => name.startsWith('acme/'));
    expect(new Set(own.map(([, seq]) => seq))).toEqual(new Set([0]));
    expect((await told(id)).filter(({ action }) => action === 'sink.replayed')).toHaveLength(3);
  });
});

describe('a test of a sink', () => {
  test('is a round trip, and says what the peer said', async () => {
    const siem = await startSiem(() => ({ status: 200 }));
    onTestFinished(() => siem.stop());
    const { id } = await made(webhook({ url: siem.url, bearerToken: `${CANARY}t` }));
    await call('POST', `/v1/sinks/${id}/pause`, {});
    const { status, body } = await call('POST', `/v1/sinks/${id}/test`, {});
    expect([status, body.ok, checkShape('SinkTest', body)]).toEqual([200, true, []]);
    expect(siem.requests).toHaveLength(1);
    expect(siem.requests[0]!.headers['authorization']).toBe(`Bearer ${CANARY}t`);
    siem.faults.push(answers(401));
    const refused = await call('POST', `/v1/sinks/${id}/test`, {});
    expect(refused.body).toMatchObject({ ok: false });
    expect((await told(id)).slice(0, 3).map(({ action, outcome }) => [action, outcome])).toEqual([
      ['sink.tested', 'failure'],
      ['sink.tested', 'success'],
      ['sink.tested', 'success'],
    ]);
  });

  test('goes nowhere that the operator does not allow', async () => {
    for (const url of ['http://169.254.169.254/latest', 'http://10.0.0.1/', 'http://[::1]:1/']) {
      const { id } = await made(webhook({ url }));
      const { body } = await call('POST', `/v1/sinks/${id}/test`, {});
      expect(body.ok).toBe(false);
      expect(body.detail).toMatch(/allow/);
      expect(body.detail).not.toContain('latest');
      await call('DELETE', `/v1/sinks/${id}`);
    }
  });
});

describe('an administrator who is held to sites', () => {
  const sites = ['plant-7'];

  test('makes, sees and changes only sinks that are', async () => {
    const asking = { sites };
    const wide = await made();
    expect((await call('POST', '/v1/sinks', webhook(), asking)).body.errors).toMatchObject([{ field: 'filter.sites' }]);
    const foreign = webhook({ filter: { sites: ['plant-7', 'plant-8'] } });
    expect((await call('POST', '/v1/sinks', foreign, asking)).body.errors).toMatchObject([{ field: 'filter.sites' }]);
    const own = await made(webhook({ filter: { sites } }), asking);
    expect((await call('GET', `/v1/sinks/${wide.id}`, undefined, asking)).status).toBe(404);
    expect((await call('DELETE', `/v1/sinks/${wide.id}`, undefined, asking)).status).toBe(404);
    const { body } = await call('GET', '/v1/sinks?limit=100', undefined, asking);
    expect(body.items.map((one: Json) => one.id)).toEqual([own.id]);
    expect((await call('PUT', `/v1/sinks/${own.id}`, { ...own.config, filter: {} }, asking)).status).toBe(400);
    expect((await call('POST', `/v1/sinks/${own.id}/pause`, {}, asking)).status).toBe(200);
  });
});

describe("the operator's file", () => {
  async function folder(): Promise<string> {
    const made_ = await mkdtemp(join(tmpdir(), 'sealog-sinks-'));
    onTestFinished(() => rm(made_, { recursive: true, force: true }));
    return made_;
  }

  async function write(dir: string, content: unknown): Promise<string> {
    const path = join(dir, 'sinks.json');
    await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
    return path;
  }

  const item = { tenant: 'acme', name: 'soc', type: 'webhook', url: 'http://127.0.0.1:9/in' };

  test('makes, changes and deletes its sinks at the start, each in the log, and nobody else changes them', async () => {
    const dir = await folder();
    await writeFile(join(dir, 'token'), `${CANARY}f\n`);
    const path = await write(dir, [{ ...item, bearerToken: { file: 'token' }, from: 'beginning' }]);
    const environment = { SEALOG_SINKS_FILE: path };
    const base = await startService();
    onTestFinished(() => base.stop());
    const start = async (): Promise<TestService> => startService({ beside: base, environment });
    const list = async (): Promise<Json[]> => (await call('GET', '/v1/sinks', undefined, { of: base })).body.items;

    // Two replicas at once make it once.
    const both = await Promise.all([start(), start()]);
    const [sink] = await list();
    expect(await list()).toHaveLength(1);
    expect(sink).toMatchObject({
      fromFile: true,
      secrets: ['bearerToken'],
      config: { name: 'soc' },
      createdBy: 'SEALOG_SINKS_FILE',
    });
    for (const [method, body] of [
      ['PUT', sink.config],
      ['DELETE', undefined],
    ] as const)
      expect((await call(method, `/v1/sinks/${sink.id}`, body, { of: base })).status).toBe(403);
    expect((await call('POST', `/v1/sinks/${sink.id}/pause`, {}, { of: base })).body.state).toBe('paused');
    for (const one of both) await one.stop();

    // Nothing new: nothing happens, and it stays paused.
    await (await start()).stop();
    expect((await told(sink.id, base)).map(({ action }) => action)).toEqual(['sink.paused', 'sink.created']);
    await writeFile(join(dir, 'token'), `${CANARY}g`);
    await (await start()).stop();
    expect((await list())[0]).toMatchObject({ id: sink.id, state: 'paused' });
    expect((await told(sink.id, base))[0].action).toBe('sink.changed');
    const { rows } = await base.adminPool.query('SELECT secret, secret_key::text AS key FROM sealog.sink');
    const stored = { sealed: rows[0].secret, keyId: rows[0].key };
    expect(await openSinkSecret(keysOf(base), sink.id, stored)).toEqual({ bearerToken: `${CANARY}g` });
    expect((await everything(base)).includes(CANARY)).toBe(false);

    await write(dir, []);
    await (await start()).stop();
    expect(await list()).toEqual([]);
    expect((await told(sink.id, base))[0].action).toBe('sink.deleted');

    await write(dir, [item]);
    await call('POST', '/v1/sinks', webhook({ name: 'soc' }), { of: base });
    // An administrator of the tenant does not keep the service from starting by that.
    await (await start()).stop();
    expect(await list()).toMatchObject([{ fromFile: false }]);
    await base.checkLog();
  });

  test.each<[string, unknown, string[]]>([
    ['no JSON', '[', ['must hold JSON']],
    ['no list', {}, ['must be an array']],
    ['two members of one name', '[{"tenant":"acme","tenant":"acme"}]', ['two members of one name']],
    [
      'everything that is wrong',
      [{ ...item, tenant: '../x' }, { ...item, url: 7 }, 5, { ...item, name: '' }],
      ['[0].tenant must be', '[1].url must be', '[2] must be an object', '[3].name must be'],
    ],
    ['a secret in clear', [{ ...item, bearerToken: CANARY }], ['[0].bearerToken must be {"file": path}']],
    ['one within', [{ ...item, secretHeaders: { key: CANARY } }], ['[0].secretHeaders.key must be {"file": path}']],
    ['a file that is not there', [{ ...item, bearerToken: { file: 'nowhere' } }], ['can not be read: ENOENT']],
    ['a sink twice', [item, item], ['[1].name is that of another']],
  ])('is refused for %s', async (_, content, problems) => {
    const path = await write(await folder(), content);
    const error = await readSinksFile(path).then(
      () => undefined,
      (cause: unknown) => cause as SettingsError,
    );
    expect(error).toBeInstanceOf(SettingsError);
    expect(error!.message).not.toContain(CANARY);
    for (const problem of problems) expect(error!.message).toContain(problem);
    expect(error!.problems.every((problem) => problem.startsWith('SEALOG_SINKS_FILE'))).toBe(true);
  });
});
