/**
 * What the database's owner can do, and who finds it: the database alone, with the signer's own record, with what lies outside.
 *
 * For each change: what `verifyLog` says with the deployment's key alone (`alone`), with the signer's record besides (`mark`), and with a checkpoint
 * of each stream that an auditor kept and a witness's cosignature (`outside`). Where only the outside can tell, the others say `not_provable`, and
 * nobody ever says `intact` of what was changed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  decodeParts,
  decodeRecords,
  encodeParts,
  encodeRecords,
  packPayload,
  unpackPayload,
} from '../src/chain/block.ts';
import { fromHex, utf8 } from '../src/chain/bytes.ts';
import type { JsonObject } from '../src/chain/canonical.ts';
import { type Cosigner, cosigner } from '../src/chain/cosignature.ts';
import { type NoteSigner, signNote } from '../src/chain/note.ts';
import { isOpen, type Part } from '../src/chain/part.ts';
import { decodeRecord, encodeRecord, type Rec } from '../src/chain/record.ts';
import { openSealed, sealParts } from '../src/chain/seal.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { readMark } from '../src/signer/mark.ts';
import { readSeeds } from '../src/signer/seeds.ts';
import { storedBlock } from '../src/store/block-row.ts';
import { keyById } from '../src/store/data-keys.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import type { Tables } from '../src/store/tables.ts';
import { witnessChecker } from '../src/verify/outside-evidence.ts';
import { type LogOptions, type LogReport, verifyLog } from '../src/verify/verify-log.ts';
import { Adversary, disarm, type Home } from './support/adversary.ts';
import { startService, type TestService } from './support/service.ts';

const ORIGIN = 'log.example';
/** 8 blocks of 40 entries: a full tile, and a quarter of the next. Anchored at 160 and 320. */
const MAIN = 'acme/data_access';
/** Six blocks of one entry. */
const SINGLE = 'acme/system_operation';
/** Another tenant's: two blocks of 40. */
const OTHER = 'other/data_access';

let service: TestService;
let pool: pg.Pool;
let database: Kysely<Tables>;
let on: Adversary;
let main: Home;
let single: Home;
let signerOf: (stream: Home) => NoteSigner;
let witness: Cosigner;
/** What each of the three knows. */
let alone: LogOptions;
let mark: LogOptions;
let outside: LogOptions;

