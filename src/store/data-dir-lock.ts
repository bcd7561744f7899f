/**
 * One process a data folder.
 *
 * The lock is a listening abstract Unix socket named after the folder's device and inode: the kernel gives it to one process and takes
 * it back with that process, however it dies, so that `kill -9` leaves nothing to clean up. The pid noted in `lock.pid` only serves the
 * refusal's words. Abstract names end at a network namespace: two containers on one volume do not see each other's lock, and are kept
 * apart by the embedded PostgreSQL, which looks for a server behind the cluster's socket before it starts one.
 */
import { once } from 'node:events';
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join, resolve } from 'node:path';
import { SettingsError } from '../errors.ts';
import { errorCode, settingsErrorOf } from './embedded/files.ts';

const PID_NOTE = 'lock.pid';

export interface DataDirLock {
  release(): Promise<void>;
}

/**
 * Locks the data folder for this process; makes the folder (mode 0700) where there is none.
 *
 * @throws SettingsError when another process holds it, or it can not be made or written.
 */
export async function lockDataDir(path: string): Promise<DataDirLock> {
  const dataDir = resolve(path);
  try {
    await mkdir(dataDir, { recursive: true, mode: 0o700 });
    const { dev, ino } = await stat(dataDir, { bigint: true });
    const server = await listen(`\0sealog-data-${dev}-${ino}`);
    if (server === undefined) throw new SettingsError([await inUse(dataDir)]);
    try {
      // Made anew, so that it follows no link that another owner of the folder may have laid.
      await rm(join(dataDir, PID_NOTE), { force: true });
      await writeFile(join(dataDir, PID_NOTE), `${process.pid}\n`, { flag: 'wx', mode: 0o644 });
    } catch (error) {
      await close(server);
      throw error;
    }
    return { release: () => close(server) };
  } catch (error) {
    throw settingsErrorOf(error, dataDir);
  }
}

/** Locks a folder that is there, for this process; undefined when another process of this machine holds it. */
export async function tryLockFolder(path: string): Promise<DataDirLock | undefined> {
  const { dev, ino } = await stat(path, { bigint: true });
  const server = await listen(`\0sealog-folder-${dev}-${ino}`);
  return server === undefined ? undefined : { release: () => close(server) };
}

/** The listening socket, or undefined when another process has the name. */
async function listen(path: string): Promise<Server | undefined> {
  const server = createServer((socket) => socket.destroy());
  server.listen({ path, exclusive: true });
  try {
    await once(server, 'listening');
  } catch (error) {
    if (errorCode(error) === 'EADDRINUSE') return undefined;
    throw error;
  }
  // The lock ends with the process; it must not keep the process from ending.
  server.unref();
  return server;
}

async function close(server: Server): Promise<void> {
  if (!server.listening) return;
  server.close();
  await once(server, 'close');
}

async function inUse(dataDir: string): Promise<string> {
  const pid = Number.parseInt(await readFile(join(dataDir, PID_NOTE), 'utf8').catch(() => ''), 10);
  const holder = pid > 0 && (await isAlive(pid)) ? `process ${pid}` : 'another process';
  return `The data folder ${dataDir} is in use by ${holder}: stop that one, or set SEALOG_DATA_DIR to another folder.`;
}

async function isAlive(pid: number): Promise<boolean> {
  return await stat(`/proc/${pid}`).then(
    () => true,
    () => false,
  );
}
