/** Legal holds: what is held outlives its month, stays searchable and verifiable, and goes when two persons say so. */
import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { signToken } from '../src/auth/tokens.ts';
import { fromHex } from '../src/chain/bytes.ts';
import { canonicalBytes, type JsonObject } from '../src/chain/canonical.ts';
import { decodeCheckpoint } from '../src/chain/checkpoint.ts';
import { keeperOf } from '../src/chain/hold.ts';
import { checkInclusion } from '../src/chain/merkle.ts';
import type { Entry } from '../src/chain/open-block.ts';
import { checkShape } from '../src/http/api-schema.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { search } from '../src/read/search.ts';
import { withFewer } from '../src/retention/held.ts';
import { keyById } from '../src/store/data-keys.ts';
import { type AsTenant, asTenant, openDatabase } from '../src/store/database.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import { dropMonth } from '../src/store/prunings.ts';
import { listStreams } from '../src/store/streams.ts';
import { type LogReport, verifyLog } from '../src/verify/verify-log.ts';
import { appendOld, monthsAgo } from './support/old-entries.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';

const run = promisify(execFile);
const silent = pino({ level: 'silent' });
const ENVIRONMENT = { SEALOG_ANCHOR_SECONDS: '1', SEALOG_CHECKPOINT_MS: '50' };
/** Whoever reads leaves no entry there. */
const CATEGORY = 'user_authentication';
const OF = { category: CATEGORY } as const;
const NOW = Number(new Date().toISOString().slice(0, 7).replace('-', ''));

async function start(options: ServiceOptions = {}): Promise<TestService> {
  const service = await startService({ ...options, environment: { ...ENVIRONMENT, ...options.environment } });
  onTestFinished(() => service.stop());
  return service;
}

async function verifyAll(
  service: TestService,
  onProgress: (stream: string) => Promise<void> = async () => {},
): Promise<LogReport> {
  const database = openDatabase({ connection: service.database.appConfig, readersMax: 1, log: silent });
  try {
    const keyring = new Keyring(fileMonthKeys(service.config.monthKeysDir), {
      findOrStore: () => Promise.reject(new Error('verification makes no keys')),
      byId: (id) => keyById(database.verifier, id),
    });
    return await verifyLog(logWideSource(database.verifier, keyring, 'log.example'), {
      onProgress: ({ name }) => onProgress(name),
    });
  } finally {
    await database.close();
  }
}

function findingsOf(report: LogReport): string[] {
  return [...report.findings, ...report.streams.flatMap((stream) => stream.findings)].map(
    ({ stream, kind, seq, detail }) => `${stream} ${kind}@${seq}: ${detail}`,
  );
}

async function until<T>(look: () => Promise<T | undefined>, what: string, ms = 60_000): Promise<T> {
  const end = performance.now() + ms;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await delay(100);
  }
}

async function signedUp(service: TestService): Promise<void> {
  await until(async () => {
    const { rows } = await service.adminPool.query(
      `SELECT FROM sealog.stream AS s LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
       WHERE s.size > 0 AND s.category <> 'anchor' AND c.size IS DISTINCT FROM s.size`,
    );
    return rows.length === 0 ? true : undefined;
  }, 'everything is signed');
}

async function prune(service: TestService): Promise<void> {
  await signedUp(service);
  await until(async () => ((await service.app.pruner.pass('test')) === 'later' ? true : undefined), 'pruned');
}

async function runs(service: TestService) {
  const { rows } = await service.adminPool.query(
    'SELECT state, drop_month, waiting FROM sealog.pruning ORDER BY number',
  );
  return rows;
}

/** Time does not go by here: what is held goes to the present month, which has come. There it stays until this says otherwise. */
async function heldGoesTo(service: TestService, month: number): Promise<void> {
  await service.adminPool.query(
    `CREATE OR REPLACE FUNCTION sealog.month_of_held() RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT ${month}'`,
  );
}

/** Prunes until what is held would have to go on from the present month. */
async function pruneUpToNow(service: TestService): Promise<void> {
  await heldGoesTo(service, NOW);
  await signedUp(service);
  await until(async () => {
    await service.app.pruner.pass('test');
    const last = (await runs(service)).at(-1);
    return last?.drop_month === NOW && last.waiting?.includes('stay in its month') ? true : undefined;
  }, 'pruned up to now');
}

