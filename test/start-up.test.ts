/** The service as an operator starts it: `node src/cli/main.ts serve` and npm's scripts, in processes of their own. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { readEmbeddedConnection } from '../src/store/embedded-postgres.ts';
import { createDatabase, type TestDatabase } from './support/postgres.ts';
import { someOf } from './support/short-form.ts';

const REPOSITORY = join(import.meta.dirname, '..');
const MAIN = join(REPOSITORY, 'src/cli/main.ts');
/** What the issue promises. */
/** 5 s are promised, and held where nothing else runs (.ci/fresh-clone); here other tests share the machine. */
const READY_MS = 20_000;
const STOPPED_MS = 8000;
/** Without what could reach the service from the environment of the tests. */
const CLEAN = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^(SEALOG_|DATABASE_URL$|PG[A-Z]+$|NODE_(?!COMPILE_CACHE$)|VITEST|npm_)/.test(name),
  ),
) as Record<string, string>;
// As npm's scripts find it.
CLEAN['PATH'] = [join(REPOSITORY, 'node_modules/.bin'), dirname(process.execPath), CLEAN['PATH']].join(delimiter);
const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]+\n$/;

type Environment = Readonly<Record<string, string>>;

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs a command to its end. */
async function run(
  command: string,
  args: readonly string[],
  environment: Environment = {},
  cwd = REPOSITORY,
): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(command, args, { cwd, env: { ...CLEAN, ...environment }, timeout: 60_000 }, (error, out, err) => {
      const code = error === null ? 0 : (error.code as unknown as number | null);
      resolve({ code, out, err });
    });
  });
}

function sealog(args: readonly string[], environment: Environment): Promise<Ended> {
  return run(process.execPath, [MAIN, ...args], environment);
}

/** A started service: a process group of its own. */
interface Started {
  readonly child: ChildProcess;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  out(): string;
  err(): string;
}

function spawnService(
  environment: Environment,
  command = process.execPath,
  args: readonly string[] = [MAIN, 'serve'],
): Started {
  const child = spawn(command, args, {
    cwd: REPOSITORY,
    env: { ...CLEAN, SEALOG_PORT: '0', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let out = '';
  let err = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  const exited = once(child, 'close').then(([code, signal]) => ({ code, signal }));
  onTestFinished(async () => {
    signalGroup(child, 'SIGKILL');
    await exited;
  });
  return { child, exited, out: () => out, err: () => err };
}

interface Running extends Started {
  /** Without a slash at the end. */
  readonly url: string;
  readonly readyAfterMs: number;
}

/** Starts a service and waits until it is ready. */
async function start(environment: Environment, command?: string, args?: readonly string[]): Promise<Running> {
  const begin = performance.now();
  const started = spawnService(environment, command, args);
  let ended = false;
  void started.exited.then(() => {
    ended = true;
  });
  for (;;) {
    const url = /listens on (http:\S+)/.exec(started.out())?.[1];
    if (url !== undefined && (await fetch(`${url}/readyz`)).ok)
      return { ...started, url, readyAfterMs: performance.now() - begin };
    if (ended || performance.now() - begin > 30_000) throw new Error(`not ready:\n${started.out()}${started.err()}`);
    await delay(10);
  }
}

function signalGroup({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid!, signal);
  } catch {
    // All of it has ended.
  }
}

/** Stops a service by a signal to its process group, as a terminal does. */
async function stop(service: Started, signal: NodeJS.Signals = 'SIGTERM') {
  const begin = performance.now();
  signalGroup(service.child, signal);
  const exit = await service.exited;
  return { ...exit, ms: performance.now() - begin };
}

/** A data folder that is removed at the end, with the server that may have been left on it. */
async function dataFolder(name = 'data'): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-start-'));
  await chmod(folder, 0o755);
  const dataDir = join(folder, name);
  onTestFinished(async () => {
    const running = await readEmbeddedConnection(dataDir).catch(() => undefined);
    running?.close();
    if (running !== undefined) process.kill(running.pid, 'SIGQUIT');
    await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  });
  return dataDir;
}

let used: Promise<string> | undefined;

/** A data folder on which a service has started and stopped: a copy of one that was made once. A later start has less to do than a first. */
async function usedFolder(name = 'data'): Promise<string> {
  used ??= makeUsedFolder();
  const dataDir = await dataFolder(name);
  expect(await run('cp', ['-a', await used, dataDir])).toMatchObject({ code: 0 });
  return dataDir;
}

async function makeUsedFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-start-'));
  await chmod(folder, 0o755);
  const dataDir = join(folder, 'data');
  const service = await start({ SEALOG_DATA_DIR: dataDir });
  expect(await stop(service)).toMatchObject({ code: 0 });
  return dataDir;
}

