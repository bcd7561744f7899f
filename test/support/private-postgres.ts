/**
 * A PostgreSQL of its own for tests that change the server itself: its settings, or the roles that all its databases share. The same
 * programs as those of the run's server, but none of the settings that the embedded mode insists on.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, chmod, mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import { findBinaries } from '../../src/store/embedded/binaries.ts';
import { clusterOf, ensureCluster, makeHome } from '../../src/store/embedded/cluster.ts';
import { identity, serverUser } from '../../src/store/embedded/server-user.ts';
import type { ConnectionConfig } from '../../src/store/embedded-postgres.ts';

export interface PrivatePostgres {
  /** The superuser, over a Unix socket. */
  readonly admin: ConnectionConfig;
  /** For connections over TCP, at 127.0.0.1. */
  readonly port: number;
  readonly major: number;
  /** Starts the server anew with these settings. */
  restart(settings?: Readonly<Record<string, string>>): Promise<void>;
  stop(): Promise<void>;
}

const READY_MAX_MS = 20_000;

export async function startPrivatePostgres(): Promise<PrivatePostgres> {
  const parent = tmpdir().length > 40 ? '/tmp' : tmpdir();
  const dataDir = await mkdtemp(join(parent, 'sealog-test-own-'));
  await chmod(dataDir, 0o755);
  const cluster = clusterOf(dataDir);
  const user = await serverUser(cluster);
  const given = process.env.SEALOG_TEST_PG_BIN;
  const bin = given === undefined || given === '' || given === 'embedded' ? undefined : given;
  const binaries = await findBinaries({ home: await makeHome(dataDir), user, bin });
  const passwords = await ensureCluster({ dataDir, binaries, user });
  // The whole loopback, so that a test can come from another address than the server's.
  await appendFile(join(cluster, 'pg_hba.conf'), 'host all all 127.0.0.0/8 scram-sha-256\n');
  const port = await freePort();
  const admin = { host: cluster, port, user: 'postgres', password: passwords.postgres, database: 'postgres' };

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
    await start({});
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    admin,
    port,
    major: binaries.major,
    async restart(settings = {}) {
      await halt();
      await start(settings);
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