/** Where entries of a stream stand: seq → drop month. */
async function places(service: TestService, name = 'acme/user_authentication'): Promise<Map<number, number>> {
  const { rows } = await service.adminPool.query(
    `SELECT b.first_seq::integer AS first, b.entries, b.drop_month AS month FROM sealog.block AS b JOIN sealog.stream AS s ON s.id = b.stream
     WHERE s.name = $1 ORDER BY 1`,
    [name],
  );
  const found = new Map<number, number>();
  for (const { first, entries, month } of rows)
    for (let seq = first; seq < first + entries; seq++) {
      expect(found.has(seq), `entry ${seq} stands in one block`).toBe(false);
      found.set(seq, month);
    }
  return found;
}

/** What comes of a search, oldest first, page by page. */
async function found(service: TestService, query: string, order = 'asc', limit = 1000): Promise<number[]> {
  const seqs: number[] = [];
  let cursor = '';
  do {
    const { status, body } = await service.get(`/v1/events?${query}&order=${order}&limit=${limit}${cursor}`);
    expect(status).toBe(200);
    seqs.push(...body.items.map((one: { log: { seq: number } }) => one.log.seq));
    cursor = body.next === null ? '' : `&cursor=${body.next}`;
  } while (cursor !== '');
  return seqs;
}

/** The seqs of a download, which says that it is complete. */
async function downloaded(service: TestService): Promise<number[]> {
  const headers = { authorization: `Bearer ${await service.token('auditor')}` };
  const answer = await fetch(`${service.url}/v1/export?format=ndjson&category=${CATEGORY}`, { headers });
  const lines = (await answer.text()).trim().split('\n');
  expect(lines.at(-1)).toContain('"complete":true');
  return lines.slice(0, -1).map((line) => JSON.parse(line).log.seq);
}

async function as(service: TestService, subject: string, path: string, body?: unknown, tenant = 'acme') {
  const token = await signToken(service.tokens, { tenant, roles: ['it_security_admin'], subject, ttlSeconds: 3600 });
  return body === undefined ? service.get(path, { token }) : service.post(path, body, { token });
}

async function placed(service: TestService, request: object): Promise<string> {
  const { status, body } = await as(service, 'ada', '/v1/holds', { reason: 'case 12', ...request });
  expect([status, body.state]).toEqual([201, 'active']);
  expect(checkShape('Hold', body)).toEqual([]);
  return body.id;
}

async function released(service: TestService, id: string): Promise<void> {
  const path = `/v1/holds/${id}/release`;
  expect((await as(service, 'ada', path, { reason: 'settled' })).status).toBe(202);
  const { status, body } = await as(service, 'bob', `${path}/approve`, {});
  expect([status, body.state, body.release.state]).toEqual([200, 'released', 'done']);
}

