/**
 * Everything that the schema `sealog` holds, as COPY streams of one moment, while others go on writing; and the way back in
 * (`load.ts`). `sealog backup` keeps the streams as files, an upgrade of the embedded server pours them into the next one.
 *
 * One long snapshot would be simplest, and would slow every commit: the heads of streams are updated in place, and what a snapshot may still see
 * is not cleared away (one of 24 s took four fifths of the throughput). So the moment is that of one short transaction, which reads all tables
 * but the few large ones, heads among them. The large ones only grow, and are read in pieces, each in a transaction of its own:
 *
 * - `block` and `tile` by place: exactly the entries before the heads of that moment.
 * - `entry_id`, `anchor_leaf` and `outside_evidence` page by page of their files: what was there is there, and what came since is left out
 *   when it is loaded: it lies behind the heads (`load.ts`).
 *
 * Meanwhile a second connection holds every table with a lock that only their removal waits for: nothing is pruned, and no migration changes
 * them, before the dump has ended. It holds no snapshot. An erasure may come in between: a block is then read without the parts, and the
 * signer's ledger makes the rest of it good.
 */
import type { Readable } from 'node:stream';
import pg from 'pg';
import { toHex } from '../chain/bytes.ts';
import { decodeFrontier, frontierRoot } from '../chain/merkle.ts';
import { EvidenceError, SettingsError } from '../errors.ts';
import { PEER_OPTIONS } from './bounded-client.ts';
import { copyOut } from './copy-stream.ts';
import { typesOfDatabase } from './database.ts';
import { BACKUP_LOCK, knownMigrations, newerSchema } from './migrate.ts';

/** A stream at the moment of the dump. */
export interface DumpedHead {
  readonly stream: string;
  readonly size: number;
  /** Hex. */
  readonly root: string;
}

export interface DumpFacts {
  readonly origin: string | null;
  /** The database's clock at the moment, milliseconds since 1970. */
  readonly takenAt: number;
  readonly serverVersion: string;
  readonly migrations: readonly string[];
  /** Partitions. */
  readonly dropMonths: readonly number[];
  /** Columns of each table, in the order of the streams. */
  readonly tables: Readonly<Record<string, readonly string[]>>;
  /** Last numbers of identity columns, by `table.column`. */
  readonly sequences: Readonly<Record<string, number>>;
  readonly heads: readonly DumpedHead[];
}

/** Rows of one table, as `COPY … WITH (FORMAT binary)` has them. The stream MUST be read to its end before the next piece is asked for. */
export interface DumpPiece {
  readonly table: string;
  readonly stream: Readable;
  readonly rows: Promise<number>;
}

export interface Dump {
  readonly facts: DumpFacts;
  pieces(): AsyncIterable<DumpPiece>;
  close(): Promise<void>;
}

/** What a dump is made of, and one that is loaded is made of again. */
export const BY_PLACE = ['block', 'tile'] as const;
/** The table `tag` is of schemas before 0017. */
export const BY_PAGE = ['tag', 'entry_id', 'anchor_leaf', 'outside_evidence'] as const;
/** Made by migrations. */
const NOT_DUMPED = ['migration', 'migration_lock'];

/** What one statement reads: about a second's work. */
export interface PieceSizes {
  readonly entries: number;
  readonly streams: number;
  /** Of a table's file. */
  readonly pages: number;
}
const PIECE_SIZES: PieceSizes = { entries: 200_000, streams: 2000, pages: 16_384 };
const CONNECT_MAX_MS = 10_000;
/** Of a receiver that does not go on, and of a statement that waits for a migration. */
const STATEMENT_MAX_MS = 10 * 60_000;
const LOCK_WAIT_MAX_MS = 60_000;

/**
 * Opens a dump: the connection MUST be a role's that may read everything, as the one that migrates.
 *
 * @throws SettingsError where it may not, or where there is no log
 */
