/**
 * What has expired is gone, wherever bytes of it were. Strings are planted in every part of events, in tags, in what searches, exports, requests to erase and
 * refused events leave; then their month expires. Neither data folder, WAL, WAL archive, backup, archived bundles, logs nor key folder have them,
 * or a key that would open them; and the backup from before, started as a database with the keys that are there now, opens all but that month.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { SimulatedClock } from '../simulate/clock.ts';
import { fromUtf8 } from '../src/chain/bytes.ts';
import { openBlock } from '../src/chain/open-block.ts';
import { isOpen } from '../src/chain/part.ts';
import { addMonths, dropMonthOf } from '../src/chain/retain-until.ts';
import type { StreamKeys } from '../src/chain/sealed-run.ts';
import { KeyUnavailableError } from '../src/errors.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { keyById } from '../src/store/data-keys.ts';
import { type Database, openDatabase } from '../src/store/database.ts';
import { blockHolding } from '../src/store/erasures.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import { verifyLog } from '../src/verify/verify-log.ts';
import { unwrap } from './reference/naive-log.ts';
import { monthsAgo } from './support/old-entries.ts';
import { Secrets } from './support/plain-text.ts';
import type { TestDatabase } from './support/postgres.ts';
import { startPrivatePostgres } from './support/private-postgres.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { startService, type TestService, withoutTrail } from './support/service.ts';

const run = promisify(execFile);

/** What is kept for 12 months from here on is gone today, and what came nine months later is not. */
const FIRST = monthsAgo(14);
const LATER = monthsAgo(5);
const MONTH = dropMonthOf(addMonths(FIRST, 12));

/** Each stands in every string that it names, and nowhere else. */
const PLANTED = `pl4nt3d${randomBytes(9).toString('hex')}`;
const KEPT = `k3pt${randomBytes(9).toString('hex')}`;
/** In the record of what is planted: records are not sealed, so whoever looks has to find it. */
const RECORDED = `rec0rded${randomBytes(9).toString('hex')}`;

test('nothing of what expired is found or opened, by whoever has everything that is there', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-expiry-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  await chmod(folder, 0o755);
  const [wal, backup, archive] = [join(folder, 'wal'), join(folder, 'backup'), join(folder, 'archive')];
  await mkdir(wal);
  await chmod(wal, 0o777);
  const server = await startPrivatePostgres({
    settings: {
      ...{ archive_mode: 'on', archive_command: `cp %p ${wal}/%f` },
      // All that the server could ever write into its log, with values.
      ...{ logging_collector: 'on', log_directory: 'log', log_statement: 'all', log_parameter_max_length: '-1' },
    },
  });
  onTestFinished(() => server.stop());
  const database = await server.database();
  const clock = await SimulatedClock.takeOver(database.adminConfig, FIRST, () => {});
  const log: string[] = [];
  const service = await startService({
    ...{ database, wallClock: clock.wall, monotonic: clock.monotonic },
    environment: { SEALOG_ARCHIVE_DIR: archive, SEALOG_ANCHOR_SECONDS: '1', SEALOG_CHECKPOINT_MS: '50' },
    log: pino({ level: 'trace' }, { write: (line: string) => void log.push(line) }),
  });
  onTestFinished(async () => {
    await clock.close();
    await service.stop();
  });

  await plant(service, clock);
  await rotateMonthKeys(service);
  await clock.moveTo(LATER);
  const kept = [accessOf('kept', clock.now, KEPT, 'host')];
  expect((await service.post('/v1/events/batch', kept)).body.errors).toBe(false);
  await signedUp(service);
  await server.backUp(backup);

  const { monthKeysDir } = service.config;
  const secrets = new Secrets().add('planted', PLANTED);
  for (const name of [`${MONTH}`, `${MONTH}.2`]) {
    const text = await readFile(join(monthKeysDir, `${name}.key`), 'utf8');
    secrets.add(`month key ${name}`, Buffer.from(text.trim(), 'hex'));
  }
  const before = await openAll(database, monthKeysDir);
  for (const { month, keys } of before) {
    if (month === MONTH) secrets.add('data key', keys!.dataKey).add('tag key', keys!.tagKey);
  }
  // Who looks finds it, as long as it can be opened.
  const isOf = (month: number) => (one: Opened) => one.month === month;
  expect(before.filter(isOf(MONTH)).map(({ text }) => text.includes(PLANTED))).toContain(true);
  expect((await secrets.inFolder(monthKeysDir)).length).toBe(2);

  await clock.moveTo(Date.now());
  await service.app.pruner.confirmClock(clock.now);
  await until('pruned', async () => (await service.app.pruner.pass('test')) === 'later');
  const runs = await service.adminPool.query('SELECT state FROM sealog.pruning WHERE drop_month = $1', [MONTH]);
  expect(runs.rows).toEqual([{ state: 'done' }]);
  await service.adminPool.query('CHECKPOINT');
  await allArchived(service);

  const recorded = new Secrets().add('recorded', RECORDED);
  for (const place of [server.cluster, wal, backup, archive]) {
    expect(await secrets.inFolder(place), place).toEqual([]);
    expect(await recorded.inFolder(place), place).not.toEqual([]);
  }
  expect(await secrets.inFolder(monthKeysDir)).toEqual([]);
  expect(await secrets.inDatabase(database.adminConfig)).toEqual([]);
  expect([secrets.in(Buffer.from(log.join(''))), log.join('').includes('dropped a month')]).toEqual([[], true]);

  const old = await startPrivatePostgres({ restored: { of: server, backup, archive: wal } });
  onTestFinished(() => old.stop());
  const past = await old.database();
  expect(await secrets.inDatabase(past.adminConfig)).toEqual([]);
  expect((await recorded.inDatabase(past.adminConfig)).join()).toContain(`block_${MONTH}: recorded (as it is) in zstd`);
  const after = await openAll(past, monthKeysDir);
  expect(after.filter(isOf(MONTH)).length).toBe(before.filter(isOf(MONTH)).length);
  for (const { month, keys, text, problem } of after)
    expect([month, keys === undefined, text, problem]).toEqual(
      month === MONTH ? [month, true, '', 'destroyed'] : [month, false, expect.any(String), undefined],
    );
  expect(after.map(({ text }) => text.includes(KEPT))).toContain(true);
  await isOpenedByNothing(past, monthKeysDir);
  await isServedToNobody(service, past);
}, 120_000);

