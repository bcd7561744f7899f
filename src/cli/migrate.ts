/** `sealog migrate`: brings the schema up to date, and lets the service's login roles in. */
import { parseArgs } from 'node:util';
import { readDatabaseUrl } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { connectionOf } from '../store/connection.ts';
import { migrate } from '../store/migrate.ts';
import { orUsage } from './usage.ts';

export async function migrateCommand(args: string[]): Promise<number> {
  const options = {
    'app-role': { type: 'string', default: 'sealog' },
    'reader-role': { type: 'string' },
    'verifier-role': { type: 'string' },
    'signer-role': { type: 'string' },
  } as const;
  const { values } = orUsage(() => parseArgs({ args, options }));
  const url = readDatabaseUrl(process.env);
  if (url === undefined) {
    throw new SettingsError([
      'migrate needs DATABASE_URL, of a role that may create roles; the embedded server is migrated by `serve`',
    ]);
  }
  const writer = values['app-role'];
  const roles = {
    writer,
    reader: values['reader-role'] ?? writer,
    verifier: values['verifier-role'] ?? writer,
    signer: values['signer-role'] ?? writer,
  };
  const done = await migrate(connectionOf(url), roles);
  process.stdout.write(`${done.length === 0 ? 'the schema is up to date' : `ran ${done.join(', ')}`}\n`);
  for (const role of new Set(Object.values(roles)))
    process.stdout.write(
      `the service connects as ${role}: give it a password (ALTER ROLE ${role} PASSWORD …) if it was just made\n`,
    );
  return 0;
}
