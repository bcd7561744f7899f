/** The `sealog` command. Exit codes: 0 done, 1 failed (verify: tampered), 2 not everything could be checked, 64 wrong usage. */
import { SettingsError } from '../errors.ts';
import { migrateCommand } from './migrate.ts';
import { serve } from './serve.ts';
import { tokenCommand } from './token.ts';
import { UsageError } from './usage.ts';
import { verifyCommand } from './verify.ts';

const COMMANDS: Readonly<Record<string, { readonly run: (args: string[]) => Promise<number>; readonly says: string }>> =
  {
    serve: { run: serve, says: 'run the service (embedded PostgreSQL unless DATABASE_URL is set)' },
    migrate: {
      run: migrateCommand,
      says: "set up or update the schema: DATABASE_URL of a role that may create roles, [--app-role NAME] for the service's",
    },
    verify: {
      run: verifyCommand,
      says: '--database: check every stored byte of every stream, or of [--stream NAME]; [--json]',
    },
    token: {
      run: tokenCommand,
      says: '--role ROLE [--role ROLE] --tenant NAME [--subject NAME]: print a development token (12 h)',
    },
  };

const usage = `usage: sealog COMMAND\n\n${Object.entries(COMMANDS)
  .map(([name, { says }]) => `  ${name.padEnd(9)}${says}`)
  .join('\n')}\n`;

async function main([name, ...args]: string[]): Promise<number> {
  const command = name === undefined ? undefined : COMMANDS[name];
  if (command === undefined) {
    process.stderr.write(usage);
    return 64;
  }
  try {
    return await command.run(args);
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`sealog ${name}: ${error.message}\n\n${usage}`);
      return 64;
    }
    if (error instanceof SettingsError) {
      for (const problem of error.problems) process.stderr.write(`sealog: ${problem}\n`);
      return 1;
    }
    throw error;
  }
}

process.exitCode = await main(process.argv.slice(2));
