/**
 * What the database's owner can do, and who finds it: the database alone, with the signer's own record, with what lies outside.
 *
 * For each change: what `verifyLog` says with the deployment's key alone (`alone`), with the signer's record besides (`mark`), and with a checkpoint
 * of each stream that an auditor kept and a witness's cosignature (`outside`). Where only the outside can tell, the others say `not_provable`, and
 * nobody ever says `intact` of what was changed.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Kysely, PostgresDialect } from 'kysely';
import type pg from 'pg';
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
import { type NoteSigner, noteSigner } from '../src/chain/note.ts';
import { isOpen, type Part } from '../src/chain/part.ts';
import { decodeRecord, encodeRecord, type Rec } from '../src/chain/record.ts';
import { openSealed, sealParts } from '../src/chain/seal.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { BUNDLE_BOUNDS, writeBundle } from '../src/proof/bundle-writer.ts';
import { readMark } from '../src/signer/mark.ts';
import { makeSeed, readSeeds } from '../src/signer/seeds.ts';
import { BLOCK_COLUMNS, storedBlock } from '../src/store/block-row.ts';
import { keyById } from '../src/store/data-keys.ts';
import type { AsTenant } from '../src/store/database.ts';
import { typesOfDatabase } from '../src/store/database.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import type { Tables } from '../src/store/tables.ts';
import { verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import { witnessChecker } from '../src/verify/outside-evidence.ts';
import { type LogOptions, type LogReport, verifyLog } from '../src/verify/verify-log.ts';
import { Adversary, disarm, type Home } from './support/adversary.ts';
import { adminPool } from './support/postgres.ts';
import { startService, type TestService } from './support/service.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

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
  await stamp();
  for (let i = 4; i < 8; i++) await send('acme', 'data_access', 40 * i, 40);
  await untilAnchored();
  await service.app.close();

  pool = adversarysPool(service);
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

/** One connection, which stays in its transaction from one statement to the next. */
function adversarysPool({ database: { adminConfig } }: TestService): pg.Pool {
  const made = adminPool(adminConfig, { types: typesOfDatabase });
  return made;
}

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
       UNION ALL SELECT FROM sealog.outside_evidence AS e WHERE NOT EXISTS (
         SELECT FROM sealog.anchor_leaf AS l WHERE l.evidence = e.id)
       UNION ALL SELECT FROM sealog.stream AS s LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
         WHERE s.category = 'anchor' AND (c.size IS NULL OR c.size < s.size)`,
    );
    if (rows.length === 0) return;
    await sleep(100);
  }
  throw new Error('the streams were not anchored in time');
}

/** An authority that nobody here trusts has stamped the anchor stream; the next tick has a leaf of its token. */
async function stamp(): Promise<void> {
  await service.adminPool.query(
    `INSERT INTO sealog.outside_evidence (anchor, kind, stream, size, note, evidence, evidence_time)
     SELECT 'authority', 'rfc3161', s.id, c.size, c.note, 'a token', 0
     FROM sealog.checkpoint AS c JOIN sealog.stream AS s ON s.id = c.stream WHERE s.name = 'sealog/anchor'`,
  );
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

/**
 * The verdict, then `kind@seq` of each finding, once; behind the stream's name where it is not the main one. In which of the ticks a
 * checkpoint is depends on the moment: of the anchor stream only the kind is told.
 */
function words({ verdict, findings, streams }: LogReport): string {
  const all = [...streams.flatMap((report) => report.findings), ...findings].map(({ stream, kind, seq }) => {
    const place = stream === MAIN ? '' : `${stream.replace(/^\(stream \d+\)$/, '(gone)')}:`;
    // Whether a tick saw the main stream at 120 depends on the moment, too.
    const where = stream === MAIN && kind === 'inconsistent' && seq === 119 ? 159 : seq;
    return seq === undefined || stream === 'sealog/anchor' ? `${place}${kind}` : `${place}${kind}@${where}`;
  });
  return [verdict, ...[...new Set(all)].sort()].join(' ');
}

type Case = readonly [does: string, alone: string, mark: string, outside: string, change: () => Promise<unknown>];

async function undone(work: () => Promise<unknown>): Promise<void> {
  await pool.query('BEGIN');
  try {
    await work();
  } finally {
    await pool.query('ROLLBACK');
  }
}

function each(cases: readonly Case[]): void {
  it.each(cases)('%s', { timeout: 30_000 }, (_, expectedAlone, expectedMark, expectedOutside, change) =>
    undone(async () => {
      await change();
      const said = [words(await verified(alone)), words(await verified(mark)), words(await verified(outside))];
      const same = (expected: string) => (expected === '=' ? expectedAlone : expected);
      expect(said).toEqual([expectedAlone, same(expectedMark), same(expectedOutside)]);
    }),
  );
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
  const [row] = await on.run(`SELECT ${BLOCK_COLUMNS.join()} FROM sealog.block WHERE stream = $1 AND first_seq = $2`, [
    stream.id,
    firstSeq,
  ]);
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
    ['entry_id', 'first_seq'],
  ])
    await on.run(`DELETE FROM sealog.${table} WHERE stream = $1 AND ${column} = ANY ($2)`, [single.id, seqs]);
}

const host = (record: Rec) => ({ source: { ...record.source, host: 'forged' } });
const ALL = [MAIN, SINGLE, OTHER];

describe('a sound log', () => {
  it('is intact for whoever holds something, and not provable for whoever does not', () =>
    undone(async () => {
      expect(words(await verified(alone))).toBe('not_provable');
      expect(words(await verified(mark))).toBe('not_provable');
      const report = await verified(outside);
      expect(words(report)).toBe('intact');
      const tenants = report.streams.filter(({ stream }) => ALL.includes(stream));
      for (const one of tenants) {
        const by = 'witness witness.example/w1 (w1)';
        expect(one.anchored).toContainEqual({ from: 0, to: one.size, by, time: '2026-09-21T14:13:20.000Z' });
        expect(one).toMatchObject({ unanchored: null, pinned: [{ to: one.size }] });
      }
    }));

  it('is anchored by a witness that the verifier was told to trust, and by no other', () =>
    undone(async () => {
      const stranger = cosigner('witness.example/w1', new Uint8Array(32).fill(8));
      expect(words(await verified({ ...alone, evidence: witnessChecker([stranger.vkey]) }))).toBe('not_provable');
      const { streams } = await verified({ ...alone, evidence: outside.evidence });
      expect(streams.map(({ stream, verdict }) => [stream, verdict])).toEqual([
        ...[MAIN, SINGLE, OTHER, 'sealog/anchor'].map((stream) => [stream, 'intact']),
        // What the service told when it was stopped, no witness has seen.
        ['sealog/log_administration', 'not_provable'],
      ]);
    }));

  it('without a key is trusted on first use, which the report says', () =>
    undone(async () => {
      const { verdict, key } = await verified({});
      expect([verdict, key]).toEqual(['not_provable', { ...alone.key, trusted: 'first use' }]);
    }));

  it('is not the one whose key the verifier was given', () =>
    undone(async () => {
      const { vkey } = noteSigner(ORIGIN, new Uint8Array(32).fill(9));
      expect(words(await verified({ key: { vkey, trusted: 'given' } }))).toMatch(/^tampered .*log\.example:key/);
    }));

  it('of one tenant is anchored by the ticks that it needs', () =>
    undone(async () => {
      const source = logWideSource(database, keyring(), ORIGIN, { tenantId: main.tenant, category: 'data_access' });
      const options = { ...alone, evidence: outside.evidence };
      expect(await verifyLog(source, options)).toMatchObject({
        verdict: 'intact',
        streams: [{ stream: MAIN, unanchored: null }],
      });
      const flip = 'UPDATE sealog.anchor_leaf SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1) WHERE stream = $1';
      await on.run(flip, [main.id]);
      const damaged = await verifyLog(source, options);
      expect(damaged).toMatchObject({ verdict: 'tampered', findings: [{ stream: 'sealog/anchor', kind: 'anchor' }] });
    }));
});

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
      `tampered ${SINGLE}:block@3 ${SINGLE}:overlap@3 ${SINGLE}:record@3`,
      '=',
      '=',
      () =>
        on.run(
          `INSERT INTO sealog.block SELECT tenant, stream, 3, entries, 0, recorded_from, recorded_to, occurred_from, occurred_to, key_id,
             severity_min, severity_max, outcomes, records, parts, tags FROM sealog.block WHERE stream = $1 AND first_seq = 1`,
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
          'UPDATE sealog.block SET first_seq = 1005 - first_seq WHERE stream = $1 AND first_seq IN (1002, 1003)',
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
      'tampered checkpoint@319 inconsistent@159',
      'tampered checkpoint@319 inconsistent@159 inconsistent@319',
      'tampered checkpoint@319 inconsistent@159 inconsistent@319',
      () => on.rewrite(main, 100, host),
    ],
    [
      'from entry 200 on: it says up to where it still held',
      'tampered checkpoint@319 inconsistent@319',
      '=',
      '=',
      () => on.rewrite(main, 200, host),
    ],
    [
      'and its checkpoint, by somebody without the key',
      'tampered inconsistent@159 signature@319',
      'tampered inconsistent@159 inconsistent@319 signature@319',
      'tampered inconsistent@159 inconsistent@319 signature@319',
      async () => {
        await on.rewrite(main, 100, host);
        const thief = noteSigner(`${ORIGIN}/${MAIN}`, new Uint8Array(32).fill(1));
        await on.setCheckpoint(main, 320, await on.signed(main, 320, thief));
      },
    ],
    [
      'and the ticks, by somebody without the key',
      'tampered checkpoint@319 sealog/anchor:checkpoint sealog/anchor:inconsistent',
      'tampered checkpoint@319 inconsistent@319 sealog/anchor:checkpoint sealog/anchor:inconsistent',
      'tampered checkpoint@319 inconsistent@319 sealog/anchor:anchor sealog/anchor:checkpoint sealog/anchor:inconsistent',
      async () => {
        await on.rewrite(main, 100, host);
        await on.rewriteAnchors();
      },
    ],
    [
      'and everything that was signed is taken away',
      'tampered log.example:key',
      'tampered inconsistent@319 log.example:key sealog/anchor:truncated',
      'tampered log.example:key log.example:signature',
      async () => {
        await on.rewrite(main, 100, host);
        await unsign();
      },
    ],
    [
      'with a stolen current key: signed, ticked, signed again',
      'not_provable',
      'tampered inconsistent@319 sealog/anchor:inconsistent',
      'tampered inconsistent@319 sealog/anchor:anchor sealog/anchor:inconsistent',
      steal,
    ],
  ]);

  it('with a stolen current key: what a witness said is evidence as long as it stands there, and nothing when it is gone', () =>
    undone(async () => {
      const kept = `CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM sealog.outside_evidence WHERE kind = 'witness'`;
      await on.run(kept);
      await steal();
      const trusting = { ...alone, evidence: outside.evidence };
      // Nobody is trusted who says otherwise: never intact all the same.
      expect(words(await verified(trusting))).toBe('not_provable');
      await on.run('INSERT INTO sealog.outside_evidence OVERRIDING SYSTEM VALUE SELECT * FROM kept');
      expect(words(await verified(trusting))).toMatch(/^tampered sealog\/anchor:anchor sealog\/anchor:inconsistent$/);
    }));

  it('and everything that was signed is taken away: without a key there is nothing to hold it to', () =>
    undone(async () => {
      await on.rewrite(main, 100, host);
      await unsign();
      const report = await verified({});
      expect([words(report), report.key]).toEqual(['not_provable', null]);
    }));

  it('says up to which size it still was what was stated', () =>
    undone(async () => {
      await on.rewrite(main, 200, host);
      const { streams } = await verified(outside);
      const { findings } = streams.find(({ stream }) => stream === MAIN)!;
      expect(findings[0]!.detail).toMatch(
        /^the first 320 entries are not those that .* states.*; at size 160 they still were/,
      );
    }));

  /** The thief has the signing seed of the generation that signs now, but not the signer's folder's past, nor the witness. */
  async function steal(): Promise<void> {
    await on.rewrite(main, 100, host);
    await on.rewriteAnchors();
    const anchor = await on.home('sealog/anchor');
    await on.setCheckpoint(main, 320, await on.signed(main, 320, signerOf(main)));
    const [{ size }] = await on.run('SELECT size FROM sealog.stream WHERE id = $1', [anchor.id]);
    await on.setCheckpoint(anchor, size, await on.signed(anchor, size, signerOf(anchor)));
    // He can not do without the authority's token, which a tick has a leaf of, but say that it is of his own checkpoint.
    await on.run(`DELETE FROM sealog.outside_evidence WHERE kind = 'witness'`);
    for (const { id, size: stamped } of await on.run('SELECT id, size FROM sealog.outside_evidence'))
      await on.run('UPDATE sealog.outside_evidence SET note = $2 WHERE id = $1', [
        id,
        await on.signed(anchor, stamped, signerOf(anchor)),
      ]);
  }

  async function unsign(): Promise<void> {
    for (const table of ['outside_evidence', 'anchor_leaf', 'checkpoint', 'key_statement'])
      await on.run(`DELETE FROM sealog.${table}`);
    await vanish(await on.home('sealog/anchor'));
  }
});

describe('a bundle of it, with and without a checkpoint that the auditor kept', () => {
  const cases: readonly [does: string, without: string, withKept: string, change: () => Promise<unknown>][] = [
    ['nothing', 'not_provable', 'intact', async () => {}],
    ['a byte of a record', 'tampered checkpoint link@58', '=', () => setRecord(main, 57, host)],
    ['the rewrite from entry 100 on, the tree too', 'tampered checkpoint', '=', () => on.rewrite(main, 100, host)],
    [
      'the rewrite, signed again with a stolen current key',
      'not_provable',
      'tampered inconsistent',
      async () => {
        await on.rewrite(main, 100, host);
        await on.setCheckpoint(main, 320, await on.signed(main, 320, signerOf(main)));
        await on.run('DELETE FROM sealog.anchor_leaf WHERE stream = $1', [main.id]);
      },
    ],
    [
      'the rewrite, signed by somebody without the key',
      'tampered signature',
      'tampered inconsistent signature',
      async () => {
        await on.rewrite(main, 100, host);
        const thief = noteSigner(`${ORIGIN}/${MAIN}`, new Uint8Array(32).fill(1));
        await on.setCheckpoint(main, 320, await on.signed(main, 320, thief));
        await on.run('DELETE FROM sealog.anchor_leaf WHERE stream = $1', [main.id]);
      },
    ],
    [
      'an earlier state, with the old but valid checkpoint',
      'not_provable',
      'tampered truncated',
      async () => {
        await on.rollBack(main, 160);
        await on.setCheckpoint(main, 160, await on.signed(main, 160, signerOf(main)));
        await on.run('DELETE FROM sealog.anchor_leaf WHERE stream = $1 AND size > 160', [main.id]);
        // The token of this test is none.
        await on.run(`DELETE FROM sealog.outside_evidence WHERE kind = 'rfc3161'`);
      },
    ],
  ];

  it.each(cases)('of %s', { timeout: 30_000 }, (_, without, withKept, change) =>
    undone(async () => {
      await change();
      const tar = await bundle();
      expect([await told(tar, []), await told(tar, [kept()])]).toEqual([
        without,
        withKept === '=' ? without : withKept,
      ]);
    }),
  );

  const kept = (): string => outside.checkpoints!.find(({ name }) => name.endsWith(MAIN))!.note;

  async function told(tar: Uint8Array, checkpoints: readonly string[]): Promise<string> {
    const report = await verifyBundle(tar, { key: alone.key!.vkey, checkpoints, authorities: [], witnesses: [] });
    const found = report.findings.map(({ kind, seq }) =>
      seq === undefined || kind === 'truncated' ? kind : `${kind}@${seq}`,
    );
    return [report.verdict, ...[...new Set(found)].sort()].join(' ');
  }

  /** What the service would give out. */
  async function bundle(): Promise<Uint8Array> {
    const ask: AsTenant = async (work) => {
      await pool.query(`SELECT set_config('sealog.tenant', '${main.tenant}', true)`);
      await pool.query('SET LOCAL ROLE sealog_reader');
      try {
        return await work(database);
      } finally {
        await pool.query('RESET ROLE');
      }
    };
    const sources = { origin: ORIGIN, ask, verifier: database, keys: keyring() };
    const request = { tenant: 'acme', category: 'data_access', from: undefined, to: undefined, since: [] } as const;
    const { signal } = new AbortController();
    const made = await writeBundle(sources, { ...request, withhold: new Set() }, BUNDLE_BOUNDS, signal);
    const chunks: Uint8Array[] = [];
    for await (const chunk of made.content()) chunks.push(chunk);
    await made.close();
    return Buffer.concat(chunks);
  }
});

describe('a stream is put back', () => {
  each([
    ['to an earlier size', 'tampered truncated@160', '=', '=', () => on.rollBack(main, 160)],
    [
      'with its old checkpoint',
      'tampered checkpoint@159 truncated@160',
      '=',
      '=',
      async () => {
        await on.rollBack(main, 160);
        await replay(main, 160);
      },
    ],
    [
      'and the tick that knew it better',
      'tampered sealog/anchor:anchor',
      'tampered sealog/anchor:anchor truncated@160',
      'tampered sealog/anchor:anchor truncated@160',
      async () => {
        await on.rollBack(main, 160);
        await replay(main, 160);
        await on.run('DELETE FROM sealog.anchor_leaf WHERE stream = $1 AND size > 160', [main.id]);
      },
    ],
    [
      'and the anchor stream with it: nothing in the database knows better',
      'not_provable',
      'tampered sealog/anchor:truncated truncated@160',
      'tampered sealog/anchor:anchor sealog/anchor:truncated truncated@160',
      async () => {
        await on.rollBack(main, 160);
        await rollBackAnchors();
      },
    ],
    [
      'not at all, but its old checkpoint is: an older one, though valid',
      'tampered checkpoint@159',
      '=',
      '=',
      () => replay(main, 160),
    ],
    [
      'not at all, but its checkpoint and the anchor stream are',
      'not_provable',
      'tampered sealog/anchor:truncated',
      'tampered sealog/anchor:anchor sealog/anchor:truncated',
      () => rollBackAnchors(),
    ],
    [
      'to nothing: its row and all of its rows are gone',
      'tampered (gone):truncated',
      `tampered (gone):truncated ${OTHER}:truncated`,
      `tampered (gone):truncated ${OTHER}:truncated`,
      async () => vanish(await on.home(OTHER)),
    ],
    [
      'to nothing, its leaves too',
      'tampered sealog/anchor:anchor',
      `tampered ${OTHER}:truncated sealog/anchor:anchor`,
      `tampered ${OTHER}:truncated sealog/anchor:anchor`,
      async () => {
        const other = await on.home(OTHER);
        await vanish(other);
        await on.run('DELETE FROM sealog.anchor_leaf WHERE stream = $1', [other.id]);
      },
    ],
  ]);

  it('and its checkpoint, before a tick knew it: the signer says what is missing', () =>
    undone(async () => {
      await replay(single, 3);
      await on.run('DELETE FROM sealog.anchor_leaf');
      await on.run('DELETE FROM sealog.outside_evidence');
      await vanish(await on.home('sealog/anchor'));
      expect(words(await verified(alone))).toBe('not_provable');
      const own = new Map([...mark.mark!].filter(([name]) => name === SINGLE));
      expect(await verified({ ...mark, mark: own })).toMatchObject({ verdict: 'incomplete', findings: [] });
    }));

  /** An old checkpoint of a stream, which he kept: the signer signed it when the stream was of that size. */
  async function replay(stream: Home, size: number): Promise<void> {
    await on.setCheckpoint(stream, size, await on.signed(stream, size, signerOf(stream)));
  }

  /** Main's old checkpoint, and the anchor stream as it was when that was the newest. */
  async function rollBackAnchors(): Promise<void> {
    const anchor = await on.home('sealog/anchor');
    await on.rollBack(anchor, 1);
    await replay(anchor, 1);
    await replay(main, 160);
    await on.run('DELETE FROM sealog.outside_evidence');
    await on.run('DELETE FROM sealog.anchor_leaf WHERE stream = $1 AND size > 160', [main.id]);
  }
});

async function vanish(stream: Home): Promise<void> {
  for (const table of ['block', 'entry_id', 'tile', 'checkpoint'])
    await on.run(`DELETE FROM sealog.${table} WHERE stream = $1`, [stream.id]);
  await on.run('DELETE FROM sealog.data_key WHERE stream = $1', [stream.id]);
  await on.run('DELETE FROM sealog.stream WHERE id = $1', [stream.id]);
}

describe('every column of what was signed and anchored', () => {
  /** What verification must say when it is changed, or why it may say nothing. */
  const WORTH: Readonly<Record<string, string>> = {
    'checkpoint.tenant': 'no evidence: who is shown the row; its note says what it is of',
    'checkpoint.signed_at': 'no evidence: nothing follows from it',
    'anchor_leaf.tenant': 'no evidence: who is shown the row',
    'anchor_leaf.evidence': 'tampered',
    'outside_evidence.id': 'no evidence: a number of the database',
    'outside_evidence.anchor': 'no evidence: a name for people',
    'outside_evidence.kind': 'not intact',
    'outside_evidence.stream': 'not intact',
    'outside_evidence.certificates': 'no evidence: a witness has none',
    'outside_evidence.crls': 'no evidence: a witness has none',
    'outside_evidence.ends': 'no evidence: the evidence states it itself',
    'outside_evidence.evidence_time': 'no evidence: the evidence states it itself',
    'outside_evidence.recorded_at': 'no evidence: nothing follows from it',
  };
  const CHANGES: Readonly<Record<string, (column: string) => string[]>> = {
    integer: (column) => [`${column} + 1`, `${column} # 1048576`],
    bigint: (column) => [`${column} + 1`, `${column} # 4398046511104`, 'NULL'],
    text: (column) => [`${column} || 'x'`, `reverse(${column})`],
    bytea: (column) =>
      ['0', `octet_length(${column}) - 1`].map((at) => `set_byte(${column}, ${at}, get_byte(${column}, ${at}) # 1)`),
  };

  it('is found, or has a reason why not', { timeout: 120_000 }, async () => {
    const { rows: columns } = await pool.query<{ table: string; column: string; type: string }>(
      `SELECT c.relname::text AS "table", a.attname::text AS "column", format_type(a.atttypid, NULL) AS type
       FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
       WHERE c.oid IN ('sealog.checkpoint'::regclass, 'sealog.key_statement'::regclass, 'sealog.anchor_leaf'::regclass, 'sealog.outside_evidence'::regclass)
         AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, a.attnum`,
    );
    expect(columns.length).toBeGreaterThan(25);
    for (const { table, column, type } of columns) {
      const worth = WORTH[`${table}.${column}`] ?? 'tampered';
      if (worth.startsWith('no evidence')) continue;
      for (const change of some(CHANGES[type]!(column))) {
        await undone(async () => {
          await loosen(table);
          await on.run(
            `UPDATE sealog.${table} SET ${column} = ${change} WHERE ctid = (SELECT ctid FROM sealog.${table} WHERE ${column} IS NOT NULL ORDER BY ctid DESC LIMIT 1)`,
          );
          const { verdict } = await verified({ ...alone, evidence: outside.evidence });
          expect([table, column, change, verdict]).toEqual([
            table,
            column,
            change,
            worth === 'tampered' ? 'tampered' : expect.not.stringMatching('^intact$'),
          ]);
        });
      }
    }
  });

  /** Lets anything be written: a superuser is not held by constraints either. */
  async function loosen(table: string): Promise<void> {
    const constraints = await on.run(
      `SELECT conname AS name FROM pg_constraint WHERE conrelid = $1::regclass AND contype IN ('c', 'f', 'u', 'p')`,
      [`sealog.${table}`],
    );
    for (const { name } of constraints) await on.run(`ALTER TABLE sealog.${table} DROP CONSTRAINT ${name} CASCADE`);
    const columns = await on.run(
      `SELECT attname AS name FROM pg_attribute WHERE attrelid = $1::regclass AND attnotnull AND attnum > 0 AND NOT attisdropped`,
      [`sealog.${table}`],
    );
    for (const { name } of columns) {
      await on.run(`ALTER TABLE sealog.${table} ALTER COLUMN ${name} DROP IDENTITY IF EXISTS`);
      await on.run(`ALTER TABLE sealog.${table} ALTER COLUMN ${name} DROP NOT NULL`);
    }
  }
});

