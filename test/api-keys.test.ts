/** API keys: made, shown once, used, rotated, revoked; over HTTP against the service, and what a replica remembers of them over real tables. */
import { hash, randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { ApiKeys, type ApiKeysOptions, newApiKeyId, newApiKeySecret } from '../src/auth/api-keys.ts';
import { signToken } from '../src/auth/tokens.ts';
import { Problem } from '../src/errors.ts';
import { checkShape } from '../src/http/api-schema.ts';
import type { Caller } from '../src/http/caller.ts';
import {
  createApiKey,
  findApiKeys,
  listApiKeys,
  noteApiKeyUses,
  revokeApiKey,
  rotateApiKey,
} from '../src/store/api-keys.ts';
import { asTenant, type Database, openDatabase } from '../src/store/database.ts';
import { migrate } from '../src/store/migrate.ts';
import { tenantId } from '../src/store/streams.ts';
import { createDatabase, type TestDatabase } from './support/postgres.ts';
import { type Answer, startService, type TestService } from './support/service.ts';
import { passAll, startProxy, type TcpProxy } from './support/tcp-proxy.ts';

const silent = pino({ level: 'silent' });
const BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
const DAY_MS = 86_400_000;

let count = 0;

function event(more: object = {}): object {
  count += 1;
  return {
    id: `e-${count}`,
    category: 'system_operation',
    action: 'thing.happen',
    outcome: 'success',
    occurredAt: '2026-11-22T21:04:05Z',
    source: { service: 'mes' },
    ...more,
  };
}

async function admin(service: TestService, tenant = 'acme', sites?: readonly string[]): Promise<string> {
  const roles = ['it_security_admin'];
  return signToken(service.tokens, { tenant, roles, sites, subject: `admin of ${tenant}`, ttlSeconds: 3600 });
}

async function make(service: TestService, body: object = { name: 'mes' }, tenant = 'acme') {
  const answer = await service.post('/v1/api-keys', body, { token: await admin(service, tenant) });
  expect([answer.status, checkShape('ApiKeyWithText', answer.body)], answer.text).toEqual([201, []]);
  return answer.body as { id: string; key: string; expiresAt: string; [name: string]: unknown };
}

async function change(service: TestService, id: string, what: 'rotate' | 'revoke', body: object = {}): Promise<Answer> {
  return service.post(`/v1/api-keys/${id}/${what}`, body, { token: await admin(service) });
}

async function send(service: TestService, key: string, more: object = {}): Promise<Answer> {
  return service.post('/v1/events', event(more), { token: key });
}

/** The status of sending an event with each of the keys. */
async function statuses(service: TestService, ...keys: readonly string[]): Promise<number[]> {
  return (await Promise.all(keys.map((key) => send(service, key)))).map(({ status }) => status);
}

async function trail(service: TestService, target: string, tenant = 'acme') {
  const token = await service.token('auditor', tenant);
  const { body } = await service.get(`/v1/events?category=security_event&order=asc&target=${target}`, { token });
  return body.items as { action: string; outcome: string; [name: string]: unknown }[];
}

async function row(service: TestService, id: string) {
  const { rows } = await service.adminPool.query('SELECT * FROM sealog.api_key WHERE id = $1', [id]);
  return rows[0];
}

/** Every row of every table, as text; bytea comes in hex. */
async function everything(service: TestService): Promise<string> {
  const { rows } = await service.adminPool.query<{ name: string }>(
    `SELECT c.relname AS name FROM pg_class AS c WHERE c.relnamespace = 'sealog'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition`,
  );
  expect(rows.length).toBeGreaterThan(12);
  const texts = await Promise.all(
    rows.map(({ name }) => service.adminPool.query<{ t: string }>(`SELECT t::text AS t FROM sealog.${name} AS t`)),
  );
  return texts.flatMap((one) => one.rows.map(({ t }) => t)).join('\n');
}

/** How a secret could be written. */
function writings(key: string): string[] {
  const secret = Buffer.from(key.slice(-43), 'base64url');
  return [key, key.slice(-43), secret.toString('hex'), secret.toString('base64')];
}

async function until(look: () => Promise<boolean>, what: string, ms = 10_000): Promise<number> {
  const begin = performance.now();
  while (!(await look())) {
    if (performance.now() - begin > ms) throw new Error(`not within ${ms} ms: ${what}`);
    await delay(50);
  }
  return performance.now() - begin;
}

describe('over HTTP, a key', () => {
  const lines: string[] = [];
  let service: TestService;
  beforeAll(async () => {
    const log = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) });
    service = await startService({ log });
  });
  afterAll(async () => {
    await service.checkLog();
    await service.stop();
  });

  test('is made, sends events of its tenant as a service, and does nothing else', async () => {
    const { status, headers, body } = await service.post(
      '/v1/api-keys',
      { name: 'Förderband ②' },
      { token: await admin(service) },
    );
    expect(status).toBe(201);
    expect(headers['location']).toBe(`/v1/api-keys/${body.id}`);
    expect(headers['cache-control']).toBe('no-store');
    expect(body).toMatchObject({
      ...{ name: 'Förderband ②', state: 'active', categories: null, sites: null, createdBy: 'admin of acme' },
      ...{ rotatedAt: null, previousUntil: null, revokedAt: null, revokedBy: null, lastUsedAt: null },
    });
    expect(body.key).toMatch(new RegExp(`^sealog_${body.id}_[A-Za-z0-9_-]{43}$`));
    const year = Date.parse(body.expiresAt) - Date.parse(body.createdAt);
    expect(year).toBeGreaterThan(364 * DAY_MS);
    expect(year).toBeLessThan(367 * DAY_MS);

    const sent = await send(service, body.key);
    expect([sent.status, sent.body.stream]).toEqual([201, 'acme/system_operation']);
    const token = body.key;
    for (const path of [
      '/v1/events',
      '/v1/streams',
      '/v1/keys',
      '/v1/api-keys',
      `/v1/api-keys/${body.id}`,
      '/v1/bundle',
    ])
      expect([path, (await service.get(path, { token })).status]).toEqual([path, 403]);
    for (const path of ['/v1/api-keys', `/v1/api-keys/${body.id}/rotate`, `/v1/api-keys/${body.id}/revoke`])
      expect([path, (await service.post(path, { name: 'x' }, { token })).status]).toEqual([path, 403]);
  });

  test('is shown once: no list, table, log line or entry has its secret, and only the hash is stored', async () => {
    const made = await make(service, { name: 'once' });
    const token = await admin(service);
    const rotated = (await change(service, made.id, 'rotate')).body;
    const [ofMade, ofRotated] = [made.key, rotated.key as string];
    expect(await statuses(service, ofMade, ofRotated)).toEqual([201, 201]);
    // What goes wrong must not tell it either.
    await service.post('/v1/events', '{', { token: ofMade });
    await service.get('/v1/events', { token: ofMade });
    await service.post('/v1/events', event(), { token: `${ofMade}x` });
    await change(service, made.id, 'revoke', { reason: 'done' });
    const shown = [
      (await service.get(`/v1/api-keys/${made.id}`, { token })).text,
      (await service.get('/v1/api-keys?limit=100', { token })).text,
      (await service.get('/v1/events?limit=1000')).text,
      (await service.get('/v1/events?limit=1000&category=security_event')).text,
      (await service.get('/metrics', { token: null, headers: {} }).catch(String)).toString(),
      await everything(service),
      lines.join('\n'),
    ];
    for (const writing of [...writings(ofMade), ...writings(ofRotated)])
      expect(shown.findIndex((text) => text.includes(writing))).toBe(-1);
    expect(shown[0]).not.toMatch(/hash|key"/i);
    const stored = await row(service, made.id);
    const hashes = [stored.hash, stored.previous_hash].map((hash: Buffer) => hash.toString('hex'));
    const sha = async (key: string) =>
      Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.from(key.slice(-43), 'base64url'))).toString('hex');
    expect(hashes).toEqual([await sha(ofRotated), await sha(ofMade)]);
  });

  test('with any character altered, added or left out is refused: also where the bytes are the same', async () => {
    const { key } = await make(service);
    expect(await statuses(service, key)).toEqual([201]);
    const altered = [...key].map((char, at) => {
      const other = at < 24 ? (char === '0' ? '1' : '0') : BASE64URL[(BASE64URL.indexOf(char) + 1) % 64]!;
      return key.slice(0, at) + other + key.slice(at + 1);
    });
    // 43 digits have 258 bits, of which 256 count.
    const last = BASE64URL.indexOf(key.at(-1)!);
    const sameBytes = [1, 2, 3].map((bits) => key.slice(0, -1) + BASE64URL[last ^ bits]);
    for (const other of sameBytes)
      expect(Buffer.from(other.slice(-43), 'base64url')).toEqual(Buffer.from(key.slice(-43), 'base64url'));
    const misshapen = [
      ...[key.slice(0, -1), `${key}A`, `${key}=`, `${key}%20`, `${key}.`, key.toUpperCase(), key.replaceAll('_', '-')],
      ...[`${key}_${key}`, key.slice(0, 24), `${key.slice(0, 24)}${'A'.repeat(43)}`, 'sealog_', `sealog_${key}`],
      ...[key.replace('sealog_', 'sealog__'), `${key}${'A'.repeat(9000)}`, key.replace(/_[0-9a-f]{16}_/, '__')],
    ];
    const wrong = [...altered, ...sameBytes, ...misshapen];
    for (const one of wrong) expect([one.length, (await send(service, one)).status]).toEqual([one.length, 401]);
    const bearer = (text: string) =>
      service.post('/v1/events', event(), { token: null, headers: { authorization: text } });
    for (const text of [key, `bearer ${key}`, `Bearer  ${key}`, `Basic ${key}`, `Bearer ${key}, Bearer ${key}`])
      expect((await bearer(text)).status).toBe(401);
    expect((await bearer(`Bearer ${key}`)).status).toBe(201);
  });

  test('is a tenant’s own: to every other it is not there', async () => {
    const { id, key } = await make(service);
    const token = await admin(service, 'initech');
    const absent = newApiKeyId();
    for (const [path, body] of [
      ['', undefined],
      ['/rotate', {}],
      ['/revoke', {}],
    ] as const) {
      const ask = (one: string) =>
        body === undefined
          ? service.get(`/v1/api-keys/${one}${path}`, { token })
          : service.post(`/v1/api-keys/${one}${path}`, body, { token });
      const [theirs, nobodys] = [await ask(id), await ask(absent)];
      expect([theirs.status, theirs.text]).toEqual([404, nobodys.text]);
    }
    const own = await make(service, { name: 'own' }, 'initech');
    const { body } = await service.get('/v1/api-keys', { token });
    expect(body.items.map((one: { id: string }) => one.id)).toEqual([own.id]);
    expect((await send(service, own.key)).body.stream).toBe('initech/system_operation');
    expect(await statuses(service, key)).toEqual([201]);
    expect(await trail(service, id, 'initech')).toEqual([]);
  });

  test.each([
    ['without a name', {}, 'name'],
    ['with an empty name', { name: '' }, 'name'],
    ['with a name of 101 characters', { name: 'x'.repeat(101) }, 'name'],
    ['with a line break in its name', { name: 'a\nb' }, 'name'],
    ['with DEL in its name', { name: 'a\u007fb' }, 'name'],
    ['with a C1 control in its name', { name: 'a\u0085b' }, 'name'],
    ['with a name of another type', { name: 7 }, 'name'],
    ['of no category', { name: 'x', categories: [] }, 'categories'],
    ['of a category twice', { name: 'x', categories: ['data_access', 'data_access'] }, 'categories'],
    ['of a category that is none', { name: 'x', categories: ['nonsense'] }, 'categories[0]'],
    ['of the log’s own category', { name: 'x', categories: ['log_administration'] }, 'categories[0]'],
    ['of categories that are null', { name: 'x', categories: null }, 'categories'],
    ['of no site', { name: 'x', sites: [] }, 'sites'],
    ['of a site twice', { name: 'x', sites: ['a', 'a'] }, 'sites'],
    ['of 101 sites', { name: 'x', sites: Array.from({ length: 101 }, (_, n) => `s${n}`) }, 'sites'],
    ['of an empty site', { name: 'x', sites: [''] }, 'sites[0]'],
    ['that has expired', { name: 'x', expiresAt: '2020-01-01T00:00:00Z' }, 'expiresAt'],
    ['for ever', { name: 'x', expiresAt: '2126-01-01T00:00:00Z' }, 'expiresAt'],
    ['until no time', { name: 'x', expiresAt: 'tomorrow' }, 'expiresAt'],
    ['with a secret of the caller’s', { name: 'x', hash: 'ab' }, 'hash'],
    ['of another tenant', { name: 'x', tenant: 'initech' }, 'tenant'],
  ])('%s is not made', async (_, body, field) => {
    const { rows } = await service.adminPool.query('SELECT count(*)::int AS n FROM sealog.api_key');
    const answer = await service.post('/v1/api-keys', body, { token: await admin(service) });
    expect([answer.status, answer.body.code, answer.body.errors?.[0]?.field]).toEqual([400, 'invalid_request', field]);
    const after = await service.adminPool.query('SELECT count(*)::int AS n FROM sealog.api_key');
    expect(after.rows).toEqual(rows);
  });

  test('lives at most two years, to the millisecond that the service says', async () => {
    const soon = new Date(Date.now() + 2 * 365 * DAY_MS).toISOString();
    expect((await make(service, { name: 'long', expiresAt: soon })).expiresAt).toBe(soon);
    const offset = `${new Date(Date.now() + DAY_MS + 7_200_000).toISOString().slice(0, -1)}456789+02:00`;
    expect((await make(service, { name: 'short', expiresAt: offset })).expiresAt).toBe(
      new Date(Date.parse(offset)).toISOString(),
    );
  });

  test('that has expired is refused, is not rotated, and can still be revoked', async () => {
    const expiresAt = new Date(Date.now() + 700).toISOString();
    const { id, key } = await make(service, { name: 'brief', expiresAt });
    expect(await statuses(service, key)).toEqual([201]);
    await delay(Date.parse(expiresAt) - Date.now() + 10);
    expect(await statuses(service, key)).toEqual([401]);
    const { body } = await service.get(`/v1/api-keys/${id}`, { token: await admin(service) });
    expect(body).toMatchObject({ state: 'expired', revokedAt: null });
    const rotated = await change(service, id, 'rotate');
    expect([rotated.status, rotated.body.code]).toEqual([409, 'key_ended']);
    const revoked = await change(service, id, 'revoke');
    expect([revoked.status, revoked.body.state]).toEqual([200, 'revoked']);
    expect((await trail(service, id)).map(({ action }) => action)).toEqual(['api_key.created', 'api_key.revoked']);
  });

  test.each([
    ['rotate', { overlapSeconds: -1 }, 'overlapSeconds'],
    ['rotate', { overlapSeconds: 7 * 86_400 + 1 }, 'overlapSeconds'],
    ['rotate', { overlapSeconds: 1.5 }, 'overlapSeconds'],
    ['rotate', { overlapSeconds: '1' }, 'overlapSeconds'],
    ['rotate', { expiresAt: '2027-01-01T00:00:00Z' }, 'expiresAt'],
    ['revoke', { reason: '' }, 'reason'],
    ['revoke', { reason: 'x'.repeat(1001) }, 'reason'],
    ['revoke', { at: 'x' }, 'at'],
  ] as const)('is not changed by %s with %j', async (what, body, field) => {
    const { id, key } = await make(service);
    const before = await row(service, id);
    const answer = await change(service, id, what, body);
    expect([answer.status, answer.body.errors?.[0]?.field]).toEqual([400, field]);
    expect(await row(service, id)).toEqual(before);
    expect(await statuses(service, key)).toEqual([201]);
    for (const broken of ['', '[]', 'null', '{"a":1,"a":2}', '{']) {
      const refused = await service.post(`/v1/api-keys/${id}/${what}`, broken, { token: await admin(service) });
      expect([broken, refused.status]).toEqual([broken, 400]);
    }
  });

  test('has an id that is one, or the address names nothing', async () => {
    const token = await admin(service);
    for (const id of ['0', '0123456789ABCDEF', '0123456789abcdef0', '0123456789abcde%00']) {
      expect((await service.get(`/v1/api-keys/${id}`, { token })).status).toBe(400);
      expect((await service.post(`/v1/api-keys/${id}/revoke`, {}, { token })).status).toBe(400);
    }
  });

  test('that is rotated opens with both secrets during the overlap, then with the new one alone', async () => {
    const { id, key, expiresAt } = await make(service);
    expect(await statuses(service, key)).toEqual([201]);
    const { status, body } = await change(service, id, 'rotate', { overlapSeconds: 2 });
    expect([status, checkShape('ApiKeyWithText', body)]).toEqual([200, []]);
    expect(body).toMatchObject({ id, expiresAt, state: 'active' });
    expect(Date.parse(body.previousUntil) - Date.parse(body.rotatedAt)).toBe(2000);
    expect(body.key.slice(0, 24)).toBe(key.slice(0, 24));
    expect(body.key).not.toBe(key);
    expect(await statuses(service, key, body.key)).toEqual([201, 201]);
    await delay(Math.max(0, Date.parse(body.previousUntil) - Date.now() + 20));
    expect(await statuses(service, key, body.key, key, body.key)).toEqual([401, 201, 401, 201]);
  });

  test('that is rotated without an overlap opens with the new secret alone, at once', async () => {
    const { id, key } = await make(service);
    expect(await statuses(service, key)).toEqual([201]);
    const { body } = await change(service, id, 'rotate', { overlapSeconds: 0 });
    expect(body.previousUntil).toBeNull();
    expect(await statuses(service, key, body.key)).toEqual([401, 201]);
  });

  test('that is rotated again before anybody had the new secret: the service’s own goes on', async () => {
    const { id, key } = await make(service);
    expect(await statuses(service, key)).toEqual([201]);
    await until(async () => (await row(service, id)).hash_used, 'the use is noted');
    // Its answer is lost.
    const lost = (await change(service, id, 'rotate', { overlapSeconds: 600 })).body;
    const { body } = await change(service, id, 'rotate', { overlapSeconds: 6000 });
    expect(await statuses(service, key, body.key, lost.key)).toEqual([201, 201, 401]);
    expect(body.previousUntil).toBe(lost.previousUntil);
    // Once the new one is used, it is the one that holds over.
    await until(async () => (await row(service, id)).hash_used, 'the use is noted');
    const third = (await change(service, id, 'rotate')).body;
    expect(await statuses(service, key, body.key, third.key)).toEqual([401, 201, 201]);
    expect(Date.parse(third.previousUntil) - Date.parse(third.rotatedAt)).toBe(DAY_MS);
  });

  test('that is revoked is refused at once, with all its secrets, and stays as it is', async () => {
    const { id, key } = await make(service);
    const rotated = (await change(service, id, 'rotate')).body;
    expect(await statuses(service, key, rotated.key)).toEqual([201, 201]);
    const { status, body } = await change(service, id, 'revoke', { reason: 'leaked' });
    expect([status, checkShape('ApiKey', body)]).toEqual([200, []]);
    expect(body).toMatchObject({ id, state: 'revoked', revokedBy: 'admin of acme' });
    expect(await statuses(service, key, rotated.key, key, rotated.key)).toEqual([401, 401, 401, 401]);
    const again = await change(service, id, 'revoke');
    expect([again.status, again.text]).toEqual([200, JSON.stringify(body)]);
    const turned = await change(service, id, 'rotate');
    expect([turned.status, turned.body.code]).toEqual([409, 'key_ended']);
  });

  test('leaves its life in the tenant’s log, each change before it is made', async () => {
    const { id } = await make(service, { name: 'gateway', categories: ['data_access'], sites: ['p7'] });
    await change(service, id, 'rotate', { overlapSeconds: 60 });
    await change(service, id, 'revoke', { reason: 'CR-17' });
    expect((await change(service, id, 'rotate')).status).toBe(409);
    const entries = await trail(service, id);
    const common = { category: 'security_event', outcome: 'success', severity: 5, target: { type: 'api_key', id } };
    const details = { name: 'gateway' };
    expect(entries).toMatchObject([
      {
        ...common,
        action: 'api_key.created',
        actor: { type: 'user', id: 'admin of acme', ip: '127.0.0.1', roles: ['it_security_admin'] },
        details: { ...details, categories: ['data_access'], sites: ['p7'], expiresAt: expect.stringMatching(/Z$/) },
      },
      { ...common, action: 'api_key.rotated', details: { ...details, overlapSeconds: 60 } },
      { ...common, action: 'api_key.revoked', reason: 'CR-17', details },
    ]);
    const reads = await service.get(`/v1/events?category=data_access&target=${id}`);
    expect(reads.body.items).toEqual([]);
    await service.get(`/v1/api-keys/${id}`, { token: await admin(service) });
    await service.get('/v1/api-keys', { token: await service.token('auditor') });
    const after = (await service.get(`/v1/events?category=data_access&target=${id}`)).body.items;
    expect(after).toMatchObject([{ action: 'log.read', target: { type: 'api_key', id } }]);
    const lists = (await service.get('/v1/events?category=data_access&action=log.list&target=acme')).body.items;
    expect(lists).toContainEqual(expect.objectContaining({ target: { type: 'api_keys', id: 'acme' } }));
  });

  test('is not made where its entry can not be stored', async () => {
    const closed = await startService({ makeTenants: false });
    onTestFinished(() => closed.stop());
    const answer = await closed.post('/v1/api-keys', { name: 'x' }, { token: await admin(closed) });
    expect(answer.status).toBeGreaterThanOrEqual(403);
    const { rows } = await closed.adminPool.query('SELECT count(*)::int AS n FROM sealog.api_key');
    expect(rows[0].n).toBe(0);
  });

  test('is listed newest first, page by page, revoked ones too, and no cursor shows another tenant’s', async () => {
    const tenant = 'paging';
    const token = await admin(service, tenant);
    const ids: string[] = [];
    for (let n = 0; n < 7; n++) ids.unshift((await make(service, { name: `k${n}` }, tenant)).id);
    await service.post(`/v1/api-keys/${ids[3]}/revoke`, {}, { token });
    const found: string[] = [];
    let cursor: string | null = '';
    for (let pages = 0; cursor !== null && pages < 10; pages++) {
      const query: string = cursor === '' ? 'limit=3' : `limit=3&cursor=${cursor}`;
      const { status, body } = await service.get(`/v1/api-keys?${query}`, { token });
      expect([status, checkShape('ApiKeyPage', body)]).toEqual([200, []]);
      found.push(...body.items.map((one: { id: string }) => one.id));
      cursor = body.next;
      if (cursor === null) continue;
      const elsewhere = await service.get(`/v1/api-keys?cursor=${cursor}&limit=100`, { token: await admin(service) });
      expect(elsewhere.body.items.filter((one: { id: string }) => ids.includes(one.id))).toEqual([]);
    }
    expect(found).toEqual(ids);
    expect((await service.get('/v1/api-keys?limit=7', { token })).body.next).toBeNull();
    const states = (await service.get('/v1/api-keys', { token })).body.items.map((one: { state: string }) => one.state);
    expect(states).toEqual(['active', 'active', 'active', 'revoked', 'active', 'active', 'active']);
    for (const wrong of [
      'limit=0',
      'limit=101',
      'limit=x',
      'cursor=AAAA',
      'cursor=%00',
      'cursor=',
      'page=2',
      'limit=1&limit=2',
    ])
      expect([wrong, (await service.get(`/v1/api-keys?${wrong}`, { token })).status]).toEqual([wrong, 400]);
  });

  test('notes when it was used, once an hour', async () => {
    const { id, key } = await make(service);
    expect((await row(service, id)).last_used_at).toBeNull();
    const begin = Date.now();
    await statuses(service, key, key);
    await until(async () => (await row(service, id)).last_used_at !== null, 'the use is noted');
    const noted = (await row(service, id)).last_used_at as Date;
    expect(Math.abs(noted.getTime() - begin)).toBeLessThan(5000);
    await statuses(service, key, key);
    await delay(100);
    expect((await row(service, id)).last_used_at).toEqual(noted);
    const { body } = await service.get(`/v1/api-keys/${id}`, { token: await admin(service) });
    expect(body.lastUsedAt).toBe(noted.toISOString());
  });
});