/** A string with the planted one for each place that one can stand in. */
function accessOf(id: string, at: number, secret: string, host: string): object {
  return {
    ...{ id, category: 'data_access', action: 'dashboard.view', outcome: 'success', reason: `because of ${secret}` },
    ...{ occurredAt: new Date(at).toISOString(), source: { service: 'mes', site: 'plant-7', host } },
    actor: {
      type: 'user',
      id: `id-${secret}`,
      name: `Name ${secret}`,
      email: `${secret}@example.com`,
      userAgent: secret,
    },
    target: { type: 'dashboard', id: `target-${secret}`, name: `Dashboard ${secret}` },
    changes: { before: { [`key ${secret}`]: 1 }, after: secret },
    details: { deep: [{ in: { it: secret } }], [`name ${secret}`]: null },
    raw: `GET /dashboards?user=${secret} HTTP/1.1`,
  };
}

/** As clients, readers and officers would: all of it is of the month that expires, but what administration keeps for ever. */
async function plant(service: TestService, clock: SimulatedClock): Promise<void> {
  const events = Array.from({ length: 5 }, (_, i) => accessOf(`e-${i}`, clock.now, PLANTED, RECORDED));
  // One that PostgreSQL keeps in pieces, and one that is given as bytes.
  const long = {
    ...accessOf('long', clock.now, PLANTED, RECORDED),
    raw: `${PLANTED} ${randomBytes(4000).toString('hex')}`.repeat(4),
  };
  const bytes = {
    ...accessOf('bytes', clock.now, PLANTED, RECORDED),
    raw: { base64: Buffer.from(`x${PLANTED}y`).toString('base64') },
  };
  const { body } = await service.post('/v1/events/batch', [...events, long, bytes]);
  expect(body.errors).toBe(false);
  expect((await service.post('/v1/events', accessOf('alone', clock.now, PLANTED, RECORDED))).status).toBe(201);
  // What is refused, what is known, what is another under a known id.
  const refused = { ...accessOf('wrong', clock.now, PLANTED, RECORDED), [PLANTED]: PLANTED };
  expect((await service.post('/v1/events', refused)).status).toBe(400);
  const other = { ...accessOf('alone', clock.now, PLANTED, RECORDED), reason: `${PLANTED} again` };
  expect((await service.post('/v1/events', other)).status).toBe(409);
  const fetched = async (path: string): Promise<string> => {
    const headers = { authorization: `Bearer ${await service.token('auditor')}` };
    const answer = await fetch(`${service.url}${path}`, { headers });
    expect([path, answer.status]).toEqual([path, 200]);
    return answer.text();
  };
  for (const asked of [`actor=id-${PLANTED}`, `actor=${PLANTED}@example.com`, `target=target-${PLANTED}`])
    for (const path of ['/v1/events?', '/v1/export?format=ndjson&'])
      expect(await fetched(`${path}category=data_access&${asked}`)).toContain('"alone"');
  await signedUp(service);
  expect(await fetched('/v1/bundle?category=data_access')).toContain(PLANTED);
  const officer = { token: await service.token('privacy_officer') };
  const person = { id: `id-${PLANTED}`, name: `Name ${PLANTED}`, email: `${PLANTED}@example.com` };
  const asked = await service.post('/v1/erasures', { person, fullScan: true, reason: 'request 4711' }, officer);
  expect(asked.status).toBe(202);
  await until(
    'searched',
    async () => (await service.get(`/v1/erasures/${asked.body.id}`, officer)).body.search === 'found',
  );
  await signedUp(service);
}

