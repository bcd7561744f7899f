import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { concatBytes, fromHex, toBase64, toHex, utf8 } from '../src/chain/bytes.ts';
import { ed25519Signer, ed25519Verifier } from '../src/chain/ed25519.ts';
import {
  ed25519Key,
  formatVkey,
  noteSigner,
  noteVerifier,
  openNote,
  parseSkey,
  parseVkey,
  signNote,
} from '../src/chain/note.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { EvidenceError } from '../src/errors.ts';

const DATA = process.env.SEALOG_TEST_DATA;

const seed = (n: number) => sha256(`seed ${n}`);
const verifierOf = (vkey: string) => noteVerifier(parseVkey(vkey));
const refuses = (work: () => unknown, name = '') => expect(work, name).toThrow(EvidenceError);

const ALICE = noteSigner('log.example/alice', seed(1));
const BOB = noteSigner('log.example/bob', seed(2));
const alice = verifierOf(ALICE.vkey);
const bob = verifierOf(BOB.vkey);

const TEXT = 'first line\n\nlast line, after an empty one\n';
const NOTE = signNote(TEXT, [ALICE]);

describe('Ed25519', () => {
  // RFC 8032 section 7.1.
  test.each([
    [
      'TEST 1',
      '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
      'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
      '',
      'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
    ],
    [
      'TEST 2',
      '4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
      '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
      '72',
      '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
    ],
    [
      'TEST 3',
      'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
      'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
      'af82',
      '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
    ],
  ])('gives the signature that RFC 8032 prints: %s', (_, secret, publicKey, message, signature) => {
    const signer = ed25519Signer(fromHex(secret));
    expect(toHex(signer.publicKey)).toBe(publicKey);
    expect(toHex(signer.sign(fromHex(message)))).toBe(signature);
    expect(ed25519Verifier(fromHex(publicKey))(fromHex(message), fromHex(signature))).toBe(true);
  });

  test('refuses every flipped bit, other lengths, another message and another key', () => {
    const signer = ed25519Signer(seed(1));
    const verify = ed25519Verifier(signer.publicKey);
    const message = utf8(TEXT);
    const signature = signer.sign(message);
    expect(verify(message, signature)).toBe(true);
    for (let bit = 0; bit < 512; bit++) {
      const flipped = new Uint8Array(signature);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      expect(verify(message, flipped), `bit ${bit}`).toBe(false);
    }
    expect(verify(message, signature.subarray(0, 63))).toBe(false);
    expect(verify(message, concatBytes(signature, Uint8Array.of(0)))).toBe(false);
    expect(verify(message, new Uint8Array(0))).toBe(false);
    expect(verify(utf8(`${TEXT}\n`), signature)).toBe(false);
    expect(ed25519Verifier(ed25519Signer(seed(2)).publicKey)(message, signature)).toBe(false);
  });

  test('refuses the second form of a signature, S plus the group’s order', () => {
    const signer = ed25519Signer(seed(1));
    const signature = new Uint8Array(signer.sign(utf8(TEXT)));
    const order = 2n ** 252n + 27742317777372353535851937790883648493n;
    let s = order;
    for (let i = 31; i >= 0; i--) s += BigInt(signature[32 + i]!) << BigInt(8 * i);
    for (let i = 0; i < 32; i++) signature[32 + i] = Number((s >> BigInt(8 * i)) & 255n);
    expect(ed25519Verifier(signer.publicKey)(utf8(TEXT), signature)).toBe(false);
  });
});

