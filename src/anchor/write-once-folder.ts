/**
 * The write-once folder: the signed notes of the anchor stream's checkpoints as files, on a mount of somebody else that
 * keeps what is written (object lock, WORM).
 *
 *     <path>/<origin>/<size ÷ 100,000, 11 digits>/<size, 16 digits>.checkpoint
 *
 * In the name of the origin's folder `/` is written `+`, which no origin has, and `:` is written `=`, since some mounts
 * know no colon. Numbers have leading zeros, so that names sort as sizes do; at a tick a minute a sub-folder holds two
 * months.
 *
 * A file is never overwritten. It is written aside, flushed, and linked to its name, so that it is there whole or not
 * at all; where the mount knows no hard links, it is made under its name and only by the one who finds none (`wx`), and
 * what a crash cut is completed by whoever comes next, which changes no byte that is there. A file that says something
 * else of the same size is an alarm: two checkpoints of one size are a log with two pasts.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, link as hardLink, mkdir, open, readdir, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { equalBytes, fromUtf8, utf8 } from '../chain/bytes.ts';
import { decodeCheckpoint } from '../chain/checkpoint.ts';
import { claimedText } from '../chain/note.ts';
import { EvidenceError } from '../errors.ts';
import { AnchorError } from './anchor-error.ts';

export interface WriteOnceFolder {
  /**
   * Puts the signed note of a checkpoint into the folder, flushed; what is there already is well. Returns the bytes of
   * its file. Throws an AnchorError.
   */
  publish(note: string): Promise<Uint8Array>;
}

export interface WriteOnceFolderOptions {
  /**
   * Says whether a note has good signatures of our keys. Where it is given, a file with the same text but other
   * signature lines (of the key before, or with cosignatures) is the same checkpoint; else only the same bytes are.
   */
  readonly opens?: (note: string) => boolean;
  /** The system's way to make a hard link. For tests of mounts that have none. */
  readonly link?: (existing: string, name: string) => Promise<void>;
  /** For how long a file that is cut must not have grown before it is completed. */
  readonly patienceMs?: number;
}

export interface PublishedCheckpoint {
  /** As it stands in the file: who uses it MUST open it with the keys that he trusts. */
  readonly note: string;
  readonly size: number;
  readonly root: Uint8Array;
}

const SIZES_A_FOLDER = 100_000;
const FOLDER_DIGITS = 11;
const SIZE_DIGITS = 16;
const SUFFIX = '.checkpoint';
const FOLDER_NAME = /^[0-9]{11}$/;
const FILE_NAME = /^[0-9]{16}\.checkpoint$/;
/** As much as a note may have (chain/note.ts). */
const NOTE_BYTES_MAX = 1_000_000;

/** A note is written in one call: who has not ended after so long has crashed. */
const PATIENCE_MS = 2000;
const GROWS_LOOK_MS = 50;

/** Of files that are no checkpoints, at the top of a folder: more are not a crash but something else. */
const DAMAGED_MAX = 100;

