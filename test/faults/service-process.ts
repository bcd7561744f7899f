/** `sealog serve` in a process of its own, on a database of the run: to be killed and started again, beside others on the same database. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Role } from '../../src/auth/roles.ts';
import { generateSecret, signToken } from '../../src/auth/tokens.ts';
import { readConfig } from '../../src/config.ts';
import { migrate } from '../../src/store/migrate.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { HARD } from '../support/short-form.ts';

const REPOSITORY = join(import.meta.dirname, '../..');
/** A signer looks at every stream before it is ready; the whole forms have a thousand, and leave it little of the machine. */
const START_MAX_MS = HARD ? 120_000 : 40_000;

/** What replicas share. */
export interface Deployment {
  /** Of a replica; one of them may sign. */
  environment(signs: boolean): Readonly<Record<string, string>>;
  token(role: Role, tenant: string): Promise<string>;
  remove(): Promise<void>;
}

export interface DeploymentOptions {
  /** An empty database; else one on the server of the run. */
  readonly database?: TestDatabase;
  /** Of all replicas. */
  readonly settings?: Readonly<Record<string, string>>;
}

export async function makeDeployment({ database: given, settings }: DeploymentOptions = {}): Promise<Deployment> {
  const database = given ?? (await createDatabase());
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-faults-'));
  await migrate(database.adminConfig, database.appRole);
  const shared = {
    DATABASE_URL: database.appUrl,
    SEALOG_ORIGIN: 'log.example',
    SEALOG_MASTER_KEY: `file:${join(folder, 'months')}`,
    SEALOG_JWT_SECRET: generateSecret(),
    SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32',
    SEALOG_PORT: '0',
    SEALOG_LOG_LEVEL: 'warn',
    ...settings,
  };
  const { jwt } = readConfig(shared);
  return {
    environment: (signs) => (signs ? { ...shared, SEALOG_SIGNER_DIR: join(folder, 'signer') } : shared),
    token: (role, tenant) =>
      signToken({ ...jwt, secret: jwt.secret! }, { tenant, roles: [role], subject: `test-${role}`, ttlSeconds: 7200 }),
    async remove() {
      await database.drop();
      await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    },
  };
}

export interface ServiceProcess {
  /** Without a slash at the end; another after each start. */
  readonly url: string;
  readonly pid: number;
  /** What it printed, of all its lives. */
  output(): string;
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void;
  kill(): Promise<void>;
  /** Ends it as an operator does, and returns its exit code. */
  stop(): Promise<number | null>;
  /** Resolves once it has ended, with its exit code. */
  ended(): Promise<number | null>;
  /** Starts it again, and waits until it is ready. */
  again(): Promise<void>;
}

/** `tree` is where the program lies. */
export async function startServiceProcess(
  environment: Readonly<Record<string, string>>,
  tree = REPOSITORY,
): Promise<ServiceProcess> {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(SEALOG_|DATABASE_URL$|PG[A-Z]+$|NODE_(?!COMPILE_CACHE$)|VITEST|npm_)/.test(name),
  );
  let child: ChildProcess;
  let url = '';
  let output = '';
  async function start(): Promise<void> {
    child = spawn(process.execPath, [join('src', 'cli', 'main.ts'), 'serve'], {
      cwd: tree,
      env: { ...Object.fromEntries(inherited), ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const from = output.length;
    for (const stream of [child.stdout!, child.stderr!])
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    for (const end = performance.now() + START_MAX_MS; ; await sleep(20)) {
      const found = /listens on (http:\S+)/.exec(output.slice(from))?.[1];
      if (found !== undefined && (await fetch(`${found}/readyz`).catch(() => undefined))?.ok) {
        url = found;
        return;
      }
      if (child.exitCode !== null || performance.now() > end)
        throw new Error(`the service does not get ready:\n${output.slice(from)}`);
    }
  }
  async function ended(): Promise<number | null> {
    if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
    return child.exitCode;
  }
  await start();
  return {
    get url() {
      return url;
    },
    get pid() {
      return child.pid!;
    },
    output: () => output,
    signal: (signal) => void child.kill(signal),
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const closed = once(child, 'close');
      child.kill('SIGKILL');
      await closed;
    },
    stop() {
      child.kill('SIGTERM');
      return ended();
    },
    ended,
    again: start,
  };
}
