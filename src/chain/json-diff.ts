/**
 * The difference between two JSON values as RFC 6902 operations, for readers of a configuration change that was sent as before
 * and after. Objects are compared member by member; arrays as wholes, since who reads an audit trail wants the lists, not their edits.
 */
import { canonicalText, type JsonObject, type JsonValue } from './canonical.ts';

export type DiffOperation =
  | { readonly op: 'add' | 'replace'; readonly path: string; readonly value: JsonValue }
  | { readonly op: 'remove'; readonly path: string };

/**
 * Characters that all paths together may have: those of an event's limit. Each path repeats the names of all that it lies in, so that
 * an event of 256 KiB made for it would otherwise be shown with 300 MB of paths.
 */
const PATH_CHARS_MAX = 256 * 1024;

/** Returns the operations that make `before` into `after`, in the order of the members' names; one for the whole where their paths would be too long. */
export function jsonDiff(before: JsonValue, after: JsonValue): DiffOperation[] {
  const operations: DiffOperation[] = [];
  const whole: DiffOperation = { op: 'replace', path: '', value: after };
  return compare(before, after, '', operations, { chars: PATH_CHARS_MAX }) ? operations : [whole];
}

/** Adds the operations below `path`. Returns whether there was room for them. */
function compare(
  before: JsonValue,
  after: JsonValue,
  path: string,
  operations: DiffOperation[],
  room: { chars: number },
): boolean {
  if (!isObject(before) || !isObject(after)) {
    if (canonicalText(before) === canonicalText(after)) return true;
    return add(operations, { op: 'replace', path, value: after }, room);
  }
  for (const name of [...new Set([...Object.keys(before), ...Object.keys(after)])].sort()) {
    const at = `${path}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
    // Own members: every object has a `constructor`, but not from the sender.
    const old = Object.hasOwn(before, name) ? before[name] : undefined;
    const now = Object.hasOwn(after, name) ? after[name] : undefined;
    let fits: boolean;
    if (now === undefined) fits = add(operations, { op: 'remove', path: at }, room);
    else if (old === undefined) fits = add(operations, { op: 'add', path: at, value: now }, room);
    else fits = compare(old, now, at, operations, room);
    if (!fits) return false;
  }
  return true;
}

function add(operations: DiffOperation[], operation: DiffOperation, room: { chars: number }): boolean {
  operations.push(operation);
  room.chars -= operation.path.length;
  return room.chars >= 0;
}

function isObject(value: JsonValue): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
