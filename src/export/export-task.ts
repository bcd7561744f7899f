/** What goes between the main thread and the export thread. */
import type pg from 'pg';
import type { ThreadKeys } from '../keys/thread-keys.ts';
import type { Logins } from '../store/database.ts';
import type { FollowerTiming } from './sink-follower.ts';

export interface ExportTask {
  readonly connection: pg.ClientConfig;
  readonly logins: Logins;
  readonly keys: ThreadKeys;
  readonly allowAddresses: readonly string[];
  /** Of the machine: who sends, in syslog. */
  readonly hostname: string;
  readonly timing: ExportTiming;
  readonly followerTiming: Partial<FollowerTiming>;
}

export interface ExportTiming {
  /** How often the thread says that it lives, and looks for sinks that nobody follows. */
  readonly beatMs: number;
  /** A follower that was silent for so long is given up. */
  readonly silentMs: number;
}

/** `look`: sinks were changed. */
export type ToThread = { readonly kind: 'close' | 'look' };

export type FromThread =
  | {
      readonly kind: 'log';
      readonly level: 'info' | 'warn' | 'error';
      readonly facts: object;
      readonly message: string;
    }
  | ({ readonly kind: 'deliveries' } & Deliveries)
  | { readonly kind: 'closed' };

/** What the thread does. */
export interface Deliveries {
  /** Sinks that it follows now. */
  readonly following: number;
  /** Entries that it delivered, and deliveries that failed and go again, since it began. */
  readonly delivered: number;
  readonly failures: number;
}
