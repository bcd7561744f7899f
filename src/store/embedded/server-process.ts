/**
 * The server's process: found, started, watched, stopped.
 *
 * The server is started in a session of its own, so that Ctrl-C or a signal to npm's process group reaches us and not it, and it lives on
 * when we are killed. The next start knows it again by its command line, which anybody may read (its `cwd` or `exe` may not be read by
 * root in a container without CAP_SYS_PTRACE): it names the cluster folder by device and inode, so that a copied folder with a copied
 * `postmaster.pid` never leads to the server of the original; the programs, so that one whose files were replaced is started anew; and
 * all settings, so that a server taken over has the same as one started.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:fs';
import { copyFile, type FileHandle, open, readFile, rm, stat, truncate } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { SettingsError } from '../../errors.ts';
import type { Binaries } from './binaries.ts';
import { ifThere, noSpace } from './files.ts';
import { INHERITED_FOLDER, identity, SERVER_ENVIRONMENT, type ServerUser } from './server-user.ts';

/** What we need of a logger. */
export interface Log {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY, COPYFILE_EXCL } = constants;

/** Only in the name of the socket, `.s.PGSQL.5432`: the server listens to no network. */
export const SERVER_PORT = 5432;

/**
 * Settings on the command line win over postgresql.conf and ALTER SYSTEM: nobody turns durability off by accident.
 * Sized for a small plant on a machine that also runs the service.
 */
const SETTINGS = {
  listen_addresses: '',
  unix_socket_directories: '.',
  unix_socket_permissions: '0700',
  port: SERVER_PORT,
  cluster_name: 'sealog',
  // Durability.
  fsync: 'on',
  full_page_writes: 'on',
  synchronous_commit: 'on',
  data_sync_retry: 'off',
  wal_level: 'replica',
  // Size. 2 GB of WAL between checkpoints is a few seconds to a minute of recovery after a power cut.
  max_connections: 120,
  shared_buffers: '256MB',
  max_wal_size: '2GB',
  min_wal_size: '128MB',
  huge_pages: 'off',
  // Files in the cluster in place of /dev/shm: containers give that 64 MB, and systemd empties it when a user logs out.
  dynamic_shared_memory_type: 'mmap',
  jit: 'off',
  // No transaction of ours lives longer than a few seconds; the connections of a killed service end soon.
  idle_in_transaction_session_timeout: '60s',
  client_connection_check_interval: '5s',
  // The log goes to stderr, our file. It never carries a statement, a parameter or a row: they may be payload.
  logging_collector: 'off',
  log_destination: 'stderr',
  log_line_prefix: '%m [%p] ',
  log_statement: 'none',
  log_min_error_statement: 'panic',
  log_error_verbosity: 'terse',
  log_timezone: 'UTC',
  timezone: 'UTC',
} as const;

/** From fast shutdown, which waits for a checkpoint, to immediate shutdown, after which the next start recovers. */
const FAST_SHUTDOWN_MS = 5_000;
const IMMEDIATE_SHUTDOWN_MS = 1_000;
const KILL_MS = 500;
/** How long the children of a killed server may hold its shared memory; they look for it every second or so. */
const LEFTOVERS_MS = 10_000;
const POLL_MS = 10;
const WATCH_MS = 100;
const STILL_STARTING_MS = 5_000;
/** The log is moved to `server.log.1` beyond this, looked at every minute: some 32 MB in all. */
const LOG_MAX_BYTES = 16 * 1024 * 1024;
const LOG_CHECK_MS = 60_000;

export interface ServerExit {
  /** False when the server ended without our having asked. */
  readonly expected: boolean;
  /** Known for a server that this process has started. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ServerProcess {
  readonly pid: number;
  /** Resolves once when the process has ended, for whatever reason. */
  readonly exited: Promise<ServerExit>;
  /** Ends the server within 6.5 s. */
  stop(): Promise<void>;
}

/** What `postmaster.pid` says. */
interface PidFile {
  readonly pid: number;
  readonly state: string;
}

/** A server found running on a cluster. */
export interface FoundServer {
  readonly pid: number;
  /** `starting`, `ready`, `stopping`; empty at first. */
  readonly state: string;
  readonly commandLine: string;
}

export interface LaunchOptions {
  readonly cluster: string;
  readonly binaries: Binaries;
  readonly user: ServerUser | undefined;
  /** The file for the server's words. */
  readonly logFile: string;
  readonly log: Log;
  readonly signal?: AbortSignal | undefined;
}

/** The server of ours that runs on this cluster folder. */
export async function findServer(cluster: string): Promise<FoundServer | undefined> {
  const file = await readPidFile(cluster);
  if (file === undefined) return undefined;
  const commandLine = await readCommandLine(file.pid);
  if (!commandLine.split('\0').includes(await clusterMark(cluster))) return undefined;
  return { ...file, commandLine };
}

