/** Key statements, and which keys follow from the one that a verifier was given. */
import { describe, expect, test } from 'vitest';
import { type AnchorPlace, anchorEpoch, decodeKeyStatement, encodeKeyStatement } from '../src/chain/key-statement.ts';
import { type NoteSigner, noteSigner, signNote } from '../src/chain/note.ts';
import { EvidenceError } from '../src/errors.ts';
import { trustedKeys } from '../src/verify/trusted-keys.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;

const ORIGIN = 'log.example';
const STREAM = `${ORIGIN}/acme/data_access`;

function key(name: string, generation: number): NoteSigner {
  return noteSigner(name, new Uint8Array(32).fill(generation + (name === ORIGIN ? 0 : 100)));
}

const from = (generation: number): AnchorPlace => ({ epoch: 1, size: (generation - 1) * 10 });

function deployment(
  generation: number,
  over: Partial<{ from: AnchorPlace; previous: string; signers: NoteSigner[] }> = {},
): string {
  const own = key(ORIGIN, generation);
  const before = generation === 1 ? undefined : key(ORIGIN, generation - 1);
  const text = encodeKeyStatement({
    origin: ORIGIN,
    generation,
    from: over.from ?? from(generation),
    vkey: own.vkey,
    previous: over.previous ?? before?.vkey,
  });
  return signNote(text, over.signers ?? (before === undefined ? [own] : [before, own]));
}

function ofStream(
  generation: number,
  over: Partial<{ signer: NoteSigner; from: AnchorPlace; name: string }> = {},
): string {
  const text = encodeKeyStatement({
    origin: ORIGIN,
    generation,
    from: over.from ?? from(generation),
    vkey: key(over.name ?? STREAM, generation).vkey,
    previous: generation === 1 ? undefined : key(ORIGIN, generation - 1).vkey,
  });
  return signNote(text, [over.signer ?? key(ORIGIN, generation)]);
}

const ALL = [deployment(1), deployment(2), deployment(3), ofStream(1), ofStream(2), ofStream(3)];

describe('a key statement', () => {
  test('comes back as it was written', () => {
    const says = {
      origin: ORIGIN,
      generation: 2,
      from: { epoch: 3, size: 17 },
      vkey: key(STREAM, 2).vkey,
      previous: key(ORIGIN, 1).vkey,
    };
    expect(decodeKeyStatement(encodeKeyStatement(says))).toEqual(says);
  });

  test.each([
    ['a line less', (text: string) => text.split('\n').slice(1).join('\n')],
    ['a line more', (text: string) => `${text}more\n`],
    ['another format', (text: string) => text.replace('key/v1', 'key/v2')],
    ['generation 0', (text: string) => text.replace('\n2\n', '\n0\n')],
    ['generation 02', (text: string) => text.replace('\n2\n', '\n02\n')],
    ['another stream', (text: string) => text.replace('sealog/anchor', 'acme/anchor')],
    ['epoch 1 by its number', (text: string) => text.replace('sealog/anchor', 'sealog/anchor/e1')],
    ['a negative size', (text: string) => text.replace(' 10\n', ' -1\n')],
    ['no predecessor', (text: string) => text.replace(/\n[^\n]*\n$/, '\n-\n')],
    ['a vkey with another id', (text: string) => text.replace(/\+[0-9a-f]{8}\+/, '+00000000+')],
  ])('with %s is refused', (_, damage) => {
    const text = deployment(2).split('\n\n')[0]!.concat('\n');
    expect(() => decodeKeyStatement(text)).not.toThrow();
    expect(() => decodeKeyStatement(damage(text))).toThrow(EvidenceError);
  });

  test('names an epoch of the anchor stream in one way', () => {
    expect(['sealog/anchor', 'sealog/anchor/e2', 'sealog/anchor/e10'].map(anchorEpoch)).toEqual([1, 2, 10]);
    expect(
      ['sealog/anchor/e0', 'sealog/anchor/e01', 'sealog/anchor/e1', 'sealog/anchor/', 'acme/anchor'].map(anchorEpoch),
    ).toEqual([undefined, undefined, undefined, undefined, undefined]);
  });
});

