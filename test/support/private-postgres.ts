/**
 * A PostgreSQL of its own for tests that change the server itself: its settings, the roles that all its databases share, or whether it
 * lives. The same programs as those of the run's server, but none of the settings that the embedded mode insists on.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFile,
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  statfs,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { findBinaries } from '../../src/store/embedded/binaries.ts';
import { clusterOf, ensureCluster, makeHome } from '../../src/store/embedded/cluster.ts';
import { identity, serverUser } from '../../src/store/embedded/server-user.ts';
import type { ConnectionConfig } from '../../src/store/embedded-postgres.ts';
import { type TestDatabase, urlOf } from './postgres.ts';

export interface PrivatePostgres {
  /** The superuser, over a Unix socket. */
  readonly admin: ConnectionConfig;
  /** PostgreSQL's data folder. */
  readonly cluster: string;
  /** For connections over TCP, at 127.0.0.1. */
  readonly port: number;
  readonly major: number;
  /** How often it was started. */
  readonly starts: number;
  /** The last of what it wrote to its log, of all its lives. */
  output(): string;
  /** Starts the server anew with these settings, whether it lives or was killed. */
  restart(settings?: Readonly<Record<string, string>>): Promise<void>;
  /**
   * `kill -9` of a backend that serves a service, upon which PostgreSQL ends all of them; or of the postmaster, upon which they end
   * themselves, and which somebody supervises. Resolves when the server takes connections again.
   */
  crash(which: 'backend' | 'postmaster'): Promise<void>;
  /** `kill -9` of all its processes at one moment, as a power cut is: who supervises it has no power either. */
  kill(): Promise<void>;
  /** Copies the data folder while the server runs, as `pg_basebackup` does; what was written meanwhile is in the WAL archive. */
  backUp(to: string): Promise<void>;
  /** The database that comes with the server, for a service: with a login role of its own. */
  database(): Promise<TestDatabase>;
  stop(): Promise<void>;
}

export interface PrivatePostgresOptions {
  readonly settings?: Readonly<Record<string, string>>;
  /** A backup that `backUp` made of another, and where its WAL archive is: the server begins with it, as it was at its end. */
  readonly restored?: { readonly of: PrivatePostgres; readonly backup: string; readonly archive: string };
  /** Where its data folder, or what it has in `pg_wal`, is moved before it starts: folders that are not there yet, and that stay. */
  readonly places?: { readonly data?: string; readonly wal?: string };
  /** In memory where there is plenty of it, which spares seconds of flushing: for what dies with a process, and not with the machine. */
  readonly inMemory?: boolean;
  /** Somebody starts it again, with the same settings, whenever it ended by itself or by a kill, until it comes up. */
  readonly supervised?: boolean;
  /** A backup that `backUp` made of another: the server begins with it, and follows that one under this name until it is promoted. */
  readonly standby?: { readonly of: PrivatePostgres; readonly backup: string; readonly name: string };
  /** Of the server's processes. */
  readonly environment?: Readonly<Record<string, string>>;
}

const READY_MAX_MS = 30_000;
/** What a supervisor waits before it starts a server again. */
const SUPERVISOR_MS = 500;
const OUTPUT_MAX_CHARS = 256 * 1024;
const MEMORY_FOLDER = '/dev/shm';
const MEMORY_MIN_BYTES = 2 * 1024 ** 3;
const APP = { user: 'sealog_app', password: 'only-for-tests' };
const run = promisify(execFile);

