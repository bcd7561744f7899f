/** The measurements: throughput in rounds, service and baselines taking turns, and the size on disk. */
import type { Client as DatabaseClient } from 'pg';
import {
  type BaselineName,
  type BaselineRequest,
  type BaselineResult,
  type Connection,
  withClient,
} from './baselines.ts';
import type { Client } from './client-process.ts';
import type { HttpRequest, HttpResult } from './http-load.ts';
import { cpuSeconds } from './machine.ts';
import { compare, describeSamples, median, type Row, type Sample } from './report.ts';
import type { RoundPlan, RoundResult } from './round.ts';

/** What a measurement works with. */
export interface Stage {
  readonly servicePid: number;
  readonly databasePid: number;
  /** The service's database, as its superuser. */
  readonly database: DatabaseClient;
  readonly baselineConnection: Connection;
  readonly load: Client<HttpRequest, HttpResult>;
  readonly plain: Client<BaselineRequest, BaselineResult>;
  /** Measured seconds of a round; undefined: each round is one pass over the events. */
  readonly seconds: number | undefined;
  readonly rounds: number;
  /** What the service has acknowledged so far. */
  acknowledged: number;
}

/** A throughput and what it is compared with. `kind` is one letter and keeps the ids of one measurement apart from another's. */
export interface Throughput {
  readonly name: string;
  readonly kind: string;
  readonly batch: number;
  readonly connections: number;
  readonly baseline: Baseline;
  /** A second baseline, reported beside the first; the ratio is not its. */
  readonly reference?: Baseline;
}

interface Baseline {
  readonly name: BaselineName;
  readonly kind: string;
  readonly connections: number;
}

export const THROUGHPUTS: readonly Throughput[] = [
  {
    name: 'ingest.batch',
    kind: 'b',
    batch: 500,
    connections: 4,
    baseline: { name: 'audit-table', kind: 'b', connections: 4 },
    reference: { name: 'audit-table-encoded', kind: 'e', connections: 4 },
  },
  {
    name: 'ingest.single',
    kind: 's',
    batch: 1,
    connections: 64,
    baseline: { name: 'application-chain', kind: 's', connections: 16 },
  },
];

/** Measures in rounds, and prints each side's figures. Who begins alternates, so that no one always finds the machine as the other left it. */
export async function measureThroughput(stage: Stage, throughput: Throughput): Promise<Row> {
  const { name, baseline, reference } = throughput;
  const samples: { service: Sample[]; baseline: Sample[]; reference: Sample[] } = {
    service: [],
    baseline: [],
    reference: [],
  };
  for (let round = 0; round < stage.rounds; round++) {
    const turns = [
      async () => samples.service.push(await serviceRound(stage, throughput, round)),
      async () => samples.baseline.push(await baselineRound(stage, throughput, baseline, round)),
    ];
    if (round % 2 === 1) turns.reverse();
    for (const turn of turns) await turn();
    if (reference !== undefined) samples.reference.push(await baselineRound(stage, throughput, reference, round));
  }
  console.log(`\n${name}: median (and each round)`);
  console.log(describeSamples(`Sealog, ${throughput.connections} connections`, samples.service));
  console.log(describeSamples(`${baseline.name}, ${baseline.connections} connections`, samples.baseline));
  if (reference !== undefined) {
    console.log(describeSamples(reference.name, samples.reference));
    const ratio = medianRate(samples.service) / medianRate(samples.reference);
    console.log(`  against ${reference.name} the ratio would be ${ratio.toFixed(2)}`);
  }
  return compare(name, 'events/s', medianRate(samples.service), medianRate(samples.baseline));
}

/** Loads all events once into either side's empty tables and compares what they take. It warms both sides up, too. */
export async function measureDisk(stage: Stage): Promise<Row[]> {
  const { database, plain, load } = stage;
  const shape = { do: 'round', batch: 500, kind: 'd', round: 0, connections: 4, warmup: 0 } as const;
  const empty = await relationSizes(database);
  const own = await observe(
    stage,
    { client: load.pid, service: stage.servicePid },
    async () => (await load.ask(shape)) as RoundResult,
  );
  stage.acknowledged += own.result.acknowledged;
  const table = await observe(
    stage,
    { client: plain.pid },
    async () => (await plain.ask({ ...shape, baseline: 'audit-table' })) as RoundResult,
  );
  await database.query('CHECKPOINT');
  const relations = await relationSizes(database);
  const plainRelations = await withClient(stage.baselineConnection, (client) => relationSizes(client, 'audit_event'));
  const ownBytes = totalSize(relations) / own.result.acknowledged;
  const tableBytes = totalSize(plainRelations) / table.result.acknowledged;

  console.log(
    `\ndisk: ${own.result.acknowledged} events in batches of 500, each once; bytes/event by table (table with TOAST, indexes)`,
  );
  for (const { name, table: heap, indexes } of [...relations.slice(0, 8), ...plainRelations]) {
    const perEvent = (bytes: number) => (bytes / own.result.acknowledged).toFixed(0).padStart(6);
    console.log(`  ${name.padEnd(24)} ${perEvent(heap)} ${perEvent(indexes)}`);
  }
  console.log(
    `  of Sealog's ${ownBytes.toFixed(0)} bytes/event ${(totalSize(empty) / own.result.acknowledged).toFixed(0)} were there before the first event`,
  );
  return [
    compare('disk', 'bytes/event', ownBytes, tableBytes),
    compare('disk.wal', 'bytes/event', own.sample.wal, table.sample.wal),
  ];
}

