/**
 * Erasing a person (docs/retention.md): found, shown, agreed on by two, destroyed, and everything still verifies. As adversaries: a crash
 * between any two steps, a database from before the erasure, somebody who erases without a certificate, and somebody who guesses.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import type { Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import { concatBytes, fromUtf8, utf8 } from '../src/chain/bytes.ts';
import { canonicalText } from '../src/chain/canonical.ts';
import { openBlock } from '../src/chain/open-block.ts';
import { commitmentOf, isOpen, partCommitment } from '../src/chain/part.ts';
import { sha256Hex } from '../src/chain/sha256.ts';
import { readTar, TAR_END, tarHeader, tarPadding } from '../src/chain/tar.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { keyById } from '../src/store/data-keys.ts';
import { openDatabase } from '../src/store/database.ts';
import { addFound, blockHolding } from '../src/store/erasures.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import { verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import { CertificateBook } from '../src/verify/certificates.ts';
import { type LogReport, verifyLog } from '../src/verify/verify-log.ts';
import { copyDatabase, type TestDatabase } from './support/postgres.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { type Answer, startService, type TestService } from './support/service.ts';
import { someOf } from './support/short-form.ts';

const PATH = '/v1/erasures';
const NAME = 'Zoë Weiß';
const EMAIL = 'zoe.weiss@example.com';
const ZOE = { type: 'user', id: 'u-17', name: NAME, email: EMAIL, ip: '192.0.2.7' };
const MAX = { type: 'user', id: 'u-170', name: 'Max', email: 'max@example.com', ip: '192.0.2.8' };

const run = promisify(execFile);
const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  while (undo.length > 0) await undo.pop()!();
});

async function start(options: Parameters<typeof startService>[0] = {}): Promise<TestService> {
  const service = await startService(options);
  undo.push(() => service.stop());
  return service;
}

function login(id: string, actor: object, more: object = {}) {
  return {
    ...{ id, category: 'user_authentication', action: 'user.login', outcome: 'success', actor, ...more },
    ...{ occurredAt: '2026-11-22T21:04:05.123Z', source: { service: 'mes-gateway', site: 'plant-7' } },
  };
}

function access(id: string, actor: object, more: object) {
  return { ...login(id, actor, more), category: 'data_access', action: 'dashboard.view' };
}

/** Three of Zoë's logins among others of Max, and a dashboard that she looks at, in whose raw line and details she stands too. */
const EVENTS = [
  login('z1', ZOE),
  login('m1', MAX),
  login('z2', { ...ZOE, email: ' ZOE.Weiss@example.com' }),
  login('m2', MAX, { raw: `login of ${NAME} refused, then max` }),
  access('z3', ZOE, { target: { type: 'dashboard', id: 'd-1' }, raw: `GET / by ${EMAIL}`, details: { rows: 3 } }),
  access('m3', MAX, { target: { type: 'dashboard', id: 'd-1' }, details: { shared: [{ with: EMAIL }] } }),
];

async function filled(options: Parameters<typeof startService>[0] = {}): Promise<TestService> {
  const service = await start(options);
  const { body } = await service.post('/v1/events/batch', EVENTS);
  expect(body.errors).toBe(false);
  return service;
}

async function as(
  service: TestService,
  subject: string,
  path: string,
  body?: unknown,
  roles: readonly Role[] = ['privacy_officer'],
): Promise<Answer> {
  const token = await signToken(service.tokens, { tenant: 'acme', roles, subject, ttlSeconds: 3600 });
  return body === undefined ? service.get(path, { token }) : service.post(path, body, { token });
}

