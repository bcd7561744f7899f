/**
 * Characters that could make an exported text look like, or be read as, something else than it is: control characters (C0, DEL, C1 with
 * the line end U+0085), the separators U+2028 and U+2029 that some readers take for line ends, marks that change the direction of text
 * (U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069), and the byte order mark.
 *
 * In JSON they are written as `\uXXXX`, which is the same JSON. Where there is no such escape they are replaced by something that can be
 * seen: C0 and DEL by their pictures (U+2400 to U+241F, U+2421), all others by their number, `<U+202E>`.
 */

/** Those above C0, for a class of a regular expression. */
export const UNSAFE_ABOVE_C0 = '\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff';
const IN_JSON = new RegExp(`[${UNSAFE_ABOVE_C0}]`, 'g');
const IN_LINE = new RegExp(`[\u0000-\u001f${UNSAFE_ABOVE_C0}]`, 'g');
const BUT_LINE_ENDS = new RegExp(`[\u0000-\u0009\u000b\u000c\u000e-\u001f${UNSAFE_ABOVE_C0}]`, 'g');

/** Returns the same JSON without such characters. C0 is always escaped in JSON, and outside of strings there are none. */
export function safeJson(json: string): string {
  return json.replace(IN_JSON, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Returns the text with something visible instead of such characters, line ends too. */
export function visibleLine(text: string): string {
  return text.replace(IN_LINE, picture);
}

/** Returns the text with something visible instead of such characters but LF and CR. */
export function visibleText(text: string): string {
  return text.replace(BUT_LINE_ENDS, picture);
}

/** What stands for a blank at the edge of a value, where receivers would trim it. */
export function visibleBlank(char: string): string {
  return char === ' ' ? '\u2420' : picture(char);
}

function picture(char: string): string {
  const code = char.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return '\u2421';
  return `<U+${code.toString(16).toUpperCase().padStart(4, '0')}>`;
}
