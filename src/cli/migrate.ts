/** `sealog migrate`: brings the schema up to date, and lets the service's login role in. */
import { parseArgs } from 'node:util';
import { readDatabaseUrl } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { connectionOf } from '../store/connection.ts';
import { migrate } from '../store/migrate.ts';
import { orUsage } from './usage.ts';

export async function migrateCommand(args: string[]): Promise<number> {
  const { values } = orUsage(() => parseArgs({ args, options: { 'app-role': { type: 'string', default: 'sealog' } } }));
  const url = readDatabaseUrl(process.env);
  if (url === undefined) {
    throw new SettingsError([
      'migrate needs DATABASE_URL, of a role that may create roles; the embedded server is migrated by `serve`',
    ]);
  }
  const role = values['app-role'];
  const done = await migrate(connectionOf(url), role);
  process.stdout.write(`${done.length === 0 ? 'the schema is up to date' : `ran ${done.join(', ')}`}\n`);
  process.stdout.write(
    `the service connects as ${role}: give it a password (ALTER ROLE ${role} PASSWORD …) if it was just made\n`,
  );
  return 0;
}