describe('a generation of keys that was replaced', () => {
  it('signs nothing newer: what a thief of it signs is found', { timeout: 30_000 }, async () => {
    const own = await startService({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
    const admin = adversarysPool(own);
    try {
      const folder = own.config.signerDir!;
      const sent = await own.post('/v1/events', event('data_access', 0));
      expect(sent.status).toBe(201);
      const generations = async (generation: number): Promise<void> => {
        for (let i = 0; i < 100; i++) {
          const { rows } = await own.adminPool.query('SELECT FROM sealog.checkpoint WHERE generation <> $1', [
            generation,
          ]);
          const { rowCount } = await own.adminPool.query('SELECT FROM sealog.checkpoint');
          if (rows.length === 0 && rowCount! > 1) return;
          await sleep(100);
        }
        throw new Error(`not everything was signed by generation ${generation}`);
      };
      await generations(1);
      await makeSeed(folder, 2);
      await generations(2);
      await own.app.close();
      const [first, second] = await readSeeds(folder);
      const ofDatabase = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: admin }) });
      const keys = new Keyring(fileMonthKeys(own.config.monthKeysDir), {
        findOrStore: () => Promise.reject(new Error('the adversary makes no keys')),
        byId: (id) => keyById(ofDatabase, id),
      });
      const verdict = async (generation: typeof first) =>
        words(
          await verifyLog(logWideSource(ofDatabase, keys, ORIGIN), {
            key: { vkey: generation!.signer(ORIGIN).vkey, trusted: 'given' },
          }),
        );
      expect([await verdict(first), await verdict(second)]).toEqual(['not_provable', 'not_provable']);

      await disarm(admin);
      const thief = new Adversary(admin, ORIGIN);
      const stream = await thief.home(MAIN);
      await thief.run('UPDATE sealog.checkpoint SET generation = 1 WHERE stream = $1', [stream.id]);
      await thief.setCheckpoint(stream, 1, await thief.signed(stream, 1, first!.signer(`${ORIGIN}/${MAIN}`)));
      // It is what generation 1 signed, and a tick from before the rotation knows it.
      expect(await verdict(second)).toBe('not_provable');
      await thief.rewrite(stream, 0, host);
      await thief.setCheckpoint(stream, 1, await thief.signed(stream, 1, first!.signer(`${ORIGIN}/${MAIN}`)));
      await thief.run('DELETE FROM sealog.anchor_leaf WHERE stream = $1', [stream.id]);
      expect(await verdict(second)).toMatch(/^tampered key@0/);
      expect(await verdict(first)).toMatch(/^tampered key@0/);
    } finally {
      await admin.end();
      await own.stop();
    }
  });
});

/** In the short form one of a column's changes, another in each run. */
function some<Item>(items: readonly Item[]): readonly Item[] {
  return HARD ? items : [items[randomInt(items.length)]!];
}
