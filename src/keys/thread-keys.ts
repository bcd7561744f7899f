/** Month keys in a thread: opened as the main thread's are, and each use told to the main thread, which tells the log. */
import { BroadcastChannel } from 'node:worker_threads';
import type { OutgoingLog } from '../http/outgoing.ts';
import type { MasterKey } from './master-key.ts';
import { type KeyUse, MonthKeyUses } from './month-key-uses.ts';
import type { MonthKeys } from './month-keys.ts';
import { openMonthKeys } from './open-month-keys.ts';

/** What goes to the thread. */
export interface ThreadKeys {
  readonly masterKey: MasterKey;
  readonly allowAddresses: readonly string[];
  /** How long opened keys are kept. */
  readonly cacheMs: number;
  /** Of the service that the thread is of: several may be in a process. */
  readonly usesChannel: string;
}

const TELL_MS = 1000;

export async function openThreadKeys(
  { masterKey, allowAddresses, usesChannel }: Omit<ThreadKeys, 'cacheMs'>,
  log: OutgoingLog,
): Promise<MonthKeys> {
  const uses = new MonthKeyUses();
  const channel = new BroadcastChannel(usesChannel);
  channel.unref();
  const tell = (): void => {
    const taken = uses.take();
    if (taken.length > 0) channel.postMessage(taken);
  };
  const timer = setInterval(tell, TELL_MS);
  timer.unref();
  const monthKeys = uses.watch(await openMonthKeys(masterKey, { allowAddresses, log }));
  return {
    ...monthKeys,
    close() {
      clearInterval(timer);
      monthKeys.close();
      tell();
      channel.close();
    },
  };
}

/** Adds the uses of this service's threads to its own, until what is returned is called. */
export function hearThreads(usesChannel: string, uses: MonthKeyUses): () => void {
  const channel = new BroadcastChannel(usesChannel);
  channel.onmessage = (message) => {
    for (const use of (message as { readonly data: readonly KeyUse[] }).data) uses.add(use);
  };
  channel.unref();
  return () => channel.close();
}