describe('signed notes', () => {
  test('what is signed opens, with its text to the last newline', () => {
    expect(openNote(NOTE, [alice])).toEqual({
      text: TEXT,
      verified: [{ name: ALICE.name, keyId: ALICE.keyId }],
      unverified: 0,
    });
    expect(openNote(utf8(NOTE), [alice, bob]).text).toBe(TEXT);
    const both = openNote(signNote(TEXT, [ALICE, BOB]), [bob, alice]);
    expect(both.verified.map(({ name }) => name)).toEqual([ALICE.name, BOB.name]);
  });

  test('any text that is a note’s goes there and back', () => {
    const unit = fc.constantFrom('a', '\n', '\n\n', '— ', ' ', '+', '€', '😀', '\ufeff', '\u007f', '\u2028', '\u0085');
    fc.assert(
      fc.property(fc.array(unit, { maxLength: 12 }), (parts) => {
        const text = `${parts.join('')}\n`;
        const note = signNote(text, [ALICE]);
        expect(openNote(note, [alice]).text).toBe(text);
        expect(openNote(utf8(note), [alice]).text).toBe(text);
      }),
      { numRuns: 200 },
    );
  });

  test('signatures by keys that are not known are ignored, but counted', () => {
    const note = signNote(TEXT, [BOB, ALICE]);
    expect(openNote(note, [alice])).toMatchObject({ verified: [{ name: ALICE.name }], unverified: 1 });
    // A key is its name and its id together: either alone makes no key known.
    const sameName = noteSigner(ALICE.name, seed(3));
    expect(openNote(signNote(TEXT, [ALICE, sameName]), [alice]).unverified).toBe(1);
    const sameId = { ...BOB, keyId: ALICE.keyId };
    expect(openNote(signNote(TEXT, [ALICE, sameId]), [alice]).unverified).toBe(1);
    // And nobody asks what an unknown line signs.
    const nonsense = `${NOTE}— stranger AAAAAAA=\n`;
    expect(openNote(nonsense, [alice]).unverified).toBe(1);
  });

  test('without a good signature by a known key there is no text', () => {
    refuses(() => openNote(NOTE, []));
    refuses(() => openNote(NOTE, [bob]));
    refuses(() => openNote(NOTE, [verifierOf(noteSigner(ALICE.name, seed(3)).vkey)]));
  });

  test('one wrong signature by a known key refuses the whole note, wherever it stands', () => {
    const wrong = { ...ALICE, sign: () => new Uint8Array(64) };
    const forged = { ...ALICE, sign: BOB.sign };
    const short = { ...ALICE, sign: (text: Uint8Array) => ALICE.sign(text).subarray(0, 63) };
    for (const bad of [wrong, forged, short]) {
      refuses(() => openNote(signNote(TEXT, [bad]), [alice]));
      refuses(() => openNote(signNote(TEXT, [BOB, bad]), [alice, bob]));
      refuses(() => openNote(signNote(TEXT, [bad, BOB]), [alice, bob]));
      refuses(() => openNote(signNote(TEXT, [ALICE, bad]), [alice]));
      expect(openNote(signNote(TEXT, [bad, BOB]), [bob]).unverified).toBe(1);
    }
  });

  test('a signature that stands twice counts once', () => {
    expect(openNote(signNote(TEXT, [ALICE, ALICE]), [alice]).verified).toHaveLength(1);
    expect(openNote(NOTE, [alice, alice]).verified).toHaveLength(1);
  });

  test('two known keys of one name and id are told apart by their signatures', () => {
    const collides = { ...noteVerifier(ed25519Key(ALICE.name, ed25519Signer(seed(3)).publicKey)), keyId: ALICE.keyId };
    expect(openNote(NOTE, [collides, alice]).verified).toHaveLength(1);
    refuses(() => openNote(NOTE, [collides]));
  });

  test('the text ends at the last empty line: a note cut at the first one, or signed as if, is refused', () => {
    // What a reader that splits at the first empty line would take for the text.
    const cut = `first line\n${NOTE.slice(NOTE.lastIndexOf('\n\n') + 1)}`;
    refuses(() => openNote(cut, [alice]));
    const signature = (text: string) => noteLine(ALICE.name, concatBytes(fromHex(ALICE.keyId), ALICE.sign(utf8(text))));
    const signedFirst = `${TEXT}\n${signature('first line\n')}`;
    refuses(() => openNote(signedFirst, [alice]));
    // Text smuggled in behind the signed one, before or after the signatures.
    refuses(() => openNote(`first line\n\n${signature('first line\n')}\nmore\n`, [alice]));
    refuses(() => openNote(`first line\n\nmore\n${signature('first line\n')}`, [alice]));
    refuses(() => openNote(`first line\n\n${signature('first line\n')}\n${signature('first line\n')}`, [alice]));
    expect(openNote(`first line\n\n${signature('first line\n')}`, [alice]).text).toBe('first line\n');
  });

  test('every flipped bit is refused, also one that only makes the key unknown', () => {
    const bytes = utf8(NOTE);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const damaged = new Uint8Array(bytes);
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      refuses(() => openNote(damaged, [alice]), `bit ${bit}`);
    }
  });

  test('a note cut anywhere is refused', () => {
    const bytes = utf8(NOTE);
    for (let length = 0; length < bytes.length; length++) {
      refuses(() => openNote(bytes.subarray(0, length), [alice]), `${length} bytes`);
    }
    for (let start = 1; start < bytes.length; start++) {
      refuses(() => openNote(bytes.subarray(start), [alice]), `from ${start}`);
    }
  });

  const line = NOTE.slice(NOTE.lastIndexOf('\n\n') + 2);
  const base64 = line.trim().split(' ')[2]!;
  test.each([
    ['no signature', `${TEXT}\n`],
    ['no empty line', `first line\n${line}`],
    ['no newline at the end', NOTE.slice(0, -1)],
    ['two newlines at the end', `${NOTE}\n`],
    ['trailing bytes', `${NOTE}x`],
    ['a trailing line', `${NOTE}x\n`],
    ['a carriage return', NOTE.replaceAll('\n', '\r\n')],
    ['a carriage return at the end', `${NOTE.slice(0, -1)}\r\n`],
    ['a tab', NOTE.replace('first line', 'first\tline')],
    ['U+0000', NOTE.replace('first line', 'first\0line')],
    ['U+001F', NOTE.replace('first line', 'first\u001fline')],
    ['a lone surrogate', NOTE.replace('first line', 'first\ud800line')],
    ['a hyphen for the dash', NOTE.replace('— ', '- ')],
    ['an en dash', NOTE.replace('— ', '– ')],
    ['two spaces', NOTE.replace('— ', '—  ')],
    ['no space', NOTE.replace('— ', '—')],
    ['a no-break space', NOTE.replace('— ', '—\u00a0')],
    ['a space before the dash', NOTE.replace('— ', ' — ')],
    ['a space at the end', `${NOTE.slice(0, -1)} \n`],
    ['a third word', `${NOTE.slice(0, -1)} x\n`],
    ['no name', NOTE.replace(ALICE.name, '')],
    ['a plus sign in an unknown name', `${NOTE}— a+b ${base64}\n`],
    ['a line separator in an unknown name', `${NOTE}— a\u2028b ${base64}\n`],
    ['a no-break space in an unknown name', `${NOTE}— a\u00a0b ${base64}\n`],
    ['no base64', `${NOTE}— stranger \n`],
    ['a line of two words', `${NOTE}— stranger\n`],
    ['an id without a signature', `${NOTE}— stranger AAAAAA==\n`],
    ['half an id', `${NOTE}— stranger AAA=\n`],
    ['base64 without padding', `${TEXT}\n— ${ALICE.name} ${base64.replace(/=+$/, '')}\n`],
    ['base64 for the web', `${NOTE}— stranger AAAAAP__\n`],
    ['base64 with unused bits', `${NOTE}— stranger AAAAAAB=\n`],
    ['trailing bytes in the signature', `${TEXT}\n${lineWith(Uint8Array.of(0))}`],
  ])('refuses a note with %s', (_, damaged) => {
    refuses(() => openNote(damaged, [alice]));
  });

  test('refuses a control character also where it is signed', () => {
    for (const text of ['a\tb\n', 'a\r\n', 'a\0\n', 'a\u001b[2J\n']) {
      const signed = `${text}\n${noteLine(ALICE.name, concatBytes(fromHex(ALICE.keyId), ALICE.sign(utf8(text))))}`;
      expect(() => openNote(signed, [alice])).toThrow('a character that notes must not have');
    }
  });

  test('refuses what is not UTF-8', () => {
    refuses(() => openNote(concatBytes(Uint8Array.of(0xff), utf8(NOTE)), [alice]));
    refuses(() => openNote(concatBytes(utf8('\ufeff'), utf8(NOTE)), [alice]), 'a byte order mark is text');
  });

  test('takes 100 signatures and no more, and a million bytes and no more', () => {
    const others = (count: number) => Array.from({ length: count }, (_, i) => ({ ...BOB, name: `bob-${i}` }));
    for (const count of [15, 99]) {
      expect(openNote(signNote(TEXT, [...others(count), ALICE]), [alice]).unverified).toBe(count);
    }
    refuses(() => openNote(`${signNote(TEXT, [...others(99), ALICE])}${line}`, [alice]));
    expect(() => signNote(TEXT, others(101))).toThrow('100');
    expect(() => signNote(TEXT, [])).toThrow('1 to 100');

    const rest = NOTE.length + 2 - TEXT.length; // the dash has three bytes
    const longest = signNote(`${'x'.repeat(1_000_000 - rest - 1)}\n`, [ALICE]);
    expect(utf8(longest)).toHaveLength(1_000_000);
    expect(openNote(longest, [alice]).unverified).toBe(0);
    refuses(() => openNote(utf8(signNote(`${'x'.repeat(1_000_000 - rest)}\n`, [ALICE])), [alice]));
    refuses(() => openNote(signNote(`${'€'.repeat(333_333)}\n`, [ALICE]), [alice]));
  });

  test('who signs what can not be a note made a mistake', () => {
    for (const text of ['', 'no newline', 'a\tb\n', 'a\r\n', '\0\n']) {
      expect(() => signNote(text, [ALICE]), text).toThrow('can not be a note');
    }
    expect(() => signNote('\ud800\n', [ALICE])).toThrow('surrogate');
  });

  function noteLine(name: string, bytes: Uint8Array): string {
    return `— ${name} ${toBase64(bytes)}\n`;
  }

  function lineWith(more: Uint8Array): string {
    return noteLine(ALICE.name, concatBytes(fromHex(ALICE.keyId), ALICE.sign(utf8(TEXT)), more));
  }
});

