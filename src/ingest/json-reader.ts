/**
 * The strict JSON reader: bytes in, their canonical form out (RFC 8785), or a refusal that names the place.
 *
 * It takes RFC 8259 and refuses besides what would come back as something else, or not at all: bytes that are not
 * UTF-8, a byte order mark, two members of one name, numbers that a double does not hold exactly as written, integers
 * beyond ±(2^53−1), minus zero, lone surrogates, U+0000 (PostgreSQL's text can not hold it), a member named
 * `__proto__`, and nesting deeper than 32.
 *
 * One pass from left to right validates and canonicalises, in time linear in the input whatever it holds (but for the sorting of names); the
 * first thing wrong is what is reported. What stands in canonical form already is only checked: its bytes are those of the input. Values are
 * made of the canonical form, and only of what somebody looks into.
 *
 * Within this file a text is a string with one character a byte of UTF-8. No character of JSON's grammar is part of another's bytes, so the
 * grammar can be read without decoding, positions are byte offsets, and one letter beyond Latin-1 does not make the text of a whole batch,
 * and all that is cut from it, twice as wide.
 */

import assert from 'node:assert/strict';
import { isAscii, isUtf8 } from 'node:buffer';
import { type JsonObject, type JsonValue, parseSafely } from '../chain/canonical.ts';
import { Problem } from '../errors.ts';

export interface ReadOptions {
  /** How deep a value may be nested, the root (or an array's item) being 1. Default 32: real events reach 12. */
  readonly depthMax?: number;
}

export interface ReadArrayOptions extends ReadOptions {
  readonly itemsMax: number;
}

export interface SplitOptions {
  /** How many lines that are not blank there may be. Default 10,000, the most events of a batch. */
  readonly linesMax?: number;
}

const DEPTH_MAX = 32;
const LINES_MAX = 10_000;

const TAB = 0x09;
const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const SPACE = 0x20;
const QUOTE = 0x22;
const PLUS = 0x2b;
const COMMA = 0x2c;
const MINUS = 0x2d;
const DOT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;
const COLON = 0x3a;
const CAPITAL_E = 0x45;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const SMALL_E = 0x65;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

/** By first character. */
const LITERALS = new Map<number, string>([
  [0x66, 'false'],
  [0x6e, 'null'],
  [0x74, 'true'],
]);

/** Behind every text: a small integer, which engines compare faster than Infinity. */
const NOWHERE = 2 ** 30 - 1;

/** By what stands behind the backslash: 1 = stands for a character that has no other canonical form. */
const SHORT_ESCAPES = new Uint8Array(256);
for (const character of '"\\bfnrt') SHORT_ESCAPES[character.charCodeAt(0)] = 1;

/** `lastIndex` says where a search starts, and is set before each. */
const CONTROL = /[\x00-\x1f]/g;

const MINUS_ZERO = 'minus zero would come back as 0';

/**
 * Reads one JSON text.
 *
 * Objects come back plain, with members in canonical order (but for names that look like array indices).
 *
 * @throws Problem 400 `invalid_json` with one error: field, message, and position as a byte offset in `bytes`
 */
export function readJson(bytes: Uint8Array, options: ReadOptions = {}): JsonValue {
  return readItem(bytes, options).value;
}

/** Reads one JSON text as an item of a batch is read. Throws as `readJson` does. */
export function readItem(bytes: Uint8Array, { depthMax = DEPTH_MAX }: ReadOptions = {}): ReadItem {
  const read = (reader: Reader): ReadItem => {
    const item = reader.readItem();
    reader.expectEnd();
    return item;
  };
  return read(readerOf(bytes, depthMax, read));
}

/**
 * Reads one JSON array, item by item as they are asked for; fields of refusals start with the item's index, as in `[3].actor.id`. What is made
 * of an item before the next is read need not stay for all of a batch.
 *
 * @throws Problem 400 `invalid_json`, for the whole array, when any of it is refused; 400 `invalid_batch` when the text
 *   is no array or has more items than `itemsMax`; either may come behind items
 */
export function readJsonArray(
  bytes: Uint8Array,
  { itemsMax, depthMax = DEPTH_MAX }: ReadArrayOptions,
): Iterable<ReadItem> {
  return readerOf(bytes, depthMax, (reader) => [...reader.readItems(itemsMax)]).readItems(itemsMax);
}

