/** Sealog as a user starts it: `sealog serve` in a process of its own, in the default configuration, on a fresh data folder. */
import { execFile, spawn } from 'node:child_process';
import { openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Client } from 'pg';
import type { Address } from './http-load.ts';

export type BenchRole = 'service' | 'auditor' | 'operator' | 'it_security_admin';

export interface Service {
  readonly pid: number;
  readonly address: Address;
  /** Milliseconds from the start of the process until `/readyz` said so, on an empty data folder. */
  readonly readyAfter: number;
  /** A development token, for the tenant `bench` unless said otherwise. */
  token(role: BenchRole, tenant?: string): Promise<string>;
  /** How many entries the streams of the tenant `bench` hold. Of the service's database, as its superuser. */
  countEntries(database: Pick<Client, 'query'>): Promise<number>;
  /** The last of what it printed. */
  output(): string;
  stop(): Promise<void>;
}

const REPOSITORY = fileURLToPath(new URL('..', import.meta.url));
const COMMAND = join('src', 'cli', 'main.ts');
const TENANT = 'bench';
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;

/** Starts the service on `dataDir`; its output goes to `logFile`. */
export async function startService(dataDir: string, logFile: string): Promise<Service> {
  const env = defaultEnvironment(dataDir);
  const started = performance.now();
  const output = openSync(logFile, 'w');
  const child = spawn(process.execPath, [COMMAND, 'serve'], {
    cwd: REPOSITORY,
    env,
    stdio: ['ignore', output, output],
  });
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });

  async function stop(): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
    child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(late);
  }

  async function token(role: BenchRole, tenant = TENANT): Promise<string> {
    const args = [COMMAND, 'token', '--role', role, '--tenant', tenant];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: REPOSITORY, env });
    return stdout.trim();
  }

  try {
    const address = await waitUntilReady(logFile, () => child.exitCode === null && child.signalCode === null);
    const readyAfter = performance.now() - started;
    return {
      pid: child.pid!,
      address,
      readyAfter,
      token,
      output: () => tail(logFile),
      stop,
      countEntries,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Our environment without any setting of Sealog's but that receivers may be on this machine: no measurement may rest on a setting that the default has not. */
function defaultEnvironment(dataDir: string): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith('SEALOG_') && name !== 'DATABASE_URL',
  );
  const receivers = { SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32' };
  return { ...Object.fromEntries(inherited), ...receivers, SEALOG_DATA_DIR: dataDir, SEALOG_PORT: '0' };
}

/** The port is any free one, so the address is read from what the service prints. */
async function waitUntilReady(logFile: string, alive: () => boolean): Promise<Address> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (performance.now() < deadline && alive()) {
    const found = /http:\/\/([\w.-]+|\[[\da-f:]+\]):(\d+)/.exec(readFileSync(logFile, 'utf8'));
    if (found !== null) {
      const answer = await fetch(`${found[0]}/readyz`).catch(() => undefined);
      if (answer?.status === 200) return { host: found[1]!.replace(/[[\]]/g, ''), port: Number(found[2]) };
    }
    await sleep(20);
  }
  throw new Error(`the service did not become ready; it said:\n${tail(logFile)}`);
}

function tail(file: string): string {
  return readFileSync(file, 'utf8').slice(-4000);
}

/** As the superuser: asked over the API, the answer would be about the entry that the question leaves, too. What Sealog itself notes does not count. */
async function countEntries(database: Pick<Client, 'query'>): Promise<number> {
  const { rows } = await database.query<{ entries: string }>(
    `SELECT coalesce(sum(s.size), 0) AS entries FROM sealog.stream AS s JOIN sealog.tenant AS t ON t.id = s.tenant
     WHERE t.name = $1 AND s.category <> 'log_administration'`,
    [TENANT],
  );
  return Number(rows[0]!.entries);
}
