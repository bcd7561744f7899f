/**
 * The adversary owns the database: as superuser, triggers off, he changes what is stored. Verification must name the entry and the kind.
 *
 * Each change is made in a transaction in which the log is then verified, and which is rolled back: what was changed is there byte by
 * byte again, and must be intact. (`verify.test.ts` also commits.)
 */
import { randomInt } from 'node:crypto';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Kysely, PostgresDialect } from 'kysely';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  decodeParts,
  decodeRecords,
  encodeParts,
  encodeRecords,
  packPayload,
  type StoredBlock,
  spansOf,
  unpackPayload,
} from '../src/chain/block.ts';
import { concatBytes, fromHex, fromUtf8, toHex, utf8 } from '../src/chain/bytes.ts';
import type { JsonObject } from '../src/chain/canonical.ts';
import { OUTCOMES } from '../src/chain/category.ts';
import { entryIdHash } from '../src/chain/entry.ts';
import { appendLeaves, encodeFrontier, leafHash } from '../src/chain/merkle.ts';
import { commitmentOf, isOpen, type Part, partsHash } from '../src/chain/part.ts';
import { decodeRecord, encodeRecord, type Rec } from '../src/chain/record.ts';
import { openSealed, sealParts } from '../src/chain/seal.ts';
import { marksOf, placedTag, tagOf } from '../src/chain/tag.ts';
import { tileRoot } from '../src/chain/tile.ts';
import { PartsThreads } from '../src/cli/parts-threads.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { decodeIdHashes } from '../src/store/bigint-arrays.ts';
import { BLOCK_COLUMNS, storedBlock } from '../src/store/block-row.ts';
import { keyById } from '../src/store/data-keys.ts';
import { typesOfDatabase } from '../src/store/database.ts';
import type { Tables } from '../src/store/tables.ts';
import { verifySource } from '../src/store/verify-source.ts';
import type { LogSource, StoredIndex } from '../src/verify/log-source.ts';
import type { PartsChecker } from '../src/verify/parts-check.ts';
import { type StreamReport, type VerifyOptions, verifyStream } from '../src/verify/verify-stream.ts';
import { plantedId, withoutId } from './support/entry-ids.ts';
import { adminPool } from './support/postgres.ts';
import { startService, type TestService } from './support/service.ts';

/** 16 blocks of 40 entries: two full tiles, and half of a third. */
const MAIN = 'acme/data_access';
/** Three blocks, of 5, 1 and 3 entries, with severities. */
const SMALL = 'acme/security_event';
/** Twelve blocks of one entry. */
const SINGLE = 'acme/system_operation';
/** Another tenant's: two blocks of 40. */
const OTHER = 'other/data_access';
/** Beyond 65,536 entries, for a tile of level 1. */
const BIG = 'big/system_operation';
const BIG_SIZE = 66_000;

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

interface Home {
  readonly id: number;
  readonly name: string;
  readonly month: number;
}

let service: TestService;
let pool: pg.Pool;
let database: Kysely<Tables>;
let homes: Map<string, Home>;

beforeAll(async () => {
  service = await startService();
  const send = async (tenant: string, category: string, from: number, count: number): Promise<void> => {
    const events = Array.from({ length: count }, (_, i) => event(category, from + i));
    const { status, body } = await service.post('/v1/events/batch', events, {
      token: await service.token('service', tenant),
    });
    expect([status, body.errors]).toEqual([200, false]);
  };
  for (let i = 0; i < 16; i++) await send('acme', 'data_access', 40 * i, 40);
  for (let i = 0; i < 2; i++) await send('other', 'data_access', 40 * i, 40);
  for (let i = 0; i < 12; i++) await send('acme', 'system_operation', i, 1);
  await send('acme', 'security_event', 0, 5);
  await send('acme', 'security_event', 5, 1);
  await send('acme', 'security_event', 6, 3);
  for (let i = 0; i < BIG_SIZE; i += 6000) await send('big', 'system_operation', i, 6000);

  // One connection, which stays in its transaction from one statement to the next.
  pool = adminPool(service.database.adminConfig, { types: typesOfDatabase });
  database = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  const { rows } = await pool.query<Home>(
    `SELECT s.id, s.name, k.drop_month AS month FROM sealog.stream AS s JOIN sealog.data_key AS k ON k.stream = s.id`,
  );
  homes = new Map(rows.map((row) => [row.name, row]));
  await disarm();
}, 120_000);

afterAll(async () => {
  await database?.destroy();
  await service?.stop();
});

function event(category: string, n: number): JsonObject {
  return {
    id: `${category}-${n}`,
    category,
    action: `thing.act${n % 3}`,
    outcome: n % 4 === 0 ? 'failure' : 'success',
    ...(category === 'security_event' ? { severity: 3 + (n % 5) } : {}),
    occurredAt: new Date(Date.UTC(2026, 0, 1) + n * 1000).toISOString(),
    source: { service: 'mes', ...(n % 2 === 0 ? { site: 'plant-7' } : {}) },
    actor: { type: 'user', id: `u${n % 5}` },
    target: { type: 'thing', id: `t${n % 7}` },
  };
}

// ---- The adversary's tools ----

/** What one change is made with. All of it happens in the open transaction. */
interface Hands {
  readonly stream: Home;
  readonly other: Home;
  run(text: string, values?: readonly unknown[]): Promise<Record<string, never>[]>;
  block(firstSeq: number, stream?: Home): Promise<StoredBlock>;
  /** Writes columns of a block's row. */
  setBlock(firstSeq: number, columns: Readonly<Record<string, unknown>>): Promise<void>;
  /** Decodes a block's records, lets `change` at them, and stores what it leaves behind, compressed as we do. */
  rewriteRecords(firstSeq: number, change: (records: Uint8Array[]) => Uint8Array[]): Promise<void>;
  /** Changes members of one record. */
  rewriteRecord(seq: number, change: (record: Rec) => object): Promise<void>;
  /** Opens a block's parts with the real key and seals what `change` leaves behind, as somebody with the key would. */
  rewriteParts(firstSeq: number, change: (parts: Part[][]) => Part[][]): Promise<void>;
}

const ALL_COLUMNS = `tenant, stream, first_seq, entries, drop_month, recorded_from, recorded_to, occurred_from, occurred_to,
                       key_id, severity_min, severity_max, outcomes, records, parts, tags`;

function handsOn(stream: Home, other: Home): Hands {
  const run: Hands['run'] = async (text, values = []) => (await pool.query(text, [...values])).rows;
  const block: Hands['block'] = async (firstSeq, home = stream) => {
    const [row] = await run(`SELECT ${BLOCK_COLUMNS.join()} FROM sealog.block WHERE stream = $1 AND first_seq = $2`, [
      home.id,
      firstSeq,
    ]);
    return storedBlock(row as never);
  };
  const setBlock: Hands['setBlock'] = async (firstSeq, columns) => {
    const names = Object.keys(columns);
    const sets = names.map((name, i) => `${name} = $${i + 3}`).join(', ');
    const values = [stream.id, firstSeq, ...Object.values(columns)];
    const { rowCount } = await pool.query(
      `UPDATE sealog.block SET ${sets} WHERE stream = $1 AND first_seq = $2`,
      values,
    );
    expect(rowCount).toBe(1);
  };
  const rewriteRecords: Hands['rewriteRecords'] = async (firstSeq, change) => {
    const records = decodeRecords(unpackPayload((await block(firstSeq)).records));
    await setBlock(firstSeq, { records: packPayload(encodeRecords(change(records))) });
  };
  const home = async (seq: number): Promise<number> => {
    const [row] = await run(
      'SELECT first_seq FROM sealog.block WHERE stream = $1 AND first_seq <= $2 ORDER BY first_seq DESC LIMIT 1',
      [stream.id, seq],
    );
    return row!['first_seq']!;
  };
  return {
    stream,
    other,
    run,
    block,
    setBlock,
    rewriteRecords,
    async rewriteRecord(seq, change) {
      const firstSeq = await home(seq);
      await rewriteRecords(firstSeq, (records) =>
        records.with(seq - firstSeq, changed(records[seq - firstSeq]!, change)),
      );
    },
    async rewriteParts(firstSeq, change) {
      const { keyId, records, parts } = await block(firstSeq);
      const { dataKey } = await keyring().keysById(keyId);
      const hashes = decodeRecords(unpackPayload(records)).map((bytes) => fromHex(decodeRecord(bytes).parts));
      const opened = decodeParts(unpackPayload(openSealed(dataKey, stream.name, hashes, parts)));
      const payload = packPayload(encodeParts(change(opened)));
      await setBlock(firstSeq, { parts: sealParts(dataKey, stream.name, hashes, payload) });
    },
  };
}