async function rotateMonthKeys(service: TestService): Promise<void> {
  const admin = { token: await service.token('it_security_admin', 'sealog') };
  expect((await service.post('/v1/keys/months/rotations', { reason: 'in time' }, admin)).status).toBe(201);
  await until('wrapped again', async () => {
    const { rows } = await service.adminPool.query('SELECT FROM sealog.key_generation WHERE rewrapped_at IS NOT NULL');
    return rows.length > 0;
  });
}

interface Opened {
  readonly month: number;
  readonly keys: StreamKeys | undefined;
  /** All open parts. */
  readonly text: string;
  readonly problem: string | undefined;
}

/** Opens block by block, with the month keys that are there. */
async function openAll(of: TestDatabase, monthKeysDir: string): Promise<Opened[]> {
  const database = openDatabase({ connection: of.adminConfig, readersMax: 1, log: { warn() {} } });
  try {
    const keyring = keyringOf(database, monthKeysDir);
    const { rows } = await database.writer.query(
      `SELECT b.stream, b.first_seq AS seq, b.drop_month AS month, s.name FROM sealog.block AS b
       JOIN sealog.stream AS s ON s.id = b.stream ORDER BY 1, 2`,
    );
    const opened: Opened[] = [];
    for (const { stream, seq, month, name } of rows) {
      const block = (await blockHolding(database.verifier, stream, Number(seq)))!;
      try {
        const keys = await keyring.keysById(block.keyId);
        const parts = openBlock(block, name, keys.dataKey).flatMap((one) => one.parts);
        const text = parts.map((part) => (isOpen(part) ? fromUtf8(part.value) : '')).join('\n');
        opened.push({ month, keys, text, problem: undefined });
      } catch (error) {
        if (!(error instanceof KeyUnavailableError)) throw error;
        opened.push({ month, keys: undefined, text: '', problem: error.problem });
      }
    }
    return opened;
  } finally {
    await database.close();
  }
}