describe('a narrowed key', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service.stop());

  test('sends only events of its categories and sites, alone and in batches; the field is named', async () => {
    const { key } = await make(service, { name: 'n', categories: ['system_operation'], sites: ['p7', 'p8'] });
    const from = (site?: string) => ({ source: site === undefined ? { service: 'mes' } : { service: 'mes', site } });
    const good = event(from('p8'));
    const other = { category: 'security_event', severity: 3 };
    expect((await service.post('/v1/events', good, { token: key })).status).toBe(201);
    for (const [more, fields] of [
      [from('p9'), ['source.site']],
      [from(), ['source.site']],
      [{ ...other, ...from('p7') }, ['category']],
      [{ ...other, ...from('P7') }, ['category', 'source.site']],
    ] as const) {
      const { status, body } = await send(service, key, more);
      expect([status, body.code]).toEqual([403, 'forbidden']);
      expect(body.errors.map(({ field }: { field: string }) => field)).toEqual(fields);
    }
    const events = [event(from('p7')), event(from('p9')), event({ ...other, ...from('p7') }), event(from('p8'))];
    const batch = await service.post('/v1/events/batch', events, { token: key });
    expect(batch.status).toBe(200);
    expect(batch.body.items.map(({ status }: { status: number }) => status)).toEqual([201, 403, 403, 201]);
    expect(batch.body.items[1]).toMatchObject({ code: 'forbidden', errors: [{ field: 'source.site' }] });
    expect(batch.body.items[2]).toMatchObject({ code: 'forbidden', errors: [{ field: 'category' }] });
    const atomic = await service.post('/v1/events/batch?atomic=true', [event(from('p7')), event(from())], {
      token: key,
    });
    expect(atomic.status).toBe(403);
    await service.checkLog();
  });

  test('is all that an administrator of some sites may make, see and change', async () => {
    const all = await make(service, { name: 'all' });
    const wide = await make(service, { name: 'wide', sites: ['n1', 'n2', 'n3'] });
    const near = await make(service, { name: 'near', sites: ['n2'] });
    const token = await admin(service, 'acme', ['n1', 'n2']);
    const post = (path: string, body: object) => service.post(`/v1/api-keys${path}`, body, { token });
    const own = await post('', { name: 'own', sites: ['n2', 'n1'] });
    expect(own.status).toBe(201);
    for (const [body, field] of [
      [{ name: 'x' }, 'sites'],
      [{ name: 'x', sites: ['n1', 'n3'] }, 'sites[1]'],
    ] as const) {
      const answer = await post('', body);
      expect([answer.status, answer.body.code, answer.body.errors?.[0]?.field]).toEqual([403, 'forbidden', field]);
    }
    const { body } = await service.get('/v1/api-keys?limit=1', { token });
    const next = await service.get(`/v1/api-keys?limit=1&cursor=${body.next}`, { token });
    expect([...body.items, ...next.body.items].map(({ id }) => id)).toEqual([own.body.id, near.id]);
    expect(next.body.next).toBeNull();
    for (const { id } of [all, wide]) {
      expect((await service.get(`/v1/api-keys/${id}`, { token })).status).toBe(404);
      expect((await post(`/${id}/rotate`, {})).status).toBe(404);
      expect((await post(`/${id}/revoke`, {})).status).toBe(404);
    }
    expect((await post(`/${near.id}/rotate`, {})).status).toBe(200);
    expect((await post(`/${near.id}/revoke`, {})).status).toBe(200);
    expect(await statuses(service, all.key)).toEqual([201]);
    const nowhere = await admin(service, 'acme', []);
    expect((await service.get('/v1/api-keys', { token: nowhere })).body.items).toEqual([]);
    expect((await service.post('/v1/api-keys', { name: 'x', sites: ['n1'] }, { token: nowhere })).status).toBe(403);
  });
});

