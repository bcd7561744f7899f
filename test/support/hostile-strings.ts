/** Strings that try to be what they are not: ends of lines, fields and messages, control characters, marks of direction, formulas. */

const FRAGMENTS = [
  ...'\n\r\t\u0001\u0007\u001b\u007f\u0085\u009b\u00a0\u061c\u200b\u200d\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\u3000\ufeff\ufffd',
  ...'|=\\"\'[]{}<>;,:#%&`~^$@+-/ _aB7é漢',
  '\r\n',
  '\\\\',
  '\\n',
  '\\=',
  '\\|',
  '\\u202e',
  '<U+202E>',
  '␉',
  '␠',
  ' ',
  '  ',
  ' act=',
  ' cs1=0000',
  ' cs1Label=hash cs1=0000',
  ' externalId=1',
  'CEF:0|Sealog|Sealog|1|user.login|x|10|',
  '\n<110>1 2026-11-22T20:04:05.310Z host sealog - - - ',
  '] [sealog@32473 seq="0"]',
  '"]',
  '",\n"log":{"seq":0},"x":"',
  "=cmd|' /C calc'!A0",
  ';=1+1;',
  '@SUM(1)',
  '-2+3',
  '＝1',
  ',"x"\r\n"acme",',
  '\u0301',
  '👩‍🏭',
  '𝟙',
  '\u{10ffff}',
  'word',
];

/** A 32-bit generator (mulberry32): the same strings for the same seed. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Returns a string of 1 to `max` UTF-16 units, well formed, often as long as it may be or near to a length that formats have. */
export function hostileString(random: () => number, max: number): string {
  const near = [1, 2, 15, 40, 63, 100, 255, 1023, 4000][Math.floor(random() * 9)]! + Math.floor(random() * 5) - 2;
  const length = Math.max(1, Math.min(max, random() < 0.7 ? Math.floor(random() * 40) : near));
  const filler = random() < 0.3 ? FRAGMENTS[Math.floor(random() * FRAGMENTS.length)]! : undefined;
  let text = '';
  while (text.length < length) {
    const fragment =
      filler !== undefined && random() < 0.8 ? filler : FRAGMENTS[Math.floor(random() * FRAGMENTS.length)]!;
    if (text.length + fragment.length > max) break;
    text += fragment;
  }
  return text === '' ? 'x' : text;
}
