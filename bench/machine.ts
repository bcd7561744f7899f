/** What the figures depend on: the machine, the database's settings, and who used the processors. */
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';
import type { Client } from 'pg';

/** One line on the machine. */
export function describeMachine(): string {
  const memory = (totalmem() / 2 ** 30).toFixed(0);
  return `${availableParallelism()} × ${cpus()[0]?.model ?? 'unknown processor'}, ${memory} GiB, ${process.platform}, Node ${process.version}`;
}

const SETTINGS = [
  'server_version',
  'fsync',
  'synchronous_commit',
  'full_page_writes',
  'wal_sync_method',
  'wal_compression',
  'default_toast_compression',
  'shared_buffers',
  'max_wal_size',
] as const;

/** The settings as the server itself states them. */
export async function describeDatabase(client: Client): Promise<string> {
  const settings: string[] = [];
  for (const name of SETTINGS) {
    const { rows } = await client.query<Record<string, string>>(`SHOW ${name}`);
    settings.push(`${name}=${rows[0]?.[name]}`);
  }
  return settings.join(' ');
}

/** Processor seconds that a process and its children have used so far, ended ones included; NaN where there is no /proc to tell. */
export function cpuSeconds(pid: number): number {
  const process = readStat(pid);
  if (process === undefined) return Number.NaN;
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => readStat(Number(name)) ?? [])
    .filter((stat) => stat.parent === pid);
  return [process, ...children].reduce((sum, stat) => sum + stat.seconds, 0);
}

/** Linux counts in ticks of 10 ms for user programs, whatever its own clock. */
const TICKS_PER_SECOND = 100;

/** Reads /proc/<pid>/stat (proc_pid_stat(5)): field 4 is the parent, 14 to 17 the time of the process and of children it waited for. */
function readStat(pid: number): { parent: number; seconds: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // Field 2, the name, may hold spaces and brackets; what follows its last bracket starts with field 3.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const ticks = fields.slice(14 - 3, 17 - 3 + 1).reduce((sum, field) => sum + Number(field), 0);
    return { parent: Number(fields[4 - 3]), seconds: ticks / TICKS_PER_SECOND };
  } catch {
    return undefined;
  }
}
