/** An entry on its way to a SIEM or into a file, and what all formats say of it alike. */
import type { JsonObject, JsonValue } from '../chain/canonical.ts';
import type { Category, Outcome } from '../chain/category.ts';
import { erasedParts } from '../chain/entry-view.ts';
import type { Entry } from '../chain/open-block.ts';

export interface ExportedEntry {
  readonly entry: Entry;
  readonly stream: {
    readonly name: string;
    readonly category: Category;
    readonly tenant: string;
  };
}

/** Writes an entry in at most so many bytes of UTF-8, on one line. Throws `TooLongError` where even its least form is longer. */
export type WriteEntry = (exported: ExportedEntry, maxBytes?: number) => string;

/**
 * The severity (0 to 10 as CEF means it) of an event that was sent without one; only a security event must have one. Reading and changing
 * as intended is low, what failed is worth a look, and a failure of the log itself is high.
 */
export const SEVERITY_DEFAULTS: Readonly<Record<Category, Readonly<Record<Outcome, number>>>> = {
  user_authentication: { success: 1, failure: 5, unknown: 3 },
  data_access: { success: 1, failure: 4, unknown: 3 },
  configuration_change: { success: 3, failure: 5, unknown: 4 },
  data_modification: { success: 2, failure: 5, unknown: 3 },
  security_event: { success: 6, failure: 6, unknown: 6 },
  system_operation: { success: 1, failure: 5, unknown: 3 },
  log_administration: { success: 3, failure: 8, unknown: 6 },
  anchor: { success: 0, failure: 8, unknown: 6 },
};

/** Returns the severity that was sent, else the default; `notesOf` tells them apart. */
export function severityOf({ entry, stream }: ExportedEntry): number {
  return entry.record.severity ?? SEVERITY_DEFAULTS[stream.category][entry.record.outcome];
}

/** Returns what the sender did not say and the log knows, as tokens without blanks; empty of most entries. */
export function notesOf({ entry }: ExportedEntry): string[] {
  const notes: string[] = [];
  if (entry.record.severity === undefined) notes.push('severity:default');
  if (entry.record.evidence !== undefined) notes.push(`evidence:${entry.record.evidence}`);
  const erased = erasedParts(entry);
  if (erased.length > 0) notes.push(`erased:${erased.join()}`);
  return notes;
}

/** Returns an action as a title: `api_key.create` → `Api key create`. */
export function titleOf(action: string): string {
  const words = action.replace(/[._]+/g, ' ');
  return words.slice(0, 1).toUpperCase() + words.slice(1);
}

/** Returns the value where it is an object. Parts of events of our own, and of versions to come, may be something else. */
export function asObject(value: JsonValue | undefined): JsonObject | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined;
}

/** Returns a member that is a text and not empty. */
export function textOf(object: JsonObject | undefined, name: string): string | undefined {
  if (object === undefined || !Object.hasOwn(object, name)) return undefined;
  const value = object[name];
  return typeof value === 'string' && value !== '' ? value : undefined;
}

/** Says whether a target is somebody's account: then a SIEM is told so in its fields for users. */
export function isAccountType(type: string | undefined): boolean {
  return type !== undefined && /(?:^|_)(?:user|account)$/i.test(type);
}