/**
 * Splits NDJSON into its lines, which share memory with the input. Lines end in LF or CRLF, the last one need not;
 * blank lines are skipped. A line's encoding and content are not looked at (in UTF-8, 0x0A is always a line feed).
 *
 * @throws Problem 400 `invalid_batch` when there are more lines than `linesMax`
 */
export function splitLines(bytes: Uint8Array, { linesMax = LINES_MAX }: SplitOptions = {}): Uint8Array[] {
  const lines: Uint8Array[] = [];
  let start = 0;
  let at = 0;
  while (at < bytes.length) {
    // Byte by byte as long as the line is blank: a body of nothing but line feeds must cost next to nothing.
    const byte = bytes[at] as number;
    if (isSpace(byte)) {
      at++;
      if (byte === LINE_FEED) start = at;
      continue;
    }
    if (lines.length === linesMax) throw batchProblem(`there are more than ${linesMax} lines`, start);
    let end = bytes.indexOf(LINE_FEED, at);
    if (end === -1) end = bytes.length;
    lines.push(bytes.subarray(start, bytes[end - 1] === CARRIAGE_RETURN ? end - 1 : end));
    start = at = end + 1;
  }
  return lines;
}

/**
 * Writes a path into an event as errors name it: `changes.after.items[3].name`; names that are not plain words are
 * quoted and cut at 64 characters (`details["a b"]`), so that an error stays short whatever was sent.
 */
export function fieldPath(steps: readonly (string | number)[]): string {
  let path = '';
  for (const step of steps) {
    if (typeof step === 'number') path += `[${step}]`;
    else if (/^[\w$-]{1,64}$/.test(step)) path += path === '' ? step : `.${step}`;
    else path += `[${JSON.stringify(step.length > 64 ? `${step.slice(0, 64)}…` : step)}]`;
  }
  return path;
}

/** What an item was read from, and what is known of all of it. */
interface Origin {
  readonly bytes: Buffer;
  /** One character a byte. */
  readonly text: string;
  /** Whether the item, and what of it is rewritten, is ASCII. */
  isAscii: boolean;
  /** Whether some member's name has an escape: JSON.parse may read such wrongly (see `parseSafely`). */
  hasEscapedNames: boolean;
}

/** A value that was read. */
export class ReadValue {
  readonly #origin: Origin;
  readonly #place: Pick<Member, 'valueAt' | 'end' | 'value' | 'members'>;

  constructor(origin: Origin, place: Pick<Member, 'valueAt' | 'end' | 'value' | 'members'>) {
    this.#origin = origin;
    this.#place = place;
  }

  get isString(): boolean {
    return this.#origin.text.charCodeAt(this.#place.valueAt) === QUOTE;
  }

  get isObject(): boolean {
    return this.#origin.text.charCodeAt(this.#place.valueAt) === OPEN_BRACE;
  }

  /** Canonical JSON in UTF-8, in memory that may be the input's. */
  get bytes(): Uint8Array {
    const { valueAt, end, value } = this.#place;
    return value === undefined ? this.#origin.bytes.subarray(valueAt, end) : Buffer.from(value, 'latin1');
  }

