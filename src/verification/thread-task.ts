/** What goes between the main thread and a verification thread. */
import type pg from 'pg';
import type { ThreadKeys } from '../keys/thread-keys.ts';
import type { Finding } from '../verify/findings.ts';
import type { LogReport, LogStreamReport } from '../verify/verify-log.ts';
import type { PaceOptions } from './pace.ts';

/** What is trusted, as the service itself knows it. */
export interface Trust {
  /** The deployment's key, from the signer's own folder; undefined where this replica has none: then the first that is stated. */
  readonly key: { readonly vkey: string; readonly trusted: 'signer' } | undefined;
  /** What the signer last signed of each stream, by its own record; `root` is hex. */
  readonly mark: ReadonlyMap<string, { readonly size: number; readonly root: string }> | undefined;
  /** Certificates (DER) of time-stamp authorities, and vkeys of witnesses. */
  readonly authorities: readonly Uint8Array[];
  readonly witnesses: readonly string[];
}

export interface ThreadTask extends Trust, PaceOptions {
  readonly connection: pg.ClientConfig;
  readonly keys: ThreadKeys;
  readonly origin: string;
  /** Undefined = the whole log. */
  readonly scope: { readonly tenantId: number; readonly category: string | undefined } | undefined;
  /** What was finished before: reports of streams, or the name of the last in order. */
  readonly finished: {
    readonly entries: number;
    readonly reports: readonly LogStreamReport[];
    readonly after: string | null;
  };
  /** So many entries were read before an interruption: `entriesPerSecond` holds beyond them, or a long stream would never be read to its end. */
  readonly readBefore: number;
  /** How long entries may wait for an anchor, once they were read; undefined = not at all. */
  readonly anchorWait: { readonly maxMs: number; readonly everyMs: number } | undefined;
  /** After so long no other stream is begun. Infinity = to the end, with a report of all. */
  readonly sliceMs: number;
}

export type ThreadMessage =
  | { readonly kind: 'progress'; readonly stream: string | null; readonly entries: number; readonly of: number }
  | { readonly kind: 'stream'; readonly report: LogStreamReport; readonly entries: number; readonly of: number }
  /** What is wrong beside streams, in a run that is done in slices. */
  | { readonly kind: 'slice'; readonly isLast: boolean; readonly findings: readonly Finding[] }
  | { readonly kind: 'done'; readonly report: LogReport }
  | { readonly kind: 'failed'; readonly reason: string };