async function until<T>(look: () => Promise<T | undefined>, what: string): Promise<T> {
  const end = performance.now() + 40_000;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function proposed(service: TestService, request: object): Promise<string> {
  const { status, body } = await as(service, 'ann', PATH, { reason: 'request 4711', ...request });
  expect(status, JSON.stringify(body)).toBe(202);
  const { search } = await until(async () => {
    const now = (await as(service, 'ann', `${PATH}/${body.id}`)).body;
    return now.search === 'searching' ? undefined : now;
  }, 'searched');
  expect(search).toBe('found');
  return body.id;
}

async function untilDone(service: TestService, id: string): Promise<Answer['body']> {
  return until(async () => {
    const now = (await as(service, 'ann', `${PATH}/${id}`)).body;
    return now.state === 'approved' ? undefined : now;
  }, 'carried out');
}

async function erased(service: TestService, request: object): Promise<string> {
  const id = await proposed(service, request);
  expect((await as(service, 'bob', `${PATH}/${id}/approve`, {})).status).toBe(200);
  expect(await untilDone(service, id)).toMatchObject({ state: 'done' });
  return id;
}

async function onVerifier<T>(
  service: TestService,
  work: (database: ReturnType<typeof openDatabase>, keys: Keyring) => Promise<T>,
): Promise<T> {
  const log = { warn: () => {} };
  const database = openDatabase({ connection: service.database.appConfig, readersMax: 1, log });
  const keys = new Keyring(fileMonthKeys(service.config.monthKeysDir), {
    findOrStore: () => Promise.reject(new Error('verification makes no keys')),
    byId: (id) => keyById(database.verifier, id),
  });
  try {
    return await work(database, keys);
  } finally {
    await database.close();
  }
}

function verified(service: TestService): Promise<LogReport> {
  return onVerifier(service, ({ verifier }, keys) => verifyLog(logWideSource(verifier, keys, 'log.example')));
}

/** Nothing is wrong with it, and all that is missing is certified. Nobody outside vouches for it, which no test here is about. */
async function isSound(service: TestService): Promise<LogReport> {
  const report = await verified(service);
  const findings = [...report.findings, ...report.streams.flatMap((stream) => stream.findings)];
  expect(findings).toEqual([]);
  expect(report.verdict).toBe('not_provable');
  for (const stream of report.streams) expect(stream.unproven).toBeUndefined();
  return report;
}

function findingsOf({ streams }: LogReport) {
  return streams.flatMap(({ findings }) => findings.map(({ stream, kind, seq }) => `${stream} ${kind} ${seq}`));
}

/** Says whether an entry's part can be opened from what is stored. */
async function storedParts(service: TestService, streamName: string, seq: number) {
  return onVerifier(service, async ({ verifier }, keys) => {
    const { rows } = await service.adminPool.query('SELECT id FROM sealog.stream WHERE name = $1', [streamName]);
    const block = (await blockHolding(verifier, rows[0].id, seq))!;
    const { dataKey } = await keys.keysById(block.keyId);
    return openBlock(block, streamName, dataKey).find(({ record }) => record.seq === seq)!.parts;
  });
}

describe('a person who is erased', () => {
  it('is found by tag, shown, and destroyed once another person agrees, by whichever replica signs', async () => {
    const signing = await filled();
    const service = await start({ beside: signing, environment: { SEALOG_SIGNER_DIR: undefined } });
    const other = await service.token('service', 'other');
    expect((await service.post('/v1/events', login('o1', ZOE), { token: other })).status).toBe(201);
    const others = `SELECT md5(string_agg(b.parts::text, '' ORDER BY first_seq)) AS hash FROM sealog.block AS b
      JOIN sealog.stream AS s ON s.id = b.stream WHERE s.name = 'other/user_authentication'`;
    const before = (await service.adminPool.query(others)).rows;

    const id = await proposed(service, { person: { email: 'Zoe.Weiss@EXAMPLE.com' } });
    expect((await as(service, 'ann', `${PATH}/${id}`)).body).toMatchObject({ entries: 3, refused: 0, by: ['email'] });
    const shown = (await as(service, 'bob', `${PATH}/${id}/entries`)).body.items;
    expect(shown.map((one: Answer['body']) => [one.id, one.parts, one.erased])).toEqual([
      ['z3', ['actor', 'raw'], false],
      ['z1', ['actor'], false],
      ['z2', ['actor'], false],
    ]);
    const own = await as(service, 'ann', `${PATH}/${id}/approve`, {});
    expect([own.status, own.body.code]).toEqual([403, 'second_person_required']);
    expect((await as(service, 'eve', `${PATH}/${id}/approve`, {}, ['auditor'])).status).toBe(403);
    expect((await as(service, 'bob', `${PATH}/${id}/approve`, {})).status).toBe(200);
    expect(await untilDone(service, id)).toMatchObject({ state: 'done', erased: 3 });

    const certificate = `erasure.${id}.1`;
    const event = (await service.get('/v1/events/z3')).body;
    expect(event.actor).toBeUndefined();
    expect(event.raw).toBeUndefined();
    expect(event.details).toEqual({ rows: 3 });
    expect(event.log).toMatchObject({
      erased: ['actor', 'raw'],
      erasures: [{ parts: ['actor', 'raw'], certificate }],
    });
    expect((await service.get(`/v1/events?actor=${EMAIL}&category=user_authentication`)).body.items).toEqual([]);
    expect((await service.get('/v1/events/m1')).body.actor).toEqual(MAX);
    const certifying = (await service.get(`/v1/events/${certificate}?category=log_administration`)).body;
    expect(certifying.details.entries).toContainEqual({ stream: 'acme/data_access', seq: 0, parts: ['actor', 'raw'] });
    const proof = (await service.get('/v1/events/z1/proof')).body;
    expect(proof.parts.actor).toMatchObject({ state: 'erased', certificate });

    const { streams } = await isSound(service);
    const logins = streams.find(({ stream }) => stream === 'acme/user_authentication');
    expect(logins!.erased!.map(({ from, to, certificate: by }) => [from, to, by.id, by.isSigned])).toEqual([
      [0, 1, certificate, true],
      [2, 3, certificate, true],
    ]);
    expect((await service.adminPool.query(others)).rows).toEqual(before);

    await isShownByBundles(service);

    // Nobody is named by what was done to forget him.
    const trail = JSON.stringify((await service.get('/v1/events?category=log_administration&limit=1000')).body);
    const ledger = await readFile(join(signing.config.signerDir!, 'erasures.log'), 'utf8');
    const { rows } = await service.adminPool.query(
      `SELECT (SELECT string_agg(p::text, '') FROM sealog.proposal AS p) || (SELECT string_agg(e::text, '') FROM sealog.erasure_entry AS e) AS text`,
    );
    for (const text of [trail, ledger, rows[0].text])
      expect(text.toLowerCase()).not.toMatch(/zoe\.|zoë|u-17\b|192\.0\.2/);

    // Whoever guesses has the commitment alone: with the salt he would know at once.
    const actor = (await storedParts(service, 'acme/user_authentication', 0)).find(({ name }) => name === 'actor')!;
    expect(isOpen(actor)).toBe(false);
    const guess = partCommitment('actor', new Uint8Array(16), utf8(JSON.stringify(ZOE)));
    expect(guess).not.toEqual(commitmentOf(actor));
  }, 90_000);

  it('is found in raw and details by a full scan, as a word of its own, and where the law says so left alone', async () => {
    const service = await filled({ environment: { SEALOG_LEGAL_DUTY: 'user_authentication' } });
    const id = await proposed(service, { person: { id: 'u-17', name: NAME, email: EMAIL }, fullScan: true });
    const { items } = (await as(service, 'ann', `${PATH}/${id}/entries`)).body;
    expect(items.map((one: Answer['body']) => [one.id, one.parts, one.refused])).toEqual([
      ['z3', ['actor', 'raw'], null],
      ['m3', ['details'], null],
      ['z1', ['actor'], 'legal_duty'],
      ['z2', ['actor'], 'legal_duty'],
      ['m2', ['raw'], 'legal_duty'],
    ]);
    expect((await as(service, 'bob', `${PATH}/${id}/approve`, {})).status).toBe(200);
    expect(await untilDone(service, id)).toMatchObject({ state: 'done', entries: 5, refused: 3, erased: 2 });
    expect((await service.get('/v1/events/z1')).body.actor).toEqual(ZOE);
    expect((await service.get('/v1/events/m3')).body).toMatchObject({ actor: MAX, log: { erased: ['details'] } });
    await isSound(service);
  }, 60_000);

  it('is not erased without a signed certificate, nor from the log of the log; and what is gone without one is a finding', async () => {
    const service = await filled();
    const id = await erased(service, { person: { id: 'u-17' }, parts: ['actor'] });
    await service.app.close();
    const { adminPool } = service;
    const { rows } = await adminPool.query(
      `SELECT s.id, s.tenant, s.name, b.first_seq, b.drop_month, sha256(b.parts) AS hash FROM sealog.block AS b
       JOIN sealog.stream AS s ON s.id = b.stream
       WHERE s.name IN ('acme/log_administration', 'acme/user_authentication') ORDER BY s.name, b.first_seq`,
    );
    const [administration, logins] = [rows[0], rows.at(-1)];
    // Approved by two, and no certificate stands in the log.
    const other = '11111111-2222-4333-8444-555555555555';
    await adminPool.query(
      `INSERT INTO sealog.proposal (id, tenant, kind, reason, proposed_by, state, decided_by, decided_at)
       VALUES ($1, $2, 'erasure', 'x', 'ann', 'approved', 'bob', now())`,
      [other, logins.tenant],
    );
    await adminPool.query('INSERT INTO sealog.erasure (id, tenant) VALUES ($1, $2)', [other, logins.tenant]);
    expect(await addFound(adminPool, { id: other, tenantId: logins.tenant }, [], 1)).toBe(false);
    const client = await adminPool.connect();
    try {
      const forged = Buffer.from('forged');
      const block = (row: Answer['body']) => [row.id, row.first_seq, row.drop_month, row.hash, forged, []];
      await client.query('SET ROLE sealog_owner');
      await client.query(
        `INSERT INTO sealog.erasure_entry (erasure, tenant, stream, seq, event_id, parts, certificate)
         VALUES ($1, $2, $3, 1, 'm1', '{actor}', 1)`,
        [other, logins.tenant, logins.id],
      );
      await expect(
        client.query('SELECT sealog.replace_parts($1, $2, $3, $4, $5, $6)', block(administration)),
      ).rejects.toThrow('nothing is erased from stream');
      await client.query('SET ROLE sealog_writer');
      const erase = (of: string) =>
        client.query('SELECT sealog.erase_parts($1, $2, $3, $4, $5, $6, $7) AS done', [of, ...block(logins)]);
      await expect(erase(other)).rejects.toThrow('no certificate');
      // It is done: nothing is erased by it any more.
      expect((await erase(id)).rows).toEqual([{ done: false }]);
      await expect(client.query('UPDATE sealog.block SET parts = $1', [forged])).rejects.toThrow('denied');
      await expect(
        client.query(`UPDATE sealog.erasure_entry SET refused = 'legal_hold' WHERE erasure = $1`, [id]),
      ).rejects.toThrow('is over');
      const again = 'SELECT sealog.erase_again($1, $2, $3, $4, $5, $6, $7, $8, $9)';
      const values = ['c', [0], ...block(logins), ['actor']];
      await expect(client.query(again, values)).rejects.toThrow('denied');
      await client.query('SET ROLE sealog_signer');
      await expect(client.query(again, values)).rejects.toThrow('was let in');
      await client.query('RESET ROLE');
      await isSound(service);

      // The log forgets that it signed the certificate: what it certifies is not provable. It forgets what the certificate says: tampering.
      await client.query('SET ROLE sealog_owner');
      await client.query('DELETE FROM sealog.checkpoint WHERE stream = $1', [administration.id]);
      const report = await verified(service);
      const own = report.streams.find(({ stream }) => stream === 'acme/user_authentication')!;
      expect([own.findings, own.verdict, own.unproven]).toEqual([[], 'not_provable', 2]);
      await client.query(`UPDATE sealog.block SET records = records || '\\x00'::bytea WHERE stream = $1`, [
        administration.id,
      ]);
      expect(findingsOf(await verified(service))).toEqual(
        expect.arrayContaining(['acme/user_authentication erasure 0', 'acme/user_authentication erasure 2']),
      );
    } finally {
      client.release(true);
    }
  }, 60_000);
});

describe('an erasure', () => {
  it('reaches what a sink holds for a receiver that was away, and tells it of what it may have', async () => {
    const received: { isTaken: boolean; text: string }[] = [];
    let isAway = true;
    const siem = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        received.push({ isTaken: !isAway, text: Buffer.concat(chunks).toString() });
        response.writeHead(isAway ? 503 : 200).end();
      });
    });
    await new Promise<void>((resolve) => siem.listen(0, '127.0.0.1', resolve));
    undo.push(async () => siem.close());
    const service = await filled({
      exporting: {
        timing: { beatMs: 100, silentMs: 2000 },
        followerTiming: { retryMinMs: 50, retryMaxMs: 200, lookMs: 50 },
      },
      environment: { SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32' },
    });
    const url = `http://127.0.0.1:${(siem.address() as AddressInfo).port}`;
    const sink = { name: 'siem', type: 'webhook', url, format: 'json', from: 'beginning' };
    const filter = { categories: ['user_authentication'] };
    const token = await service.token('it_security_admin');
    const made = await service.post('/v1/sinks', { ...sink, filter }, { token });
    expect(made.status, made.text).toBe(201);
    await until(async () => (received.some(({ text }) => text.includes(EMAIL)) ? true : undefined), 'tried');
    await erased(service, { person: { id: 'u-17', email: EMAIL, name: NAME }, fullScan: true });
    // Whoever follows learns of it with his next sign of life: until then he may send what he holds once more.
    await new Promise((resolve) => setTimeout(resolve, 500));
    isAway = false;
    const taken = (): string[] => received.filter((one) => one.isTaken).map(({ text }) => text);
    const has = (what: string): boolean => taken().some((text) => text.includes(what));
    await until(async () => (has('erasure.completed') && has('"z1"') ? true : undefined), 'told');
    expect(taken().join('').toLowerCase()).not.toMatch(/zoe\.|zoë/);
  }, 60_000);

  it('that happens while the log is verified is no finding', async () => {
    const service = await filled();
    await erased(service, { person: { email: EMAIL }, parts: ['raw'] });
    const id = await proposed(service, { person: { id: 'u-17' } });
    let isDue = true;
    const report = await onVerifier(service, ({ verifier }, keys) =>
      verifyLog(logWideSource(verifier, keys, 'log.example'), {
        onProgress: async ({ name }) => {
          // Certificates were read for this stream, and are older than what is erased from the next one.
          if (name !== 'acme/data_access' || !isDue) return;
          isDue = false;
          expect((await as(service, 'bob', `${PATH}/${id}/approve`, {})).status).toBe(200);
          await untilDone(service, id);
        },
      }),
    );
    expect(isDue).toBe(false);
    expect(findingsOf(report)).toEqual([]);
    const logins = report.streams.find(({ stream }) => stream === 'acme/user_authentication')!;
    expect(logins.erased?.length).toBe(2);
  }, 60_000);

  it.each([
    ['of another tenant', { entries: [{ stream: 'other/data_access', seq: 0, parts: ['actor'] }] }],
    ['of a certificate', { entries: [{ stream: 'acme/log_administration', seq: 0, parts: ['details'] }] }],
    ['of no stream', { entries: [{ stream: 'acme/nothing', seq: 0, parts: ['actor'] }] }],
    ['of parts out of order', { entries: [{ stream: 'acme/data_access', seq: 0, parts: ['raw', 'actor'] }] }],
    ['of a part twice', { entries: [{ stream: 'acme/data_access', seq: 0, parts: ['raw', 'raw'] }] }],
    ['of no part', { entries: [{ stream: 'acme/data_access', seq: 0, parts: [] }] }],
    ['of a seq below 0', { entries: [{ stream: 'acme/data_access', seq: -1, parts: ['raw'] }] }],
    [
      'of more entries than one may',
      { entries: Array(500).fill({ stream: 'acme/data_access', seq: 9, parts: ['raw'] }) },
    ],
    ['with more than it may say', { entries: [{ stream: 'acme/data_access', seq: 0, parts: ['raw'], why: 'x' }] }],
    ['without entries', {}],
  ])('is not certified by what speaks %s, nor by anything else in it', (_, damage) => {
    const good = { stream: 'acme/data_access', seq: 0, parts: ['raw'] };
    const entries = 'entries' in damage ? [good, ...damage.entries] : undefined;
    const details = utf8(canonicalText({ erasure: 'x', ...(entries === undefined ? {} : { entries }) }));
    const entry = { stream: 'acme/log_administration', seq: 3, id: 'erasure.x.1', recordedAt: 0, isSigned: true };
    const book = new CertificateBook();
    book.add({ action: 'erasure.certified', entry, details });
    expect(book.erasureOf('acme/data_access', 0, 'raw')).toBeUndefined();
    book.add({ action: 'erasure.certified', entry, details: utf8(canonicalText({ erasure: 'x', entries: [good] })) });
    expect(book.erasureOf('acme/data_access', 0, 'raw')).toMatchObject({ erasure: 'x' });
    expect(book.erasureOf('acme/data_access', 1, 'raw')).toBeUndefined();
    expect(book.erasureOf('acme/data_access', 0, 'actor')).toBeUndefined();
  });
});

