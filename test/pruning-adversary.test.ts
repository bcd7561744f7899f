/** Pruning, by those who would have evidence gone early: with the writer's role, the month keys, and the database's own files. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { fromUtf8 } from '../src/chain/bytes.ts';
import { canonicalText, type JsonObject } from '../src/chain/canonical.ts';
import { appendLeaf, appendLeaves, frontierRoot, leafHash } from '../src/chain/merkle.ts';
import { certificateId, encodePruningCertificate } from '../src/chain/pruning-certificate.ts';
import { decodeRecord } from '../src/chain/record.ts';
import { dropMonthOf, parseInstant } from '../src/chain/retain-until.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { SigningKeys } from '../src/signer/seeds.ts';
import { keyById } from '../src/store/data-keys.ts';
import { openDatabase } from '../src/store/database.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import { beginRun, dropMonth, notePlace } from '../src/store/prunings.ts';
import { recordsOf } from '../src/store/tree-hashes.ts';
import { witnessChecker } from '../src/verify/outside-evidence.ts';
import { type LogOptions, verifyLog } from '../src/verify/verify-log.ts';
import { appendAt, appendOld, monthsAgo } from './support/old-entries.ts';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';
import { startWitness } from './support/witness.ts';

const silent = pino({ level: 'silent' });
const STREAM = 'acme/data_access';

async function start(options: ServiceOptions = {}): Promise<TestService> {
  const environment = { SEALOG_ANCHOR_SECONDS: '1', SEALOG_CHECKPOINT_MS: '50', ...options.environment };
  const service = await startService({ ...options, environment });
  onTestFinished(() => service.stop());
  return service;
}

async function until<T>(look: () => Promise<T | undefined>, what: string): Promise<T> {
  for (const end = performance.now() + 20_000; performance.now() < end; await delay(30)) {
    const found = await look();
    if (found !== undefined) return found;
  }
  throw new Error(`not in time: ${what}`);
}

async function one<T>(service: TestService, text: string, values: readonly unknown[] = []): Promise<T> {
  return (await service.adminPool.query(text, [...values])).rows[0] as T;
}

function signedUp(service: TestService): Promise<true> {
  return until(async () => {
    const { n } = await one<{ n: number }>(
      service,
      `SELECT count(*)::integer AS n FROM sealog.stream AS s LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
       WHERE s.size > 0 AND s.category <> 'anchor' AND c.size IS DISTINCT FROM s.size`,
    );
    return n === 0 ? true : undefined;
  }, 'everything is signed');
}

async function verified(service: TestService, options: LogOptions = {}) {
  const database = openDatabase({ connection: service.database.appConfig, readersMax: 1, log: silent });
  try {
    const keys = new Keyring(fileMonthKeys(service.config.monthKeysDir), {
      findOrStore: () => Promise.reject(new Error('verification makes no keys')),
      byId: (id) => keyById(database.verifier, id),
    });
    const { streams } = await verifyLog(logWideSource(database.verifier, keys, 'log.example'), options);
    const own = streams.find(({ stream }) => stream === STREAM)!;
    const findings = streams.flatMap((stream) => stream.findings);
    return { own, findings: findings.map(({ stream, kind, seq, detail }) => `${stream} ${kind}@${seq}: ${detail}`) };
  } finally {
    await database.close();
  }
}

/** What the service would certify of the first entries of the stream. */
async function certificateOf(service: TestService, end: number) {
  const { id } = await one<{ id: number }>(service, 'SELECT id FROM sealog.stream WHERE name = $1', [STREAM]);
  const records = await recordsOf(service.app.database.verifier, { id, name: STREAM }, 0, end);
  const leaves = records.map(leafHash);
  const before = appendLeaves(0, [], leaves.slice(0, -1));
  const retainUntil = parseInstant(decodeRecord(records.at(-1)!).retainUntil!)!;
  const details = encodePruningCertificate({
    ...{
      run: '11111111-2222-4333-8444-555555555555',
      stream: STREAM,
      dropMonth: dropMonthOf(retainUntil),
      first: 0,
      end,
    },
    // The frontier of the tree without its last leaf, the other way round.
    path: before.toReversed(),
    root: frontierRoot(end, appendLeaf(end - 1, before, leaves.at(-1)!)),
    ...{ lastRecord: fromUtf8(records.at(-1)!), months: 12, opening: undefined, held: [] },
  });
  return { details, retainUntil, hashes: Buffer.concat(leaves) };
}

async function appendCertificate(service: TestService, details: JsonObject, at: number): Promise<void> {
  const place = { tenant: 'acme', category: 'log_administration' } as const;
  const source = { service: 'sealog' };
  await appendAt(service, at, place, [
    { id: certificateId(details), action: 'retention.pruned', source, parts: { details } },
  ]);
  await signedUp(service);
}

