/**
 * The PostgreSQL of a test run, from the first of these that there is:
 *
 * 1. `SEALOG_TEST_PG_BIN`, a folder with `initdb` and `postgres` of PostgreSQL 15 to 18 (`/usr/lib/postgresql/15/bin`);
 * 2. a container of `postgres:18`, when a Docker engine answers; `SEALOG_TEST_PG_BIN=embedded` passes it over;
 * 3. the embedded PostgreSQL.
 *
 * 1 and 3 run in memory where there is plenty of it, else in a folder for temporary files, and are stopped and removed at the end, also
 * after Ctrl-C. What a run that was killed left behind is removed by the next.
 */
import { mkdtemp, readdir, rm, stat, statfs } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { type DataDirLock, lockDataDir } from '../../src/store/data-dir-lock.ts';
import {
  type ConnectionConfig,
  readEmbeddedConnection,
  startEmbeddedPostgres,
} from '../../src/store/embedded-postgres.ts';
import { makeMigrated } from './postgres.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** The superuser's connection to the PostgreSQL of this run. */
    postgres: ConnectionConfig;
  }
}

/** A PostgreSQL for tests. */
interface TestServer {
  readonly what: string;
  readonly admin: ConnectionConfig;
  stop(): Promise<void>;
}

const FOLDER_PREFIX = 'sealog-test-pg-';
/**
 * A file system in memory, and how much must be free there and in memory. Hundreds of databases of 500 files are made and dropped, which
 * costs a disk half of the server's time. All settings stay those of the embedded mode, fsync too: whoever kills a server that is to find
 * everything again has one of his own, on the disk.
 */
const MEMORY_FOLDER = '/dev/shm';
const MEMORY_MIN_BYTES = 8 * 1024 ** 3;
/** Younger folders may belong to a run that is just starting. */
const LEFT_BEHIND_AFTER_MS = 60_000;
/** Reading marks a file once a day at most, and on some file systems never: then it is compiled anew each week. */
const COMPILED_KEPT_MS = 7 * 24 * 3600 * 1000;
const IMAGE = 'postgres:18';
const ENGINE_PING_MS = 500;
const CONTAINER_START_MS = 120_000;
const silent = { info: () => undefined, warn: () => undefined };

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  await removeLeftBehind();
  await forgetCompiled();
  const server = await startServer();
  say(`tests run on ${server.what}`);
  project.provide('postgres', server.admin);
  try {
    await makeMigrated(server.admin);
  } catch (error) {
    await server.stop();
    throw error;
  }
  return () => server.stop();
}

async function startServer(): Promise<TestServer> {
  const chosen = process.env.SEALOG_TEST_PG_BIN || undefined;
  if (chosen !== undefined && chosen !== 'embedded') return await startInFolder(chosen);
  if (chosen === undefined && (await engineAnswers())) {
    try {
      return await startContainer();
    } catch (error) {
      say(
        `${IMAGE} can not be run (${error instanceof Error ? error.message : error}): taking the embedded PostgreSQL`,
      );
    }
  }
  return await startInFolder(undefined);
}

async function startInFolder(bin: string | undefined): Promise<TestServer> {
  const parent = (await hasMemory()) ? MEMORY_FOLDER : temporaryParent();
  const dataDir = await mkdtemp(join(parent, FOLDER_PREFIX));
  let lock: DataDirLock | undefined;
  try {
    lock = await lockDataDir(dataDir);
    const server = await startEmbeddedPostgres({ dataDir, log: silent, bin });
    return {
      what: bin === undefined ? 'the embedded PostgreSQL' : `the PostgreSQL of ${bin}`,
      admin: { ...server.admin, database: 'postgres' },
      async stop() {
        await server.stop();
        await lock?.release();
        await rm(dataDir, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await lock?.release();
    await rm(dataDir, { recursive: true, force: true });
    throw error;
  }
}

async function hasMemory(): Promise<boolean> {
  const { bavail, bsize } = await statfs(MEMORY_FOLDER).catch(() => ({ bavail: 0, bsize: 0 }));
  return Math.min(bavail * bsize, process.availableMemory()) >= MEMORY_MIN_BYTES;
}

/** Workers are other processes: they need a path to the socket that is short enough for one, not a descriptor of ours. */
function temporaryParent(): string {
  return tmpdir().length > 40 ? '/tmp' : tmpdir();
}

async function startContainer(): Promise<TestServer> {
  const { GenericContainer, Wait } = await import('testcontainers');
  const user = 'postgres';
  const password = 'only-for-tests';
  const container = await new GenericContainer(IMAGE)
    .withEnvironment({ POSTGRES_PASSWORD: password, POSTGRES_INITDB_ARGS: '--encoding=UTF8 --locale=C' })
    .withExposedPorts(5432)
    // The image starts a first server, for its own set-up, before the one that stays.
    .withWaitStrategy(Wait.forLogMessage(/database system is ready to accept connections/, 2))
    .withStartupTimeout(CONTAINER_START_MS)
    .start();
  const admin = {
    host: container.getHost(),
    port: container.getMappedPort(5432),
    user,
    password,
    database: 'postgres',
  };
  return {
    what: `a container of ${IMAGE}`,
    admin,
    async stop() {
      await container.stop();
    },
  };
}

/** Asks the engine that `DOCKER_HOST` names, else the one at the usual socket. */
async function engineAnswers(): Promise<boolean> {
  const host = process.env.DOCKER_HOST || 'unix:///var/run/docker.sock';
  const url = URL.parse(host);
  if (url === null) return false;
  const where =
    url.protocol === 'unix:' ? { socketPath: url.pathname } : { host: url.hostname, port: url.port || '2375' };
  return await new Promise((resolve) => {
    const ping = request({ ...where, path: '/_ping', timeout: ENGINE_PING_MS }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    ping.once('timeout', () => ping.destroy());
    ping.once('error', () => resolve(false));
    ping.once('close', () => resolve(false));
    ping.end();
  });
}

/** A folder whose lock is free belongs to a run that was killed; its server may still live. */
async function removeLeftBehind(): Promise<void> {
  const listed = [temporaryParent(), MEMORY_FOLDER].map(async (parent) =>
    (await readdir(parent).catch(() => [])).map((name) => join(parent, name)),
  );
  for (const dataDir of (await Promise.all(listed)).flat()) {
    if (!basename(dataDir).startsWith(FOLDER_PREFIX)) continue;
    try {
      if (Date.now() - (await stat(dataDir)).mtimeMs < LEFT_BEHIND_AFTER_MS) continue;
      const lock = await lockDataDir(dataDir);
      const running = await readEmbeddedConnection(dataDir);
      running?.close();
      if (running !== undefined) process.kill(running.pid, 'SIGQUIT');
      await rm(dataDir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
      await lock.release();
    } catch {
      // In use, or somebody else's.
    }
  }
}

/** What no run has read for long: test files are compiled under another name in each. */
async function forgetCompiled(): Promise<void> {
  const folder = process.env['NODE_COMPILE_CACHE'];
  if (folder === undefined) return;
  for (const { parentPath, name } of (
    await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => [])
  ).filter((one) => one.isFile())) {
    const path = join(parentPath, name);
    if (Date.now() - (await stat(path)).atimeMs > COMPILED_KEPT_MS) await rm(path, { force: true });
  }
}

function say(words: string): void {
  process.stderr.write(`${words}\n`);
}
