/** `sealog serve`: from an empty folder, or a database, to a service that listens; and back to nothing on SIGTERM. */
import { relative } from 'node:path';
import { type Logger, pino } from 'pino';
import { type App, createApp } from '../app.ts';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { type DataDirLock, lockDataDir } from '../store/data-dir-lock.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { migrate } from '../store/migrate.ts';
import { configuration, connectionOf, tokenOptions } from './environment.ts';

/** After this the process ends, whatever still hangs: 8 s are promised. */
const STOP_MAX_MS = 7500;

export async function serve(): Promise<number> {
  const config = configuration();
  const log = pino({ level: config.logLevel, base: null }, pino.destination({ dest: 2, sync: true }));
  const stopping = stopSignal();
  let lock: DataDirLock | undefined;
  let postgres: EmbeddedPostgres | undefined;
  let app: App | undefined;
  let code = 0;
  try {
    if (config.databaseUrl === undefined) {
      lock = await lockDataDir(config.dataDir);
      postgres = await startEmbeddedPostgres({ dataDir: config.dataDir, log, signal: stopping.signal });
      await migrate(postgres.admin, postgres.app.user);
    }
    const connection = postgres?.app ?? connectionOf(config.databaseUrl!);
    app = await createApp({ config, connection, tokens: await tokenOptions(config), log });
    app.warm();
    const address = await listen(app, config);
    if (!stopping.signal.aborted) process.stdout.write(welcome(address, app.origin, config));
    code = await untilStopped(stopping, postgres, log);
  } catch (error) {
    if (!stopping.signal.aborted) throw error;
  } finally {
    stopping.armForce(log);
    await app?.close().catch((error: unknown) => log.error({ err: error }, 'stopping failed'));
    await postgres?.stop().catch((error: unknown) => log.error({ err: error }, 'stopping the database failed'));
    await lock?.release();
    stopping.disarm();
  }
  return code;
}

async function listen(app: App, config: Config): Promise<string> {
  try {
    return await app.server.listen({ host: config.host, port: config.port });
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
    if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND')
      throw new SettingsError([`SEALOG_HOST ${config.host} is no address of this machine`]);
    throw error;
  }
}

/** Returns the exit code: 0 when told to stop, 1 when the embedded server ended by itself. */
async function untilStopped(stopping: Stopping, postgres: EmbeddedPostgres | undefined, log: Logger): Promise<number> {
  const told = new Promise<number>((resolve) => {
    if (stopping.signal.aborted) resolve(0);
    stopping.signal.addEventListener('abort', () => resolve(0));
  });
  const died = postgres?.exited.then(() => {
    if (!stopping.signal.aborted)
      log.fatal({ dataDir: 'see its log there' }, 'the embedded database ended: start the service again, it recovers');
    return stopping.signal.aborted ? 0 : 1;
  });
  return Promise.race(died === undefined ? [told] : [told, died]);
}

interface Stopping {
  readonly signal: AbortSignal;
  /** From now on a second signal, or too much time, ends the process. */
  armForce(log: Logger): void;
  disarm(): void;
}

/** SIGTERM and SIGINT stop once; npm passes one on that the process group already got, so a second soon after is the same. */
function stopSignal(): Stopping {
  const controller = new AbortController();
  const stop = () => controller.abort();
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  let timer: NodeJS.Timeout | undefined;
  return {
    signal: controller.signal,
    armForce(log) {
      timer = setTimeout(() => {
        log.error('stopping takes too long: ending now; the next start recovers');
        process.exit(1);
      }, STOP_MAX_MS);
      timer.unref();
    },
    disarm() {
      clearTimeout(timer);
      process.off('SIGTERM', stop);
      process.off('SIGINT', stop);
    },
  };
}

/** What an operator sees at the first start: where it is, and commands that work when pasted. */
function welcome(address: string, origin: string, config: Config): string {
  const npm = `npm run -s --prefix '${relative(process.cwd(), '.') || '.'}'`;
  const folder = config.dataDirGiven === undefined ? '' : `SEALOG_DATA_DIR='${config.dataDir}' `;
  const token = (role: string) =>
    `$(${folder}${npm.replace(" --prefix '.'", '')} token -- --role ${role} --tenant acme)`;
  const event = JSON.stringify({
    id: 'first-1',
    category: 'user_authentication',
    action: 'user.login',
    outcome: 'success',
    occurredAt: new Date().toISOString(),
    source: { service: 'try-out' },
    actor: { type: 'user', id: 'u-1' },
  });
  if (config.databaseUrl !== undefined) return `Sealog (${origin}) listens on ${address}\n`;
  return `
Sealog (${origin}) listens on ${address}
Its data and keys are in ${config.dataDir}

Send an event:
  curl -sS ${address}/v1/events -H "authorization: Bearer ${token('service')}" \\
    -H 'content-type: application/json' -d '${event}'

Read it back:
  curl -sS ${address}/v1/events/first-1 -H "authorization: Bearer ${token('auditor')}"

Check every stored byte:
  ${folder}npm run -s sealog -- verify --database

`;
}