function changed(bytes: Uint8Array, change: (record: Rec) => object): Uint8Array {
  const record = decodeRecord(bytes);
  return utf8(encodeRecord({ ...record, ...change(record) }));
}

function keyring(folder = service.config.monthKeysDir): Keyring {
  return new Keyring(fileMonthKeys(folder), {
    findOrStore: () => Promise.reject(new Error('the adversary makes no keys')),
    byId: (id) => keyById(database, id),
  });
}

function flip(bytes: Uint8Array, at: number, mask = 1): Uint8Array {
  const copy = new Uint8Array(bytes);
  copy[at]! ^= mask;
  return copy;
}

/** Every table and, since triggers are each one's own, every partition. */
async function disarm(): Promise<void> {
  const { rows } = await pool.query<{ name: string }>(
    `SELECT relname AS name FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relkind IN ('r', 'p')
     AND relname !~ '^migration'`,
  );
  for (const { name } of rows) await pool.query(`ALTER TABLE sealog.${name} DISABLE TRIGGER ALL`);
}

async function verified(name: string, folder?: string, options: VerifyOptions = {}): Promise<StreamReport> {
  await pool.query('SET LOCAL ROLE sealog_verifier');
  try {
    return await verifyStream(verifySource(database, keyring(folder), homes.get(name)!), options);
  } finally {
    await pool.query('RESET ROLE');
  }
}

/** Returns what verification says of a stream after a change, and makes it undone. */
async function after(
  name: string,
  change: (hands: Hands) => Promise<unknown>,
  parts?: PartsChecker,
): Promise<StreamReport> {
  await pool.query('BEGIN');
  try {
    await change(handsOn(homes.get(name)!, homes.get(OTHER)!));
    const report = await verified(name);
    // Threads that look at parts say what this thread says.
    if (parts !== undefined) expect(await verified(name, undefined, { parts })).toEqual(report);
    return report;
  } finally {
    await pool.query('ROLLBACK');
  }
}

async function untouched(name: string): Promise<void> {
  await pool.query('BEGIN');
  expect(await verified(name)).toMatchObject({ verdict: 'intact', findings: [], unchecked: [], truncated: false });
  await pool.query('ROLLBACK');
}

/** `kind@seq` of each finding, once. */
function places(report: StreamReport): string[] {
  return [...new Set(report.findings.map(({ kind, seq }) => (seq === undefined ? kind : `${kind}@${seq}`)))];
}

type Case = readonly [does: string, expected: string, change: (hands: Hands) => Promise<unknown>];

/** `expected` is every finding, in order: nothing is missed, and nothing sound is accused. */
function each(name: string, cases: readonly Case[], parts?: PartsChecker): void {
  it.each(cases)('%s: %s', async (_, expected, change) => {
    const report = await after(name, change, parts);
    expect(places(report).join(' ')).toBe(expected);
    expect(report.verdict).toBe(expected === '' ? 'intact' : 'tampered');
    await untouched(name);
  });
}

it('is intact before', async () => {
  // The big one by `checkLog` alone, and again behind its own cases.
  for (const name of homes.keys()) if (name !== BIG) await untouched(name);
  expect((await service.checkLog()).map(({ stream, size }) => [stream, size])).toEqual([
    [MAIN, 640],
    [SMALL, 9],
    [SINGLE, 12],
    [BIG, BIG_SIZE],
    [OTHER, 80],
  ]);
});

describe('a record is changed', () => {
  each(MAIN, [
    ['its action, in a full tile', 'record@57', (on) => on.rewriteRecord(57, () => ({ action: 'thing.other' }))],
    ['its action, in the unfinished tile', 'record@530', (on) => on.rewriteRecord(530, () => ({ action: 'a.b' }))],
    ['its outcome', 'record@57', (on) => on.rewriteRecord(57, () => ({ outcome: 'unknown' }))],
    ['its occurredAt', 'record@57', (on) => on.rewriteRecord(57, () => ({ occurredAt: '2026-01-01T00:00:01.000Z' }))],
    ['its source', 'record@57', (on) => on.rewriteRecord(57, () => ({ source: { service: 'mes2' } }))],
    ['its severity added', 'record@57', (on) => on.rewriteRecord(57, () => ({ severity: 9 }))],
    ['its evidence mark added', 'record@57', (on) => on.rewriteRecord(57, () => ({ evidence: 'incomplete' }))],
    ['its id', 'record@57', (on) => on.rewriteRecord(57, () => ({ id: 'another' }))],
    ['its seq', 'record@57', (on) => on.rewriteRecord(57, () => ({ seq: 58 }))],
    ['its stream', 'record@57', (on) => on.rewriteRecord(57, () => ({ stream: OTHER }))],
    ['its previous', 'link@57 record@57', (on) => on.rewriteRecord(57, () => ({ previous: '7'.repeat(64) }))],
    ['its parts hash', 'record@57', (on) => on.rewriteRecord(57, () => ({ parts: '7'.repeat(64) }))],
    [
      'its recordedAt, earlier',
      'record@57',
      (on) => on.rewriteRecord(57, () => ({ recordedAt: '2020-01-01T00:00:00.000Z' })),
    ],
    [
      'its recordedAt, later',
      'record@57',
      (on) => on.rewriteRecord(57, () => ({ recordedAt: '2099-01-01T00:00:00.000Z' })),
    ],
    [
      'its retainUntil, earlier',
      'record@57',
      (on) => on.rewriteRecord(57, () => ({ retainUntil: '2020-01-01T00:00:00.000Z' })),
    ],
    [
      'its retainUntil, later by a millisecond',
      'record@57',
      (on) => on.rewriteRecord(57, ({ retainUntil }) => ({ retainUntil: later(retainUntil!) })),
    ],
    ['the first one', 'record@0', (on) => on.rewriteRecord(0, () => ({ action: 'thing.other' }))],
    ["the first one's previous", 'link@0 record@0', (on) => on.rewriteRecord(0, () => ({ previous: '7'.repeat(64) }))],
    ['the last one', 'record@639', (on) => on.rewriteRecord(639, () => ({ action: 'thing.other' }))],
    ['the one before the last', 'record@638', (on) => on.rewriteRecord(638, () => ({ action: 'thing.other' }))],
    [
      'two neighbours',
      'record@57 link@58 record@58',
      async (on) => {
        await on.rewriteRecord(57, () => ({ action: 'thing.other' }));
        await on.rewriteRecord(58, () => ({ action: 'thing.other' }));
      },
    ],
    [
      'one in the unfinished tile, and the next linked to it',
      'record@530 record@531',
      async (on) => {
        await on.rewriteRecord(530, () => ({ action: 'thing.other' }));
        const [, bytes] = await recordOf(on, 530);
        await on.rewriteRecord(531, () => ({ previous: toHex(leafHash(bytes)) }));
      },
    ],
    [
      'one, and all after it linked to each other',
      'tag@480 tile@500 head@639 frontier@639',
      async (on) => {
        let previous: string | undefined;
        for (let seq = 500; seq < 640; seq++) {
          await on.rewriteRecord(seq, (record) =>
            seq === 500 ? { action: 'thing.other' } : { previous: previous ?? record.previous },
          );
          previous = toHex(leafHash((await recordOf(on, seq))[1]));
        }
      },
    ],
    [
      'one, and the next linked to it',
      'record@57 record@58',
      async (on) => {
        await on.rewriteRecord(57, () => ({ action: 'thing.other' }));
        const [, bytes] = await recordOf(on, 57);
        await on.rewriteRecord(58, () => ({ previous: toHex(leafHash(bytes)) }));
      },
    ],
  ]);
});

