/** Opens a client of the key service that the configuration names. */
import { open, readFile } from 'node:fs/promises';
import { SettingsError } from '../errors.ts';
import { outgoing } from '../http/outgoing.ts';
import { awsMonthKeys } from './aws-month-keys.ts';
import { azureMonthKeys } from './azure-month-keys.ts';
import type { FileKeys, MasterKey } from './master-key.ts';
import type { MonthKeys } from './month-keys.ts';
import type { OpenOptions } from './open-month-keys.ts';
import { pkcs11MonthKeys } from './pkcs11-month-keys.ts';
import { ServiceCalls, unreachable } from './service-calls.ts';
import { vaultMonthKeys } from './vault-month-keys.ts';

const SECRET_BYTES_MAX = 64 * 1024;
/** Everybody on the machine. */
const OTHERS_READ = 0o004;

/** Calls nobody yet. @throws SettingsError where a file that is named can not be used */
export async function openKeyService(
  masterKey: Exclude<MasterKey, FileKeys>,
  options: OpenOptions,
): Promise<MonthKeys> {
  const { secretFile } = masterKey;
  await readSecret(secretFile).catch((error: unknown) => {
    const reason = (error as NodeJS.ErrnoException).code ?? (error as Error).message;
    throw new SettingsError([`SEALOG_MASTER_KEY_SECRET_FILE ${secretFile} can not be used: ${reason}`]);
  });
  // Read at each use: whoever renews it writes the file and need not restart anything.
  const secret = (): Promise<string> =>
    readSecret(secretFile).catch(() => {
      throw unreachable('the file with its secret can not be read');
    });
  switch (masterKey.kind) {
    case 'vault':
      return vaultMonthKeys({ ...masterKey, secret, calls: await calls(masterKey.caFile, options) });
    case 'awskms': {
      const { wallClock = Date.now } = options;
      return awsMonthKeys({ ...masterKey, secret, wallClock, calls: await calls(masterKey.caFile, options) });
    }
    case 'azurekv':
      return azureMonthKeys({ ...masterKey, secret, calls: await calls(masterKey.caFile, options) });
    case 'pkcs11':
      return pkcs11MonthKeys({ ...masterKey, secret, callMs: options.timing?.callMs });
    default: {
      const never: never = masterKey;
      return never;
    }
  }
}

async function calls(caFile: string | undefined, { allowAddresses, log, timing }: OpenOptions): Promise<ServiceCalls> {
  let caPem: string | undefined;
  try {
    caPem = caFile === undefined ? undefined : await readFile(caFile, 'utf8');
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? 'failed';
    throw new SettingsError([`SEALOG_MASTER_KEY: ca ${caFile} can not be read: ${reason}`]);
  }
  if (caPem !== undefined && !caPem.includes('-----BEGIN CERTIFICATE-----'))
    throw new SettingsError([`SEALOG_MASTER_KEY: ca ${caFile} holds no certificate in PEM`]);
  return new ServiceCalls({ outgoing: outgoing({ allowAddresses, log }), caPem, timing });
}

/** Returns the text of a file, without line breaks at its end. */
async function readSecret(path: string): Promise<string> {
  const file = await open(path);
  try {
    const { mode, size } = await file.stat();
    if ((mode & OTHERS_READ) !== 0) throw new Error('everybody on the machine can read it');
    if (size > SECRET_BYTES_MAX) throw new Error(`it is larger than ${SECRET_BYTES_MAX} bytes`);
    const text = (await file.readFile('utf8')).replace(/[\r\n]+$/, '');
    if (text === '') throw new Error('it is empty');
    return text;
  } finally {
    await file.close();
  }
}
