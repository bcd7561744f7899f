/** C2SP tlog-proof: what is written is read, and nothing else is. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { toBase64 } from '../src/chain/bytes.ts';
import { decodeTlogProof, encodeTlogProof } from '../src/chain/tlog-proof.ts';
import { EvidenceError } from '../src/errors.ts';

const NOTE = `log.example/acme/data_access\n7\n${toBase64(new Uint8Array(32).fill(9))}\n\n— log.example/acme/data_access ${toBase64(new Uint8Array(68).fill(1))}\n`;
const PROOF = {
  index: 5,
  path: [new Uint8Array(32).fill(1), new Uint8Array(32).fill(0xfb), new Uint8Array(32)],
  checkpoint: NOTE,
};
const TEXT = encodeTlogProof(PROOF);
const hash = fc.uint8Array({ minLength: 32, maxLength: 32 });

test('is written as the specification shows it', () => {
  expect(TEXT).toBe(
    [
      'c2sp.org/tlog-proof@v1',
      'index 5',
      'AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=',
      '+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=',
      'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
      '',
      NOTE,
    ].join('\n'),
  );
});

test('comes back as it was, from text and from bytes', () => {
  fc.assert(
    fc.property(
      fc.maxSafeNat(),
      fc.array(hash, { maxLength: 63 }),
      fc.option(fc.uint8Array({ maxLength: 80 }), { nil: undefined }),
      (index, path, extra) => {
        const proof = { index, path, checkpoint: NOTE, ...(extra === undefined ? {} : { extra }) };
        const text = encodeTlogProof(proof);
        for (const read of [decodeTlogProof(text), decodeTlogProof(new TextEncoder().encode(text))]) {
          expect(read.index).toBe(index);
          expect(read.checkpoint).toBe(NOTE);
          expect(read.path.map(toBase64)).toEqual(path.map(toBase64));
          expect(read.extra === undefined ? undefined : toBase64(read.extra)).toBe(
            extra === undefined ? undefined : toBase64(extra),
          );
        }
      },
    ),
    { numRuns: 100 },
  );
});

test('a path may be empty: the tree has one entry', () => {
  const text = encodeTlogProof({ index: 0, path: [], checkpoint: NOTE });
  expect(text).toContain('@v1\nindex 0\n\nlog.example');
  expect(decodeTlogProof(text)).toEqual({ index: 0, path: [], checkpoint: NOTE });
});

test('an empty line in the note is the note’s', () => {
  const checkpoint = `text\n\nmore\n\n— a b\n`;
  expect(decodeTlogProof(encodeTlogProof({ index: 0, path: [], checkpoint })).checkpoint).toBe(checkpoint);
});

describe('is refused', () => {
  const HASH = toBase64(new Uint8Array(32).fill(1));
  test.each<[string, string]>([
    ['empty', ''],
    ['without a note', TEXT.slice(0, TEXT.indexOf('\n\n'))],
    ['with a note of nothing', TEXT.slice(0, TEXT.indexOf('\n\n') + 2)],
    ['with a note that is cut', TEXT.slice(0, -1)],
    ['of another version', TEXT.replace('@v1', '@v2')],
    ['behind a byte order mark', `\ufeff${TEXT}`],
    ['behind an empty line', `\n${TEXT}`],
    ['with a carriage return', TEXT.replace('index 5\n', 'index 5\r\n')],
    ['without an index', TEXT.replace('index 5\n', '')],
    ['with an index of no digits', TEXT.replace('index 5', 'index ')],
    ['with a leading zero', TEXT.replace('index 5', 'index 05')],
    ['with a sign', TEXT.replace('index 5', 'index +5')],
    ['with a fraction', TEXT.replace('index 5', 'index 5.0')],
    ['with two spaces', TEXT.replace('index 5', 'index  5')],
    ['with a space behind', TEXT.replace('index 5', 'index 5 ')],
    ['with an index beyond 2^53−1', TEXT.replace('index 5', 'index 9007199254740992')],
    ['with two indexes', TEXT.replace('index 5', 'index 5\nindex 5')],
    ['with a hash before the index', TEXT.replace('index 5', `${HASH}\nindex 5`)],
    ['with extra behind the index', TEXT.replace('index 5', 'index 5\nextra AA==')],
    ['with extra twice', TEXT.replace('index 5', 'extra AA==\nextra AA==\nindex 5')],
    ['with extra that is no base64', TEXT.replace('index 5', 'extra A\nindex 5')],
    ['with a short hash', TEXT.replace(HASH, toBase64(new Uint8Array(31)))],
    ['with a long hash', TEXT.replace(HASH, toBase64(new Uint8Array(33)))],
    ['with a hash in the URL alphabet', TEXT.replaceAll('+/v7', '-_v7')],
    ['with a hash without padding', TEXT.replace(HASH, HASH.slice(0, -1))],
    ['with a hash whose unused bits are set', TEXT.replace(HASH, `${HASH.slice(0, -2)}F=`)],
    ['with 64 hashes', TEXT.replace(HASH, Array(62).fill(HASH).join('\n'))],
    ['with a million hashes', `c2sp.org/tlog-proof@v1\nindex 0\n${'A\n'.repeat(500_000)}\n${NOTE}`],
    ['when it is huge', `${TEXT}${'a'.repeat(1_200_000)}\n`],
  ])('%s', (_, text) => {
    expect(text).not.toBe(TEXT);
    expect(() => decodeTlogProof(text)).toThrow(EvidenceError);
  });

  test('as bytes that are no UTF-8', () => {
    const bytes = new TextEncoder().encode(TEXT);
    bytes[bytes.length - 2] = 0xff;
    expect(() => decodeTlogProof(bytes)).toThrow(EvidenceError);
  });

  test('or reads as something else, wherever a character before the note is changed', () => {
    const end = TEXT.indexOf('\n\n');
    for (let at = 0; at <= end + 1; at++) {
      for (const other of ['\n', ' ', '0', 'A', '=', 'é']) {
        const damaged = TEXT.slice(0, at) + other + TEXT.slice(at + 1);
        if (damaged === TEXT) continue;
        let read: ReturnType<typeof decodeTlogProof>;
        try {
          read = decodeTlogProof(damaged);
        } catch (error) {
          expect(error).toBeInstanceOf(EvidenceError);
          continue;
        }
        expect(encodeTlogProof(read)).toBe(damaged);
      }
    }
  });
});
