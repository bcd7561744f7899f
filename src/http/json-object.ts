/** JSON objects of strangers and operators: tokens, key sets, settings. Read strictly, and small. */
import { isUtf8 } from 'node:buffer';
import { parseSafely } from '../chain/canonical.ts';

export type JsonMembers = Readonly<Record<string, unknown>>;

/**
 * Returns the object that a text (UTF-8, RFC 8259) holds, or undefined where it holds anything else: not UTF-8, a byte order mark, no object,
 * something behind it, nesting deeper than evidence has (chain/canonical.ts), or a name twice in one object, also by different escapes:
 * readers differ in which one counts.
 */
export function parseJsonObject(bytes: Uint8Array): JsonMembers | undefined {
  if (!isUtf8(bytes)) return undefined;
  const text = Buffer.from(bytes).toString();
  try {
    JSON.parse(text);
    const value = parseSafely(text);
    return isJsonObject(value) && !namesTwice(text, value) ? value : undefined;
  } catch {
    return undefined;
  }
}

export function isJsonObject(value: unknown): value is JsonMembers {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Outside of strings each colon belongs to one member, and of equal names the parsed value keeps one. */
function namesTwice(text: string, value: unknown): boolean {
  return text.replace(/"[^"\\]*(?:\\.[^"\\]*)*"/g, '').split(':').length - 1 !== memberCount(value);
}

function memberCount(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const members = Object.values(value);
  return members.reduce((sum: number, member) => sum + memberCount(member), Array.isArray(value) ? 0 : members.length);
}
