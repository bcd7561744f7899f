import { createHash, randomUUID } from 'node:crypto';
import pg from 'pg';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { IdQuery } from '../src/chain/sequencer.ts';
import { appendStore } from '../src/store/append.ts';
import { decodeIdHashes, encodeIdHashes } from '../src/store/bigint-arrays.ts';
import { openDatabase } from '../src/store/database.ts';
import { makeSchema, migrate } from '../src/store/migrate.ts';
import { createDatabase } from './support/postgres.ts';
import { startService, type TestService } from './support/service.ts';

const hashOf = (n: number): string =>
  createHash('md5')
    .update(String(n))
    .digest('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');

describe('an id is looked for', () => {
  const MONTH = 209_812;
  let service: TestService;
  const database = () =>
    openDatabase({ connection: service.database.appConfig, readersMax: 1, log: { warn: () => {} } });

  beforeAll(async () => {
    service = await startService();
    await service.adminPool.query('SELECT sealog.ensure_drop_month($1)', [MONTH]);
  });

  /** Blocks of 500 entries of stream 1, without statistics. */
  async function fill(from: number, to: number): Promise<void> {
    const halves = (at: number) => `array_agg(('x' || substr(md5(n::text), ${at}, 16))::bit(64)::bigint ORDER BY n)`;
    await service.adminPool.query(
      `INSERT INTO sealog.entry_id (tenant, stream, first_seq, drop_month, ids, ids_rest)
       SELECT 1, 1, n / 500 * 500, ${MONTH}, ${halves(1)}, ${halves(17)} FROM generate_series($1::integer, $2 - 1) AS n GROUP BY n / 500`,
      [from, to],
    );
  }

  it('by the index alone, with a plan that was made while there was nothing', async () => {
    const own = database();
    onTestFinished(() => own.close());
    const look = async (idHashes: readonly string[], streamId = 1): Promise<(number | undefined)[]> => {
      const queries: IdQuery[] = idHashes.map((idHash) => ({ streamId, idHash, dropMonths: [MONTH] }));
      return appendStore(own).transact(
        [],
        queries,
        async ({ seqs }) => ({ rows: undefined, result: [...seqs] }) as never,
        () => {},
      ) as Promise<(number | undefined)[]>;
    };
    // More often than PostgreSQL plans one anew.
    for (let n = 0; n < 8; n++) expect(await look([hashOf(7), hashOf(8)])).toEqual([undefined, undefined]);
    let stored = 0;
    for (const entries of [0, 1000, 100_000]) {
      await fill(stored, entries);
      stored = entries;
      const known = entries === 0 ? [undefined, undefined] : [7, entries - 1];
      expect(await look([hashOf(7), hashOf(Math.max(8, entries - 1)), randomUUID()])).toEqual([...known, undefined]);
      // Its second half counts, and so does the stream.
      expect(await look([hashOf(7).slice(0, -1) + (hashOf(7).endsWith('0') ? '1' : '0')])).toEqual([undefined]);
      expect(await look([hashOf(7)], 2)).toEqual([undefined]);
      const client = await own.writer.connect();
      const { rows: made } = await client.query<{ name: string }>(
        `SELECT name FROM pg_prepared_statements WHERE name LIKE 'seen\\_%' AND statement LIKE '%entry_id%' AND generic_plans > 0`,
      );
      expect(made).toHaveLength(1);
      const { rows: plan } = await client.query<{ 'QUERY PLAN': string }>(
        `EXPLAIN EXECUTE ${made[0]!.name} ('{0}', '{1}', '{4711}', '{4711}')`,
      );
      client.release();
      const text = plan.map((row) => row['QUERY PLAN']).join('\n');
      expect(text).toMatch(/Bitmap Index Scan on entry_id_209812_ids_idx/);
      expect(text).not.toMatch(/Scan.* on entry_id_209812 (?!e)|Seq Scan on entry_id|stream_first_seq/);
    }
    // The newest of several.
    await service.adminPool.query(
      `INSERT INTO sealog.entry_id SELECT tenant, stream, 200000, drop_month, ids[6:9], ids_rest[6:9] FROM sealog.entry_id
       WHERE stream = 1 AND first_seq = 0 AND drop_month = ${MONTH}`,
    );
    expect(await look([hashOf(7), hashOf(4)])).toEqual([200_002, 4]);
  });

  it('also by those who ask a function', async () => {
    const admin = await service.adminPool.connect();
    onTestFinished(() => admin.release());
    await admin.query(`SET ROLE sealog_reader; SET sealog.tenant = '1'`);
    const own = async () =>
      (await admin.query(`SELECT stream, seq::integer FROM sealog.own_places('${hashOf(4)}') ORDER BY seq`)).rows;
    expect(await own()).toEqual([{ stream: 1, seq: 4 }]);
    await admin.query(`SET sealog.tenant = '2'`);
    expect(await own()).toEqual([]);
    await admin.query(`SET sealog.tenant = ''`);
    expect(await own()).toEqual([]);
    await expect(admin.query('SELECT FROM sealog.entry_id')).rejects.toMatchObject({ code: '42501' });
    await expect(admin.query(`SELECT sealog.places('${hashOf(4)}')`)).rejects.toMatchObject({ code: '42501' });
    await admin.query('RESET ROLE; RESET sealog.tenant');
  });
});