describe('a service that is killed while it erases', () => {
  const child = join(import.meta.dirname, 'support/signing-child.ts');

  const STEPS = ['planned', 'certified', 'noted', 'erased', 'erased', 'completed'].map((step) => `erasure-${step}`);

  it.each([someOf(STEPS, 3)])(
    'after each step, is followed by one that comes through, once',
    async (...steps) => {
      const service = await filled();
      const id = await proposed(service, { person: { id: 'u-17' } });
      await service.app.close();
      const idle = await start({ beside: service, environment: { SEALOG_SIGNER_DIR: undefined } });
      expect((await as(idle, 'bob', `${PATH}/${id}/approve`, {})).status).toBe(200);
      await idle.app.close();
      for (const step of steps) {
        const env = { ...PROGRAM_ENVIRONMENT, ...service.environment };
        const died = await run(process.execPath, [child, step, '1', '20000'], { env }).then(
          ({ stdout }) => stdout,
          (error: { signal: string }) => error.signal,
        );
        expect(died, step).toBe('SIGKILL');
      }
      const after = await start({ beside: service });
      expect(await untilDone(after, id)).toMatchObject({ state: 'done', erased: 3 });
      await isSound(after);
      const { items } = (await after.get('/v1/events?category=log_administration&limit=1000')).body;
      const told = items
        .map(({ action }: Answer['body']) => action)
        .filter((action: string) => /^erasure/.test(action));
      expect(told.sort()).toEqual(['erasure.approved', 'erasure.certified', 'erasure.completed', 'erasure.proposed']);
      const lines = (await readFile(join(service.config.signerDir!, 'erasures.log'), 'utf8')).trimEnd().split('\n');
      expect(lines).toHaveLength(1);
    },
    120_000,
  );
});

