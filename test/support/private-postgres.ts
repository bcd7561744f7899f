/**
 * A PostgreSQL of its own for tests that change the server itself: its settings, or the roles that all its databases share. The same
 * programs as those of the run's server, but none of the settings that the embedded mode insists on.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, chmod, chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
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
  /** Starts the server anew with these settings. */
  restart(settings?: Readonly<Record<string, string>>): Promise<void>;
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
}

const READY_MAX_MS = 20_000;
const APP = { user: 'sealog_app', password: 'only-for-tests' };
const run = promisify(execFile);

export async function startPrivatePostgres(options: PrivatePostgresOptions = {}): Promise<PrivatePostgres> {
  const parent = tmpdir().length > 40 ? '/tmp' : tmpdir();
  const dataDir = await mkdtemp(join(parent, 'sealog-test-own-'));
  await chmod(dataDir, 0o755);
  const cluster = clusterOf(dataDir);
  const user = await serverUser(cluster);
  const given = process.env.SEALOG_TEST_PG_BIN;
  const bin = given === undefined || given === '' || given === 'embedded' ? undefined : given;
  const binaries = await findBinaries({ home: await makeHome(dataDir), user, bin });
  const give = async (path: string): Promise<void> => {
    if (user !== undefined) await chown(path, user.uid, user.gid);
  };
  const { restored } = options;
  let password = restored?.of.admin.password;
  if (restored === undefined) {
    password = (await ensureCluster({ dataDir, binaries, user })).postgres;
    // The whole loopback, so that a test can come from another address than the server's.
    await appendFile(join(cluster, 'pg_hba.conf'), 'host all all 127.0.0.0/8 scram-sha-256\n');
  } else {
    await run('cp', ['-a', restored.backup, cluster]);
    await writeFile(join(cluster, 'recovery.signal'), '');
    await give(join(cluster, 'recovery.signal'));
  }
  const port = await freePort();
  const admin = { host: cluster, port, user: 'postgres', password: password!, database: 'postgres' };

  let child: ChildProcess | undefined;
  const kill = () => void child?.kill('SIGQUIT');
  process.once('exit', kill);
  const start = async (settings: Readonly<Record<string, string>>): Promise<void> => {
    const all = { listen_addresses: '127.0.0.1', unix_socket_directories: '.', port: String(port), ...settings };
    const args = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    child = spawn(join(binaries.bin, 'postgres'), ['-D', cluster, ...args], {
      cwd: '/',
      env: { LC_ALL: 'C', TZ: 'UTC' },
      stdio: ['ignore', 'ignore', 'pipe'],
      ...identity(user),
    });
    let words = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      words = (words + text).slice(-4000);
    });
    const deadline = Date.now() + READY_MAX_MS;
    while (!(await answers(admin))) {
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`PostgreSQL does not start:\n${words}`);
      await delay(50);
    }
  };
  const halt = async (): Promise<void> => {
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
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
    await start({ ...options.settings, ...recovery });
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    admin,
    cluster,
    port,
    major: binaries.major,
    async restart(settings = {}) {
      await halt();
      await start(settings);
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
