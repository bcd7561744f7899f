/** The way to a database by its address, and what it says when it refuses. */
import pg from 'pg';
import { SettingsError } from '../errors.ts';

/**
 * Returns how to connect with a DATABASE_URL.
 *
 * @throws SettingsError when it can not be read; its text, which holds a password, is not repeated
 */
export function connectionOf(url: string): pg.ClientConfig {
  try {
    // Reading is all that this does; nothing connects.
    new pg.Client({ connectionString: url });
  } catch {
    throw new SettingsError([
      'DATABASE_URL can not be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters percent-encoded',
    ]);
  }
  return { connectionString: url };
}

/** Returns the words of an error that PostgreSQL answered with; undefined for every other error. They hold no row and no parameter. */
export function serverWords(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.message : undefined;
}
