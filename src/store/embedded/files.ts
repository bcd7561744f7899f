/** Files and folders of the embedded PostgreSQL: made durable, and their failures told to the operator. */
import { open, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { SettingsError } from '../../errors.ts';

/** `code` of a system error (`ENOENT`), undefined for anything else. */
export function errorCode(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}

/** Resolves to undefined where the file is not there; every other failure stays one. */
export async function ifThere<T>(result: Promise<T>): Promise<T | undefined> {
  try {
    return await result;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** What the operator can act on becomes a `SettingsError`; everything else is handed back as it is. */
export function settingsErrorOf(error: unknown, dataDir: string): unknown {
  switch (errorCode(error)) {
    case 'EACCES':
    case 'EPERM':
      return new SettingsError([
        `The data folder ${dataDir} can not be used by this user (${reason(error)}): start Sealog as its owner, or set SEALOG_DATA_DIR to another folder.`,
      ]);
    case 'EROFS':
      return new SettingsError([
        `The data folder ${dataDir} is read-only: set SEALOG_DATA_DIR to a folder that can be written.`,
      ]);
    case 'ENOSPC':
    case 'EDQUOT':
      return new SettingsError([noSpace(dataDir)]);
    case 'ENOTDIR':
    case 'EEXIST':
      return new SettingsError([
        `The data folder ${dataDir} is not a folder (${reason(error)}): set SEALOG_DATA_DIR to a folder.`,
      ]);
    default:
      return error;
  }
}

export function noSpace(dataDir: string): string {
  return `There is no space left for the data folder ${dataDir}: make room, then start again.`;
}

/**
 * Writes a file whole or not at all, readable by its owner alone, and on disk when this returns. Like everything that root may write in a
 * data folder of another user, it follows no link that he may have laid.
 */
export async function writeDurably(path: string, text: string): Promise<void> {
  const unfinished = `${path}.new`;
  await rm(unfinished, { force: true });
  await writeFile(unfinished, text, { flag: 'wx', mode: 0o600, flush: true });
  await rename(unfinished, path);
  await syncFolder(dirname(path));
}

/** Puts a folder's names on disk: without it a power cut may forget a rename. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