describe("a block's records are changed", () => {
  each(MAIN, [
    ['a length prefix', 'block@40', (on) => rawRecords(on, 40, (payload) => flip(payload, 1))],
    ['a byte inside a record', 'record@40', (on) => rawRecords(on, 40, (payload) => flip(payload, 30))],
    ['a byte that is no UTF-8', 'record@40', (on) => rawRecords(on, 40, (payload) => flip(payload, 30, 0x80))],
    ['a blank put in', 'record@41', (on) => on.rewriteRecords(40, (r) => r.with(1, concatBytes(r[1]!, utf8(' '))))],
    ['a cut-off end', 'block@40', (on) => rawRecords(on, 40, (payload) => payload.subarray(0, -1))],
    ['a byte behind the end', 'block@40', (on) => rawRecords(on, 40, (payload) => concatBytes(payload, utf8('x')))],
    ['nothing is left', 'block@40', (on) => rawRecords(on, 40, () => new Uint8Array(0))],
    ['not even a codec byte is left', 'block@40', (on) => on.setBlock(40, { records: new Uint8Array(0) })],
    [
      'stored as they are and not compressed: the same entries',
      '',
      async (on) =>
        on.setBlock(40, { records: concatBytes(Uint8Array.of(0), unpackPayload((await on.block(40)).records)) }),
    ],
    [
      'an unknown codec',
      'block@40',
      async (on) => on.setBlock(40, { records: flip((await on.block(40)).records, 0, 2) }),
    ],
    [
      "a byte of the frame's content",
      'block@40',
      async (on) => on.setBlock(40, { records: flip((await on.block(40)).records, 5, 0xff) }),
    ],
    ['a record is gone from the middle', 'block@40', (on) => on.rewriteRecords(40, (r) => r.toSpliced(10, 1))],
    ['the last record is gone', 'block@40 gap@79', (on) => on.rewriteRecords(40, (r) => r.slice(0, -1))],
    ['the first record is gone', 'block@40', (on) => on.rewriteRecords(40, (r) => r.slice(1))],
    ['a record stands twice', 'block@40', (on) => on.rewriteRecords(40, (r) => r.toSpliced(10, 0, r[10]!))],
    ['a foreign record behind the last', 'block@40', (on) => on.rewriteRecords(40, (r) => [...r, r[0]!])],
    [
      'two records swapped',
      'record@50 record@51',
      (on) => on.rewriteRecords(40, (r) => r.with(10, r[11]!).with(11, r[10]!)),
    ],
    ['the last block: a record is gone', 'block@600 gap@639', (on) => on.rewriteRecords(600, (r) => r.slice(0, -1))],
  ]);

  it('at any byte: what is stored is found to be wrong, or says the same', { timeout: 120_000 }, async () => {
    const home = homes.get(SMALL)!;
    const source = remembered(verifySource(database, keyring(), home));
    const blocks = await source.blocks(undefined, 32);
    const content = toHex(unpackPayload(blocks[0]!.records));
    let harmless = 0;
    for (const column of ['records', 'parts'] as const) {
      const stored = blocks[0]![column];
      for (let bit = 0; bit < stored.length * 8; bit += HARD ? 11 : 61) {
        const bytes = flip(stored, bit >> 3, 1 << (bit & 7));
        const own = [{ ...blocks[0]!, [column]: bytes }, ...blocks.slice(1)];
        const report = await verifyStream({ ...source, blocks: async (after) => (after === undefined ? own : []) });
        // Some bits of a frame's header mean nothing.
        if (column === 'records' && report.verdict === 'intact' && toHex(unpackPayload(bytes)) === content)
          harmless += 1;
        else
          expect([column, bit, report.verdict, places(report).join(' ')]).toEqual([column, bit, 'tampered', inBlock]);
      }
    }
    expect(harmless).toBeLessThan(5);
    await untouched(SMALL);
  });
  const inBlock = expect.stringMatching(/^[a-z]+@[0-4]( [a-z]+@[0-4])*$/);
});

describe('every column of every table of entries', () => {
  /** What was signed, anchored and found: `tamper-matrix.test.ts`. */
  const OF_THE_LOG = [
    'signer',
    'key_statement',
    'checkpoint',
    'anchor_leaf',
    'outside_evidence',
    'verification',
    'tenant_setting',
    'api_key',
    'proposal',
    'sink',
    'sink_cursor',
    'key_generation',
    'data_key_form',
    'tile_edge',
    'pruning',
    'pruning_certificate',
    'hold',
    'clock_mark',
    'retention_policy',
    'retention_floor',
    'erasure',
    'erasure_entry',
    'erased',
  ];
  /** What verification of the stream must say when the column is changed, or why it may say nothing. */
  const WORTH: Readonly<Record<string, 'tampered' | 'incomplete' | `no evidence: ${string}`>> = {
    'deployment.one': 'no evidence: there is one row',
    'deployment.origin': 'no evidence: it names checkpoints, which hold it',
    'deployment.created_at': 'no evidence: nothing follows from it',
    'tenant.id': 'tampered',
    'tenant.name': 'tampered',
    'tenant.created_at': 'no evidence: nothing follows from it',
    'stream.id': 'no evidence: a stream is looked up by it, and its rows go with it',
    'stream.tenant': 'tampered',
    'stream.category': 'tampered',
    'stream.epoch': 'tampered',
    'stream.name': 'tampered',
    'stream.size': 'tampered',
    'stream.head': 'tampered',
    'stream.frontier': 'tampered',
    'stream.recorded_at': 'tampered',
    'stream.retain_until': 'tampered',
    'stream.moved': 'no evidence: it tells readers where to look',
    'stream.retention_months': 'no evidence: it stamps what is to come',
    'stream.retention_before': 'no evidence: repeats are looked for by it',
    'stream.retention_next': 'no evidence: it is for the signer to do',
    'stream.turned': 'no evidence: it says why an epoch ended',
    'stream.pruned': 'no evidence: answers go by it, and certificates alone count',
    'stream.closed': 'no evidence: it ends appending, and says nothing of what is there',
    'data_key.id': 'tampered',
    'data_key.tenant': 'tampered',
    'data_key.stream': 'tampered',
    'data_key.drop_month': 'tampered',
    'data_key.month_key': 'incomplete',
    'data_key.wrapped': 'incomplete',
    'data_key.created_at': 'no evidence: nothing follows from it',
  };
  const CHANGES: Readonly<Record<string, (column: string) => string[]>> = {
    integer: (column) => [`${column} + 1`, `${column} # 1`, `${column} # 1048576`],
    smallint: (column) => [`${column} + 1`, `${column} # 1`],
    bigint: (column) => [`${column} + 1`, `${column} # 1`, `${column} # 4398046511104`],
    boolean: (column) => [`NOT ${column}`],
    text: (column) => [`${column} || 'x'`, `reverse(${column})`],
    uuid: (column) => [`translate(${column}::text, '0123456789abcdef', '123456789abcdef0')::uuid`],
    'bigint[]': (column) => [
      `(${column}[1] # 1) || ${column}[2:]`,
      `${column}[2:]`,
      `${column}[:cardinality(${column}) - 1]`,
    ],
    bytea: (column) =>
      ['0', `octet_length(${column}) / 2`, `octet_length(${column}) - 1`].map(
        (at) => `set_byte(${column}, ${at}, get_byte(${column}, ${at}) # 1)`,
      ),
  };

  it('is found, or has a reason why not', { timeout: 120_000 }, async () => {
    const { rows: columns } = await pool.query<{ table: string; column: string; type: string }>(
      `SELECT c.relname::text AS "table", a.attname::text AS "column", format_type(a.atttypid, NULL) AS type
       FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
       WHERE c.relnamespace = 'sealog'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname !~ '^migration'
         AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, a.attnum`,
    );
    expect(columns.length).toBeGreaterThan(50);
    for (const { table, column, type } of columns.filter((one) => !OF_THE_LOG.includes(one.table))) {
      const worth = WORTH[`${table}.${column}`] ?? 'tampered';
      if (worth.startsWith('no evidence')) continue;
      for (const change of some(CHANGES[type]!(column))) {
        // The smaller stream has all but tiles.
        const report = await after(table === 'tile' ? MAIN : SMALL, async (on) => {
          await loosen(on, table);
          const own = { stream: 'id = $1', tenant: 'id = (SELECT tenant FROM sealog.stream WHERE id = $1)' }[table];
          const [row] = await on.run(
            `SELECT tableoid::regclass::text AS home, ctid::text AS at FROM sealog.${table} WHERE ${own ?? 'stream = $1'} ORDER BY ctid DESC LIMIT 1`,
            [on.stream.id],
          );
          await on.run(
            `UPDATE sealog.${table} SET ${column} = ${change} WHERE tableoid = $1::regclass AND ctid = $2::tid`,
            [row!['home'], row!['at']],
          );
        });
        expect([table, column, change, report.verdict]).toEqual([table, column, change, worth]);
      }
    }
    expect(
      Object.keys(WORTH).filter((name) => !columns.some(({ table, column }) => name === `${table}.${column}`)),
    ).toEqual([]);
    await untouched(MAIN);
  });

  /** Lets anything be written: a superuser is not held by constraints either. */
  async function loosen(on: Hands, table: string): Promise<void> {
    const constraints = await on.run(
      `SELECT conname AS name FROM pg_constraint WHERE conrelid = ('sealog.' || $1)::regclass AND (contype IN ('c', 'f', 'u') OR contype = 'p' AND $1 IN ('tenant', 'data_key', 'tile'))`,
      [table],
    );
    for (const { name } of constraints) await on.run(`ALTER TABLE sealog.${table} DROP CONSTRAINT ${name} CASCADE`);
    const columns = await on.run(
      `SELECT attname AS name FROM pg_attribute WHERE attrelid = ('sealog.' || $1)::regclass AND attidentity = 'a'`,
      [table],
    );
    for (const { name } of columns) await on.run(`ALTER TABLE sealog.${table} ALTER COLUMN ${name} DROP IDENTITY`);
    if (['block', 'entry_id'].includes(table)) {
      // Every drop month that a change can come to.
      const { month } = on.stream;
      for (const other of [month + 1, month ^ 1, month ^ 1_048_576])
        await on.run(
          `CREATE TABLE IF NOT EXISTS sealog.${table}_${other} PARTITION OF sealog.${table} FOR VALUES IN (${other})`,
        );
    }
  }
});

