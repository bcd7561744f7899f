/**
 * The baselines: what the same PostgreSQL does with the same events without Sealog. Each is one SQL file in `baseline/`.
 * Run as a process of its own (see client-process.ts) it is their load client, an application that uses node-postgres.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Client } from 'pg';
import { copyIn } from '../src/store/copy-stream.ts';
import { answerRequests } from './client-process.ts';
import { type BenchEvent, type EventSource, loadEvents, markId, markText, passMark } from './corpus.ts';
import { type RoundPlan, type RoundResult, runRound } from './round.ts';

/** Where the baseline's database is: `host` may be the folder of a Unix socket. */
export interface Connection {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password?: string;
  readonly database: string;
}

/**
 * `audit-table`: the insert of 500 as an application calls it, with JavaScript arrays.
 * `audit-table-encoded`: the same statement, its parameters encoded before the clock runs (binary arrays, as some drivers send them), so that
 * only the server's work is left. `application-chain`: one event a transaction, behind the lock.
 * `copy`: the JSON text of a batch by COPY into one column. `commit`: that of one event, and its COMMIT.
 */
export type BaselineName = 'audit-table' | 'audit-table-encoded' | 'application-chain' | 'copy' | 'commit';

export type BaselineRequest =
  | { readonly do: 'prepare'; readonly events: EventSource; readonly connection: Connection }
  | ({
      readonly do: 'round';
      readonly baseline: BaselineName;
      readonly batch: number;
      readonly kind: string;
      readonly round: number;
    } & RoundPlan);

export type BaselineResult = RoundResult | null;

/** The statements of a baseline's file, by the name in its `-- name:` lines. */
export type Statements = Readonly<Record<string, string>>;

const FILES = ['audit-table', 'application-chain', 'one-column'] as const;

/** Reads `baseline/<file>.sql`. */
export function readStatements(file: (typeof FILES)[number]): Statements {
  const sql = readFileSync(new URL(`baseline/${file}.sql`, import.meta.url), 'utf8');
  const statements: Record<string, string> = {};
  for (const part of sql.split(/^-- name: */m).slice(1)) {
    const end = part.indexOf('\n');
    statements[part.slice(0, end).trim()] = part.slice(end + 1).trim();
  }
  return statements;
}

/** Makes the baselines' tables in an empty database. */
export async function createTables(connection: Connection): Promise<void> {
  await withClient(connection, async (client) => {
    for (const file of FILES) await client.query(statement(readStatements(file), 'schema'));
  });
}

/** The plans of what the baselines execute, with what it cost, run on these events in a transaction that is rolled back. */
export async function explainBaselines(
  connection: Connection,
  events: readonly BenchEvent[],
): Promise<{ name: string; plan: string }[]> {
  const table = readStatements('audit-table');
  const chain = readStatements('application-chain');
  const mark = passMark('x', 0, 0);
  const zero = Buffer.alloc(32);
  return withClient(connection, async (client) => {
    const last = await client.query<{ seq: string }>(statement(chain, 'last'));
    const lastSeq = BigInt(last.rows[0]?.seq ?? -1);
    const explained: [name: string, sql: string, values: unknown[]][] = [
      ['audit-table: insert', statement(table, 'insert'), tableValues(events, mark)],
      ['application-chain: last', statement(chain, 'last'), []],
      ['application-chain: insert', statement(chain, 'insert'), chainValues(events[0]!, mark, lastSeq, zero, zero)],
    ];
    const plans: { name: string; plan: string }[] = [];
    for (const [name, sql, values] of explained) {
      await client.query('BEGIN');
      const { rows } = await client.query<{ 'QUERY PLAN': string }>(`EXPLAIN (ANALYZE, BUFFERS, WAL) ${sql}`, values);
      await client.query('ROLLBACK');
      plans.push({ name, plan: rows.map((row) => row['QUERY PLAN']).join('\n') });
    }
    return plans;
  });
}

