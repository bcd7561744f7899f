/** Databases for tests, on the PostgreSQL of the run (`global-setup.ts`). */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';
import { dropMonthsAhead } from '../../src/retention/partitions.ts';
import { APP_ROLES } from '../../src/store/database.ts';
import type { ConnectionConfig } from '../../src/store/embedded-postgres.ts';
import { migrate } from '../../src/store/migrate.ts';

/** A fresh, empty database. */
export interface TestDatabase {
  readonly name: string;
  /** The superuser in it: for migrations, and for the adversary. */
  readonly adminConfig: ConnectionConfig;
  readonly adminUrl: string;
  /** A login role of this database alone, without any privilege yet, as `sealog` is in production. */
  readonly appConfig: ConnectionConfig;
  readonly appUrl: string;
  readonly appRole: string;
  /** Drops database and role, whoever is still connected. May be called twice. */
  drop(): Promise<void>;
}

/** A database that has the schema, for others to be copies of. Nobody may connect to it: that would be in the way of a copy. */
const MIGRATED = 'sealog_test_migrated';

/** Makes the database that `createDatabase('migrated')` copies: 0.2 s of work that hundreds of tests need not do again. */
export async function makeMigrated(server: ConnectionConfig): Promise<void> {
  const login = `${MIGRATED}_app`;
  await onServer(server, [
    `CREATE ROLE ${login} LOGIN NOINHERIT`,
    `CREATE DATABASE ${MIGRATED} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`,
  ]);
  const database = { ...server, database: MIGRATED };
  await migrate(database, login);
  // With the partitions that a service makes when it starts, and finds here.
  const client = new pg.Client(database);
  await client.connect();
  for (const month of dropMonthsAhead(Date.now())) await client.query('SELECT sealog.ensure_drop_month($1)', [month]);
  await client.end();
  await onServer(server, [`DROP ROLE ${login}`, `ALTER DATABASE ${MIGRATED} ALLOW_CONNECTIONS false`]);
}

/**
 * Makes a database (UTF8, collation C) and a login role for it. Roles belong to the whole server, so the role has a name of its own;
 * those that migrations make are shared by all databases of the run. One that is `migrated` is as `migrate` leaves it for that role:
 * test/migrate.test.ts holds it to that.
 */
export async function createDatabase(as: 'empty' | 'migrated' = 'empty'): Promise<TestDatabase> {
  const server = inject('postgres');
  const id = randomBytes(6).toString('hex');
  const name = `sealog_test_${id}`;
  const appRole = `sealog_test_app_${id}`;
  const password = randomBytes(16).toString('hex');
  const made =
    as === 'empty'
      ? [`CREATE DATABASE ${name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`]
      : [
          `CREATE DATABASE ${name} TEMPLATE ${MIGRATED}`,
          // What a copy does not have, since it is not in the database.
          `REVOKE TEMPORARY ON DATABASE ${name} FROM PUBLIC`,
          `GRANT ${APP_ROLES.join(', ')} TO ${appRole}`,
        ];
  await onServer(server, [
    `CREATE ROLE ${appRole} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT PASSWORD '${password}'`,
    ...made,
  ]);
  const adminConfig = { ...server, database: name };
  const appConfig = { ...adminConfig, user: appRole, password };
  return {
    name,
    adminConfig,
    adminUrl: urlOf(adminConfig),
    appConfig,
    appUrl: urlOf(appConfig),
    appRole,
    async drop() {
      const own = ['reader', 'verifier', 'signer'].map((of) => `${appRole}_${of}`);
      await onServer(server, [
        `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`,
        `DROP ROLE IF EXISTS ${[appRole, ...own].join(', ')}`,
      ]);
    },
  };
}

/** Makes a login role for each role of the application but the writer, whose is the database's own. They are dropped with the database. */
export async function createLogins(
  database: TestDatabase,
): Promise<Record<'reader' | 'verifier' | 'signer', ConnectionConfig>> {
  const server = inject('postgres');
  const login = async (of: string): Promise<ConnectionConfig> => {
    const [user, password] = [`${database.appRole}_${of}`, randomBytes(16).toString('hex')];
    await onServer(server, [`CREATE ROLE ${user} LOGIN NOINHERIT PASSWORD '${password}'`]);
    return { ...database.adminConfig, user, password };
  };
  return { reader: await login('reader'), verifier: await login('verifier'), signer: await login('signer') };
}

/** Makes a database that is a copy of another, with the same login role; whoever is connected to that one is cut off. */
export async function copyDatabase(from: TestDatabase): Promise<TestDatabase> {
  const server = inject('postgres');
  const name = `sealog_test_${randomBytes(6).toString('hex')}`;
  await onServer(server, [
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '${from.name}'`,
    `CREATE DATABASE ${name} TEMPLATE ${from.name}`,
  ]);
  const adminConfig = { ...server, database: name };
  const appConfig = { ...from.appConfig, database: name };
  return {
    ...from,
    name,
    adminConfig,
    adminUrl: urlOf(adminConfig),
    appConfig,
    appUrl: urlOf(appConfig),
    async drop() {
      await onServer(server, [`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`]);
    },
  };
}

/** The superuser's connections to a database, by default one. That they are cut off when it is copied or dropped is no error. */
export function adminPool(config: ConnectionConfig, options: Pick<pg.PoolConfig, 'max' | 'types'> = {}): pg.Pool {
  const made = new pg.Pool({ max: 1, ...options, ...config, allowExitOnIdle: true });
  made.on('error', () => {});
  // Also behind `end`, which does not wait until they are closed.
  made.on('connect', (client) => void client.on('error', () => {}));
  return made;
}

/** To the server of the run: a process makes and drops many databases. */
let pool: pg.Pool | undefined;

async function onServer(server: ConnectionConfig, statements: readonly string[]): Promise<void> {
  pool ??= adminPool(server, { max: 4 });
  const client = await pool.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    client.release();
  }
}

/** As DATABASE_URL has it; the folder of a Unix socket goes into the query, where it wins over the host that every URL has. */
export function urlOf({ host, port, user, password, database }: ConnectionConfig): string {
  const who = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`;
  if (!host.startsWith('/')) return `postgresql://${who}@${host}:${port}/${database}`;
  return `postgresql://${who}@localhost/${database}?host=${encodeURIComponent(host)}&port=${port}`;
}