export async function startPrivatePostgres(options: PrivatePostgresOptions = {}): Promise<PrivatePostgres> {
  const { places = {}, supervised = false, inMemory = false } = options;
  const parent = inMemory && (await hasMemory()) ? MEMORY_FOLDER : tmpdir().length > 40 ? '/tmp' : tmpdir();
  const dataDir = await mkdtemp(join(parent, 'sealog-test-own-'));
  await chmod(dataDir, 0o755);
  const made = clusterOf(dataDir);
  const cluster = places.data ?? made;
  const user = await serverUser(made);
  const given = process.env.SEALOG_TEST_PG_BIN;
  const bin = given === undefined || given === '' || given === 'embedded' ? undefined : given;
  const binaries = await findBinaries({ home: await makeHome(dataDir), user, bin });
  const give = async (path: string): Promise<void> => {
    if (user !== undefined) await chown(path, user.uid, user.gid);
  };
  const { restored, standby } = options;
  const copied = restored ?? standby;
  let password = copied?.of.admin.password;
  if (copied === undefined) {
    password = (await ensureCluster({ dataDir, binaries, user })).postgres;
    // The whole loopback, so that a test can come from another address than the server's.
    await appendFile(join(made, 'pg_hba.conf'), 'host all all 127.0.0.0/8 scram-sha-256\n');
  } else {
    await run('cp', ['-a', copied.backup, made]);
    const signal = join(made, restored === undefined ? 'standby.signal' : 'recovery.signal');
    await writeFile(signal, '');
    await give(signal);
  }
  if (cluster !== made) await move(made, cluster);
  if (places.wal !== undefined) {
    await move(join(cluster, 'pg_wal'), places.wal);
    await symlink(places.wal, join(cluster, 'pg_wal'));
  }
  const port = await freePort();
  const admin = { host: cluster, port, user: 'postgres', password: password!, database: 'postgres' };

  let child: ChildProcess | undefined;
  let starts = 0;
  let words = '';
  let restarting: NodeJS.Timeout | undefined;
  const kill = () => void child?.kill('SIGQUIT');
  process.once('exit', kill);
  const launch = (settings: Readonly<Record<string, string>>): void => {
    const all = { listen_addresses: '127.0.0.1', unix_socket_directories: '.', port: String(port), ...settings };
    const args = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    starts += 1;
    child = spawn(join(binaries.bin, 'postgres'), ['-D', cluster, ...args], {
      cwd: '/',
      env: { LC_ALL: 'C', TZ: 'UTC', ...options.environment },
      stdio: ['ignore', 'ignore', 'pipe'],
      ...identity(user),
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      words = (words + text).slice(-OUTPUT_MAX_CHARS);
    });
    if (supervised)
      child.once('exit', () => {
        restarting = setTimeout(launch, SUPERVISOR_MS, settings);
      });
  };
  const start = async (settings: Readonly<Record<string, string>>): Promise<void> => {
    launch(settings);
    await untilAnswers();
  };
  const untilAnswers = async (): Promise<void> => {
    const deadline = Date.now() + READY_MAX_MS;
    while (!(await answers(admin))) {
      if ((!supervised && hasEnded(child)) || Date.now() > deadline)
        throw new Error(`PostgreSQL does not start:\n${words.slice(-4000)}`);
      await delay(20);
    }
  };
  const leaveAlone = (): void => {
    child?.removeAllListeners('exit');
    clearTimeout(restarting);
  };
  const halt = async (): Promise<void> => {
    leaveAlone();
    if (child === undefined || hasEnded(child)) return;
    const ended = once(child, 'exit');
    child.kill('SIGINT');
    await ended;
  };
  const stop = async (): Promise<void> => {
    await halt();
    process.off('exit', kill);
    await rm(dataDir, { recursive: true, force: true });
  };
  try {
    const recovery = restored && {
      restore_command: `cp ${restored.archive}/%f %p`,
      ...{ recovery_target: 'immediate', recovery_target_action: 'promote', hot_standby: 'off' },
    };
    const following = standby && { primary_conninfo: conninfoOf(standby.of.admin, standby.name) };
    await start({ ...options.settings, ...recovery, ...following });
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    admin,
    cluster,
    port,
    major: binaries.major,
    get starts() {
      return starts;
    },
    output: () => words,
    async restart(settings = {}) {
      await halt();
      await start(settings);
    },
    async crash(which) {
      const witness = new Client(admin);
      witness.on('error', () => {});
      const ended = new Promise((resolve) => witness.once('end', resolve));
      await witness.connect();
      const { rows } = await witness.query('SELECT pid FROM pg_stat_activity WHERE usename = $1', [APP.user]);
      const backend = rows[randomInt(rows.length)].pid;
      process.kill(which === 'backend' ? backend : child!.pid!, 'SIGKILL');
      await ended;
      await untilAnswers();
    },
    async kill() {
      leaveAlone();
      if (child === undefined || hasEnded(child)) return;
      const ended = once(child, 'exit');
      await killWhole(child);
      await ended;
    },
    async backUp(to) {
      const client = new Client(admin);
      await client.connect();
      try {
        await client.query(`SELECT pg_backup_start('a backup', fast => true)`);
        // A file that goes meanwhile is none that the backup needs.
        await run('cp', ['-a', cluster, to]).catch((error: { stderr?: string }) => {
          const lines = (error.stderr ?? '').trim().split('\n');
          if (!lines.every((line) => line.endsWith('No such file or directory'))) throw error;
        });
        const { rows } = await client.query('SELECT labelfile FROM pg_backup_stop()');
        // What belongs to the running server, and WAL of the middle of its work: the archive has it.
        for (const name of ['postmaster.pid', 'postmaster.opts', 'pg_wal', `.s.PGSQL.${port}`, `.s.PGSQL.${port}.lock`])
          await rm(join(to, name), { recursive: true, force: true });
        await writeFile(join(to, 'backup_label'), rows[0].labelfile);
        for (const folder of ['pg_wal', 'pg_wal/archive_status']) await mkdir(join(to, folder), { mode: 0o700 });
        for (const name of ['backup_label', 'pg_wal', 'pg_wal/archive_status']) await give(join(to, name));
      } finally {
        await client.end();
      }
    },
    async database() {
      const client = new Client(admin);
      await client.connect();
      try {
        const { rowCount } = await client.query('SELECT FROM pg_roles WHERE rolname = $1', [APP.user]);
        if (rowCount === 0) await client.query(`CREATE ROLE ${APP.user} LOGIN NOINHERIT PASSWORD '${APP.password}'`);
      } finally {
        await client.end();
      }
      const appConfig = { ...admin, ...APP };
      return {
        ...{ name: admin.database, appRole: APP.user, adminConfig: admin, appConfig },
        ...{ adminUrl: urlOf(admin), appUrl: urlOf(appConfig) },
        drop: async () => {},
      };
    },
    stop,
  };
}