describe('a stream of 66,000 entries', () => {
  const tile = (level: number, index: number, set: string) => (on: Hands) =>
    on.run(`UPDATE sealog.tile SET ${set} WHERE stream = $1 AND level = $2 AND tile_index = $3`, [
      on.stream.id,
      level,
      index,
    ]);
  const flipped = (column: string, at: number) =>
    `${column} = set_byte(${column}, ${at}, get_byte(${column}, ${at}) # 1)`;
  const cases: readonly Case[] = [
    ['a hash of the tile of level 1', 'tile@14592', tile(1, 0, flipped('hashes', 32 * 57))],
    ['the root of the tile of level 1', 'tile@0', tile(1, 0, flipped('root', 0))],
    [
      'tiles of both levels',
      'tile@0 tile@25600 tile@51207 tile@65536',
      async (on) => {
        await tile(0, 200, flipped('hashes', 32 * 7))(on);
        await tile(0, 100, flipped('root', 7))(on);
        await tile(1, 0, 'tile_index = 1')(on);
      },
    ],
    [
      'a record, a block, a tag, an id, far apart',
      'record@12345 tag@18000 gap@30000 id@50000',
      async (on) => {
        await on.rewriteRecord(12_345, () => ({ action: 'thing.other' }));
        const [row] = await on.run(
          'SELECT first_seq AS at FROM sealog.block WHERE stream = $1 AND first_seq <= 30000 ORDER BY first_seq DESC LIMIT 1',
          [on.stream.id],
        );
        await on.run('DELETE FROM sealog.block WHERE stream = $1 AND first_seq = $2', [on.stream.id, row!['at']]);
        await on.run(withoutId(50_000), [on.stream.id]);
        await on.run(`UPDATE sealog.block SET tags = tags || 4711::bigint WHERE stream = $1 AND first_seq = 18000`, [
          on.stream.id,
        ]);
      },
    ],
  ];
  it.each(HARD ? cases : [cases[0]!, cases.at(-1)!])('%s: %s', async (_, expected, change) => {
    const report = await after(BIG, change);
    expect([places(report).join(' '), report.verdict]).toEqual([expected, 'tampered']);
  });

  if (HARD) it('is intact again', () => untouched(BIG));
});

/** Asks each question once: for many verifications of nearly the same log. */
function remembered(source: LogSource): LogSource {
  const answers = new Map<string, Promise<unknown>>();
  const once = <Args extends unknown[], Result>(name: string, ask: (...args: Args) => Promise<Result>) => {
    return (...args: Args): Promise<Result> => {
      const key = `${name} ${JSON.stringify(args, (_, value) => (typeof value === 'bigint' ? String(value) : value))}`;
      const answer = answers.get(key) ?? ask(...args);
      answers.set(key, answer);
      return answer as Promise<Result>;
    };
  };
  const iterated = <Args extends unknown[], Item>(name: string, ask: (...args: Args) => AsyncIterable<Item>) => {
    const all = once(name, (...args: Args) => Array.fromAsync(ask(...args)));
    return async function* (...args: Args): AsyncIterable<Item> {
      yield* await all(...args);
    };
  };
  const index = <Row>(name: string, stored: StoredIndex<Row>): StoredIndex<Row> => ({
    missing: once(`${name} missing`, stored.missing),
    counts: iterated(`${name} counts`, stored.counts),
    rowsIn: iterated(`${name} rows`, stored.rowsIn),
  });
  return {
    stream: source.stream,
    streamId: source.streamId,
    state: once('state', source.state),
    blocks: once('blocks', source.blocks),
    lastBlock: once('last block', source.lastBlock),
    keyOwner: once('key owner', source.keyOwner),
    keys: once('keys', source.keys),
    tiles: once('tiles', source.tiles),
    tileEdge: once('tile edge', source.tileEdge),
    lastTiles: once('last tiles', source.lastTiles),
    ids: index('ids', source.ids),
  };
}

async function rawRecords(on: Hands, firstSeq: number, change: (payload: Uint8Array) => Uint8Array): Promise<void> {
  const payload = unpackPayload((await on.block(firstSeq)).records);
  await on.setBlock(firstSeq, { records: packPayload(change(payload)) });
}

describe('parts are changed', () => {
  const threads = new PartsThreads(2);
  afterAll(() => threads.close());
  const value = (part: Part, text: string): Part => ({ ...part, value: utf8(text) }) as Part;
  /** The third entry of the block that begins with 40, its actor. */
  const actor = (parts: Part[][], change: (part: Part) => Part[]): Part[][] =>
    parts.with(
      2,
      parts[2]!.flatMap((part) => (part.name === 'actor' ? change(part) : [part])),
    );
  each(
    MAIN,
    [
      [
        'the salt of the sealing',
        'part@40',
        async (on) => on.setBlock(40, { parts: flip((await on.block(40)).parts, 0) }),
      ],
      ['the ciphertext', 'part@40', async (on) => on.setBlock(40, { parts: flip((await on.block(40)).parts, 100) })],
      [
        'the tag of the sealing',
        'part@40',
        async (on) => {
          const { parts } = await on.block(40);
          await on.setBlock(40, { parts: flip(parts, parts.length - 1) });
        },
      ],
      ['cut off', 'part@40', async (on) => on.setBlock(40, { parts: (await on.block(40)).parts.subarray(0, -1) })],
      ['cut short', 'part@40', (on) => on.setBlock(40, { parts: new Uint8Array(47) })],
      ['nothing is left', 'part@40', (on) => on.setBlock(40, { parts: new Uint8Array(0) })],
      ['those of another block', 'part@40', async (on) => on.setBlock(40, { parts: (await on.block(80)).parts })],
      [
        "those of another stream's block",
        'part@40',
        async (on) => on.setBlock(40, { parts: (await on.block(40, on.other)).parts }),
      ],
      ['sealed again, the same: the same entries', '', (on) => on.rewriteParts(40, (parts) => parts)],
      [
        'sealed with the key: another value',
        'part@42',
        (on) => on.rewriteParts(40, (parts) => actor(parts, (part) => [value(part, '{"id":"mallory","type":"user"}')])),
      ],
      [
        'sealed with the key: another salt',
        'part@42',
        (on) =>
          on.rewriteParts(40, (parts) =>
            actor(parts, (part) => [isOpen(part) ? { ...part, salt: flip(part.salt, 15) } : part]),
          ),
      ],
      [
        'sealed with the key: a part left out',
        'part@42',
        (on) => on.rewriteParts(40, (parts) => actor(parts, () => [])),
      ],
      [
        'sealed with the key: a part erased without a certificate',
        'erasure@42',
        (on) =>
          on.rewriteParts(40, (parts) => actor(parts, (part) => [{ name: part.name, commitment: commitmentOf(part) }])),
      ],
      [
        'sealed with the key: a part erased, with another commitment',
        'part@42',
        (on) =>
          on.rewriteParts(40, (parts) => actor(parts, (part) => [{ name: part.name, commitment: new Uint8Array(32) }])),
      ],
      [
        'sealed with the key: a part added',
        'part@42',
        (on) =>
          on.rewriteParts(40, (parts) =>
            actor(parts, (part) => [part, { name: 'details', salt: new Uint8Array(16), value: utf8('{}') }]),
          ),
      ],
      [
        'sealed with the key: those of two entries swapped',
        'part@42 part@43',
        (on) => on.rewriteParts(40, (parts) => parts.with(2, parts[3]!).with(3, parts[2]!)),
      ],
      [
        'sealed with the key: those of the last entry left out',
        'part@40',
        (on) => on.rewriteParts(40, (p) => p.slice(0, -1)),
      ],
      [
        'sealed with the key, and the record commits to them',
        'record@42',
        async (on) => {
          // The record's parts hash is what parts are sealed under: both are made anew.
          const block = await on.block(40);
          const { dataKey } = await keyring().keysById(block.keyId);
          const records = decodeRecords(unpackPayload(block.records));
          const hashesOf = (bytes: readonly Uint8Array[]) => bytes.map((one) => fromHex(decodeRecord(one).parts));
          const parts = decodeParts(unpackPayload(openSealed(dataKey, MAIN, hashesOf(records), block.parts)));
          const forged = actor(parts, (part) => [value(part, '{"id":"mallory","type":"user"}')]);
          const hash = partsHash(forged[2]!.map((part) => ({ name: part.name, commitment: commitmentOf(part) })));
          const written = records.with(
            2,
            changed(records[2]!, () => ({ parts: toHex(hash) })),
          );
          await on.setBlock(40, {
            records: packPayload(encodeRecords(written)),
            parts: sealParts(dataKey, MAIN, hashesOf(written), packPayload(encodeParts(forged))),
          });
        },
      ],
    ],
    threads,
  );
});

