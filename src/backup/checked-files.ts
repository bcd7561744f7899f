/** Files whose size and SHA-256 stand in a manifest: written once, flushed, and held to it before anything is made of them. */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { dirname, isAbsolute, join, normalize, relative, resolve } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { SettingsError } from '../errors.ts';

export interface CheckedFile {
  /** Relative to the manifest's folder. */
  readonly path: string;
  readonly bytes: number;
  /** Hex. */
  readonly sha256: string;
}

/** What is stored is mostly compressed and sealed already: the fastest level takes what the rest gives. */
const ZSTD = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

/** Writes what a stream brings, compressed where the name ends in `.zst`. */
export async function writeChecked(folder: string, path: string, source: Readable): Promise<CheckedFile> {
  const place = join(folder, path);
  await mkdir(dirname(place), { recursive: true, mode: 0o700 });
  const hash = createHash('sha256');
  let bytes = 0;
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      bytes += chunk.length;
      done(null, chunk);
    },
  });
  const file = createWriteStream(place, { flags: 'wx', mode: 0o600, flush: true });
  if (path.endsWith('.zst')) await pipeline(source, createZstdCompress(ZSTD), count, file);
  else await pipeline(source, count, file);
  return { path, bytes, sha256: hash.digest('hex') };
}

/** Reads a file that was checked, decompressed. */
export function readChecked(folder: string, file: CheckedFile): AsyncIterable<Buffer> {
  const source = createReadStream(join(folder, file.path), { highWaterMark: 256 * 1024 });
  if (!file.path.endsWith('.zst')) return source;
  const plain = createZstdDecompress();
  pipeline(source, plain).catch(() => {});
  return plain;
}

/** Throws a SettingsError unless the file is what the manifest says. */
export async function check(folder: string, { path, bytes, sha256 }: CheckedFile): Promise<void> {
  const damaged = (how: string) => new SettingsError([`the backup in ${folder} is damaged: ${path} ${how}`]);
  if (isAbsolute(path) || normalize(path).startsWith('..')) throw damaged('leads out of it');
  const hash = createHash('sha256');
  try {
    const { size } = await stat(join(folder, path));
    if (size !== bytes) throw damaged(`has ${size} bytes and not ${bytes}`);
    for await (const chunk of createReadStream(join(folder, path), { highWaterMark: 1024 * 1024 }))
      hash.update(chunk as Buffer);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw damaged('is missing');
    throw error;
  }
  if (hash.digest('hex') !== sha256) throw damaged('is not what was written');
}

/** Throws a SettingsError where something is in the place of a backup. */
export async function refuseExisting(path: string): Promise<void> {
  const place = resolve(path);
  if (await exists(place)) throw new SettingsError([`${place} is there already: a backup is never written over`]);
  const folder = `${place}.unfinished`;
  if (await exists(folder)) throw new SettingsError([`${folder} is what an interrupted backup left: remove it first`]);
}

/** Makes a folder that becomes `path` with `complete`: an interrupted backup has another name, and no manifest. */
export async function newFolder(
  path: string,
): Promise<{ readonly folder: string; complete(manifest: string, value: object): Promise<string> }> {
  await refuseExisting(path);
  const place = resolve(path);
  const folder = `${place}.unfinished`;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  return {
    folder,
    async complete(manifest, value) {
      const text = `${JSON.stringify(value, undefined, 1)}\n`;
      await writeFile(join(folder, manifest), text, { flag: 'wx', mode: 0o600, flush: true });
      for (const one of await foldersIn(folder)) await syncFolder(one);
      await rename(folder, place);
      await syncFolder(dirname(place));
      return createHash('sha256').update(text).digest('hex');
    },
  };
}

/** Returns the manifest of a backup. Throws a SettingsError where there is none, or it is of another kind. */
export async function readManifest<T>(folder: string, name: string, format: string): Promise<T> {
  let text: string;
  try {
    text = await readFile(join(folder, name), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new SettingsError([`there is no ${name} in ${folder}: it is no backup, or one that was not finished`]);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SettingsError([`${join(folder, name)} is damaged`]);
  }
  if ((value as { format?: unknown } | null)?.format !== format)
    throw new SettingsError([
      `${join(folder, name)} is not of the form ${format}: take the version of Sealog that wrote it`,
    ]);
  return value as T;
}

/** The regular files below a folder, relative to it; none where it is not there. */
export async function filesBelow(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** Copies files of a backup to where they are used, readable by their owner alone. The folder MUST have none of them. */
export async function putBack(
  folder: string,
  files: readonly CheckedFile[],
  prefix: string,
  to: string,
): Promise<void> {
  for (const file of files.filter(({ path }) => path.startsWith(prefix))) {
    const place = join(to, file.path.slice(prefix.length));
    await mkdir(dirname(place), { recursive: true, mode: 0o700 });
    await check(folder, file);
    const source = readChecked(folder, file);
    await pipeline(Readable.from(source), createWriteStream(place, { flags: 'wx', mode: 0o600, flush: true }));
  }
  await syncFolder(to).catch(() => {});
}

async function foldersIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return [...entries.filter((entry) => entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name)), folder];
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false;
      throw error;
    },
  );
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path);
  await handle.sync().finally(() => handle.close());
}
