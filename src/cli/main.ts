/** The `sealog` command. Exit codes: 0 done, 1 failed (verify: tampered), 2 not everything could be checked, 64 wrong usage. */
import { tell } from './failure.ts';
import { UsageError } from './usage.ts';

interface Command {
  readonly says: string;
  /** Loads what the command needs, and that alone: a token takes a fraction of what the service does. */
  readonly load: () => Promise<(args: string[]) => Promise<number>>;
}

const COMMANDS: ReadonlyMap<string, Command> = new Map([
  [
    'serve',
    {
      says: 'run the service (embedded PostgreSQL unless DATABASE_URL is set)',
      load: async () => (await import('./serve.ts')).serve,
    },
  ],
  [
    'migrate',
    {
      says: "set up or update the schema: DATABASE_URL of a role that may create roles, [--app-role NAME] for the service's, and --reader-role, --verifier-role, --signer-role where each has a login of its own",
      load: async () => (await import('./migrate.ts')).migrateCommand,
    },
  ],
  [
    'verify',
    {
      says: '--database: check every stored byte of every stream, or of [--stream NAME], against [--key VKEY] [--checkpoint FILE]… [--tsa CA.pem]… [--witness VKEY]…; [--json]; BUNDLE --key VKEY: check an evidence bundle, offline, likewise',
      load: async () => (await import('./verify.ts')).verifyCommand,
    },
  ],
  [
    'recover',
    {
      says: 'after a restore that lost signed entries: show what is lost, and with --yes go on in new epochs',
      load: async () => (await import('./recover.ts')).recoverCommand,
    },
  ],
  [
    'backup',
    {
      says: '--to DIR, and --keys-to DIR (signing seeds, mark, month keys; on other storage) or --without-keys: everything, while the service runs',
      load: async () => (await import('./backup.ts')).backupCommand,
    },
  ],
  [
    'restore',
    {
      says: '--from DIR, and --keys-from DIR unless the keys are in their places: into an empty data folder or database; --verify, and names what is missing against [--checkpoint FILE]… [--anchors DIR]… [--receipts FILE]…; [--key VKEY] [--tsa CA.pem]… [--witness VKEY]… [--json]',
      load: async () => (await import('./restore.ts')).restoreCommand,
    },
  ],
  [
    'upgrade-database',
    {
      says: '--old DIR: from the embedded server of an earlier version, installed in DIR, to the one of this version',
      load: async () => (await import('./upgrade-database.ts')).upgradeDatabaseCommand,
    },
  ],
  [
    'keys',
    {
      says: 'rotate: make the next generation of signing keys in SEALOG_SIGNER_DIR; the signer takes it into use',
      load: async () => (await import('./keys.ts')).keysCommand,
    },
  ],
  [
    'token',
    {
      says: '--role ROLE [--role ROLE] --tenant NAME [--site SITE]… [--subject NAME]: print a development token (12 h)',
      load: async () => (await import('./token.ts')).tokenCommand,
    },
  ],
]);

const USAGE = `usage: sealog COMMAND

${[...COMMANDS].map(([name, { says }]) => `  ${name.padEnd(17)}${says}`).join('\n')}

Settings come from the environment: docs/configuration.md.
`;

async function main([name = '', ...args]: string[]): Promise<number> {
  if (name === 'help' || name === '--help' || args.includes('--help')) {
    process.stdout.write(USAGE);
    return 0;
  }
  const command = COMMANDS.get(name);
  if (command === undefined) {
    process.stderr.write(USAGE);
    return 64;
  }
  try {
    const run = await command.load();
    return await run(args);
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`sealog ${name}: ${error.message}\n\n${USAGE}`);
      return 64;
    }
    tell(error);
    return 1;
  }
}

process.exitCode = await main(process.argv.slice(2));
