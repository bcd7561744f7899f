/** `sealog serve`: from an empty folder, or a database, to a service that listens; and back to nothing on SIGTERM. */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Logger, pino } from 'pino';
import { type App, createApp } from '../app.ts';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { connectionOf } from '../store/connection.ts';
import { type DataDirLock, lockDataDir } from '../store/data-dir-lock.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { migrate } from '../store/migrate.ts';
import { configuration, tokenOptions } from './environment.ts';
import { orUsage } from './usage.ts';
import { welcome } from './welcome.ts';

/** Requests, the sequencer and the pools get so long to end; what still hangs then loses its database. */
const CLOSE_MAX_MS = 4500;
/** From the signal on. After this the process ends, whatever still hangs: 8 s are promised. */
const STOP_MAX_MS = 7500;

export async function serve(args: string[]): Promise<number> {
  orUsage(() => parseArgs({ args, options: {} }));
  const config = configuration();
  const log = pino({ level: config.logLevel, base: null }, pino.destination({ dest: 2, sync: true }));
  const told = stopSignal();
  let lock: DataDirLock | undefined;
  let postgres: EmbeddedPostgres | undefined;
  let app: App | undefined;
  const end = endInTime(log, () => postgres?.pid);
  told.addEventListener('abort', end.begin);
  try {
    if (config.databaseUrl === undefined) {
      lock = await lockDataDir(config.dataDir);
      postgres = await startEmbeddedPostgres({ dataDir: config.dataDir, log, signal: told });
      await migrate(postgres.admin, postgres.app.user);
    }
    const connection = postgres?.app ?? connectionOf(config.databaseUrl!);
    app = await createApp({ config, connection, tokens: await tokenOptions(config), log });
    const address = await listen(app, config);
    app.warm();
    if (!told.aborted) process.stdout.write(welcome(address, app.origin, config));
    return await untilStopped(told, postgres, config, log);
  } catch (error) {
    // What fails because we were told to stop is no failure.
    if (!told.aborted) throw error;
    return 0;
  } finally {
    end.begin();
    if (app !== undefined) await closeWithin(app, CLOSE_MAX_MS, log);
    await postgres?.stop().catch((error: unknown) => log.error({ err: error }, 'stopping the database failed'));
    await lock?.release();
    end.done();
  }
}

/** Listens, and returns the URL to reach the service at from this machine. */
async function listen({ server }: App, config: Config): Promise<string> {
  try {
    await server.listen({ host: config.host, port: config.port });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EADDRINUSE')
      throw new SettingsError([
        `port ${config.port} on ${config.host} is in use: set SEALOG_PORT to another, or 0 for any`,
      ]);
    if (code === 'EACCES')
      throw new SettingsError([
        `port ${config.port} on ${config.host} may not be opened by this user: set SEALOG_PORT to another`,
      ]);
    if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND' || code === 'EAI_AGAIN')
      throw new SettingsError([`SEALOG_HOST ${config.host} is no address of this machine`]);
    throw error;
  }
  const bound = server.server.address();
  if (bound === null || typeof bound === 'string') return String(bound);
  // What stands for every address can not be connected to everywhere.
  const host = { '0.0.0.0': '127.0.0.1', '::': '::1' }[bound.address] ?? bound.address;
  return `http://${host.includes(':') ? `[${host}]` : host}:${bound.port}`;
}

/** Returns the exit code: 0 when told to stop, 1 when the embedded server ended by itself. */
async function untilStopped(
  told: AbortSignal,
  postgres: EmbeddedPostgres | undefined,
  config: Config,
  log: Logger,
): Promise<number> {
  const stopped = new Promise<number>((resolve) => {
    if (told.aborted) resolve(0);
    told.addEventListener('abort', () => resolve(0));
  });
  if (postgres === undefined) return stopped;
  const died = postgres.exited.then(() => {
    if (told.aborted) return 0;
    const logFile = join(config.dataDir, 'postgres', 'server.log');
    log.fatal({ logFile }, 'the embedded database ended: start the service again, it recovers');
    return 1;
  });
  return Promise.race([stopped, died]);
}

/**
 * Aborts on the first SIGTERM or SIGINT. Later ones change nothing: npm passes one on that the process group got already, so that a
 * second is not yet impatience, and stopping has an end of its own.
 */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => controller.abort());
  return controller.signal;
}

/** Ends the process, and the embedded server with it, when stopping takes too long after `begin`, which may be called twice. */
function endInTime(log: Logger, databasePid: () => number | undefined): { begin(): void; done(): void } {
  let timer: NodeJS.Timeout | undefined;
  const force = () => {
    log.error('stopping takes too long: ending now; the next start recovers');
    const pid = databasePid();
    try {
      if (pid !== undefined) process.kill(pid, 'SIGQUIT');
    } catch {
      // It has ended.
    }
    process.exit(1);
  };
  return {
    begin() {
      timer ??= setTimeout(force, STOP_MAX_MS);
    },
    // It stays for what still hangs, and does not keep the process from ending.
    done: () => void timer?.unref(),
  };
}

async function closeWithin(app: App, ms: number, log: Logger): Promise<void> {
  const closing = app.close().catch((error: unknown) => log.error({ err: error }, 'stopping failed'));
  const over = new AbortController();
  await Promise.race([closing, delay(ms, undefined, { signal: over.signal }).catch(() => {})]);
  over.abort();
}
