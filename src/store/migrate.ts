/**
 * Brings the schema `sealog` up to date with `migrations/`, and lets the application's login roles in.
 *
 * Runs as a role that may create roles and schemas (a superuser, or one with CREATEROLE that owns the database), never as the
 * application's: the application must not own its tables. All of it is one transaction, and a second migrator at the same time
 * waits for the first.
 */
import { readdir, readFile } from 'node:fs/promises';
import { Kysely, PostgresDialect, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import { SettingsError } from '../errors.ts';
import { PEER_OPTIONS } from './bounded-client.ts';
import { APP_ROLES, type AppRole } from './database.ts';
import { foreignTo, newerMigrations } from './schema-version.ts';
import type { Tables } from './tables.ts';

const FOLDER = new URL('../../migrations/', import.meta.url);
const TABLE = 'migration';
const CONNECT_MAX_MS = 10_000;
/** How long a migration waits for a table, which everybody who comes behind it waits for as well. No statement of ours takes longer than 4 s. */
const LOCK_WAIT_MAX_MS = 6000;
/** What a backup calls the connection that holds the tables. */
export const BACKUP_LOCK = 'sealog_backup_lock';

/** A login role for each role of the application (docs/storage.md). One name may stand for several. */
export interface LoginRoles {
  readonly writer: string;
  readonly reader: string;
  readonly verifier: string;
  readonly signer: string;
}

/** Returns the names of the migrations that this code knows, in order. */
export async function knownMigrations(): Promise<string[]> {
  const files = await readdir(FOLDER);
  return files
    .filter((file) => file.endsWith('.sql'))
    .map((file) => file.slice(0, -'.sql'.length))
    .sort();
}

/**
 * Migrates, lets the login roles in (made when they are not there; a single name is that of all four), and returns the migrations that
 * were run.
 *
 * @throws SettingsError when the schema is newer than this code may work beside, when services are connected that may not go on beside what is to
 *   be run, or when a login role is the role that migrates
 */
export async function migrate(connection: pg.ClientConfig, roles: string | LoginRoles): Promise<string[]> {
  const logins = typeof roles === 'string' ? { writer: roles, reader: roles, verifier: roles, signer: roles } : roles;
  const pool = new pg.Pool({
    ...connection,
    ...PEER_OPTIONS,
    max: 2,
    connectionTimeoutMillis: CONNECT_MAX_MS,
    application_name: 'sealog_migrate',
    onConnect: keepRolesMade,
  });
  pool.on('error', () => {});
  const database = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  try {
    for (const login of Object.values(logins)) await refuseOwnRole(database, login);
    const done = await doneMigrations(database);
    const { beside, foreign } = newerMigrations(done, await knownMigrations());
    if (foreign.length > 0) throw newerSchema(foreign);
    await refuseDuringBackup(database);
    await refuseBesideServices(database, done);
    // A program of before has nothing to add to a schema that it may work beside.
    const { error, results } = beside.length > 0 ? { results: [] } : await migratorOf(database).migrateToLatest();
    if (error !== undefined) throw isLockWait(error) ? lockedOut() : error;
    await admit(database, logins);
    await closeDatabase(database);
    return (results ?? []).map((result) => result.migrationName);
  } finally {
    await database.destroy();
  }
}

/**
 * Brings the schema to what it was, or is to be, behind one migration, and lets nobody in: for what is loaded into it (`load.ts`). Undefined
 * stands for the newest.
 */
export async function makeSchema(connection: pg.ClientConfig, behind?: string): Promise<void> {
  const pool = new pg.Pool({
    ...connection,
    ...PEER_OPTIONS,
    max: 2,
    connectionTimeoutMillis: CONNECT_MAX_MS,
    onConnect: keepRolesMade,
  });
  pool.on('error', () => {});
  const database = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  try {
    const migrator = migratorOf(database);
    const { error } = await (behind === undefined ? migrator.migrateToLatest() : migrator.migrateTo(behind));
    if (error !== undefined) throw error;
  } finally {
    await database.destroy();
  }
}

/** Returns the migrations that the database has, in order. */
export async function doneMigrations(database: Kysely<Tables>): Promise<string[]> {
  const { rows } = await sql<{ there: boolean }>`
    SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'migration' AND relnamespace = to_regnamespace('sealog')) AS there`.execute(
    database,
  );
  if (rows[0]?.there !== true) return [];
  const done = await database.selectFrom('sealog.migration').select('name').orderBy('name').execute();
  return done.map((row) => row.name);
}

export function newerSchema(newer: readonly string[]): SettingsError {
  return new SettingsError([
    `the database's schema is newer than this version of Sealog (${newer.join(', ')}): install the newer version`,
  ]);
}

/**
 * From PostgreSQL 16 on, a role that is no superuser may administer the roles that it makes but neither act as them nor use what
 * is theirs, unless it says so beforehand. The owner's tables are made by acting as the owner.
 */
async function keepRolesMade(client: pg.ClientBase): Promise<void> {
  await client.query(`SELECT set_config('createrole_self_grant', 'set, inherit', false)
    FROM pg_settings WHERE name = 'createrole_self_grant'`);
}

/**
 * A backup keeps the tables as they are until it ends. A change of them would wait for that, and everybody who appends would wait behind it.
 */
async function refuseDuringBackup(database: Kysely<Tables>): Promise<void> {
  const { rows } = await sql<{ pid: number }>`
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = ${BACKUP_LOCK}`.execute(
    database,
  );
  if (rows.length === 0) return;
  const done = new Set(
    (await database.selectFrom('sealog.migration').select('name').execute()).map(({ name }) => name),
  );
  if ((await knownMigrations()).every((name) => done.has(name))) return;
  throw new SettingsError([
    `a backup of this database is under way (process ${rows[0]!.pid}): migrate when it has ended`,
  ]);
}

/** A service that does not know what is changed under it could store what is wrong to those that do, or remove what they keep. */
async function refuseBesideServices(database: Kysely<Tables>, done: readonly string[]): Promise<void> {
  const missing = (await knownMigrations()).filter((name) => !done.includes(name));
  const foreign = foreignTo(done, missing);
  if (done.length === 0 || foreign.length === 0) return;
  const { rows } = await sql<{ connections: number; hosts: string[] }>`
    SELECT count(*)::integer AS connections, coalesce(array_agg(DISTINCT coalesce(host(client_addr), 'this machine')), '{}') AS hosts
    FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sealog_writer'`.execute(database);
  const { connections = 0, hosts = [] } = rows[0] ?? {};
  if (connections === 0) return;
  throw new SettingsError([
    `services of the version before are connected (from ${hosts.join(', ')}) and can not go on beside ${foreign.join(', ')}: stop them first`,
  ]);
}

function isLockWait(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '55P03';
}

function lockedOut(): SettingsError {
  return new SettingsError([
    'somebody uses a table that is to be changed, for longer than others may wait: nothing was migrated; see pg_stat_activity, and try again',
  ]);
}

function migratorOf(database: Kysely<Tables>): Migrator {
  return new Migrator({
    db: database,
    provider: { getMigrations: readMigrations },
    migrationTableName: TABLE,
    migrationLockTableName: 'migration_lock',
    migrationTableSchema: 'sealog',
  });
}

async function readMigrations(): Promise<Record<string, Migration>> {
  const migrations: Record<string, Migration> = {};
  for (const name of await knownMigrations()) {
    const text = await readFile(new URL(`${name}.sql`, FOLDER), 'utf8');
    migrations[name] = {
      async up(database) {
        await sql.raw(`SET LOCAL lock_timeout = ${LOCK_WAIT_MAX_MS}; ${text}`).execute(database);
      },
    };
  }
  return migrations;
}

/** Whoever migrates becomes a member of the owner, which the service would refuse. */
async function refuseOwnRole(database: Kysely<Tables>, appRole: string): Promise<void> {
  const { rows } = await sql<{ own: boolean }>`SELECT session_user = ${appRole} AS own`.execute(database);
  if (rows[0]?.own !== true) return;
  throw new SettingsError([
    `${appRole} can not migrate and be the service's role as well: name another with --app-role, or migrate as another`,
  ]);
}

/** Each login role may act as what it is there for, by saying so (NOINHERIT), as nothing else, and never as the owner. */
async function admit(database: Kysely<Tables>, logins: LoginRoles): Promise<void> {
  const servedBy: Readonly<Record<AppRole, string>> = {
    sealog_writer: logins.writer,
    sealog_reader: logins.reader,
    sealog_verifier: logins.verifier,
    sealog_signer: logins.signer,
  };
  await database.transaction().execute(async (transaction) => {
    // Two migrators at once: the second waits, then finds roles and grants there.
    await sql`SELECT pg_advisory_xact_lock(hashtextextended('sealog.admit', 0))`.execute(transaction);
    for (const login of new Set(Object.values(logins))) {
      const role = sql.id(login);
      const { rows } = await sql<{ there: boolean; memberOf: string[] }>`
        SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = ${login}) AS there,
               ARRAY(SELECT g.rolname::text FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
                     JOIN pg_roles AS r ON r.oid = m.member WHERE r.rolname = ${login}) AS "memberOf"`.execute(
        transaction,
      );
      const { there = false, memberOf = [] } = rows[0] ?? {};
      if (!there) {
        await sql`CREATE ROLE ${role} LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION`.execute(
          transaction,
        );
      }
      for (const own of APP_ROLES) {
        if (servedBy[own] === login) await sql`GRANT ${sql.id(own)} TO ${role}`.execute(transaction);
        else if (memberOf.includes(own)) await sql`REVOKE ${sql.id(own)} FROM ${role}`.execute(transaction);
      }
    }
  });
}

/**
 * Takes from everybody what PostgreSQL gives to everybody and the application does not need: temporary tables, large objects (anybody could
 * fill the disk with them), and advisory locks, which keep the signer and a migration alone and which anybody else could hold for ever. What
 * belongs to PostgreSQL itself only a superuser can take; the settings gate warns where none did.
 */
async function closeDatabase(database: Kysely<Tables>): Promise<void> {
  await database.transaction().execute(async (transaction) => {
    await sql`SELECT pg_advisory_xact_lock(hashtextextended('sealog.admit', 0))`.execute(transaction);
    await sql`DO $$
      DECLARE
        one regprocedure;
      BEGIN
        IF has_database_privilege('public', current_database(), 'TEMPORARY')
           AND pg_has_role(current_user, (SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') THEN
          EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
        END IF;
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN RETURN; END IF;
        FOR one IN SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'pg_catalog'::regnamespace
          AND p.proname ~ '^(lo_.*|loread|lowrite|pg_(try_)?advisory_(xact_)?lock(_shared)?)$'
          AND has_function_privilege('public', p.oid, 'EXECUTE') LOOP
          EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', one);
          IF one::text ~ 'advisory' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO sealog_owner, sealog_writer, sealog_signer', one);
          END IF;
        END LOOP;
      END
      $$`.execute(transaction);
  });
}