describe('keys', () => {
  test('a key goes there and back, also where its base64 has plus signs', () => {
    let plus = 0;
    for (let i = 0; i < 200; i++) {
      const { vkey, name, keyId } = noteSigner(`log.example/${i}`, seed(i));
      const key = parseVkey(vkey);
      expect(key).toMatchObject({ name, keyId, type: 1 });
      expect(formatVkey(key)).toBe(vkey);
      plus += vkey.split('+').length > 3 ? 1 : 0;
    }
    expect(plus).toBeGreaterThan(50);
  });

  test('the id is the hash of name, newline, type and key', () => {
    const { publicKey } = ed25519Signer(seed(1));
    const hash = sha256(concatBytes(utf8('log.example/alice\n'), Uint8Array.of(1), publicKey));
    expect(ALICE.keyId).toBe(toHex(hash).slice(0, 8));
  });

  test('a key of another type is read but not verified with', () => {
    const publicKey = ed25519Signer(seed(1)).publicKey;
    const id = toHex(sha256(concatBytes(utf8('witness\n'), Uint8Array.of(4), publicKey))).slice(0, 8);
    const key = parseVkey(`witness+${id}+${toBase64(concatBytes(Uint8Array.of(4), publicKey))}`);
    expect(key.type).toBe(4);
    refuses(() => noteVerifier(key));
  });

  const key = concatBytes(Uint8Array.of(1), ed25519Signer(seed(1)).publicKey);
  const idOf = (name: string, bytes: Uint8Array) => toHex(sha256(concatBytes(utf8(`${name}\n`), bytes))).slice(0, 8);
  const of = (name: string, bytes: Uint8Array, id = idOf(name, bytes)) => `${name}+${id}+${toBase64(bytes)}`;
  test.each([
    ['nothing', ''],
    ['a name alone', 'name'],
    ['no key', 'name+00000000'],
    ['an empty key', of('name', new Uint8Array(0))],
    ['no name', of('', key)],
    ['a space in the name', of('a b', key)],
    ['a newline in the name', of('a\nb', key)],
    ['U+2003 in the name', of('a\u2003b', key)],
    ['another id', of('name', key, '00000000')],
    ['the id of another name', of('name', key, idOf('names', key))],
    ['an id in capitals', of('name', key, 'ABCDEF01')],
    ['a short id', of('name', key, idOf('name', key).slice(0, 6))],
    ['a long id', of('name', key, `${idOf('name', key)}00`)],
    ['a short Ed25519 key', of('name', key.subarray(0, 32))],
    ['a long Ed25519 key', of('name', concatBytes(key, Uint8Array.of(0)))],
    ['a trailing newline', `${of('name', key)}\n`],
    ['base64 that is cut', of('name', key).slice(0, -1)],
    ['base64 with padding where none belongs', `${of('name', key)}=`],
    ['a space in the base64', of('name', key).replace(/.$/, ' ')],
  ])('refuses %s as a key', (_, vkey) => {
    refuses(() => parseVkey(vkey));
  });

  test('every flipped bit of a key is refused', () => {
    const vkey = ALICE.vkey;
    for (let bit = 0; bit < vkey.length * 7; bit++) {
      const at = Math.floor(bit / 7);
      const damaged =
        vkey.slice(0, at) + String.fromCharCode(vkey.charCodeAt(at) ^ (1 << (bit % 7))) + vkey.slice(at + 1);
      refuses(() => parseVkey(damaged), damaged);
    }
  });

  test('a signing key is read as Go writes it, and a wrong one is refused without being shown', () => {
    const secret = concatBytes(Uint8Array.of(1), seed(1));
    const skey = `PRIVATE+KEY+${ALICE.name}+${ALICE.keyId}+${toBase64(secret)}`;
    expect(parseSkey(skey).vkey).toBe(ALICE.vkey);
    expect(openNote(signNote(TEXT, [parseSkey(skey)]), [alice]).text).toBe(TEXT);
    for (const damaged of [
      ALICE.vkey,
      `PRIVATE+${skey}`,
      skey.slice('PRIVATE+'.length),
      skey.replace(ALICE.keyId, BOB.keyId),
      skey.replace('alice', 'bob'),
      `${skey}\n`,
      `PRIVATE+KEY+${ALICE.name}+${ALICE.keyId}+${toBase64(secret.subarray(0, 32))}`,
      `PRIVATE+KEY+${ALICE.name}+${ALICE.keyId}+${toBase64(concatBytes(Uint8Array.of(4), seed(1)))}`,
    ]) {
      refuses(() => parseSkey(damaged));
      try {
        parseSkey(damaged);
      } catch (error) {
        expect(String(error)).not.toContain(toBase64(secret).slice(4, 20));
      }
    }
  });
});

