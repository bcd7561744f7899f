import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { concatBytes, fromHex, toBase64, utf8 } from '../src/chain/bytes.ts';
import { encodeCheckpoint } from '../src/chain/checkpoint.ts';
import { checkCosignature, cosigner, parseCosignerVkey } from '../src/chain/cosignature.ts';
import { ed25519Signer } from '../src/chain/ed25519.ts';
import {
  keyIdOf,
  noteSigner,
  noteVerifier,
  openNote,
  parseSignatureLine,
  parseVkey,
  signNote,
} from '../src/chain/note.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { EvidenceError } from '../src/errors.ts';

const seed = (n: number) => sha256(`seed ${n}`);
const refuses = (work: () => unknown, name = '') => expect(work, name).toThrow(EvidenceError);

const WITNESS = cosigner('witness.example/w1', seed(1));
const TEXT = encodeCheckpoint({ origin: 'log.example/sealog/anchor', size: 17, root: sha256('root') });
const TIME = 1_795_000_000;
const LINE = WITNESS.cosign(TEXT, TIME);
const check = (line: string, text = TEXT, vkey = WITNESS.vkey) => checkCosignature(line, text, vkey);

/** A line that this witness's key signs, made by hand: 8 bytes of time, then a signature over whatever. */
function handmade(time: Uint8Array, message: string, more = new Uint8Array(0)): string {
  const signature = ed25519Signer(seed(1)).sign(utf8(message));
  return `— ${WITNESS.name} ${toBase64(concatBytes(fromHex(WITNESS.keyId), time, signature, more))}`;
}

