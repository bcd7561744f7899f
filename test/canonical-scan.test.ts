/** The scan must never call canonical what is not: it is held to `decodeCanonical` without it, on values, on damaged texts, on every short text. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { canonicalBytes, canonicalText, type JsonValue } from '../src/chain/canonical.ts';
import { isSurelyCanonical } from '../src/chain/canonical-scan.ts';

const TIMES = process.env['SEALOG_TEST_HARD'] === '1' ? 20 : 1;

/** What RFC 8785 says, with the engine's parser and our writer. (No test here has names that the engine's parser reads wrongly.) */
function isCanonical(bytes: Uint8Array): boolean {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    return canonicalText(JSON.parse(text) as JsonValue) === text;
  } catch {
    return false;
  }
}

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('what the scan is sure of', () => {
  test('is what most evidence is made of', () => {
    const values: JsonValue[] = [
      null,
      true,
      false,
      0,
      -1,
      42,
      999_999_999_999_999,
      0.5,
      -12.25,
      0.000001,
      'text',
      'Zoë "quoted" \\ / \n\t\b\f\r\u0001\u001f\u007f 漢字 😀 \u2028',
      [],
      {},
      [1, [2, { a: [] }], 'x'],
      { id: 'u-1', ip: '192.0.2.7', roles: ['a', 'b'], type: 'user' },
      { A: 1, _: 2, a: 3, ab: 4, b: { c: { d: [{}] } } },
    ];
    for (const value of values) expect([value, isSurelyCanonical(canonicalBytes(value))]).toEqual([value, true]);
  });

  test.each([
    ...[
      '',
      ' ',
      '1 ',
      ' 1',
      '01',
      '-0',
      '0.0',
      '1.0',
      '1.50',
      '+1',
      '.5',
      '1.',
      '-',
      '1e5',
      '1E5',
      '1e+21',
      '0.0000001',
    ],
    ...[
      'nul',
      'nulll',
      'tru',
      'falsy',
      'False',
      '"',
      '"a',
      'a"',
      '"a"b',
      "'a'",
      '"\\"',
      '"\\/"',
      '"\\u0041"',
      '"\\u000A"',
    ],
    ...['"\\u000a"', '"\\u0008"', '"\\u000d"', '"\\u0020"', '"\\u001F"', '"\\x41"', '"\\u00"', '"\n"', '"\u0000"'],
    ...[
      '[',
      ']',
      '[1',
      '[1,',
      '[1,]',
      '[,1]',
      '[1 ,2]',
      '[1,,2]',
      '[]]',
      '{',
      '}',
      '{}}',
      '{"a"}',
      '{"a":}',
      '{"a":1,}',
    ],
    ...[
      '{"a":1 }',
      '{ "a":1}',
      '{"a" :1}',
      '{"b":1,"a":1}',
      '{"a":1,"a":1}',
      '{"ab":1,"a":1}',
      '{a:1}',
      '{"a":1"b":1}',
      '{1:1}',
    ],
    ...['\ufeff1', '123456789012345678', '0.1000000000000000055', '9007199254740993', '5e-324', '[1]1', '{}{}'],
  ])('is not %j', (text) => {
    expect(isSurelyCanonical(bytesOf(text))).toBe(false);
  });

  test('is not what is no UTF-8', () => {
    const cut = [
      [0x80],
      [0xc3],
      [0xe2, 0x82],
      [0xf0, 0x9f, 0x98],
      [0xc0, 0x80],
      [0xe0, 0x80, 0x80],
      [0xed, 0xa0, 0x80],
    ];
    const wrong = [
      ...cut,
      [0xf0, 0x80, 0x80, 0x80],
      [0xf4, 0x90, 0x80, 0x80],
      [0xf5, 0x80, 0x80, 0x80],
      [0xff],
      [0xc3, 0x28],
    ];
    for (const bytes of wrong) {
      expect([bytes, isSurelyCanonical(Uint8Array.of(0x22, ...bytes, 0x22))]).toEqual([bytes, false]);
      expect([bytes, isSurelyCanonical(Uint8Array.of(0x22, ...bytes))]).toEqual([bytes, false]);
    }
  });

  test('each character beyond ASCII, and none of two bytes that is none', () => {
    for (let code = 0x80; code <= 0x10ffff; code += code < 0x3000 ? 1 : 37) {
      if (code >= 0xd800 && code <= 0xdfff) continue;
      const bytes = canonicalBytes(String.fromCodePoint(code));
      if (!isSurelyCanonical(bytes)) expect.unreachable(`U+${code.toString(16)}`);
    }
    for (let pair = 0; pair < 0x10000; pair++) {
      const bytes = Uint8Array.of(0x22, pair >> 8, pair & 0xff, 0x22);
      if (isSurelyCanonical(bytes) && !isCanonical(bytes)) expect.unreachable(pair.toString(16));
    }
  });

  test('is not nested without end', () => {
    const nested = (depth: number) => bytesOf('['.repeat(depth) + ']'.repeat(depth));
    expect(isSurelyCanonical(nested(32))).toBe(true);
    for (const depth of [1000, 1_000_000]) expect(isSurelyCanonical(nested(depth))).toBe(false);
    expect(isSurelyCanonical(bytesOf('{"a":'.repeat(100_000)))).toBe(false);
  });
});

