/**
 * The difference between two JSON values as RFC 6902 operations, for readers of a configuration change that was sent as before
 * and after. Objects are compared member by member; arrays as wholes, since who reads an audit trail wants the lists, not their edits.
 */
import { canonicalText, type JsonValue } from '../chain/canonical.ts';

export type DiffOperation =
  | { readonly op: 'add' | 'replace'; readonly path: string; readonly value: JsonValue }
  | { readonly op: 'remove'; readonly path: string };

/** Returns the operations that make `before` into `after`, in the order of the members' names. */
export function jsonDiff(before: JsonValue, after: JsonValue, path = ''): DiffOperation[] {
  if (!isObject(before) || !isObject(after)) {
    return canonicalText(before) === canonicalText(after) ? [] : [{ op: 'replace', path, value: after }];
  }
  const operations: DiffOperation[] = [];
  for (const name of [...new Set([...Object.keys(before), ...Object.keys(after)])].sort()) {
    const at = `${path}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
    const [old, now] = [before[name], after[name]];
    if (now === undefined) operations.push({ op: 'remove', path: at });
    else if (old === undefined) operations.push({ op: 'add', path: at, value: now });
    else operations.push(...jsonDiff(old, now, at));
  }
  return operations;
}

function isObject(value: JsonValue): value is { readonly [name: string]: JsonValue } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