describe("a block's row is changed", () => {
  const up = (column: string) => (on: Hands) =>
    on.run(`UPDATE sealog.block SET ${column} = ${column} + 1 WHERE stream = $1 AND first_seq = 40`, [on.stream.id]);
  const down = (column: string) => (on: Hands) =>
    on.run(`UPDATE sealog.block SET ${column} = ${column} - 1 WHERE stream = $1 AND first_seq = 40`, [on.stream.id]);
  each(MAIN, [
    ['first_seq + 1', 'block@40', up('first_seq')],
    ['first_seq − 1', 'block@40', down('first_seq')],
    ['first_seq far away', 'gap@40 block@64000', (on) => on.setBlock(40, { first_seq: 64_000 })],
    [
      'first_seq beyond any number',
      'gap@40 block@9007199254740991',
      (on) => on.setBlock(40, { first_seq: '9223372036854775807' }),
    ],
    ['the last first_seq + 1', 'block@600', (on) => on.setBlock(600, { first_seq: 601 })],
    ['entries + 1', 'block@40', up('entries')],
    ['entries − 1', 'block@40', down('entries')],
    ['entries = 1', 'block@40', (on) => on.setBlock(40, { entries: 1 })],
    ['entries = 2^31 − 1', 'block@40', (on) => on.setBlock(40, { entries: 2_147_483_647 })],
    ['the last entries + 1', 'block@600', (on) => on.setBlock(600, { entries: 41 })],
    ['the last entries − 1', 'block@600', (on) => on.setBlock(600, { entries: 39 })],
    ['recorded_from', 'block@40', down('recorded_from')],
    ['recorded_to', 'block@40', up('recorded_to')],
    ['recorded_from beyond any number', 'block@40', (on) => on.setBlock(40, { recorded_from: '-9223372036854775808' })],
    ['occurred_from', 'block@40', up('occurred_from')],
    ['occurred_to', 'block@40', down('occurred_to')],
    ['outcomes', 'block@40', down('outcomes')],
    ['severity_min', 'block@40', up('severity_min')],
    ['severity_max', 'block@40', up('severity_max')],
    [
      'tenant',
      'block@40',
      (on) =>
        on.run(
          'UPDATE sealog.block SET tenant = (SELECT max(id) FROM sealog.tenant) WHERE stream = $1 AND first_seq = 40',
          [on.stream.id],
        ),
    ],
    [
      'drop_month, an earlier partition',
      'block@40',
      async (on) => {
        await on.run('SELECT sealog.ensure_drop_month(202612)');
        await on.setBlock(40, { drop_month: 202612 });
      },
    ],
    ['drop_month, for ever', 'block@40', (on) => on.setBlock(40, { drop_month: 0 })],
    [
      'drop_month, held',
      'block@40',
      async (on) => {
        await on.run('SELECT sealog.ensure_drop_month(1)');
        await on.setBlock(40, { drop_month: 1 });
      },
    ],
    [
      "key_id, another stream's",
      'block@40 part@40',
      (on) =>
        on.run(
          'UPDATE sealog.block SET key_id = (SELECT id FROM sealog.data_key WHERE stream = $2) WHERE stream = $1 AND first_seq = 40',
          [on.stream.id, on.other.id],
        ),
    ],
    ['key_id, of no key', 'part@40', (on) => on.setBlock(40, { key_id: 4711 })],
    ['key_id beyond any number', 'part@40', (on) => on.setBlock(40, { key_id: '9223372036854775807' })],
    [
      "sealed under another stream's key",
      'block@40 tag@40',
      async (on) => {
        const [row] = await on.run('SELECT id FROM sealog.data_key WHERE stream = $1', [on.other.id]);
        const { dataKey } = await keyring().keysById(String(row!['id']));
        const { keyId, records, parts } = await on.block(40);
        const own = await keyring().keysById(keyId);
        const hashes = decodeRecords(unpackPayload(records)).map((bytes) => fromHex(decodeRecord(bytes).parts));
        const payload = openSealed(own.dataKey, MAIN, hashes, parts);
        await on.setBlock(40, { parts: sealParts(dataKey, MAIN, hashes, payload), key_id: row!['id'] });
      },
    ],
  ]);
  each(SMALL, [
    ['severity_min where there is one', 'block@0', (on) => on.setBlock(0, { severity_min: -1 })],
    ['severity_max where there is one', 'block@5', (on) => on.setBlock(5, { severity_max: 10 })],
  ]);
});

describe('blocks are deleted, inserted, swapped', () => {
  const remove =
    (...firstSeqs: number[]) =>
    (on: Hands) =>
      on.run('DELETE FROM sealog.block WHERE stream = $1 AND first_seq = ANY ($2)', [on.stream.id, firstSeqs]);
  /** A copy of the block with other values in some columns. */
  const copy = (on: Hands, from: Home, firstSeq: number, columns: Readonly<Record<string, unknown>>) => {
    const picked = ALL_COLUMNS.split(',').map((name) => {
      const i = Object.keys(columns).indexOf(name.trim());
      return i === -1 ? name : `$${i + 3}`;
    });
    return on.run(
      `INSERT INTO sealog.block (${ALL_COLUMNS}) SELECT ${picked} FROM sealog.block WHERE stream = $1 AND first_seq = $2`,
      [from.id, firstSeq, ...Object.values(columns)],
    );
  };
  const swap = (a: number, b: number) => async (on: Hands) => {
    await on.run('UPDATE sealog.block SET first_seq = first_seq + 1000000 WHERE stream = $1 AND first_seq = $2', [
      on.stream.id,
      a,
    ]);
    await on.run('UPDATE sealog.block SET first_seq = $3 WHERE stream = $1 AND first_seq = $2', [on.stream.id, b, a]);
    await on.run('UPDATE sealog.block SET first_seq = $3 WHERE stream = $1 AND first_seq = $2', [
      on.stream.id,
      a + 1_000_000,
      b,
    ]);
  };
  each(MAIN, [
    ['the first is deleted', 'early_deletion@0', remove(0)],
    ['one in the middle is deleted', 'gap@240', remove(240)],
    ['the last is deleted', 'gap@600', remove(600)],
    ['two neighbours are deleted', 'gap@240', remove(240, 280)],
    ['two are deleted', 'gap@40 gap@240', remove(40, 240)],
    [
      'all are deleted',
      'early_deletion@0',
      (on) => on.run('DELETE FROM sealog.block WHERE stream = $1', [on.stream.id]),
    ],
    ['the partition is emptied', 'early_deletion@0', (on) => on.run(`TRUNCATE sealog.block_${on.stream.month}`)],
    [
      'the partition is taken off',
      'early_deletion@0',
      (on) => on.run(`ALTER TABLE sealog.block DETACH PARTITION sealog.block_${on.stream.month}`),
    ],
    [
      'one is deleted with its ids',
      'gap@240',
      async (on) => {
        await remove(240)(on);
        await on.run('DELETE FROM sealog.entry_id WHERE stream = $1 AND first_seq = 240', [on.stream.id]);
      },
    ],
    [
      'the first is deleted, and the rest moved up',
      `${everyBlock('block', 15)} gap@600`,
      async (on) => {
        await remove(0)(on);
        await on.run('UPDATE sealog.block SET first_seq = first_seq - 40 WHERE stream = $1', [on.stream.id]);
      },
    ],
    ['two neighbours are swapped', 'block@40 block@80', swap(40, 80)],
    ['the first and the last are swapped', 'block@0 block@600', swap(0, 600)],
    ['a copy over it, in another partition', 'overlap@40 block@40', (on) => copy(on, on.stream, 40, { drop_month: 0 })],
    ['a copy behind the end', 'block@640', (on) => copy(on, on.stream, 40, { first_seq: 640 })],
    ['a copy far behind the end', 'block@1000000', (on) => copy(on, on.stream, 40, { first_seq: 1_000_000 })],
    [
      'a copy over each, in the same partition, its key dropped',
      Array.from({ length: 16 }, (_, i) => `overlap@${40 * i}`).join(' '),
      async (on) => {
        await on.run('ALTER TABLE sealog.block DROP CONSTRAINT block_pkey');
        await on.run('INSERT INTO sealog.block SELECT * FROM sealog.block WHERE stream = $1', [on.stream.id]);
      },
    ],
    [
      'a hundred copies over one, its key dropped',
      'overlap@40',
      async (on) => {
        await on.run('ALTER TABLE sealog.block DROP CONSTRAINT block_pkey');
        await on.run(
          'INSERT INTO sealog.block SELECT b.* FROM sealog.block AS b, generate_series(1, 100) WHERE stream = $1 AND first_seq = 40',
          [on.stream.id],
        );
      },
    ],
    [
      'a copy before the first',
      'overlap@-40',
      async (on) => {
        await on.run('ALTER TABLE sealog.block DROP CONSTRAINT block_first_seq_check');
        await copy(on, on.stream, 40, { first_seq: -40 });
      },
    ],
    ['a copy in between', 'overlap@60', (on) => copy(on, on.stream, 40, { first_seq: 60 })],
    ['a copy of a later one before it', 'overlap@100', (on) => copy(on, on.stream, 400, { first_seq: 100 })],
    [
      'a copy in the place of another',
      'block@80',
      async (on) => {
        await remove(80)(on);
        await copy(on, on.stream, 40, { first_seq: 80 });
      },
    ],
    [
      "another stream's in the place of one",
      'block@40',
      async (on) => {
        await remove(40)(on);
        await copy(on, on.other, 40, { stream: on.stream.id, tenant: 1 });
      },
    ],
    [
      "another stream's behind the end",
      'block@640',
      (on) => copy(on, on.other, 40, { stream: on.stream.id, first_seq: 640 }),
    ],
    [
      "another stream's is taken",
      'gap@240',
      (on) =>
        on.run('UPDATE sealog.block SET stream = $2, first_seq = 80 WHERE stream = $1 AND first_seq = 240', [
          on.stream.id,
          on.other.id,
        ]),
    ],
  ]);
  each(OTHER, [
    [
      'one is taken from another stream',
      'block@80',
      (on) =>
        on.run('UPDATE sealog.block SET stream = $2, first_seq = 80 WHERE stream = $1 AND first_seq = 240', [
          homes.get(MAIN)!.id,
          on.stream.id,
        ]),
    ],
  ]);
  each(SINGLE, [
    ['two blocks of one entry are swapped', 'record@3 record@4', swap(3, 4)],
    [
      'a block of one entry is replaced by its neighbour',
      'record@4',
      async (on) => {
        await remove(4)(on);
        await copy(on, on.stream, 3, { first_seq: 4 });
      },
    ],
    [
      'the last block of one entry is replaced by its neighbour',
      'record@11',
      async (on) => {
        await remove(11)(on);
        await copy(on, on.stream, 10, { first_seq: 11 });
      },
    ],
    ['the first block of one entry is deleted', 'early_deletion@0', remove(0)],
    ['every second block of one entry is deleted', 'gap@1 gap@3 gap@5 gap@7 gap@9 gap@11', remove(1, 3, 5, 7, 9, 11)],
  ]);
});