describe('what is held', () => {
  test('outlives its month, by what stands in the entries; the rest goes, everything verifies, and it goes when it is released', async () => {
    const service = await start();
    await appendOld(service, monthsAgo(15), 300, OF);
    await appendOld(service, monthsAgo(14), 40, OF);
    await appendOld(service, monthsAgo(2), 30, OF);
    await appendOld(service, monthsAgo(15), 20, { tenant: 'initech' });
    const id = await placed(service, { category: CATEGORY, actor: 'u3', target: 't0' });
    const of = (seq: number) => (seq < 300 ? seq : seq - 300);
    const isHeld = (seq: number) => of(seq) % 5 === 3 && of(seq) % 7 === 0;
    const kept = [...Array(340).keys()].filter(isHeld);
    const fresh = [...Array(30).keys()].map((i) => 340 + i);
    const name = `acme-user_authentication-${monthsAgo(15)}-28`;
    const { log } = (await service.get(`/v1/events/${name}`)).body;

    await heldGoesTo(service, NOW);
    await signedUp(service);
    const backup = await service.adminPool.connect();
    await backup.query('BEGIN; LOCK TABLE sealog.clock_mark IN ACCESS SHARE MODE');
    await until(async () => {
      await service.app.pruner.pass('test');
      return (await runs(service))[0].waiting?.includes('a backup is under way') ? true : undefined;
    }, 'a backup is waited for');
    expect((await places(service)).get(28)).not.toBe(NOW);
    await backup.query('ROLLBACK');
    backup.release();

    await pruneUpToNow(service);
    expect((await runs(service)).map(({ state }) => state)).toEqual(['done', 'done', 'anchored']);
    const now = await places(service);
    expect([...now.keys()]).toEqual([...kept, ...fresh]);
    expect(kept.every((seq) => now.get(seq) === NOW)).toBe(true);
    const report = await verifyAll(service);
    expect([findingsOf(report), report.verdict]).toEqual([[], 'not_provable']);
    const own = report.streams.find(({ stream }) => stream === 'acme/user_authentication')!;
    expect(own.pruned.reduce((sum, { from, to }) => sum + to - from, 0)).toBe(340 - kept.length);

    // It is found by whatever it has, whichever way, a page at a time; by its id; and it proves what it did.
    expect(await found(service, 'category=user_authentication&target=t0&actor=u3')).toEqual([
      ...kept,
      ...fresh.filter((seq) => (seq - 340) % 35 === 28),
    ]);
    expect(await found(service, 'category=user_authentication&site=plant-7', 'desc', 7)).toEqual(
      [...kept, ...fresh].toReversed(),
    );
    const to = new Date(monthsAgo(14)).toISOString();
    expect(await found(service, `category=user_authentication&to=${to}`, 'asc', 3)).toEqual(
      kept.filter((seq) => seq < 300),
    );
    expect((await service.get(`/v1/events/${name}`)).body.log).toEqual(log);
    const proof = (await service.get(`/v1/events/${name}/proof`)).body;
    const { root } = decodeCheckpoint(`${proof.checkpoint.split('\n\n')[0]}\n`);
    checkInclusion(28, proof.size, fromHex(proof.hash), proof.path.map(fromHex), root);
    expect(await downloaded(service)).toEqual([...kept, ...fresh]);

    // The stream grows on, and a second person lets it go; another hold, of nothing that is there, has all of it looked at anew.
    await appendOld(service, Date.now(), 300, OF);
    await signedUp(service);
    expect(findingsOf(await verifyAll(service))).toEqual([]);
    await released(service, id);
    await placed(service, { category: CATEGORY, site: 'plant-9' });
    await prune(service);
    expect((await runs(service)).map(({ state }) => state)).toEqual(['done', 'done', 'abandoned', 'done']);
    expect([...(await places(service)).keys()].filter((seq) => seq < 370)).toEqual(fresh);
    expect(findingsOf(await verifyAll(service))).toEqual([]);
    expect((await service.get(`/v1/events/${name}`)).status).toBe(404);
    const keys = await readdir(service.config.monthKeysDir);
    expect(keys.filter((one) => one.startsWith(String(NOW)))).toEqual([`${NOW}.destroyed`]);
  }, 120_000);
});

