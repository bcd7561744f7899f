/**
 * Brings the schema `sealog` up to date with `migrations/`, and lets the application's login role in.
 *
 * Runs as a role that may create roles and schemas, never as the application's: the application must not own its tables.
 * All of it is one transaction, and a second migrator at the same time waits for the first.
 */
import { readdir, readFile } from 'node:fs/promises';
import { Kysely, PostgresDialect, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import { SettingsError } from '../errors.ts';
import type { Tables } from './tables.ts';

const FOLDER = new URL('../../migrations/', import.meta.url);
const TABLE = 'migration';

/** Returns the names of the migrations that this code knows, in order. */
export async function knownMigrations(): Promise<string[]> {
  const files = await readdir(FOLDER);
  return files
    .filter((file) => file.endsWith('.sql'))
    .map((file) => file.slice(0, -'.sql'.length))
    .sort();
}

/** Migrates, grants `appRole` (made when it is not there) what the application needs, and returns the migrations that were run. */
export async function migrate(connection: pg.ClientConfig, appRole: string): Promise<string[]> {
  const database = new Kysely<Tables>({
    dialect: new PostgresDialect({ pool: new pg.Pool({ ...connection, max: 2 }) }),
  });
  try {
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
  const { rows } = await sql<{ there: boolean }>`SELECT to_regclass('sealog.migration') IS NOT NULL AS there`.execute(
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

/** The application's role may act as writer, reader and verifier, by saying so (NOINHERIT), and never as the owner. */
async function admit(database: Kysely<Tables>, appRole: string): Promise<void> {
  const role = sql.id(appRole);
  const { rows } = await sql<{
    there: boolean;
  }>`SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = ${appRole}) AS there`.execute(database);
  if (rows[0]?.there !== true) {
    await sql`CREATE ROLE ${role} LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION`.execute(
      database,
    );
  }
  await sql`GRANT sealog_writer, sealog_reader, sealog_verifier TO ${role}`.execute(database);
}
