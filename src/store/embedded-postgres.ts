/**
 * The embedded PostgreSQL: what `npm start` runs when no DATABASE_URL is set.
 *
 * A real PostgreSQL server in the data folder, reached through a Unix socket there and never through the network. It is the same server
 * with the same guarantees as one that the operator runs; only its making and stopping are ours.
 *
 *     <data folder>/postgres/
 *       passwords.json   of `postgres` and `sealog`, generated on the first start; those of other logins follow from the latter
 *       cluster/         PostgreSQL's data folder, with its socket
 *       server.log       what the server says, bounded
 *       binaries-…/      its programs, where they can not be run from node_modules
 *
 * Every step of a start finds out what is there and does what is missing, so that a start killed at any moment is healed by the next.
 * A crash of the service leaves the server running; the next start takes it over.
 *
 * The caller MUST hold the data folder's lock (`lockDataDir`) from before the start until after the stop.
 */
import { createHmac } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Client } from 'pg';
import { findBinaries, removeOldCopies, touchCopy } from './embedded/binaries.ts';
import { clusterOf, ensureCluster, makeHome, type Passwords, readPasswords } from './embedded/cluster.ts';
import { settingsErrorOf } from './embedded/files.ts';
import {
  boundLog,
  findServer,
  type Log,
  launchServer,
  SERVER_PORT,
  type ServerExit,
} from './embedded/server-process.ts';
import { serverUser } from './embedded/server-user.ts';

/** Options of a `pg` client or pool. */
export interface ConnectionConfig {
  /** The folder of the socket; only this process may use it, as it may be named by one of its descriptors. */
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
}

export interface EmbeddedConnection {
  /** The superuser `postgres`: for migrations. */
  readonly admin: ConnectionConfig;
  /** The role `sealog` that the service works as where it appends; it owns nothing and may do what the migrations grant. */
  readonly app: ConnectionConfig;
  /** Roles of the same kind that do nothing but what their names say. */
  readonly logins: {
    readonly reader: ConnectionConfig;
    readonly verifier: ConnectionConfig;
    readonly signer: ConnectionConfig;
  };
  readonly port: number;
  readonly socketDir: string;
  readonly pid: number;
}

export interface EmbeddedPostgres extends EmbeddedConnection {
  /** True when the server of an earlier, killed service was found running. */
  readonly tookOver: boolean;
  /** Resolves once when the server process has ended; `expected` is false unless `stop` was called. */
  readonly exited: Promise<ServerExit>;
  /** Stops the server: 5 s for a fast shutdown, then at most 1.5 s for one after which the next start recovers. May be called twice. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  readonly dataDir: string;
  readonly log: Log;
  /** Ends a start that is under way; `startEmbeddedPostgres` then throws its reason and leaves no server behind. */
  readonly signal?: AbortSignal | undefined;
  /** A folder with `initdb` and `postgres` of PostgreSQL 15 to 18, in place of the npm package's. */
  readonly bin?: string | undefined;
}

const TOUCH_MS = 24 * 3600 * 1000;
const CONNECT_TIMEOUT_MS = 10_000;
/** `sun_path` of a socket address holds 108 bytes, the last of them 0. */
const SOCKET_PATH_MAX_BYTES = 107;

/**
 * Takes over or starts the server of a data folder, having made the cluster, the role and the database `sealog` where they are missing.
 * First start 1 s, later ones 0.2 s, plus recovery after a crash.
 *
 * @throws SettingsError with one sentence for the operator: unsupported system, other major version, no space, no permission.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const dataDir = resolve(options.dataDir);
  try {
    return await start({ ...options, dataDir });
  } catch (error) {
    throw settingsErrorOf(error, dataDir);
  }
}

/**
 * How another process of the same machine connects to the server of a data folder; undefined when none runs. `close` lets go of it when
 * its clients have ended.
 *
 * @throws SettingsError when this user may not read it.
 */
export async function readEmbeddedConnection(
  dataDir: string,
): Promise<(EmbeddedConnection & { close(): void }) | undefined> {
  const absolute = resolve(dataDir);
  try {
    const passwords = await readPasswords(absolute);
    if (passwords === undefined) return undefined;
    const server = await findServer(clusterOf(absolute));
    if (server === undefined) return undefined;
    const socket = openSocketDir(clusterOf(absolute));
    return { ...connectionOf(socket.path, passwords, server.pid), close: socket.close };
  } catch (error) {
    throw settingsErrorOf(error, absolute);
  }
}

