/**
 * Month keys as files: `<folder>/<month>.key`, 32 bytes in hex, readable by the service's user only.
 *
 *     wrapped = nonce (12 random bytes) ‖ AES-256-GCM(month key, nonce, data key, associated data) ‖ tag (16 bytes)
 *     associated data = "sealog/data-key/v1\0" ‖ LP(stream) ‖ u32be(drop month)
 *
 * A key file appears whole or not at all (written aside, flushed, linked to its name), and is never overwritten. Its folder
 * belongs on other storage, and in other backups, than the database.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { concatBytes, lengthPrefixed, u32be, utf8 } from '../chain/bytes.ts';
import { KEPT_FOR_EVER } from '../chain/retain-until.ts';
import { DATA_KEY_BYTES } from '../chain/seal.ts';
import { KeyUnavailableError } from '../errors.ts';
import type { KeyContext, MonthKeys } from './month-keys.ts';
import { writeOnce } from './secret-file.ts';

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const WRAPPED_BYTES = NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES;
const TAG = utf8('sealog/data-key/v1\0');

export function fileMonthKeys(folder: string): MonthKeys {
  const known = new Map<string, Uint8Array>();

  async function keyOf(name: string): Promise<Uint8Array> {
    const cached = known.get(name);
    if (cached !== undefined) return cached;
    const key = await readKey(folder, name);
    known.set(name, key);
    return key;
  }

  return {
    async wrap(dataKey, context) {
      const monthKey = context.dropMonth === KEPT_FOR_EVER ? 'for-ever' : String(context.dropMonth);
      await makeKey(folder, monthKey);
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', await keyOf(monthKey), nonce);
      cipher.setAAD(associatedData(context));
      const sealed = concatBytes(cipher.update(dataKey), cipher.final());
      return { monthKey, wrapped: concatBytes(nonce, sealed, cipher.getAuthTag()) };
    },

    async unwrap(monthKey, wrapped, context) {
      if (wrapped.length !== WRAPPED_BYTES)
        throw new KeyUnavailableError(`the data key of ${context.stream} is cut short`);
      const decipher = createDecipheriv('aes-256-gcm', await keyOf(monthKey), wrapped.subarray(0, NONCE_BYTES));
      decipher.setAAD(associatedData(context));
      decipher.setAuthTag(wrapped.subarray(-TAG_BYTES));
      try {
        return concatBytes(decipher.update(wrapped.subarray(NONCE_BYTES, -TAG_BYTES)), decipher.final());
      } catch (cause) {
        throw new KeyUnavailableError(
          `the month key ${monthKey} is not the one that wrapped the data key of ${context.stream}`,
          { cause },
        );
      }
    },
  };
}

function associatedData({ stream, dropMonth }: KeyContext): Uint8Array {
  return concatBytes(TAG, lengthPrefixed(utf8(stream)), u32be(dropMonth));
}

async function readKey(folder: string, name: string): Promise<Uint8Array> {
  // The name comes from the database, which is not trusted with a path.
  if (!/^(\d{6,7}|for-ever)$/.test(name)) throw new KeyUnavailableError('a month key has an impossible name');
  let text: string;
  try {
    text = await readFile(join(folder, `${name}.key`), 'utf8');
  } catch (cause) {
    throw new KeyUnavailableError(`the month key ${name} can not be read`, { cause });
  }
  if (!/^[0-9a-f]{64}\n$/.test(text)) throw new KeyUnavailableError(`the month key ${name} is damaged`);
  return Buffer.from(text.trim(), 'hex');
}

async function makeKey(folder: string, name: string): Promise<void> {
  await writeOnce(join(folder, `${name}.key`), `${randomBytes(DATA_KEY_BYTES).toString('hex')}\n`);
}
