/**
 * The entry that tells of an erasure, as sinks see it: category `log_administration`, action `erasure.completed`, and in `details.entries` what lost which
 * parts. It goes to every sink that may have got one of them, whatever else its filter says, so that the SIEM's copy can be erased too.
 */
import type { Category } from '../chain/category.ts';
import { partValue } from '../chain/entry-view.ts';
import { asObject, type ExportedEntry, textOf } from './exported-entry.ts';

export const ERASURE_ACTION = 'erasure.completed';

/** Says whether an entry tells of an erasure in streams of these categories. One that does not say where is told to all. */
export function isErasureIn({ entry, stream }: ExportedEntry, categories: ReadonlySet<Category>): boolean {
  if (stream.category !== 'log_administration' || entry.record.action !== ERASURE_ACTION) return false;
  const entries = asObject(partValue(entry, 'details'))?.['entries'];
  if (!Array.isArray(entries)) return true;
  return entries.some((erased) => {
    const name = textOf(asObject(erased), 'stream');
    return name === undefined || categories.has(name.split('/')[1] as Category);
  });
}
