/**
 * How fast the full check is: `verifyLog` as `sealog verify --database` calls it, over the log that the service has sealed, while it is idle.
 *
 * The baseline is what no check can do without, on one thread: read the same rows (blocks, tiles, ids, tags) with node-postgres, take the records and
 * parts out of them (decompress, unseal, split), and take SHA-256 of each. `ready` is the harder one: the bytes of records and parts lie in memory
 * before the clock runs. Run as a process of its own (see client-process.ts) this file is any of the sides, so that none finds another's memory.
 */
import { hash } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { decodeParts, decodeRecords, unpackPayload } from '../src/chain/block.ts';
import { fromHex, fromUtf8 } from '../src/chain/bytes.ts';
import { isOpen } from '../src/chain/part.ts';
import { openSealed } from '../src/chain/seal.ts';
import { PartsThreads } from '../src/cli/parts-threads.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { BLOCK_COLUMNS } from '../src/store/block-row.ts';
import { keyById } from '../src/store/data-keys.ts';
import { type Database, openDatabase } from '../src/store/database.ts';
import { readOrigin } from '../src/store/deployment.ts';
import { readEmbeddedConnection } from '../src/store/embedded-postgres.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import { listStreams } from '../src/store/streams.ts';
import { verifyLog } from '../src/verify/verify-log.ts';
import { answerRequests, startClient } from './client-process.ts';
import { fillOnce } from './disk.ts';
import type { Measurement } from './measurement.ts';
import { compare, median, type Row } from './report.ts';

/** `verify` as the command does it, and on one thread alone; the baseline, and that with the bytes ready. */
const SIDES = ['verify', 'one thread', 'baseline', 'ready'] as const;
type Side = (typeof SIDES)[number];

type Request = { readonly do: 'prepare'; readonly side: Side; readonly dataDir: string } | { readonly do: 'round' };

/** Entries, and the seconds that they took; of `prepare` nothing. */
interface Result {
  readonly entries: number;
  readonly seconds: number;
}

/** Rounds whose code is still cold do not count. */
const WARM_UP = 2;

/** Over the log that holds every event once, as long as nothing else has been sent. */
export const verification: Measurement = {
  names: ['verify'],
  byDefault: ['verify'],
  async run({ options, shared, report }) {
    const bench = await shared();
    if (bench.acknowledged === 0) await fillOnce(bench);
    report(await measureVerification(bench.dataDir, options.rounds, options.smoke));
  },
};

/** Measures in turns. The log must hold what is to be verified. */
async function measureVerification(dataDir: string, rounds: number, smoke: boolean): Promise<Row> {
  const file = fileURLToPath(import.meta.url);
  const sides = SIDES.map((side) => ({ side, client: startClient<Request, Result>(file), rates: [] as number[] }));
  let entries = 0;
  try {
    for (const { side, client } of sides) await client.ask({ do: 'prepare', side, dataDir });
    for (let round = smoke ? 0 : -WARM_UP; round < rounds; round++) {
      for (const { client, rates } of round % 2 === 0 ? sides : sides.toReversed()) {
        const result = await client.ask({ do: 'round' });
        entries = result.entries;
        if (round >= 0) rates.push(entries / result.seconds);
      }
    }
  } finally {
    for (const { client } of sides) client.stop();
  }
  console.log(`\nverify: median (and each round), ${entries} entries`);
  for (const { side, rates } of sides) {
    const each = rates.map((rate) => rate.toFixed(0)).join(' ');
    console.log(`  ${side.padEnd(10)} ${median(rates).toFixed(0).padStart(7)}/s (${each})`);
  }
  const rate = (side: Side) => median(sides.find((one) => one.side === side)!.rates);
  const ratio = (a: Side, b: Side) => (rate(a) / rate(b)).toFixed(2);
  console.log(
    `  on one thread the ratio would be ${ratio('one thread', 'baseline')}, against bytes that lie ready ${ratio('verify', 'ready')}`,
  );
  return compare('verify', 'entries/s', rate('verify'), rate('baseline'));
}

if (import.meta.main) serve();

function serve(): void {
  let round: (() => Promise<number>) | undefined;
  answerRequests<Request, Result>(async (request) => {
    if (request.do === 'prepare') {
      const { side, dataDir } = request;
      if (side === 'verify' || side === 'one thread') round = await prepareVerify(dataDir, side === 'verify');
      else round = await prepareBaseline(dataDir, side === 'ready');
      return { entries: 0, seconds: 0 };
    }
    const began = performance.now();
    const entries = await round!();
    return { entries, seconds: (performance.now() - began) / 1000 };
  });
}