/** Whatever lies in the key folder, under whatever name, is tried as a key on whatever is wrapped. */
async function isOpenedByNothing(of: TestDatabase, monthKeysDir: string): Promise<void> {
  const keys: Buffer[] = [];
  for (const entry of await readdir(monthKeysDir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const text = await readFile(join(entry.parentPath, entry.name), 'latin1');
    keys.push(...[...text.matchAll(/[0-9a-f]{64}/g)].map(([hex]) => Buffer.from(hex, 'hex')));
  }
  const database = openDatabase({ connection: of.adminConfig, readersMax: 1, log: { warn() {} } });
  const { rows } = await database.writer.query(
    `SELECT s.name, k.drop_month AS month, w.wrapped FROM sealog.data_key AS k JOIN sealog.stream AS s ON s.id = k.stream
     CROSS JOIN LATERAL (SELECT k.wrapped UNION ALL SELECT f.wrapped FROM sealog.data_key_form AS f WHERE f.data_key = k.id) AS w`,
  );
  await database.close();
  const opens = (key: Buffer, { name, month, wrapped }: { name: string; month: number; wrapped: Buffer }): boolean => {
    try {
      return unwrap(key, name, month, wrapped).length === 32;
    } catch {
      return false;
    }
  };
  for (const row of rows)
    expect([row.month, keys.some((key) => opens(key, row))]).toEqual([row.month, row.month !== MONTH]);
  expect(rows.filter(({ month }) => month === MONTH)).toHaveLength(2);
}

/** The service, recovered onto the old database: it gives nothing of that month, and prunes it again. */
async function isServedToNobody(service: TestService, past: TestDatabase): Promise<void> {
  await service.app.close();
  const environment = { ...service.environment, DATABASE_URL: past.appUrl };
  const restored = { ...service, database: past, environment };
  const superuser = new pg.Client(past.adminConfig);
  await superuser.connect();
  await superuser.query('UPDATE simulation.clock SET ahead = 0');
  await superuser.end();
  const main = join(import.meta.dirname, '../src/cli/main.ts');
  await run(process.execPath, [main, 'recover', '--yes'], { env: { ...PROGRAM_ENVIRONMENT, ...environment } });
  const again = await startService({ beside: restored });
  onTestFinished(() => again.stop());
  const shown = await again.get('/v1/events/kept');
  expect([shown.status, shown.text.includes(KEPT)]).toEqual([200, true]);
  for (const path of ['/v1/events/alone', '/v1/events/alone/proof'])
    expect([path, (await again.get(path)).status]).toEqual([path, 404]);
  const { items } = (await again.get('/v1/events?category=data_access&limit=100')).body;
  expect(withoutTrail(items).map(({ id }) => id)).toEqual(['kept']);
  const exported = await fetch(`${again.url}/v1/export?format=ndjson&category=data_access`, {
    headers: { authorization: `Bearer ${await again.token('auditor')}` },
  });
  const text = await exported.text();
  expect([exported.status, text.includes(KEPT), text.includes(PLANTED)]).toEqual([200, true, false]);

  // The month goes again, whatever the database forgot of it, once somebody has said what day it is there.
  await again.app.pruner.confirmClock(Date.now());
  await until('pruned again', async () => (await again.app.pruner.pass('test')) === 'later');
  const { rows } = await again.adminPool.query(`SELECT to_regclass('sealog.block_${MONTH}') AS left`);
  expect(rows).toEqual([{ left: null }]);
  const database = openDatabase({ connection: past.adminConfig, readersMax: 1, log: { warn() {} } });
  const source = logWideSource(database.verifier, keyringOf(database, service.config.monthKeysDir), 'log.example');
  const report = await verifyLog(source).finally(() => database.close());
  expect([report.findings, report.streams.flatMap(({ findings }) => findings)]).toEqual([[], []]);
  expect(report.streams.flatMap((one) => one.pruned).length).toBeGreaterThan(0);
}

function keyringOf({ verifier }: Database, monthKeysDir: string): Keyring {
  return new Keyring(fileMonthKeys(monthKeysDir), {
    findOrStore: () => Promise.reject(new Error('no keys are made here')),
    byId: (id) => keyById(verifier, id),
  });
}

async function signedUp(service: TestService): Promise<void> {
  await until('all is signed', async () => {
    const { rows } = await service.adminPool.query(
      `SELECT FROM sealog.stream AS s LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
       WHERE s.size > 0 AND s.category <> 'anchor' AND c.size IS DISTINCT FROM s.size`,
    );
    return rows.length === 0;
  });
}

async function allArchived(service: TestService): Promise<void> {
  const { rows } = await service.adminPool.query('SELECT pg_walfile_name(pg_switch_wal()) AS name');
  await until('all WAL is archived', async () => {
    const { rows: archived } = await service.adminPool.query('SELECT last_archived_wal AS name FROM pg_stat_archiver');
    return archived[0].name >= rows[0].name;
  });
}

async function until(what: string, look: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 30_000;
  while (!(await look())) {
    if (performance.now() > end) throw new Error(`not in time: ${what}`);
    await delay(50);
  }
}
