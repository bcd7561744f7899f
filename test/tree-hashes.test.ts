/** Hashes of a stream's tree out of its tiles and blocks, at every size, against a naive tree; from damaged rows never a hash. */
import { Kysely, type KyselyPlugin, PostgresDialect } from 'kysely';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeRecords, packPayload } from '../src/chain/block.ts';
import { concatBytes, toHex, u32be } from '../src/chain/bytes.ts';
import {
  appendLeaves,
  consistencyNodes,
  type Frontier,
  frontierRoot,
  inclusionNodes,
  inclusionPath,
  leafHash,
  nodeHash,
  rootFromInclusion,
  type Subtree,
} from '../src/chain/merkle.ts';
import { fullTileCount, fullTilesBetween, TILE_WIDTH } from '../src/chain/tile.ts';
import { EvidenceError } from '../src/errors.ts';
import { type Database, openDatabase, typesOfDatabase } from '../src/store/database.ts';
import type { Tables } from '../src/store/tables.ts';
import { frontierAt, rootAt, type TreeStream, treeNodes } from '../src/store/tree-hashes.ts';
import { root as naiveRoot } from './reference/naive-log.ts';
import { generateEvents } from './support/events.ts';
import { adminPool } from './support/postgres.ts';
import { startService, type TestService } from './support/service.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
let service: TestService;
let database: Database;

beforeAll(async () => {
  service = await startService();
  database = openDatabase({
    connection: service.database.appConfig,
    readersMax: 1,
    log: pino({ level: 'silent' }),
  });
});

afterAll(async () => {
  await database?.close();
  await service?.stop();
});

