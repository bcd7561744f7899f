/**
 * `sealog backup`: the whole log as of one moment, while the service runs; and, to another place, what the database must not have.
 *
 * With DATABASE_URL it needs a role that may read everything, as the one that migrates.
 */
import { stat } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { refuseExisting } from '../backup/checked-files.ts';
import { writeDatabaseBackup } from '../backup/database-backup.ts';
import { type KeyFolders, readMarkFile, writeKeysBackup } from '../backup/keys-backup.ts';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { openDump } from '../store/dump.ts';
import { withConnection } from './connection.ts';
import { configuration } from './environment.ts';
import { commandLog } from './log.ts';
import { orUsage, UsageError } from './usage.ts';
import { programVersion } from './version.ts';

export async function backupCommand(args: string[]): Promise<number> {
  const options = {
    to: { type: 'string' },
    'keys-to': { type: 'string' },
    'without-keys': { type: 'boolean', default: false },
  } as const;
  const { values } = orUsage(() => parseArgs({ args, options }));
  const { to, 'keys-to': keysTo } = values;
  if (to === undefined) throw new UsageError('say where to: --to DIR');
  if ((keysTo === undefined) !== values['without-keys'])
    throw new UsageError('say what becomes of the keys: --keys-to DIR, on other storage, or --without-keys');
  if (keysTo !== undefined && (isWithin(to, keysTo) || isWithin(keysTo, to)))
    throw new UsageError('--keys-to must be apart from --to: who has both has everything');
  // Not only after an hour of copying.
  for (const place of [to, keysTo]) if (place !== undefined) await refuseExisting(place);
  const config = configuration();
  const folders = await keyFolders(config);
  return withConnection(config, commandLog(config), async (_connection, _logins, admin) => {
    const mark = await readMarkFile(folders);
    const dump = await openDump(admin);
    try {
      const { manifest, sha256 } = await writeDatabaseBackup(to, dump, await programVersion());
      const { takenAt, origin, streams, entries } = manifest;
      tell(`${resolve(to)}: ${streams} streams, ${entries} entries, as of ${takenAt}`);
      tell(`SHA-256 of its manifest.json: ${sha256}`);
      if (keysTo === undefined) {
        tell('Without keys: they must be in another backup, or nothing of this one can be read or signed again.');
        return 0;
      }
      const { absent } = await writeKeysBackup(keysTo, folders, mark, { takenAt, origin });
      tell(
        `${resolve(keysTo)}: keys. Keep it apart from the other, and no longer than parts may be read again after their month.`,
      );
      if (absent.includes('signer'))
        tell("The signer's folder is not on this machine: back it up where it is (SEALOG_SIGNER_DIR).");
      if (absent.includes('months'))
        tell('Month keys are not files on this machine: what has them must back them up (docs/operations.md).');
      return 0;
    } finally {
      await dump.close();
    }
  });
}

/** Where keys are, as far as they are files. */
async function keyFolders({ databaseUrl, dataDir, signerDir, monthKeysDir }: Config): Promise<KeyFolders> {
  const secret = join(dataDir, 'keys', 'jwt-secret');
  const hasSecret = databaseUrl === undefined && (await isThere(secret));
  return {
    signer: signerDir,
    months: monthKeysDir === '' ? undefined : monthKeysDir,
    tokenSecret: hasSecret ? secret : undefined,
  };
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false;
      throw new SettingsError([`${path} can not be read: ${error.message}`]);
    },
  );
}

function isWithin(folder: string, path: string): boolean {
  return !relative(resolve(folder), resolve(path)).startsWith('..');
}

function tell(line: string): void {
  process.stdout.write(`${line}\n`);
}