/** Sends each event once, in batches. */
export async function fillOnce(stage: Stage): Promise<void> {
  const plan = { do: 'round', batch: 500, kind: 'd', round: 0, connections: 4, warmup: 0 } as const;
  stage.acknowledged += ((await stage.load.ask(plan)) as RoundResult).acknowledged;
}

async function serviceRound(stage: Stage, { kind, batch, connections }: Throughput, round: number): Promise<Sample> {
  const { result, sample } = await observe(
    stage,
    { client: stage.load.pid, service: stage.servicePid },
    async () =>
      (await stage.load.ask({ do: 'round', kind, batch, round, ...roundPlan(stage, connections) })) as RoundResult,
  );
  stage.acknowledged += result.acknowledged;
  return sample;
}

async function baselineRound(stage: Stage, { batch }: Throughput, baseline: Baseline, round: number): Promise<Sample> {
  const { kind, name, connections } = baseline;
  const { sample } = await observe(
    stage,
    { client: stage.plain.pid },
    async () =>
      (await stage.plain.ask({
        do: 'round',
        baseline: name,
        kind,
        batch,
        round,
        ...roundPlan(stage, connections),
      })) as RoundResult,
  );
  return sample;
}

function roundPlan({ seconds }: Stage, connections: number): RoundPlan {
  return seconds === undefined
    ? { connections, warmup: 0 }
    : { connections, warmup: Math.min(1, seconds / 4), seconds };
}

/** Runs a round between two looks at the write-ahead log and the processors. It begins after a checkpoint, so that no one pays for the other's. */
async function observe(
  { database, databasePid }: Stage,
  processes: Readonly<Record<string, number>>,
  run: () => Promise<RoundResult>,
): Promise<{ result: RoundResult; sample: Sample }> {
  const watched = Object.entries({ ...processes, database: databasePid });
  await database.query('CHECKPOINT');
  const lsn = await walPosition(database);
  const before = watched.map(([, pid]) => cpuSeconds(pid));
  const result = await run();
  const after = watched.map(([, pid]) => cpuSeconds(pid));
  const written = (await walPosition(database)) - lsn;
  const cpu = watched.map(
    ([name], index) => [name, ((after[index]! - before[index]!) * 1e6) / result.acknowledged] as const,
  );
  const sample: Sample = {
    rate: result.events / result.seconds,
    p50: result.p50,
    p99: result.p99,
    wal: Number(written) / result.acknowledged,
    cpu: Object.fromEntries(cpu),
  };
  return { result, sample };
}

/** Bytes of write-ahead log since the cluster was made. */
async function walPosition(database: DatabaseClient): Promise<bigint> {
  const { rows } = await database.query<{ bytes: string }>(
    `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS bytes`,
  );
  return BigInt(rows[0]!.bytes);
}

interface RelationSize {
  readonly name: string;
  /** Bytes with TOAST and maps. */
  readonly table: number;
  readonly indexes: number;
}

/** The tables of a database, or one of them, partitions counted under their root; the largest first. */
async function relationSizes(database: DatabaseClient, only?: string): Promise<RelationSize[]> {
  const { rows } = await database.query<{ name: string; table: string; indexes: string }>(
    `SELECT coalesce(pg_partition_root(c.oid), c.oid)::regclass::text AS name,
            sum(pg_table_size(c.oid)) AS "table", sum(pg_indexes_size(c.oid)) AS indexes
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'm', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
        AND c.relname = coalesce($1, c.relname)
      GROUP BY 1
      ORDER BY sum(pg_total_relation_size(c.oid)) DESC`,
    [only ?? null],
  );
  return rows.map(({ name, table, indexes }) => ({ name, table: Number(table), indexes: Number(indexes) }));
}

function totalSize(relations: readonly RelationSize[]): number {
  return relations.reduce((sum, { table, indexes }) => sum + table + indexes, 0);
}

function medianRate(samples: readonly Sample[]): number {
  return median(samples.map((sample) => sample.rate));
}