describe('a database from before an erasure', () => {
  it('serves nothing erased once it is recovered, though the recovery was killed, and everything in it verifies', async () => {
    const service = await filled();
    await service.post('/v1/events?wait=checkpoint', login('m9', MAX));
    await service.app.close();
    // Behind what was signed: a recovery appends it again, in another place.
    const unsigned = { beside: service, environment: { SEALOG_SIGNER_DIR: undefined } };
    const behind = await start(unsigned);
    expect((await behind.post('/v1/events', login('z9', ZOE))).status).toBe(201);
    await behind.app.close();
    const backup = await copyDatabase(service.database);
    const more = await start(unsigned);
    await more.post('/v1/events', login('m10', MAX));
    await more.app.close();
    undo.push(() => backup.drop());
    const on = await start({ beside: service });
    await erased(on, { person: { id: 'u-17', email: EMAIL, name: NAME }, fullScan: true });
    await on.app.close();

    const restored = facing(service, backup);
    // It holds everything, and gives nothing of it before whoever has the ledger has let it in.
    const early = await start({ beside: restored, environment: { SEALOG_SIGNER_DIR: undefined } });
    for (const path of SERVED) expect([path, (await early.get(path)).status]).toEqual([path, 503]);
    await early.app.close();
    await killedWhileErasingAgain(restored, 'acme/data_access');

    const main = join(import.meta.dirname, '../src/cli/main.ts');
    const env = { ...PROGRAM_ENVIRONMENT, ...restored.environment };
    await run(process.execPath, [main, 'recover', '--yes'], { env });
    const again = await start({ beside: restored });
    const event = await until(async () => {
      const { status, body } = await again.get('/v1/events/z3');
      return status === 200 ? body : undefined;
    }, 'served');
    expect(event.actor).toBeUndefined();
    expect(event.log.erased).toEqual(['actor', 'raw']);
    const moved = (await again.get('/v1/events/z9')).body;
    expect([moved.log.stream, moved.actor]).toEqual(['acme/user_authentication/e2', undefined]);
    const { certificate } = event.log.erasures[0];
    await until(async () => {
      const found = await again.get(`/v1/events/${certificate}?category=log_administration`);
      return found.status === 200 ? found : undefined;
    }, 'certified again');
    await until(async () => {
      const report = await verified(again);
      return report.streams.every(({ findings, unproven }) => findings.length === 0 && unproven === undefined)
        ? report
        : undefined;
    }, 'sound');

    let served = '';
    for (const path of SERVED) {
      const text = await textOf(again, path);
      expect(text.toLowerCase(), path).not.toMatch(OF_ZOE);
      served += text;
    }
    // What is another's is served as before.
    expect(served).toContain('max@example.com');
    const proof = (await again.get('/v1/events/z1/proof')).body;
    expect(proof.parts.actor).toMatchObject({ state: 'erased', certificate });
    for (const who of ['u-17', EMAIL, '192.0.2.7', encodeURIComponent(NAME)])
      expect([who, (await again.get(`/v1/events?actor=${who}&category=user_authentication`)).body.items]).toEqual([
        who,
        [],
      ]);
    for (const seq of [0, 2]) {
      const [actor] = await storedParts(again, 'acme/user_authentication', seq);
      expect([actor!.name, isOpen(actor!)]).toEqual(['actor', false]);
    }
  }, 90_000);
});