it('hashed ids come out of their arrays as they went in, and what is none is undefined', async () => {
  const hashes = [hashOf(1), '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff'];
  for (const own of [hashes, []]) {
    const { ids, rest } = encodeIdHashes(own);
    expect(decodeIdHashes(ids, rest)).toEqual(own);
  }
  const service = await createDatabase();
  onTestFinished(() => service.drop());
  const client = new pg.Client(service.adminConfig);
  await client.connect();
  onTestFinished(() => client.end());
  const { ids, rest } = encodeIdHashes(hashes);
  const sent = async (half: string, other: string) => {
    const text = `SELECT array_send(${half}) AS ids, array_send(${other}) AS rest FROM (SELECT $1::bigint[] AS i, $2::bigint[] AS r) AS own`;
    const { rows } = await client.query(text, [ids, rest]);
    return decodeIdHashes(rows[0].ids, rows[0].rest);
  };
  expect(await sent('i', 'r')).toEqual(hashes);
  expect(await sent('ARRAY[i[1], NULL, i[3]]', 'r')).toEqual([hashes[0], undefined, hashes[2]]);
  expect(await sent('i', 'r[:2]')).toEqual([hashes[0], hashes[1], undefined]);
  expect(await sent('ARRAY[i]', `'[5:7]={0,0,0}'::bigint[]`)).toEqual(
    hashes.map((hash) => `${hash.slice(0, 18)}-0000-000000000000`),
  );
});

it('rows of an id each become rows of a block', async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  await makeSchema(database.adminConfig, '0015_holds');
  const client = new pg.Client(database.adminConfig);
  await client.connect();
  onTestFinished(() => client.end());
  await client.query('SELECT sealog.ensure_drop_month(202603), sealog.ensure_drop_month(202604)');
  await client.query(
    `INSERT INTO sealog.block SELECT 1, b.stream, b.first, b.entries, b.month, 0, 0, 0, 0, 1, 0, 0, 0, '', ''
     FROM (VALUES (1, 0, 3, 202603), (1, 3, 2, 202604), (1, 5, 1, 202603), (2, 0, 2, 202603)) AS b (stream, first, entries, month)`,
  );
  const rows: [stream: number, seq: number, month: number][] = [
    ...([0, 1, 2, 5] as const).map((seq): [number, number, number] => [1, seq, 202603]),
    // 4 is missing; 9 is of no entry; 0 of the other stream is there twice.
    ...([
      [1, 3, 202604],
      [1, 9, 202604],
      [2, 1, 202603],
      [2, 0, 202603],
      [2, 0, 202603],
    ] as [number, number, number][]),
  ];
  for (const [stream, seq, month] of rows)
    await client.query('INSERT INTO sealog.entry_id VALUES (1, $1, $2, $3, $4)', [
      stream,
      seq,
      hashOf(10 * stream + seq),
      month,
    ]);

  await migrate(database.adminConfig, database.appConfig.user!);

  const { rows: now } = await client.query(
    `SELECT stream, first_seq::integer AS first, drop_month AS month, tenant, array_send(ids) AS ids, array_send(ids_rest) AS rest
     FROM sealog.entry_id ORDER BY stream, first_seq`,
  );
  expect(now.map(({ ids, rest, ...row }) => [...Object.values(row), decodeIdHashes(ids, rest)])).toEqual([
    [1, 0, 202603, 1, [hashOf(10), hashOf(11), hashOf(12)]],
    [1, 3, 202604, 1, [hashOf(13), undefined]],
    [1, 5, 202603, 1, [hashOf(15)]],
    [2, 0, 202603, 1, [hashOf(20), hashOf(21)]],
  ]);
  const { rows: left } = await client.query(`SELECT relname FROM pg_class WHERE relname LIKE 'entry_id_before%'`);
  expect(left).toEqual([]);
});
