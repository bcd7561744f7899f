/**
 * Tells of most canonical JSON that it is canonical without reading it into a value: verification asks this of every part, and
 * parsing and printing each again was a quarter of all its work.
 *
 * Says true only of what `decodeCanonical` takes, and that for sure. Of what is rare and tricky (escaped or non-ASCII names, exponents, long numbers,
 * deep nesting) it says false, and the caller asks `decodeCanonical`. A property test holds the two together.
 */

/** Deeper ones are left to `decodeCanonical`, too. Evidence is at most 32 deep. */
const DEPTH_MAX = 64;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

let text: Uint8Array = new Uint8Array(0);
/** Where the scan stands. Behind a value that was scanned it is behind it; -1 when it is not surely canonical. */
let at = 0;

/** Whether these bytes are surely the canonical form (RFC 8785) of a JSON value. False says nothing. */
export function isSurelyCanonical(bytes: Uint8Array): boolean {
  text = bytes;
  at = 0;
  const isSure = scanValue(0) && at === bytes.length;
  text = NOTHING;
  return isSure;
}

const NOTHING = new Uint8Array(0);

function scanValue(depth: number): boolean {
  switch (text[at]) {
    case QUOTE:
      return scanString();
    case 0x7b:
      return depth < DEPTH_MAX && scanObject(depth);
    case 0x5b:
      return depth < DEPTH_MAX && scanArray(depth);
    case 0x74: // true
      return scanWord(0x72, 0x75, 0x65);
    case 0x6e: // null
      return scanWord(0x75, 0x6c, 0x6c);
    case 0x66: // false
      at += 1;
      return text[at] === 0x61 && scanWord(0x6c, 0x73, 0x65);
    default:
      return scanNumber();
  }
}

/** Three bytes behind the one that the scan stands at. */
function scanWord(a: number, b: number, c: number): boolean {
  const isWord = text[at + 1] === a && text[at + 2] === b && text[at + 3] === c;
  at += 4;
  return isWord;
}

function scanArray(depth: number): boolean {
  at += 1;
  if (text[at] === 0x5d) {
    at += 1;
    return true;
  }
  for (;;) {
    if (!scanValue(depth + 1)) return false;
    const next = text[at];
    at += 1;
    if (next === 0x5d) return true;
    if (next !== 0x2c) return false;
  }
}

/** Names are in the order of their UTF-16 code units, each once: of ASCII that is the order of bytes. */
function scanObject(depth: number): boolean {
  at += 1;
  if (text[at] === 0x7d) {
    at += 1;
    return true;
  }
  let lastFrom = 0;
  let lastTo = -1;
  for (;;) {
    const from = at + 1;
    if (!scanPlainName()) return false;
    const to = at - 1;
    if (lastTo >= 0 && !isBefore(lastFrom, lastTo, from, to)) return false;
    lastFrom = from;
    lastTo = to;
    if (text[at] !== 0x3a) return false;
    at += 1;
    if (!scanValue(depth + 1)) return false;
    const next = text[at];
    at += 1;
    if (next === 0x7d) return true;
    if (next !== 0x2c) return false;
  }
}

/** A string of ASCII without escapes. */
function scanPlainName(): boolean {
  const bytes = text;
  const end = bytes.length;
  if (bytes[at] !== QUOTE) return false;
  let i = at + 1;
  for (; i < end; i++) {
    const byte = bytes[i]!;
    if (byte === QUOTE) {
      at = i + 1;
      return true;
    }
    if (byte === BACKSLASH || byte < 0x20 || byte > 0x7f) return false;
  }
  return false;
}

function isBefore(aFrom: number, aTo: number, bFrom: number, bTo: number): boolean {
  const bytes = text;
  const shared = Math.min(aTo - aFrom, bTo - bFrom);
  for (let i = 0; i < shared; i++) {
    const order = bytes[aFrom + i]! - bytes[bFrom + i]!;
    if (order !== 0) return order < 0;
  }
  return aTo - aFrom < bTo - bFrom;
}

