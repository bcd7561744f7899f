/** Blocks are found by their placed tags: from stretch to stretch, through the index alone, and by nobody but their own tenant. */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { placedTag, type TagKind, tagOf } from '../src/chain/tag.ts';
import { decodeBigints, encodeBigints } from '../src/store/bigint-arrays.ts';
import { asTenant } from '../src/store/database.ts';
import { type BlockScan, type Lane, scanBlocks } from '../src/store/log-reader.ts';
import { makeSchema, migrate } from '../src/store/migrate.ts';
import { appendAt, monthsAgo } from './support/old-entries.ts';
import { createDatabase } from './support/postgres.ts';
import { startService, type TestService, withoutTrail } from './support/service.ts';

const STRETCH = 8192;

describe('blocks of several months and many stretches', () => {
  const CATEGORY = 'data_access';
  const BLOCK = 100;
  const MONTHS = 3;
  const ENTRIES_A_MONTH = 20_000;
  const ENTRIES = MONTHS * ENTRIES_A_MONTH;
  /** Everything by seq. */
  const isRare = (seq: number): boolean => seq % 7001 === 5;
  const isOften = (seq: number): boolean => seq % 301 === 0;
  const actorOf = (seq: number): string => (seq === 29_999 ? 'once' : isRare(seq) ? 'rare' : `u${seq % 50}`);
  const seqs = Array.from({ length: ENTRIES }, (_, seq) => seq);

  let service: TestService;
  let token: string;
  let own: { readonly id: number; readonly tenant: number };
  /** The drop months, each with the entries in it. */
  let months: { readonly dropMonth: number; readonly from: number; readonly to: number }[];

  beforeAll(async () => {
    service = await startService();
    token = await service.token('auditor', 'acme');
    for (let month = 0; month < MONTHS; month++) {
      const from = month * ENTRIES_A_MONTH;
      const events = seqs.slice(from, from + ENTRIES_A_MONTH).map((seq) => ({
        ...{ id: `e${seq}`, action: isOften(seq) ? 'thing.often' : 'thing.act' },
        source: { service: `s${seq % 2}`, ...(seq % 3 === 0 ? { site: 'plant-7' } : {}) },
        parts: { actor: { type: 'user', id: actorOf(seq) }, target: { type: 'thing', id: 't' } },
      }));
      await appendAt(service, monthsAgo(MONTHS - month), { tenant: 'acme', category: CATEGORY }, events, BLOCK);
    }
    const { rows } = await service.adminPool.query('SELECT id, tenant FROM sealog.stream WHERE name = $1', [
      `acme/${CATEGORY}`,
    ]);
    own = rows[0];
    const { rows: found } = await service.adminPool.query(
      `SELECT drop_month AS "dropMonth", min(first_seq)::integer AS "from", max(first_seq + entries)::integer AS "to"
       FROM sealog.block WHERE stream = $1 GROUP BY 1 ORDER BY 1`,
      [own.id],
    );
    months = found;
    expect(months.map(({ from, to }) => [from, to])).toEqual(
      Array.from({ length: MONTHS }, (_, i) => [i * ENTRIES_A_MONTH, (i + 1) * ENTRIES_A_MONTH]),
    );
  }, 120_000);

  afterAll(async () => {
    await service.checkLog();
    await service.stop();
  });

  interface Page {
    readonly seqs: readonly number[];
    readonly next: string | null;
  }

  async function page(query: Readonly<Record<string, string>>, reader = token): Promise<Page> {
    const { status, body } = await service.get(`/v1/events?${new URLSearchParams({ category: CATEGORY, ...query })}`, {
      token: reader,
    });
    expect(status).toBe(200);
    return { seqs: withoutTrail(body.items).map(({ log }) => log.seq), next: body.next };
  }

  async function walk(query: Readonly<Record<string, string>>): Promise<{ seqs: number[]; pages: number }> {
    const found: number[] = [];
    let next: string | null = null;
    let pages = 0;
    do {
      const one: Page = await page(next === null ? query : { ...query, cursor: next });
      found.push(...one.seqs);
      next = one.next;
      pages += 1;
      expect(pages).toBeLessThan(200);
    } while (next !== null);
    return { seqs: found, pages };
  }

  it.each(['asc', 'desc'] as const)('are found in order, page by page, %s', async (order) => {
    const inOrder = (isFound: (seq: number) => boolean): number[] =>
      order === 'asc' ? seqs.filter(isFound) : seqs.filter(isFound).reverse();
    for (const limit of ['1', '4', '1000'])
      expect((await walk({ actor: 'rare', order, limit })).seqs).toEqual(inOrder((seq) => actorOf(seq) === 'rare'));
    expect(await walk({ actor: 'once', order })).toMatchObject({ seqs: [29_999], pages: 1 });
    expect(await walk({ actor: 'never', order })).toEqual({ seqs: [], pages: 1 });
    expect((await walk({ action: 'thing.often', order, limit: '40' })).seqs).toEqual(inOrder(isOften));
    // Two conditions, and three.
    const both = { action: 'thing.often', service: 's1' };
    expect((await walk({ ...both, order, limit: '40' })).seqs).toEqual(inOrder((seq) => isOften(seq) && seq % 2 === 1));
    const three = { actor: 'rare', service: 's1', site: 'plant-7' };
    const isThree = (seq: number): boolean => actorOf(seq) === 'rare' && seq % 2 === 1 && seq % 3 === 0;
    expect((await walk({ ...three, order, limit: '1' })).seqs).toEqual(inOrder(isThree));
    expect(inOrder(isThree).length).toBeGreaterThan(0);
    expect((await walk({ actor: 'rare', action: 'thing.often', order })).seqs).toEqual(
      inOrder((seq) => actorOf(seq) === 'rare' && isOften(seq)),
    );
  });

  it('of another tenant are not found', async () => {
    const other = await service.token('auditor', 'other');
    expect(await page({ actor: 'rare' }, other)).toEqual({ seqs: [], next: null });
  });

  const plain = (kind: TagKind, value: string): bigint => tagOf({ kind, value }, new Uint8Array(32));

  async function scan(
    month: number,
    tags: readonly (readonly bigint[])[],
    order: 'asc' | 'desc',
    seq: number,
    limit: number,
  ): Promise<BlockScan> {
    const lane: Lane = { dropMonth: months[month]!.dropMonth, filter: { tags } };
    return asTenant(service.app.database.reader, own.tenant, (database) =>
      scanBlocks(database, own.id, [lane], order, seq, limit),
    );
  }

  it('are looked at as far as asked for, and none that lacks the tag', async () => {
    const often = plain('action', 'thing.often');
    for (const [month, { from, to }] of months.entries()) {
      const all = seqs.slice(from, to).filter(isOften);
      const firstSeqs = [...new Set(all.map((seq) => seq - (seq % BLOCK)))];
      for (const order of ['asc', 'desc'] as const) {
        for (const at of [from - 1, from, from + 1, from + STRETCH - 1, from + STRETCH, 12_345, 24_576, to, 10 * to]) {
          for (const limit of [1, 2, 16, 256]) {
            const rest = firstSeqs.filter((seq) => (order === 'asc' ? seq >= at : seq < at));
            const expected = (order === 'asc' ? rest : rest.reverse()).slice(0, limit);
            const { blocks, looked, lastFirstSeq } = await scan(month, [[often]], order, at, limit);
            expect([month, order, at, blocks.map(({ firstSeq }) => firstSeq)]).toEqual([month, order, at, expected]);
            expect([looked, lastFirstSeq]).toEqual([expected.length, expected.at(-1)]);
          }
        }
      }
    }
  });

  it('that meet one condition and not the other are looked at, and not read', async () => {
    const often = plain('action', 'thing.often');
    const site = plain('site', 'plant-7');
    const nowhere = plain('site', 'plant-8');
    const { from } = months[1]!;
    const one = await scan(1, [[often]], 'asc', from, 20);
    expect(await scan(1, [[often], [site]], 'asc', from, 20)).toEqual(one);
    expect(await scan(1, [[often], [nowhere, site]], 'asc', from, 20)).toEqual(one);
    expect(await scan(1, [[often], [nowhere]], 'asc', from, 20)).toEqual({ ...one, blocks: [] });
    expect(await scan(1, [[nowhere], [often]], 'asc', from, 20)).toEqual({
      blocks: [],
      looked: 0,
      lastFirstSeq: undefined,
      isLast: true,
    });
    // Those of one condition are either's, each once.
    expect(await scan(1, [[often, site]], 'asc', from, 20)).toMatchObject({
      looked: 20,
      lastFirstSeq: from + 19 * BLOCK,
    });
    expect(await scan(1, [[]], 'asc', from, 20)).toMatchObject({ looked: 0 });
  });

  it('are named to a reader of their tenant alone', async () => {
    const admin = await service.adminPool.connect();
    onTestFinished(() => admin.release(true));
    await admin.query('SET ROLE sealog_reader');
    const ask = async (name: string): Promise<number> => {
      const { rows } = await admin.query(
        `SELECT count(*)::integer AS n FROM sealog.${name}(${own.id}, ${months[0]!.dropMonth}, $1, true, 1000000, 1000)`,
        [[String(plain('action', 'thing.often'))]],
      );
      return rows[0].n;
    };
    const asReader = async (tenant: string): Promise<number> => {
      await admin.query(`SELECT set_config('sealog.tenant', $1, false)`, [tenant]);
      return ask('own_tagged_blocks');
    };
    expect(await asReader(String(own.tenant))).toBe(67);
    expect(await asReader(String(own.tenant + 1))).toBe(0);
    expect(await asReader('')).toBe(0);
    await admin.query('RESET sealog.tenant');
    expect(await ask('own_tagged_blocks')).toBe(0);
    await expect(ask('tagged_blocks')).rejects.toMatchObject({ code: '42501' });
    await admin.query('SET ROLE sealog_verifier');
    expect(await ask('tagged_blocks')).toBe(67);
    for (const role of ['sealog_writer', 'sealog_signer']) {
      await admin.query(`SET ROLE ${role}`);
      for (const name of ['own_tagged_blocks', 'tagged_blocks'])
        await expect(ask(name)).rejects.toMatchObject({ code: '42501' });
    }
  });
});