async function prepareVerify(dataDir: string, onThreads: boolean): Promise<() => Promise<number>> {
  const { database, keys } = await open(dataDir);
  const source = logWideSource(database.verifier, keys, (await readOrigin(database.verifier))!);
  const parts = onThreads ? new PartsThreads() : undefined;
  return async () => {
    const { verdict, entries, findings } = await verifyLog(source, { parts });
    if (verdict !== 'not_provable') throw new Error(`the log is ${verdict}: ${JSON.stringify(findings.slice(0, 3))}`);
    return entries;
  };
}

async function prepareBaseline(dataDir: string, isReady: boolean): Promise<() => Promise<number>> {
  const { database, keys, connection } = await open(dataDir);
  const client = new pg.Client({ ...connection, options: '-c role=sealog_verifier' });
  await client.connect();
  const streams = await listStreams(database.verifier);

  /** The bytes of the records and parts of a block. */
  const textsOf = async (
    stream: string,
    { records, parts, key_id: keyId }: pg.QueryResultRow,
  ): Promise<Uint8Array[]> => {
    const own = decodeRecords(unpackPayload(records));
    const { dataKey } = await keys.keysById(String(keyId));
    // What the parts are sealed with stands in the records.
    const hashes = own.map((bytes) => fromHex(PARTS_HASH.exec(fromUtf8(bytes))![1]!));
    const opened = decodeParts(unpackPayload(openSealed(dataKey, stream, hashes, parts)));
    return [...own, ...opened.flat().flatMap((part) => (isOpen(part) ? part.value : []))];
  };
  const hashAll = (texts: readonly Uint8Array[]): void => {
    // The form of the result that costs least.
    for (const text of texts) hash('sha256', text, 'hex');
  };

  const ready: Uint8Array[] = [];
  // In memory of their own, as the bytes of a value that was just read would be.
  for (const { id, name } of isReady ? streams : [])
    for await (const rows of pages(client, 'block', 'first_seq', id))
      for (const row of rows) ready.push(...(await textsOf(name, row)).map((bytes) => Buffer.from(bytes)));
  return async () => {
    let rows = 0;
    for (const { id, name } of streams) {
      for await (const page of pages(client, 'block', 'first_seq', id)) {
        rows += page.length;
        if (!isReady) for (const row of page) hashAll(await textsOf(name, row));
      }
      for await (const page of pages(client, 'tile', 'tile_index', id)) rows += page.length;
      for await (const page of pages(client, 'entry_id', 'first_seq', id)) rows += page.length;
    }
    hashAll(ready);
    if (rows === 0) throw new Error('there are no rows');
    return streams.reduce((sum, { size }) => sum + size, 0);
  };
}

const PARTS_HASH = /"parts":"([0-9a-f]{64})"/;

/** All rows of a stream in a table, some thousand at a time. */
async function* pages(client: pg.Client, table: string, column: string, stream: number) {
  const size = table === 'block' || table === 'tile' ? 32 : 2000;
  // Rows of an index have no order that is worth a sort: they are read by ranges of entries.
  const isIndex = table === 'entry_id';
  const columns = table === 'block' ? `${BLOCK_COLUMNS.join()}, array_send(tags) AS tags` : '*';
  const { rows: bounds } = await client.query({
    name: `bounds ${table}`,
    text: `SELECT coalesce(max(${column}), -1)::float8 AS last FROM sealog.${table} WHERE stream = $1`,
    values: [stream],
  });
  const { last } = bounds[0];
  for (let after = -1; after < last; ) {
    const { rows } = await client.query({
      name: `page ${table}`,
      text: isIndex
        ? `SELECT ${columns} FROM sealog.${table} WHERE stream = $1 AND ${column} > $2 AND ${column} <= $2 + $3::bigint`
        : `SELECT ${columns} FROM sealog.${table} WHERE stream = $1 AND ${column} > $2 ORDER BY ${column} LIMIT $3`,
      values: [stream, after, size],
    });
    if (!isIndex && rows.length === 0) return;
    yield rows;
    after = isIndex ? after + size : Number(rows.at(-1)[column]);
  }
}

async function open(dataDir: string): Promise<{ database: Database; keys: Keyring; connection: pg.ClientConfig }> {
  const running = await readEmbeddedConnection(dataDir);
  if (running === undefined) throw new Error('the service does not run');
  const { app, logins } = running;
  const database = openDatabase({ connection: app, logins, readersMax: 1, log: { warn: () => {} } });
  const keys = new Keyring(fileMonthKeys(join(dataDir, 'keys', 'months')), {
    findOrStore: () => Promise.reject(new Error('verification makes no keys')),
    byId: (id) => keyById(database.verifier, id),
  });
  return { database, keys, connection: logins.verifier };
}