/** Takes over the server that runs on the cluster, or starts one; it accepts connections when this returns. */
export async function launchServer(options: LaunchOptions): Promise<{ server: ServerProcess; tookOver: boolean }> {
  const { cluster, binaries, log } = options;
  const args = await serverArguments(cluster, binaries);
  const command = join(binaries.bin, 'postgres');
  const found = await findServer(cluster);
  if (found !== undefined) {
    const server = foundProcess(found.pid, await clusterMark(cluster), log);
    if (found.commandLine === [command, ...args, ''].join('\0') && found.state !== 'stopping') {
      if (await becomesReady(server, options)) return { server, tookOver: true };
    } else {
      log.info({ pid: found.pid }, 'stopping an embedded PostgreSQL whose programs or settings have changed');
      await server.stop();
    }
  }
  const deadline = Date.now() + LEFTOVERS_MS;
  for (;;) {
    await clearLeftovers(cluster);
    const { server, failure } = await startServer(command, args, options);
    if (failure === undefined) return { server, tookOver: false };
    options.signal?.throwIfAborted();
    if (!/pre-existing shared memory block|Is another post/.test(failure) || Date.now() > deadline) {
      throw new SettingsError([startFailed(options, failure)]);
    }
    await delay(200);
  }
}

/** Keeps the log's size in bounds while the service runs; what is returned ends that. */
export function boundLog(logFile: string): () => void {
  const timer = setInterval(() => void trimLog(logFile).catch(() => undefined), LOG_CHECK_MS);
  timer.unref();
  return () => clearInterval(timer);
}

async function serverArguments(cluster: string, { bin, version }: Binaries): Promise<string[]> {
  const program = await stat(join(bin, 'postgres'), { bigint: true });
  const settings = Object.entries(SETTINGS).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  return [
    ...['-D', INHERITED_FOLDER, ...settings],
    ...['-c', `sealog.programs=${version}-${program.dev}-${program.ino}`],
    ...['-c', await clusterMark(cluster)],
  ];
}

async function clusterMark(cluster: string): Promise<string> {
  const folder = await stat(cluster, { bigint: true });
  return `sealog.cluster=${folder.dev}-${folder.ino}`;
}

async function startServer(
  command: string,
  args: readonly string[],
  options: LaunchOptions,
): Promise<{ server: ServerProcess; failure: string | undefined }> {
  const { logFile } = options;
  options.signal?.throwIfAborted();
  await trimLog(logFile);
  const words = await open(logFile, O_APPEND | O_CREAT | O_WRONLY | O_NOFOLLOW, 0o600);
  const { size } = await words.stat();
  const server = await spawnServer(command, args, options, words).finally(() => words.close());
  if (await becomesReady(server, options)) return { server, failure: undefined };
  return { server, failure: await readFrom(logFile, size) };
}

async function spawnServer(
  command: string,
  args: readonly string[],
  { cluster, user, log }: LaunchOptions,
  words: FileHandle,
): Promise<ServerProcess> {
  const folder = await open(cluster, 'r');
  try {
    const child = spawn(command, args, {
      cwd: '/',
      env: SERVER_ENVIRONMENT,
      stdio: ['ignore', words.fd, words.fd, folder.fd],
      detached: true,
      ...identity(user),
    });
    child.unref();
    await once(child, 'spawn');
    return childProcess(child, log);
  } finally {
    await folder.close();
  }
}

/** Waits as long as the process lives, since recovery must not be cut short; false when it has ended. An abort stops the server. */
async function becomesReady(server: ServerProcess, { cluster, log, signal }: LaunchOptions): Promise<boolean> {
  let ended = false;
  void server.exited.then(() => {
    ended = true;
  });
  let tellAt = Date.now() + STILL_STARTING_MS;
  while (!ended) {
    if (signal?.aborted) {
      await server.stop();
      signal.throwIfAborted();
    }
    const file = await readPidFile(cluster);
    if (file?.pid === server.pid && file.state === 'ready') return true;
    if (Date.now() > tellAt) {
      log.info({ pid: server.pid }, 'the embedded PostgreSQL is still starting, recovering what was written last');
      tellAt += STILL_STARTING_MS;
    }
    await delay(POLL_MS);
  }
  return false;
}

function childProcess(child: ChildProcess, log: Log): ServerProcess {
  const pid = child.pid as number;
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  return stoppable(pid, exited, log);
}

/** A process that is not our child tells nobody of its end: it is looked at. */
function foundProcess(pid: number, mark: string, log: Log): ServerProcess {
  const exited = new Promise<{ code: null; signal: null }>((resolve) => {
    const timer = setInterval(async () => {
      if ((await readCommandLine(pid)).includes(mark)) return;
      clearInterval(timer);
      resolve({ code: null, signal: null });
    }, WATCH_MS);
    timer.unref();
  });
  return stoppable(pid, exited, log);
}