it('two tags with the same last bytes stand in their block once, and either is found', async () => {
  // Whoever writes can look for such: plain tags have no key, and a million of them have a pair.
  const sites = ['plant-1179828', 'plant-2100067'];
  const placed = sites.map((value) => placedTag(tagOf({ kind: 'site', value }, new Uint8Array(32)), 1, 0));
  expect(placed[0]).toBe(placed[1]);
  const service = await startService();
  onTestFinished(() => service.stop());
  const events = sites.map((site) => ({
    ...{ category: 'system_operation', action: 'thing.act', outcome: 'success', occurredAt: '2026-01-01T00:00:00Z' },
    source: { service: 'mes', site },
  }));
  const { body } = await service.post('/v1/events/batch', events);
  expect(body.errors).toBe(false);
  const { rows } = await service.adminPool.query('SELECT entries, cardinality(tags) AS tags FROM sealog.block');
  expect(rows).toEqual([{ entries: 2, tags: 3 }]);
  await service.checkLog();
  for (const site of sites) {
    const found = (await service.get(`/v1/events?site=${site}`)).body.items;
    expect(found.map((one: { source: { site: string } }) => one.source.site)).toEqual([site]);
  }
});

describe('the index of tags', () => {
  const MONTH = 209_812;
  const TAGGED = `SELECT * FROM sealog.tagged_blocks($1, ${MONTH}, $2::bigint[], $3, $4, $5)`;
  const COMMON = 4711n;
  const EDGE = -1n;
  let service: TestService;

  beforeAll(async () => {
    service = await startService();
    const { adminPool } = service;
    await adminPool.query('SELECT sealog.ensure_drop_month($1)', [MONTH]);
    await adminPool.query(`INSERT INTO sealog.tenant (name) VALUES ('acme')`);
    await adminPool.query(
      `INSERT INTO sealog.stream (tenant, category, epoch, name) SELECT id, 'data_access', 1, 'acme/data_access' FROM sealog.tenant WHERE name = 'acme'`,
    );
  });
  afterAll(() => service.stop());

  /** Blocks of one entry, without statistics: one tag all have, one of its own, and one that the first and the last of all have. */
  async function fill(stream: number, from: number, to: number): Promise<void> {
    await service.adminPool.query(
      `INSERT INTO sealog.block (tenant, stream, first_seq, entries, drop_month, recorded_from, recorded_to, occurred_from, occurred_to,
                                 key_id, severity_min, severity_max, outcomes, records, parts, tags)
       SELECT s.tenant, s.id, n, 1, ${MONTH}, 0, 0, 0, 0, 1, -1, -1, 1, '', '',
              ARRAY(SELECT sealog.placed_tag(t, s.id, n >> 13) FROM unnest(ARRAY[${COMMON}, n + 1000000] || CASE WHEN n IN ($2::bigint, $3::bigint - 1) THEN ARRAY[${EDGE}::bigint] ELSE '{}' END) AS t)
       FROM sealog.stream AS s, generate_series($2::bigint, $3::bigint - 1) AS n WHERE s.id = $1`,
      [stream, from, to],
    );
  }

  it('serves every search, with a plan that was made while there was nothing', async () => {
    const { adminPool } = service;
    const {
      rows: [{ id, tenant }],
    } = await adminPool.query(`SELECT id, tenant FROM sealog.stream WHERE name = 'acme/data_access'`);
    const client = await adminPool.connect();
    onTestFinished(() => client.release(true));
    await client.query(`SET ROLE sealog_reader`);
    await client.query(`SELECT set_config('sealog.tenant', $1, false)`, [String(tenant)]);
    const look = async (tag: bigint, newest: boolean, bound: number, limit: number): Promise<number[]> => {
      const { rows } = await client.query({
        name: 'look',
        text: `SELECT first_seq::integer AS seq FROM sealog.own_tagged_blocks($1, ${MONTH}, $2::bigint[], $3, $4, $5)`,
        values: [id, `{${tag}}`, newest, bound, limit],
      });
      return rows.map(({ seq }) => seq);
    };
    /** What the connection has done with the partition and its indexes so far. */
    const counted = async (): Promise<Readonly<Record<string, number>>> => {
      const { rows } = await client.query<{ kind: string; scans: number; read: number }>(
        `SELECT CASE WHEN c.relkind = 'r' THEN 'table' WHEN c.relam = (SELECT oid FROM pg_am WHERE amname = 'gin') THEN 'tags' ELSE 'others' END AS kind,
           sum(pg_stat_get_xact_numscans(c.oid))::integer AS scans, sum(pg_stat_get_xact_tuples_returned(c.oid))::integer AS read
         FROM pg_class AS c WHERE c.oid = 'sealog.block_${MONTH}'::regclass
           OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'sealog.block_${MONTH}'::regclass) GROUP BY 1`,
      );
      return Object.fromEntries(
        rows.flatMap(({ kind, scans, read }) => [
          [`${kind} scanned`, scans],
          [`${kind} read`, read],
        ]),
      );
    };
    const workOf = async (look: () => Promise<unknown>): Promise<Readonly<Record<string, number>>> => {
      await client.query('BEGIN');
      const before = await counted();
      await look();
      const after = await counted();
      await client.query('COMMIT');
      return Object.fromEntries(Object.entries(after).map(([name, count]) => [name, count - before[name]!]));
    };
    // More often than PostgreSQL plans one anew.
    for (let n = 0; n < 8; n++) expect(await look(COMMON, n % 2 === 0, 1_000_000, 16)).toEqual([]);
    let stored = 0;
    for (const blocks of [0, 1000, 100_000]) {
      await fill(id, stored, blocks);
      const first = stored;
      stored = blocks;
      for (const newest of [true, false]) {
        const bound = newest ? 1_000_000 : 0;
        const never = await workOf(async () => expect(await look(7n, newest, bound, 16)).toEqual([]));
        // Before all where the stream begins and ends in this month.
        expect(never).toMatchObject({ 'table scanned': 0, 'table read': 0, 'others scanned': 2, 'tags read': 0 });
        expect(never['others read']).toBeLessThanOrEqual(2);
        // One stretch, four, sixteen.
        expect(never['tags scanned']).toBe(blocks === 0 ? 0 : blocks <= STRETCH ? 1 : 3);

        const ends = blocks === 0 ? [] : newest ? [blocks - 1, first] : [first, blocks - 1];
        const edge = await workOf(async () =>
          expect(await look(EDGE, newest, newest ? bound : first, 2)).toEqual(ends),
        );
        expect(edge).toMatchObject({ 'table scanned': 0, 'table read': 0, 'others scanned': 2 });
        // Also those that the fill before left.
        expect(edge['tags read']).toBeLessThanOrEqual(4);

        const last = Array.from({ length: Math.min(16, blocks) }, (_, i) => (newest ? blocks - 1 - i : i));
        const common = await workOf(async () => expect(await look(COMMON, newest, bound, 16)).toEqual(last));
        expect(common).toMatchObject({ 'table scanned': 0, 'table read': 0, 'others scanned': 2 });
        // As many as a stretch has, however many there are.
        expect(common['tags read']).toBeLessThanOrEqual(STRETCH);
      }
    }
  });

  it('is looked at for so many stretches at a time, and from there on again', async () => {
    const { adminPool } = service;
    const {
      rows: [{ id }],
    } = await adminPool.query(
      `INSERT INTO sealog.stream (tenant, category, epoch, name)
       SELECT id, 'data_modification', 1, 'acme/data_modification' FROM sealog.tenant WHERE name = 'acme' RETURNING id`,
    );
    const far = 5000 * STRETCH;
    await fill(id, 0, 2);
    await fill(id, far, far + 2);
    for (const [newest, start, wanted, found] of [
      [true, far + 2, 1_000_000, 0],
      [true, far + 2, 1_000_001, 1],
      [false, 0, far + 1_000_000, far],
      [false, 0, far + 1_000_001, far + 1],
    ] as const) {
      let bound: number = start;
      const looks: boolean[] = [];
      for (;;) {
        const { rows } = await adminPool.query(TAGGED, [id, `{${wanted}}`, newest, bound, 16]);
        expect(rows.length).toBe(1);
        looks.push(rows[0].is_edge);
        const seq = Number(rows[0].first_seq);
        if (!rows[0].is_edge) {
          expect(seq).toBe(found);
          break;
        }
        expect(newest ? seq < bound : seq >= bound).toBe(true);
        bound = newest ? seq : seq + 1;
      }
      expect(looks).toEqual([true, true, true, true, false]);
    }
  });
});