/** Whoever has the writer's role moves a run on from state to state. */
async function setState(service: TestService, run: string, state: 'archived' | 'abandoned'): Promise<void> {
  const client = await service.adminPool.connect();
  try {
    await client.query('SET ROLE sealog_owner');
    const finished = state === 'abandoned' ? ', finished_at = now()' : '';
    await client.query(`UPDATE sealog.pruning SET state = $2${finished} WHERE id = $1`, [run, state]);
  } finally {
    client.release(true);
  }
}

test('a certificate that says too little, or of another time than its row, or that nobody outside has seen, drops nothing', async () => {
  const service = await start();
  await appendOld(service, monthsAgo(15), 10);
  await signedUp(service);
  const { writer } = service.app.database;
  const { details, retainUntil } = await certificateOf(service, 10);
  const { tenant, id } = await one<{ tenant: number; id: number }>(
    service,
    'SELECT tenant, id FROM sealog.stream WHERE name = $1',
    [STREAM],
  );
  const month = Number(details['dropMonth']);
  const { stream: _, ...nameless } = details;
  const cases: [string, JsonObject, number, boolean][] = [
    ['of no stream', nameless, retainUntil, false],
    ['of nothing', {}, retainUntil, false],
    ['of another time', details, 0, false],
    ['that nobody outside has seen', details, retainUntil, true],
  ];
  for (const [what, says, until, outside] of cases) {
    const run = await beginRun(writer, { dropMonth: month, requestedBy: 'test', outside });
    const own = Object.keys(says).length === 0 ? says : { ...says, run: run.id };
    await appendCertificate(service, own, Date.now());
    await writer.query(
      `INSERT INTO sealog.pruning_certificate (run, tenant, stream, first_seq, end_seq, retain_until, certificate)
       VALUES ($1, $2, $3, 0, 10, $4, $5)`,
      [run.id, tenant, id, until, canonicalText(own)],
    );
    expect(await notePlace(writer, run.id, id, certificateId(own))).toBe(true);
    await setState(service, run.id, 'archived');
    await expect(dropMonth(writer, run.id), what).rejects.toThrow(`no certificate that holds for ${STREAM}`);
    await setState(service, run.id, 'abandoned');
  }

  // In a database that was restored from before a pruning, the keys of what goes again are destroyed: it goes all the same.
  await fileMonthKeys(service.config.monthKeysDir).destroy(String(month));
  // Hashes that somebody put in place of those that are to be kept are seen while the entries are there.
  await writer.query(
    'INSERT INTO sealog.tile_edge (tenant, stream, tile_index, width, hashes) VALUES ($1, $2, 0, 255, $3)',
    [tenant, id, Buffer.alloc(255 * 32)],
  );
  expect(await service.app.pruner.pass('test')).toBe('later');
  expect(
    (await one<{ waiting: string }>(service, `SELECT waiting FROM sealog.pruning WHERE state = 'planned'`)).waiting,
  ).toMatch(/^other hashes are kept of tile 0/);
  await service.adminPool.query(
    'ALTER TABLE sealog.tile_edge DISABLE TRIGGER append_only; DELETE FROM sealog.tile_edge; ALTER TABLE sealog.tile_edge ENABLE ALWAYS TRIGGER append_only',
  );
  await until(async () => ((await service.app.pruner.pass('test')) === 'later' ? true : undefined), 'pruned');
  expect(await one(service, `SELECT state FROM sealog.pruning ORDER BY number DESC LIMIT 1`)).toEqual({
    state: 'done',
  });
}, 30_000);

test('a certificate that is dated ahead is an early deletion, once somebody outside has seen it before its time', async () => {
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
  await appendOld(service, monthsAgo(1), 10);
  await signedUp(service);
  const { details, retainUntil, hashes } = await certificateOf(service, 10);
  await appendCertificate(service, details, retainUntil + 86_400_000);
  await service.adminPool.query(
    `INSERT INTO sealog.tile_edge (tenant, stream, tile_index, width, hashes) SELECT tenant, id, 0, 10, $2 FROM sealog.stream WHERE name = $1`,
    [STREAM, hashes],
  );
  for (const table of ['entry_id', 'block'])
    await service.adminPool.query(`DROP TABLE sealog.${table}_${String(details['dropMonth'])}`);

  const asked = { evidence: witnessChecker([witness.vkey]) };
  const before = await verified(service);
  expect([before.findings, before.own.verdict]).toEqual([[], 'not_provable']);
  const { own, findings } = await until(async () => {
    const now = await verified(service, asked);
    return now.findings.length > 0 ? now : undefined;
  }, 'anchored');
  expect(findings).toEqual([
    expect.stringMatching(
      /^acme\/data_access early_deletion@0: entries 0 to 9 are missing, and are kept until .*: their certificate acme\/log_administration#\d+ was there at /,
    ),
  ]);
  expect(own.verdict).toBe('tampered');
}, 40_000);