/** Nothing that stands in Base64, too. */
const OF_ZOE = /zoe\.|zoë|u-17\b|192\.0\.2\.7/;
/** Ways out of the log; no search by name, which would leave the name. */
const SERVED = [
  ...['/v1/events/z1', '/v1/events/z3', '/v1/events/m2', '/v1/events/m3', '/v1/events/z1/proof', '/v1/events/z3/proof'],
  ...['/v1/events?category=user_authentication&limit=100', '/v1/events?category=data_access&site=plant-7&limit=100'],
  ...['ndjson', 'cef', 'csv', 'ocsf'].map(
    (format) => `/v1/export?format=${format}&category=user_authentication,data_access`,
  ),
  ...['/v1/bundle?category=user_authentication', '/v1/bundle?category=data_access'],
];

async function textOf(service: TestService, path: string): Promise<string> {
  const headers = { authorization: `Bearer ${await service.token('auditor')}` };
  const answer = await fetch(`${service.url}${path}`, { headers });
  const text = await answer.text();
  expect([path, answer.status, answer.status === 200 ? '' : text]).toEqual([path, 200, '']);
  return text;
}

/** Recovers, and is killed at the first block of a stream that would be sealed anew. */
async function killedWhileErasingAgain(service: TestService, stream: string): Promise<void> {
  const main = join(import.meta.dirname, '../src/cli/main.ts');
  const superuser = new pg.Client(service.database.adminConfig);
  await superuser.connect();
  await superuser.query('BEGIN');
  await superuser.query(
    'SELECT FROM sealog.block WHERE stream = (SELECT id FROM sealog.stream WHERE name = $1) FOR UPDATE',
    [stream],
  );
  const child = spawn(process.execPath, [main, 'recover', '--yes'], {
    env: { ...PROGRAM_ENVIRONMENT, ...service.environment },
    stdio: 'ignore',
  });
  await until(async () => {
    // Of a transaction's own: it would see the same each time.
    await superuser.query('SELECT pg_stat_clear_snapshot()');
    const { rows } = await superuser.query(
      `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
    );
    return rows.length > 0 ? true : undefined;
  }, 'it waits for the block');
  child.kill('SIGKILL');
  await once(child, 'exit');
  await superuser.query('ROLLBACK');
  await superuser.end();
}

/** A bundle of erased entries brings its certificates, and is tampered with where one is taken out. */
async function isShownByBundles(service: TestService): Promise<void> {
  const token = await service.token('auditor');
  const answer = await fetch(`${service.url}/v1/bundle?category=user_authentication`, {
    headers: { authorization: `Bearer ${token}` },
  });
  expect(answer.status).toBe(200);
  const tar = new Uint8Array(await answer.arrayBuffer());
  const keys = (await service.get('/v1/keys')).body.items as { origin: string; vkey: string }[];
  const { vkey: key } = keys.find(({ origin }) => origin === 'log.example')!;
  const trust = { key, checkpoints: [], authorities: [], witnesses: [] };
  const report = await verifyBundle(tar, trust);
  expect([report.verdict, report.findings, report.unchecked]).toEqual(['not_provable', [], []]);
  expect(await secondOpinion(tar, key)).toMatchObject({ verdict: 'not_provable', findings: [], unchecked: [] });

  const files = readTar(tar, 100);
  const at = files.findIndex(({ name }) => name === 'certificates.ndjson');
  expect(files[at]!.bytes.length).toBeGreaterThan(0);
  const without = files.map((file, i) => (i === at ? { ...file, bytes: new Uint8Array(0) } : file));
  const manifest = JSON.parse(fromUtf8(without[0]!.bytes));
  manifest.files[at - 1] = { ...manifest.files[at - 1], bytes: 0, sha256: sha256Hex(new Uint8Array(0)) };
  without[0] = { ...without[0]!, bytes: utf8(canonicalText(manifest)) };
  const damaged = await verifyBundle(tarOf(without), trust);
  const gone = [
    { kind: 'erasure', seq: 0 },
    { kind: 'erasure', seq: 2 },
  ];
  expect(damaged.findings).toMatchObject(gone);
  expect((await secondOpinion(tarOf(without), key)).findings).toMatchObject(gone);
}

/** What the independent verifier says, which was written from the pages alone. */
async function secondOpinion(tar: Uint8Array, key: string) {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-erasure-'));
  undo.push(() => rm(folder, { recursive: true }));
  const file = join(folder, 'bundle.tar');
  await writeFile(file, tar);
  const program = join(import.meta.dirname, '../docs/verifiers/verify_bundle.py');
  const { stdout } = await run('python3', [program, file, '--key', key, '--json']).catch(
    (error: { stdout: string }) => error,
  );
  return JSON.parse(stdout);
}

function tarOf(files: readonly { readonly name: string; readonly bytes: Uint8Array }[]): Uint8Array {
  const pieces = files.flatMap(({ name, bytes }) => [
    tarHeader(name, bytes.length),
    bytes,
    new Uint8Array(tarPadding(bytes.length)),
  ]);
  return concatBytes(...pieces, TAR_END);
}

/** The same service before another database. */
function facing(service: TestService, database: TestDatabase): TestService {
  return { ...service, database, environment: { ...service.environment, DATABASE_URL: database.appUrl } };
}