/** Runs `work` on a connection of its own. */
export async function withClient<T>(connection: Connection, work: (client: Client) => Promise<T>): Promise<T> {
  const client = await openClient(connection);
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

if (import.meta.main) serve();

function serve(): void {
  let events: BenchEvent[] = [];
  let connection: Connection | undefined;
  const encoded = new Map<number, EncodedBatch[]>();
  const copies = new Map<number, CopyBatch[]>();

  answerRequests<BaselineRequest, BaselineResult>(async (request) => {
    if (request.do === 'prepare') {
      events = loadEvents(request.events);
      ({ connection } = request);
      encoded.clear();
      copies.clear();
      return null;
    }
    const clients = await connectAll(connection!, request.connections);
    try {
      switch (request.baseline) {
        case 'application-chain':
          return await chainRound(request, events, clients);
        case 'audit-table':
          return await tableRound(request, events, clients);
        case 'audit-table-encoded':
          if (!encoded.has(request.batch)) encoded.set(request.batch, encodeBatches(events, request.batch));
          return await encodedTableRound(request, encoded.get(request.batch)!, clients);
        case 'copy':
          if (!copies.has(request.batch)) copies.set(request.batch, copyBatches(events, request.batch));
          return await copyRound(request, copies.get(request.batch)!, clients);
        case 'commit':
          return await commitRound(request, events, clients);
        default: {
          const never: never = request.baseline;
          throw new Error(`unknown baseline ${never}`);
        }
      }
    } finally {
      await Promise.all(clients.map((client) => client.end()));
    }
  });
}

type BaselineRound = Extract<BaselineRequest, { do: 'round' }>;

function tableRound(
  round: BaselineRound,
  events: readonly BenchEvent[],
  clients: readonly Client[],
): Promise<RoundResult> {
  const insert = { name: 'insert', text: statement(readStatements('audit-table'), 'insert') };
  const next = passes(round, Math.ceil(events.length / round.batch));
  return runRound(round, async (index) => {
    const turn = next();
    if (turn === undefined) return 0;
    const batch = events.slice(turn.index * round.batch, (turn.index + 1) * round.batch);
    await clients[index]!.query({ ...insert, values: tableValues(batch, turn.mark) });
    return batch.length;
  });
}

function encodedTableRound(
  round: BaselineRound,
  batches: readonly EncodedBatch[],
  clients: readonly Client[],
): Promise<RoundResult> {
  const insert = { name: 'insert', text: statement(readStatements('audit-table'), 'insert') };
  const next = passes(round, batches.length);
  return runRound(round, async (index) => {
    const turn = next();
    if (turn === undefined) return 0;
    const { values, idMarks, bodyMarks } = batches[turn.index]!;
    const mark = Buffer.from(turn.mark);
    for (const at of idMarks) mark.copy(values[0]!, at);
    for (const at of bodyMarks) mark.copy(values.at(-1)!, at);
    await clients[index]!.query({ ...insert, values: [...values] });
    return idMarks.length;
  });
}

function chainRound(
  round: BaselineRound,
  events: readonly BenchEvent[],
  clients: readonly Client[],
): Promise<RoundResult> {
  const sql = readStatements('application-chain');
  const begin = statement(sql, 'begin');
  const commit = statement(sql, 'commit');
  const lock = { name: 'lock', text: statement(sql, 'lock') };
  const last = { name: 'last', text: statement(sql, 'last') };
  const insert = { name: 'insert', text: statement(sql, 'insert') };
  const next = passes(round, events.length);
  return runRound(round, async (index) => {
    const turn = next();
    if (turn === undefined) return 0;
    const client = clients[index]!;
    const event = events[turn.index]!;
    await client.query(begin);
    await client.query(lock);
    const { rows } = await client.query<{ seq: string; hash: Buffer }>(last);
    const previous = rows[0] ?? { seq: '-1', hash: Buffer.alloc(32) };
    const hash = createHash('sha256').update(previous.hash).update(markText(event, turn.mark)).digest();
    await client.query({ ...insert, values: chainValues(event, turn.mark, BigInt(previous.seq), previous.hash, hash) });
    await client.query(commit);
    return 1;
  });
}

function copyRound(
  round: BaselineRound,
  batches: readonly CopyBatch[],
  clients: readonly Client[],
): Promise<RoundResult> {
  const copy = statement(readStatements('one-column'), 'copy');
  const next = passes(round, batches.length);
  return runRound(round, async (index) => {
    const turn = next();
    if (turn === undefined) return 0;
    const { rows, marks } = batches[turn.index]!;
    const mark = Buffer.from(turn.mark);
    for (const at of marks) mark.copy(rows, at);
    return copyIn(clients[index]!, copy, once(rows));
  });
}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}

function commitRound(
  round: BaselineRound,
  events: readonly BenchEvent[],
  clients: readonly Client[],
): Promise<RoundResult> {
  const insert = { name: 'commit', text: statement(readStatements('one-column'), 'insert') };
  const next = passes(round, events.length);
  return runRound(round, async (index) => {
    const turn = next();
    if (turn === undefined) return 0;
    await clients[index]!.query({ ...insert, values: [markText(events[turn.index]!, turn.mark)] });
    return 1;
  });
}

