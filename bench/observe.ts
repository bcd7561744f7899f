/** Rounds, seen from outside: rate and latencies, the write-ahead log that they wrote, and who used the processors. */
import type { Client as DatabaseClient } from 'pg';
import type { BaselineName } from './baselines.ts';
import { cpuSeconds } from './machine.ts';
import type { Options } from './options.ts';
import type { Sample } from './report.ts';
import type { RoundPlan, RoundResult } from './round.ts';
import type { LoadClient, PlainClient, Workbench } from './workbench.ts';

export interface Observed {
  readonly result: RoundResult;
  readonly sample: Sample;
}

/** What is sent: `kind` is one letter and keeps the ids of one measurement apart from another's, `round` those of its rounds. */
export interface Sending extends RoundPlan {
  readonly batch: number;
  readonly kind: string;
  readonly round: number;
}

/** Of a round: a warm-up and so many seconds; of a smoke run one pass. */
export function roundPlan({ smoke, seconds }: Pick<Options, 'smoke' | 'seconds'>, connections: number): RoundPlan {
  return smoke ? { connections, warmup: 0 } : { connections, warmup: Math.min(1, seconds / 4), seconds };
}

/** Rounds of half the time, of what is beside the matter. */
export function shortRoundPlan({ smoke, seconds }: Pick<Options, 'smoke' | 'seconds'>, connections: number): RoundPlan {
  return roundPlan({ smoke, seconds: seconds / 2 }, connections);
}

/** Sends to the service. What the tenant `bench` sent is counted as acknowledged; `load` are others than it. */
export async function serviceRound(bench: Workbench, sending: Sending, load?: LoadClient): Promise<Observed> {
  const client = load ?? (await bench.load());
  const observed = await observe(
    bench,
    { client: client.pid, service: bench.service.pid },
    async () => (await client.ask({ do: 'round', ...sending })) as RoundResult,
  );
  if (load === undefined) bench.acknowledged += observed.result.acknowledged;
  return observed;
}

/** Gives the same to a baseline. */
export async function baselineRound(
  bench: Workbench,
  baseline: BaselineName,
  sending: Sending,
  plain?: PlainClient,
): Promise<Observed> {
  const client = plain ?? (await bench.plain());
  return observe(
    bench,
    { client: client.pid },
    async () => (await client.ask({ do: 'round', baseline, ...sending })) as RoundResult,
  );
}

/** Runs a round between two looks. It begins after a checkpoint, so that no one pays for the other's. */
async function observe(
  { database, databasePid }: Workbench,
  processes: Readonly<Record<string, number>>,
  run: () => Promise<RoundResult>,
): Promise<Observed> {
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