describe('the limit of 1000 that are not revoked', () => {
  test('holds also for many at once; who is refused has it in the log', async () => {
    const service = await startService();
    onTestFinished(() => service.stop());
    const beside = await startService({ beside: service });
    onTestFinished(() => beside.stop());
    const { id } = await make(service);
    await service.adminPool.query(
      `INSERT INTO sealog.api_key (id, tenant, name, hash, created_by, expires_at)
       SELECT lpad(to_hex(n), 16, '0'), (SELECT id FROM sealog.tenant WHERE name = 'acme'), 'x', sha256('x'), 'x', now() + interval '1 day'
       FROM generate_series(1, 994) AS n`,
    );
    const token = await admin(service);
    const ask = (n: number) => (n % 2 === 0 ? service : beside).post('/v1/api-keys', { name: `n${n}` }, { token });
    const answers = await Promise.all(Array.from({ length: 12 }, (_, n) => ask(n)));
    const codes = answers.map(({ status, body }) => (status === 201 ? 201 : body.code));
    expect(codes.filter((code) => code === 201)).toHaveLength(5);
    expect(codes.filter((code) => code === 'quota')).toHaveLength(7);
    const refused = answers.find(({ status }) => status === 429)!;
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(60);
    // Another tenant is not held up, and one that is revoked makes room for one.
    await make(service, { name: 'x' }, 'initech');
    await change(service, id, 'revoke');
    expect([(await ask(0)).status, (await ask(1)).status]).toEqual([201, 429]);
    const { body } = await service.get('/v1/events?category=security_event&action=api_key.created&outcome=failure');
    expect(body.items).toHaveLength(8);
    expect(body.items[0]).toMatchObject({ severity: 5, details: { problem: 'quota' } });
    await service.checkLog();
  });
});