async function start({ dataDir, log, signal, bin }: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const startedAt = performance.now();
  const cluster = clusterOf(dataDir);
  const home = await makeHome(dataDir);
  const user = await serverUser(cluster);
  const binaries = await findBinaries({ home, user, bin });
  const passwords = await ensureCluster({ dataDir, binaries, user, signal });
  const logFile = join(home, 'server.log');
  const { server, tookOver } = await launchServer({ cluster, binaries, user, logFile, log, signal });

  const socket = openSocketDir(cluster);
  const connection = connectionOf(socket.path, passwords, server.pid);
  try {
    await ensureDatabase(connection);
    signal?.throwIfAborted();
  } catch (error) {
    await server.stop();
    socket.close();
    throw error;
  }
  await removeOldCopies(home, binaries).catch(() => undefined);
  const endings = [boundLog(logFile), keepCopy(binaries.temporary), socket.close];
  const ms = Math.round(performance.now() - startedAt);
  log.info({ pid: server.pid, version: binaries.version, tookOver, ms }, 'embedded PostgreSQL is ready');

  let stopped: Promise<void> | undefined;
  return {
    ...connection,
    tookOver,
    exited: server.exited,
    stop() {
      stopped ??= server.stop().finally(() => {
        for (const end of endings) end();
      });
      return stopped;
    },
  };
}

/**
 * The roles and the database that the migrations fill. Whoever got a connection to run statements of his could have changed its own role's
 * password and defaults: they are set again at each start.
 */
async function ensureDatabase({ admin, app, logins }: EmbeddedConnection): Promise<void> {
  const client = new Client({ ...admin, database: 'postgres', connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  // Without a listener a server that dies now would end our process; the query fails as well.
  client.on('error', () => undefined);
  await client.connect();
  try {
    for (const { user, password } of [app, ...Object.values(logins)]) {
      const { rowCount: roles } = await client.query('SELECT 1 FROM pg_roles WHERE rolname = $1', [user]);
      if (roles === 0) await client.query(`CREATE ROLE ${user}`);
      await client.query(`
        ALTER ROLE ${user} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT
          PASSWORD ${client.escapeLiteral(password)};
        ALTER ROLE ${user} RESET ALL`);
    }
    const { rowCount: databases } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [app.database]);
    if (databases === 0) {
      await client.query(`CREATE DATABASE sealog OWNER postgres TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`);
    }
    // There is nothing for anybody but the superuser, and nobody closed it (`migrate.ts`).
    const { rows: others } = await client.query<{ name: string }>(`
      SELECT datname AS name FROM pg_database
      WHERE datname IN ('postgres', 'template1') AND has_database_privilege('public', oid, 'CONNECT')`);
    for (const { name } of others) await client.query(`REVOKE ALL ON DATABASE ${name} FROM PUBLIC`);
  } finally {
    await client.end();
  }
}

function connectionOf(socketDir: string, passwords: Passwords, pid: number): EmbeddedConnection {
  const place = { host: socketDir, port: SERVER_PORT, database: 'sealog' };
  // One password is kept, and the others follow from it: none of them leads to another one.
  const login = (of: string): ConnectionConfig => ({
    ...place,
    user: `sealog_app_${of}`,
    password: createHmac('sha256', passwords.sealog).update(`sealog_app_${of}`).digest('base64url'),
  });
  return {
    admin: { ...place, user: 'postgres', password: passwords.postgres },
    app: { ...place, user: 'sealog', password: passwords.sealog },
    logins: { reader: login('reader'), verifier: login('verifier'), signer: login('signer') },
    port: SERVER_PORT,
    socketDir,
    pid,
  };
}

/** A path to the socket's folder that is short enough for a socket: where it is not, through a descriptor that stays open. */
function openSocketDir(cluster: string): { path: string; close(): void } {
  if (Buffer.byteLength(join(cluster, `.s.PGSQL.${SERVER_PORT}`)) <= SOCKET_PATH_MAX_BYTES) {
    return { path: cluster, close: () => undefined };
  }
  const fd = openSync(cluster, 'r');
  let open = true;
  const close = () => {
    if (open) closeSync(fd);
    open = false;
  };
  return { path: `/proc/self/fd/${fd}`, close };
}

/** Lets a copy of the programs in a folder for temporary files live as long as the service; what is returned ends that. */
function keepCopy(folder: string | undefined): () => void {
  if (folder === undefined) return () => undefined;
  const timer = setInterval(() => void touchCopy(folder).catch(() => undefined), TOUCH_MS);
  timer.unref();
  return () => clearInterval(timer);
}
