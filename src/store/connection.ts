/** The way to a database by its address, and what it says when it refuses. */
import pg from 'pg';
import { SettingsError } from '../errors.ts';
import type { Logins } from './database.ts';

/** The address of the database for each role that has a login of its own. */
export interface OwnDatabaseUrls {
  readonly reader: string | undefined;
  readonly verifier: string | undefined;
  readonly signer: string | undefined;
}

/** Returns how to connect as the logins that serve one role each. Throws a SettingsError, as `connectionOf`. */
export function loginsOf({ reader, verifier, signer }: OwnDatabaseUrls): Logins {
  const of = (url: string | undefined, setting: string) => (url === undefined ? undefined : connectionOf(url, setting));
  return {
    reader: of(reader, 'SEALOG_READER_DATABASE_URL'),
    verifier: of(verifier, 'SEALOG_VERIFIER_DATABASE_URL'),
    signer: of(signer, 'SEALOG_SIGNER_DATABASE_URL'),
  };
}

/**
 * Returns how to connect with a DATABASE_URL.
 *
 * @throws SettingsError when it can not be read; its text, which holds a password, is not repeated
 */
export function connectionOf(url: string, setting = 'DATABASE_URL'): pg.ClientConfig {
  try {
    // Reading is all that this does; nothing connects.
    new pg.Client({ connectionString: url });
  } catch {
    throw new SettingsError([
      `${setting} can not be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters percent-encoded`,
    ]);
  }
  return { connectionString: url };
}

/** Returns the words of an error that PostgreSQL answered with; undefined for every other error. They hold no row and no parameter. */
export function serverWords(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.message : undefined;
}