export async function openDump(connection: pg.ClientConfig, sizes: PieceSizes = PIECE_SIZES): Promise<Dump> {
  const keeper = await connect(connection, BACKUP_LOCK);
  let reader: pg.Client | undefined;
  const close = async (): Promise<void> => {
    await Promise.all([keeper.end().catch(() => {}), reader?.end().catch(() => {})]);
  };
  try {
    // The table of migrations is whose who migrates, and not the owner's.
    const migrations = await migrationsOf(keeper);
    await actAsReader(keeper);
    await keeper.query(`SET idle_in_transaction_session_timeout = 0; SET lock_timeout = ${LOCK_WAIT_MAX_MS}; BEGIN`);
    // Those of tables that have not been dropped meanwhile, partitions among them: nothing goes while we read.
    for (const { name } of (await keeper.query<{ name: string }>(TABLES_TO_LOCK, [NOT_DUMPED])).rows)
      await keeper.query(`LOCK TABLE sealog.${pg.escapeIdentifier(name)} IN ACCESS SHARE MODE`);
    reader = await connect(connection, 'sealog_backup');
    await actAsReader(reader);
    const client = reader;
    await client.query(READ_AT_ONCE);
    const facts = { ...(await readFacts(client)), migrations };
    return { facts, pieces: () => pieces(client, facts, sizes), close };
  } catch (error) {
    await close();
    if (error instanceof pg.DatabaseError && error.code === '42501')
      throw new SettingsError([
        `the role in DATABASE_URL may not read everything (${error.message}): take the one that migrates`,
      ]);
    throw error;
  }
}

const READ_AT_ONCE = 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY';

const TABLES_TO_LOCK = `SELECT relname::text AS name FROM pg_catalog.pg_class
  WHERE relnamespace = 'sealog'::regnamespace AND relkind IN ('r', 'p') AND relname <> ALL ($1) ORDER BY relname`;

async function connect(connection: pg.ClientConfig, name: string): Promise<pg.Client> {
  const client = new pg.Client({
    ...connection,
    types: typesOfDatabase,
    application_name: name,
    ...PEER_OPTIONS,
    connectionTimeoutMillis: CONNECT_MAX_MS,
    options: `-c search_path=pg_catalog -c statement_timeout=${STATEMENT_MAX_MS} -c timezone=UTC`,
  });
  client.on('error', () => {});
  await client.connect();
  return client;
}

/** Returns the migrations that the database has. Throws a SettingsError where there is no log, or one of a newer version. */
async function migrationsOf(client: pg.Client): Promise<string[]> {
  const { rows: schema } = await client.query("SELECT FROM pg_class WHERE oid = to_regclass('sealog.migration')");
  if (schema.length === 0) throw new SettingsError(['there is no log in this database']);
  const known = await knownMigrations();
  const { rows } = await client.query<{ name: string }>('SELECT name FROM sealog.migration ORDER BY name');
  const names = rows.map(({ name }) => name);
  const newer = names.filter((name) => !known.includes(name));
  if (newer.length > 0) throw newerSchema(newer);
  return names;
}

/**
 * Row-level security must hide nothing. Whom it binds acts as the owner, who sees every row by a policy; for everybody else it is an error, not
 * a shorter dump, where it would hide one.
 */
async function actAsReader(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ bypasses: boolean }>(
    'SELECT rolsuper OR rolbypassrls AS bypasses FROM pg_roles WHERE rolname = session_user',
  );
  await client.query(rows[0]?.bypasses === true ? 'SET row_security = off' : 'SET ROLE sealog_owner');
}