describe('a stream that the service wrote', () => {
  const SIZE = 2000;
  let stream: TreeStream;
  let leaves: Uint8Array[];

  beforeAll(async () => {
    leaves = (await append('acme', SIZE)).map((hash) => Buffer.from(hash, 'hex'));
    stream = await streamNamed('acme/data_access');
  });

  it('has the frontier and root of every size that it has had', async () => {
    let frontier: Frontier = [];
    for (let size = 0; size <= SIZE; size++) {
      if (size > 0) frontier = appendLeaves(size - 1, frontier, [leaves[size - 1]!]);
      // Each size around the ends of tiles, else one of nine.
      if (!HARD && size % 9 !== 0 && (size + 20) % 256 > 40) continue;
      expect((await frontierAt(database.verifier, stream, size)).map(toHex)).toEqual(frontier.map(toHex));
      if (size % 100 === 0 || size === 256 || size === 512) {
        const root = await rootAt(database.verifier, stream, size);
        expect(toHex(root)).toBe(toHex(naiveRoot(leaves.slice(0, size))));
      }
    }
  });

  it('has the hashes of all subtrees that proofs ask for', async () => {
    for (const size of [1, 2, 3, 255, 256, 257, 511, 512, 513, 1023, 1024, 1400, SIZE]) {
      const root = naiveRoot(leaves.slice(0, size));
      for (const seq of [0, 1, 254, 255, 256, 257, 600, size - 2, size - 1].filter((n) => n >= 0 && n < size)) {
        const getNode = await treeNodes(database.verifier, stream, size, inclusionNodes(seq, size));
        const path = inclusionPath(seq, size, getNode);
        expect(toHex(rootFromInclusion(seq, size, leaves[seq]!, path))).toBe(toHex(root));
      }
    }
  });

  it('is not moved by what is appended meanwhile', async () => {
    let done = false;
    const appending = append('acme', 700, 9).finally(() => {
      done = true;
    });
    const wanted = new Map([1999, 1793, 1792, 1800].map((size) => [size, toHex(naiveRoot(leaves.slice(0, size)))]));
    do {
      for (const [size, root] of wanted) expect(toHex(await rootAt(database.verifier, stream, size))).toBe(root);
    } while (!done);
    await appending;
    await service.checkLog();
  });

  it('gives only what it was asked for', async () => {
    const getNode = await treeNodes(database.verifier, stream, 100, [{ level: 2, index: 3 }]);
    expect(() => getNode(2, 4)).toThrow('not asked for');
    await expect(treeNodes(database.verifier, stream, 15, [{ level: 2, index: 3 }])).rejects.toThrow(
      'lies in the tree',
    );
  });

  it.each<[string, string]>([
    [
      'a block is missing',
      'DELETE FROM sealog.block WHERE stream = $1 AND first_seq = (SELECT max(first_seq) FROM sealog.block WHERE stream = $1 AND first_seq <= 1950)',
    ],
    [
      'a block says that it is shorter',
      'UPDATE sealog.block SET entries = entries - 1 WHERE stream = $1 AND first_seq + entries > 1900 AND entries > 1',
    ],
    [
      'a block says that it is longer',
      'UPDATE sealog.block SET entries = entries + 1 WHERE stream = $1 AND first_seq + entries > 1950',
    ],
    [
      'blocks stand one further',
      'UPDATE sealog.block SET first_seq = first_seq + 1 WHERE stream = $1 AND entries > 1 AND first_seq = (SELECT max(first_seq) FROM sealog.block WHERE stream = $1 AND entries > 1 AND first_seq < 1950)',
    ],
    ['a block does not unpack', `UPDATE sealog.block SET records = '\\x02' WHERE stream = $1 AND first_seq > 1850`],
    ['a tile is missing', 'DELETE FROM sealog.tile WHERE stream = $1 AND level = 0 AND tile_index = 0'],
    ['a root is missing', 'DELETE FROM sealog.tile WHERE stream = $1 AND level = 0 AND tile_index = 6'],
    [
      'a tile is short',
      `ALTER TABLE sealog.tile DROP CONSTRAINT tile_hashes_check; UPDATE sealog.tile SET hashes = '\\x00' WHERE stream = $1 AND tile_index = 0`,
    ],
    [
      'a root is short',
      `ALTER TABLE sealog.tile DROP CONSTRAINT tile_root_check; UPDATE sealog.tile SET root = '\\x00' WHERE stream = $1`,
    ],
  ])('throws an EvidenceError when %s', async (_, damage) => {
    await withDamage(damage, stream, async (damaged) => {
      const nodes = [...inclusionNodes(3, SIZE), ...inclusionNodes(1990, SIZE), ...consistencyNodes(1900, SIZE)];
      await expect(treeNodes(damaged, stream, SIZE, nodes)).rejects.toThrow(EvidenceError);
    });
  });

  it('says that entries beyond the stored ones are missing', async () => {
    await expect(rootAt(database.verifier, { id: 2 ** 30, name: 'nobody' }, 300)).rejects.toThrow(EvidenceError);
  });
});

describe('a stream of more than a tile of tiles', () => {
  const SIZE = 2 * 65_536 + 3 * 256 + 77;
  const records = Array.from({ length: SIZE }, (_, seq) => u32be(seq));
  const leaves = records.map(leafHash);
  let stream: TreeStream;

  beforeAll(async () => {
    stream = await newStream('wide');
    await insertRecords(stream, records);
  }, 60_000);

  it('has the root of sizes at all edges', async () => {
    const edges = [256, 65_280, 65_535, 65_536, 65_537, 65_536 + 256, 70_000, 131_071, 131_072, 131_073, 131_400, SIZE];
    for (const size of edges) {
      const root = frontierRoot(size, appendLeaves(0, [], leaves.slice(0, size)));
      expect(toHex(await rootAt(database.verifier, stream, size))).toBe(toHex(root));
    }
  });

  it('has the hashes of proofs into tiles of tiles', async () => {
    for (const size of [65_536, 65_900, 131_072, SIZE]) {
      const root = frontierRoot(size, appendLeaves(0, [], leaves.slice(0, size)));
      for (const seq of [0, 255, 256, 40_000, 65_535, 65_536, 65_700, 131_071, 131_080, SIZE - 1].filter(
        (n) => n < size,
      )) {
        const getNode = await treeNodes(database.verifier, stream, size, inclusionNodes(seq, size));
        const path = inclusionPath(seq, size, getNode);
        expect(toHex(rootFromInclusion(seq, size, leaves[seq]!, path))).toBe(toHex(root));
      }
    }
  });
});