afterAll(async () => {
  if (used !== undefined) await rm(dirname(await used), { recursive: true, force: true });
});

async function databasePid(dataDir: string): Promise<number | undefined> {
  const running = await readEmbeddedConnection(dataDir);
  running?.close();
  return running?.pid;
}

/** Processes whose command line holds the text: none may be left. */
function processesWith(text: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        return [readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')];
      } catch {
        return [];
      }
    })
    .filter((line) => line.includes(text));
}

async function isAlive(pid: number): Promise<boolean> {
  return existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
}

/** The commands of the message at the start, in its order. */
function commandsOf(message: string): string[] {
  return [...message.matchAll(/^ {2}(\S(?:.*\\\n)*.*)/gm)].map((match) => match[1]!);
}

const EVENT = {
  category: 'user_authentication',
  action: 'user.login',
  outcome: 'success',
  occurredAt: '2026-01-01T10:00:00Z',
  source: { service: 'test' },
  actor: { type: 'user', id: 'u-1' },
};

async function token(role: string, environment: Environment): Promise<string> {
  const { code, out } = await sealog(['token', '--role', role, '--tenant', 'acme'], environment);
  expect(code).toBe(0);
  return out.trim();
}

async function post(url: string, id: string, bearer: string) {
  const response = await fetch(`${url}/v1/events`, {
    method: 'POST',
    headers: { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' },
    body: JSON.stringify({ ...EVENT, id }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

async function get(url: string, path: string, bearer: string) {
  const response = await fetch(`${url}${path}`, { headers: { authorization: `Bearer ${bearer}` } });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

/** Starts and stops that the deployment's log tells of, each with how the run before ended, once there are so many. */
async function lives(url: string, environment: Readonly<Record<string, string>>, count: number): Promise<unknown[][]> {
  const bearer = (await sealog(['token', '--role', 'auditor', '--tenant', 'sealog'], environment)).out.trim();
  const end = performance.now() + 5000;
  for (;;) {
    const { body } = await get(url, '/v1/events?category=system_operation&order=asc', bearer);
    const items = body['items'] as { action: string; details?: { previous: string } }[];
    if (items.length >= count || performance.now() > end)
      return items.map(({ action, details }) => [action, details?.previous]);
    await delay(50);
  }
}

describe('the embedded mode', () => {
  test('starts on an empty folder in time, says where it is, and its commands work when pasted', async () => {
    const dataDir = await dataFolder();
    const service = await start({ SEALOG_DATA_DIR: dataDir });
    expect(service.readyAfterMs).toBeLessThan(READY_MS);
    expect(service.out()).toContain(`Its data and keys are in ${dataDir}`);
    const commands = commandsOf(service.out());
    expect(commands).toHaveLength(3);
    // In the repository's folder and in any other; pasted twice, the first receipt comes again.
    let receipt: unknown;
    for (const cwd of [REPOSITORY, '/']) {
      const [sent, read, verified] = [
        await run('sh', ['-c', commands[0]!], {}, cwd),
        await run('sh', ['-c', commands[1]!], {}, cwd),
        await run('sh', ['-c', commands[2]!], {}, cwd),
      ];
      receipt ??= JSON.parse(sent.out);
      expect(JSON.parse(sent.out)).toEqual(receipt);
      expect(receipt).toMatchObject({ stream: 'acme/user_authentication', seq: 0 });
      expect(JSON.parse(read.out)).toMatchObject({
        actor: { id: 'u-1' },
        log: { stream: 'acme/user_authentication', seq: 0 },
      });
      expect(verified).toMatchObject({ code: 2, out: expect.stringMatching(/^not_provable: \d streams/m) });
    }
    const pid = (await databasePid(dataDir))!;
    const stopped = await stop(service);
    expect(stopped).toMatchObject({ code: 0 });
    expect(stopped.ms).toBeLessThan(STOPPED_MS);
    expect(await isAlive(pid)).toBe(false);
    expect(await databasePid(dataDir)).toBeUndefined();

    // Checked without a service, too; that leaves no server either.
    expect(await sealog(['verify', '--database'], { SEALOG_DATA_DIR: dataDir })).toMatchObject({
      code: 2,
      out: expect.stringContaining('Nothing wrong was found'),
    });
    expect(await databasePid(dataDir)).toBeUndefined();
  });

  test.each([
    ['README.md', [201, 200]],
    ['docs/api.md', [201, ...Array(20).fill(200), 204, ...Array(4).fill(200)]],
  ])('the examples of %s work when pasted', async (page, statuses) => {
    const dataDir = await usedFolder();
    const service = await start({ SEALOG_DATA_DIR: dataDir, SEALOG_CHECKPOINT_MS: '50' });
    const lines = join(dirname(dataDir), 'events.ndjson');
    await writeFile(lines, [1, 2, 3].map((n) => JSON.stringify({ ...EVENT, id: `line-${n}` })).join('\n'));
    const blocks = [...readFileSync(join(REPOSITORY, page), 'utf8').matchAll(/^```sh\n(.*?)^```$/gms)]
      .map(([, block]) => block!)
      .filter((block) => /curl|token/.test(block));
    const script = blocks
      // A reader takes his time, and the signer does in the meantime.
      .join('sleep 0.2\n')
      // Nobody vouches for it yet.
      .replaceAll('verify --database', 'verify --database || [ $? -eq 2 ]')
      .replaceAll('http://127.0.0.1:8080', service.url)
      .replaceAll('events.ndjson', lines)
      .replaceAll('evidence.tar', join(dirname(dataDir), 'evidence.tar'))
      .replaceAll('data-access.csv', join(dirname(dataDir), 'data-access.csv'));
    const shown = `curl() { command curl -w '\\n[%{http_code}]\\n' "$@"; }\n${script}`;
    const { code, out, err } = await run('sh', ['-eu', '-c', shown], { SEALOG_DATA_DIR: dataDir });
    expect(code, err).toBe(0);
    expect([...out.matchAll(/^\[(\d+)\]$/gm)].map(([, status]) => Number(status))).toEqual(statuses);
    await stop(service);
  });

  test('npm start: Ctrl-C ends all of it, and the next start goes on', async () => {
    const dataDir = await usedFolder();
    const environment = { SEALOG_DATA_DIR: dataDir };
    const first = await start(environment, 'npm', ['start']);
    expect((await post(first.url, 'e-1', await token('service', environment))).status).toBe(201);
    const pid = (await databasePid(dataDir))!;
    const stopped = await stop(first, 'SIGINT');
    expect(stopped.ms).toBeLessThan(STOPPED_MS);
    expect(await isAlive(pid)).toBe(false);

    const second = await start(environment);
    expect(second.readyAfterMs).toBeLessThan(READY_MS);
    expect((await get(second.url, '/v1/events/e-1', await token('auditor', environment))).status).toBe(200);
    // What its message says works again: its event has another id.
    const sent = await run('sh', ['-c', commandsOf(second.out())[0]!]);
    expect(JSON.parse(sent.out)).toMatchObject({ seq: 1 });
    expect(await stop(second)).toMatchObject({ code: 0 });
  });

  test('npm start told alone, as by a supervisor, passes it on: nothing is left running', async () => {
    const dataDir = await usedFolder();
    const service = await start({ SEALOG_DATA_DIR: dataDir }, 'npm', ['start']);
    const pid = (await databasePid(dataDir))!;
    const begin = performance.now();
    service.child.kill('SIGTERM');
    await service.exited;
    while ((await isAlive(pid)) && performance.now() - begin < STOPPED_MS) await delay(20);
    expect(await isAlive(pid)).toBe(false);
    // The service had the signal, and not only the database.
    await expect(fetch(`${service.url}/healthz`)).rejects.toThrow();
  });

  test('kill -9 of the service: the next start takes the database over, with everything in it', async () => {
    const dataDir = await dataFolder();
    const environment = { SEALOG_DATA_DIR: dataDir };
    const first = await start(environment);
    const receipt = await post(first.url, 'e-1', await token('service', environment));
    expect(receipt.status).toBe(201);
    const pid = await databasePid(dataDir);
    await stop(first, 'SIGKILL');
    expect(await databasePid(dataDir)).toBe(pid);

    const second = await start(environment);
    expect(second.err()).toContain('"tookOver":true');
    expect(await databasePid(dataDir)).toBe(pid);
    expect(await post(second.url, 'e-1', await token('service', environment))).toEqual({
      status: 200,
      body: receipt.body,
    });
    const verified = await sealog(['verify', '--database', '--json'], environment);
    expect(verified.code).toBe(2);
    const { verdict, streams } = JSON.parse(verified.out);
    expect(verdict).toBe('not_provable');
    expect(streams[0]).toMatchObject({ stream: 'acme/user_authentication', size: 1, findings: [] });
    expect(await lives(second.url, environment, 2)).toEqual([
      ['service.started', 'unknown'],
      ['service.started', 'not_stopped'],
    ]);
    expect(await stop(second)).toMatchObject({ code: 0 });
    expect(await isAlive(pid!)).toBe(false);
    const third = await start(environment);
    expect((await lives(third.url, environment, 4)).slice(2)).toEqual([
      ['service.stopped', undefined],
      ['service.started', 'stopped'],
    ]);
    await stop(third);
  });

  test('kill -9 of the database: the service says so and ends, and the next start recovers', async () => {
    const dataDir = await usedFolder();
    const environment = { SEALOG_DATA_DIR: dataDir };
    const first = await start(environment);
    expect((await post(first.url, 'e-1', await token('service', environment))).status).toBe(201);
    process.kill((await databasePid(dataDir))!, 'SIGKILL');
    expect(await first.exited).toMatchObject({ code: 1 });
    expect(first.err()).toContain('the embedded database ended');
    const second = await start(environment);
    expect((await get(second.url, '/v1/events/e-1', await token('auditor', environment))).status).toBe(200);
    await stop(second);
  });

  test('told to stop while it starts, at any moment, it leaves nothing running', async () => {
    const dataDir = await dataFolder();
    for (const afterMs of someOf([250, 600, 1300], 2)) {
      const service = spawnService({ SEALOG_DATA_DIR: dataDir });
      await delay(afterMs);
      const stopped = await stop(service);
      // Before Node listens for signals it dies of one.
      if (stopped.signal === null) expect(stopped.code).toBe(0);
      expect(stopped.ms).toBeLessThan(STOPPED_MS);
      expect(service.err()).not.toContain('Error');
      expect(await databasePid(dataDir)).toBeUndefined();
    }
    await stop(await start({ SEALOG_DATA_DIR: dataDir }));
    expect(processesWith(dataDir)).toEqual([]);
  });

  test('a second start on one data folder is refused and names the first, which goes on', async () => {
    const dataDir = await usedFolder();
    const environment = { SEALOG_DATA_DIR: dataDir };
    const first = await start(environment);
    const second = spawnService(environment);
    expect(await second.exited).toMatchObject({ code: 1 });
    expect(second.out()).toBe('');
    expect(second.err()).toBe(
      `sealog: The data folder ${dataDir} is in use by process ${first.child.pid}: stop that one, or set SEALOG_DATA_DIR to another folder.\n`,
    );
    expect((await post(first.url, 'e-1', await token('service', environment))).status).toBe(201);
    await stop(first);
  });

  test('a port in use is one clear line, and nothing is left running', async () => {
    const dataDir = await usedFolder();
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    onTestFinished(() => {
      other.close();
    });
    const { port } = other.address() as { port: number };
    const service = spawnService({ SEALOG_DATA_DIR: dataDir, SEALOG_PORT: String(port), SEALOG_LOG_LEVEL: 'error' });
    expect(await service.exited).toMatchObject({ code: 1 });
    expect(service.out()).toBe('');
    expect(service.err()).toBe(
      `sealog: port ${port} on 127.0.0.1 is in use: set SEALOG_PORT to another, or 0 for any\n`,
    );
    expect(await databasePid(dataDir)).toBeUndefined();
  });

  test('an address that is not of this machine is one clear line', async () => {
    const service = spawnService({
      SEALOG_DATA_DIR: await usedFolder(),
      SEALOG_HOST: '192.0.2.1',
      SEALOG_LOG_LEVEL: 'error',
    });
    expect(await service.exited).toMatchObject({ code: 1 });
    expect(service.err()).toBe('sealog: SEALOG_HOST 192.0.2.1 is no address of this machine\n');
  });

  test('listens on all addresses where it is told to, and names one that can be reached', async () => {
    const service = await start({ SEALOG_DATA_DIR: await usedFolder(), SEALOG_HOST: '0.0.0.0' });
    expect(service.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    await stop(service);
  });

  test('a folder whose name a shell would take apart', async () => {
    const dataDir = await usedFolder(`it's a "$HOME" folder`);
    const service = await start({ SEALOG_DATA_DIR: dataDir });
    const sent = await run('sh', ['-c', commandsOf(service.out())[0]!]);
    expect(JSON.parse(sent.out)).toMatchObject({ seq: 0 });
    await stop(service);
  });
});

describe('tokens', () => {
  test('the command prints nothing else, also before the first start, and the service takes what it prints', async () => {
    const dataDir = await dataFolder();
    const environment = { SEALOG_DATA_DIR: dataDir };
    const before = await run('npm', ['run', '-s', 'token', '--', '--role', 'service', '--tenant', 'acme'], environment);
    expect(before).toMatchObject({ code: 0, out: expect.stringMatching(TOKEN) });
    const service = await start(environment);
    expect((await post(service.url, 'e-1', before.out.trim())).status).toBe(201);
    const during = await sealog(['token', '--role', 'auditor', '--tenant', 'acme'], environment);
    expect(during).toEqual({ code: 0, out: expect.stringMatching(TOKEN), err: '' });
    expect((await get(service.url, '/v1/events/e-1', during.out.trim())).status).toBe(200);
    await stop(service);
  });

  test.each([
    [['--tenant', 'acme'], '--role is missing'],
    [['--role', 'king', '--tenant', 'acme'], 'there is no role king'],
    [['--role', 'auditor'], '--tenant is missing'],
    [['--role', 'auditor', '--tenant', 'acme', '--site', ''], 'a --site must be 1 to 256 characters'],
    [['--role', 'auditor', '--tenant', 'Acme'], "Acme can not be a tenant's name"],
    [['--role', 'auditor', '--tenant', 'acme', '--colour', 'red'], "Unknown option '--colour'"],
  ])('%j is wrong usage', async (args, reason) => {
    const { code, out, err } = await sealog(['token', ...args], { SEALOG_DATA_DIR: '/nonexistent' });
    expect({ code, out }).toEqual({ code: 64, out: '' });
    expect(err).toContain(`sealog token: ${reason}`);
  });
});

describe('wrong settings and usage', () => {
  test('are listed all together, one line each, without a stack', async () => {
    const dataDir = await dataFolder();
    const { code, out, err } = await sealog(['serve'], {
      SEALOG_DATA_DIR: dataDir,
      SEALOG_PORT: 'eighty',
      SEALOG_TENANTS: 'some',
      SEALOG_JWT_SECRET: 'short',
      SEALOG_COLOUR: 'red',
    });
    expect({ code, out }).toEqual({ code: 1, out: '' });
    expect(err.split('\n').sort()).toEqual([
      '',
      'sealog: SEALOG_COLOUR is not a setting of Sealog: see docs/configuration.md',
      'sealog: SEALOG_JWT_SECRET must have at least 32 bytes',
      'sealog: SEALOG_PORT must be an integer from 0 to 65535',
      'sealog: SEALOG_TENANTS must be one of open, closed',
    ]);
    expect(existsSync(dataDir)).toBe(false);
  });

  test.each([
    [[]],
    [['fly']],
    [['constructor']],
    [['serve', 'now']],
    [['verify']],
    [['verify', '--databse']],
    [['migrate', 'x']],
  ])('%j is wrong usage', async (args) => {
    const { code, out, err } = await sealog(args, { SEALOG_DATA_DIR: '/nonexistent' });
    expect({ code, out }).toEqual({ code: 64, out: '' });
    expect(err).toContain('usage: sealog COMMAND');
  });

  test('bin/sealog runs the command with the pinned Node, from any folder and through a link', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-test-bin-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const link = join(folder, 'sealog');
    await run('ln', ['-s', join(REPOSITORY, 'bin/sealog'), link]);
    const help = await run(link, ['--help'], { PATH: '/usr/bin:/bin' }, '/');
    expect(help).toMatchObject({ code: 0, out: expect.stringContaining('usage: sealog COMMAND'), err: '' });
  });
});

describe('with DATABASE_URL', () => {
  async function migrated(
    by: 'the command' | 'the tests' = 'the tests',
  ): Promise<{ database: TestDatabase; environment: Record<string, string> }> {
    const database = await createDatabase(by === 'the tests' ? 'migrated' : 'empty');
    const keys = await mkdtemp(join(tmpdir(), 'sealog-test-keys-'));
    onTestFinished(async () => {
      await database.drop();
      await rm(keys, { recursive: true, force: true });
    });
    if (by === 'the command') {
      const { code, out } = await sealog(['migrate', '--app-role', database.appRole], {
        DATABASE_URL: database.adminUrl,
      });
      expect({ code, out }).toEqual({ code: 0, out: expect.stringMatching(/^ran 0001_/) });
    }
    const environment = {
      DATABASE_URL: database.appUrl,
      SEALOG_ORIGIN: 'log.example',
      SEALOG_MASTER_KEY: `file:${keys}`,
      SEALOG_JWT_SECRET: 's'.repeat(43),
    };
    return { database, environment };
  }

  test('migrate as a superuser, then two replicas at once: one log', async () => {
    const { database, environment } = await migrated('the command');
    const again = await sealog(['migrate', '--app-role', database.appRole], { DATABASE_URL: database.adminUrl });
    expect(again.out).toMatch(/^the schema is up to date\n/);
    const [one, two] = await Promise.all([start(environment), start(environment)]);
    expect(one.out()).toBe(`Sealog (log.example) listens on ${one.url}\n`);
    const bearer = await token('service', environment);
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, i) => post(i % 2 === 0 ? one.url : two.url, `e-${i >> 1}`, bearer)),
    );
    // Each id went to both: one stores it, the other finds it.
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(20);
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(20);
    for (let i = 0; i < answers.length; i += 2) expect(answers[i]!.body).toEqual(answers[i + 1]!.body);
    const verified = await sealog(['verify', '--database'], environment);
    expect(verified).toMatchObject({ code: 2, out: expect.stringMatching(/^not_provable: \d streams/m) });
    // The origin was fixed at the first start: a replica need not be told.
    const { SEALOG_ORIGIN: _origin, ...without } = environment;
    const three = await start(without);
    expect(three.out()).toContain('Sealog (log.example)');
    for (const service of [one, two, three]) expect(await stop(service)).toMatchObject({ code: 0 });
  });

  test('each reason not to start is one line', async () => {
    const { database, environment } = await migrated();
    const refusals = async (changed: Environment): Promise<string> => {
      const given = { ...environment, SEALOG_LOG_LEVEL: 'error', ...changed };
      const { code, out, err } = await sealog(['serve'], given);
      expect({ code, out }).toEqual({ code: 1, out: '' });
      expect(err).not.toContain(environment['SEALOG_JWT_SECRET']!);
      return err;
    };
    expect(await refusals({ DATABASE_URL: database.adminUrl })).toMatch(
      /^sealog: the role postgres is a superuser, whom nothing in the database stops: connect as an ordinary role\n$/,
    );
    expect(await refusals({ SEALOG_ORIGIN: '' })).toMatch(
      /^sealog: SEALOG_ORIGIN must be set for the first start: .*\n$/,
    );
    expect(await refusals({ DATABASE_URL: 'postgresql://sealog:x@127.0.0.1:1/sealog' })).toBe(
      'sealog: the database can not be used: connect ECONNREFUSED 127.0.0.1:1\n',
    );
    expect(await refusals({ DATABASE_URL: 'postgresql://sealog:x@127.0.0.1:port/sealog' })).toMatch(
      /^sealog: DATABASE_URL can not be read: .*\n$/,
    );
    const service = await start(environment);
    await stop(service);
    expect(await refusals({ SEALOG_ORIGIN: 'other.example' })).toBe(
      'sealog: SEALOG_ORIGIN is other.example, but this log was started as log.example, which can not change\n',
    );
    const empty = await createDatabase();
    onTestFinished(() => empty.drop());
    expect(await refusals({ DATABASE_URL: empty.appUrl })).toMatch(
      /^sealog: the schema is not there: run `sealog migrate` .*\n$/,
    );
  });

  test('migrate without DATABASE_URL, without a server, and without the right', async () => {
    expect(await sealog(['migrate'], {})).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^sealog: migrate needs DATABASE_URL.*\n$/),
    });
    expect(await sealog(['migrate'], { DATABASE_URL: 'postgresql://x:y@127.0.0.1:1/z' })).toMatchObject({
      code: 1,
      err: 'sealog: connect ECONNREFUSED 127.0.0.1:1\n',
    });
    const database = await createDatabase();
    onTestFinished(() => database.drop());
    expect(await sealog(['migrate'], { DATABASE_URL: database.appUrl })).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^sealog: PostgreSQL says: permission denied .*\n$/),
    });
  });

  test('verify: 1 for what was changed, 2 for what could not be looked at', async () => {
    const { database, environment } = await migrated();
    const service = await start(environment);
    expect((await post(service.url, 'e-1', await token('service', environment))).status).toBe(201);
    await stop(service);
    const verify = (args: readonly string[] = [], changed: Environment = {}) =>
      sealog(['verify', '--database', ...args], { ...environment, ...changed });

    const keys = environment['SEALOG_MASTER_KEY']!.slice('file:'.length);
    await rename(keys, `${keys}.away`);
    const blind = await verify();
    expect(blind).toMatchObject({
      code: 2,
      out: expect.stringMatching(/not checked, from 0 on: .*month key.*\n.*incomplete: \d streams/s),
    });
    await rename(`${keys}.away`, keys);

    for (const [changed, reason] of [
      [{ DATABASE_URL: 'postgresql://sealog:x@127.0.0.1:1/sealog' }, /ECONNREFUSED/],
      [{ SEALOG_PORT: 'x' }, /SEALOG_PORT must be/],
      [{ DATABASE_URL: database.adminUrl.replace(database.name, 'postgres') }, /PostgreSQL says/],
    ] as const) {
      const { code, out, err } = await verify([], changed);
      expect({ code, out }).toEqual({ code: 2, out: '' });
      expect(err).toMatch(/^sealog: the log could not be checked\nsealog: .*\n$/);
      expect(err).toMatch(reason);
    }
    expect(await verify(['--stream', 'acme/data_access'])).toMatchObject({ code: 64 });
    expect(await verify(['--stream', 'acme/user_authentication'])).toMatchObject({ code: 2 });

    const client = new pg.Client(database.adminConfig);
    await client.connect();
    await client.query('ALTER TABLE sealog.block DISABLE TRIGGER append_only');
    await client.query('UPDATE sealog.block SET records = set_byte(records, 40, get_byte(records, 40) # 1)');
    await client.end();
    expect(await verify()).toMatchObject({ code: 1, out: expect.stringMatching(/^tampered: \d streams/m) });
    const json = await verify(['--json']);
    expect(json.code).toBe(1);
    expect(JSON.parse(json.out)).toMatchObject({ verdict: 'tampered' });
    // A schema that this code does not know could mean anything.
    const later = new pg.Client(database.adminConfig);
    await later.connect();
    await later.query(`INSERT INTO sealog.migration VALUES ('9999_of_tomorrow', now()::text)`);
    await later.end();
    expect(await verify()).toMatchObject({ code: 2, err: expect.stringContaining('newer than this version') });
  });

  test('verify makes nothing where there is no log', async () => {
    const dataDir = await dataFolder();
    const { code, err } = await sealog(['verify', '--database'], { SEALOG_DATA_DIR: dataDir });
    expect(code).toBe(2);
    expect(err).toContain(`there is no log in ${dataDir}`);
    expect(await readdir(dirname(dataDir))).toEqual([]);
  });
});
