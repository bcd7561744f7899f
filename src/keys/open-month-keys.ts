/**
 * Opens the month keys that the configuration names: a folder, or a client of a key service, which is loaded where it is needed alone: threads
 * that verify are started all the time.
 */
import type { OutgoingLog } from '../http/outgoing.ts';
import { fileMonthKeys } from './file-month-keys.ts';
import type { MasterKey } from './master-key.ts';
import type { MonthKeys } from './month-keys.ts';
import type { ServiceTiming } from './service-calls.ts';

export interface OpenOptions {
  /** CIDRs of addresses that may be called though they are not public. */
  readonly allowAddresses: readonly string[];
  readonly log: OutgoingLog;
  readonly wallClock?: () => number;
  readonly timing?: Partial<ServiceTiming>;
}

/** Calls nobody yet. @throws SettingsError where a file that is named can not be used */
export async function openMonthKeys(masterKey: MasterKey, options: OpenOptions): Promise<MonthKeys> {
  if (masterKey.kind === 'file') return fileMonthKeys(masterKey.folder);
  const { openKeyService } = await import('./open-key-service.ts');
  return openKeyService(masterKey, options);
}