describe('a stream of which all entries are alike', () => {
  // Every subtree of a level has the same hash, so a tree of any size is known, and only the tiles that are read need be there.
  const record = u32be(7);
  const perfect = [leafHash(record)];
  for (let level = 1; level <= 53; level++) perfect.push(nodeHash(perfect[level - 1]!, perfect[level - 1]!));

  it('needs two statements and O(log n) rows for a proof, whatever its size', async () => {
    const stream = await newStream('alike');
    const read: { size: number; rows: number; statements: number }[] = [];
    for (const size of [300, 70_001, 16_777_216 + 65_536 + 777, 2 ** 32 + 2 ** 17 + 300, 2 ** 45 + 2 ** 40 + 12_345]) {
      for (const seq of [0, Math.floor(size / 3), size - 1]) {
        const nodes = inclusionNodes(seq, size);
        await insertAlike(stream, size, nodes);
        const counter = counting();
        const getNode = await treeNodes(database.verifier.withPlugin(counter), stream, size, nodes);
        expect(nodes.every(({ level, index }) => toHex(getNode(level, index)) === toHex(perfect[level]!))).toBe(true);
        read.push({ size, ...counter });
      }
    }
    for (const { size, rows, statements } of read) {
      expect(statements).toBeLessThanOrEqual(2);
      // Two whole tiles of each level, and the roots or blocks of one that is not full.
      expect(rows).toBeLessThanOrEqual((Math.floor(Math.log2(size) / 8) + 1) * (2 + 255));
    }
  }, 60_000);

  /** Stores what the subtrees of a tree of `size` are found in. */
  async function insertAlike(stream: TreeStream, size: number, nodes: readonly Subtree[]): Promise<void> {
    const tiles = new Map<string, [level: number, index: number]>();
    for (const { level, index } of nodes) {
      const height = Math.floor(level / 8);
      const begin = (index * 2 ** level) / 256 ** height;
      const [first, end] = [begin, begin + 2 ** (level % 8)];
      const tile = Math.floor(first / TILE_WIDTH);
      if (tile < fullTileCount(height, size)) tiles.set(`${height}/${tile}`, [height, tile]);
      else if (height > 0) for (let i = first; i < end; i++) tiles.set(`${height - 1}/${i}`, [height - 1, i]);
    }
    const all = [...tiles.values()];
    await service.adminPool.query(
      `INSERT INTO sealog.tile (tenant, stream, level, tile_index, hashes, root)
       SELECT s.tenant, s.id, t.level, t.tile_index, decode(repeat(t.hash, 256), 'hex'), decode(t.root, 'hex')
       FROM sealog.stream AS s, unnest($2::smallint[], $3::bigint[], $4::text[], $5::text[]) AS t (level, tile_index, hash, root)
       WHERE s.id = $1 ON CONFLICT DO NOTHING`,
      [
        stream.id,
        all.map(([level]) => level),
        all.map(([, index]) => index),
        all.map(([level]) => toHex(perfect[8 * level]!)),
        all.map(([level]) => toHex(perfect[8 * level + 8]!)),
      ],
    );
    const rest = size % TILE_WIDTH;
    await insertBlocks(
      stream,
      Array.from({ length: rest }, (_, i) => ({ firstSeq: size - rest + i, records: [record] })),
    );
  }
});

/** Counts statements and the rows that they bring. */
function counting(): KyselyPlugin & { statements: number; rows: number } {
  return {
    statements: 0,
    rows: 0,
    transformQuery({ node }) {
      this.statements += 1;
      return node;
    },
    async transformResult({ result }) {
      this.rows += result.rows.length;
      return result;
    },
  };
}

/** Sends events in batches of many sizes; returns their hashes. */
async function append(tenant: string, count: number, seed = 5): Promise<string[]> {
  const events = generateEvents({ seed, count, categories: ['data_access'] });
  const token = await service.token('service', tenant);
  const hashes: string[] = [];
  for (let at = 0, width = 1; at < events.length; at += width, width = ((width * 7) % 61) + 1) {
    const { status, body } = await service.post('/v1/events/batch', events.slice(at, at + width), { token });
    expect([status, body.errors]).toEqual([200, false]);
    hashes.push(...body.items.map((item: { hash: string }) => item.hash));
  }
  return hashes;
}