describe('the scan and the writer', () => {
  test('agree on every text of up to five of these characters', { timeout: 60_000 }, () => {
    const alphabet = [...'{}[]":,0.5-eau\\n'].map((char) => char.charCodeAt(0));
    let sure = 0;
    const walk = (prefix: number[]): void => {
      const bytes = Uint8Array.from(prefix);
      if (isSurelyCanonical(bytes)) {
        sure += 1;
        if (!isCanonical(bytes)) expect.unreachable(String.fromCharCode(...prefix));
      }
      if (prefix.length < 5) for (const byte of alphabet) walk([...prefix, byte]);
    };
    walk([]);
    expect(sure).toBeGreaterThan(500);
  });

  test('agree on any value, sound and damaged', () => {
    const values = fc.jsonValue({ maxDepth: 5, stringUnit: 'binary' }) as fc.Arbitrary<JsonValue>;
    let sure = 0;
    fc.assert(
      fc.property(values, fc.nat(), fc.nat(255), fc.nat(3), (value, place, byte, kind) => {
        let sound: Uint8Array;
        try {
          sound = canonicalBytes(value);
        } catch {
          return;
        }
        if (isSurelyCanonical(sound)) sure += 1;
        const at = place % sound.length;
        const damaged = [
          sound.with(at, byte),
          sound.slice(0, at),
          Uint8Array.of(...sound.subarray(0, at), byte, ...sound.subarray(at)),
          Uint8Array.of(...sound.subarray(0, at), ...sound.subarray(at + 1)),
        ][kind]!;
        if (isSurelyCanonical(damaged)) expect(isCanonical(damaged)).toBe(true);
      }),
      { numRuns: 20_000 * TIMES },
    );
    expect(sure).toBeGreaterThan(1000);
  });

  test('agree on numbers', () => {
    const digits = (max: number) => fc.string({ unit: fc.constantFrom(...'0123456789'), maxLength: max });
    const numbers = fc
      .tuple(
        fc.constantFrom('', '-'),
        digits(17),
        fc.constantFrom('', '.'),
        digits(17),
        fc.constantFrom('', '', '', 'e5', 'E-7'),
      )
      .map((parts) => parts.join(''));
    fc.assert(
      fc.property(numbers, (text) => {
        const bytes = bytesOf(text);
        if (isSurelyCanonical(bytes)) expect([text, isCanonical(bytes)]).toEqual([text, true]);
      }),
      { numRuns: 50_000 * TIMES },
    );
    fc.assert(
      fc.property(fc.integer({ min: -999_999_999_999_999, max: 999_999_999_999_999 }), fc.nat(20), (whole, scale) => {
        const value = whole / 10 ** scale;
        const text = String(value);
        const isShort = !text.includes('e') && text.replace(/[-.]/g, '').replace(/^0+/, '').length <= 15;
        expect([text, isSurelyCanonical(bytesOf(text))]).toEqual([text, isShort]);
      }),
      { numRuns: 50_000 * TIMES },
    );
  });
});
