/**
 * Month keys as files: `<folder>/<name>.key`, 32 bytes in hex, readable by the service's user only.
 *
 *     wrapped = nonce (12 random bytes) ‖ AES-256-GCM(month key, nonce, data key, associated data) ‖ tag (16 bytes)
 *     associated data = "sealog/data-key/v1\0" ‖ LP(stream) ‖ u32be(drop month)
 *
 * A key file appears whole or not at all (written aside, flushed, linked to its name), and is never overwritten but to destroy it;
 * `<month>.destroyed` then says for ever that it was. The folder belongs on other storage, and in other backups, than the database.
 *
 * Files are read at each use: a key that somebody took away is gone at once. Opened data keys are kept elsewhere (keyring.ts).
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { access, open, readdir, readFile, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { concatBytes } from '../chain/bytes.ts';
import { DATA_KEY_BYTES } from '../chain/seal.ts';
import { KeyUnavailableError } from '../errors.ts';
import { type MonthKeyName, type MonthKeys, monthKeyName, parseMonthKey } from './month-keys.ts';
import { associatedData, monthKeysOf, type NamedKeys, wrong } from './named-keys.ts';
import { writeOnce } from './secret-file.ts';

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const WRAPPED_BYTES = NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES;
const KEY_TEXT = /^[0-9a-f]{64}\n$/;

export function fileMonthKeys(folder: string): MonthKeys {
  return monthKeysOf(fileKeys(folder));
}

function fileKeys(folder: string): NamedKeys {
  const fileOf = (key: MonthKeyName): string => join(folder, `${nameOf(key)}.key`);
  const noteOf = (month: string): string => join(folder, `${month}.destroyed`);
  return {
    async encrypt(key, dataKey, context) {
      const monthKey = await readKey(fileOf(key), nameOf(key));
      if (monthKey === undefined) return undefined;
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', monthKey, nonce);
      cipher.setAAD(associatedData(context));
      const sealed = concatBytes(cipher.update(dataKey), cipher.final());
      return concatBytes(nonce, sealed, cipher.getAuthTag());
    },

    async decrypt(key, wrapped, context) {
      const monthKey = await readKey(fileOf(key), nameOf(key));
      if (monthKey === undefined) return undefined;
      if (wrapped.length !== WRAPPED_BYTES)
        throw new KeyUnavailableError(`the data key of ${context.stream} is cut short`, { problem: 'wrong' });
      const decipher = createDecipheriv('aes-256-gcm', monthKey, wrapped.subarray(0, NONCE_BYTES));
      decipher.setAAD(associatedData(context));
      decipher.setAuthTag(wrapped.subarray(-TAG_BYTES));
      try {
        return concatBytes(decipher.update(wrapped.subarray(NONCE_BYTES, -TAG_BYTES)), decipher.final());
      } catch (cause) {
        throw wrong(nameOf(key), context, cause);
      }
    },

    async make(key) {
      await reachable(nameOf(key), () => writeOnce(fileOf(key), `${randomBytes(DATA_KEY_BYTES).toString('hex')}\n`));
    },

    async remove(key) {
      await reachable(nameOf(key), () => destroyFile(folder, fileOf(key)));
      return {};
    },

    async generations(month) {
      const names = await reachable(month, () => readdir(folder));
      return names
        .map((name) => (name.endsWith('.key') ? parseMonthKey(name.slice(0, -'.key'.length)) : undefined))
        .flatMap((key) => (key?.month === month ? [key.generation] : []));
    },

    async noteDestroyed(month) {
      await reachable(month, () => writeOnce(noteOf(month), 'destroyed\n'));
    },

    async isDestroyed(month) {
      return (await reachable(month, () => ifThere(access(noteOf(month)).then(() => true)))) ?? false;
    },

    close() {},
  };
}

function nameOf({ month, generation }: MonthKeyName): string {
  return monthKeyName(month, generation);
}

async function readKey(path: string, name: string): Promise<Uint8Array | undefined> {
  const text = await reachable(name, () => ifThere(readFile(path, 'utf8')));
  if (text === undefined) return undefined;
  if (!KEY_TEXT.test(text)) throw new KeyUnavailableError(`the month key ${name} is damaged`, { problem: 'wrong' });
  return Buffer.from(text.trim(), 'hex');
}

/** Overwritten before it goes, for disks that write in place; on others, and in backups of the folder, this promises nothing (docs/keys.md). */
async function destroyFile(folder: string, path: string): Promise<void> {
  const file = await ifThere(open(path, 'r+'));
  if (file === undefined) return;
  try {
    const { size } = await file.stat();
    await file.write(Buffer.alloc(size), 0, size, 0);
    await file.sync();
  } finally {
    await file.close();
  }
  await ifThere(unlink(path));
  const parent = await open(folder);
  await parent.sync().finally(() => parent.close());
}

async function ifThere<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function reachable<T>(name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new KeyUnavailableError(`the folder of month keys can not be used for ${name}`, {
      problem: 'unreachable',
      cause,
    });
  }
}
