/** What several commands start from: the configuration, and the secret of tokens. */
import { join } from 'node:path';
import { generateSecret, type TokenOptions } from '../auth/tokens.ts';
import { type Config, readConfig } from '../config.ts';
import { secretFile } from '../keys/secret-file.ts';

/** @throws SettingsError with everything that is wrong */
export function configuration(): Config {
  return readConfig(process.env);
}

/**
 * Who makes the tokens: the identity provider, or who has the configured secret, or in embedded mode one that is generated once in the data
 * folder.
 */
export async function tokenOptions(config: Config): Promise<TokenOptions> {
  const { secret, jwksUrl, ...rules } = config.jwt;
  if (jwksUrl !== undefined) return { ...rules, jwksUrl };
  const path = join(config.dataDir, 'keys', 'jwt-secret');
  return { ...rules, secret: secret ?? (await secretFile(path, generateSecret)) };
}
