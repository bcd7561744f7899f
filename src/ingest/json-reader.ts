/**
 * The strict JSON reader: bytes in, a value that can be given back unchanged out, or a refusal that names the place.
 *
 * It takes RFC 8259 and refuses besides what would come back as something else, or not at all: bytes that are not
 * UTF-8, a byte order mark, two members of one name, numbers that a double does not hold exactly as written, integers
 * beyond ±(2^53−1), minus zero, lone surrogates, U+0000 (PostgreSQL's text can not hold it), a member named
 * `__proto__`, and nesting deeper than 32.
 *
 * One pass from left to right without recursion, in time linear in the input whatever it holds; the first thing wrong
 * is what is reported. On real events it takes 1.7 times as long as JSON.parse, which would hide all of the above.
 */

import assert from 'node:assert/strict';
import { isAscii, isUtf8 } from 'node:buffer';
import type { JsonObject, JsonValue } from '../chain/canonical.ts';
import { Problem } from '../errors.ts';

export interface ReadOptions {
  /** How deep a value may be nested, the root (or an array's item) being 1. Default 32: real events reach 12. */
  readonly depthMax?: number;
}

export interface ReadArrayOptions extends ReadOptions {
  readonly itemsMax: number;
}

export interface ReadItem {
  readonly value: JsonValue;
  /** Length of the item's own text. */
  readonly bytes: number;
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
const LITERALS = new Map<number, readonly [literal: string, value: boolean | null]>([
  [0x66, ['false', false]],
  [0x6e, ['null', null]],
  [0x74, ['true', true]],
]);

/** `lastIndex` says where a search starts, and is set before each. */
const CONTROL = /[\x00-\x1f]/g;

const MINUS_ZERO = 'minus zero would come back as 0';

/**
 * Reads one JSON text.
 *
 * Objects come back plain, with members in the order of the text (but for names that look like array indices).
 *
 * @throws Problem 400 `invalid_json` with one error: field, message, and position as a byte offset in `bytes`
 */
export function readJson(bytes: Uint8Array, { depthMax = DEPTH_MAX }: ReadOptions = {}): JsonValue {
  return readText(bytes, (reader) => {
    const value = reader.readValue(depthMax);
    reader.expectEnd();
    return value;
  });
}

/**
 * Reads one JSON array, item by item; fields of refusals start with the item's index, as in `[3].actor.id`.
 *
 * @throws Problem 400 `invalid_json`, for the whole array, when any of it is refused; 400 `invalid_batch` when the text
 *   is no array or has more items than `itemsMax`
 */
export function readJsonArray(
  bytes: Uint8Array,
  { itemsMax, depthMax = DEPTH_MAX }: ReadArrayOptions,
): readonly ReadItem[] {
  return (
    readItemsApart(bytes, itemsMax, depthMax) ??
    readText(bytes, (reader) => {
      const items = reader.readItems(itemsMax, depthMax);
      reader.expectEnd();
      return items;
    })
  );
}

/**
 * Reads the items of a batch that is not all ASCII each from its own bytes, or returns undefined where any of it is to be refused: the
 * whole is then read at once, which knows the words for it. One letter beyond Latin-1 would make the text of the whole batch, and every
 * string that is cut from it, twice as wide and half as fast.
 */
function readItemsApart(bytes: Uint8Array, itemsMax: number, depthMax: number): ReadItem[] | undefined {
  if (isAscii(bytes)) return undefined;
  const spans = itemSpans(bytes);
  if (spans === undefined || spans.length > itemsMax) return undefined;
  try {
    return spans.map((span) =>
      readText(span, (reader) => {
        const item = reader.readItem(depthMax);
        reader.expectEnd();
        return item;
      }),
    );
  } catch (error) {
    if (error instanceof Problem) return undefined;
    throw error;
  }
}

/** Returns the bytes of each item of an array, or undefined where brackets and quotes do not pair up. What is inside an item is not judged. */
function itemSpans(bytes: Uint8Array): Uint8Array[] | undefined {
  const spans: Uint8Array[] = [];
  let at = 0;
  while (isSpace(bytes[at] ?? 0)) at++;
  if (bytes[at++] !== OPEN_BRACKET) return undefined;
  let start = at;
  let depth = 1;
  for (; at < bytes.length; at++) {
    switch (bytes[at]) {
      case QUOTE:
        do {
          at = bytes.indexOf(QUOTE, at + 1);
          if (at === -1) return undefined;
        } while (isEscapedByte(bytes, at));
        break;
      case OPEN_BRACE:
      case OPEN_BRACKET:
        depth++;
        break;
      case CLOSE_BRACE:
      case CLOSE_BRACKET:
        depth--;
        if (depth === 0) {
          spans.push(bytes.subarray(start, at));
          for (at++; at < bytes.length; at++) if (!isSpace(bytes[at] as number)) return undefined;
          return spans;
        }
        break;
      case COMMA:
        if (depth === 1) {
          spans.push(bytes.subarray(start, at));
          start = at + 1;
        }
        break;
    }
  }
  return undefined;
}

/** Whether the quote at a place has an odd number of backslashes before it. */
function isEscapedByte(bytes: Uint8Array, quote: number): boolean {
  let at = quote;
  while (bytes[at - 1] === BACKSLASH) at--;
  return (quote - at) % 2 === 1;
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

/** Decodes strictly and reads; what is wrong before the first byte that is not UTF-8 is reported first. */
function readText<T>(bytes: Uint8Array, read: (reader: Reader) => T): T {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (buffer[0] === 0xef && buffer[1] === 0xbb && buffer[2] === 0xbf) {
    throw jsonProblem('', 'the text starts with a byte order mark', 0);
  }
  if (isAscii(buffer)) return read(new Reader(buffer.toString('latin1'), true));
  if (isUtf8(buffer)) return read(new Reader(buffer.toString('utf8'), false));

  const validBytes = validUtf8Bytes(buffer);
  let field = '';
  try {
    read(new Reader(buffer.toString('utf8', 0, validBytes), false));
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

type Container = JsonValue[] | JsonObject;

/**
 * A text and a place in it. Positions are indices into the text (UTF-16 code units) and become byte offsets only in a
 * refusal. Past the end, charCodeAt gives NaN, which equals no character.
 */
class Reader {
  readonly #text: string;
  readonly #isAscii: boolean;
  #position = 0;

  /** The first backslash and the first control character at or after the last string's start; Infinity without one. */
  #backslashAt = -1;
  #controlAt = -1;

  /** What is open, outermost first; only the first `#depth` are valid. For an object, the name of its present member. */
  readonly #containers: Container[] = [];
  readonly #names: string[] = [];
  #depth = 0;
  /** Index of the present item of a batch. */
  #item: number | undefined;

  constructor(text: string, isAscii: boolean) {
    this.#text = text;
    this.#isAscii = isAscii;
  }

  /** Reads the value that starts here, and no further. */
  readValue(depthMax: number): JsonValue {
    for (;;) {
      let value: JsonValue;
      const code = this.#skipSpace();
      if (code === QUOTE) {
        value = this.#readString(this.#depth);
      } else if (code === OPEN_BRACE) {
        const object: JsonObject = {};
        this.#open(object, depthMax);
        if (this.#skipSpace() !== CLOSE_BRACE) {
          this.#readName(object);
          continue;
        }
        this.#close();
        value = object;
      } else if (code === OPEN_BRACKET) {
        const array: JsonValue[] = [];
        this.#open(array, depthMax);
        if (this.#skipSpace() !== CLOSE_BRACKET) continue;
        this.#close();
        value = array;
      } else if (code === MINUS || isDigit(code)) {
        value = this.#readNumber();
      } else {
        value = this.#readLiteral(code);
      }

      // The value is complete. It goes where it belongs, and may complete what it belongs to.
      for (;;) {
        if (this.#depth === 0) return value;
        const container = this.#containers[this.#depth - 1] as Container;
        const next = this.#skipSpace();
        if (Array.isArray(container)) {
          container.push(value);
          if (next === COMMA) {
            this.#position++;
            break;
          }
          if (next !== CLOSE_BRACKET) this.#refuseSyntax('a comma or the end of the array', this.#depth - 1);
        } else {
          container[this.#names[this.#depth - 1] as string] = value;
          if (next === COMMA) {
            this.#position++;
            this.#readName(container);
            break;
          }
          if (next !== CLOSE_BRACE) this.#refuseSyntax('a comma or the end of the object', this.#depth - 1);
        }
        this.#close();
        value = container;
      }
    }
  }

  /** Reads the value that starts here, with the length of its own text. */
  readItem(depthMax: number): ReadItem {
    this.#skipSpace();
    const start = this.#position;
    const value = this.readValue(depthMax);
    return { value, bytes: this.#byteLength(start, this.#position) };
  }

  /** Reads an array that starts here as a batch: each item is a value of its own. */
  readItems(itemsMax: number, depthMax: number): ReadItem[] {
    if (this.#skipSpace() !== OPEN_BRACKET) {
      const position = this.#byteOffset(this.#position);
      // When it is not JSON at all, that is the better answer.
      this.readValue(depthMax);
      this.expectEnd();
      throw batchProblem('a batch is an array', position);
    }
    this.#position++;
    const items: ReadItem[] = [];
    if (this.#skipSpace() === CLOSE_BRACKET) {
      this.#position++;
      return items;
    }
    for (;;) {
      this.#skipSpace();
      const start = this.#position;
      if (items.length === itemsMax) {
        throw batchProblem(`there are more than ${itemsMax} items`, this.#byteOffset(start));
      }
      this.#item = items.length;
      const value = this.readValue(depthMax);
      this.#item = undefined;
      items.push({ value, bytes: this.#byteLength(start, this.#position) });
      const next = this.#skipSpace();
      if (next !== COMMA && next !== CLOSE_BRACKET) this.#refuseSyntax('a comma or the end of the array', 0);
      this.#position++;
      if (next === CLOSE_BRACKET) return items;
    }
  }

  expectEnd(): void {
    this.#skipSpace();
    if (this.#position < this.#text.length) this.#refuseSyntax('the end of the text', 0);
  }

  /** Goes to the next character that is no white space, and returns its code. */
  #skipSpace(): number {
    let code = this.#text.charCodeAt(this.#position);
    while (isSpace(code)) code = this.#text.charCodeAt(++this.#position);
    return code;
  }

  #open(container: Container, depthMax: number): void {
    if (this.#depth >= depthMax) this.#refuse(`nested deeper than ${depthMax} levels`, this.#position, this.#depth);
    this.#containers[this.#depth++] = container;
    this.#position++;
  }

  #close(): void {
    this.#depth--;
    this.#position++;
  }

  /** Reads a member's name and the colon after it. */
  #readName(object: JsonObject): void {
    const parent = this.#depth - 1;
    if (this.#skipSpace() !== QUOTE) this.#refuseSyntax('a member name in double quotes', parent);
    const start = this.#position;
    const name = this.#readString(parent);
    this.#names[parent] = name;
    // JavaScript code that copies objects carelessly takes this name for their prototype.
    if (name === '__proto__') this.#refuse('a member of this name is not taken', start, this.#depth);
    // The first test is quick; the second tells members from what every object inherits, such as `constructor`.
    if (object[name] !== undefined && Object.hasOwn(object, name)) {
      this.#refuse('the object has a member of this name already', start, this.#depth);
    }
    if (this.#skipSpace() !== COLON) this.#refuseSyntax('a colon', this.#depth);
    this.#position++;
  }

  /** Reads a string; `depth` is how much of the path names it in a refusal, since a name does not name itself. */
  #readString(depth: number): string {
    const text = this.#text;
    const open = this.#position;
    const start = open + 1;
    if (this.#backslashAt < start) this.#backslashAt = indexOrInfinity(text.indexOf('\\', start));
    if (this.#controlAt < start) this.#controlAt = controlIndex(text, start);
    let end = text.indexOf('"', start);
    if (end !== -1 && end < this.#backslashAt && end < this.#controlAt) {
      this.#position = end + 1;
      return text.slice(start, end);
    }

    while (end !== -1 && isEscaped(text, end)) end = text.indexOf('"', end + 1);
    if (end === -1) this.#refuseString(start, depth);
    // The engine's parser is the fastest to undo escapes. It refuses wrong ones and control characters, but takes
    // two things that we do not.
    const value = parseString(text.slice(open, end + 1));
    if (value === undefined || value.includes('\0') || !value.isWellFormed()) this.#refuseString(start, depth);
    this.#position = end + 1;
    return value;
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

  #readNumber(): number {
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
      return isNegative ? -integer : integer;
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
    return value;
  }

  #skipDigits(start: number): number {
    let at = start;
    while (isDigit(this.#text.charCodeAt(at))) at++;
    if (at === start) this.#refuseSyntax('a digit', this.#depth, at);
    return at;
  }

  #readLiteral(code: number): boolean | null {
    const [literal, value] = LITERALS.get(code) ?? this.#refuseSyntax('a value', this.#depth);
    if (!this.#text.startsWith(literal, this.#position)) {
      let at = this.#position;
      while (this.#text[at] === literal[at - this.#position]) at++;
      this.#refuseSyntax(`the literal ${literal}`, this.#depth, at);
    }
    this.#position += literal.length;
    return value;
  }

  #refuseSyntax(expected: string, depth: number, position = this.#position): never {
    const end = position >= this.#text.length ? ', but the text ends' : '';
    return this.#refuse(`${expected} is expected here${end}`, position, depth);
  }

  /** Refuses for what stands at `position`, in the value that the outermost `depth` open containers lead to. */
  #refuse(message: string, position: number, depth: number): never {
    const steps: (string | number)[] = this.#item === undefined ? [] : [this.#item];
    for (let level = 0; level < depth; level++) {
      const container = this.#containers[level] as Container;
      steps.push(Array.isArray(container) ? container.length : (this.#names[level] as string));
    }
    throw jsonProblem(fieldPath(steps), message, this.#byteOffset(position));
  }

  #byteOffset(position: number): number {
    return this.#byteLength(0, position);
  }

  #byteLength(start: number, end: number): number {
    return this.#isAscii ? end - start : Buffer.byteLength(this.#text.slice(start, end));
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

function indexOrInfinity(index: number): number {
  return index === -1 ? Number.POSITIVE_INFINITY : index;
}

function controlIndex(text: string, start: number): number {
  CONTROL.lastIndex = start;
  return CONTROL.test(text) ? CONTROL.lastIndex - 1 : Number.POSITIVE_INFINITY;
}

function isDigit(code: number): boolean {
  return code >= ZERO && code <= NINE;
}

function isSpace(code: number): boolean {
  return code === SPACE || code === LINE_FEED || code === CARRIAGE_RETURN || code === TAB;
}