async function streamNamed(name: string): Promise<TreeStream> {
  const { rows } = await service.adminPool.query('SELECT id, name FROM sealog.stream WHERE name = $1', [name]);
  return rows[0];
}

async function newStream(tenant: string): Promise<TreeStream> {
  const { rows } = await service.adminPool.query(
    `WITH t AS (INSERT INTO sealog.tenant (name) VALUES ($1) RETURNING id)
     INSERT INTO sealog.stream (tenant, category, epoch, name) SELECT id, 'data_access', 1, $1 || '/data_access' FROM t RETURNING id, name`,
    [tenant],
  );
  return rows[0];
}

async function insertRecords(stream: TreeStream, records: readonly Uint8Array[]): Promise<void> {
  const blocks = [];
  for (let at = 0, width = 1; at < records.length; at += width, width = ((width * 13) % 1021) + 1)
    blocks.push({ firstSeq: at, records: records.slice(at, at + width) });
  await insertBlocks(stream, blocks);
  const levels = [records.map(leafHash)];
  const rootOf = (hashes: readonly Uint8Array[]) => frontierRoot(hashes.length, appendLeaves(0, [], hashes));
  const tiles = fullTilesBetween(0, records.length).map(({ level, index }) => {
    const hashes = levels[level]!.slice(index * TILE_WIDTH, (index + 1) * TILE_WIDTH);
    const root = rootOf(hashes);
    levels[level + 1] ??= [];
    levels[level + 1]!.push(root);
    return { level, index, hashes: concatBytes(...hashes), root };
  });
  await service.adminPool.query(
    `INSERT INTO sealog.tile (tenant, stream, level, tile_index, hashes, root)
     SELECT s.tenant, s.id, t.* FROM sealog.stream AS s, unnest($2::smallint[], $3::bigint[], $4::bytea[], $5::bytea[]) AS t
     WHERE s.id = $1`,
    [
      stream.id,
      tiles.map(({ level }) => level),
      tiles.map(({ index }) => index),
      tiles.map(({ hashes }) => hashes),
      tiles.map(({ root }) => root),
    ],
  );
}

async function insertBlocks(
  stream: TreeStream,
  blocks: readonly { firstSeq: number; records: readonly Uint8Array[] }[],
): Promise<void> {
  await service.adminPool.query(
    `INSERT INTO sealog.block (tenant, stream, first_seq, entries, drop_month, recorded_from, recorded_to, occurred_from, occurred_to,
                               key_id, severity_min, severity_max, outcomes, records, parts, tags)
     SELECT s.tenant, s.id, b.first_seq, b.entries, 0, 0, 0, 0, 0, 1, -1, -1, 1, b.records, '', '{}'
     FROM sealog.stream AS s, unnest($2::bigint[], $3::integer[], $4::bytea[]) AS b (first_seq, entries, records) WHERE s.id = $1
     ON CONFLICT DO NOTHING`,
    [
      stream.id,
      blocks.map(({ firstSeq }) => firstSeq),
      blocks.map(({ records }) => records.length),
      blocks.map(({ records }) => packPayload(encodeRecords(records))),
    ],
  );
}

/** Damages the tables as nobody but the owner can, for as long as `work` takes. */
async function withDamage(
  damage: string,
  stream: TreeStream,
  work: (damaged: Kysely<Tables>) => Promise<void>,
): Promise<void> {
  // One connection, which stays in its transaction from one statement to the next.
  const pool = adminPool(service.database.adminConfig, { types: typesOfDatabase });
  const damaged = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  try {
    await pool.query('BEGIN; SET LOCAL ROLE sealog_owner');
    await pool.query(damage.replaceAll('$1', String(stream.id)));
    await work(damaged);
  } finally {
    await pool.query('ROLLBACK');
    await pool.end();
  }
}
