import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { toBase64, toHex } from '../src/chain/bytes.ts';
import { decodeCheckpoint, encodeCheckpoint } from '../src/chain/checkpoint.ts';
import { EMPTY_ROOT } from '../src/chain/merkle.ts';
import { noteSigner, noteVerifier, openNote, parseVkey, signNote } from '../src/chain/note.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { EvidenceError } from '../src/errors.ts';

const DATA = process.env.SEALOG_TEST_DATA;
const ORIGIN = 'audit.example.com/acme/data_access';
const ROOT = sha256('root');
const B64 = toBase64(ROOT);
const TEXT = `${ORIGIN}\n17\n${B64}\n`;

describe('checkpoints', () => {
  test('are three lines', () => {
    expect(encodeCheckpoint({ origin: ORIGIN, size: 17, root: ROOT })).toBe(TEXT);
    expect(encodeCheckpoint({ origin: ORIGIN, size: 0, root: EMPTY_ROOT })).toBe(
      `${ORIGIN}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n`,
    );
  });

  test('go there and back, with sizes beyond 2^31, 2^32 and up to 2^53−1', () => {
    const sizes = fc.oneof(
      fc.maxSafeNat().map((n) => Math.max(1, n)),
      fc.constantFrom(1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1),
    );
    fc.assert(
      fc.property(sizes, fc.uint8Array({ minLength: 32, maxLength: 32 }), (size, root) => {
        const read = decodeCheckpoint(encodeCheckpoint({ origin: ORIGIN, size, root }));
        expect({ ...read, root: toHex(read.root) }).toEqual({
          origin: ORIGIN,
          size,
          root: toHex(root),
          extensions: [],
        });
      }),
    );
  });

  test('give back extension lines and origins that others use', () => {
    expect(decodeCheckpoint(`${TEXT}one\ntwo, with spaces\n`).extensions).toEqual(['one', 'two, with spaces']);
    expect(decodeCheckpoint(`go.sum database tree\n17\n${B64}\n`).origin).toBe('go.sum database tree');
  });

  test.each([
    ['nothing', ''],
    ['an empty line', '\n'],
    ['no size', `${ORIGIN}\n${B64}\n`],
    ['no root', `${ORIGIN}\n17\n`],
    ['no origin', `17\n${B64}\n`],
    ['an empty origin', `\n17\n${B64}\n`],
    ['no last newline', TEXT.slice(0, -1)],
    ['an empty line at the end', `${TEXT}\n`],
    ['an empty line before an extension', `${TEXT}\nmore\n`],
    ['an extension without newline', `${TEXT}more`],
    ['carriage returns', TEXT.replaceAll('\n', '\r\n')],
    ['a tab in the origin', TEXT.replace('audit', 'au\tdit')],
    ['a leading zero', TEXT.replace('17', '017')],
    ['two zeros', `${ORIGIN}\n00\n${toBase64(EMPTY_ROOT)}\n`],
    ['a sign', TEXT.replace('17', '+17')],
    ['a negative size', TEXT.replace('17', '-17')],
    ['minus zero', `${ORIGIN}\n-0\n${toBase64(EMPTY_ROOT)}\n`],
    ['a fraction', TEXT.replace('17', '17.0')],
    ['an exponent', TEXT.replace('17', '1e3')],
    ['hex', TEXT.replace('17', '0x11')],
    ['a space before the size', TEXT.replace('17', ' 17')],
    ['a space after the size', TEXT.replace('17', '17 ')],
    ['another script’s digits', TEXT.replace('17', '١٧')],
    ['no number', TEXT.replace('17', 'x')],
    ['2^53', TEXT.replace('17', '9007199254740992')],
    ['2^53+1', TEXT.replace('17', '9007199254740993')],
    ['2^64', TEXT.replace('17', '18446744073709551616')],
    ['a size of 400 digits', TEXT.replace('17', '9'.repeat(400))],
    ['a root of 31 bytes', TEXT.replace(B64, toBase64(ROOT.subarray(1)))],
    ['a root of 33 bytes', TEXT.replace(B64, toBase64(Buffer.concat([ROOT, Buffer.alloc(1)])))],
    ['a root in hex', TEXT.replace(B64, toHex(ROOT))],
    ['a root without padding', TEXT.replace('=', '')],
    ['a root with unused bits', TEXT.replace(/.=\n$/, (end) => `${String.fromCharCode(end.charCodeAt(0) + 1)}=\n`)],
    ['a root for the web', `${ORIGIN}\n17\n${toBase64(new Uint8Array(32).fill(255)).replaceAll('/', '_')}\n`],
    ['a space after the root', TEXT.replace(B64, `${B64} `)],
    ['an empty tree with a root', TEXT.replace('17', '0')],
  ])('with %s are refused', (_, text) => {
    expect(text).not.toBe(TEXT);
    expect(() => decodeCheckpoint(text)).toThrow(EvidenceError);
  });

  test('whatever text is read is written the same', () => {
    const parts = fc.array(fc.constantFrom(ORIGIN, '\n', '17', '0', B64, toBase64(EMPTY_ROOT), ' ', 'x', '='), {
      maxLength: 9,
    });
    fc.assert(
      fc.property(parts, (pieces) => {
        const text = pieces.join('');
        try {
          const { extensions, ...checkpoint } = decodeCheckpoint(text);
          expect(encodeCheckpoint(checkpoint) + extensions.map((line) => `${line}\n`).join('')).toBe(text);
        } catch (error) {
          expect(error).toBeInstanceOf(EvidenceError);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('who states what no tree can be made a mistake', () => {
    for (const origin of ['', 'a\nb', 'a\tb']) {
      expect(() => encodeCheckpoint({ origin, size: 1, root: ROOT })).toThrow('one line');
    }
    for (const size of [-1, 0.5, 2 ** 53, Number.NaN]) {
      expect(() => encodeCheckpoint({ origin: ORIGIN, size, root: ROOT })).toThrow('2^53');
    }
    expect(() => encodeCheckpoint({ origin: ORIGIN, size: 1, root: ROOT.subarray(1) })).toThrow('root');
    expect(() => encodeCheckpoint({ origin: ORIGIN, size: 0, root: ROOT })).toThrow('root');
  });

  test('signed, they come out of the note as they went in', () => {
    const signer = noteSigner(ORIGIN, sha256('seed'));
    const { text } = openNote(signNote(TEXT, [signer]), [noteVerifier(parseVkey(signer.vkey))]);
    expect(decodeCheckpoint(text)).toMatchObject({ origin: ORIGIN, size: 17 });
  });
});

describe.skipIf(DATA === undefined)('shared vectors (SEALOG_TEST_DATA)', () => {
  test('the checkpoint of sum.golang.org', () => {
    const { valid } = JSON.parse(readFileSync(join(DATA!, 'vectors/note/signed-note-valid.json'), 'utf8')) as {
      valid: { vkeys: string[]; note: string }[];
    };
    const { vkeys, note } = valid.find((vector) => vector.note.startsWith('go.sum database tree'))!;
    const { text } = openNote(
      note,
      vkeys.map((vkey) => noteVerifier(parseVkey(vkey))),
    );
    const read = decodeCheckpoint(text);
    expect(read).toMatchObject({ origin: 'go.sum database tree', size: 6_476_701, extensions: [] });
    expect(encodeCheckpoint(read)).toBe(text);
  });
});