function scanString(): boolean {
  const bytes = text;
  const end = bytes.length;
  let i = at + 1;
  for (;;) {
    let byte = 0;
    for (; i < end; i++) {
      byte = bytes[i]!;
      if (byte === QUOTE || byte === BACKSLASH || byte < 0x20 || byte > 0x7f) break;
    }
    if (i === end || byte < 0x20) return false;
    at = i;
    if (byte === QUOTE) {
      at += 1;
      return true;
    }
    if (!(byte === BACKSLASH ? scanEscape() : scanUtf8(byte))) return false;
    i = at;
  }
}

/** The escapes that ECMAScript writes: RFC 8785 section 3.2.2.2. */
function scanEscape(): boolean {
  switch (text[at + 1]) {
    case QUOTE:
    case BACKSLASH:
    case 0x62: // b
    case 0x66: // f
    case 0x6e: // n
    case 0x72: // r
    case 0x74: // t
      at += 2;
      return true;
    case 0x75: {
      // u00xx, of a character below U+0020 that has no short escape.
      if (text[at + 2] !== 0x30 || text[at + 3] !== 0x30) return false;
      const high = text[at + 4]! - 0x30;
      const low = hexDigit(text[at + 5]);
      if ((high !== 0 && high !== 1) || low < 0) return false;
      const code = 16 * high + low;
      at += 6;
      return !(code >= 8 && code <= 13 && code !== 11);
    }
    default:
      return false;
  }
}

/** Of a lower-case digit; -1 of anything else. */
function hexDigit(byte: number | undefined): number {
  if (byte === undefined) return -1;
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  return byte >= 0x61 && byte <= 0x66 ? byte - 0x57 : -1;
}

/** One character beyond ASCII, as RFC 3629 section 4 has it: no longer than needed, no surrogate, not beyond U+10FFFF. */
function scanUtf8(first: number): boolean {
  const second = text[at + 1]!;
  if (first >= 0xc2 && first <= 0xdf) {
    at += 2;
    return isContinuation(second);
  }
  if (first >= 0xe0 && first <= 0xef) {
    const least = first === 0xe0 ? 0xa0 : 0x80;
    const most = first === 0xed ? 0x9f : 0xbf;
    const isSound = second >= least && second <= most && isContinuation(text[at + 2]);
    at += 3;
    return isSound;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const least = first === 0xf0 ? 0x90 : 0x80;
    const most = first === 0xf4 ? 0x8f : 0xbf;
    const isSound = second >= least && second <= most && isContinuation(text[at + 2]) && isContinuation(text[at + 3]);
    at += 4;
    return isSound;
  }
  return false;
}

function isContinuation(byte: number | undefined): boolean {
  return byte !== undefined && (byte & 0xc0) === 0x80;
}

/**
 * Numbers of at most 15 digits without an exponent: no two of them are the same double, so each is the shortest text of its
 * own (IEEE 754 binary64 keeps 15 decimal digits). Written without an exponent are those from 10^-6 on (RFC 8785 section 3.2.2.3).
 */
function scanNumber(): boolean {
  const isNegative = text[at] === 0x2d;
  if (isNegative) at += 1;
  const begin = at;
  while (isDigit(text[at])) at++;
  const whole = at - begin;
  const isZero = text[begin] === 0x30;
  if (whole === 0 || whole > 15 || (isZero && whole > 1)) return false;
  let digits = isZero ? 0 : whole;
  if (text[at] === 0x2e) {
    at += 1;
    const point = at;
    while (isDigit(text[at])) at++;
    const decimals = at - point;
    if (decimals === 0 || text[at - 1] === 0x30) return false;
    let zeros = 0;
    if (isZero) while (text[point + zeros] === 0x30) zeros++;
    if (zeros > 5) return false;
    digits += decimals - zeros;
  } else if (isZero && isNegative) return false;
  return digits <= 15 && text[at] !== 0x65 && text[at] !== 0x45;
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}
