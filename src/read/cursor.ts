/**
 * Cursors: opaque to clients, they hold for each stream the seq to go on from, and a hash of the question, so that a cursor is not
 * continued with another. They carry no authority: streams that are not the caller's are not looked at, whatever a cursor says.
 */

import { toHex } from '../chain/bytes.ts';
import { sha256 } from '../chain/sha256.ts';
import { Problem } from '../errors.ts';

const CURSOR_CHARS_MAX = 4096;

/** Returns the cursor that continues a question. */
export function encodeCursor(question: string, positions: ReadonlyMap<string, number>): string {
  return Buffer.from(JSON.stringify([1, hashOf(question), [...positions]])).toString('base64url');
}

/** Returns the positions of a cursor. Throws a Problem that names the parameter. */
export function decodeCursor(question: string, cursor: string): Map<string, number> {
  const refuse = (message: string) => new Problem('invalid_request', { errors: [{ field: 'cursor', message }] });
  if (cursor.length > CURSOR_CHARS_MAX) throw refuse('is longer than any cursor');
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
  } catch {
    throw refuse('is not one that Sealog gave');
  }
  if (!Array.isArray(value) || value.length !== 3 || value[0] !== 1 || !Array.isArray(value[2]))
    throw refuse('is not one that Sealog gave');
  if (value[1] !== hashOf(question)) throw refuse('belongs to another question: send the same parameters with it');
  const positions = new Map<string, number>();
  for (const pair of value[2] as unknown[]) {
    if (
      !Array.isArray(pair) ||
      typeof pair[0] !== 'string' ||
      !Number.isSafeInteger(pair[1]) ||
      (pair[1] as number) < 0
    ) {
      throw refuse('is not one that Sealog gave');
    }
    positions.set(pair[0], pair[1] as number);
  }
  return positions;
}

function hashOf(question: string): string {
  return toHex(sha256(question)).slice(0, 16);
}