describe('a cosignature', () => {
  test('says who saw the checkpoint, and when', () => {
    expect(check(LINE)).toEqual({ name: WITNESS.name, time: TIME });
  });

  test('is made of exactly the bytes that C2SP says', () => {
    const time = fromHex('00000000641850cb');
    expect(check(handmade(time, `cosignature/v1\ntime 1679315147\n${TEXT}`)).time).toBe(1_679_315_147);
    expect(handmade(time, `cosignature/v1\ntime 1679315147\n${TEXT}`)).toBe(WITNESS.cosign(TEXT, 1_679_315_147));
    expect(WITNESS.keyId).toBe(keyIdOf(WITNESS.name, 4, ed25519Signer(seed(1)).publicKey));
  });

  test('goes there and back for every checkpoint and time', () => {
    const times = fc.oneof(fc.maxSafeNat(), fc.constantFrom(0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1));
    fc.assert(
      fc.property(times, fc.maxSafeNat(), fc.uint8Array({ minLength: 32, maxLength: 32 }), (time, size, root) => {
        const text = encodeCheckpoint({ origin: 'o', size: size + (size === 0 ? 1 : 0), root });
        expect(check(WITNESS.cosign(text, time), text)).toEqual({ name: WITNESS.name, time });
      }),
      { numRuns: 100 },
    );
  });

  test('stands in a note beside the log’s own signature, whose reader passes over it', () => {
    const log = noteSigner('log.example/sealog/anchor', seed(9));
    const note = `${signNote(TEXT, [log])}${LINE}\n`;
    expect(openNote(note, [noteVerifier(parseVkey(log.vkey))])).toMatchObject({ text: TEXT, unverified: 1 });
    expect(check(note.trimEnd().split('\n').at(-1)!).time).toBe(TIME);
  });

  test('over a checkpoint with extension lines signs these too', () => {
    const extended = `${TEXT}one more line\n`;
    expect(check(WITNESS.cosign(extended, TIME), extended).time).toBe(TIME);
    refuses(() => check(WITNESS.cosign(extended, TIME)));
    refuses(() => check(LINE, extended));
  });

  test('is refused with any bit flipped, of the line and of the checkpoint', () => {
    for (const [bytes, read] of [
      [utf8(LINE), (text: string) => check(text)],
      [utf8(TEXT), (text: string) => check(LINE, text)],
    ] as const) {
      for (let bit = 0; bit < bytes.length * 8; bit++) {
        const damaged = new Uint8Array(bytes);
        damaged[bit >> 3]! ^= 1 << (bit & 7);
        refuses(() => read(Buffer.from(damaged).toString('utf8')), `bit ${bit}`);
      }
    }
  });

  test('is refused where it is cut or extended', () => {
    for (let length = 0; length < LINE.length; length++) {
      refuses(() => check(LINE.slice(0, length)), `${length} characters`);
    }
    for (const more of ['\n', ' ', 'A', '=', '\r', `\n${LINE}`]) refuses(() => check(LINE + more));
    refuses(() => check(` ${LINE}`));
    const stamp = fromHex('0000000000000001');
    refuses(() => check(handmade(stamp, `cosignature/v1\ntime 1\n${TEXT}`, Uint8Array.of(0))));
  });

  const one = fromHex('0000000000000001');
  test.each([
    ['by another key of the same name', cosigner(WITNESS.name, seed(2)).cosign(TEXT, TIME)],
    ['by the same key under another name', cosigner('witness.example/w2', seed(1)).cosign(TEXT, TIME)],
    ['over another size', WITNESS.cosign(TEXT.replace('\n17\n', '\n18\n'), TIME)],
    ['over another origin', WITNESS.cosign(`x${TEXT}`, TIME)],
    ['with another time than was signed', handmade(fromHex('0000000000000002'), `cosignature/v1\ntime 1\n${TEXT}`)],
    ['with a leading zero before its time', handmade(one, `cosignature/v1\ntime 01\n${TEXT}`)],
    ['with another header', handmade(one, `cosignature/v2\ntime 1\n${TEXT}`)],
    ['that is a plain signature of the text', `— ${WITNESS.name} ${plain(TEXT)}`],
    ['with a time before a plain signature of the text', handmade(one, TEXT)],
    [
      'whose time is beyond 2^53',
      handmade(fromHex('0020000000000000'), `cosignature/v1\ntime 9007199254740992\n${TEXT}`),
    ],
    ['whose time is negative for others', handmade(fromHex('ffffffffffffffff'), `cosignature/v1\ntime -1\n${TEXT}`)],
  ])('%s is refused', (_, line) => {
    refuses(() => check(line));
  });

  test('over what is no checkpoint is refused, even where it is signed', () => {
    for (const text of ['', 'text\n', TEXT.slice(0, -1), `${TEXT}\n`, TEXT.replace('17', '017')]) {
      refuses(() => check(WITNESS.cosign(text, TIME), text), text);
    }
  });

  test('and a checkpoint that is no text of Unicode are refused', () => {
    refuses(() => check(LINE, TEXT.replace('log', 'lo\ud800')));
    refuses(() => check(LINE.replace('w1', 'w\ud800')));
  });

  test('can not be made with a time that is none', () => {
    for (const time of [-1, 1.5, 2 ** 53, Number.NaN]) expect(() => WITNESS.cosign(TEXT, time)).toThrow('seconds');
  });

  function plain(text: string): string {
    return toBase64(concatBytes(fromHex(WITNESS.keyId), ed25519Signer(seed(1)).sign(utf8(text))));
  }
});

describe('the vkey of a witness', () => {
  test('is read, and has the type 4', () => {
    expect(parseCosignerVkey(WITNESS.vkey)).toMatchObject({ name: WITNESS.name, keyId: WITNESS.keyId, type: 4 });
    expect(parseSignatureLine(LINE)).toMatchObject({ name: WITNESS.name, keyId: WITNESS.keyId });
  });

  test('of a log is refused: neither can stand for the other', () => {
    const log = noteSigner(WITNESS.name, seed(1));
    refuses(() => parseCosignerVkey(log.vkey));
    refuses(() => check(LINE, TEXT, log.vkey));
    refuses(() => noteVerifier(parseVkey(WITNESS.vkey)));
    expect(log.keyId).not.toBe(WITNESS.keyId);
  });

  test('with a key of another length is refused', () => {
    for (const length of [0, 31, 33, 1312]) {
      const bytes = new Uint8Array(length).fill(7);
      const vkey = `w+${keyIdOf('w', 4, bytes)}+${toBase64(concatBytes(Uint8Array.of(4), bytes))}`;
      refuses(() => parseCosignerVkey(vkey), `${length}`);
    }
  });
});
