/** Texts that are written to CEF straight from their JSON, held to the careful way: read, and escaped. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { canonicalBytes, decodeCanonical, type JsonValue } from '../src/chain/canonical.ts';
import { cefOfJsonText } from '../src/export/cef-json-text.ts';

const MAX = 200;

/** As docs/cef.md says. */
function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('=', '\\=').replaceAll('\n', '\\n').replaceAll('\r', '\\r');
}

/** What may be written as it is, but for these escapes. */
const PLAIN = /^[\n\r!-~](?:[\n\r -~]*[\n\r!-~])?$/;

function hold(json: Uint8Array, value: JsonValue): void {
  const written = cefOfJsonText(json, MAX);
  if (typeof value !== 'string' || !PLAIN.test(value)) {
    expect(written).toBeUndefined();
    return;
  }
  const whole = escaped(value);
  if (whole.length <= MAX) expect(written).toBe(whole);
  // Enough of it to be cut there.
  else expect([whole.startsWith(written!), written!.length > MAX]).toEqual([true, true]);
}

const character = fc.constantFrom(...'ab"=\\|/{} \n\r\t\u0001\u007f\u2028é漢👩');
const plain = fc.constantFrom(...'ab"=\\|/{} \n\r');
const text = fc.oneof(
  fc.string({ unit: plain, maxLength: 300 }),
  fc.string({ unit: character, maxLength: 20 }),
  fc.string({ unit: 'binary', maxLength: 20 }),
);

test('any text, and what is none', () => {
  fc.assert(
    fc.property(fc.oneof({ weight: 9, arbitrary: text }, fc.jsonValue() as fc.Arbitrary<string>), (value) => {
      fc.pre(typeof value !== 'string' || value.isWellFormed());
      hold(canonicalBytes(value), value);
    }),
    { numRuns: 5000 },
  );
});

test('nothing that is not canonical JSON', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: plain, minLength: 1, maxLength: 12 }),
      fc.nat(),
      fc.nat(255),
      (value, where, byte) => {
        const json = Uint8Array.from(canonicalBytes(value));
        json[where % json.length] = byte;
        let read: JsonValue;
        try {
          read = decodeCanonical(json);
        } catch {
          expect(cefOfJsonText(json, MAX)).toBeUndefined();
          return;
        }
        hold(json, read);
      },
    ),
    { numRuns: 20_000 },
  );
});