beforeAll(async () => {
  service = await startService({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
  const send = async (tenant: string, category: string, from: number, count: number): Promise<void> => {
    const events = Array.from({ length: count }, (_, i) => event(category, from + i));
    const token = await service.token('service', tenant);
    const { status, body } = await service.post('/v1/events/batch', events, { token });
    expect([status, body.errors]).toEqual([200, false]);
  };
  for (let i = 0; i < 4; i++) await send('acme', 'data_access', 40 * i, 40);
  for (let i = 0; i < 6; i++) await send('acme', 'system_operation', i, 1);
  for (let i = 0; i < 2; i++) await send('other', 'data_access', 40 * i, 40);
  await untilAnchored();
  for (let i = 4; i < 8; i++) await send('acme', 'data_access', 40 * i, 40);
  await untilAnchored();
  await service.app.close();

  pool = new pg.Pool({
    ...service.database.adminConfig,
    max: 1,
    types: {
      getTypeParser: ((oid: number, format?: 'text') =>
        oid === pg.types.builtins.INT8 ? Number : pg.types.getTypeParser(oid, format)) as typeof pg.types.getTypeParser,
    },
  });
  database = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  on = new Adversary(pool, ORIGIN);
  await disarm(pool);
  main = await on.home(MAIN);
  single = await on.home(SINGLE);

  const folder = service.config.signerDir!;
  const [seed] = await readSeeds(folder);
  signerOf = ({ name }) => seed!.signer(`${ORIGIN}/${name}`);
  witness = cosigner('witness.example/w1', new Uint8Array(32).fill(7));
  await cosign();
  const checkpoints = (
    await on.run('SELECT s.name, c.note FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream')
  ).map(({ name, note }) => ({ name: `the auditor's checkpoint of ${name}`, note: note as string }));
  alone = { key: { vkey: seed!.signer(ORIGIN).vkey, trusted: 'given' } };
  mark = { ...alone, mark: await readMark(folder) };
  outside = { ...alone, checkpoints, evidence: witnessChecker([witness.vkey]) };
}, 60_000);

afterAll(async () => {
  await database?.destroy();
  await service?.stop();
});

function event(category: string, n: number): JsonObject {
  return {
    id: `${category}-${n}`,
    category,
    action: `thing.act${n % 3}`,
    outcome: 'success',
    occurredAt: new Date(Date.UTC(2026, 0, 1) + n * 1000).toISOString(),
    source: { service: 'mes' },
    actor: { type: 'user', id: `u${n % 5}` },
    target: { type: 'thing', id: `t${n % 7}` },
  };
}

/** Waits until the last checkpoint of each tenant's stream has a leaf, its tick an entry, and that a checkpoint. */
async function untilAnchored(): Promise<void> {
  for (let i = 0; i < 100; i++) {
    const { rows } = await service.adminPool.query(
      `SELECT FROM sealog.stream AS s WHERE name !~ '^sealog/' AND NOT EXISTS (
         SELECT FROM sealog.anchor_leaf AS l WHERE l.stream = s.id AND l.size = s.size)
       UNION ALL SELECT FROM sealog.stream AS s LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
         WHERE s.category = 'anchor' AND (c.size IS NULL OR c.size < s.size)`,
    );
    if (rows.length === 0) return;
    await sleep(100);
  }
  throw new Error('the streams were not anchored in time');
}

/** The witness has seen the anchor stream as it stands. */
async function cosign(): Promise<void> {
  const [row] = await on.run(
    `SELECT s.id, c.size, c.note FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream WHERE s.name = 'sealog/anchor'`,
  );
  const text = row.note.slice(0, row.note.lastIndexOf('\n\n') + 1);
  await on.run(
    `INSERT INTO sealog.outside_evidence (anchor, kind, stream, size, note, evidence, evidence_time) VALUES ('w1', 'witness', $1, $2, $3, $4, 0)`,
    [row.id, row.size, row.note, Buffer.from(witness.cosign(text, 1_790_000_000))],
  );
}

function keyring(): Keyring {
  return new Keyring(fileMonthKeys(service.config.monthKeysDir), {
    findOrStore: () => Promise.reject(new Error('the adversary makes no keys')),
    byId: (id) => keyById(database, id),
  });
}

async function verified(options: LogOptions): Promise<LogReport> {
  await pool.query('SET LOCAL ROLE sealog_verifier');
  try {
    return await verifyLog(logWideSource(database, keyring(), ORIGIN), options);
  } finally {
    await pool.query('RESET ROLE');
  }
}

/** The verdict, then `kind@seq` of each finding, once; behind the stream's name where it is not the main one. */
function words({ verdict, findings, streams }: LogReport): string {
  const all = [...streams.flatMap((report) => report.findings), ...findings].map(({ stream, kind, seq }) => {
    const place = stream === MAIN ? '' : `${stream}:`;
    return seq === undefined ? `${place}${kind}` : `${place}${kind}@${seq}`;
  });
  return [verdict, ...new Set(all)].join(' ');
}

type Case = readonly [does: string, alone: string, mark: string, outside: string, change: () => Promise<unknown>];

function each(cases: readonly Case[]): void {
  it.each(cases)('%s', { timeout: 30_000 }, async (_, expectedAlone, expectedMark, expectedOutside, change) => {
    await pool.query('BEGIN');
    try {
      await change();
      const said = [words(await verified(alone)), words(await verified(mark)), words(await verified(outside))];
      const same = (expected: string) => (expected === '=' ? expectedAlone : expected);
      expect(said).toEqual([expectedAlone, same(expectedMark), same(expectedOutside)]);
    } finally {
      await pool.query('ROLLBACK');
    }
  });
}

/** Changes a record in its place, and nothing else. */
async function setRecord(stream: Home, seq: number, change: (record: Rec) => object): Promise<void> {
  const [row] = await on.run(
    'SELECT first_seq, records FROM sealog.block WHERE stream = $1 AND first_seq <= $2 ORDER BY first_seq DESC LIMIT 1',
    [stream.id, seq],
  );
  const records = decodeRecords(unpackPayload(row.records));
  const record = decodeRecord(records[seq - row.first_seq]!);
  const written = records.with(seq - row.first_seq, utf8(encodeRecord({ ...record, ...change(record) })));
  await on.run('UPDATE sealog.block SET records = $3 WHERE stream = $1 AND first_seq = $2', [
    stream.id,
    row.first_seq,
    packPayload(encodeRecords(written)),
  ]);
}

/** Opens the parts of a block with the real key, and seals what `change` leaves behind. */
async function setParts(stream: Home, firstSeq: number, change: (parts: Part[][]) => Part[][]): Promise<void> {
  const [row] = await on.run('SELECT * FROM sealog.block WHERE stream = $1 AND first_seq = $2', [stream.id, firstSeq]);
  const { keyId, records, parts } = storedBlock(row);
  const { dataKey } = await keyring().keysById(keyId);
  const hashes = decodeRecords(unpackPayload(records)).map((bytes) => fromHex(decodeRecord(bytes).parts));
  const opened = decodeParts(unpackPayload(openSealed(dataKey, stream.name, hashes, parts)));
  const sealed = sealParts(dataKey, stream.name, hashes, packPayload(encodeParts(change(opened))));
  await on.run('UPDATE sealog.block SET parts = $3 WHERE stream = $1 AND first_seq = $2', [
    stream.id,
    firstSeq,
    sealed,
  ]);
}

/** Deletes entries of the stream whose blocks hold one each, with their index rows. */
async function remove(...seqs: number[]): Promise<void> {
  for (const [table, column] of [
    ['block', 'first_seq'],
    ['tag', 'first_seq'],
    ['entry_id', 'seq'],
  ])
    await on.run(`DELETE FROM sealog.${table} WHERE stream = $1 AND ${column} = ANY ($2)`, [single.id, seqs]);
}

const host = (record: Rec) => ({ source: { ...record.source, host: 'forged' } });
const ALL = [MAIN, SINGLE, OTHER];

describe('a sound log', () => {
  it('is intact for whoever holds something, and not provable for whoever does not', async () => {
    await pool.query('BEGIN');
    expect(words(await verified(alone))).toBe('not_provable');
    expect(words(await verified(mark))).toBe('not_provable');
    const report = await verified(outside);
    expect(words(report)).toBe('intact');
    const anchored = report.streams.filter(({ stream }) => ALL.includes(stream));
    for (const one of anchored) {
      const by = 'witness witness.example/w1 (w1)';
      expect(one.anchored).toContainEqual({ from: 0, to: one.size, by, time: '2026-09-21T13:33:20.000Z' });
      expect(one).toMatchObject({ unanchored: null, pinned: [{ to: one.size }] });
    }
    // A witness that nobody told us to trust proves nothing.
    const stranger = cosigner('witness.example/w1', new Uint8Array(32).fill(8));
    expect(words(await verified({ ...alone, evidence: witnessChecker([stranger.vkey]) }))).toBe('not_provable');
    const { streams } = await verified({ ...alone, evidence: outside.evidence });
    expect(streams.filter(({ verdict }) => verdict === 'intact').map(({ stream }) => stream)).toEqual(
      expect.arrayContaining(ALL),
    );
    await pool.query('ROLLBACK');
  });

  it('without a key is trusted on first use, which the report says', async () => {
    await pool.query('BEGIN');
    const report = await verified({});
    expect([report.verdict, report.key]).toEqual(['not_provable', { ...alone.key, trusted: 'first use' }]);
    const [other] = await readSeedsOf(9);
    expect(words(await verified({ key: { vkey: other!, trusted: 'given' } }))).toMatch(
      /^tampered .*signature@319.* log.example:key/,
    );
    await pool.query('ROLLBACK');
  });

  it('of one stream is anchored by the ticks that it needs', async () => {
    await pool.query('BEGIN');
    const source = logWideSource(database, keyring(), ORIGIN, { tenantId: main.tenant, category: 'data_access' });
    const report = await verifyLog(source, { ...alone, evidence: outside.evidence });
    expect(report).toMatchObject({ verdict: 'intact', streams: [{ stream: MAIN, unanchored: null }] });
    await on.run('UPDATE sealog.anchor_leaf SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1) WHERE stream <> $1', [
      main.id,
    ]);
    const damaged = await verifyLog(source, { ...alone, evidence: outside.evidence });
    expect(damaged.verdict).toBe('tampered');
    expect(damaged.findings).toMatchObject([{ stream: 'sealog/anchor', kind: 'anchor' }]);
    await pool.query('ROLLBACK');
  });
});

async function readSeedsOf(byte: number): Promise<string[]> {
  const { noteSigner } = await import('../src/chain/note.ts');
  return [noteSigner(ORIGIN, new Uint8Array(32).fill(byte)).vkey];
}

describe('one thing is changed: the database alone tells', () => {
  each([
    ['a byte of a record', 'tampered record@57', '=', '=', () => setRecord(main, 57, host)],
    [
      'its actor, in the parts',
      'tampered part@42',
      '=',
      '=',
      () => setParts(main, 40, (parts) => actor(parts, '{"id":"mallory"}')),
    ],
    ['a salt', 'tampered part@42', '=', '=', () => setParts(main, 40, (parts) => salted(parts))],
    [
      'a byte of the sealed parts',
      'tampered part@40',
      '=',
      '=',
      () =>
        on.run(
          'UPDATE sealog.block SET parts = set_byte(parts, 99, get_byte(parts, 99) # 1) WHERE stream = $1 AND first_seq = 40',
          [main.id],
        ),
    ],
    [
      'its time',
      'tampered record@57',
      '=',
      '=',
      () => setRecord(main, 57, () => ({ recordedAt: '2020-01-01T00:00:00.000Z' })),
    ],
    [
      'its stream, and with it the tenant',
      'tampered record@57',
      '=',
      '=',
      () => setRecord(main, 57, () => ({ stream: OTHER })),
    ],
    [
      "the tenant of a block's row",
      'tampered block@40',
      '=',
      '=',
      () => on.run('UPDATE sealog.block SET tenant = tenant + 1 WHERE stream = $1 AND first_seq = 40', [main.id]),
    ],
    ['the first is deleted', `tampered ${SINGLE}:early_deletion@0`, '=', '=', () => remove(0)],
    ['one in the middle is deleted', `tampered ${SINGLE}:gap@3`, '=', '=', () => remove(3)],
    ['the last is deleted', `tampered ${SINGLE}:gap@5`, '=', '=', () => remove(5)],
    ['two in a row are deleted', `tampered ${SINGLE}:gap@2`, '=', '=', () => remove(2, 3)],
    [
      'one is inserted',
      `tampered ${SINGLE}:overlap@3 ${SINGLE}:tag@3 ${SINGLE}:block@3`,
      '=',
      '=',
      () =>
        on.run(
          `INSERT INTO sealog.block SELECT tenant, stream, 3, entries, 0, recorded_from, recorded_to, occurred_from, occurred_to, key_id,
             severity_min, severity_max, outcomes, records, parts FROM sealog.block WHERE stream = $1 AND first_seq = 1`,
          [single.id],
        ),
    ],
    [
      'two are swapped',
      `tampered ${SINGLE}:record@2 ${SINGLE}:record@3`,
      '=',
      '=',
      async () => {
await on.run('UPDATE sealog.block SET first_seq = first_seq + 1000 WHERE stream = $1 AND first_seq IN (2, 3)', [
          single.id,
        ]);
        await on.run(
          'UPDATE sealog.block SET first_seq = 1005 - first_seq + 1000 WHERE stream = $1 AND first_seq IN (1002, 1003)',
          [single.id],
        );
      },
    ],
    [
      'the tail is cut',
      'tampered gap@280',
      '=',
      '=',
      () => on.run('DELETE FROM sealog.block WHERE stream = $1 AND first_seq >= 280', [main.id]),
    ],
    [
      'a partition is emptied',
      `tampered ${SINGLE}:early_deletion@0 early_deletion@0 ${OTHER}:early_deletion@0`,
      '=',
      '=',
      async () => {
        const [{ month }] = await on.run('SELECT drop_month AS month FROM sealog.block WHERE stream = $1 LIMIT 1', [
          main.id,
        ]);
        await on.run(`TRUNCATE sealog.block_${month}`);
      },
    ],
  ]);

  const actor = (parts: Part[][], text: string): Part[][] =>
    parts.with(2, parts[2]!.map((part) => (part.name === 'actor' ? { ...part, value: utf8(text) } : part)) as Part[]);
  const salted = (parts: Part[][]): Part[][] =>
    parts.with(
      2,
      parts[2]!.map((part) => (isOpen(part) && part.name === 'actor' ? { ...part, salt: new Uint8Array(16) } : part)),
    );
});

describe('all of it is rewritten', () => {
  each([
    [
      'from entry 100 on, the tree too',
      'tampered inconsistent@159 checkpoint@319',
      'tampered inconsistent@159 checkpoint@319 inconsistent@319',
      'tampered inconsistent@159 checkpoint@319 inconsistent@319',
      () => on.rewrite(main, 100, host),
    ],
    [
      'and the checkpoint, without the key',
      'tampered inconsistent@159 signature@319',
      'tampered inconsistent@159 inconsistent@319 signature@319',
      'tampered inconsistent@159 inconsistent@319 signature@319',
      async () => {
        await on.rewrite(main, 100, host);
        const { noteSigner } = await import('../src/chain/note.ts');
        const thief = noteSigner(`${ORIGIN}/${MAIN}`, new Uint8Array(32).fill(1));
        await on.setCheckpoint(main, 320, await on.signed(main, 320, thief));
      },
    ],
  ]);
});