/** What `link` says where there are no hard links. */
const NO_LINKS = ['EPERM', 'EACCES', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EINVAL', 'EMLINK', 'EXDEV'];
/** What flushing a folder says where that is no notion: object stores behind FUSE, some network mounts. */
const NO_FOLDER_FLUSH = ['EINVAL', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EISDIR', 'EBADF', 'EACCES', 'EPERM'];

/** Returns the folder at an absolute path, which must be there: for a missing mount nothing is made in its place. */
export function writeOnceFolder(
  path: string,
  { opens = () => false, link = hardLink, patienceMs = PATIENCE_MS }: WriteOnceFolderOptions = {},
): WriteOnceFolder {
  let links = true;
  return {
    async publish(note) {
      const bytes = utf8(note);
      const text = claimedText(note);
      const { origin, size } = decodeCheckpoint(text);
      try {
        const folder = await makeFolders(path, origin, size);
        const file = join(folder, fileName(size));
        // Looked at first: a repeat must not leave anything aside on a mount that keeps everything.
        if ((await readNote(file)) === undefined) {
          if (links) links = await writeByLink(folder, file, bytes, link);
          if (!links) await writeInPlace(file, bytes);
        } else {
          // Whoever wrote it may have ended before he had flushed it.
          await using(await open(file), (handle) => handle.sync());
        }
        await flushFolder(folder);
        let found = await settled(file, bytes, patienceMs);
        if (isCut(found, bytes)) {
          await complete(file, found.length, bytes);
          found = await settled(file, bytes, 0);
        }
        if (equalBytes(found, bytes) || (textIn(found) === text && opens(fromUtf8(found)))) return found;
        const name = file.split('/').slice(-2).join('/');
        throw new AnchorError(`two checkpoints of one size: the write-once folder holds another one as ${name}`, {
          alarm: true,
        });
      } catch (error) {
        throw inWords(error, 'written');
      }
    },
  };
}

/**
 * Returns the newest checkpoint that the folder holds of an origin, and the names of newer files that hold none
 * of this origin and their size: cut by a crash, or changed. Throws an AnchorError where the folder can not be read.
 */
export async function newestCheckpoint(
  path: string,
  origin: string,
): Promise<{ newest: PublishedCheckpoint | undefined; damaged: readonly string[] }> {
  const damaged: string[] = [];
  try {
    // Else a missing mount would look like an empty folder.
    await stat(path);
    const top = join(path, originName(origin));
    for (const folder of await newestFirst(top, FOLDER_NAME)) {
      for (const name of await newestFirst(join(top, folder), FILE_NAME)) {
        const bytes = await readNote(join(top, folder, name));
        const newest = bytes && checkpointIn(bytes, origin, Number(name.slice(0, SIZE_DIGITS)));
        if (newest !== undefined) return { newest, damaged };
        damaged.push(`${folder}/${name}`);
        if (damaged.length === DAMAGED_MAX)
          throw new AnchorError(`the newest ${DAMAGED_MAX} files of the write-once folder are no checkpoints`, {
            alarm: true,
          });
      }
    }
    return { newest: undefined, damaged };
  } catch (error) {
    throw inWords(error, 'read');
  }
}

/** What the system says is the operator's matter; anything else stays what it is. */
function inWords(error: unknown, done: 'written' | 'read'): unknown {
  const { code = '' } = error as NodeJS.ErrnoException;
  if (!/^E[A-Z0-9]+$/.test(code)) return error;
  return new AnchorError(`the write-once folder can not be ${done}: ${code}`, { cause: error });
}

// ---- Names ----

/** Both replacements can be undone: no origin has a plus sign (it is a key's name) or an equals sign. */
function originName(origin: string): string {
  if (!/^[a-z0-9][a-z0-9.:/_-]*$/.test(origin)) throw new EvidenceError('an origin that no folder can be named after');
  return origin.replaceAll('/', '+').replaceAll(':', '=');
}

function folderName(size: number): string {
  return String(Math.floor(size / SIZES_A_FOLDER)).padStart(FOLDER_DIGITS, '0');
}

function fileName(size: number): string {
  return String(size).padStart(SIZE_DIGITS, '0') + SUFFIX;
}

// ---- Writing ----

/** Makes the folders below `path`, each flushed into the one above. */
async function makeFolders(path: string, origin: string, size: number): Promise<string> {
  let folder = path;
  for (const name of [originName(origin), folderName(size)]) {
    try {
      await mkdir(join(folder, name), { mode: 0o755 });
      await flushFolder(folder);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT')
        throw new AnchorError('the write-once folder is not there: is it mounted?', { cause: error });
      if (code !== 'EEXIST') throw error;
    }
    folder = join(folder, name);
  }
  return folder;
}

/** Writes aside and links. Returns false where the mount has no hard links. */
async function writeByLink(
  folder: string,
  file: string,
  bytes: Uint8Array,
  link: NonNullable<WriteOnceFolderOptions['link']>,
): Promise<boolean> {
  const aside = join(folder, `.${randomBytes(8).toString('hex')}.new`);
  await using(await open(aside, 'wx', 0o644), async (handle) => {
    await handle.writeFile(bytes);
    await handle.chmod(0o444).catch(() => {});
    await handle.sync();
  });
  try {
    await link(aside, file);
    return true;
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    // Somebody was faster: what he wrote is looked at next.
    if (code === 'EEXIST') return true;
    if (!NO_LINKS.includes(code)) throw error;
    return false;
  } finally {
    // A mount that keeps everything keeps this too; its name is no checkpoint's.
    await unlink(aside).catch(() => {});
  }
}

async function writeInPlace(file: string, bytes: Uint8Array): Promise<void> {
  try {
    await using(await open(file, 'wx', 0o644), async (handle) => {
      await handle.writeFile(bytes);
      await handle.sync();
      // Only now: what is cut before can be completed.
      await handle.chmod(0o444).catch(() => {});
    });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

/** Returns what is in the file, once it is whole or has not grown for a while: somebody may be writing it now. */
async function settled(file: string, bytes: Uint8Array, patienceMs: number): Promise<Uint8Array> {
  let since = performance.now();
  let length = -1;
  for (;;) {
    const found = await readNote(file);
    if (found === undefined) throw new AnchorError('the write-once folder lost what was written', { alarm: true });
    if (found.length !== length) since = performance.now();
    length = found.length;
    if (!isCut(found, bytes) || performance.now() - since >= patienceMs) return found;
    await delay(GROWS_LOOK_MS);
  }
}

/** Says whether a crash can have left this of the bytes: their beginning. */
function isCut(found: Uint8Array, bytes: Uint8Array): boolean {
  return found.length < bytes.length && equalBytes(found, bytes.subarray(0, found.length));
}

/** Writes what is missing: at its place, not at the end, for whoever may still be at it writes the same bytes there. */
async function complete(file: string, length: number, bytes: Uint8Array): Promise<void> {
  await using(await open(file, 'r+'), async (handle) => {
    await handle.write(bytes, length, bytes.length - length, length);
    await handle.sync();
    await handle.chmod(0o444).catch(() => {});
  });
}

async function flushFolder(folder: string): Promise<void> {
  try {
    await using(await open(folder), (handle) => handle.sync());
  } catch (error) {
    if (!NO_FOLDER_FLUSH.includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}

async function using<T>(handle: FileHandle, work: (handle: FileHandle) => Promise<T>): Promise<T> {
  try {
    return await work(handle);
  } finally {
    await handle.close();
  }
}

// ---- Reading ----

/** Returns the bytes of a file, or undefined where there is none. Reads no more than a note may have, and one byte. */
async function readNote(file: string): Promise<Uint8Array | undefined> {
  let handle: FileHandle;
  try {
    handle = await open(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return using(handle, async () => {
    const { size } = await handle.stat();
    const buffer = Buffer.alloc(Math.min(size, NOTE_BYTES_MAX + 1));
    let length = 0;
    while (length < buffer.length) {
      const { bytesRead } = await handle.read(buffer, length, buffer.length - length, length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    return buffer.subarray(0, length);
  });
}

/** Returns names in a folder, largest first; none where there is no folder. */
async function newestFirst(folder: string, pattern: RegExp): Promise<string[]> {
  try {
    const names = await readdir(folder);
    return names.filter((name) => pattern.test(name)).sort((a, b) => (a < b ? 1 : -1));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

function checkpointIn(bytes: Uint8Array, origin: string, size: number): PublishedCheckpoint | undefined {
  try {
    const note = fromUtf8(bytes);
    const checkpoint = decodeCheckpoint(claimedText(note));
    const whole = note.endsWith('\n') && !note.endsWith('\n\n');
    if (!whole || checkpoint.origin !== origin || checkpoint.size !== size) return undefined;
    return { note, size, root: checkpoint.root };
  } catch (error) {
    if (error instanceof EvidenceError) return undefined;
    throw error;
  }
}

function textIn(bytes: Uint8Array): string | undefined {
  try {
    return claimedText(fromUtf8(bytes));
  } catch (error) {
    if (error instanceof EvidenceError) return undefined;
    throw error;
  }
}