interface NoteVectors {
  sign: { skey: string; text: string; signed_note: string };
  valid: { desc: string; vkeys: string[]; note: string; verified: string[] }[];
  vkeys_valid: string[];
  skeys_valid: string[];
}

describe.skipIf(DATA === undefined)('shared vectors (SEALOG_TEST_DATA)', () => {
  const vectors = () =>
    JSON.parse(readFileSync(join(DATA!, 'vectors/note/signed-note-valid.json'), 'utf8')) as NoteVectors;

  test('notes, and their damaged sisters', () => {
    for (const { desc, vkeys, note, verified } of vectors().valid) {
      const verifiers = vkeys.map(verifierOf);
      const opened = openNote(note, verifiers);
      expect(
        opened.verified.map(({ name }) => name),
        desc,
      ).toEqual(verified);
      expect(opened.text).toBe(note.slice(0, note.lastIndexOf('\n\n') + 1));
      refuses(() => openNote(note, []), desc);
      refuses(() => openNote(`x${note}`, verifiers), desc);
      refuses(() => openNote(note.slice(0, -1), verifiers), desc);
      refuses(() => openNote(note.replace('\n', '\n\n'), verifiers), desc);
    }
  });

  test('keys', () => {
    for (const vkey of vectors().vkeys_valid) {
      expect(formatVkey(parseVkey(vkey))).toBe(vkey);
    }
    for (const skey of vectors().skeys_valid) {
      const signer = parseSkey(skey);
      expect(openNote(signNote(TEXT, [signer]), [verifierOf(signer.vkey)]).text).toBe(TEXT);
    }
    const { skey, text, signed_note } = vectors().sign;
    expect(signNote(text, [parseSkey(skey)])).toBe(signed_note);
  });
});