describe('blocks are cut anew', () => {
  /** Two blocks out of one, as the sequencer would have made them: sealed anew with the real key, and indexed. */
  const split = (resealed: boolean) => async (on: Hands) => {
    const block = await on.block(40);
    const { dataKey, tagKey } = await keyring().keysById(block.keyId);
    const records = decodeRecords(unpackPayload(block.records));
    const hashes = records.map((bytes) => fromHex(decodeRecord(bytes).parts));
    const parts = decodeParts(unpackPayload(openSealed(dataKey, MAIN, hashes, block.parts)));
    await on.run(`UPDATE sealog.block SET first_seq = 1000000 WHERE stream = $1 AND first_seq = 40`, [on.stream.id]);
    for (const [from, to] of [
      [0, 15],
      [15, 40],
    ] as const) {
      const own = records.slice(from, to).map((bytes) => decodeRecord(bytes));
      const spans = spansOf(
        own.map((record) => ({
          occurredAt: Date.parse(record.occurredAt),
          severity: record.severity,
          outcome: OUTCOMES.indexOf(record.outcome),
        })),
      );
      const tags = new Set<bigint>();
      for (const [i, record] of own.entries()) {
        const valueIn = (name: string) => {
          const part = parts[from + i]!.find((one) => one.name === name);
          return part !== undefined && isOpen(part) ? JSON.parse(fromUtf8(part.value)) : undefined;
        };
        const { action, source } = record;
        for (const mark of marksOf({ action, source, actor: valueIn('actor'), target: valueIn('target') }))
          tags.add(placedTag(tagOf(mark, tagKey), on.stream.id, 40 + from));
      }
      const payload = packPayload(encodeParts(parts.slice(from, to)));
      const values = {
        first_seq: 40 + from,
        entries: to - from,
        occurred_from: spans.occurredFrom,
        occurred_to: spans.occurredTo,
        outcomes: spans.outcomes,
        records: packPayload(encodeRecords(records.slice(from, to))),
        parts: resealed ? sealParts(dataKey, MAIN, hashes.slice(from, to), payload) : block.parts,
        tags: [...tags].map(String),
      };
      const picked = ALL_COLUMNS.split(',').map((name) => {
        const i = Object.keys(values).indexOf(name.trim());
        return i === -1 ? name : `$${i + 2}`;
      });
      await on.run(
        `INSERT INTO sealog.block (${ALL_COLUMNS}) SELECT ${picked} FROM sealog.block WHERE stream = $1 AND first_seq = 1000000`,
        [on.stream.id, ...Object.values(values)],
      );
    }
    await on.run('DELETE FROM sealog.block WHERE stream = $1 AND first_seq = 1000000', [on.stream.id]);
  };
  each(MAIN, [
    ['properly, by somebody with the key: the same log', '', split(true)],
    ['without the key', 'part@40 part@55', split(false)],
  ]);
});