describe('a hold that is placed while a month is pruned', () => {
  test('keeps what it is about: the run is abandoned, and what it certified counts no more', async () => {
    const service = await startUnhurried();
    await appendOld(service, monthsAgo(15), 30, OF);
    await appendOld(service, monthsAgo(15), 20, { ...OF, tenant: 'initech' });
    await appendOld(service, monthsAgo(1), 5, OF);
    await signedUp(service);
    const reader = await untilItWouldDrop(service);
    // Of a tenant that has nothing there, and then of one that has.
    await placed(service, { category: 'security_event' });
    await service.app.pruner.pass('test');
    expect((await runs(service)).map(({ state, waiting }) => [state, waiting])).toEqual([
      ['archived', expect.stringContaining('100 ms')],
    ]);
    await placed(service, { category: CATEGORY, to: new Date().toISOString(), actor: 'u1' });
    const { rows } = await service.adminPool.query('SELECT id FROM sealog.pruning');
    await expect(dropMonth(service.app.database.writer, rows[0].id)).rejects.toThrow('a hold was placed since');
    await reader.end();
    await prune(service);
    expect((await runs(service)).map(({ state }) => state)).toEqual(['abandoned', 'done']);
    const kept = [1, 6, 11, 16, 21, 26];
    expect([...(await places(service)).keys()]).toEqual([...kept, 30, 31, 32, 33, 34]);
    expect((await places(service, 'initech/user_authentication')).size).toBe(0);
    expect(findingsOf(await verifyAll(service))).toEqual([]);
    const { body } = await service.get('/v1/events?category=log_administration&action=retention.abandoned');
    expect(body.items).toHaveLength(1);
    const plan = (await as(service, 'ada', '/v1/retention/runs', {})).body;
    expect(plan.months).toEqual([]);
    const { items } = (await as(service, 'ada', '/v1/retention/runs')).body;
    expect(items.map((one: { streams: { held: number }[] }) => one.streams[0]!.held)).toEqual([6, 0]);

    // What the abandoned run's certificate says is gone is missed; so is what is put elsewhere without a word.
    const admin = await service.adminPool.connect();
    await admin.query('SET session_replication_role = replica');
    for (const table of ['block', 'entry_id'])
      await admin.query(`ALTER TABLE sealog.${table} DISABLE TRIGGER append_only`);
    await admin.query(`DO $$ DECLARE one text; BEGIN FOR one IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'sealog.block'::regclass
      LOOP EXECUTE format('ALTER TABLE %s DISABLE TRIGGER append_only', one); END LOOP; END $$`);
    await admin.query('BEGIN');
    await admin.query(`DELETE FROM sealog.block WHERE first_seq = 6 AND stream = (${STREAM})`);
    await admin.query('COMMIT');
    expect(findingsOf(await verifyAll(service))).toEqual([
      expect.stringMatching(/^acme\/user_authentication early_deletion@6: entries 6 to 6 are missing/),
    ]);
    await admin.query(
      `UPDATE sealog.block SET parts = set_byte(parts, 40, get_byte(parts, 40) # 1) WHERE first_seq = 11 AND stream = (${STREAM})`,
    );
    await admin.query(
      `UPDATE sealog.block SET drop_month = (SELECT max(drop_month) FROM sealog.block) WHERE first_seq = 30 AND stream = (${STREAM})`,
    );
    const found = findingsOf(await verifyAll(service)).map((one) => one.replace('acme/user_authentication ', ''));
    for (const one of ['early_deletion@6: ', 'part@11: ', 'block@30: it is kept until'])
      expect(found).toContainEqual(expect.stringMatching(`^${one}`));
    admin.release(true);
  }, 120_000);
});

const STREAM = `SELECT id FROM sealog.stream WHERE name = 'acme/user_authentication'`;

/** One that tries to drop for a moment only, and has looked for the last time by itself. */
async function startUnhurried(): Promise<TestService> {
  const timing = { lookMs: 3_600_000, soonMs: 3_600_000, dropPauseMs: 5 };
  const service = await start({ pruning: { timing } });
  await prune(service);
  return service;
}

/** Prunes as far as somebody who reads lets it. Returns him. */
async function untilItWouldDrop(service: TestService): Promise<{ end(): Promise<void> }> {
  const reader = await service.adminPool.connect();
  await reader.query('BEGIN');
  await reader.query('SELECT FROM sealog.block LIMIT 1');
  await until(async () => {
    await service.app.pruner.pass('test');
    return (await runs(service)).at(-1)?.waiting?.includes('100 ms') ? true : undefined;
  }, 'the drop was tried');
  return {
    end: async () => {
      await reader.query('COMMIT');
      reader.release();
    },
  };
}

describe('whoever reads while blocks are cut and moved', () => {
  test('finds each entry once; who verifies, also while their month goes, finds nothing', async () => {
    const service = await startUnhurried();
    await appendOld(service, monthsAgo(15), 150, { ...OF, blockEntries: 2 });
    for (const actor of ['u0', 'u2', 'u4']) await placed(service, { actor, category: CATEGORY });
    await signedUp(service);
    // More blocks than are read at a time, and than are read ahead: it prunes at the first, and goes on at the second.
    let reads = 0;
    let reader: { end(): Promise<void> } | undefined;
    const report = await verifyAll(service, async (stream) => {
      if (stream !== 'acme/user_authentication') return;
      reads += 1;
      if (reads === 1) {
        const all = await searchDuring(service, async () => {
          reader = await untilItWouldDrop(service);
        });
        expect(all).toEqual([...Array(150).keys()]);
        expect(await found(service, `category=${CATEGORY}&target=t3`, 'desc', 4)).toEqual(
          all.filter((seq) => seq % 7 === 3).toReversed(),
        );
        expect(await downloaded(service)).toEqual(all);
      }
      if (reads !== 2) return;
      await reader?.end();
      await prune(service);
    });
    expect(reads).toBeGreaterThan(2);
    expect((await runs(service)).map(({ state }) => state)).toEqual(['done']);
    expect(findingsOf(report)).toEqual([]);
    expect(report.verdict).toBe('not_provable');
    expect((await places(service)).size).toBe(90);
    expect(findingsOf(await verifyAll(service))).toEqual([]);
  }, 120_000);
});

