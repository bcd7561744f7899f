import { createHash } from 'node:crypto';
import { sha256 as reference } from '@noble/hashes/sha2.js';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  compareBytes,
  concatBytes,
  equalBytes,
  fromBase64,
  fromHex,
  fromUtf8,
  lengthPrefixed,
  toBase64,
  toHex,
  u32be,
  utf8,
} from '../src/chain/bytes.ts';
import { HASH_SIZE, sha256, sha256Hex } from '../src/chain/sha256.ts';
import { EvidenceError } from '../src/errors.ts';

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const fill = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 167 + length) & 0xff);

describe('sha256', () => {
  // FIPS 180-4 examples.
  test.each([
    ['', 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'],
    ['abc', 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'],
    [
      'abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq',
      '248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1',
    ],
  ])('gives the printed hash of %j', (text, hash) => {
    expect(sha256Hex(text)).toBe(hash);
    expect(hexOf(sha256(text))).toBe(hash);
    expect(hexOf(sha256(new TextEncoder().encode(text)))).toBe(hash);
    expect(hexOf(reference(new TextEncoder().encode(text)))).toBe(hash);
  });

  test('agrees with the reference for every length over the first block boundaries, and around a record’s limit', () => {
    const lengths = [...Array(260).keys(), 511, 512, 513, 4095, 4096, 4097, 65_534, 65_535, 65_536, 65_537];
    for (const length of lengths) {
      const data = fill(length);
      const expected = hexOf(reference(data));
      expect(hexOf(sha256(data)), `length ${length}`).toBe(expected);
      expect(sha256Hex(data), `length ${length}`).toBe(expected);
    }
  });

  test('agrees with the reference for random bytes, also where they are a view of something larger', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3000 }), fc.nat(100), (data, offset) => {
        const view = concatBytes(new Uint8Array(offset), data, fill(7)).subarray(offset, offset + data.length);
        const expected = hexOf(reference(data));
        expect(hexOf(sha256(data))).toBe(expected);
        expect(hexOf(sha256(view))).toBe(expected);
        expect(sha256Hex(Buffer.from(data))).toBe(expected);
      }),
      { numRuns: 500 },
    );
  });

  test('agrees with the reference for random texts', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (text) => {
        expect(hexOf(sha256(text))).toBe(hexOf(reference(new TextEncoder().encode(text))));
        expect(sha256Hex(text)).toBe(createHash('sha256').update(text, 'utf8').digest('hex'));
      }),
    );
  });

  test('gives 32 bytes of its own, which later calls leave alone', () => {
    const first = sha256('a');
    const before = hexOf(first);
    for (let i = 0; i < 1000; i++) sha256(`b${i}`);
    expect(first).toHaveLength(HASH_SIZE);
    expect(hexOf(first)).toBe(before);
  });

  test('refuses a text with a lone surrogate, whose hash would be that of another text', () => {
    expect(() => sha256('a\ud800')).toThrow('lone surrogate');
    expect(() => sha256Hex('\udc00')).toThrow('lone surrogate');
  });
});

describe('bytes', () => {
  test('UTF-8 goes there and back, with a byte order mark and U+0000 kept', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(fromUtf8(utf8(text))).toBe(text);
      }),
    );
    for (const text of ['', '\ufeffa', '\u0000', 'ä€😀', '\uffff']) {
      expect(fromUtf8(utf8(text))).toBe(text);
    }
    expect(() => utf8('\ud800')).toThrow('lone surrogate');
  });

  test.each([
    ['a byte that begins nothing', '80'],
    ['a cut sequence', 'e282'],
    ['an overlong slash', 'c0af'],
    ['a surrogate', 'eda080'],
    ['beyond U+10FFFF', 'f4908080'],
  ])('what is not UTF-8 is refused: %s', (_, hex) => {
    expect(() => fromUtf8(fromHex(hex))).toThrow(EvidenceError);
  });

  test('hex and base64 go there and back', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (data) => {
        expect(toHex(data)).toBe(hexOf(data));
        expect(toBase64(data)).toBe(Buffer.from(data).toString('base64'));
        expect(equalBytes(fromHex(toHex(data)), data)).toBe(true);
        expect(equalBytes(fromBase64(toBase64(data)), data)).toBe(true);
      }),
    );
    expect(toHex(concatBytes(fill(9)).subarray(3, 6))).toBe(hexOf(fill(9).subarray(3, 6)));
  });

  test.each(['0', 'abc', 'AB', 'aB', '0g', ' 00', '00 ', '00\n', '0x00', 'é0', '００'])('refuses %j as hex', (text) => {
    expect(() => fromHex(text)).toThrow(EvidenceError);
  });

  test.each(['YQ', 'YQ=', 'YQ===', 'YR==', 'YWJ=', 'YQ==\n', ' YQ==', 'Y Q==', 'YQ==YQ==', '-_-_', 'Y', '=', 'YQ=a'])(
    'refuses %j as base64',
    (text) => {
      expect(() => fromBase64(text)).toThrow(EvidenceError);
    },
  );

  test('a length prefix is four bytes, big-endian', () => {
    expect([...u32be(0)]).toEqual([0, 0, 0, 0]);
    expect([...u32be(0x01020304)]).toEqual([1, 2, 3, 4]);
    expect([...u32be(0xffffffff)]).toEqual([255, 255, 255, 255]);
    expect([...lengthPrefixed(utf8('ab'))]).toEqual([0, 0, 0, 2, 97, 98]);
    for (const n of [-1, 0.5, 2 ** 32, Number.NaN]) {
      expect(() => u32be(n)).toThrow('u32');
    }
  });

  test('bytes compare as unsigned numbers, a prefix first', () => {
    const sorted = ['', '00', '0000', '01', '7f', '80', 'ff', 'ff00'].map(fromHex);
    for (const [i, a] of sorted.entries()) {
      for (const [j, b] of sorted.entries()) {
        expect(Math.sign(compareBytes(a, b))).toBe(Math.sign(i - j));
        expect(equalBytes(a, b)).toBe(i === j);
      }
    }
  });
});
