/**
 * Canonical JSON (RFC 8785, JCS): the one text of a JSON value that is hashed and stored.
 *
 * Members are sorted by the UTF-16 code units of their names, there is no white space, and strings and numbers are
 * written as ECMAScript writes them (RFC 8785 section 3.2.2). What JSON can not say is refused, never dropped or
 * converted: `JSON.stringify` alone would leave out `undefined`, print NaN as `null` and a Date as a string.
 *
 * Pure; runs wherever ECMAScript 2024 does, so that an auditor's browser can use it too.
 */

import { EvidenceError } from '../errors.ts';
import { isSurelyCanonical } from './canonical-scan.ts';

export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject;
export interface JsonObject {
  [name: string]: JsonValue;
}

/**
 * How deep a value may be nested (the root is 1). Evidence is at most 32 deep; this only keeps the recursion below
 * far from the end of the stack, and ends it on a value that contains itself.
 */
const DEPTH_MAX = 1000;

/**
 * Returns the canonical text of a value.
 *
 * Objects must be plain (or without prototype) and are read by their enumerable members with string names.
 *
 * @throws TypeError on anything else than JSON: undefined (also as a hole in an array), NaN and infinities, lone
 *   surrogates, other objects, more than 1000 levels
 */
export function canonicalText(value: JsonValue): string {
  // Two ways to the same text, held together by a property test. Usually a copy whose members stand in canonical
  // order, printed by the engine: on real events 1.6 times the cost of plain JSON.stringify, against 2.7 for `write`.
  const order = { native: true };
  const ordered = inOrder(value, 1, order);
  if (order.native) {
    const text = JSON.stringify(ordered);
    // A lone surrogate is printed as an escape. Other text may look like one (C:\udo), so `write` decides.
    if (!text.includes('\\ud')) return text;
  }
  return write(value, 1);
}

/** Returns the canonical text in UTF-8: the bytes that are hashed. Throws as `canonicalText` does. */
export function canonicalBytes(value: JsonValue): Uint8Array {
  const text = canonicalText(value);
  // In Node, Buffer.from takes 0.2 µs where TextEncoder takes 1.2.
  return typeof Buffer === 'undefined' ? encoder.encode(text) : Buffer.from(text);
}

/**
 * Returns the value of canonical bytes, the reverse of `canonicalBytes`.
 *
 * Stored JSON MUST be read by this function, never by JSON.parse alone (see `parseSafely`). That the canonical text of
 * what was parsed is the text again proves the parse right, and finds all that JSON.parse hides: names that stand
 * twice, numbers that were rounded, escapes and white space of one's own.
 *
 * @throws EvidenceError unless the bytes are UTF-8 and exactly the canonical form of the value they hold
 */
export function decodeCanonical(bytes: Uint8Array): JsonValue {
  try {
    const text = decoder.decode(bytes);
    const value: JsonValue = JSON.parse(text);
    // Without escapes in its names, which is what JSON.parse can read wrongly.
    if (isSurelyCanonical(bytes) || canonicalText(value) === text) return value;
    if (text.includes('\\')) {
      const again = parseSafely(text);
      if (canonicalText(again) === text) return again;
    }
  } catch (error) {
    // The engine's own message would quote the text, which may be a secret part.
    throw new EvidenceError('these bytes are not canonical JSON', {
      cause: error instanceof SyntaxError ? undefined : error,
    });
  }
  throw new EvidenceError('these bytes are JSON, but not in canonical form (RFC 8785)');
}

/** Throws as `decodeCanonical` does; the value is not needed. */
export function checkCanonical(bytes: Uint8Array): void {
  if (!isSurelyCanonical(bytes)) decodeCanonical(bytes);
}

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Returns the value, or a copy of it, such that JSON.stringify prints members in canonical order; clears
 * `order.native` where no object can have that order, since engines put names like "10" before all others, by number.
 */
function inOrder(value: JsonValue, depth: number, order: { native: boolean }): JsonValue {
  if (typeof value !== 'object' || value === null) {
    checkScalar(value);
    return value;
  }
  checkContainer(value, depth);
  if (Array.isArray(value)) {
    let copy: JsonValue[] | undefined;
    // By index, because for…of and map do not see holes alike.
    for (let index = 0; index < value.length; index++) {
      const item = value[index] as JsonValue;
      const next = typeof item === 'string' ? item : inOrder(item, depth + 1, order);
      if (next !== item) {
        copy ??= value.slice();
        copy[index] = next;
      }
    }
    return copy ?? value;
  }

  const names = Object.keys(value);
  let copy: JsonObject | undefined;
  if (!isSorted(names)) {
    sortNames(names);
    if (names.some(isMisplaced)) {
      order.native = false;
      return value;
    }
    copy = {};
  }
  for (const name of names) {
    const member = value[name] as JsonValue;
    const next = typeof member === 'string' ? member : inOrder(member, depth + 1, order);
    if (copy !== undefined) copy[name] = next;
    else if (next !== member) copy = { ...value, [name]: next };
  }
  return copy ?? value;
}