/** What a search finds, oldest first, while this happens behind its third question to the database. */
async function searchDuring(service: TestService, work: () => Promise<void>): Promise<number[]> {
  const { database } = service.app;
  const { rows } = await service.adminPool.query(`SELECT id FROM sealog.tenant WHERE name = 'acme'`);
  let asked = 0;
  const ask: AsTenant = async (question) => {
    const answer = await asTenant(database.reader, rows[0].id, question);
    if (++asked === 3) await work();
    return answer;
  };
  const keys = new Keyring(fileMonthKeys(service.config.monthKeysDir), {
    findOrStore: () => Promise.reject(new Error('who reads makes no keys')),
    byId: (id) => keyById(database.verifier, id),
  });
  const streams = (await asTenant(database.reader, rows[0].id, listStreams)).filter((one) => one.category === CATEGORY);
  const question = { streams, query: { site: 'plant-7' }, order: 'asc', limit: 1000, positions: undefined } as const;
  const { items } = await search(ask, keys, { ...question, view: ({ record }) => String(record.seq) });
  expect(asked).toBeGreaterThan(3);
  return items.map(Number);
}

describe('between two persons', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService({ environment: ENVIRONMENT });
  });
  afterAll(() => service.stop());

  test('who is under a hold is not erased, whenever it was placed, and is when it is released', async () => {
    await appendOld(service, monthsAgo(3), 10, { ...OF, blockEntries: 5 });
    const early = await placed(service, { actor: 'u1', to: new Date(monthsAgo(2)).toISOString() });
    const token = async (subject: string) => ({
      token: await signToken(service.tokens, { tenant: 'acme', roles: ['privacy_officer'], subject, ttlSeconds: 3600 }),
    });
    const propose = async (id: string): Promise<string> => {
      const asked = { person: { id }, reason: 'request 4711' };
      const { body } = await service.post('/v1/erasures', asked, await token('ann'));
      const path = `/v1/erasures/${body.id}`;
      await until(
        async () => ((await service.get(path, await token('ann'))).body.search === 'found' ? true : undefined),
        'found',
      );
      return path;
    };
    const carriedOut = async (path: string) => {
      expect((await service.post(`${path}/approve`, {}, await token('bob'))).status).toBe(200);
      await until(
        async () => ((await service.get(path, await token('ann'))).body.state === 'done' ? true : undefined),
        'done',
      );
      const { items } = (await service.get(`${path}/entries`, await token('ann'))).body;
      return items.map((one: Record<string, unknown>) => [one.seq, one.refused, one.hold, one.erased]);
    };
    const [one, two] = [await propose('u1'), await propose('u2')];
    const { items } = (await service.get(`${one}/entries`, await token('ann'))).body;
    expect(items.map((entry: Record<string, unknown>) => [entry.refused, entry.hold])).toEqual([
      ['legal_hold', early],
      ['legal_hold', early],
    ]);
    // Between the search and what comes of it.
    const late = await placed(service, { category: CATEGORY, target: 't2' });
    const plan = (holdsSeen: number) =>
      service.app.database.writer.query('SELECT sealog.plan_erasure($1, $2) AS planned', [
        two.split('/')[3],
        holdsSeen,
      ]);
    expect((await plan(1)).rows).toEqual([{ planned: null }]);
    await expect(plan(2)).rejects.toThrow('is not approved');
    expect(await carriedOut(two)).toEqual([
      [2, 'legal_hold', late, false],
      [7, null, null, true],
    ]);
    expect(await carriedOut(one)).toEqual([
      [1, 'legal_hold', early, false],
      [6, 'legal_hold', early, false],
    ]);
    await released(service, early);
    expect(await carriedOut(await propose('u1'))).toEqual([
      [1, null, null, true],
      [6, null, null, true],
    ]);
    await signedUp(service);
    expect(findingsOf(await verifyAll(service))).toEqual([]);
  }, 120_000);

  test('the database releases nothing, changes no hold, and moves nothing that no certificate says is held', async () => {
    const id = await placed(service, { category: CATEGORY, actor: 'u0' });
    const { writer } = service.app.database;
    const refused = (text: string, values: unknown[] = []) =>
      expect(writer.query(text, values), text).rejects.toThrow();
    await refused(`UPDATE sealog.hold SET state = 'released' WHERE id = $1`, [id]);
    await refused(`UPDATE sealog.hold SET state = 'placing' WHERE id = $1`, [id]);
    await refused(`UPDATE sealog.hold SET criteria = '{}' WHERE id = $1`, [id]);
    await refused('DELETE FROM sealog.hold');
    await refused('TRUNCATE sealog.hold');
    await refused('SELECT sealog.release_hold($1)', [id]);
    await refused('UPDATE sealog.pruning SET holds_seen = 99');
    const path = `/v1/holds/${id}/release`;
    const { body } = await as(service, 'ada', path, { reason: 'settled' });
    await refused('SELECT sealog.release_hold($1)', [body.release.id]);
    const own = await as(service, 'ada', `${path}/approve`, {});
    expect([own.status, own.body.code]).toEqual([403, 'second_person_required']);
    expect((await as(service, 'ada', path, { reason: 'again' })).status).toBe(409);
    expect((await as(service, 'bob', `${path}/reject`, {})).body).toMatchObject({
      state: 'active',
      release: { state: 'rejected' },
    });
    await refused('SELECT sealog.release_hold($1)', [body.release.id]);
    await released(service, id);
    expect((await as(service, 'ada', path, { reason: 'again' })).status).toBe(409);
    const move = `SELECT sealog.move_held($1, (${STREAM}), 0, '', '[]', '{}', '{}')`;
    await refused(move, [id]);
    for (const [request, field] of [
      [{ reason: 'all' }, ''],
      [{ reason: 'x', epoch: 2 }, 'epoch'],
      [{ reason: 'x', from: '2026-01-01T00:00:00Z', to: '2026-01-01T00:00:00Z' }, 'to'],
      [{ reason: 'x', category: 'log_administration' }, 'category'],
    ] as const) {
      const answer = await as(service, 'ada', '/v1/holds', request);
      expect([answer.status, answer.body.errors?.[0]?.field]).toEqual([400, field]);
    }
    const narrowed = await signToken(service.tokens, {
      ...{ tenant: 'acme', roles: ['it_security_admin'], subject: 'ada', ttlSeconds: 60, sites: ['plant-7'] },
    });
    expect((await service.post('/v1/holds', { actor: 'x', reason: 'x' }, { token: narrowed })).status).toBe(403);
  }, 120_000);
});

