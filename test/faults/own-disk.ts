/**
 * File systems of a test's own, to be cut off or filled. Only root can mount them.
 *
 * A cut is the kernel's own: EXT4_IOC_SHUTDOWN without a flush of the journal ends every write at that moment, and what was not flushed by
 * then is gone when the file system is mounted again. What the disk was given counts as kept, so this does not show a disk that lies.
 */
import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rm, statfs, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { say } from './say.ts';

export interface OwnDisk {
  /** Where it is mounted. */
  readonly folder: string;
  remove(): Promise<void>;
}

export interface DiskToCut extends OwnDisk {
  /** From now on nothing reaches it: every write fails, and what was not flushed is lost. */
  cut(): Promise<void>;
  /** Mounts it again, when nobody has a file open there any more. */
  again(): Promise<void>;
}

export interface DiskToFill extends OwnDisk {
  /** Leaves so many bytes free. */
  fill(freeBytes: number): Promise<void>;
  /** Takes away what filled it. */
  empty(): Promise<void>;
}

const run = promisify(execFile);
/** A file with holes: it takes what is written. */
const EXT4_BYTES = 4 * 2 ** 30;
const FORCED = `import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))`;
const UNMOUNT_TRIES = 100;
const UNMOUNT_RETRY_MS = 50;

/** Says whether such a disk can not be had here, which is a failure where CI runs as root. */
export async function isWithoutDisks(make: () => Promise<OwnDisk>): Promise<boolean> {
  const isRoot = process.getuid?.() === 0;
  if (isRoot && process.env['CI'] !== undefined) return false;
  try {
    if (!isRoot) throw new Error('only root can mount');
    await (await make()).remove();
    return false;
  } catch (error) {
    say(`no file system of a test's own: ${(error as Error).message}`);
    return true;
  }
}

export async function makeDiskToCut(): Promise<DiskToCut> {
  const { parent, folder } = await makeMountPoint();
  const image = join(parent, 'image');
  const mount = () => run('mount', ['-o', 'loop', image, folder]);
  try {
    await writeFile(image, '');
    await truncate(image, EXT4_BYTES);
    await run('mkfs.ext4', ['-q', '-F', image]);
    await mount();
  } catch (error) {
    await rm(parent, { recursive: true });
    throw error;
  }
  return {
    folder,
    async cut() {
      await run('python3', ['-c', FORCED, folder]);
    },
    async again() {
      await unmount(folder);
      await mount();
    },
    remove: () => remove(parent, folder),
  };
}

export async function makeDiskToFill(bytes: number): Promise<DiskToFill> {
  const { parent, folder } = await makeMountPoint();
  const ballast = join(folder, 'ballast');
  try {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${bytes},mode=755`, 'tmpfs', folder]);
  } catch (error) {
    await rm(parent, { recursive: true });
    throw error;
  }
  return {
    folder,
    async fill(freeBytes) {
      const { bavail, bsize } = await statfs(folder);
      await run('fallocate', ['-l', String(Math.max(bavail * bsize - freeBytes, bsize)), ballast]);
    },
    async empty() {
      await rm(ballast, { force: true });
    },
    remove: () => remove(parent, folder),
  };
}

async function makeMountPoint(): Promise<{ parent: string; folder: string }> {
  const parent = await mkdtemp(join(tmpdir().length > 40 ? '/tmp' : tmpdir(), 'sealog-test-disk-'));
  await chmod(parent, 0o755);
  const folder = join(parent, 'disk');
  await mkdir(folder);
  return { parent, folder };
}

/** Whoever was killed may have a file open there for a moment. */
async function unmount(folder: string): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    try {
      await run('umount', [folder]);
      return;
    } catch (error) {
      if (tries === UNMOUNT_TRIES) throw error;
      await sleep(UNMOUNT_RETRY_MS);
    }
  }
}

async function remove(parent: string, folder: string): Promise<void> {
  // A test that failed half-way may have left somebody there: the kernel detaches it when he goes.
  await unmount(folder).catch(() => run('umount', ['--lazy', folder]).catch(() => {}));
  await rm(parent, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}