describe('two replicas', () => {
  let one: TestService;
  let other: TestService;
  let wire: TcpProxy;
  beforeAll(async () => {
    one = await startService();
    const { appConfig } = one.database;
    wire = await startProxy(appConfig);
    const behind = { ...one.database, appConfig: { ...appConfig, host: '127.0.0.1', port: wire.port } };
    other = await startService({ beside: { ...one, database: behind } });
  });
  afterAll(async () => {
    await other.stop();
    await wire.close();
    await one.checkLog();
    await one.stop();
  });

  test('know a new key, and a new secret, at once', async () => {
    const { id, key } = await make(one);
    expect(await statuses(other, key)).toEqual([201]);
    const { body } = await change(one, id, 'rotate', { overlapSeconds: 60 });
    expect(await statuses(other, body.key, key, body.key)).toEqual([201, 201, 201]);
  });

  test('know a revocation: the one that made it at once, the other within 5 s, also while it is in use', async () => {
    const { id, key } = await make(one);
    expect(await statuses(one, key)).toEqual([201]);
    expect(await statuses(other, key)).toEqual([201]);
    await change(one, id, 'revoke');
    const revoked = performance.now();
    expect(await statuses(one, key)).toEqual([401]);
    await until(async () => (await statuses(other, key))[0] === 401, 'the other knows');
    expect(performance.now() - revoked).toBeLessThan(5500);
  });

  test('of which one loses the database: what it has seen goes on, everything else is told to come again', async () => {
    const [known, stranger] = [await make(one), await make(one)];
    expect(await statuses(other, known.key)).toEqual([201]);
    // Appending is possible, looking for keys is not.
    wire.rule = (statement) => (statement === 'find_api_keys' ? 'cut' : 'pass');
    onTestFinished(() => {
      wire.rule = passAll;
    });
    const asked = await send(other, stranger.key);
    expect([asked.status, asked.body.code, asked.headers['retry-after']]).toEqual([503, 'not_ready', '1']);
    await delay(5200);
    expect(await statuses(other, known.key, known.key)).toEqual([201, 201]);
    // Nobody says 401 who has not looked.
    const madeUp = newApiKeySecret(newApiKeyId()).text;
    expect((await send(other, madeUp)).status).toBe(503);
    wire.rule = passAll;
    await until(async () => (await send(other, stranger.key)).status === 201, 'the database answers again', 3000);
    expect(await statuses(other, madeUp)).toEqual([401]);
  });

  test('of which one loses the answer to a change: nobody knows, and the log says so', async () => {
    const token = await admin(other);
    const { id, key } = await make(other);
    expect(await statuses(other, key)).toEqual([201]);
    await until(async () => (await row(one, id)).hash_used, 'the use is noted');
    const losing = (name: string) => {
      let armed = false;
      wire.rule = (statement) => {
        if (statement === name) armed = true;
        else if (!(armed && statement === 'COMMIT')) return 'pass';
        if (name === 'insert_api_key' && statement !== 'COMMIT') return 'pass';
        wire.rule = passAll;
        return 'cut_answer';
      };
    };
    losing('insert_api_key');
    const created = await other.post('/v1/api-keys', { name: 'lost' }, { token });
    expect([created.status, created.body.code]).toEqual([504, 'outcome_unknown']);
    expect(created.text).not.toMatch(/sealog_/);
    losing('rotate_api_key');
    const rotated = await change(other, id, 'rotate');
    expect([rotated.status, rotated.body.code]).toEqual([504, 'outcome_unknown']);
    // Asked again, it is the service's own secret that goes on, not the one that nobody has.
    const again = await change(other, id, 'rotate');
    expect(await statuses(other, key, again.body.key)).toEqual([201, 201]);
    losing('revoke_api_key');
    const revoked = await change(other, id, 'revoke');
    expect(revoked.status).toBe(504);
    await until(async () => (await row(one, id)).revoked_at !== null, 'it was stored');
    expect(await statuses(other, key, again.body.key)).toEqual([401, 401]);
    expect((await change(other, id, 'revoke')).status).toBe(200);
    const outcomes = (await trail(one, id)).map(({ action, outcome }) => `${action} ${outcome}`);
    expect(outcomes).toEqual([
      ...['api_key.created success', 'api_key.rotated success', 'api_key.rotated unknown', 'api_key.rotated success'],
      ...['api_key.revoked success', 'api_key.revoked unknown', 'api_key.revoked success'],
    ]);
    const { body } = await one.get('/v1/events?category=security_event&action=api_key.created&outcome=unknown');
    expect(body.items).toMatchObject([{ details: { name: 'lost', problem: 'outcome_unknown' } }]);
    const list = (await one.get('/v1/api-keys', { token: await admin(one) })).body.items;
    expect(list.map(({ name }: { name: string }) => name)).toContain('lost');
  });

  test('of which one loses the answer, and then the database: its caller hears that nobody knows, and so does the log in time', async () => {
    const token = await admin(other);
    let armed = false;
    let away = false;
    wire.rule = (statement) => {
      if (statement === 'insert_api_key') armed = true;
      if (away) return 'cut';
      if (!armed || statement !== 'COMMIT') return 'pass';
      away = true;
      return 'cut_answer';
    };
    onTestFinished(() => {
      wire.rule = passAll;
    });
    // That nothing was stored would be wrong: it was.
    const created = await other.post('/v1/api-keys', { name: 'unheard' }, { token });
    wire.rule = passAll;
    expect([created.status, created.body.code]).toEqual([504, 'outcome_unknown']);
    const list = (await one.get('/v1/api-keys', { token: await admin(one) })).body.items;
    const made = list.filter(({ name }: { name: string }) => name === 'unheard');
    expect(made).toHaveLength(1);
    const outcomes = async () => (await trail(one, made[0].id)).map(({ outcome }) => outcome);
    await until(async () => (await outcomes()).includes('unknown'), 'it is told', 10_000);
    expect((await outcomes())[0]).toBe('success');
  });
});

