/** The size on disk: bytes an event, of every table with its indexes. */
import type { Client as DatabaseClient } from 'pg';
import { withClient } from './baselines.ts';
import type { Measurement } from './measurement.ts';
import { baselineRound, type Observed, serviceRound } from './observe.ts';
import { compare, type Row } from './report.ts';
import type { Workbench } from './workbench.ts';

export const disk: Measurement = {
  names: ['disk', 'disk.wal'],
  async run({ shared, report }) {
    const bench = await shared();
    const empty = totalSize(await relationSizes(bench.database));
    const { own, table } = await fillOnce(bench);
    const row = await compareSizes('disk', bench, own.result.acknowledged, table.result.acknowledged);
    console.log(
      `  of Sealog's ${row.value} bytes/event ${(empty / own.result.acknowledged).toFixed(0)} were there before the first event`,
    );
    report(row, compare('disk.wal', 'bytes/event', own.sample.wal, table.sample.wal));
  },
};

/** Sends every event once to either side, whose tables are empty then. It warms both up, too. */
export async function fillOnce(bench: Workbench): Promise<{ readonly own: Observed; readonly table: Observed }> {
  const shape = { batch: 500, kind: 'd', round: 0, connections: 4, warmup: 0 } as const;
  return { own: await serviceRound(bench, shape), table: await baselineRound(bench, 'audit-table', shape) };
}

/** Compares what so many events take here with what so many take in the plain table; prints it by table. */
export async function compareSizes(name: string, bench: Workbench, events: number, plainEvents: number): Promise<Row> {
  await bench.database.query('CHECKPOINT');
  const own = await relationSizes(bench.database);
  const plain = await withClient(bench.baselines, (client) => relationSizes(client, 'audit_event'));
  console.log(
    `\n${name}: ${events} events in batches of 500; bytes/event by table (table with TOAST, indexes); the plain table with ${plainEvents}`,
  );
  const line = ({ name: relation, table, indexes }: RelationSize, count: number) => {
    const perEvent = (bytes: number) => (bytes / count).toFixed(0).padStart(6);
    console.log(`  ${relation.padEnd(24)} ${perEvent(table)} ${perEvent(indexes)}`);
  };
  for (const relation of own.slice(0, 8)) line(relation, events);
  for (const relation of plain) line(relation, plainEvents);
  return compare(name, 'bytes/event', totalSize(own) / events, totalSize(plain) / plainEvents);
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
