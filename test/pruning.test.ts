/** Pruning: what has expired goes, certified; what is left verifies, and so does what was given out before. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { describe, expect, onTestFinished, test } from 'vitest';
import { fromHex, toHex } from '../src/chain/bytes.ts';
import { decodeCheckpoint } from '../src/chain/checkpoint.ts';
import { checkConsistency, checkInclusion } from '../src/chain/merkle.ts';
import type { Receipt } from '../src/chain/sequencer.ts';
import { checkShape } from '../src/http/api-schema.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { SigningKeys } from '../src/signer/seeds.ts';
import { keyById } from '../src/store/data-keys.ts';
import { openDatabase } from '../src/store/database.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import { beginRun, dropMonth, moveRun } from '../src/store/prunings.ts';
import { verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import { witnessChecker } from '../src/verify/outside-evidence.ts';
import { type LogOptions, type LogReport, verifyLog } from '../src/verify/verify-log.ts';
import { appendOld, monthsAgo } from './support/old-entries.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';
import { someOf } from './support/short-form.ts';
import { startWitness } from './support/witness.ts';

const run = promisify(execFile);
const silent = pino({ level: 'silent' });
const ENVIRONMENT = { SEALOG_ANCHOR_SECONDS: '1', SEALOG_CHECKPOINT_MS: '50' };

async function start(options: ServiceOptions = {}): Promise<TestService> {
  const service = await startService({ ...options, environment: { ...ENVIRONMENT, ...options.environment } });
  onTestFinished(() => service.stop());
  return service;
}

/** Everything that is stored, read as `sealog verify --database` reads it. */
async function verifyAll(service: TestService, options: LogOptions = {}): Promise<LogReport> {
  const database = openDatabase({ connection: service.database.appConfig, readersMax: 1, log: silent });
  try {
    const keyring = new Keyring(fileMonthKeys(service.config.monthKeysDir), {
      findOrStore: () => Promise.reject(new Error('verification makes no keys')),
      byId: (id) => keyById(database.verifier, id),
    });
    return await verifyLog(logWideSource(database.verifier, keyring, 'log.example'), options);
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
    await delay(50);
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

/** Prunes until nothing is left to prune. */
async function prune(service: TestService): Promise<void> {
  await until(async () => ((await service.app.pruner.pass('test')) === 'later' ? true : undefined), 'pruned');
}

async function runs(service: TestService) {
  const { rows } = await service.adminPool.query('SELECT * FROM sealog.pruning ORDER BY number');
  return rows;
}

async function pruned(service: TestService, name = 'acme/data_access'): Promise<number> {
  const { rows } = await service.adminPool.query('SELECT pruned FROM sealog.stream WHERE name = $1', [name]);
  return Number(rows[0].pruned);
}

async function partitions(service: TestService): Promise<number> {
  const { rows } = await service.adminPool.query(
    `SELECT count(*)::integer AS n FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relkind = 'r'
     AND relname ~ '^(block|entry_id)_[0-9]{6}$' AND substring(relname FROM '[0-9]{6}$')::integer < $1`,
    [Number(new Date().toISOString().slice(0, 7).replace('-', ''))],
  );
  return rows[0].n;
}

describe('what has expired', () => {
  test('goes; the rest verifies, receipts and checkpoints of before stay provable, and new entries join on', async () => {
    const service = await start();
    const old = await appendOld(service, monthsAgo(15), 300);
    await appendOld(service, monthsAgo(15), 20, { tenant: 'initech' });
    await appendOld(service, monthsAgo(14), 40);
    await appendOld(service, monthsAgo(2), 30);
    await signedUp(service);
    const note = await checkpointOf(service, 'acme/data_access');
    const before = decodeCheckpoint(`${note.split('\n\n')[0]}\n`);
    const proofs = await Promise.all([0, 255, 299].map((seq) => proofOf(service, old[seq]!)));
    await signedUp(service);

    await prune(service);
    expect((await runs(service)).map(({ state, month_keys: keys }) => [state, keys.length])).toEqual([
      ['done', 1],
      ['done', 1],
    ]);
    expect([await pruned(service), await pruned(service, 'initech/data_access')]).toEqual([340, 20]);
    expect(await partitions(service)).toBe(0);
    const names = await readdir(service.config.monthKeysDir);
    expect(names.filter((name) => name.endsWith('.destroyed'))).toHaveLength(2);

    const report = await verifyAll(service);
    expect(findingsOf(report)).toEqual([]);
    expect(report.verdict).toBe('not_provable');
    const own = report.streams.find(({ stream }) => stream === 'acme/data_access');
    expect(own?.pruned).toEqual([
      { from: 0, to: 300, by: expect.stringMatching(/^acme\/log_administration#\d+$/) },
      { from: 300, to: 340, by: expect.stringMatching(/^acme\/log_administration#\d+$/) },
    ]);

    // A receipt's hash still leads to the newest checkpoint, by tiles alone; so does the old checkpoint.
    const { status, body } = await service.get(
      `/v1/logs/acme/data_access/consistency?from=${before.size}&to=${before.size}`,
    );
    expect([status, body.fromRoot]).toEqual([200, toHex(before.root)]);
    for (const one of proofs) {
      checkInclusion(one.seq, one.size, fromHex(one.hash), one.path.map(fromHex), fromHex(one.root));
      // Who asks for a proof leaves an entry: the next may be of a newer checkpoint than was kept.
      const heads = [{ size: one.size, root: fromHex(one.root) }, before].toSorted((a, b) => a.size - b.size);
      const [from, to] = [heads[0]!, heads[1]!];
      const now = (await service.get(`/v1/logs/acme/data_access/consistency?from=${from.size}&to=${to.size}`)).body;
      checkConsistency(from.size, to.size, from.root, to.root, now.path.map(fromHex));
    }
    expect(await bytesOf(service, '/v1/logs/acme/data_access/tile/0/001.p/44')).toEqual([200, 44 * 32]);

    // What is gone is not there; what is left is found.
    expect((await service.get(`/v1/events/${old[0]!.id}`)).status).toBe(404);
    expect((await service.get(`/v1/events/${old[0]!.id}`)).body.detail).toContain('expired');
    expect((await service.get(`/v1/events/${old[0]!.id}/proof`)).status).toBe(404);
    expect((await service.get('/v1/logs/acme/data_access/tile/entries/000')).status).toBe(404);
    expect((await service.get('/v1/events?category=data_access&site=plant-7&limit=100')).body.items).toHaveLength(30);
    expect((await service.get('/v1/bundle?category=data_access')).status).toBe(404);
    const from = new Date(monthsAgo(2) + 1).toISOString();
    expect((await bytesOf(service, `/v1/bundle?category=data_access&from=${from}`))[0]).toBe(200);

    // The tile that was open at the edge fills up.
    await appendOld(service, Date.now(), 400);
    await signedUp(service);
    const after = await verifyAll(service);
    expect([findingsOf(after), after.verdict]).toEqual([[], 'not_provable']);
  }, 120_000);
});

describe('an archive', () => {
  test('has what goes, as bundles that verify and cannot be opened, before it goes', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-test-archive-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const service = await start({ environment: { SEALOG_ARCHIVE_DIR: folder } });
    await appendOld(service, monthsAgo(15), 20);
    await appendOld(service, monthsAgo(15) + 3_600_000, 10);
    await appendOld(service, monthsAgo(14), 20);
    await appendOld(service, monthsAgo(1), 5);
    await signedUp(service);
    await prune(service);
    const names = (await readdir(folder, { recursive: true })).filter((name) => /\.tar/.test(name)).sort();
    expect(names).toEqual([
      expect.stringMatching(/^acme\/data_access\/\d{6}\/0{16}-0{14}30\.tar$/),
      expect.stringMatching(/^acme\/data_access\/\d{6}\/0{14}30-0{14}50\.tar$/),
    ]);
    const key = (await service.get('/v1/keys')).body.items.find(
      ({ origin }: { origin: string }) => origin === 'log.example',
    ).vkey;
    for (const [i, name] of names.entries()) {
      const tar = await readFile(join(folder, name));
      expect(tar.includes('Old Person')).toBe(false);
      const report = await verifyBundle(tar, { key, checkpoints: [], authorities: [], witnesses: [] });
      const end = report.streams[0]!.end;
      expect([report.findings, report.streams[0]!.first, end >= [30, 50][i]!]).toEqual([[], [0, 30][i], true]);
    }
    expect(findingsOf(await verifyAll(service))).toEqual([]);
  }, 120_000);
});

async function checkpointOf(service: TestService, name: string): Promise<string> {
  const { rows } = await service.adminPool.query(
    'SELECT c.note FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream WHERE s.name = $1',
    [name],
  );
  return rows[0].note;
}

async function bytesOf(service: TestService, path: string): Promise<[number, number]> {
  const authorization = `Bearer ${await service.token('auditor')}`;
  const answer = await fetch(`${service.url}${path}`, { headers: { authorization } });
  return [answer.status, (await answer.arrayBuffer()).byteLength];
}

async function proofOf(service: TestService, receipt: Receipt) {
  const { status, body } = await service.get(`/v1/events/${receipt.id}/proof`);
  expect(status).toBe(200);
  const { root } = decodeCheckpoint(`${body.checkpoint.split('\n\n')[0]}\n`);
  return { seq: receipt.seq, hash: receipt.hash, size: body.size, path: body.path as string[], root: toHex(root) };
}

describe('nothing goes', () => {
  test('that nobody certified: a month that somebody dropped is an early deletion', async () => {
    const service = await start();
    await appendOld(service, monthsAgo(15), 30);
    await appendOld(service, monthsAgo(1), 10);
    await signedUp(service);
    await dropByHand(service);
    expect(findingsOf(await verifyAll(service))).toEqual([
      'acme/data_access early_deletion@0: entries 0 to 29 are missing, and no certificate says that they expired',
    ]);
  }, 120_000);

  test('by a certificate that is not there, or without what came into the month since', async () => {
    const service = await start();
    await appendOld(service, monthsAgo(15), 10);
    await signedUp(service);
    const { writer } = service.app.database;
    const run = await beginRun(writer, {
      dropMonth: await oldestMonth(service),
      requestedBy: 'test',
      outside: false,
    });
    await expect(dropMonth(writer, run.id)).rejects.toThrow('is planned');
    // Whoever has the writer's role moves a run on without a word.
    const states = ['planned', 'written', 'certified', 'anchored', 'moved', 'archived'] as const;
    for (const [i, to] of states.slice(1).entries()) expect(await moveRun(writer, run.id, states[i]!, to)).toBe(true);
    await expect(dropMonth(writer, run.id)).rejects.toThrow('no certificate covers');
    await expect(writer.query(`UPDATE sealog.pruning SET state = 'dropped'`)).rejects.toThrow('is archived');
    await expect(writer.query(`UPDATE sealog.pruning SET month_keys = '{}'`)).rejects.toThrow('permission denied');
    expect(await partitions(service)).toBe(2);
    // The service gives it up, and begins anew.
    expect(await service.app.pruner.pass('test')).toBe('later');
    expect((await runs(service)).map(({ state }) => state)).toEqual(['abandoned']);
    await prune(service);
    expect((await runs(service)).map(({ state }) => state)).toEqual(['abandoned', 'done']);
    expect(findingsOf(await verifyAll(service))).toEqual([]);
  }, 120_000);

  test('while the clocks disagree: one that jumped deletes nothing, until somebody says what day it is', async () => {
    let ahead = 0;
    const databaseClock = async (): Promise<number> => Date.now() + ahead;
    const service = await start({ pruning: { timing: { lookMs: 3_600_000 }, databaseClock } });
    await appendOld(service, monthsAgo(1), 10);
    expect(await service.app.pruner.pass('test')).toBe('later');
    for (const months of [13, 1200]) {
      ahead = months * 31 * 86_400_000;
      expect(await service.app.pruner.pass('test')).toBe('later');
      expect((await service.app.pruner.plan()).stops.join()).toContain('clocks of service and database');
    }
    ahead = 0;
    // It is right again; what was in between is not known.
    expect((await service.app.pruner.plan()).stops).toEqual([expect.stringContaining('confirm the date')]);
    await appendOld(service, monthsAgo(15), 5, { tenant: 'initech' });
    expect(await service.app.pruner.pass('test')).toBe('later');
    expect(await runs(service)).toEqual([]);
    await expect(service.app.pruner.confirmClock(Date.now() + 2 * 86_400_000)).rejects.toThrow();
    await service.app.pruner.confirmClock(Date.now());
    await signedUp(service);
    await prune(service);
    expect((await runs(service)).map(({ state }) => state)).toEqual(['done']);
    expect(await pruned(service)).toBe(0);
  }, 120_000);

  test('before an outside time says that it may; then it is certified', async () => {
    const witness = await startWitness({});
    onTestFinished(() => witness.close());
    const folder = await mkdtemp(join(tmpdir(), 'sealog-test-anchors-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const file = join(folder, 'anchors.json');
    const anchor = { name: 'w', type: 'witness', url: witness.url, vkey: witness.vkey, everySeconds: 1 };
    await writeFile(file, JSON.stringify({ anchors: [anchor] }));
    const environment = { SEALOG_ANCHORS_FILE: file, SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32' };
    const service = await start({ environment });
    const seed = Buffer.from((await readFile(join(service.config.signerDir!, 'seed-0001'), 'utf8')).trim(), 'hex');
    witness.know(new SigningKeys(seed).signer('log.example/sealog/anchor').vkey);
    await appendOld(service, monthsAgo(15), 10);
    await appendOld(service, monthsAgo(1), 10);
    await until(async () => (await evidence(service)) || undefined, 'anchored');
    // As seen from outside, the clocks here are three years ahead.
    await service.adminPool.query(
      `INSERT INTO sealog.outside_evidence (anchor, kind, stream, size, note, evidence, evidence_time)
       SELECT 'other', kind, stream, size, note, evidence, evidence_time - 94694400000 FROM sealog.outside_evidence LIMIT 1`,
    );
    expect(await service.app.pruner.pass('test')).toBe('later');
    expect((await service.app.pruner.plan()).stops).toEqual([expect.stringContaining('was stated outside')]);
    expect(await runs(service)).toEqual([]);

    const before = await evidence(service);
    await appendOld(service, Date.now(), 1);
    await until(async () => ((await evidence(service)) > before ? true : undefined), 'anchored again');
    await prune(service);
    expect((await runs(service)).map(({ state, outside }) => [state, outside])).toEqual([['done', true]]);
    const asked = { evidence: witnessChecker([witness.vkey]) };
    const own = await until(async () => {
      const { streams } = await verifyAll(service, asked);
      return streams.find(({ stream, verdict }) => stream === 'acme/data_access' && verdict === 'intact');
    }, 'all is anchored');
    expect(own.pruned).toEqual([{ from: 0, to: 10, by: 'acme/log_administration#0', time: expect.any(String) }]);
  }, 120_000);

  test('that a required sink never had; what another sink never had is told when it goes', async () => {
    const service = await start({ environment: { SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32' } });
    await appendOld(service, monthsAgo(15), 10);
    await signedUp(service);
    const token = await service.token('it_security_admin');
    const sink = (name: string, required: boolean) => {
      const peer = { type: 'syslog', url: 'tcp://127.0.0.1:9', format: 'json' };
      return service.post('/v1/sinks', { name, ...peer, from: 'beginning', required }, { token });
    };
    expect((await sink('siem', true)).status).toBe(201);
    expect((await sink('lake', false)).status).toBe(201);
    expect(await service.app.pruner.pass('test')).toBe('later');
    const why = 'the sink siem is required, and has nothing of acme/data_access from entry 0 on';
    expect((await runs(service)).map(({ state, waiting }) => [state, waiting])).toEqual([['planned', why]]);
    const plan = await service.post('/v1/retention/runs', {}, { token });
    expect(plan.body.months[0].stops).toEqual([why]);
    await service.adminPool.query(
      `INSERT INTO sealog.sink_cursor (sink, tenant, stream, next_seq)
       SELECT k.id, k.tenant, s.id, s.size FROM sealog.sink AS k JOIN sealog.stream AS s ON s.tenant = k.tenant WHERE k.name = 'siem'`,
    );
    await signedUp(service);
    await prune(service);
    expect((await runs(service)).map(({ state, undelivered }) => [state, undelivered])).toEqual([
      ['done', [{ tenant: 'acme', sink: 'lake', stream: 'acme/data_access', from: 0, to: 10 }]],
    ]);
  }, 120_000);

  test('while somebody reads another month for long: who appends is not kept waiting, and it goes when he is done', async () => {
    const service = await start({ pruning: { timing: { lookMs: 3_600_000, soonMs: 3_600_000, dropPauseMs: 50 } } });
    await appendOld(service, monthsAgo(15), 10);
    await appendOld(service, monthsAgo(1), 10);
    await signedUp(service);
    const reader = await service.adminPool.connect();
    await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    await reader.query(
      'SELECT count(*) FROM sealog.block WHERE drop_month = (SELECT max(drop_month) FROM sealog.block)',
    );
    let slowest = 0;
    let isOver = false;
    const appending = (async () => {
      for (let n = 0; !isOver; n++) {
        const begun = performance.now();
        const { status } = await service.post('/v1/events', eventOf(n));
        slowest = Math.max(slowest, performance.now() - begun);
        expect(status).toBe(201);
      }
    })();
    // The look at the start may have met the old month before there was anything in it.
    const newest = async () => (await runs(service)).at(-1);
    await until(async () => {
      await service.app.pruner.pass('test');
      return (await newest())?.waiting?.includes('100 ms') ? true : undefined;
    }, 'the drop was tried');
    expect((await newest()).state).toBe('archived');
    await reader.query('COMMIT');
    reader.release();
    await prune(service);
    isOver = true;
    await appending;
    expect((await newest()).state).toBe('done');
    expect(slowest).toBeLessThan(1500);
  }, 120_000);
});

describe('what is left', () => {
  test('is held to the certificates: by kept hashes, by the link across the edge, and by where it begins', async () => {
    const service = await start();
    await appendOld(service, monthsAgo(15), 300);
    await appendOld(service, monthsAgo(2), 10);
    await appendOld(service, monthsAgo(1), 10);
    await signedUp(service);
    await prune(service);
    const flip = (column: string, at: number) => `set_byte(${column}, ${at}, get_byte(${column}, ${at}) # 1)`;
    const cases: [string, string, string | RegExp][] = [
      ['tile_edge', `UPDATE sealog.tile_edge SET hashes = ${flip('hashes', 40)}`, 'acme/data_access tile@0'],
      [
        'tile',
        `UPDATE sealog.tile SET hashes = ${flip('hashes', 40)} WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/data_access')`,
        /acme\/data_access tile@0/,
      ],
      [
        'block',
        `DELETE FROM sealog.block WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/data_access') AND first_seq = 300`,
        'acme/data_access early_deletion@300',
      ],
    ];
    for (const [table, statement, expected] of cases) {
      const client = await service.adminPool.connect();
      // The adversary is a superuser; what he did is undone again.
      // Of its stream alone: the log goes on to write about itself.
      const rows = `FROM sealog.${table} WHERE stream = (SELECT id FROM sealog.stream WHERE name = 'acme/data_access')`;
      await client.query(`CREATE TABLE public.saved AS SELECT * ${rows}`);
      const asNobody = (text: string) => client.query(`SET session_replication_role = replica; ${text}`);
      await client.query(`ALTER TABLE sealog.${table} DISABLE TRIGGER append_only`);
      const partitions = await client.query(
        `SELECT c.oid::regclass::text AS name FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'sealog.${table}'::regclass`,
      );
      for (const { name } of partitions.rows) await client.query(`ALTER TABLE ${name} DISABLE TRIGGER append_only`);
      await asNobody(statement);
      const report = await verifyAll(service);
      expect([table, report.verdict, findingsOf(report).join('\n')]).toEqual([
        table,
        'tampered',
        expect.stringMatching(expected),
      ]);
      await asNobody(`DELETE ${rows}; INSERT INTO sealog.${table} SELECT * FROM public.saved`);
      await client.query('DROP TABLE public.saved');
      for (const name of [`sealog.${table}`, ...partitions.rows.map((row) => row.name)])
        await client.query(`ALTER TABLE ${name} ENABLE ALWAYS TRIGGER append_only`);
      client.release();
      expect([table, findingsOf(await verifyAll(service))]).toEqual([table, []]);
    }
  }, 120_000);
});

describe('over HTTP', () => {
  test('a dry run says what would go and what stops it; each tenant sees its own; only the deployment prunes', async () => {
    const service = await start();
    await appendOld(service, monthsAgo(15), 10);
    await appendOld(service, monthsAgo(15), 20, { tenant: 'initech' });
    await signedUp(service);
    const as = async (tenant: string) => ({ token: await service.token('it_security_admin', tenant) });
    const plan = await service.post('/v1/retention/runs', {}, await as('acme'));
    expect([plan.status, checkShape('PruningPlan', plan.body)]).toEqual([200, []]);
    expect(plan.body).toMatchObject({ dryRun: true, stops: [], months: [{ stops: [] }] });
    expect(plan.body.months[0].streams).toEqual([{ stream: 'acme/data_access', first: 0, end: 10, holds: [] }]);
    expect((await service.post('/v1/retention/runs?dryRun=false', {}, await as('acme'))).status).toBe(403);
    const wrong = { clock: '2001-01-01T00:00:00Z' };
    expect((await service.post('/v1/retention/runs?dryRun=false', wrong, await as('sealog'))).status).toBe(400);
    const asked = { reason: 'disk', clock: new Date().toISOString() };
    expect((await service.post('/v1/retention/runs?dryRun=false', asked, await as('sealog'))).status).toBe(202);
    await signedUp(service);
    await prune(service);
    const all = await service.get('/v1/retention/runs', await as('sealog'));
    expect([all.status, checkShape('PruningPage', all.body)]).toEqual([200, []]);
    expect(all.body.items[0].streams).toHaveLength(2);
    const own = await service.get('/v1/retention/runs', await as('initech'));
    expect(own.body.items[0].streams).toEqual([
      expect.objectContaining({ stream: 'initech/data_access', first: 0, end: 20 }),
    ]);
    const one = await service.get(`/v1/retention/runs/${own.body.items[0].id}`, await as('initech'));
    expect([one.status, one.body.state, checkShape('PruningRun', one.body)]).toEqual([200, 'done', []]);
    expect((await service.get('/v1/retention/runs', await as('umbrella'))).body.items).toEqual([]);
  }, 120_000);
});

function eventOf(n: number) {
  return {
    id: `now-${n}`,
    category: 'user_authentication',
    action: 'auth.login',
    outcome: 'success',
    occurredAt: '2026-01-01T10:00:00Z',
    source: { service: 'test' },
    actor: { type: 'user', id: 'u-1' },
  };
}

async function evidence(service: TestService): Promise<number> {
  const { rows } = await service.adminPool.query('SELECT count(*)::integer AS n FROM sealog.outside_evidence');
  return rows[0].n;
}

async function oldestMonth(service: TestService): Promise<number> {
  const { rows } = await service.adminPool.query(
    'SELECT min(drop_month) AS month FROM sealog.block WHERE drop_month > 1',
  );
  return rows[0].month;
}

/** The database's administrator. */
async function dropByHand(service: TestService): Promise<void> {
  const month = await oldestMonth(service);
  for (const one of ['entry_id', 'block']) await service.adminPool.query(`DROP TABLE sealog.${one}_${month}`);
}

describe('kill -9 between two steps', () => {
  const STEPS = someOf(
    [
      ...['begun', 'written', 'appended', 'placed', 'certified', 'anchored', 'moved', 'archived', 'dropped', 'key'],
      ...['destroyed', 'told'],
    ],
    3,
  );

  test('leaves nothing half done: whoever comes next finishes it, and each entry is there once', async () => {
    const service = await start();
    await appendOld(service, monthsAgo(15), 30);
    await appendOld(service, monthsAgo(15), 20, { tenant: 'initech', category: 'user_authentication' });
    await appendOld(service, monthsAgo(3), 5);
    await signedUp(service);
    await service.app.close();
    const child = join(import.meta.dirname, 'support/pruning-child.ts');
    const env = { ...PROGRAM_ENVIRONMENT, ...service.environment };
    for (const step of STEPS) {
      const died = await run(process.execPath, [child, step, '1'], { env }).then(
        ({ stdout }) => stdout,
        (error: { signal: string }) => error.signal,
      );
      expect([step, died]).toEqual([step, 'SIGKILL']);
      expect([step, findingsOf(await verifyAll(service))]).toEqual([step, []]);
    }
    const again = await start({ beside: service });
    await prune(again);
    expect((await runs(again)).map(({ state }) => state)).toEqual(['done']);
    const { rows } = await again.adminPool.query(
      `SELECT s.name, s.size::integer, s.pruned::integer FROM sealog.stream AS s WHERE s.category <> 'anchor' AND s.name !~ '^sealog' ORDER BY s.name`,
    );
    expect(rows).toEqual([
      { name: 'acme/data_access', size: 35, pruned: 30 },
      { name: 'acme/log_administration', size: 2, pruned: 0 },
      { name: 'initech/log_administration', size: 2, pruned: 0 },
      { name: 'initech/user_authentication', size: 20, pruned: 20 },
    ]);
    expect(findingsOf(await verifyAll(again))).toEqual([]);
  }, 120_000);
});