it('bigints come out of their array as they went in, and NULL is undefined', async () => {
  const values = [0n, 1n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 4711n];
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  const client = new pg.Client(database.adminConfig);
  await client.connect();
  onTestFinished(() => client.end());
  const sent = async (own: readonly bigint[], as = 'v'): Promise<(bigint | undefined)[]> => {
    const { rows } = await client.query(`SELECT array_send(${as}) AS sent FROM (SELECT $1::bigint[] AS v) AS own`, [
      encodeBigints(own),
    ]);
    return decodeBigints(rows[0].sent);
  };
  for (const own of [values, [], [7n]]) {
    expect(decodeBigints(encodeBigints(own))).toEqual(own);
    expect(await sent(own)).toEqual(own);
  }
  expect(await sent(values, 'array_prepend(NULL, v)')).toEqual([undefined, ...values]);
  expect(await sent([1n], 'ARRAY[NULL, v[1], NULL]')).toEqual([undefined, 1n, undefined]);
  expect(await sent([1n, 2n], 'ARRAY[v, v]')).toEqual([1n, 2n, 1n, 2n]);
});

it('the database places a tag as the service does', async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  await makeSchema(database.adminConfig);
  const client = new pg.Client(database.adminConfig);
  await client.connect();
  onTestFinished(() => client.end());
  for (const stream of [1, 2, 8, 4711, 2 ** 31 - 1])
    for (const firstSeq of [0, 8191, 8192, 10 ** 8, 8192 * 2 ** 24 - 1, 8192 * 2 ** 24, Number.MAX_SAFE_INTEGER])
      for (const tag of [0n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 0x1234_5678_9abc_def0n]) {
        const { rows } = await client.query('SELECT sealog.placed_tag($1, $2, $3::bigint >> 13) AS placed', [
          ...[String(tag), stream, firstSeq],
        ]);
        expect(BigInt(rows[0].placed)).toBe(placedTag(tag, stream, firstSeq));
      }
});