async function readFacts(client: pg.Client): Promise<Omit<DumpFacts, 'migrations'>> {
  const [about] = (
    await client.query<{ origin: string | null; taken_at: number; version: string }>(
      `SELECT (SELECT origin FROM sealog.deployment) AS origin, current_setting('server_version') AS version,
              floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS taken_at`,
    )
  ).rows;
  // The CHECK of a partition names its month; so does its bound.
  const months = await client.query<{ month: number }>(
    `SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM '\\((\\d+)\\)')::integer AS month
     FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'sealog.block'::regclass ORDER BY 1`,
  );
  const columns = await client.query<{ table: string; columns: string[] }>(
    `SELECT c.relname::text AS table, array_agg(a.attname::text ORDER BY a.attnum) AS columns
     FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
     WHERE c.relnamespace = 'sealog'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0
       AND NOT a.attisdropped AND a.attgenerated = '' AND c.relname <> ALL ($1) GROUP BY 1 ORDER BY 1`,
    [NOT_DUMPED],
  );
  return {
    origin: about!.origin,
    takenAt: about!.taken_at,
    serverVersion: about!.version,
    dropMonths: months.rows.map(({ month }) => month),
    tables: Object.fromEntries(columns.rows.map((row) => [row.table, row.columns])),
    sequences: await readSequences(client),
    heads: await readHeads(client),
  };
}

async function readSequences(client: pg.Client): Promise<Record<string, number>> {
  const { rows } = await client.query<{ name: string; sequence: string }>(
    `SELECT c.relname || '.' || a.attname AS name, pg_get_serial_sequence(format('sealog.%I', c.relname), a.attname) AS sequence
     FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
     WHERE c.relnamespace = 'sealog'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition AND a.attidentity <> '' ORDER BY 1`,
  );
  const sequences: Record<string, number> = {};
  for (const { name, sequence } of rows) {
    const [last] = (
      await client.query<{ last: number; used: boolean }>(
        `SELECT last_value AS last, is_called AS used FROM ${sequence}`,
      )
    ).rows;
    if (last?.used === true) sequences[name] = last.last;
  }
  return sequences;
}

/** A stream whose row is not sound is dumped like any other: verification says what is wrong with it. */
async function readHeads(client: pg.Client): Promise<DumpedHead[]> {
  const { rows } = await client.query<{ stream: string; size: number; frontier: Buffer }>(
    'SELECT name AS stream, size, frontier FROM sealog.stream ORDER BY id',
  );
  return rows.map(({ stream, size, frontier }) => {
    try {
      return { stream, size, root: toHex(frontierRoot(size, decodeFrontier(size, frontier))) };
    } catch (error) {
      if (error instanceof EvidenceError) return { stream, size, root: '' };
      throw error;
    }
  });
}

async function* pieces(
  client: pg.Client,
  { tables, dropMonths }: DumpFacts,
  sizes: PieceSizes,
): AsyncGenerator<DumpPiece> {
  const isLarge = (table: string): boolean => [...BY_PLACE, ...BY_PAGE].some((one) => one === table);
  for (const table of await inOrder(client, Object.keys(tables)))
    if (!isLarge(table)) yield piece(client, table, `SELECT ${listed(tables[table]!)} FROM sealog.${quoted(table)}`);
  const ranges = await placesToRead(client, sizes);
  const evidenceMax = (
    await client.query<{ last: number }>('SELECT coalesce(max(id), 0) AS last FROM sealog.outside_evidence')
  ).rows[0]!.last;
  // What is read from here on, nobody has to keep for us.
  await client.query('COMMIT');
  await client.query('SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off');
  for (const range of ranges)
    for (const table of BY_PLACE) yield piece(client, table, selectByPlace(table, tables[table]!, range));
  await client.query('RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin');
  for (const table of BY_PAGE) {
    if (tables[table] === undefined) continue;
    const parts = ['tag', 'entry_id'].includes(table)
      ? dropMonths.map((month) => `${table}_${partitionOf(month)}`)
      : [table];
    for (const part of parts) {
      const { rows } = await client.query<{ pages: number }>(
        `SELECT pg_relation_size('sealog.${quoted(part)}') / current_setting('block_size')::bigint AS pages`,
      );
      const known = table === 'outside_evidence' ? ` AND id <= ${evidenceMax}` : '';
      for (let page = 0; page < rows[0]!.pages; page += sizes.pages)
        yield piece(
          client,
          table,
          `SELECT ${listed(tables[table]!)} FROM sealog.${quoted(part)}
           WHERE ctid >= '(${page},0)' AND ctid < '(${page + sizes.pages},0)'${known}`,
        );
    }
  }
}