describe('kill -9 between two steps', () => {
  const ALL = [
    'hold-stored',
    'hold-told',
    'hold-active',
    'cut',
    'moved',
    'dropped',
    'release-approved',
    'release-told',
    'released',
  ];
  const STEPS = process.env['SEALOG_TEST_HARD'] === undefined ? ['hold-stored', 'cut', 'release-approved'] : ALL;

  test('of placing, moving and releasing leaves nothing half done, and each thing is told once', async () => {
    const service = await start();
    await appendOld(service, monthsAgo(15), 20, { ...OF, blockEntries: 10 });
    // One for each step of a release: what one of them left half done is finished at the end.
    const ids = new Map<string, string>();
    for (const step of STEPS.filter((one) => one.startsWith('release')))
      ids.set(step, await placed(service, { actor: 'u3', category: CATEGORY }));
    await signedUp(service);
    await service.app.close();
    const child = join(import.meta.dirname, 'support/hold-child.ts');
    const env = { ...PROGRAM_ENVIRONMENT, ...service.environment };
    let now = service;
    for (const step of STEPS) {
      const died = await run(process.execPath, [child, step, ids.get(step) ?? 'nobody'], { env }).then(
        ({ stdout }) => stdout,
        (error: { signal: string }) => error.signal,
      );
      expect([step, died]).toEqual([step, 'SIGKILL']);
      expect([step, findingsOf(await verifyAll(service))]).toEqual([step, []]);
      const stand = [...(await places(service)).keys()];
      for (const seq of [3, 8, 13, 18]) expect([step, stand]).toEqual([step, expect.arrayContaining([seq])]);
    }
    now = await start({
      beside: service,
      pruning: { holds: { everyMs: 50, silentMs: 0 }, timing: { lookMs: 3_600_000 } },
    });
    const placedOf = STEPS.filter((step) => step.startsWith('hold')).length;
    await until(async () => {
      const { items } = (await as(now, 'ada', '/v1/holds')).body;
      const states = items.map(({ state }: { state: string }) => state).sort();
      return states.join() === [...Array(placedOf).fill('active'), ...Array(ids.size).fill('released')].join()
        ? true
        : undefined;
    }, 'finished');
    await prune(now);
    const told = await now.get('/v1/events?category=log_administration&limit=1000');
    const actions = told.body.items.map((one: { action: string }) => one.action);
    const count = (action: string) => actions.filter((one: string) => one === action).length;
    expect([count('hold.placed'), count('hold.released')]).toEqual([ids.size + placedOf, ids.size]);
    expect([...(await places(service)).keys()]).toEqual([3, 8, 13, 18]);
    expect(findingsOf(await verifyAll(service))).toEqual([]);
  }, 120_000);
});

