/**
 * Cursors: opaque to clients, they hold for each stream the seq to go on from, and a hash of the question, so that a cursor is not
 * continued with another. They carry no authority: streams that are not the caller's are not looked at, whatever a cursor says.
 */

import assert from 'node:assert/strict';
import { toHex } from '../chain/bytes.ts';
import { sha256 } from '../chain/sha256.ts';
import { Problem } from '../errors.ts';

/** As openapi.yaml has it: room for a hundred streams, which is fourteen epochs of every category. */
const CURSOR_CHARS_MAX = 2048;
const VERSION = 1;

/** Where a search goes on, by a short name for each stream. */
export type Positions = ReadonlyMap<string, number>;

/** Returns the cursor that continues a question. `question` says everything that decides which entries are found, and whose. */
export function encodeCursor(question: string, positions: Positions): string {
  const cursor = Buffer.from(JSON.stringify([VERSION, hashOf(question), [...positions]])).toString('base64url');
  assert(cursor.length <= CURSOR_CHARS_MAX, 'a cursor that we would refuse');
  return cursor;
}

/** Returns the positions of a cursor. Throws a Problem that names the parameter. */
export function decodeCursor(question: string, cursor: string): Positions {
  const positions = readCursor(cursor);
  if (positions === undefined) throw refusal('is not one that Sealog gave');
  if (positions.question !== hashOf(question))
    throw refusal('belongs to another question: send the same parameters with it');
  return positions.positions;
}

function readCursor(cursor: string): { question: unknown; positions: Positions } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
  } catch {
    return undefined;
  }
  if (!Array.isArray(value) || value.length !== 3) return undefined;
  const [version, question, pairs] = value as unknown[];
  if (version !== VERSION || !Array.isArray(pairs)) return undefined;
  const positions = new Map<string, number>();
  for (const pair of pairs as unknown[]) {
    if (!Array.isArray(pair) || pair.length !== 2) return undefined;
    const [stream, seq] = pair as unknown[];
    if (typeof stream !== 'string' || typeof seq !== 'number' || !Number.isSafeInteger(seq) || seq < 0)
      return undefined;
    positions.set(stream, seq);
  }
  return { question, positions };
}

function refusal(message: string): Problem {
  return new Problem('invalid_request', { errors: [{ field: 'cursor', message }] });
}

function hashOf(question: string): string {
  return toHex(sha256(question)).slice(0, 16);
}
