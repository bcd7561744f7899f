/** What several commands start from: configuration, the token secret, the way to the database. */
import { join } from 'node:path';
import type pg from 'pg';
import { generateSecret, type TokenOptions } from '../auth/tokens.ts';
import { type Config, readConfig } from '../config.ts';
import { secretFile } from '../keys/secret-file.ts';

export function configuration(): Config {
  return readConfig(process.env);
}

/** Who may call: with the configured secret, or in embedded mode one that is generated once in the data folder. */
export async function tokenOptions(config: Config): Promise<TokenOptions> {
  const secret = config.jwt.secret ?? (await secretFile(join(config.dataDir, 'keys', 'jwt-secret'), generateSecret));
  return { ...config.jwt, secret };
}

/** Returns how to connect with a DATABASE_URL. */
export function connectionOf(url: string): pg.ClientConfig {
  return { connectionString: url };
}
