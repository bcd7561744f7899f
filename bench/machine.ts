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

/** Megabytes (10^6) of memory that a process holds, its own threads included; NaN where there is no /proc to tell. */
export function residentMegabytes(pid: number): number {
  const kib = readKib(`/proc/${pid}/status`, 'VmRSS');
  return (kib * 1024) / 1e6;
}

/** The same of a process with its children, pages that they share counted once. */
export function familyMegabytes(pid: number): number {
  const kib = family(pid).reduce((sum, one) => sum + readKib(`/proc/${one}/smaps_rollup`, 'Pss'), 0);
  return (kib * 1024) / 1e6;
}

function readKib(file: string, name: string): number {
  try {
    return Number(new RegExp(`^${name}:\\s*(\\d+) kB`, 'm').exec(readFileSync(file, 'utf8'))?.[1]);
  } catch {
    return Number.NaN;
  }
}

function family(pid: number): number[] {
  const children = processes().filter((other) => readStat(other)?.parent === pid);
  return [pid, ...children];
}

function processes(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Processor seconds that a process and its children have used so far, ended ones included; NaN where there is no /proc to tell. */
export function cpuSeconds(pid: number): number {
  if (readStat(pid) === undefined) return Number.NaN;
  return family(pid).reduce((sum, one) => sum + (readStat(one)?.seconds ?? 0), 0);
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