test('what nobody can tell any more counts as held', () => {
  const part = (name: 'actor' | 'target', value: object) => ({
    name,
    salt: new Uint8Array(16),
    value: canonicalBytes(value as JsonObject),
  });
  const closed = (name: 'actor' | 'target') => ({ name, commitment: new Uint8Array(32) });
  const entry = (site: string, ...parts: Entry['parts']) =>
    ({
      record: {
        ...{ action: 'a.b', outcome: 'success', source: { service: 'mes', site } },
        ...{ recordedAt: '2026-01-02T00:00:00.000Z', occurredAt: '2026-01-01T23:00:00+01:00' },
      },
      parts,
    }) as unknown as Entry;
  const keeps = keeperOf({ criteria: { actor: ' Zoe@Example.com', site: 'p1', target: 't' } });
  const [zoe, target] = [
    part('actor', { type: 'user', email: 'zoe@example.COM' }),
    part('target', { type: 'x', name: 't' }),
  ];
  expect(keeps(entry('p1', zoe, target))).toBe(true);
  expect(keeps(entry('p2', zoe, target))).toBe(false);
  expect(keeps(entry('p1', zoe))).toBe(false);
  expect(keeps(entry('p1', closed('actor'), target))).toBe(true);
  expect(keeps(entry('p1', closed('actor'), closed('target')))).toBe(true);
  expect(keeps(entry('p1', closed('actor'), part('target', { type: 'x', name: 'other' })))).toBe(false);
  expect(keeps(entry('p2', closed('actor'), closed('target')))).toBe(false);
  const inTime = keeperOf({
    criteria: { from: '2026-01-02T00:00:00Z', to: '2026-01-02T00:00:00.000001Z', occurredTo: '2026-01-01T22:00:00.1Z' },
  });
  expect(inTime(entry('p'))).toBe(true);
  expect(keeperOf({ criteria: { to: '2026-01-02T01:00:00+01:00' } })(entry('p'))).toBe(false);
});

test('where runs of held entries would be too many, those with the smallest gaps are made one, as far as all of a gap is there', () => {
  const runs = [
    ...[
      { from: 1, to: 2, isJoined: false },
      { from: 5, to: 6, isJoined: true },
      { from: 7, to: 9, isJoined: true },
    ],
    ...[
      { from: 10, to: 11, isJoined: false },
      { from: 13, to: 14, isJoined: true },
      { from: 20, to: 21, isJoined: true },
    ],
  ];
  const shape = (max: number) => withFewer(runs, max).map(({ from, to }) => [from, to]);
  expect(shape(6)).toEqual(runs.map(({ from, to }) => [from, to]));
  expect(shape(4)).toEqual([
    [1, 2],
    [5, 9],
    [10, 14],
    [20, 21],
  ]);
  expect(shape(1)).toEqual([
    [1, 9],
    [10, 21],
  ]);
  expect(withFewer([], 3)).toEqual([]);
});
