/**
 * The entry that tells of an erasure, as sinks see it: category `log_administration`, action `erasure.completed`, and in `details.entries` what lost which
 * parts. It goes to every sink of the tenant, whatever its filter says, so that the SIEM's copy can be erased too: what a filter says now does
 * not tell what the sink was sent before.
 */
import type { ExportedEntry } from './exported-entry.ts';

export const ERASURE_ACTION = 'erasure.completed';

/** Says whether an entry tells of an erasure. Only the log's own are believed: anybody can send an event that is called so. */
export function isErasure({ entry, stream }: ExportedEntry): boolean {
  return stream.category === 'log_administration' && entry.record.action === ERASURE_ACTION;
}
