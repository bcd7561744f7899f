/** Sealog as a user starts it: `sealog serve` in a process of its own, in the default configuration, on a fresh data folder. */
import { spawn } from 'node:child_process';
import { openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Client } from 'pg';
import type { Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import { tokenOptions } from '../src/cli/environment.ts';
import { readConfig } from '../src/config.ts';
import type { Address } from './http-load.ts';

export interface Service {
  readonly pid: number;
  readonly address: Address;
  /** When the process was started, by `performance.now`. */
  readonly startedAt: number;
  /** Milliseconds from then until `/readyz` said so. */
  readonly readyAfter: number;
  /** A development token, for the tenant `bench` unless said otherwise. */
  token(role: Role, tenant?: string): Promise<string>;
  /** The last of what it printed. */
  output(): string;
  stop(): Promise<void>;
}

const REPOSITORY = fileURLToPath(new URL('..', import.meta.url));
const COMMAND = join('bin', 'sealog');
export const TENANT = 'bench';
const TOKEN_SECONDS = 12 * 3600;
const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 20_000;

/** Those that run. A bench that is told to end stops them all, whatever it is at. */
const running = new Set<() => Promise<void>>();

export async function stopServices(): Promise<void> {
  await Promise.all([...running].map((stop) => stop()));
}

/** What a service is told beyond the defaults. */
export type Settings = Readonly<Record<string, string>>;

/** Starts the service on `dataDir`; its output goes to `logFile`. */
export async function startService(dataDir: string, logFile: string, settings: Settings = {}): Promise<Service> {
  const env = { ...defaultEnvironment(dataDir), ...settings };
  const startedAt = performance.now();
  const output = openSync(logFile, 'w');
  const child = spawn(COMMAND, ['serve'], {
    cwd: REPOSITORY,
    env,
    stdio: ['ignore', output, output],
  });
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });

  async function stop(): Promise<void> {
    running.delete(stop);
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
    child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(late);
  }

  running.add(stop);

  const token = async (role: Role, tenant = TENANT): Promise<string> =>
    signToken(await tokenOptions(readConfig({ SEALOG_DATA_DIR: dataDir })), {
      tenant,
      roles: [role],
      sites: undefined,
      subject: `bench-${role}`,
      ttlSeconds: TOKEN_SECONDS,
    });

  try {
    const address = await waitUntilReady(logFile, () => child.exitCode === null && child.signalCode === null);
    const readyAfter = performance.now() - startedAt;
    return { pid: child.pid!, address, startedAt, readyAfter, token, output: () => tail(logFile), stop };
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

/**
 * How many entries the streams of a tenant hold; what Sealog itself notes does not count. Of the service's database, as its superuser: asked
 * over the API, the answer would be about the entry that the question leaves, too.
 */
export async function countEntries(database: Pick<Client, 'query'>, tenant = TENANT): Promise<number> {
  const { rows } = await database.query<{ entries: string }>(
    `SELECT coalesce(sum(s.size), 0) AS entries FROM sealog.stream AS s JOIN sealog.tenant AS t ON t.id = s.tenant
     WHERE t.name = $1 AND s.category <> 'log_administration'`,
    [tenant],
  );
  return Number(rows[0]!.entries);
}