it('rows of a tag each become tags of their block', async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  await makeSchema(database.adminConfig, '0016_ids_of_blocks');
  const client = new pg.Client(database.adminConfig);
  await client.connect();
  onTestFinished(() => client.end());
  await client.query(
    'SELECT sealog.ensure_drop_month(202603), sealog.ensure_drop_month(202604), sealog.ensure_drop_month(0)',
  );
  await client.query(
    `INSERT INTO sealog.block SELECT b.tenant, b.stream, b.first, b.entries, b.month, 0, 0, 0, 0, 1, 0, 0, 0, '', ''
     FROM (VALUES (1, 1, 0, 3, 202603), (1, 1, 3, 2, 202604), (1, 1, 5, 1, 202603), (1, 1, 20000, 1, 202604), (2, 7, 0, 2, 202603), (1, 8, 0, 1, 0))
       AS b (tenant, stream, first, entries, month)`,
  );
  const tags: readonly [tenant: number, stream: number, tag: bigint, firstSeq: number, month: number][] = [
    ...[1, 2, 3].map((tag): [number, number, bigint, number, number] => [1, 1, BigInt(tag), 0, 202603]),
    // One that its block has no entry for stays; what stands twice is one.
    [1, 1, -4711n, 0, 202603],
    [1, 1, 2n, 0, 202603],
    [1, 1, 2n ** 63n - 1n, 3, 202604],
    [1, 1, -(2n ** 63n), 20_000, 202604],
    [2, 7, 1n, 0, 202603],
    // Of no block: another first seq, month, stream, tenant, and behind the end.
    [1, 1, 5n, 1, 202603],
    [1, 1, 5n, 0, 202604],
    [1, 9, 5n, 0, 202603],
    [2, 1, 5n, 0, 202603],
    [1, 1, 5n, 99_999, 202603],
  ];
  for (const [tenant, stream, tag, firstSeq, month] of tags)
    await client.query(
      'INSERT INTO sealog.tag (tenant, stream, tag, first_seq, drop_month) VALUES ($1, $2, $3, $4, $5)',
      [...[tenant, stream, String(tag), firstSeq, month]],
    );

  await migrate(database.adminConfig, database.appConfig.user!);

  const { rows } = await client.query(
    `SELECT stream, first_seq::integer AS first, array_send(tags) AS tags FROM sealog.block ORDER BY stream, first_seq`,
  );
  const now = rows.map(({ stream, first, tags: sent }) => [stream, first, new Set(decodeBigints(sent))]);
  const placed = (stream: number, first: number, ...own: bigint[]) => [
    ...[stream, first, new Set(own.map((tag) => placedTag(tag, stream, first)))],
  ];
  expect(now).toEqual([
    placed(1, 0, 1n, 2n, 3n, -4711n),
    placed(1, 3, 2n ** 63n - 1n),
    placed(1, 5),
    placed(1, 20_000, -(2n ** 63n)),
    placed(7, 0, 1n),
    placed(8, 0),
  ]);
  const { rows: each } = await client.query('SELECT max(cardinality(tags))::integer AS most FROM sealog.block');
  expect(each[0].most).toBe(4);
  const { rows: left } = await client.query(
    `SELECT relname FROM pg_class WHERE relnamespace = 'sealog'::regnamespace AND relname ~ '^tag'`,
  );
  expect(left).toEqual([]);
});
