/**
 * Cursors of pages. They are opaque to clients, hold what the page's last item says, and carry no authority: whoever sends one sees what he
 * may list, no more.
 */
import { Problem } from '../errors.ts';

/** Of rows that have a UUID: their numbers are those of all tenants, and tell of others. */
export const ROW_CURSOR = /^v1 ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;

export function pageCursor(text: string): string {
  return Buffer.from(text).toString('base64url');
}

/** Returns what a cursor holds, as the pattern has it. Throws a Problem. */
export function readPageCursor(cursor: string, pattern: RegExp): RegExpExecArray {
  const match = pattern.exec(Buffer.from(cursor, 'base64url').toString());
  if (match === null) throw wrongCursor();
  return match;
}

export function wrongCursor(): Problem {
  return new Problem('invalid_request', { errors: [{ field: 'cursor', message: 'is not one that Sealog gave' }] });
}