function piece(client: pg.Client, table: string, select: string): DumpPiece {
  return { table, ...copyOut(client, `COPY (${select}) TO STDOUT WITH (FORMAT binary)`) };
}

/** Entries of a stream from `from` up to, not including, `to`. */
interface PlaceRange {
  readonly stream: number;
  readonly from: number;
  readonly to: number;
}

/** Returns all entries that there are, in groups that one statement reads. */
async function placesToRead(client: pg.Client, sizes: PieceSizes): Promise<PlaceRange[][]> {
  const { rows } = await client.query<{ id: number; size: number }>(
    'SELECT id, size FROM sealog.stream WHERE size > 0 ORDER BY id',
  );
  const groups: PlaceRange[][] = [];
  let group: PlaceRange[] = [];
  let entries = 0;
  for (const { id, size } of rows) {
    for (let from = 0; from < size; ) {
      const to = Math.min(size, from + sizes.entries - entries);
      group.push({ stream: id, from, to });
      entries += to - from;
      from = to;
      if (entries < sizes.entries && group.length < sizes.streams) continue;
      groups.push(group);
      group = [];
      entries = 0;
    }
  }
  return group.length === 0 ? groups : [...groups, group];
}

/** Blocks that begin in the ranges; tiles whose last entry is in them. */
function selectByPlace(table: 'block' | 'tile', columns: readonly string[], ranges: readonly PlaceRange[]): string {
  const values = ranges.map(({ stream, from, to }) => `(${stream}, ${from}::bigint, ${to}::bigint)`).join(', ');
  const wanted = `(VALUES ${values}) AS r (stream, first, past)`;
  const own = columns.map((column) => `x.${quoted(column)}`).join(', ');
  if (table === 'block')
    return `SELECT ${own} FROM ${wanted} JOIN sealog.block AS x ON x.stream = r.stream AND x.first_seq >= r.first AND x.first_seq < r.past`;
  return `SELECT ${own} FROM ${wanted}
    CROSS JOIN (VALUES (0, 256::numeric), (1, 65536), (2, 16777216), (3, 4294967296), (4, 1099511627776), (5, 281474976710656),
                       (6, 72057594037927936)) AS l (level, entries)
    JOIN sealog.tile AS x ON x.stream = r.stream AND x.level = l.level AND x.tile_index >= div(r.first, l.entries)::bigint
      AND x.tile_index < div(r.past, l.entries)::bigint`;
}

/** Tables before those that refer to them. */
export async function inOrder(client: pg.ClientBase, tables: readonly string[]): Promise<string[]> {
  const { rows } = await client.query<{ table: string; needs: string }>(
    `SELECT DISTINCT c.conrelid::regclass::text AS table, c.confrelid::regclass::text AS needs FROM pg_constraint AS c
     WHERE c.contype = 'f' AND c.connamespace = 'sealog'::regnamespace AND c.conrelid <> c.confrelid`,
  );
  const needs = Map.groupBy(rows, ({ table }) => table.replace(/^sealog\./, ''));
  const sorted: string[] = [];
  const visit = (table: string): void => {
    if (sorted.includes(table) || !tables.includes(table)) return;
    for (const one of needs.get(table) ?? []) visit(one.needs.replace(/^sealog\./, ''));
    sorted.push(table);
  };
  for (const table of tables) visit(table);
  return sorted;
}

/** As `ensure_drop_month` names it. */
function partitionOf(month: number): string {
  return month === 0 ? 'for_ever' : month === 1 ? 'held' : String(month);
}

function quoted(name: string): string {
  return pg.escapeIdentifier(name);
}

export function listed(columns: readonly string[]): string {
  return columns.map(quoted).join(', ');
}
