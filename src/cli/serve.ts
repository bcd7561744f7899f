/** `sealog serve`: from an empty folder, or a database, to a service that listens; and back to nothing on SIGTERM. */
import assert from 'node:assert/strict';
import { lookup } from 'node:dns/promises';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { type App, createApp } from '../app.ts';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { connectionOf, loginsOf } from '../store/connection.ts';
import { type DataDirLock, lockDataDir } from '../store/data-dir-lock.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { migrate } from '../store/migrate.ts';
import { configuration, tokenOptions } from './environment.ts';
import { commandLog } from './log.ts';
import { orUsage } from './usage.ts';
import { type Place, welcome } from './welcome.ts';

/** Requests, the sequencer and the pools get so long to end; what still hangs then loses its database. */
const CLOSE_MAX_MS = 4500;
/** From the signal on. After this the process ends, whatever still hangs: 8 s are promised. */
const STOP_MAX_MS = 7500;

/**
 * Connections that the operating system keeps until they are taken; as many as it allows by itself. With Node's 511 a burst of 2,000 made new
 * ones wait for a second.
 */
const BACKLOG = 4096;

export async function serve(args: string[]): Promise<number> {
  orUsage(() => parseArgs({ args, options: {} }));
  const config = configuration();
  const log = commandLog(config);
  // Node would write it itself, with whatever it holds.
  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'a mistake of ours: the process ends; the next start recovers');
    process.exit(1);
  });
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
      const { app: writer, logins } = postgres;
      await migrate(postgres.admin, {
        writer: writer.user,
        reader: logins.reader.user,
        verifier: logins.verifier.user,
        signer: logins.signer.user,
      });
    }
    const connection = postgres?.app ?? connectionOf(config.databaseUrl!);
    const logins = postgres?.logins ?? loginsOf(config.ownDatabaseUrls);
    app = await createApp({ config, connection, logins, tokens: await tokenOptions(config), log });
    const place = await listen(app, config, log);
    app.warm();
    // Not waited for: a database that is kept from appending may be so for long.
    void app.tellStart();
    if (!told.aborted) process.stdout.write(welcome(place, app.origin, config));
    return await untilStopped(told, app, postgres, config, log);
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

/** Listens on every port that there is to be. */
async function listen({ server, metricsServer, certificate }: App, config: Config, log: Logger): Promise<Place> {
  const { host, port, metrics } = config;
  const bound = await open(server, host, port, { host: 'SEALOG_HOST', port: 'SEALOG_PORT' });
  const settings = {
    host: metrics?.host === host ? 'SEALOG_HOST' : 'SEALOG_METRICS_HOST',
    port: 'SEALOG_METRICS_PORT',
  };
  const boundMetrics = metricsServer && metrics && (await open(metricsServer, metrics.host, metrics.port, settings));
  for (const { address } of [bound, boundMetrics].filter((one) => one !== undefined)) {
    if (config.tls === undefined && !isOfThisMachine(address))
      log.warn(
        { address },
        'listening beyond this machine without TLS: tokens and events can be read on their way, unless a proxy in front encrypts (SEALOG_TLS_CERT, SEALOG_TLS_KEY)',
      );
  }
  return { ...bound, certificate, metrics: boundMetrics };
}

interface Bound {
  readonly address: string;
  readonly port: number;
}

async function open(
  server: FastifyInstance,
  host: string,
  port: number,
  settings: { readonly host: string; readonly port: string },
): Promise<Bound> {
  try {
    // For the name localhost Fastify would open a second server, which nothing looks after.
    const { address } = await lookup(host, { order: 'ipv4first' });
    await server.listen({ host: address, port, backlog: BACKLOG });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EADDRINUSE')
      throw new SettingsError([`port ${port} on ${host} is in use: set ${settings.port} to another, or 0 for any`]);
    if (code === 'EACCES')
      throw new SettingsError([
        `port ${port} on ${host} may not be opened by this user: set ${settings.port} to another`,
      ]);
    if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND' || code === 'EAI_AGAIN')
      throw new SettingsError([`${settings.host} ${host} is no address of this machine`]);
    throw error;
  }
  const bound = (server.server as Server).address();
  assert(bound !== null && typeof bound !== 'string', 'a server that listens has a port');
  return bound;
}

function isOfThisMachine(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127\./.test(address);
}

/** Returns the exit code: 0 when told to stop, 1 when the embedded server ended by itself, or the database was migrated past this program. */
async function untilStopped(
  told: AbortSignal,
  app: App,
  postgres: EmbeddedPostgres | undefined,
  config: Config,
  log: Logger,
): Promise<number> {
  const stopped = new Promise<number>((resolve) => {
    if (told.aborted) resolve(0);
    told.addEventListener('abort', () => resolve(0));
  });
  const outdated = app.outdated.then((migrations) => {
    log.fatal({ migrations }, 'the database was migrated past this version of Sealog: install the newer version');
    return 1;
  });
  if (postgres === undefined) return Promise.race([stopped, outdated]);
  const died = postgres.exited.then(() => {
    if (told.aborted) return 0;
    const logFile = join(config.dataDir, 'postgres', 'server.log');
    log.fatal({ logFile }, 'the embedded database ended: start the service again, it recovers');
    return 1;
  });
  return Promise.race([stopped, outdated, died]);
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
