/**
 * The cluster: PostgreSQL's data folder, made once.
 *
 * It is made in a folder beside its place and renamed when it is whole and on disk, so that a cluster is there completely or not at all;
 * what an interrupted start leaves is swept away by the next. The passwords are on disk before the cluster that needs them.
 */
import { randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  lchown,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  unlink,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { SettingsError } from '../../errors.ts';
import type { Binaries } from './binaries.ts';
import { errorCode, ifThere, noSpace, syncFolder, writeDurably } from './files.ts';
import { INHERITED_FOLDER, runAs, type ServerUser } from './server-user.ts';

/** Of PostgreSQL's superuser, and of the role that the service works as. */
export interface Passwords {
  readonly postgres: string;
  readonly sealog: string;
}

export interface ClusterOptions {
  readonly dataDir: string;
  readonly binaries: Binaries;
  readonly user: ServerUser | undefined;
  readonly signal?: AbortSignal | undefined;
}

const PASSWORDS_FILE = 'passwords.json';
const UNFINISHED_PREFIX = 'cluster.new-';
/** initdb takes half a second; a slow disk with 1,000 files to flush may need many times that. */
const INITDB_TIMEOUT_MS = 180_000;

/** Below the data folder, while an upgrade to another major version is under way: a data folder of its own. */
export const UPGRADING = 'upgrading';
/** A file there: the new cluster has everything, and is taking the old one's place. */
export const VERIFIED = 'verified';

export async function upgradeIsVerified(dataDir: string): Promise<boolean> {
  return (await ifThere(stat(join(dataDir, UPGRADING, VERIFIED)))) !== undefined;
}

/** Our folder below the data folder. */
export function homeOf(dataDir: string): string {
  return join(dataDir, 'postgres');
}

export function clusterOf(dataDir: string): string {
  return join(homeOf(dataDir), 'cluster');
}

/**
 * Makes our folder. Others may pass through it, since the server's user may be another than ours; what is secret in it is closed itself.
 * `mkdir` is put on disk at once: a power cut must not forget a folder whose content it kept.
 */
export async function makeHome(dataDir: string): Promise<string> {
  const home = homeOf(dataDir);
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  try {
    await mkdir(home);
    await chmod(home, 0o711);
    await syncFolder(dataDir);
    await syncFolder(dirname(dataDir)).catch(() => undefined);
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
  }
  return home;
}

/**
 * Returns the passwords of the cluster, having made it where there is none.
 *
 * @throws SettingsError for a cluster of another major version, a folder that is none, or when initdb fails.
 */
export async function ensureCluster(options: ClusterOptions): Promise<Passwords> {
  const { dataDir, binaries, user } = options;
  const cluster = clusterOf(dataDir);
  await sweepUnfinished(homeOf(dataDir));
  const owner = await ifThere(stat(cluster));
  if (owner === undefined) {
    if (await upgradeIsVerified(dataDir))
      throw new SettingsError([
        `An upgrade of the database in ${dataDir} was interrupted: run \`sealog upgrade-database\`, which ends it.`,
      ]);
    const passwords = (await readPasswords(dataDir)) ?? (await makePasswords(dataDir));
    await makeCluster(options, passwords);
    return passwords;
  }
  await checkVersion(dataDir, binaries);
  if (user !== undefined && owner.uid !== user.uid) await giveTo(cluster, user);
  if (user === undefined && owner.uid !== process.getuid?.()) throw new SettingsError([notYours(dataDir, owner.uid)]);
  // PostgreSQL refuses a folder that others may read, as a copy or a restored backup may be.
  if ((owner.mode & 0o777) !== 0o700) await chmod(cluster, 0o700);
  const passwords = await readPasswords(dataDir);
  if (passwords === undefined) {
    throw new SettingsError([
      `The passwords of the embedded PostgreSQL are missing: restore ${join(homeOf(dataDir), PASSWORDS_FILE)} from the backup of the data folder.`,
    ]);
  }
  return passwords;
}

/** @returns undefined where no start was ever made. */
export async function readPasswords(dataDir: string): Promise<Passwords | undefined> {
  const path = join(homeOf(dataDir), PASSWORDS_FILE);
  const text = await ifThere(readFile(path, 'utf8'));
  if (text === undefined) return undefined;
  try {
    const { postgres, sealog } = JSON.parse(text) as Record<string, unknown>;
    if (typeof postgres === 'string' && typeof sealog === 'string') return { postgres, sealog };
  } catch {
    // Said below.
  }
  throw new SettingsError([`The file ${path} is damaged: restore it from the backup of the data folder.`]);
}

async function makePasswords(dataDir: string): Promise<Passwords> {
  const passwords = { postgres: randomPassword(), sealog: randomPassword() };
  await writeDurably(join(homeOf(dataDir), PASSWORDS_FILE), `${JSON.stringify(passwords, undefined, 2)}\n`);
  return passwords;
}

function randomPassword(): string {
  return randomBytes(32).toString('base64url');
}

async function makeCluster({ dataDir, binaries, user, signal }: ClusterOptions, passwords: Passwords): Promise<void> {
  const home = homeOf(dataDir);
  const unfinished = await mkdtemp(join(home, UNFINISHED_PREFIX));
  try {
    if (user !== undefined) await chown(unfinished, user.uid, user.gid);
    const folder = await open(unfinished, 'r');
    const passwordFile = await openUnnamed(join(home, `${PASSWORDS_FILE}.initdb`), passwords.postgres, user);
    const { ok, output } = await runAs(
      join(binaries.bin, 'initdb'),
      [
        ...['-D', INHERITED_FOLDER, '--username', 'postgres', '--pwfile', '/proc/self/fd/4', '--auth', 'scram-sha-256'],
        ...['--encoding', 'UTF8', '--locale', 'C', '--data-checksums', '--no-instructions'],
      ],
      { user, files: [folder.fd, passwordFile.fd], timeoutMs: INITDB_TIMEOUT_MS, signal },
    ).finally(() => Promise.all([folder.close(), passwordFile.close()]));
    if (!ok) throw new SettingsError([initdbFailed(dataDir, output)]);
    // initdb has flushed its files. The name of their folder has to last as long as they do: a cluster forgotten is a log forgotten.
    await rename(unfinished, clusterOf(dataDir));
    await syncFolder(home);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    throw error;
  }
}

/** A file without a name, which initdb can open by its descriptor: the password is never to be found under a path. */
async function openUnnamed(path: string, text: string, user: ServerUser | undefined) {
  await rm(path, { force: true });
  const file = await open(path, 'wx+', 0o600);
  try {
    await unlink(path);
    if (user !== undefined) await file.chown(user.uid, user.gid);
    await file.write(`${text}\n`, 0);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** An initdb that outlived its killed service may still write there for a moment, hence the retries; what stays is swept next time. */
async function sweepUnfinished(home: string): Promise<void> {
  for (const name of await readdir(home)) {
    if (!name.startsWith(UNFINISHED_PREFIX)) continue;
    await rm(join(home, name), { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }).catch(() => undefined);
  }
}

async function checkVersion(dataDir: string, { major }: Binaries): Promise<void> {
  const cluster = clusterOf(dataDir);
  const version = (await ifThere(readFile(join(cluster, 'PG_VERSION'), 'utf8')))?.trim();
  if (version === undefined) {
    throw new SettingsError([
      `The folder ${cluster} is not a PostgreSQL data folder: move it away, or set SEALOG_DATA_DIR to another folder.`,
    ]);
  }
  if (version !== String(major)) {
    throw new SettingsError([
      `The data folder ${dataDir} was made by PostgreSQL ${version} and this Sealog brings PostgreSQL ${major}: run \`sealog upgrade-database\`, or the Sealog that made it.`,
    ]);
  }
}

/** For a folder that root has copied or restored. It lies below our own, so that it is ours to give. */
async function giveTo(cluster: string, { uid, gid }: ServerUser): Promise<void> {
  for (const name of await readdir(cluster, { recursive: true })) await lchown(join(cluster, name), uid, gid);
  if (!(await lstat(cluster)).isDirectory()) throw new SettingsError([`${cluster} is not a folder.`]);
  await lchown(cluster, uid, gid);
}

function notYours(dataDir: string, uid: number): string {
  return `The database in the data folder ${dataDir} belongs to user ${uid}: start Sealog as that user or as root, or set SEALOG_DATA_DIR to another folder.`;
}

function initdbFailed(dataDir: string, output: string): string {
  if (/No space left|quota exceeded/i.test(output)) return noSpace(dataDir);
  const line = output.split('\n').find((text) => /\b(FATAL|PANIC|error):/.test(text)) ?? output.split('\n').at(-1);
  return `The embedded PostgreSQL can not make its data folder in ${dataDir}: ${line || 'initdb gave no reason'}.`;
}
