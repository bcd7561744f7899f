/**
 * A text as CEF writes it, straight from its canonical JSON. Most of an event is its `raw`, and most of that has quotes or backslashes: to read it as JSON,
 * to look at it, and to escape it again was a third of all encoding.
 *
 * The two kinds of escapes are alike but for two: JSON's `\"` is `"` in CEF, and CEF has `\=`. So one pass over the bytes does it, as long as there is nothing
 * but printable ASCII and LF, CR, `"` and `\` in their canonical escapes. Of everything else, and of blanks at an edge, it says nothing, and the caller goes the
 * careful way. A property test holds the two together.
 */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const EQUALS = 0x3d;
const BLANK = 0x20;
const LETTER_N = 0x6e;
const LETTER_R = 0x72;

/** No value is longer; an escape goes over by one. */
const scratch = Buffer.alloc(8192);

/**
 * Returns the text that this JSON is, escaped, or as much of it as is longer than `maxBytes` where it is longer than that. Undefined where it is not a text, or
 * one that needs care. `maxBytes` is at most 8000.
 */
export function cefOfJsonText(json: Uint8Array, maxBytes: number): string | undefined {
  const end = json.length - 1;
  if (end < 2 || json[0] !== QUOTE || json[end] !== QUOTE || json[1] === BLANK || json[end - 1] === BLANK)
    return undefined;
  const out = scratch;
  let to = 0;
  for (let at = 1; at < end; at++) {
    const byte = json[at]!;
    if (byte < BLANK || byte > 0x7e || byte === QUOTE) return undefined;
    // What is behind the maximum is only looked at.
    const isWritten = to <= maxBytes;
    if (byte === BACKSLASH) {
      at += 1;
      const escaped = json[at]!;
      if (at === end) return undefined;
      if (escaped !== QUOTE && escaped !== BACKSLASH && escaped !== LETTER_N && escaped !== LETTER_R) return undefined;
      if (!isWritten) continue;
      if (escaped !== QUOTE) out[to++] = BACKSLASH;
      out[to++] = escaped;
    } else if (isWritten) {
      if (byte === EQUALS) out[to++] = BACKSLASH;
      out[to++] = byte;
    }
  }
  return out.toString('latin1', 0, to);
}
