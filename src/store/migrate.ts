/**
 * Brings the schema `sealog` up to date with `migrations/`, and lets the application's login role in.
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
import type { Tables } from './tables.ts';

const FOLDER = new URL('../../migrations/', import.meta.url);
const TABLE = 'migration';
const CONNECT_MAX_MS = 10_000;

/** Returns the names of the migrations that this code knows, in order. */
export async function knownMigrations(): Promise<string[]> {
  const files = await readdir(FOLDER);
  return files
    .filter((file) => file.endsWith('.sql'))
    .map((file) => file.slice(0, -'.sql'.length))
    .sort();
}

/**
 * Migrates, grants `appRole` (made when it is not there) what the application needs, and returns the migrations that were run.
 *
 * @throws SettingsError when the schema is newer than this code, or `appRole` is the role that migrates
 */
export async function migrate(connection: pg.ClientConfig, appRole: string): Promise<string[]> {
  const pool = new pg.Pool({
    ...connection,
    max: 2,
    connectionTimeoutMillis: CONNECT_MAX_MS,
    application_name: 'sealog_migrate',
    onConnect: keepRolesMade,
  });
  pool.on('error', () => {});
  const database = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  try {
    await refuseOwnRole(database, appRole);
    const newer = await unknownMigrations(database);
    if (newer.length > 0) throw newerSchema(newer);
    const migrator = new Migrator({
      db: database,
      provider: { getMigrations: readMigrations },
      migrationTableName: TABLE,
      migrationLockTableName: 'migration_lock',
      migrationTableSchema: 'sealog',
    });
    const { error, results } = await migrator.migrateToLatest();
    if (error !== undefined) throw error;
    await admit(database, appRole);
    return (results ?? []).map((result) => result.migrationName);
  } finally {
    await database.destroy();
  }
}

/** Returns the migrations that the database has and this code does not know. */
export async function unknownMigrations(database: Kysely<Tables>): Promise<string[]> {
  const { rows } = await sql<{ there: boolean }>`
    SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'migration' AND relnamespace = to_regnamespace('sealog')) AS there`.execute(
    database,
  );
  if (rows[0]?.there !== true) return [];
  const known = new Set(await knownMigrations());
  const done = await database.selectFrom('sealog.migration').select('name').orderBy('name').execute();
  return done.map((row) => row.name).filter((name) => !known.has(name));
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

async function readMigrations(): Promise<Record<string, Migration>> {
  const migrations: Record<string, Migration> = {};
  for (const name of await knownMigrations()) {
    const text = await readFile(new URL(`${name}.sql`, FOLDER), 'utf8');
    migrations[name] = {
      async up(database) {
        await sql.raw(text).execute(database);
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

/** The application's role may act as writer, reader and verifier, by saying so (NOINHERIT), and never as the owner. */
async function admit(database: Kysely<Tables>, appRole: string): Promise<void> {
  const role = sql.id(appRole);
  await database.transaction().execute(async (transaction) => {
    // Two migrators at once: the second waits, then finds role and grants there.
    await sql`SELECT pg_advisory_xact_lock(hashtextextended('sealog.admit', 0))`.execute(transaction);
    const { rows } = await sql<{
      there: boolean;
    }>`SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = ${appRole}) AS there`.execute(transaction);
    if (rows[0]?.there !== true) {
      await sql`CREATE ROLE ${role} LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION`.execute(
        transaction,
      );
    }
    await sql`GRANT sealog_writer, sealog_reader, sealog_verifier TO ${role}`.execute(transaction);
  });
}