async function hasMemory(): Promise<boolean> {
  const { bavail, bsize } = await statfs(MEMORY_FOLDER).catch(() => ({ bavail: 0, bsize: 0 }));
  return Math.min(bavail * bsize, process.availableMemory()) >= MEMORY_MIN_BYTES;
}

function hasEnded(child: ChildProcess | undefined): boolean {
  return child === undefined || child.exitCode !== null || child.signalCode !== null;
}

/** Stands it still first, so that it neither makes children meanwhile nor sees one die. */
async function killWhole(postmaster: ChildProcess): Promise<void> {
  postmaster.kill('SIGSTOP');
  const children = await childrenOf(postmaster.pid!);
  for (const pid of children) process.kill(pid, 'SIGKILL');
  postmaster.kill('SIGKILL');
  while ((await Promise.all(children.map(lives))).some((is) => is)) await delay(5);
}

async function childrenOf(parent: number): Promise<number[]> {
  const pids = (await readdir('/proc')).map(Number).filter((pid) => Number.isInteger(pid));
  const found = await Promise.all(pids.map(async (pid) => ((await processOf(pid))?.parent === parent ? [pid] : [])));
  return found.flat();
}

/** One that is dead and not waited for has nothing open any more. */
async function lives(pid: number): Promise<boolean> {
  const { state } = (await processOf(pid)) ?? { state: 'Z' };
  return state !== 'Z' && state !== 'X';
}

async function processOf(pid: number): Promise<{ state: string; parent: number } | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => undefined);
  // The name, in brackets, may hold anything.
  const [state, parent] = text?.slice(text.lastIndexOf(')') + 2).split(' ') ?? [];
  return state === undefined ? undefined : { state, parent: Number(parent) };
}

/** To another file system, and there on disk. */
async function move(from: string, to: string): Promise<void> {
  await run('cp', ['-a', from, to]);
  await run('sync', ['-f', to]);
  await rm(from, { recursive: true });
}

function conninfoOf({ host, port, user, password }: ConnectionConfig, name: string): string {
  return `host=${host} port=${port} user=${user} password=${password} application_name=${name}`;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function answers(admin: ConnectionConfig): Promise<boolean> {
  const client = new Client(admin);
  client.on('error', () => {});
  try {
    await client.connect();
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}