describe('what is remembered', () => {
  let postgres: TestDatabase;
  let database: Database;
  let acme: number;
  beforeAll(async () => {
    postgres = await createDatabase();
    await migrate(postgres.adminConfig, postgres.appRole);
    database = openDatabase({ connection: postgres.appConfig, readersMax: 2, log: silent });
    acme = (await tenantId(database.writer, 'acme', true))!;
  });
  afterAll(async () => {
    await database.close();
    await postgres.drop();
  });

  /** A replica's memory, with clocks that a test turns, over the real tables. */
  function replica(options: Partial<ApiKeysOptions> = {}) {
    const at = { wall: 0, monotonic: 0 };
    const asked: string[][] = [];
    const state = { away: false, hold: undefined as Promise<void> | undefined };
    const keys = new ApiKeys({
      async find(ids) {
        asked.push([...ids]);
        if (state.away) throw new Error('away');
        const found = await findApiKeys(database.writer, ids);
        await state.hold;
        return found;
      },
      noteUses: (uses) => noteApiKeyUses(database.writer, uses),
      wallClock: () => Date.now() + at.wall,
      monotonic: () => performance.now() + at.monotonic,
      ...options,
    });
    onTestFinished(() => keys.close());
    const pass = (ms: number): void => {
      at.wall += ms;
      at.monotonic += ms;
    };
    return { keys, at, asked, state, pass };
  }

  async function stored(more: { expiresAt?: Date; sites?: string[]; categories?: string[] } = {}) {
    const id = newApiKeyId();
    const { text, hash } = newApiKeySecret(id);
    const expiresAt = more.expiresAt ?? new Date(Date.now() + 30 * DAY_MS);
    const key = {
      id,
      tenantId: acme,
      name: 'x',
      hash,
      createdBy: 'x',
      expiresAt,
      sites: more.sites,
      categories: more.categories,
    };
    expect(await createApiKey(database.writer, key, 1_000_000)).toBeDefined();
    return { id, text, hash };
  }

  async function rotated(id: string, overlapSeconds: number) {
    const { text, hash } = newApiKeySecret(id);
    expect(await rotateApiKey(database.writer, { id, tenantId: acme, hash, overlapSeconds })).toBeDefined();
    return text;
  }

  const revoke = (id: string) => revokeApiKey(database.writer, { id, tenantId: acme, revokedBy: 'x' });

  async function outcome(ask: () => Caller | Promise<Caller>): Promise<string> {
    try {
      return (await ask()).subject;
    } catch (error) {
      if (error instanceof Problem) return error.code;
      throw error;
    }
  }

  test('is a caller: a service of the key’s tenant, narrowed as the key is', async () => {
    const { keys } = replica();
    const plain = await stored();
    expect(await keys.verify(plain.text)).toEqual({
      ...{ tenant: 'acme', subject: plain.id, credential: 'api_key', roles: ['service'] },
      permissions: new Set(['events:write']),
    });
    const narrow = await stored({ sites: ['p7'], categories: ['data_access'] });
    expect(await keys.verify(narrow.text)).toMatchObject({ sites: ['p7'], categories: ['data_access'] });
  });

  test('answers at once; what is older than 2 s is asked for again meanwhile, what is older than 5 s before', async () => {
    const { keys, pass, asked } = replica();
    const { id, text } = await stored();
    await keys.verify(text);
    expect(asked).toEqual([[id]]);
    expect(keys.verify(text)).not.toBeInstanceOf(Promise);
    pass(1900);
    expect(keys.verify(text)).not.toBeInstanceOf(Promise);
    expect(asked).toHaveLength(1);
    pass(200);
    expect(keys.verify(text)).not.toBeInstanceOf(Promise);
    await until(async () => asked.length === 2, 'it was asked for again');
    await revoke(id);
    pass(4900);
    expect(keys.verify(text)).not.toBeInstanceOf(Promise);
    await until(async () => (await outcome(() => keys.verify(text))) === 'unauthenticated', 'the revocation is known');
    const other = await stored();
    await keys.verify(other.text);
    await revoke(other.id);
    pass(5001);
    const late = keys.verify(other.text);
    expect(late).toBeInstanceOf(Promise);
    expect(await outcome(() => late)).toBe('unauthenticated');
  });

  test('ends when the key expires, to the millisecond, without another look', async () => {
    const { keys, at, asked } = replica();
    const { id, text } = await stored({ expiresAt: new Date(Date.now() + 60_000) });
    expect(await outcome(() => keys.verify(text))).toBe(id);
    at.wall = 59_000;
    expect(await outcome(() => keys.verify(text))).toBe(id);
    expect(asked).toHaveLength(1);
    at.wall = 60_001;
    expect(await outcome(() => keys.verify(text))).toBe('unauthenticated');
    expect(await outcome(() => replica({ wallClock: () => Date.now() + 60_001 }).keys.verify(text))).toBe(
      'unauthenticated',
    );
  });

  test('ends with the overlap: a day by default is a day', async () => {
    const { keys, at, pass } = replica();
    const { id, text } = await stored();
    const next = await rotated(id, 86_400);
    for (const secret of [text, next]) expect(await outcome(() => keys.verify(secret))).toBe(id);
    at.wall = DAY_MS - 5000;
    for (const secret of [text, next]) expect(await outcome(() => keys.verify(secret))).toBe(id);
    at.wall = DAY_MS + 5000;
    expect(await outcome(() => keys.verify(text))).toBe('unauthenticated');
    expect(await outcome(() => keys.verify(next))).toBe(id);
    pass(1);
  });

  test('is forgotten at a change, also where the answer to a query is under way that began before it', async () => {
    const { keys, state } = replica();
    const { id, text } = await stored();
    const gate = Promise.withResolvers<void>();
    state.hold = gate.promise;
    const early = outcome(() => keys.verify(text));
    await delay(100);
    await revoke(id);
    keys.forget(id);
    state.hold = undefined;
    gate.resolve();
    expect(await early).toBe('unauthenticated');
    expect(await outcome(() => keys.verify(text))).toBe('unauthenticated');
  });

  test('of many that ask at once is asked once; nobody is refused by a query that began before he came', async () => {
    const { keys, state, asked } = replica();
    const { id, text } = await stored();
    expect(await Promise.all(Array.from({ length: 500 }, () => outcome(() => keys.verify(text))))).toEqual(
      Array(500).fill(id),
    );
    expect(asked).toEqual([[id]]);

    const gate = Promise.withResolvers<void>();
    state.hold = gate.promise;
    const wrong = newApiKeySecret(id).text;
    const refused = outcome(() => keys.verify(wrong));
    await delay(50);
    const next = await rotated(id, 0);
    const good = outcome(() => keys.verify(next));
    state.hold = undefined;
    gate.resolve();
    expect(await Promise.all([refused, good])).toEqual(['unauthenticated', id]);
  });

  test('holds for 60 s where the database does not answer, and no more; who is not known is told to come again', async () => {
    const { keys, state, pass, asked } = replica();
    const { id, text, hash } = await stored();
    const stranger = await stored();
    await keys.verify(text);
    state.away = true;
    pass(30_000);
    expect(await outcome(() => keys.verify(text))).toBe(id);
    const before = asked.length;
    // One look a second: meanwhile everybody has his answer at once.
    for (let n = 0; n < 50; n++) expect(keys.verify(text)).not.toBeInstanceOf(Promise);
    for (let n = 0; n < 50; n++) expect(await outcome(() => keys.verify(stranger.text))).toBe('not_ready');
    expect(asked).toHaveLength(before);
    const wrong = newApiKeySecret(id).text;
    expect(await outcome(() => keys.verify(wrong))).toBe('not_ready');
    pass(29_000);
    expect(await outcome(() => keys.verify(text))).toBe(id);
    pass(1500);
    expect(await outcome(() => keys.verify(text))).toBe('not_ready');
    state.away = false;
    pass(1100);
    expect(await outcome(() => keys.verify(text))).toBe(id);
    expect(hash).toHaveLength(32);
  });

  test('does not go on past expiry, or a change made here, where the database does not answer', async () => {
    const { keys, state, pass } = replica();
    const short = await stored({ expiresAt: new Date(Date.now() + 20_000) });
    const gone = await stored();
    for (const { text } of [short, gone]) await keys.verify(text);
    state.away = true;
    pass(25_000);
    expect(await outcome(() => keys.verify(short.text))).toBe('not_ready');
    keys.forget(gone.id);
    expect(await outcome(() => keys.verify(gone.text))).toBe('not_ready');
  });

  test('of what was refused saves the look, for the same text alone', async () => {
    const { keys, asked } = replica();
    const { id } = await stored();
    const wrong = newApiKeySecret(id).text;
    const unknown = newApiKeySecret(newApiKeyId()).text;
    for (const text of [wrong, unknown]) {
      expect(await outcome(() => keys.verify(text))).toBe('unauthenticated');
      const before = asked.length;
      for (let n = 0; n < 20; n++) expect(() => keys.verify(text)).toThrow('A valid credential is required');
      expect(asked).toHaveLength(before);
    }
    expect(await outcome(() => keys.verify(newApiKeySecret(id).text))).toBe('unauthenticated');
    expect(asked).toHaveLength(3);
  });

  test('keeps a flood of made-up keys off the database, and lets a real one through it', async () => {
    const { keys, asked, pass } = replica();
    const [known, fresh] = [await stored(), await stored()];
    await keys.verify(known.text);
    await delay(20);
    asked.length = 0;
    const begin = performance.now();
    const madeUp = Array.from({ length: 4000 }, () => newApiKeySecret(newApiKeyId()).text);
    const flood = Promise.all(madeUp.map((text) => outcome(() => keys.verify(text))));
    pass(5001);
    const [first, second] = [outcome(() => keys.verify(known.text)), outcome(() => keys.verify(fresh.text))];
    // Who is known goes first.
    expect(await first).toBe(known.id);
    expect(asked).toHaveLength(1);
    expect(await second).toBe(fresh.id);
    expect(new Set(await flood)).toEqual(new Set(['unauthenticated']));
    const ms = performance.now() - begin;
    expect(asked.length).toBeLessThanOrEqual(9);
    expect(asked.every((ids) => ids.length <= 500)).toBe(true);
    expect(ms).toBeLessThan(5000);

    const more = Array.from({ length: 6000 }, () => newApiKeySecret(newApiKeyId()).text);
    const answers = await Promise.all(more.map((text) => outcome(() => keys.verify(text))));
    expect(answers.filter((code) => code === 'busy')).toHaveLength(1000);
    expect(await outcome(() => keys.verify(known.text))).toBe(known.id);
  });

  test('takes an unknown id the same way as a wrong secret of one that there is: in time, and in queries', async () => {
    const { keys, asked } = replica();
    const { id, text } = await stored();
    await keys.verify(text);
    const times: [number[], number[]] = [[], []];
    for (let n = 0; n < 60; n++) {
      for (const which of [0, 1] as const) {
        const made = newApiKeySecret(which === 0 ? id : newApiKeyId()).text;
        await delay(12);
        const [begin, before] = [performance.now(), asked.length];
        expect(await outcome(() => keys.verify(made))).toBe('unauthenticated');
        times[which].push(performance.now() - begin);
        expect(asked.length).toBe(before + 1);
      }
    }
    const median = (values: number[]) => values.toSorted((a, b) => a - b)[30]!;
    const ratio = median(times[0]) / median(times[1]);
    expect(ratio).toBeGreaterThan(0.5);
    expect(ratio).toBeLessThan(2);
  });

  test('is told as used once an hour, by whichever replica, and the first use of each secret at once', async () => {
    const { keys, pass } = replica();
    const { id, text } = await stored();
    const state = async () => {
      const { rows } = await database.writer.query('SELECT last_used_at, hash_used FROM sealog.api_key WHERE id = $1', [
        id,
      ]);
      return [rows[0].last_used_at?.getTime() as number | undefined, rows[0].hash_used as boolean] as const;
    };
    expect(await state()).toEqual([undefined, false]);
    await keys.verify(text);
    await until(async () => (await state())[1], 'the first use is noted');
    const [first] = await state();
    pass(3_500_000);
    await outcome(() => keys.verify(text));
    await delay(50);
    expect((await state())[0]).toBe(first);
    const next = await rotated(id, 3600);
    await outcome(() => keys.verify(text));
    await delay(50);
    // The old secret is not the new one.
    expect((await state())[1]).toBe(false);
    await outcome(() => keys.verify(next));
    await until(async () => (await state())[1], 'the first use of the new secret is noted');

    const owner = new pg.Client(postgres.adminConfig);
    await owner.connect();
    await owner.query('SET ROLE sealog_owner');
    const anHourAgo = "UPDATE sealog.api_key SET last_used_at = now() - interval '61 minutes' WHERE id = $1";
    await owner.query(anHourAgo, [id]).finally(() => owner.end());
    const [then] = await state();
    await outcome(() => replica().keys.verify(text));
    await until(async () => (await state())[0] !== then, 'an hour later it is noted again');
  });

  test('is none the worse where uses can not be noted, which is tried again every 10 s', async () => {
    let told = 0;
    const noteUses = async (): Promise<void> => {
      told += 1;
      throw new Error('the disk is full');
    };
    const { keys, pass } = replica({ noteUses });
    const { id, text } = await stored();
    for (let n = 0; n < 10; n++) {
      expect(await outcome(() => keys.verify(text))).toBe(id);
      await delay(20);
    }
    expect(told).toBe(1);
    pass(10_001);
    expect(await outcome(() => keys.verify(text))).toBe(id);
    await until(async () => told === 2, 'it is tried again');
  });

  test('is bounded: strangers push nobody out, 5000 keys push out the first, which is found again', async () => {
    const { keys, asked } = replica();
    const { id, text } = await stored();
    await keys.verify(text);
    for (let n = 0; n < 3; n++) {
      const flood = Array.from({ length: 4900 }, () => newApiKeySecret(newApiKeyId()).text);
      await Promise.all(flood.map((one) => outcome(() => keys.verify(one))));
    }
    expect(keys.verify(text)).not.toBeInstanceOf(Promise);

    // The secret of the n-th is the SHA-256 of its number.
    await database.writer.query(
      `INSERT INTO sealog.api_key (id, tenant, name, hash, created_by, expires_at)
       SELECT lpad(to_hex(n), 16, '0'), $1, 'x', sha256(sha256(n::text::bytea)), 'x', now() + interval '1 day' FROM generate_series(1, 5000) AS n`,
      [acme],
    );
    const texts = Array.from({ length: 5000 }, (_, at) => {
      const secret = hash('sha256', `${at + 1}`, 'buffer').toString('base64url');
      return `sealog_${(at + 1).toString(16).padStart(16, '0')}_${secret}`;
    });
    const found = await Promise.all(texts.map((one) => outcome(() => keys.verify(one))));
    expect(found).toEqual(texts.map((one) => one.slice(7, 23)));
    expect(keys.verify(texts.at(-1)!)).not.toBeInstanceOf(Promise);
    const before = asked.length;
    expect(await outcome(() => keys.verify(text))).toBe(id);
    expect(asked).toHaveLength(before + 1);
  });

  describe('the table', () => {
    const refusal = async (statement: string, values: unknown[] = []): Promise<string> => {
      try {
        await database.writer.query(statement, values);
        return 'done';
      } catch (error) {
        return (error as pg.DatabaseError).code ?? String(error);
      }
    };
    const PRIVILEGE = '42501';
    const CHECK = '23514';

    test('keeps for the writer what was asked for', async () => {
      const { id } = await stored({ sites: ['p7'], categories: ['data_access'] });
      for (const set of [
        ...["id = '0123456789abcdef'", 'tenant = tenant + 1', "name = 'y'", 'categories = NULL', 'sites = NULL'],
        ...[
          'created_at = now()',
          "created_by = 'y'",
          "expires_at = expires_at + interval '1 day'",
          'expires_at = now()',
        ],
      ])
        expect([set, await refusal(`UPDATE sealog.api_key SET ${set} WHERE id = $1`, [id])]).toEqual([set, PRIVILEGE]);
      expect(await refusal('DELETE FROM sealog.api_key WHERE id = $1', [id])).toBe(PRIVILEGE);
      expect(await refusal('TRUNCATE sealog.api_key')).toBe(PRIVILEGE);
      for (const [columns, values] of [
        ['revoked_at, revoked_by', "now(), 'x'"],
        ['created_at', 'now()'],
        ['last_used_at', 'now()'],
        ['hash_used', 'true'],
        ['previous_hash', "sha256('x')"],
      ]) {
        const insert = `INSERT INTO sealog.api_key (id, tenant, name, hash, created_by, expires_at, ${columns})
          VALUES ('0123456789abcdef', ${acme}, 'x', sha256('x'), 'x', now() + interval '1 day', ${values})`;
        expect([columns, await refusal(insert)]).toEqual([columns, PRIVILEGE]);
      }
    });

    test('does not let a secret come back, hold longer, or a revoked key live', async () => {
      const { id } = await stored();
      const set = (what: string) => refusal(`UPDATE sealog.api_key SET ${what} WHERE id = $1`, [id]);
      await database.writer.query('UPDATE sealog.api_key SET hash_used = true, last_used_at = now() WHERE id = $1', [
        id,
      ]);
      await rotated(id, 600);
      await database.writer.query('UPDATE sealog.api_key SET hash_used = true WHERE id = $1', [id]);
      for (const what of [
        "previous_until = previous_until + interval '1 s'",
        "previous_hash = sha256('y')",
        'previous_hash = hash',
        'hash_used = false',
        "rotated_at = rotated_at - interval '1 s'",
        'rotated_at = now()',
        "last_used_at = last_used_at - interval '1 s'",
        'last_used_at = NULL',
        "hash = sha256('y'), hash_used = false, rotated_at = rotated_at - interval '1 s'",
        "hash = sha256('y')",
        "hash = sha256('y'), hash_used = false, rotated_at = now(), previous_hash = sha256('z')",
        "hash = sha256('y'), hash_used = false, rotated_at = now(), previous_until = previous_until + interval '1 s'",
      ])
        expect([what, await set(what)]).toEqual([what, PRIVILEGE]);
      for (const what of [
        "hash = sha256('y'), hash_used = false, rotated_at = now(), previous_hash = hash, previous_until = now() + interval '8 days'",
        'revoked_at = now()',
        "hash = 'x', hash_used = false, rotated_at = now()",
        'previous_hash = NULL',
      ])
        expect([what, await set(what)]).toEqual([what, CHECK]);
      expect(await set("previous_until = previous_until - interval '1 s'")).toBe('done');
      expect(await set('previous_hash = NULL, previous_until = NULL')).toBe('done');
      await revoke(id);
      for (const what of [
        ...['revoked_at = NULL, revoked_by = NULL', "revoked_by = 'y'", "revoked_at = now() + interval '1 day'"],
        ...["hash = sha256('y'), hash_used = false, rotated_at = now()", 'last_used_at = now()'],
      ])
        expect([what, await set(what)]).toEqual([what, PRIVILEGE]);
      expect(await revoke(id)).toBeUndefined();
      expect(
        await rotateApiKey(database.writer, { id, tenantId: acme, hash: randomBytes(32), overlapSeconds: 1 }),
      ).toBeUndefined();
    });

    test('takes no row that could not be a key', async () => {
      const insert = (column: string, value: string) => {
        const row: Record<string, string> = {
          ...{
            id: "'0123456789abcdef'",
            tenant: `${acme}`,
            name: "'x'",
            hash: "sha256('x')",
            categories: 'NULL',
            sites: 'NULL',
          },
          ...{ created_by: "'x'", expires_at: "now() + interval '1 day'", [column]: value },
        };
        return refusal(`INSERT INTO sealog.api_key (${Object.keys(row)}) VALUES (${Object.values(row)})`);
      };
      for (const [column, value] of [
        ...[
          ['id', "'x'"],
          ['id', "'0123456789ABCDEF'"],
          ['name', "''"],
          ['name', "repeat('x', 101)"],
          ['name', "E'a\\u0085b'"],
        ],
        ...[
          ['name', "E'a\\tb'"],
          ['hash', "'x'"],
          ['categories', "ARRAY['anchor']"],
          ['categories', "'{}'"],
        ],
        ...[
          ['categories', "'{NULL}'"],
          ['sites', "'{}'"],
          ['sites', "'{a,NULL}'"],
          ['sites', "array_fill('x'::text, ARRAY[101])"],
        ],
        ...[['expires_at', "now() + interval '733 days'"]],
      ] as [string, string][])
        expect([column, value, await insert(column, value)]).toEqual([column, value, CHECK]);
    });

    test('is one tenant’s to a reader, also without the application’s own filter, and nobody’s to one who names none', async () => {
      const initech = (await tenantId(database.writer, 'initech', true))!;
      const mine = await stored();
      for (const own of [true, false]) {
        const list = (tenant: number) =>
          asTenant(database.reader, tenant, (reader) => listApiKeys(reader, undefined, undefined, 1000), own);
        expect((await list(acme)).map(({ id }) => id)).toContain(mine.id);
        expect(await list(initech)).toEqual([]);
      }
      expect((await database.reader.query('SELECT FROM sealog.api_key')).rowCount).toBe(0);
      for (const statement of ["UPDATE sealog.api_key SET revoked_by = 'x'", 'DELETE FROM sealog.api_key'])
        await expect(database.reader.query(statement)).rejects.toMatchObject({ code: PRIVILEGE });
    });

    test('outlasts replication settings: its triggers fire always', async () => {
      const { id } = await stored();
      const client = new pg.Client(postgres.adminConfig);
      await client.connect();
      try {
        await client.query('SET session_replication_role = replica');
        await expect(client.query('DELETE FROM sealog.api_key WHERE id = $1', [id])).rejects.toMatchObject({
          code: PRIVILEGE,
        });
        await expect(client.query('TRUNCATE sealog.api_key')).rejects.toMatchObject({ code: PRIVILEGE });
        const longer = client.query(
          "UPDATE sealog.api_key SET expires_at = expires_at + interval '1 day' WHERE id = $1",
          [id],
        );
        await expect(longer).rejects.toMatchObject({ code: PRIVILEGE });
        const earlier = await client.query(
          "UPDATE sealog.api_key SET expires_at = expires_at - interval '1 day' WHERE id = $1",
          [id],
        );
        expect(earlier.rowCount).toBe(1);
      } finally {
        await client.end();
      }
    });
  });
});