describe('the index is changed', () => {
  const tags =
    (changed: string, firstSeq = 40) =>
    (on: Hands) =>
      on.run(`UPDATE sealog.block SET tags = ${changed} WHERE stream = $1 AND first_seq = $2`, [
        on.stream.id,
        firstSeq,
      ]);
  /** Changes the tags of two blocks, each `b`; `o` is the other one, as it was. */
  const both = (at: readonly [number, number], first: string, second: string) => (on: Hands) =>
    on.run(
      `UPDATE sealog.block AS b SET tags = CASE b.first_seq WHEN $2 THEN ${first} ELSE ${second} END
       FROM sealog.block AS o WHERE b.stream = $1 AND o.stream = $1 AND (b.first_seq, o.first_seq) IN (($2, $3), ($3, $2))`,
      [on.stream.id, ...at],
    );
  const tooMany = (count: number) => async (on: Hands) => {
    const [row] = await on.run(
      `SELECT conname AS name FROM pg_constraint WHERE conrelid = 'sealog.block'::regclass AND pg_get_constraintdef(oid) ~ 'tags'`,
    );
    await on.run(`ALTER TABLE sealog.block DROP CONSTRAINT ${row!['name']} CASCADE`);
    await tags(`tags || ARRAY(SELECT generate_series(1, ${count} - cardinality(tags)))`)(on);
  };
  /** Takes the id of entry 57 away, and puts it, or another, elsewhere. */
  const moved = (seq: number, as: { month?: number; tenant?: string; stream?: string; id?: string } = {}) => {
    return async (on: Hands): Promise<void> => {
      const id = as.id ?? `'${await hashedId(on, 57)}'`;
      await on.run(withoutId(57), [on.stream.id]);
      await on.run(plantedId(seq, id, as.month ?? on.stream.month, as), [on.stream.id]);
    };
  };
  const planted = (seq: number | string, id: string) => (on: Hands) =>
    on.run(plantedId(seq, id, on.stream.month), [on.stream.id]);
  const ids = (set: string) => (on: Hands) =>
    on.run(`UPDATE sealog.entry_id SET ${set} WHERE stream = $1 AND first_seq = 40`, [on.stream.id]);
  const FOREIGN = `'${entryIdHash('foreign')}'`;
  each(MAIN, [
    ['a tag is changed', 'tag@40', tags('(tags[1] # 1) || tags[2:]')],
    ['a tag is changed to one of another stretch', 'tag@40', tags('(tags[1] # (1::bigint << 40)) || tags[2:]')],
    ['a tag is deleted', 'tag@40', tags('tags[2:]')],
    ['all tags of a block are deleted', 'tag@40', tags(`'{}'`)],
    ['a tag is added', 'tag@40', tags('tags || 4711::bigint')],
    [
      'the lowest and the highest tag are added',
      'tag@40 tag@80',
      async (on) => {
        await tags('tags || -9223372036854775808')(on);
        await tags('9223372036854775807 || tags', 80)(on);
      },
    ],
    ['a tag is stored twice', 'tag@40', tags('tags || tags[1]')],
    ['a tag is stored in the place of another', 'tag@40', tags('tags[2] || tags[2:]')],
    ['a tag is NULL', 'tag@40', tags('array_prepend(NULL, tags[2:])')],
    ['NULL is added', 'tag@40', tags('tags || NULL::bigint')],
    ['tags stand in another order: the same index', '', tags('ARRAY(SELECT t FROM unnest(tags) AS t ORDER BY t DESC)')],
    ['a tag is moved to another block', 'tag@40 tag@80', both([40, 80], 'b.tags[2:]', 'o.tags[1] || b.tags')],
    [
      "a block has another's tags too",
      'tag@40',
      tags('tags || (SELECT o.tags FROM sealog.block AS o WHERE o.stream = $1 AND o.first_seq = 80)'),
    ],
    [
      "a block has another stream's tags",
      'tag@40',
      async (on) => on.setBlock(40, { tags: await tagsOf(on, 40, on.other) }),
    ],
    [
      'the tags of a block stand as if it began elsewhere',
      'tag@40',
      tags('ARRAY(SELECT sealog.placed_tag(t, $1, 1) FROM unnest(tags) AS t)'),
    ],
    [
      'a tag is deleted and another added',
      'tag@40 tag@80',
      async (on) => {
        await tags('tags[2:]')(on);
        await tags('tags || 4711::bigint', 80)(on);
      },
    ],
    [
      'as many tags as entries can have',
      'tag@40',
      tags('tags || array_fill(4711::bigint, ARRAY[9216 - cardinality(tags)])'),
    ],
    ['more tags than entries can have', 'tag@40', tooMany(9217)],
    ['far more tags than entries can have', 'tag@40', tooMany(1_000_000)],
    ['tags in more dimensions than one: the same index', '', tags('ARRAY[tags]')],
    [
      'all tags are deleted',
      everyBlock('tag'),
      (on) => on.run(`UPDATE sealog.block SET tags = '{}' WHERE stream = $1`, [on.stream.id]),
    ],
    ['a hashed id is changed', 'id@57', ids('ids[18] = 0')],
    ['the last half of one is changed', 'id@57', ids('ids_rest[18] = ids_rest[18] # 1')],
    ['an id is moved to another entry', 'id@57 id@58', moved(58)],
    ['an id is moved behind the end', 'id@57 id@640', moved(640)],
    ['an id is moved to another tenant', 'id@57', moved(57, { tenant: '2' })],
    ['an id is moved to another stream', 'id@57', moved(57, { stream: '4711' })],
    ['an id is deleted', 'id@57', (on) => on.run(withoutId(57), [on.stream.id])],
    ['an id is inserted', 'id@57', planted(57, FOREIGN)],
    ['an id is inserted beyond any number', 'id@9007199254740991', planted('9223372036854775807', FOREIGN)],
    ['an id is inserted before the first', 'id@-5', planted(-5, FOREIGN)],
    [
      'the lowest and the highest id are inserted',
      'id@57 id@58',
      async (on) => {
        await planted(57, `'00000000-0000-0000-0000-000000000000'`)(on);
        await planted(58, `'ffffffff-ffff-ffff-ffff-ffffffffffff'`)(on);
      },
    ],
    ['an id is stored twice', 'id@57', async (on) => planted(57, `'${await hashedId(on, 57)}'`)(on)],
    ['an id is moved to another partition', 'id@57', moved(57, { month: 0 })],
    [
      'the ids of two entries are swapped',
      'id@57 id@58',
      ids(
        'ids = ids[:17] || ids[19] || ids[18] || ids[20:], ids_rest = ids_rest[:17] || ids_rest[19] || ids_rest[18] || ids_rest[20:]',
      ),
    ],
    ['an id is deleted and another inserted', 'id@57 id@80', moved(80, { id: FOREIGN })],
    [
      'the ids of a block are moved to another tenant',
      Array.from({ length: 40 }, (_, i) => `id@${40 + i}`).join(' '),
      ids('tenant = tenant + 1'),
    ],
    ['a block has an id too many', 'id@80', ids('ids = ids || 4711::bigint, ids_rest = ids_rest || 4711::bigint')],
    [
      'more ids than any block has room for',
      'id@1024',
      async (on) => {
        for (const { name } of await on.run(
          `SELECT conname AS name FROM pg_constraint WHERE conrelid = 'sealog.entry_id'::regclass AND contype = 'c'`,
        ))
          await on.run(`ALTER TABLE sealog.entry_id DROP CONSTRAINT ${name} CASCADE`);
        await on.run(
          `UPDATE sealog.entry_id SET ids = ids || array_fill(NULL::bigint, ARRAY[2000]) || 4711::bigint,
             ids_rest = ids_rest || array_fill(NULL::bigint, ARRAY[2000]) || 4711::bigint WHERE stream = $1 AND first_seq = 0`,
          [on.stream.id],
        );
      },
    ],
    [
      'one has too many beside a damaged block',
      'block@40 id@80 tag@120',
      async (on) => {
        await rawRecords(on, 40, () => new Uint8Array(0));
        await planted(80, FOREIGN)(on);
        await tags('tags || 4711::bigint', 120)(on);
      },
    ],
  ]);
  each(SMALL, [['the tags of two blocks are swapped', 'tag@0 tag@5', both([0, 5], 'o.tags', 'o.tags')]]);
});

async function tagsOf(on: Hands, firstSeq: number, { id }: Home): Promise<readonly string[]> {
  const [row] = await on.run('SELECT tags::text[] FROM sealog.block WHERE stream = $1 AND first_seq = $2', [
    id,
    firstSeq,
  ]);
  return row!['tags']!;
}

/** The hash of an entry's id, as it is stored. */
async function hashedId(on: Hands, seq: number): Promise<string> {
  const [row] = await on.run(
    `SELECT array_send(ids[at : at]) AS ids, array_send(ids_rest[at : at]) AS rest
     FROM sealog.entry_id CROSS JOIN LATERAL (SELECT ($2 - first_seq + 1)::integer AS at) AS place
     WHERE stream = $1 AND at BETWEEN 1 AND cardinality(ids)`,
    [on.stream.id, seq],
  );
  return decodeIdHashes(row!['ids'] as unknown as Buffer, row!['rest'] as unknown as Buffer)[0]!;
}

function everyBlock(kind: string, blocks = 16): string {
  return Array.from({ length: blocks }, (_, i) => `${kind}@${40 * i}`).join(' ');
}

describe('a tile is changed', () => {
  const tile = (level: number, index: number, set: string) => (on: Hands) =>
    on.run(`UPDATE sealog.tile SET ${set} WHERE stream = $1 AND level = $2 AND tile_index = $3`, [
      on.stream.id,
      level,
      index,
    ]);
  const flipped = (column: string, at: number) =>
    `${column} = set_byte(${column}, ${at}, get_byte(${column}, ${at}) # 1)`;
  each(MAIN, [
    ['its first hash', 'tile@0', tile(0, 0, flipped('hashes', 0))],
    ['a hash in it', 'tile@313', tile(0, 1, flipped('hashes', 32 * 57 + 5))],
    ['its last hash', 'tile@511', tile(0, 1, flipped('hashes', 8191))],
    ['its root', 'tile@256', tile(0, 1, flipped('root', 31))],
    [
      'a hash, and the root to match',
      'tile@313',
      async (on) => {
        const [row] = await on.run(
          'SELECT hashes FROM sealog.tile WHERE stream = $1 AND level = 0 AND tile_index = 1',
          [on.stream.id],
        );
        const hashes = flip(row!['hashes']!, 32 * 57);
        await on.run(
          'UPDATE sealog.tile SET hashes = $2, root = $3 WHERE stream = $1 AND level = 0 AND tile_index = 1',
          [on.stream.id, hashes, tileRoot(hashes)],
        );
      },
    ],
    [
      'its hashes are those of the other tile',
      'tile@256',
      (on) =>
        on.run(
          'UPDATE sealog.tile AS t SET hashes = o.hashes, root = o.root FROM sealog.tile AS o WHERE t.stream = $1 AND o.stream = $1 AND t.tile_index = 1 AND o.tile_index = 0',
          [on.stream.id],
        ),
    ],
    [
      'it is deleted',
      'tile@0',
      (on) => on.run('DELETE FROM sealog.tile WHERE stream = $1 AND tile_index = 0', [on.stream.id]),
    ],
    ['all are deleted', 'tile@0 tile@256', (on) => on.run('DELETE FROM sealog.tile WHERE stream = $1', [on.stream.id])],
    ['its index', 'tile@256 tile@1792', tile(0, 1, 'tile_index = 7')],
    ['its level', 'tile@256 tile@16777216', tile(0, 1, 'level = 2')],
    ['its stream', 'tile@256', tile(0, 1, 'stream = 4711')],
    ['its tenant', 'tile@256', tile(0, 1, 'tenant = tenant + 1')],
    [
      'one that is not full is inserted',
      'tile@512',
      (on) =>
        on.run(
          'INSERT INTO sealog.tile SELECT tenant, stream, level, 2, hashes, root FROM sealog.tile WHERE stream = $1 AND tile_index = 0',
          [on.stream.id],
        ),
    ],
    [
      'one of a level that is not there is inserted',
      'tile@0',
      (on) =>
        on.run(
          'INSERT INTO sealog.tile SELECT tenant, stream, 1, 0, hashes, root FROM sealog.tile WHERE stream = $1 AND tile_index = 0',
          [on.stream.id],
        ),
    ],
    [
      'one is not a tile at all',
      'tile@256',
      async (on) => {
        await on.run('ALTER TABLE sealog.tile DROP CONSTRAINT tile_hashes_check');
        await tile(0, 1, `hashes = ''`)(on);
      },
    ],
    [
      'an entry and its hash in the tile',
      'record@57 tile@57',
      async (on) => {
        await on.rewriteRecord(57, () => ({ action: 'thing.other' }));
        const [, bytes] = await recordOf(on, 57);
        const [row] = await on.run('SELECT hashes FROM sealog.tile WHERE stream = $1 AND tile_index = 0', [
          on.stream.id,
        ]);
        const hashes = new Uint8Array(row!['hashes']!);
        hashes.set(leafHash(bytes), 32 * 57);
        await on.run('UPDATE sealog.tile SET hashes = $2, root = $3 WHERE stream = $1 AND tile_index = 0', [
          on.stream.id,
          hashes,
          tileRoot(hashes),
        ]);
      },
    ],
  ]);
});