/** `<` and sort() without a comparator compare UTF-16 code units, which is the order of RFC 8785 section 3.2.3. */
function isSorted(names: readonly string[]): boolean {
  for (let index = 1; index < names.length; index++) {
    if ((names[index - 1] as string) > (names[index] as string)) return false;
  }
  return true;
}

/** By insertion where names are few, as in most objects: that takes a sixth off canonicalText. */
function sortNames(names: string[]): void {
  if (names.length > 16) {
    names.sort();
    return;
  }
  for (let index = 1; index < names.length; index++) {
    const name = names[index] as string;
    let place = index;
    for (; place > 0 && (names[place - 1] as string) > name; place--) names[place] = names[place - 1] as string;
    names[place] = name;
  }
}

/** Whether assigning a member of this name may not append it: array indices are moved, `__proto__` is no member. */
function isMisplaced(name: string): boolean {
  const first = name.charCodeAt(0);
  return (first >= 0x30 && first <= 0x39) || name === '__proto__';
}

/** The canonical text written member by member: right for every value, slower than the engine. */
function write(value: JsonValue, depth: number): string {
  if (typeof value === 'string') return quote(value);
  if (typeof value !== 'object' || value === null) {
    checkScalar(value);
    return JSON.stringify(value);
  }
  checkContainer(value, depth);
  let text = '';
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      text += (index === 0 ? '' : ',') + write(value[index] as JsonValue, depth + 1);
    }
    return `[${text}]`;
  }
  for (const name of Object.keys(value).sort()) {
    text += `${text === '' ? '' : ','}${quote(name)}:${write(value[name] as JsonValue, depth + 1)}`;
  }
  return `{${text}}`;
}

/** RFC 8785 section 3.2.2.2: escapes are JSON.stringify's; a lone surrogate must end in an error, not in an escape. */
function quote(text: string): string {
  if (!text.isWellFormed()) throw new TypeError('a string with a lone surrogate has no canonical form');
  return JSON.stringify(text);
}

/** Refuses what is neither JSON nor an object. Numbers: RFC 8785 section 3.2.2.3; its -0 is printed as 0 by JSON.stringify. */
function checkScalar(value: unknown): void {
  if (typeof value === 'string' || typeof value === 'boolean' || value === null) return;
  if (typeof value === 'number' && Number.isFinite(value)) return;
  throw new TypeError(
    typeof value === 'number' ? `${value} has no canonical form` : `a value of type ${typeof value} is not JSON`,
  );
}

function checkContainer(value: object, depth: number): void {
  if (depth > DEPTH_MAX) throw new TypeError(`the value is nested deeper than ${DEPTH_MAX} levels, or contains itself`);
  if (Array.isArray(value)) return;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    throw new TypeError('only plain objects have a canonical form, not instances of a class');
  }
}

/**
 * Parses JSON around a fault of V8 (nodejs/node#63785; seen in Node 24.21, not in 20): once any object had a member
 * named `\`, JSON.parse may read the name `"` as `\`, and likewise other names with escapes. Anyone can send both, and
 * sound evidence would be called tampered. Names are therefore parsed as items of arrays: {"a":1} as {"_":["a",1]}.
 *
 * The text must be JSON. What it holds is right only if its canonical text is `text`: {"a","b"} would pass here too.
 */
export function parseSafely(text: string): JsonValue {
  const asArrays = text.replace(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}:]/g, (token) => {
    if (token === '{') return '{"_":[';
    if (token === '}') return ']}';
    return token === ':' ? ',' : token;
  });
  return fromArrays(JSON.parse(asArrays) as JsonValue, 1);
}

function fromArrays(value: JsonValue, depth: number): JsonValue {
  if (typeof value !== 'object' || value === null) return value;
  checkContainer(value, depth);
  if (Array.isArray(value)) return value.map((item) => fromArrays(item, depth + 1));
  const items = value._ as JsonValue[];
  const members: [string, JsonValue][] = [];
  for (let index = 0; index < items.length; index += 2) {
    members.push([items[index] as string, fromArrays(items[index + 1] as JsonValue, depth + 1)]);
  }
  return Object.fromEntries(members);
}