/** The turns of a round: an index below `count` and the mark of the pass, again from the start unless the round is one pass. */
function passes(round: BaselineRound, count: number): () => { index: number; mark: string } | undefined {
  let index = 0;
  let pass = 0;
  let turns = 0;
  return () => {
    if (turns++ * round.batch >= (round.events ?? Number.POSITIVE_INFINITY)) return undefined;
    if (index === count) {
      if (round.seconds === undefined && round.events === undefined) return undefined;
      index = 0;
      pass += 1;
    }
    return { index: index++, mark: passMark(round.kind, round.round, pass) };
  };
}

function tableValues(events: readonly BenchEvent[], mark: string): (string | null)[][] {
  return [
    events.map((event) => markId(event, mark)),
    events.map((event) => event.occurredAt),
    events.map((event) => event.actor),
    events.map((event) => event.target),
    events.map((event) => event.action),
    events.map((event) => markText(event, mark)),
  ];
}

function chainValues(event: BenchEvent, mark: string, lastSeq: bigint, previous: Buffer, hash: Buffer): unknown[] {
  const { occurredAt, actor, target, action } = event;
  return [lastSeq + 1n, markId(event, mark), occurredAt, actor, target, action, markText(event, mark), previous, hash];
}

/** A batch as the parameters of `insert`, each a text[] in PostgreSQL's binary form, and where the marks stand in the first and the last. */
interface EncodedBatch {
  readonly values: readonly Buffer[];
  readonly idMarks: readonly number[];
  readonly bodyMarks: readonly number[];
}

function encodeBatches(events: readonly BenchEvent[], size: number): EncodedBatch[] {
  const batches: EncodedBatch[] = [];
  for (let from = 0; from < events.length; from += size) {
    const batch = events.slice(from, from + size);
    const columns = tableValues(batch, passMark('x', 0, 0)).map(encodeTextArray);
    batches.push({
      values: columns.map((column) => column.bytes),
      idMarks: batch.map((event, index) => columns[0]!.starts[index]! + event.markInId),
      bodyMarks: batch.map((event, index) => columns.at(-1)!.starts[index]! + event.markInText),
    });
  }
  return batches;
}

/** A batch as the rows of COPY's text format, and where the marks stand in them. */
interface CopyBatch {
  readonly rows: Buffer;
  readonly marks: readonly number[];
}

function copyBatches(events: readonly BenchEvent[], size: number): CopyBatch[] {
  const batches: CopyBatch[] = [];
  for (let from = 0; from < events.length; from += size) {
    const marks: number[] = [];
    const rows: Buffer[] = [];
    let at = 0;
    for (const { text, markInText } of events.slice(from, from + size)) {
      // JSON on one line holds no other character that COPY takes for its own, and none before the mark.
      const row = Buffer.from(`${text.replaceAll('\\', '\\\\')}\n`);
      marks.push(at + markInText);
      rows.push(row);
      at += row.length;
    }
    batches.push({ rows: Buffer.concat(rows), marks });
  }
  return batches;
}

const TEXT_OID = 25;

/** Encodes a one-dimensional text[] as `array_recv` reads it: dimensions, has-null, element type, length, lower bound, then length-prefixed elements. */
function encodeTextArray(values: readonly (string | null)[]): { bytes: Buffer; starts: number[] } {
  const head = Buffer.alloc(20);
  for (const [index, field] of [1, values.includes(null) ? 1 : 0, TEXT_OID, values.length, 1].entries()) {
    head.writeInt32BE(field, index * 4);
  }
  const parts = [head];
  const starts: number[] = [];
  let at = head.length;
  for (const value of values) {
    const bytes = Buffer.from(value ?? '');
    const length = Buffer.alloc(4);
    length.writeInt32BE(value === null ? -1 : bytes.length);
    parts.push(length, bytes);
    starts.push(at + length.length);
    at += length.length + bytes.length;
  }
  return { bytes: Buffer.concat(parts), starts };
}

function connectAll(connection: Connection, count: number): Promise<Client[]> {
  return Promise.all(Array.from({ length: count }, () => openClient(connection)));
}

export async function openClient(connection: Connection): Promise<Client> {
  const client = new Client(connection);
  // A connection that ends fails its query, if it has one; without a listener it would end the process before anything is cleaned up.
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

function statement(statements: Statements, name: string): string {
  const sql = statements[name];
  if (sql === undefined) throw new Error(`a baseline's file has no statement ${name}`);
  return sql;
}