describe("the stream's row is changed", () => {
  const set = (columns: string) => (on: Hands) =>
    on.run(`UPDATE sealog.stream SET ${columns} WHERE id = $1`, [on.stream.id]);
  const flipped = (column: string, at: number) =>
    `${column} = set_byte(${column}, ${at}, get_byte(${column}, ${at}) # 1)`;
  each(MAIN, [
    ['head', 'head@639', set(flipped('head', 0))],
    ['the last byte of head', 'head@639', set(flipped('head', 31))],
    ['frontier', 'frontier@639', set(flipped('frontier', 0))],
    ['the last byte of frontier', 'frontier@639', set(flipped('frontier', 63))],
    ['frontier, nothing left', 'frontier@639', set(`frontier = ''`)],
    ['frontier, a hash too many', 'frontier@639', set('frontier = frontier || head')],
    ['head and frontier', 'head@639 frontier@639', set(`${flipped('head', 0)}, ${flipped('frontier', 0)}`)],
    ['size + 1', 'gap@640', set('size = size + 1')],
    ['size, by far', 'gap@640', set('size = 9007199254740991')],
    ['size − 1', 'block@600 id@639', set('size = size - 1')],
    ['size, a block less', 'head@599 frontier@599 block@600 id@639', set('size = 600')],
    ['size 0', 'block@0 tile@0 id@639 head frontier', set('size = 0')],
    ['recorded_at + 1', 'head@639', set('recorded_at = recorded_at + 1')],
    ['recorded_at − 1', 'head@639', set('recorded_at = recorded_at - 1')],
    ['recorded_at beyond any number', 'head@639', set('recorded_at = 9223372036854775807')],
    ['retain_until', 'head@639', set('retain_until = retain_until + 1')],
    ['retain_until, gone', 'head@639', set('retain_until = NULL')],
    ['category', 'head', set(`category = 'data_modification'`)],
    ['epoch', 'head', set('epoch = 2')],
    ['tenant', 'head', set(`tenant = (SELECT id FROM sealog.tenant WHERE name = 'big')`)],
    ["the tenant's name", 'head', (on) => on.run(`UPDATE sealog.tenant SET name = 'mallory' WHERE name = 'acme'`)],
    [
      'rolled back to an earlier state of it, by somebody who kept it',
      'block@600 id@639',
      async (on) => {
        const leaves: Uint8Array[] = [];
        for (let firstSeq = 0; firstSeq < 600; firstSeq += 40)
          leaves.push(...decodeRecords(unpackPayload((await on.block(firstSeq)).records)).map(leafHash));
        const [row] = await on.run(
          'SELECT recorded_to AS at, (SELECT retain_until FROM sealog.stream WHERE id = $1) AS until FROM sealog.block WHERE stream = $1 AND first_seq = 560',
          [on.stream.id],
        );
        const [{ retainUntil }] = await recordOf(on, 599);
        await on.run(
          'UPDATE sealog.stream SET size = 600, head = $2, frontier = $3, recorded_at = $4, retain_until = $5 WHERE id = $1',
          [
            on.stream.id,
            leaves.at(-1),
            encodeFrontier(appendLeaves(0, [], leaves)),
            row!['at'],
            Date.parse(retainUntil!),
          ],
        );
      },
    ],
  ]);
  each(SINGLE, [['its first state: no entry', 'block@0 id@11 head frontier', set('size = 0')]]);

  it('name: every record says otherwise', async () => {
    const report = await after(MAIN, (on) =>
      on.run(`UPDATE sealog.stream SET name = 'acme/data_acces' WHERE id = $1`, [on.stream.id]),
    );
    expect(report.verdict).toBe('tampered');
  });
});

describe('a key is changed', () => {
  const set = (columns: string) => (on: Hands) =>
    on.run(`UPDATE sealog.data_key SET ${columns} WHERE stream = $1`, [on.stream.id]);
  each(SMALL, [
    ['its tenant, so that its readers find nothing', 'block@0 block@5 block@6', set('tenant = tenant + 1')],
    [
      'its row is deleted',
      'part@0 part@5 part@6',
      (on) => on.run('DELETE FROM sealog.data_key WHERE stream = $1', [on.stream.id]),
    ],
    ['its stream', 'block@0 block@5 block@6', set('stream = (SELECT max(id) FROM sealog.stream), drop_month = 1')],
    ['its drop month', 'block@0 block@5 block@6', set('drop_month = drop_month + 1')],
  ]);

  it.each([
    [
      'wrapped',
      (on: Hands) =>
        on.run(
          'UPDATE sealog.data_key SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1) WHERE stream = $1',
          [on.stream.id],
        ),
    ],
    ['month_key', set(`month_key = '203001'`)],
    ['month_key, a path', set(`month_key = '../../etc/passwd'`)],
  ])('%s: the parts can not be checked, which is not what was tampered with', async (_, change) => {
    expect(await after(SMALL, change)).toMatchObject({
      verdict: 'incomplete',
      findings: [],
      unchecked: [{ seq: 0, entries: 9 }],
    });
    await untouched(SMALL);
  });
});

describe('a month key', () => {
  const inFolder = async (change: (file: string) => Promise<void>): Promise<StreamReport> => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-test-keys-'));
    try {
      await cp(service.config.monthKeysDir, folder, { recursive: true });
      await change(join(folder, `${homes.get(MAIN)!.month}.key`));
      await pool.query('BEGIN');
      return await verified(MAIN, folder);
    } finally {
      await pool.query('ROLLBACK');
      await rm(folder, { recursive: true });
    }
  };
  it.each([
    ['that is missing', (file: string) => rm(file)],
    ['that is another', (file: string) => writeFile(file, `${'7'.repeat(64)}\n`)],
    ['that is damaged', (file: string) => writeFile(file, 'no key')],
  ])('%s leaves the verdict incomplete', async (_, change) => {
    const report = await inFolder(change);
    expect(report).toMatchObject({ verdict: 'incomplete', findings: [], unchecked: [{ seq: 0, entries: 640 }] });
    expect(report.unchecked).toHaveLength(1);
  });

  it('that is missing does not hide what was changed', async () => {
    await pool.query('BEGIN');
    try {
      const on = handsOn(homes.get(MAIN)!, homes.get(OTHER)!);
      await on.rewriteRecord(57, () => ({ action: 'thing.other' }));
      await on.run(withoutId(600), [on.stream.id]);
      const report = await verified(MAIN, '/nowhere');
      expect([report.verdict, places(report)]).toEqual(['tampered', ['record@57', 'id@600']]);
    } finally {
      await pool.query('ROLLBACK');
    }
  });
});

function later(instant: string): string {
  return new Date(Date.parse(instant) + 1).toISOString();
}

async function recordOf(on: Hands, seq: number): Promise<[Rec, Uint8Array]> {
  const firstSeq = seq - (seq % 40);
  const bytes = decodeRecords(unpackPayload((await on.block(firstSeq)).records))[seq - firstSeq]!;
  return [decodeRecord(bytes), bytes];
}

/** In the short form one of a column's changes, another in each run. */
function some<Item>(items: readonly Item[]): readonly Item[] {
  return HARD ? items : [items[randomInt(items.length)]!];
}