function stoppable(
  pid: number,
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>,
  log: Log,
): ServerProcess {
  let stopping: Promise<void> | undefined;
  const exited = ended.then((end) => ({ expected: stopping !== undefined, ...end }));
  const stop = async () => {
    const steps = [
      ['SIGINT', FAST_SHUTDOWN_MS],
      ['SIGQUIT', IMMEDIATE_SHUTDOWN_MS],
      ['SIGKILL', KILL_MS],
    ] as const;
    for (const [signal, waitMs] of steps) {
      if (signal !== 'SIGINT')
        log.warn({ pid, signal }, 'the embedded PostgreSQL does not stop: the next start will recover');
      try {
        process.kill(pid, signal);
      } catch {
        // It has ended: `exited` says so soon.
      }
      if (await endsWithin(exited, waitMs)) return;
    }
  };
  return {
    pid,
    exited,
    stop() {
      stopping ??= stop();
      return stopping;
    },
  };
}

async function endsWithin(exited: Promise<unknown>, ms: number): Promise<boolean> {
  const over = new AbortController();
  try {
    return await Promise.race([exited.then(() => true), delay(ms, false, { signal: over.signal }).catch(() => false)]);
  } finally {
    over.abort();
  }
}

/**
 * Removes `postmaster.pid` and the socket's lock of a server that is no more: PostgreSQL would refuse to start when another process of the
 * same user has its pid by now. Whoever calls this holds the data folder's lock and has found no server of ours, so that only a server
 * from elsewhere can be running: in another container, known by its answering, or started by hand. PostgreSQL's own check of its
 * shared memory stands behind this one.
 *
 * @throws SettingsError when such a server runs.
 */
async function clearLeftovers(cluster: string): Promise<void> {
  const file = await readPidFile(cluster);
  const socket = join(cluster, `.s.PGSQL.${SERVER_PORT}`);
  if (file === undefined) return;
  if ((await answers(cluster)) || (await isPostgresHere(file.pid, cluster))) {
    throw new SettingsError([
      `Another PostgreSQL (process ${file.pid}, perhaps of another container) runs on ${cluster}: stop that one first.`,
    ]);
  }
  for (const path of [join(cluster, 'postmaster.pid'), `${socket}.lock`, socket]) await rm(path, { force: true });
}

/** Whether somebody accepts connections at the cluster's socket. */
async function answers(cluster: string): Promise<boolean> {
  const folder = await open(cluster, 'r');
  try {
    // By descriptor, as the path may be longer than a socket's may be.
    const socket = connect(`/proc/self/fd/${folder.fd}/.s.PGSQL.${SERVER_PORT}`);
    try {
      await once(socket, 'connect');
      return true;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  } finally {
    await folder.close();
  }
}

/** A postgres with this pid whose folder is the cluster, or can not be seen. */
async function isPostgresHere(pid: number, cluster: string): Promise<boolean> {
  const name = (await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')).trim();
  if (name !== 'postgres' && name !== 'postmaster') return false;
  const [folder, here] = await Promise.all([
    stat(`/proc/${pid}/cwd`, { bigint: true }).catch(() => undefined),
    stat(cluster, { bigint: true }),
  ]);
  return folder === undefined || (folder.dev === here.dev && folder.ino === here.ino);
}

/** Its lines: pid, folder, start, port, socket folder, address, shared memory, state. */
async function readPidFile(cluster: string): Promise<PidFile | undefined> {
  const lines = (await ifThere(readFile(join(cluster, 'postmaster.pid'), 'utf8')))?.split('\n');
  const pid = Number.parseInt(lines?.[0] ?? '', 10);
  return pid > 0 ? { pid, state: lines?.[7]?.trim() ?? '' } : undefined;
}

/** Empty for a process that is gone, or dead and not yet buried. */
async function readCommandLine(pid: number): Promise<string> {
  return await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
}

/** The server keeps the file open for appending, so it is copied and cut short rather than renamed; a line in between may get lost. */
async function trimLog(logFile: string): Promise<void> {
  const size = (await ifThere(stat(logFile)))?.size ?? 0;
  if (size <= LOG_MAX_BYTES) return;
  await rm(`${logFile}.1`, { force: true });
  await copyFile(logFile, `${logFile}.1`, COPYFILE_EXCL);
  await truncate(logFile);
}

async function readFrom(path: string, position: number): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(64 * 1024), 0, 64 * 1024, position);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

function startFailed({ cluster, logFile }: LaunchOptions, failure: string): string {
  if (/No space left|quota exceeded/i.test(failure)) return noSpace(cluster);
  const line =
    failure.split('\n').findLast((text) => /\b(FATAL|PANIC):/.test(text)) ?? failure.trim().split('\n').at(-1);
  const why = line?.replace(/^.*?\b(?:FATAL|PANIC):\s*/, '') || 'it gave no reason';
  return `The embedded PostgreSQL in ${cluster} does not start (${why}): see ${logFile}.`;
}