  /** Canonical JSON. */
  get text(): string {
    const { valueAt, end, value } = this.#place;
    return decode(value ?? this.#origin.text.slice(valueAt, end), this.#origin.isAscii);
  }

  get value(): JsonValue {
    return this.valueWithout([]);
  }

  /** The value; members of these names are null, so that nothing is made of them. */
  valueWithout(names: readonly string[]): JsonValue {
    const { members } = this.#place;
    if (members === undefined) return parse(this.text, this.#origin.hasEscapedNames);
    const object: JsonObject = {};
    for (const member of members)
      object[member.name] = names.includes(member.name) ? null : new ReadValue(this.#origin, member).value;
    return object;
  }
}

/** A JSON text, or an item of a batch: an object as its members, so that each can be taken as what it is needed as. */
export class ReadItem {
  /** Undefined where it is something else than an object. */
  readonly members: ReadonlyMap<string, ReadValue> | undefined;
  /** Length of its own text, as it was sent. */
  readonly bytes: number;
  readonly #whole: ReadValue | undefined;

  constructor(content: ReadonlyMap<string, ReadValue> | ReadValue, bytes: number) {
    if (content instanceof ReadValue) this.#whole = content;
    else this.members = content;
    this.bytes = bytes;
  }

  get value(): JsonValue {
    if (this.#whole !== undefined) return this.#whole.value;
    const object: JsonObject = {};
    for (const [name, member] of this.members!) object[name] = member.value;
    return object;
  }
}

function parse(text: string, hasEscapedNames: boolean): JsonValue {
  if (text.startsWith('"') && !text.includes('\\')) return text.slice(1, -1);
  return hasEscapedNames ? parseSafely(text) : JSON.parse(text);
}

/** From one character a byte. */
function decode(text: string, isAscii: boolean): string {
  return isAscii ? text : Buffer.from(text, 'latin1').toString();
}

/** Returns a reader of UTF-8. Throws where it is none: what `read` finds wrong before the first byte that is not is reported first. */
function readerOf(bytes: Uint8Array, depthMax: number, read: (reader: Reader) => unknown): Reader {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (buffer[0] === 0xef && buffer[1] === 0xbb && buffer[2] === 0xbf) {
    throw jsonProblem('', 'the text starts with a byte order mark', 0);
  }
  if (isUtf8(buffer)) return new Reader(buffer, depthMax);

  const validBytes = validUtf8Bytes(buffer);
  let field = '';
  try {
    read(new Reader(buffer.subarray(0, validBytes), depthMax));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    const [error] = problem.errors;
    assert(error?.position !== undefined);
    if (error.position < validBytes) throw problem;
    field = error.field;
  }
  throw jsonProblem(field, 'a byte sequence that is not UTF-8', validBytes);
}

/** The number of bytes before the first ill-formed sequence, in bytes that have one. */
function validUtf8Bytes(bytes: Buffer): number {
  // A lenient decoder puts U+FFFD there; what it changed shows in the bytes.
  const lenient = Buffer.from(bytes.toString('utf8'));
  let at = 0;
  while (bytes[at] === lenient[at]) at++;
  // Both may start alike (U+FFFD is EF BF BD): go back to where the character starts.
  while (((lenient[at] ?? 0) & 0xc0) === 0x80) at--;
  return at;
}

/** A member of an object that is being read, in the text from `at` to `end`. */
interface Member {
  readonly name: string;
  readonly at: number;
  readonly valueAt: number;
  readonly end: number;
  /** The value in canonical form, where it is not written in it. */
  readonly value: string | undefined;
  /** The whole member in canonical form, likewise. */
  readonly rewritten: string | undefined;
  /** Of the value, where it is an object right within the item. */
  readonly members: readonly Member[] | undefined;
}

/** From this many members on, names are looked for in a set. */
const MANY_MEMBERS = 16;

/**
 * A text and a place in it. Each method that reads a value returns its canonical form, or undefined where it is written in that. Past the
 * end, charCodeAt gives NaN, which equals no character. Recursion is as deep as `depthMax`.
 */
class Reader {
  readonly #bytes: Buffer;
  readonly #text: string;
  readonly #depthMax: number;
  #position = 0;
  /** White space that was passed over so far: what has some inside is not in canonical form. */
  #spaces = 0;

  /** Of the present item. */
  #origin: Origin;
  /** The first byte at or after the last string's start that is not ASCII; `NOWHERE` without one. */
  #nonAsciiAt = -1;
  /** The first backslash and the first control character likewise. */
  #backslashAt = -1;
  #controlAt = -1;

  /** Where the reader is: for each object that is open the name of its present member, for each array the index. Only the first `#depth` are valid. */
  readonly #path: (string | number)[] = [];
  #depth = 0;
  /** Of the object that was read last, and whether they stand in canonical order. */
  #members: readonly Member[] = [];
  #isSorted = true;
  /** Index of the present item of a batch. */
  #item: number | undefined;

  constructor(bytes: Buffer, depthMax: number) {
    this.#bytes = bytes;
    this.#text = bytes.toString('latin1');
    this.#depthMax = depthMax;
    this.#origin = this.#newOrigin();
  }

  /** Reads the value that starts here. */
  readItem(): ReadItem {
    const isObject = this.#skipSpace() === OPEN_BRACE;
    const start = this.#position;
    const origin = this.#newOrigin();
    this.#origin = origin;
    if (!isObject) {
      const value = this.#readValue();
      const whole = { valueAt: start, end: this.#position, value, members: undefined };
      return new ReadItem(new ReadValue(origin, whole), this.#position - start);
    }
    const members = new Map<string, ReadValue>();
    for (const member of this.#readMembers()) members.set(member.name, new ReadValue(origin, member));
    return new ReadItem(members, this.#position - start);
  }

  #newOrigin(): Origin {
    return { bytes: this.#bytes, text: this.#text, isAscii: true, hasEscapedNames: false };
  }

  /** Reads an array that starts here as a batch: each item is a value of its own. */
  *readItems(itemsMax: number): Generator<ReadItem, void> {
    if (this.#skipSpace() !== OPEN_BRACKET) {
      const position = this.#position;
      // When it is not JSON at all, that is the better answer.
      this.#readValue();
      this.expectEnd();
      throw batchProblem('a batch is an array', position);
    }
    this.#position++;
    let next = this.#skipSpace();
    for (let index = 0; next !== CLOSE_BRACKET || index > 0; index++) {
      this.#skipSpace();
      if (index === itemsMax) throw batchProblem(`there are more than ${itemsMax} items`, this.#position);
      this.#item = index;
      yield this.readItem();
      this.#item = undefined;
      next = this.#skipSpace();
      if (next === CLOSE_BRACKET) break;
      if (next !== COMMA) this.#refuseSyntax('a comma or the end of the array', 0);
      this.#position++;
    }
    this.#position++;
    this.expectEnd();
  }

  expectEnd(): void {
    this.#skipSpace();
    if (this.#position < this.#text.length) this.#refuseSyntax('the end of the text', 0);
  }

  #readValue(): string | undefined {
    const code = this.#skipSpace();
    if (code === QUOTE) return this.#readString(this.#depth);
    if (code === OPEN_BRACE) return this.#readObject();
    if (code === OPEN_BRACKET) return this.#readArray();
    if (code === MINUS || isDigit(code)) return this.#readNumber();
    this.#readLiteral(code);
    return undefined;
  }

  #readObject(): string | undefined {
    const spaces = this.#spaces;
    const members = this.#readMembers();
    const isSorted = this.#isSorted;
    if (isSorted && spaces === this.#spaces && members.every(({ rewritten }) => rewritten === undefined))
      return undefined;
    if (!isSorted) sortByName(members);
    let text = '';
    for (const { at, end, rewritten } of members) {
      text += (text === '' ? '{' : ',') + (rewritten ?? this.#text.slice(at, end));
    }
    return text === '' ? '{}' : `${text}}`;
  }

  /** Reads an object, in the order of the text. */
  #readMembers(): Member[] {
    this.#open();
    const level = this.#depth - 1;
    const members: Member[] = [];
    /** All names, where they are many and not in order. */
    let names: Set<string> | undefined;
    let greatest = '';
    let isSorted = true;
    let code = this.#skipSpace();
    while (code !== CLOSE_BRACE || members.length > 0) {
      if (code !== QUOTE) this.#refuseSyntax('a member name in double quotes', level);
      const at = this.#position;
      const literal = this.#readString(level);
      const name = this.#nameIn(at, literal);
      this.#path[level] = name;
      // JavaScript code that copies objects carelessly takes this name for their prototype.
      if (name === '__proto__') this.#refuse('a member of this name is not taken', at, this.#depth);
      if (name > greatest || members.length === 0) {
        greatest = name;
      } else {
        isSorted = false;
        if (members.length >= MANY_MEMBERS) names ??= new Set(members.map((member) => member.name));
        const isTaken = names === undefined ? members.some((member) => member.name === name) : names.has(name);
        if (isTaken) this.#refuse('the object has a member of this name already', at, this.#depth);
      }
      names?.add(name);
      const nameEnd = this.#position;
      if (this.#skipSpace() !== COLON) this.#refuseSyntax('a colon', this.#depth);
      this.#position++;
      this.#skipSpace();
      const valueAt = this.#position;
      const value = this.#readValue();
      const end = this.#position;
      const isWritten = literal === undefined && value === undefined && valueAt === nameEnd + 1;
      const rewritten = isWritten
        ? undefined
        : `${literal ?? this.#text.slice(at, nameEnd)}:${value ?? this.#text.slice(valueAt, end)}`;
      const within = level === 0 && this.#text.charCodeAt(valueAt) === OPEN_BRACE ? this.#members : undefined;
      members.push({ name, at, valueAt, end, value, rewritten, members: within });

      code = this.#skipSpace();
      if (code === CLOSE_BRACE) break;
      if (code !== COMMA) this.#refuseSyntax('a comma or the end of the object', level);
      this.#position++;
      code = this.#skipSpace();
    }
    this.#close();
    this.#members = members;
    this.#isSorted = isSorted;
    return members;
  }

  /** The name that a literal, which ends here, stands for. */
  #nameIn(at: number, literal: string | undefined): string {
    const { isAscii } = this.#origin;
    const name = decode(literal?.slice(1, -1) ?? this.#text.slice(at + 1, this.#position - 1), isAscii);
    if (!name.includes('\\')) return name;
    this.#origin.hasEscapedNames = true;
    return JSON.parse(`"${name}"`) as string;
  }

  #readArray(): string | undefined {
    const start = this.#position;
    const spaces = this.#spaces;
    this.#open();
    const level = this.#depth - 1;
    /** Up to the last item, from the first on that is not written in canonical form. */
    let text: string | undefined;
    let end = this.#position;
    let code = this.#skipSpace();
    for (let index = 0; code !== CLOSE_BRACKET || index > 0; index++) {
      this.#path[level] = index;
      const at = this.#position;
      const value = this.#readValue();
      if (text === undefined && (value !== undefined || spaces !== this.#spaces)) text = this.#text.slice(start, end);
      if (text !== undefined) text += `${index === 0 ? '' : ','}${value ?? this.#text.slice(at, this.#position)}`;
      end = this.#position;
      code = this.#skipSpace();
      if (code === CLOSE_BRACKET) break;
      if (code !== COMMA) this.#refuseSyntax('a comma or the end of the array', level);
      this.#position++;
      code = this.#skipSpace();
    }
    this.#close();
    if (text === undefined && spaces !== this.#spaces) text = this.#text.slice(start, end);
    return text === undefined ? undefined : `${text}]`;
  }

  /** Goes to the next character that is no white space, and returns its code. */
  #skipSpace(): number {
    let code = this.#text.charCodeAt(this.#position);
    while (isSpace(code)) {
      this.#spaces++;
      code = this.#text.charCodeAt(++this.#position);
    }
    return code;
  }

  #open(): void {
    const max = this.#depthMax;
    if (this.#depth >= max) this.#refuse(`nested deeper than ${max} levels`, this.#position, this.#depth);
    this.#path[this.#depth++] = 0;
    this.#position++;
  }

  #close(): void {
    this.#depth--;
    this.#position++;
  }

  /** Reads a string; `depth` is how much of the path names it in a refusal, since a name does not name itself. */
  #readString(depth: number): string | undefined {
    const text = this.#text;
    const start = this.#position + 1;
    if (this.#backslashAt < start) this.#backslashAt = indexOrNowhere(text.indexOf('\\', start));
    if (this.#controlAt < start) this.#controlAt = controlIndex(text, start);
    let end = indexOrNowhere(text.indexOf('"', start));
    while (this.#backslashAt < end) {
      // Escapes of two characters have no other form, but for `\/`.
      if (SHORT_ESCAPES[text.charCodeAt(this.#backslashAt + 1)] !== 1) return this.#rewriteString(start, depth);
      const next = this.#backslashAt + 2;
      if (end < next) end = indexOrNowhere(text.indexOf('"', next));
      this.#backslashAt = indexOrNowhere(text.indexOf('\\', next));
    }
    if (this.#controlAt < end || end === NOWHERE) this.#refuseString(start, depth);
    this.#endString(end);
    return undefined;
  }

  #endString(end: number): void {
    if (this.#nonAsciiAt < this.#position) this.#nonAsciiAt = nonAsciiIndex(this.#bytes, this.#position);
    if (this.#nonAsciiAt < end) this.#origin.isAscii = false;
    this.#position = end + 1;
  }

  #rewriteString(start: number, depth: number): string {
    const text = this.#text;
    let end = text.indexOf('"', start);
    while (end !== -1 && isEscaped(text, end)) end = text.indexOf('"', end + 1);
    if (end === -1) this.#refuseString(start, depth);
    // The engine's parser is the fastest to undo escapes. It refuses wrong ones and control characters, but takes
    // two things that we do not.
    const value = parseString(decode(text.slice(start - 1, end + 1), false));
    if (value === undefined || value.includes('\0') || !value.isWellFormed()) this.#refuseString(start, depth);
    this.#endString(end);
    const literal = Buffer.from(JSON.stringify(value));
    if (!isAscii(literal)) this.#origin.isAscii = false;
    return literal.toString('latin1');
  }

  /** Finds what is wrong with the string whose content begins at `start`, character by character. */
  #refuseString(start: number, depth: number): never {
    const text = this.#text;
    let at = start;
    for (;;) {
      const code = text.charCodeAt(at);
      if (code === QUOTE) assert.fail('a string was refused that has nothing wrong');
      if (at >= text.length) this.#refuse('the text ends within a string', at, depth);
      if (code < 0x20) this.#refuse('a control character in a string must be escaped', at, depth);
      if (code !== BACKSLASH) {
        at++;
      } else if (text[at + 1] !== 'u') {
        if (at + 1 >= text.length) this.#refuse('the text ends within a string', at + 1, depth);
        if (!'"\\/bfnrt'.includes(text.charAt(at + 1))) this.#refuse('there is no such escape', at + 1, depth);
        at += 2;
      } else {
        at = this.#checkUnicodeEscape(at, depth);
      }
    }
  }

  /** Returns where the \u escape, or pair of them, that starts at `at` ends; refuses what stands for no character. */
  #checkUnicodeEscape(at: number, depth: number): number {
    const unit = this.#readHex(at + 2, depth);
    if (unit === 0) this.#refuse('U+0000 can not be stored', at, depth);
    if (unit < 0xd800 || unit > 0xdfff) return at + 6;
    if (unit <= 0xdbff && this.#text.startsWith('\\u', at + 6)) {
      const low = this.#readHex(at + 8, depth);
      if (low >= 0xdc00 && low <= 0xdfff) return at + 12;
    }
    return this.#refuse('a surrogate without its other half is no character', at, depth);
  }

  #readHex(start: number, depth: number): number {
    for (let at = start; at < start + 4; at++) {
      if (at >= this.#text.length) this.#refuse('the text ends within a string', at, depth);
      if (!/[0-9a-fA-F]/.test(this.#text.charAt(at))) this.#refuse('four hexadecimal digits are expected', at, depth);
    }
    return Number.parseInt(this.#text.slice(start, start + 4), 16);
  }

  #readNumber(): string | undefined {
    const text = this.#text;
    const start = this.#position;
    let at = start;
    let code = text.charCodeAt(at);
    const isNegative = code === MINUS;
    if (isNegative) code = text.charCodeAt(++at);

    const digitsAt = at;
    let integer = 0;
    while (isDigit(code)) {
      integer = integer * 10 + (code - ZERO);
      code = text.charCodeAt(++at);
    }
    if (at === digitsAt) this.#refuseSyntax('a digit', this.#depth, at);
    if (at > digitsAt + 1 && text.charCodeAt(digitsAt) === ZERO) {
      this.#refuse('a number does not start with a zero', digitsAt, this.#depth);
    }
    // What most numbers are: up to 15 digits fit a double, whatever they are.
    const isInteger = code !== DOT && code !== SMALL_E && code !== CAPITAL_E;
    if (isInteger && at - digitsAt <= 15 && !(isNegative && integer === 0)) {
      this.#position = at;
      return undefined;
    }

    if (code === DOT) at = this.#skipDigits(at + 1);
    code = text.charCodeAt(at);
    if (code === SMALL_E || code === CAPITAL_E) {
      const sign = text.charCodeAt(at + 1);
      at = this.#skipDigits(sign === PLUS || sign === MINUS ? at + 2 : at + 1);
    }
    const source = text.slice(start, at);
    const value = Number(source);
    const message = isInteger ? integerMessage(value) : decimalMessage(source, value);
    if (message !== undefined) this.#refuse(message, start, this.#depth);
    this.#position = at;
    const canonical = String(value);
    return canonical === source ? undefined : canonical;
  }

  #skipDigits(start: number): number {
    let at = start;
    while (isDigit(this.#text.charCodeAt(at))) at++;
    if (at === start) this.#refuseSyntax('a digit', this.#depth, at);
    return at;
  }

  #readLiteral(code: number): void {
    const literal = LITERALS.get(code) ?? this.#refuseSyntax('a value', this.#depth);
    if (!this.#text.startsWith(literal, this.#position)) {
      let at = this.#position;
      while (this.#text[at] === literal[at - this.#position]) at++;
      this.#refuseSyntax(`the literal ${literal}`, this.#depth, at);
    }
    this.#position += literal.length;
  }

  #refuseSyntax(expected: string, depth: number, position = this.#position): never {
    const end = position >= this.#text.length ? ', but the text ends' : '';
    return this.#refuse(`${expected} is expected here${end}`, position, depth);
  }

  /** Refuses for what stands at `position`, in the value that the outermost `depth` open containers lead to. */
  #refuse(message: string, position: number, depth: number): never {
    const steps = this.#path.slice(0, depth);
    throw jsonProblem(fieldPath(this.#item === undefined ? steps : [this.#item, ...steps]), message, position);
  }
}

/** By the UTF-16 code units of names (RFC 8785 section 3.2.3), as `<` compares; by insertion where they are few, as in most objects. */
function sortByName(members: Member[]): void {
  if (members.length > MANY_MEMBERS) {
    members.sort((a, b) => (a.name < b.name ? -1 : 1));
    return;
  }
  for (let index = 1; index < members.length; index++) {
    const member = members[index] as Member;
    let place = index;
    for (; place > 0 && (members[place - 1] as Member).name > member.name; place--)
      members[place] = members[place - 1] as Member;
    members[place] = member;
  }
}

function jsonProblem(field: string, message: string, position: number): Problem {
  return new Problem('invalid_json', { errors: [{ field, message, position }] });
}

function batchProblem(message: string, position: number): Problem {
  return new Problem('invalid_batch', { errors: [{ field: '', message, position }] });
}

function integerMessage(value: number): string | undefined {
  if (Object.is(value, -0)) return MINUS_ZERO;
  return Number.isSafeInteger(value)
    ? undefined
    : 'an integer beyond ±(2^53−1) does not survive a double: send a string';
}

/** DESIGN section 3: a number is taken when its canonical text, which is what readers get, has its decimal value. */
function decimalMessage(source: string, value: number): string | undefined {
  const canonical = String(value);
  if (canonical === source) return undefined;
  if (!Number.isFinite(value)) return 'a number beyond what a double can hold: send a string';
  const sent = decimalOf(source);
  if (sent.digits === '') return source.startsWith('-') ? MINUS_ZERO : undefined;
  const kept = decimalOf(canonical);
  if (sent.digits === kept.digits && sent.point === kept.point) return undefined;
  return `a double can not hold this number exactly as written: send a string`;
}

/**
 * The decimal value of a number's text, without its sign: 0.digits × 10^point, digits without zeros at either end
 * (none for zero). Nothing is computed that grows with the exponent; one that is no safe integer belongs to a number
 * that became zero or infinite as a double, and can not equal any other.
 */
function decimalOf(source: string): { digits: string; point: number } {
  const [mantissa = '', exponent = '0'] = source.slice(source.startsWith('-') ? 1 : 0).split(/[eE]/);
  const [whole = '', fraction = ''] = mantissa.split('.');
  const digits = whole + fraction;
  let start = 0;
  while (digits.charCodeAt(start) === ZERO) start++;
  let end = digits.length;
  while (end > start && digits.charCodeAt(end - 1) === ZERO) end--;
  return { digits: digits.slice(start, end), point: whole.length - start + Number(exponent) };
}

/** Whether an odd number of backslashes stands before `index`. Each is looked at for one quote only. */
function isEscaped(text: string, index: number): boolean {
  let at = index - 1;
  while (text.charCodeAt(at) === BACKSLASH) at--;
  return (index - at) % 2 === 0;
}

function parseString(literal: string): string | undefined {
  try {
    return JSON.parse(literal) as string;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function indexOrNowhere(index: number): number {
  return index === -1 ? NOWHERE : index;
}

/** Looks at 1 KiB at a time, in the engine's own way: nearly all is ASCII. */
function nonAsciiIndex(bytes: Buffer, start: number): number {
  for (let at = start; at < bytes.length; at += 1024) {
    const chunk = bytes.subarray(at, at + 1024);
    if (!isAscii(chunk)) return at + chunk.findIndex((byte) => byte >= 0x80);
  }
  return NOWHERE;
}

function controlIndex(text: string, start: number): number {
  CONTROL.lastIndex = start;
  return CONTROL.test(text) ? CONTROL.lastIndex - 1 : NOWHERE;
}

function isDigit(code: number): boolean {
  return code >= ZERO && code <= NINE;
}

function isSpace(code: number): boolean {
  return code === SPACE || code === LINE_FEED || code === CARRIAGE_RETURN || code === TAB;
}