describe('from a given key', () => {
  test.each([1, 2, 3])('of generation %i all generations follow, each up to where the next begins', (generation) => {
    const { keys, problems } = trustedKeys(ORIGIN, key(ORIGIN, generation).vkey, ALL);
    expect(problems).toEqual([]);
    expect(keys.map((one) => [one.name, one.generation, one.from?.size, one.to?.size])).toEqual([
      [ORIGIN, 1, 0, 10],
      [ORIGIN, 2, 10, 20],
      [ORIGIN, 3, 20, undefined],
      [STREAM, 1, 0, 10],
      [STREAM, 2, 10, 20],
      [STREAM, 3, 20, undefined],
    ]);
  });

  test('of a stream, that key alone is trusted', () => {
    const { keys } = trustedKeys(ORIGIN, key(STREAM, 3).vkey, ALL);
    expect(keys.map((one) => one.vkey)).toEqual([key(STREAM, 3).vkey]);
  });

  const other = noteSigner(ORIGIN, new Uint8Array(32).fill(77));
  test.each<[string, string[], number]>([
    [
      'of another log',
      [signNote(ALL[0]!.split('\n\n')[0]!.replaceAll(ORIGIN, 'other.example').concat('\n'), [key(ORIGIN, 1)])],
      0,
    ],
    [
      'a generation that its predecessor has not signed',
      [deployment(1), deployment(2, { signers: [key(ORIGIN, 2)] })],
      1,
    ],
    [
      'a generation that another key signed as its predecessor',
      [deployment(1), deployment(2, { previous: other.vkey, signers: [other, key(ORIGIN, 2)] })],
      1,
    ],
    [
      'a generation that begins before its predecessor',
      [deployment(1), deployment(2), deployment(3, { from: { epoch: 1, size: 5 } })],
      2,
    ],
    ['a first generation that begins late', [deployment(1, { from: { epoch: 1, size: 5 } }), deployment(2)], 0],
    ['a gap between generations', [deployment(1), deployment(3)], 1],
    ['a generation twice', [deployment(1), deployment(1)], 1],
    ['a stream key that another key signed', [deployment(1), ofStream(1, { signer: other })], 1],
    ['a stream key of a generation that is not there', [deployment(1), ofStream(2)], 1],
    ['a stream key for another range', [deployment(1), ofStream(1, { from: { epoch: 1, size: 3 } })], 1],
    [
      'a key of another log as a stream key',
      [deployment(1), ofStream(1, { name: 'other.example/acme/data_access' })],
      1,
    ],
    ['two keys of one stream', [deployment(1), ofStream(1), ofStream(1)], 2],
    ['noise', [deployment(1), 'noise'], 1],
  ])('%s is a problem, and adds no key', (_, statements, trusted) => {
    const { keys, problems } = trustedKeys(ORIGIN, key(ORIGIN, 1).vkey, statements);
    expect(problems.length).toBeGreaterThan(0);
    expect(keys).toHaveLength(trusted);
  });

  test('a thief of a retired seed can not move the time in which it signed, nor bring a predecessor of his own', () => {
    const later = { epoch: 9, size: 5 };
    const own = noteSigner(ORIGIN, new Uint8Array(32).fill(66));
    const text = (generation: number, vkey: string, previous: string | undefined, from: AnchorPlace) =>
      encodeKeyStatement({ origin: ORIGIN, generation, from, vkey, previous });
    const forged = [
      signNote(text(1, own.vkey, undefined, { epoch: 1, size: 0 }), [own]),
      signNote(text(2, key(ORIGIN, 2).vkey, own.vkey, later), [own, key(ORIGIN, 2)]),
      deployment(3),
    ];
    const { keys, problems } = trustedKeys(ORIGIN, key(ORIGIN, 3).vkey, forged);
    expect(problems.length).toBeGreaterThan(0);
    expect(keys.map((one) => one.generation)).toEqual([3]);
  });

  test('every flipped bit of a statement is a problem', () => {
    const sound = [deployment(1), deployment(2), ofStream(2)];
    for (const [index, note] of sound.entries()) {
      const bytes = Buffer.from(note);
      for (let at = 0; at < bytes.length; at++) {
        // One of each byte in the short form.
        for (let bit = HARD ? 0 : at % 8; bit < 8; bit += HARD ? 1 : 8) {
          const damaged = Buffer.from(bytes);
          damaged[at]! ^= 1 << bit;
          const statements = sound.with(index, damaged.toString('utf8'));
          const { problems, keys } = trustedKeys(ORIGIN, key(ORIGIN, 1).vkey, statements);
          expect(problems.length > 0 && keys.length < 3, `note ${index} byte ${at} bit ${bit}`).toBe(true);
        }
      }
    }
  }, 60_000);
});
