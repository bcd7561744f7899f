/** `sealog serve` in a process of its own, on a database of its own: what goes out of it is what an operator sees. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { onTestFinished } from 'vitest';
import { createDatabase, type TestDatabase } from './postgres.ts';

const REPOSITORY = join(import.meta.dirname, '../..');
const CLEAN = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^(SEALOG_|DATABASE_URL$|PG[A-Z]+$|NODE_(?!COMPILE_CACHE$)|VITEST|npm_)/.test(name),
  ),
) as Record<string, string>;

export interface Served {
  readonly child: ChildProcess;
  readonly database: TestDatabase;
  /** What it wrote. */
  out(): string;
  err(): string;
  /** Lines of its log. */
  lines(): Record<string, unknown>[];
  /** Resolves with the exit code. */
  readonly exited: Promise<number | null>;
  /** Waits until it says where it listens, and returns the URL without a slash at its end. */
  listening(): Promise<string>;
}

/** Starts the service, whose database is there and migrated; `settings` of undefined are not set. It is gone when the test is over. */
export async function serve(settings: Readonly<Record<string, string | undefined>> = {}): Promise<Served> {
  const database = await createDatabase('migrated');
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-served-'));
  const environment = {
    DATABASE_URL: database.appUrl,
    SEALOG_HOST: '127.0.0.1',
    SEALOG_PORT: '0',
    SEALOG_ORIGIN: 'log.example',
    SEALOG_MASTER_KEY: `file:${folder}/months`,
    SEALOG_SIGNER_DIR: join(folder, 'signer'),
    SEALOG_JWT_SECRET: 's'.repeat(43),
    ...settings,
  };
  const set = Object.entries(environment).filter((one): one is [string, string] => one[1] !== undefined);
  const child = spawn(process.execPath, [join(REPOSITORY, 'src/cli/main.ts'), 'serve'], {
    cwd: folder,
    env: { ...CLEAN, ...Object.fromEntries(set) },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  let err = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  let ended = false;
  const exited = once(child, 'close').then(([code]) => {
    ended = true;
    return code as number | null;
  });
  onTestFinished(async () => {
    if (!ended) child.kill('SIGKILL');
    await exited;
    await database.drop();
    await rm(folder, { recursive: true, force: true });
  });
  return {
    child,
    database,
    out: () => out,
    err: () => err,
    lines: () =>
      err
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    exited,
    async listening() {
      const begin = performance.now();
      for (;;) {
        const [, url] = /listens on (https?:\S+)/.exec(out) ?? [];
        if (url !== undefined) return url;
        if (ended || performance.now() - begin > 40_000) throw new Error(`it does not listen:\n${out}${err}`);
        await delay(20);
      }
    },
  };
}
